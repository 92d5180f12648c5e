# SPDX-License-Identifier: Apache-2.0
"""Detected regions of TVQA+ clips: feature rows and boxes by frame.

Rows of a clip are its frames' regions one after another, in the detector's order; ``counts`` says
how many each frame has. Frames are counted from 0 here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .tvqa_plus import stream_json
from .tvqa_plus_rows import H5Rows, Rows, StoreRows, open_part


class Regions:
    """The first ``limit`` regions of every frame."""

    rows: Rows

    def __init__(self, limit: int):
        self.limit = limit

    def starts(self, video: str) -> np.ndarray:
        """First row of every frame of a clip, then the number of rows: (frames + 1,) int64.

        Raises:
            DataError: no such clip.
        """
        raise NotImplementedError

    def boxes(self, video: str, frames: Sequence[int]) -> list[np.ndarray]:
        """Boxes of each frame, float64 (n, 4): left, top, right, bottom in pixels.

        Raises:
            DataError: see ``spans``.
        """
        raise NotImplementedError

    def spans(self, video: str, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows (first, end) of frames, (F, 2).

        Raises:
            DataError: no such clip, or a frame after its last.
        """
        starts, frames = self.starts(video), np.asarray(frames, np.int64)
        if len(frames) and frames.max() + 1 >= len(starts):
            raise DataError(
                f"{self.rows.where}: {video}: expected regions of {frames.max() + 1} frames, found "
                f"{len(starts) - 1}"
            )
        first = starts[frames]
        return np.stack([first, np.minimum(starts[frames + 1], first + self.limit)], 1)

    def features(self, video: str, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Regions of frames: how many (F,) int64, and all their features (sum, D) float32.

        Raises:
            DataError: see ``spans``; also not one row for each region of the clip.
        """
        spans, expected = self.spans(video, frames), self.starts(video)[-1]
        if self.rows.length(video) not in (expected, None):
            raise DataError(
                f"{self.rows.where}: {video}: expected {expected} rows, one a region, found "
                f"{self.rows.length(video)}"
            )
        return spans[:, 1] - spans[:, 0], self.rows.read(video, list(map(tuple, spans.tolist())))


class PackageRegions(Regions):
    """The published files: features in HDF5, boxes in JSON.

    The JSON is read once from beginning to end; of its boxes only those of the frames in ``wanted``
    are kept.

    Args:
        vcpt: boxes and counts by clip.
        vfeat: features by clip.
        wanted: clip -> frames whose boxes are needed; other clips are left out.
    """

    def __init__(self, vcpt: Path, vfeat: Path, wanted: Mapping[str, Iterable[int]], limit: int):
        super().__init__(limit)
        self.rows = H5Rows(vfeat)
        self._path = vcpt
        self._clips = {
            video: _clip(f"{vcpt}: {video}", entry, wanted[video])
            for video, entry in stream_json(vcpt)
            if video in wanted
        }

    def starts(self, video: str) -> np.ndarray:
        if video not in self._clips:
            raise DataError(f"{self._path}: expected regions of {video}, found none")
        return self._clips[video][0]

    def boxes(self, video: str, frames: Sequence[int]) -> list[np.ndarray]:
        self.spans(video, frames)
        return [self._clips[video][1][frame][: self.limit] for frame in frames]


def _clip(
    where: str, entry: Any, frames: Iterable[int]
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    counts = region_counts(where, entry)
    return (
        np.concatenate([[0], np.cumsum(counts)]),
        {f: frame_boxes(where, entry, f) for f in sorted(frames) if f < len(counts)},
    )


def region_counts(where: str, entry: Any) -> np.ndarray:
    """Numbers of regions of a clip's frames, (F,) int64; ``entry`` is {"counts", "boxes", ...}.

    Raises:
        DataError: other data.
    """
    try:
        counts = np.asarray(entry["counts"])
        if counts.ndim != 1 or counts.dtype.kind != "i" or (counts < 0).any():
            raise ValueError(f"counts {str(counts)[:40]}")
        if len(entry["boxes"]) != len(counts):
            raise ValueError(f"{len(entry['boxes'])} frames of boxes for {len(counts)} counts")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: expected counts and boxes of frames, found {error!r}") from None
    return counts.astype(np.int64)


def frame_boxes(where: str, entry: Any, frame: int) -> np.ndarray:
    """Boxes (n, 4) of one frame of a clip.

    Raises:
        DataError: other data, or not as many as the clip's counts say.
    """
    try:
        boxes = np.array(entry["boxes"][frame], np.float64).reshape(-1, 4)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: boxes[{frame}]: expected boxes of 4 numbers ({error})") from None
    if len(boxes) != entry["counts"][frame] or not np.isfinite(boxes).all():
        raise DataError(
            f"{where}: boxes[{frame}]: expected {entry['counts'][frame]} finite boxes, found "
            f"{len(boxes)}"
        )
    return boxes


class StoreRegions(Regions):
    """Regions of a packed store."""

    rows: StoreRows

    def __init__(self, store: Path, limit: int):
        super().__init__(limit)
        self.rows = open_part(store, "regions")
        self._starts: dict[str, np.ndarray] = {}

    def _row(self, video: str) -> int:
        row = self.rows.row(video)
        if row is None:
            raise DataError(f"{self.rows.where}: expected regions of {video}, found none")
        return row

    def starts(self, video: str) -> np.ndarray:
        if video not in self._starts:
            first, end = self.rows.array("frames")[self._row(video)]
            counts = self.rows.array("counts")[first:end]
            self._starts[video] = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return self._starts[video]

    def boxes(self, video: str, frames: Sequence[int]) -> list[np.ndarray]:
        spans = self.spans(video, frames) + self.rows.array("regions_spans")[self._row(video), 0]
        return [np.array(self.rows.array("boxes")[a:b]) for a, b in spans.tolist()]
