# SPDX-License-Identifier: Apache-2.0
"""Windows by video: match them with true moments, find their neighbours in time.

A window is named ``<video>_<start>_<end>`` in frames. Everything is vectorised per video; content
and order equal the published pair-by-pair loops.
Source: TALL / CTRL (arXiv:1705.02101, section 4.1).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from .windows import parse_name, window_name

MIN_IOU = 0.5  # a training pair overlaps by more than this
MAX_OUTSIDE = 0.15  # and less than this share of the window lies outside the moment


class Matches(NamedTuple):
    """Training pairs, ordered by window, then by moment."""

    window: np.ndarray  # (M,) row of the window
    moment: np.ndarray  # (M,) row of the moment
    offset: np.ndarray  # (M, 2) moment - window, start and end, frames


class WindowIndex:
    """Windows of any number of videos, in the order of ``names``.

    Raises:
        DataError: a name that is not ``<video>_<start>_<end>``.
    """

    def __init__(self, names: Sequence[str]):
        parsed = [parse_name(name) for name in names]
        self.names = names
        self.spans = np.array([(start, end) for _, start, end in parsed], np.int64).reshape(-1, 2)
        self.rows_by_video = group([video for video, _, _ in parsed])
        self._videos = [video for video, _, _ in parsed]
        self._row = {name: row for row, name in enumerate(names)}

    def rows(self, video: str) -> np.ndarray:
        """Rows of one video's windows, ascending; empty when there is none."""
        return self.rows_by_video.get(video, np.zeros(0, np.int64))

    def lengths(self) -> list[int]:
        """Window lengths that occur."""
        return np.unique(self.spans[:, 1] - self.spans[:, 0]).tolist()

    def match(self, videos: Sequence[str], moments: np.ndarray) -> Matches:
        """Windows that lie on a moment of the same video: IoU > 0.5 and < 15 % outside it.

        Args:
            videos: (P,) video of each moment.
            moments: (P, 2) frames.
        """
        parts = [np.zeros((0, 2), np.int64)]
        for video, mine in group(videos).items():
            rows = self.rows(video)
            window, moment = np.nonzero(_belongs(self.spans[rows], moments[mine]))
            parts.append(np.stack([rows[window], mine[moment]], 1))
        pairs = np.concatenate(parts)
        window, moment = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].T
        return Matches(window, moment, moments[moment] - self.spans[window])

    def context(self, rows: np.ndarray, count: int, size: int, nearest: bool) -> np.ndarray:
        """Rows of each window's neighbours: ``count`` left ones, the window, ``count`` right ones.

        Neighbour k spans ``size`` frames and ends (begins) ``k * size`` frames before (after) the
        window. One that does not exist is replaced by the one before it, the first by the window.

        Args:
            nearest: also take a window of that length at most size / 2 frames away.

        Returns:
            (n, 2 * count + 1).
        """
        find = self._nearest if nearest else self._exact
        left, right = [rows], [rows]
        start, end = self.spans[rows].T
        for k in range(count):
            left.append(find(rows, start - size * (k + 1), size, left[-1]))
            right.append(find(rows, end + size * k, size, right[-1]))
        return np.stack([*left[1:], rows, *right[1:]], 1)

    def _exact(self, rows, starts, size: int, default) -> np.ndarray:
        names = (
            window_name(self._videos[row], start, start + size)
            for row, start in zip(rows.tolist(), starts.tolist(), strict=True)
        )
        found = [self._row.get(name, other) for name, other in zip(names, default, strict=True)]
        return np.array(found, np.int64).reshape(-1)

    def _nearest(self, rows, starts, size: int, default) -> np.ndarray:
        found = np.array(default, np.int64)
        for video, mine in group([self._videos[row] for row in rows]).items():
            candidates = self.rows(video)
            spans = self.spans[candidates]
            candidates = candidates[spans[:, 1] - spans[:, 0] == size]
            if len(candidates) == 0:
                continue
            candidates = candidates[np.argsort(self.spans[candidates, 0], kind="stable")]
            known = self.spans[candidates, 0]
            after = np.minimum(np.searchsorted(known, starts[mine]), len(known) - 1)
            before = np.maximum(after - 1, 0)
            closer = abs(known[after] - starts[mine]) < abs(known[before] - starts[mine])
            best = np.where(closer, after, before)
            near = abs(known[best] - starts[mine]) <= size / 2
            found[mine[near]] = candidates[best[near]]
        return found


def group(keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Key -> its positions, ascending; keys in order of first appearance."""
    positions: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        positions.setdefault(key, []).append(i)
    return {key: np.array(where, np.int64) for key, where in positions.items()}


def spread(keys: Sequence[Hashable], span: int) -> list[int]:
    """Positions in an order as given, but no two of ``span`` consecutive ones share their key.

    A position waits until its key is free again; those that wait for ever are left out.
    """
    waiting: dict[Hashable, deque[int]] = {}
    for position, key in enumerate(keys):
        waiting.setdefault(key, deque()).append(position)
    ready = [positions.popleft() for positions in waiting.values()]
    heapq.heapify(ready)
    kept: list[int] = []
    while ready:
        kept.append(heapq.heappop(ready))
        if len(kept) >= span:  # the key used span - 1 places ago is free for the next place
            positions = waiting[keys[kept[-span]]]
            if positions:
                heapq.heappush(ready, positions.popleft())
    return kept


def _belongs(windows: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """(W, 2), (P, 2) -> (W, P) bool; both limits are strict, the overlap is the signed one."""
    s, e = windows[:, :1], windows[:, 1:]  # (W, 1)
    a, b = moments.T  # (P,)
    inter = np.minimum(e, b) - np.maximum(s, a)
    span = np.maximum(e, b) - np.minimum(s, a)
    length = e - s
    with np.errstate(divide="ignore", invalid="ignore"):  # an empty window or moment never matches
        return (inter / span > MIN_IOU) & ((length - inter) / length < MAX_OUTSIDE)
