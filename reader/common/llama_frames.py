# SPDX-License-Identifier: Apache-2.0
"""Features of a video's frames for LLaMA-VQA: a part of the video, F of its frames."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import DataError
from .features import open_features
from .frame_rate import rate_indices
from .layout import find
from .llama_questions import Question
from .raw_arrays import widen_bfloat16
from .torch_files import Tensor, open_file
from .video import Video

RATE = {"tvqa": 3}  # features a second of those data sets where a question is about a part


class Source(Protocol):
    """Features of frames by video."""

    dim: int
    identity: dict[str, Any] | None

    def count(self, video: str) -> int | None:
        """Frames of a video; None for an unknown one."""

    def rows(self, video: str, numbers: Sequence[int]) -> np.ndarray:
        """float32 (n, dim) of frames by their numbers."""


def open_source(path: str) -> Source:
    """The published ``clipvitl14.pth``, or a store whose names are ``<video>/<frame>``.

    Raises:
        DataError: neither of them.
    """
    return _Store(path) if Path(find(path)).is_dir() else _Published(path)


class _Published:
    """{video: float16 (n, dim)} in a PyTorch file, which stays on disk."""

    identity = None

    def __init__(self, path: str):
        self._path, self._file = path, open_file(find(path))
        tree = self._file.tree
        if not isinstance(tree, dict) or not tree:
            raise self._wrong(f"a {type(tree).__name__}")
        self._found = {str(name): value for name, value in tree.items()}
        sizes = {value.size[1:] for value in self._found.values() if isinstance(value, Tensor)}
        bad = next((n for n, v in self._found.items() if not isinstance(v, Tensor)), None)
        if bad is not None or len(sizes) != 1 or len(min(sizes)) != 1:
            raise self._wrong(f"no tensor for {bad}" if bad else f"tensors of {sorted(sizes)[:3]}")
        ((self.dim,),) = sizes

    def _wrong(self, found: str) -> DataError:
        return DataError(
            f"{self._path}: expected features {{video: (frames, dim)}} such as clipvitl14.pth, "
            f"found {found}"
        )

    def count(self, video: str) -> int | None:
        tensor = self._found.get(video)
        return None if tensor is None else tensor.size[0]

    def rows(self, video: str, numbers: Sequence[int]) -> np.ndarray:
        tensor = self._found[video]
        values = self._file.view(tensor)[list(numbers)]
        bf16 = tensor.storage.dtype == "bf16"
        values = widen_bfloat16(values) if bf16 else values.astype(np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"{self._path}: {video}: expected finite numbers, found others")
        return values


class _Store:
    """A packed store with rows ``<video>/000000``, ``<video>/000001``, ..."""

    def __init__(self, path: str):
        self._source = open_features(find(path))
        self.dim, self.identity = self._source.dim, self._source.identity
        self._first: dict[str, tuple[int, int]] = {}  # row and number of frames
        row = 0
        for video, names in groupby(self._source.names, key=lambda name: name.rpartition("/")[0]):
            numbers = [name.rpartition("/")[2] for name in names]
            whole = numbers[0].isdecimal() and numbers[-1].isdecimal() and video
            if not whole or int(numbers[0]) or int(numbers[-1]) != len(numbers) - 1:
                raise DataError(
                    f"{path}: expected names <video>/000000, <video>/000001, ..., found "
                    f"{self._source.names[row]} with {len(numbers)} frames; extract them again"
                )
            if video in self._first:
                raise DataError(f"{path}: expected the frames of {video} side by side")
            self._first[video] = (row, len(numbers))
            row += len(numbers)

    def count(self, video: str) -> int | None:
        return self._first[video][1] if video in self._first else None

    def rows(self, video: str, numbers: Sequence[int]) -> np.ndarray:
        first, _ = self._first[video]
        return self._source.rows([first + number for number in numbers])


def chosen(count: int, frames: int) -> list[int]:
    """Which of ``count`` frames are taken: at equal distances from the first on, or all."""
    return [j * count // frames for j in range(frames)] if count > frames else list(range(count))


def places(
    question: Question, rate: int, source: Source, frames: int
) -> list[tuple[str, int | None]]:
    """(name, number of the frame, or None of an unknown name) of the frames of a question.

    Args:
        rate: features a second, for a window in seconds.
        frames: how many at most.
    """
    found: list[tuple[str, int | None]] = []
    for name in question.features():
        count = source.count(name)
        if count is None:
            found.append((name, None))
            continue
        numbers = range(count)
        if question.window is not None:
            start, end = question.window
            numbers = numbers[start * rate : (end + 1) * rate]
        found += [(name, number) for number in numbers]
    return [found[k] for k in chosen(len(found), frames)]


def read_frames(source: Source, where: Sequence[tuple[str, int | None]], frames: int) -> np.ndarray:
    """Features float32 (frames, dim) of such places; zeros where there are none."""
    out = np.zeros((frames, source.dim), np.float32)
    known = [k for k, (_, number) in enumerate(where) if number is not None]
    for name, rows in groupby(known, key=lambda k: where[k][0]):  # side by side
        rows = list(rows)
        out[rows] = source.rows(name, [where[k][1] for k in rows])
    return out


def unknown(source: Source, questions: Collection[Question]) -> list[str]:
    """Names without features, each once."""
    names = dict.fromkeys(name for question in questions for name in question.features())
    return [name for name in names if source.count(name) is None]


def raw_features(
    path: str, fps: float, frames: int, extractors: Mapping[str, Any], dim: int
) -> np.ndarray:
    """Features float32 (n, dim) of up to ``frames`` frames of a video file.

    Args:
        fps: frames a second of which they are taken.
        extractors: "clip" with pictures(RGB frames (H, W, 3) uint8) -> float32 (n, dim).

    Raises:
        DataError: unreadable video, no such extractor or one of another rate or size.
    """
    if "clip" not in extractors:
        raise DataError("raw input needs a clip extractor; set DATASET.extractors.clip")
    extractor = extractors["clip"]
    if extractor.dim != dim or getattr(extractor, "fps", fps) != fps:
        raise DataError(
            f"clip extractor: expected vectors of {dim} numbers (DATASET.visual_dim) at {fps:g} "
            f"frames a second (DATASET.fps), found {extractor.dim} at {extractor.fps:g}"
        )
    return extractor.pictures(raw_frames(path, fps, frames))


def raw_frames(path: str, fps: float, frames: int) -> list[np.ndarray]:
    """Up to ``frames`` RGB frames (H, W, 3) uint8 of a video file, taken at ``fps`` a second.

    Raises:
        DataError: unreadable video.
    """
    video = Video(path)
    times = video.times
    numbers = rate_indices(times, float(times[-1]) + 1 / video.fps, fps)
    taken = video.frames(numbers[chosen(len(numbers), frames)])
    return [np.ascontiguousarray(frame[..., ::-1]) for frame in taken]
