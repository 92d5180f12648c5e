# SPDX-License-Identifier: Apache-2.0
"""Pictures of TVQA+ clips, the features of their regions, and a PCA of these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reader.common.errors import DataError
from reader.common.tvqa_plus_pictures import Pictures, grid_length
from reader.common.tvqa_plus_regions import frame_boxes, region_counts
from reader.common.video import Video

FRAMES_PER_STEP = 8
ENDINGS = (".mp4", ".mkv", ".avi", ".webm", ".mov")


class Clips:
    """Videos, or folders of pictures, of clips.

    Args:
        folder: where they are.
        size: width and height that pictures are resized to; None: as they are.
        names: of the clips.

    Raises:
        DataError: one is missing or damaged.
    """

    def __init__(self, folder: Path, size: tuple[int, int] | None, names: Sequence[str]):
        self._size, self._pictures = size, Pictures(None)
        self.lengths: dict[str, int] = {}  # frames at 3 per second
        self.sizes: dict[str, int] = {}  # bytes, to know the file again
        for name in names:
            base = folder / name
            found = (base, *(base.with_name(base.name + ending) for ending in ENDINGS))
            path = next((path for path in found if path.exists()), None)
            if path is None:
                raise DataError(f"{folder}: expected the video {name}.mp4, found none")
            frames = sorted(path.glob("*.jpg")) if path.is_dir() else [path]
            self.lengths[name] = len(frames) if path.is_dir() else grid_length(Video(path))
            self.sizes[name] = sum(frame.stat().st_size for frame in frames)
            self._pictures.add(name, str(path))

    def rows(self, name: str, where: str, entry: Any, extractor: Any, step: int = 1) -> np.ndarray:
        """Features of the regions of a clip's frames, or of every `step`-th one with regions.

        Args:
            where: names the entry in messages.
            entry: {"counts", "boxes"} of the clip.

        Raises:
            DataError: damaged regions or pictures, regions after the end or outside of the frame.
        """
        ids = (np.flatnonzero(region_counts(where, entry)) + 1)[::step]
        if not len(ids):
            return np.zeros((0, extractor.dim), np.float32)
        if ids[-1] > self.lengths[name] + 3:
            raise DataError(
                f"{where}: expected regions of {self.lengths[name]} frames (3 per second), found "
                f"some of frame {ids[-1]}"
            )
        boxes = [frame_boxes(where, entry, frame - 1) for frame in ids]
        pictures = self._read(name, np.minimum(ids, self.lengths[name]))
        _check_inside(where, np.concatenate(boxes), pictures.shape)
        rows = []
        for first in range(0, len(ids), FRAMES_PER_STEP):
            part = slice(first, first + FRAMES_PER_STEP)
            rows += extractor.features_of(pictures[part], boxes[part])
        return np.concatenate(rows)

    def _read(self, name: str, ids: np.ndarray) -> np.ndarray:
        import cv2

        pictures = self._pictures.read(name, ids.tolist())
        if self._size:
            pictures = [cv2.resize(p, self._size, interpolation=cv2.INTER_AREA) for p in pictures]
        return np.stack(pictures)


def _check_inside(where: str, boxes: np.ndarray, shape: tuple[int, ...]) -> None:
    """Boxes may end a pixel or two outside; more means that they were measured elsewhere."""
    height, width = shape[1:3]
    worst = boxes[np.argmax(np.maximum(boxes[:, 2] - width, boxes[:, 3] - height))]
    if worst[2] > width + 2 or worst[3] > height + 2:
        raise DataError(
            f"{where}: expected boxes inside of {width}x{height} pixels, found "
            f"{[round(x, 1) for x in worst.tolist()]}; give --size of the pictures they belong to"
        )


def fit_pca(parts: Iterable[np.ndarray], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and the first `dim` principal components [dim, D] of vectors in parts [n, D].

    Raises:
        DataError: fewer vectors, or shorter ones, than that takes.
    """
    count, total, squares = 0, np.zeros(0), np.zeros(())
    for part in parts:
        values = part.astype(np.float64)
        total = values.sum(0) + (total if count else 0)
        squares = values.T @ values + squares
        count += len(part)
    if count <= dim or dim > len(total):
        raise DataError(
            f"--pca {dim}: expected more than {dim} regions of at least as many numbers, found "
            f"{count} of {len(total)}"
        )
    mean = total / count
    _, vectors = np.linalg.eigh(squares / count - np.outer(mean, mean))
    components = vectors.T[::-1][:dim]
    largest = np.abs(components).argmax(1)
    components = components * np.sign(components[np.arange(dim), largest])[:, None]
    return mean.astype(np.float32), components.astype(np.float32)
