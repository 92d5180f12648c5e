# SPDX-License-Identifier: Apache-2.0
"""Groups of texts by video, texts of other videos, hidden word pieces."""

from __future__ import annotations

import random

import numpy as np
import pytest

from reader.common.clipbert_rows import Groups, hide_pieces
from reader.common.errors import DataError

VIDEO = np.array([0, 1, 0, 2, 0, 0, 1, 0])  # rows 0, 2, 4, 5, 7 | 1, 6 | 3


def test_groups_hold_every_row_once():
    for size, expected in ((None, [[0, 2, 4, 5, 7], [1, 6], [3]]), (1, [[0], [2], [4], [5], [7],
                           [1], [6], [3]]), (2, [[0, 2], [4, 5], [7], [1, 6], [3]])):  # fmt: skip
        groups = Groups(VIDEO, size)
        assert [groups.rows(i) for i in range(len(groups))] == expected
        assert [VIDEO[rows[0]] for rows in expected] == groups.video.tolist()


def test_groups_of_some_rows():
    groups = Groups(VIDEO, 2, np.array([2, 3, 5, 7]))
    assert [groups.rows(i) for i in range(len(groups))] == [[2, 5], [7], [3]]
    assert groups.video.tolist() == [0, 0, 2]
    assert {row for k in range(30) for row in groups.filled(1, random.Random(k))} == {2, 5, 7}
    assert groups.filled(2, random.Random(0)) == [3, 3]


@pytest.mark.parametrize("rng", [random.Random(1), np.random.default_rng(1)])
def test_other_rows_are_drawn_from_groups_of_other_videos(rng):
    groups = Groups(VIDEO, 2)
    counts = np.zeros(8)
    for _ in range(3000):
        counts[groups.other(3, rng)] += 1
    share = {0: 1 / 8, 2: 1 / 8, 4: 1 / 8, 5: 1 / 8, 7: 1 / 4, 3: 1 / 4, 1: 0, 6: 0}
    assert np.abs(counts / 3000 - [share[row] for row in range(8)]).max() < 0.03
    for i, others in ((0, {1, 6, 3}), (4, {0, 1, 2, 4, 5, 6, 7})):
        assert {groups.other(i, rng) for _ in range(300)} == others
    with pytest.raises(DataError, match="found one video"):
        Groups(np.zeros(3, int), 1).other(0, rng)


def test_hidden_pieces():
    ids, words = np.arange(10, 16), np.arange(90, 96)
    draws = np.array([[0.14, 0.15, 0.0, 0.0, 0.1, 0.0], [0.79, 0.0, 0.8, 0.9, 0.9, 0.0],
                      [0.0, 0.0, 0.49, 0.5, 0.0, 0.0]])  # fmt: skip
    may_hide = np.array([True] * 5 + [False])
    read, told = hide_pieces(ids, may_hide, draws, words, 4)
    assert read.tolist() == [4, 11, 92, 13, 94, 15]
    assert told.tolist() == [10, -100, 12, 13, 14, -100]
    _, told = hide_pieces(ids, may_hide, draws, words, 4, 0.12)
    assert told.tolist() == [-100, -100, 12, 13, 14, -100]
