# SPDX-License-Identifier: Apache-2.0
"""The integer rules of TVQA+ samples: frames, labels, sentences, overlaps, pairs."""

from __future__ import annotations

import numpy as np
import pytest

from reader.common.tvqa_plus import Box
from reader.common.tvqa_plus_frames import (
    draw_pairs,
    frame_grid,
    label_matrix,
    make_groups,
    nearest_sentences,
    overlaps,
    positive_regions,
    reaches,
    sentence_spans,
    time_label,
)


@pytest.mark.parametrize(
    ("first", "last", "count", "ids", "position", "end"),
    [
        (6, 18, 30, [6, 12, 18, 24, 30], 0, 2),
        (13, 13, 14, [1, 7, 13], 2, 2),
        (7, 25, 20, [1, 7, 13, 19], 1, 3),  # the last annotated frame is after the clip's end
        (8, 9, 20, [2, 8, 14, 20], 1, 3),  # or off the grid
    ],
)
def test_frames(first, last, count, ids, position, end):
    grid = frame_grid(first, last, count)
    assert (grid.ids.tolist(), grid.first, grid.last) == (ids, position, end)


def test_no_more_than_300_frames():
    grid = frame_grid(290, 308, 400)
    assert grid.ids[-1] == 296 and len(grid.ids) == 50 and grid.last == 49
    assert frame_grid(301, 307, 400) is None and frame_grid(25, 25, 20) is None
    assert frame_grid(5, 5, 40, interval=4, max_frames=9).ids.tolist() == [1, 5, 9]


@pytest.mark.parametrize(
    ("moment", "count", "label"),
    [
        (None, 20, (0, 0)),
        ((0.0, 0.0), 20, (0, 0)),
        ((2.0, 4.0), 20, (1, 2)),  # frames 6 to 12
        ((2.1, 3.9), 20, (2, 2)),  # between two frames
        ((5.0, 1.0), 20, (3, 0)),  # a reversed one stays reversed, as published
        ((90.0, 99.0), 20, (3, 3)),
        ((4.0, 8.0), 600, (1, 2)),  # twice as long: as 2 to 4 s
    ],
)
def test_time_labels(moment, count, label):
    assert time_label(moment, count, np.array([0, 6, 12, 18])) == label


def test_nearest_sentences_take_the_first_of_ties():
    assert nearest_sentences([1.0, 3.0, 5.0], np.array([2.0, 3.0, 9.0])).tolist() == [
        [0, 1], [0, 1], [1, 2],
    ]  # fmt: skip
    assert nearest_sentences([4.0], np.array([0.0, 9.0])).tolist() == [[0], [0]]


def test_sentences_without_rows_take_those_of_the_one_before():
    assert sentence_spans([3, 2, 2], 7) == [(0, 3), (3, 5), (5, 7)]
    assert sentence_spans([3, 2, 2, 1], 4) == [(0, 3), (3, 4), (3, 4), (3, 4)]
    assert sentence_spans([3, 0, 2], 5) == [(0, 3), (3, 3), (3, 5)]  # as many rows as words: kept
    assert sentence_spans([0, 3], 2) == [(0, 2), (0, 2)]  # the first one: those of the last
    assert sentence_spans([3, 2], 9) == [(0, 3), (3, 5)]


def test_overlaps():
    a = np.array([[0, 0, 10, 10]], np.float64)
    b = np.array([[0, 0, 10, 10], [5, 5, 15, 15], [10, 0, 20, 10], [2, 2, 2, 8]], np.float64)
    assert overlaps(a, b)[0] == pytest.approx([121 / 79, 36 / 164, 0, 0])


def test_iou_is_rounded_before_it_is_compared():
    iou = np.array([[0.49994, 0.49996, 0.5, 0.50004, 0.4, 1.2]])
    assert reaches(iou, 0.5).tolist() == [[False, True, True, True, False, True]]
    assert reaches(iou, 0.50001).tolist() == [[False] * 5 + [True]]


def test_words_match_labels_as_a_whole():
    regions = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float64)
    truth = [Box("Ball", [0, 0, 10, 10]), Box("red ball", [50, 50, 60, 60]),
             Box("BALL", [51, 51, 60, 60])]  # fmt: skip
    words = ["the", "ball", "red"]
    positive, other = positive_regions(words, [truth, truth[:1]], [regions, regions[1:]], 0.5)
    assert positive.tolist() == [[False, False], [True, True], [False, False]]
    assert label_matrix(positive).tolist() == [[0, 0], [0.5, 0.5], [0, 0], [0, 0]]
    assert other.tolist() == [[False]] * 3  # boxes of another frame do not count
    (nothing,) = positive_regions(["a"], [[]], [regions], 0.5)
    assert nothing.tolist() == [[False, False]]
    (nothing,) = positive_regions(["ball"], [truth], [regions[:0]], 0.5)
    assert nothing.shape == (1, 0)
    assert positive_regions(["ball"], [], [], 0.5) == []


def test_pairs():
    positives = [
        np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool),  # all or nothing: no group
        np.array([[0, 0], [0, 0], [0, 1]], bool),
    ]
    groups = make_groups(positives, [4, 5])
    assert groups.frames.tolist() == [4, 5] and groups.words.tolist() == [0, 2]
    assert groups.pattern.tolist() == [[1, 0, 1, 0], [0, 1, -1, -1]]
    drawn = set()
    for seed in range(30):
        positive, negative = draw_pairs(groups, 2, np.random.default_rng(seed))
        assert positive.tolist() == [[4, 0, 0], [4, 0, 2]] * 2 + [[5, 2, 1]] * 2
        assert np.array_equal(positive[:, :2], negative[:, :2])
        assert set(negative[:4, 2]) <= {1, 3} and set(negative[4:, 2]) == {0}
        drawn.add(tuple(negative[:4, 2]))
    assert len(drawn) > 8  # of 16
    for nothing in (make_groups([], []), make_groups([np.zeros((2, 0), bool)], [0])):
        positive, negative = draw_pairs(nothing, 2, np.random.default_rng(0))
        assert positive.shape == negative.shape == (0, 3)
