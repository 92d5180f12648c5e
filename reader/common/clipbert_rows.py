# SPDX-License-Identifier: Apache-2.0
"""Which texts ClipBERT reads beside a video, which are another video's, which pieces are hidden.

Random generators are ``random.Random`` or ``numpy.random.Generator``: their ``random()`` is used.
Source: ClipBERT (arXiv:2102.06183), its released data sets and collators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import DataError

_HIDDEN = 0.15  # share of the pieces that are to be told, as published
_REPLACED = 0.8  # share of those that become [MASK]
_RANDOM = 0.5  # share of the others that become any piece
IGNORED = -100  # label of all other pieces


class Groups:
    """Rows of annotations by video, in order of the videos' first appearance.

    Args:
        video: int (R,), the video of each row, numbered in order of first appearance.
        size: rows of a group at most; None: all of a video.
        rows: numbers of the rows to use, ascending; None: all.
    """

    def __init__(
        self, video: np.ndarray, size: int | None = None, rows: np.ndarray | None = None
    ):
        rows = np.arange(len(video)) if rows is None else rows
        self._rows = rows[np.argsort(video[rows], kind="stable")]
        counts = np.bincount(video[rows])
        self._ends = np.cumsum(counts)
        self.size = size or int(counts.max())
        parts = -(-counts // self.size)
        self.video = np.repeat(np.arange(len(counts)), parts)  # of each group
        number = np.arange(len(self.video)) - np.repeat(np.cumsum(parts) - parts, parts)
        self._starts = (self._ends - counts)[self.video] + number * self.size

    def __len__(self) -> int:
        return len(self.video)

    def rows(self, i: int) -> list[int]:
        """Rows of a group."""
        start, end = self._starts[i], self._ends[self.video[i]]
        return self._rows[start : min(start + self.size, end)].tolist()

    def filled(self, i: int, rng: Any) -> list[int]:
        """As ``rows``, a short group filled up with any rows of its video, also ones it has."""
        rows, video = self.rows(i), self.video[i]
        first = self._ends[video - 1] if video else 0
        mine = self._rows[first : self._ends[video]].tolist()
        return rows + [_draw(mine, rng) for _ in range(self.size - len(rows))]

    def other(self, i: int, rng: Any) -> int:
        """A row of any group of another video; raises DataError if there is only one video."""
        first, end = np.searchsorted(self.video, self.video[i] + np.array([0, 1])).tolist()
        others = len(self) - (end - first)
        if not others:
            raise DataError("annotations: expected captions of two videos or more, found one video")
        group = int(rng.random() * others)
        return _draw(self.rows(group if group < first else group + end - first), rng)


def _draw(values: Sequence[int], rng: Any) -> int:
    return values[int(rng.random() * len(values))]


def hide_pieces(
    ids: np.ndarray,
    may_hide: np.ndarray,
    draws: np.ndarray,
    words: np.ndarray,
    mask: int,
    share: float = _HIDDEN,
) -> tuple[np.ndarray, np.ndarray]:
    """Masked language modelling: what is read, and what is to be told.

    Args:
        ids: int (...), pieces.
        may_hide: bool (...), where.
        draws: (3, ...) uniform in [0, 1): hide it? as [MASK]? else as any piece?
        words: (...), any pieces.
        mask: id of [MASK].
        share: of the pieces that are to be told.

    Returns:
        ids with hidden pieces replaced or not, and labels, -100 except for hidden pieces.
    """
    hidden = may_hide & (draws[0] < share)
    masked = hidden & (draws[1] < _REPLACED)
    other = hidden & ~masked & (draws[2] < _RANDOM)
    return np.where(masked, mask, np.where(other, words, ids)), np.where(hidden, ids, IGNORED)
