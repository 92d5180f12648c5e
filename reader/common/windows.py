# SPDX-License-Identifier: Apache-2.0
"""Sliding windows of a video: their grid, their names, and their features in one decoding pass.

Frames count from 1 in names, `<video>_<start>_<end>`; a window of length L shows the frames start
to start + L - 1 and ends at start + L (CTRL, arXiv:1705.02101, as its published files have it).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .errors import DataError
from .video import Video

STRIDE = 5  # windows of one length start a fifth of it apart, rounded down


def window_grid(num_frames: int, lengths: Sequence[int]) -> np.ndarray:
    """All windows of a video: int64 [T, 2] of start and end, for one length after the other.

    Start = 1 + i * floor(length / 5), while start + length <= num_frames.
    """
    parts = [np.zeros((0, 2), np.int64)]
    for length in lengths:
        if length < STRIDE:
            raise ValueError(f"windows: expected a length of at least {STRIDE}, found {length}")
        start = np.arange(1, num_frames - length + 1, length // STRIDE, dtype=np.int64)
        parts.append(np.stack([start, start + length], 1))
    return np.concatenate(parts)


def window_name(video: str, start: int, end: int) -> str:
    """Name of a window, without `.npy`."""
    return f"{video}_{start}_{end}"


def parse_name(name: str) -> tuple[str, int, int]:
    """(video, start, end) of a window's or moment's name, with or without `.npy`.

    Read from the right, so that the video's own name may hold underscores.

    Raises:
        DataError: not of the form `<video>_<start>_<end>`.
    """
    parts = name.removesuffix(".npy").rsplit("_", 2)
    try:
        video, start, end = parts[0], int(parts[1]), int(parts[2])
    except (IndexError, ValueError):
        raise DataError(f"expected a name <video>_<start>_<end>, found {name!r}") from None
    return video, start, end


def window_features(
    video: Video | str | os.PathLike, windows: np.ndarray, extractor: Any, batch: int = 8
) -> Iterator[tuple[slice, np.ndarray]]:
    """Features of windows, from one pass over the video.

    Windows of equal length whose starts increase (a length's part of `window_grid`) are computed
    together as they end, so slices of different lengths alternate, while those of one length come
    in order; every row comes once. At most the frames of the longest window are kept, and `batch`
    windows of each length.

    Args:
        windows: int [T, 2], start and end, frames from 1.
        extractor: offers `positions(length) -> int [clips, frames]`, `preprocess(frame)` and
            `features(clips) -> [n, dim]`; a window's feature is the mean over its clips.
        batch: windows that go through the extractor together.

    Yields:
        (slice of rows of `windows`, their features float32 [n, dim]).

    Raises:
        DataError: a window outside the video, or the video cannot be decoded to the last one.
    """
    video = video if isinstance(video, Video) else Video(video)
    windows = np.asarray(windows, np.int64).reshape(-1, 2)
    if not len(windows):
        return
    _check(video, windows)
    lanes = [_Lane(windows[rows], rows.start, extractor) for rows in _runs(windows)]
    wanted = np.zeros(int(windows[:, 1].max()), bool)
    for lane in lanes:
        wanted[lane.frames] = True
    ring = _Ring(int((windows[:, 1] - windows[:, 0]).max()))
    for index, frame in video.stream(wanted):
        ring.add(index, extractor.preprocess(frame))
        for lane in lanes:
            if lane.advance(ring, index) and (len(lane.clips) >= batch or lane.complete):
                yield lane.flush()
    if not all(lane.complete for lane in lanes):
        raise DataError(f"{video.path}: expected {wanted.size - 1} frames, found {index + 1}")


def _check(video: Video, windows: np.ndarray) -> None:
    start, end = windows[:, 0], windows[:, 1]
    bad = (start < 1) | (end <= start) | (end - 1 > video.num_frames)
    if bad.any():
        raise DataError(
            f"{video.path}: expected windows within frames 1 to {video.num_frames}, found "
            f"{' to '.join(map(str, windows[bad][0]))}"
        )


def _runs(windows: np.ndarray) -> list[slice]:
    """Longest slices of rows with equal length and increasing start."""
    length = windows[:, 1] - windows[:, 0]
    breaks = np.flatnonzero((np.diff(length) != 0) | (np.diff(windows[:, 0]) <= 0)) + 1
    return [slice(a, b) for a, b in itertools.pairwise([0, *breaks.tolist(), len(windows)])]


class _Ring:
    """The last frames, preprocessed; frame i is kept until frame i + length comes."""

    def __init__(self, length: int):
        self._length = length
        self._frames: np.ndarray | None = None

    def add(self, index: int, frame: np.ndarray) -> None:
        if self._frames is None:
            self._frames = np.zeros((self._length, *frame.shape), frame.dtype)
        self._frames[index % self._length] = frame

    def take(self, indices: np.ndarray) -> np.ndarray:
        return self._frames[indices % self._length]  # type: ignore[index]


class _Lane:
    """Windows of one length in order of time: collects their clips, runs the extractor on them."""

    def __init__(self, windows: np.ndarray, first_row: int, extractor: Any):
        start, end = windows[0]
        offsets = np.asarray(extractor.positions(int(end - start)))  # (clips, frames)
        self.frames = windows[:, :1, None] - 1 + offsets  # (windows, clips, frames), from 0
        self.clips: list[np.ndarray] = []
        self._last = self.frames.max(axis=(1, 2))
        self._row, self._taken, self._extractor = first_row, 0, extractor

    @property
    def complete(self) -> bool:
        """Whether every window's frames were seen."""
        return self._taken == len(self.frames)

    def advance(self, ring: _Ring, index: int) -> bool:
        """Take the window whose last frame is `index`, if there is one."""
        if self.complete or self._last[self._taken] != index:
            return False
        self.clips.append(ring.take(self.frames[self._taken]))
        self._taken += 1
        return True

    def flush(self) -> tuple[slice, np.ndarray]:
        """Rows and features of the windows taken since the last flush."""
        count = len(self.clips)
        features = self._extractor.features(np.concatenate(self.clips))
        features = features.reshape(count, -1, features.shape[-1]).mean(1, dtype=np.float32)
        rows = slice(self._row, self._row + count)
        self._row, self.clips = rows.stop, []
        return rows, features
