# SPDX-License-Identifier: Apache-2.0
"""Both span searches, also where products tie, and the moments of the answer head."""

from __future__ import annotations

import numpy as np

from models.layers.ranking import hard_pairs
from models.layers.spans import scan_pairs, span_iou, top_pairs, training_spans, widen, within

START = np.array([[0.1, 0.6, 0.3], [0.25, 0.5, 0.25]], np.float32)
END = np.array([[0.2, 0.2, 0.6], [0.5, 0.25, 0.25]], np.float32)


def test_searches_agree_without_ties():
    pairs, products = top_pairs(START[:1], END[:1], 2)
    assert pairs.tolist() == [[[1, 2], [2, 2]]]
    np.testing.assert_allclose(products, [[0.36, 0.18]], rtol=1e-6)
    assert scan_pairs(START[:1], END[:1])[0].tolist() == [[1, 2]]


def test_searches_differ_where_products_tie():
    assert top_pairs(START[1:], END[1:])[0].tolist() == [[[1, 2]]]  # the last one
    assert scan_pairs(START[1:], END[1:])[0].tolist() == [[0, 0]]  # the first one


def test_one_and_several_proposals_agree():
    rng = np.random.default_rng(0)
    start, end = rng.integers(0, 4, (2, 20, 9)).astype(np.float32)
    best, products = top_pairs(start, end)
    several, more = top_pairs(start, end, 3)
    assert (best[:, 0] == several[:, 0]).all() and (products[:, 0] == more[:, 0]).all()


def test_a_scan_of_zeros_gives_the_published_start_value():
    assert scan_pairs(np.zeros((1, 4)), np.zeros((1, 4)))[0].tolist() == [[0, 1]]


def test_iou_of_spans():
    pairs = [[0, 2], [1, 3]], [[0, 2], [0, 2]], [[0, 1], [3, 4]], [[2, 2], [2, 2]]
    assert [float(span_iou(a, b)) for a, b in pairs] == [1 / 3, 1.0, 0.0, 0.0]


def test_windows_are_widened_inside_the_clip():
    windows = widen(np.array([[0, 1], [4, 6]]), 2, 7)
    assert windows.tolist() == [[0, 3], [2, 7]]
    assert within(windows, 7).tolist() == [[1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1]]


def test_training_moments_are_the_label_and_good_proposals():
    options = {"proposals": 1, "min_product": 0.3, "min_iou": 0.5}
    truth = np.array([[1, 2], [2, 2]])
    samples, spans = training_spans(truth, START, END, **options)
    assert samples.tolist() == [0, 0, 1]  # the second one's proposal is improbable
    assert spans.tolist() == [[1, 3], [1, 3], [2, 3]]


GROUP = np.array([[0, 2, 4, 1]])
OPTIONS = {"num_negatives": 2, "num_hard": 2, "pool_size": 0, "drop_topk": 0,
           "rng": np.random.default_rng(0)}  # fmt: skip


def _regions(pattern: list[int], scores: list[float], **options: int) -> list[list[int]]:
    pairs = hard_pairs(GROUP, np.array([pattern], np.int8), np.array([scores]), **OPTIONS | options)
    assert all((rows[:, :4] == GROUP).all() for rows in pairs)
    return [rows[:, 4].tolist() for rows in pairs]


def test_hard_negatives_come_by_score():
    pattern, scores = [0, 1, 0, 0, -1], [0.1, 0.9, 0.3, 0.2, 1.0]
    assert _regions(pattern, scores) == [[1, 1], [2, 3]]
    assert _regions(pattern, scores, drop_topk=1) == [[1, 1], [3, 0]]


def test_too_few_negatives_are_used_again():
    assert _regions([1, 1, 0, 0], [0, 0, 0.5, 0.7]) == [[0, 1, 0, 1], [3, 2, 3, 2]]


def test_a_pool_gives_hard_and_easy_ones():
    pattern = [1] + [0] * 9
    scores = [0.0, *np.linspace(1, 0.1, 9)]
    for _ in range(20):
        _, (hard, easy) = _regions(pattern, scores, pool_size=3, num_hard=1)
        assert hard in (1, 2, 3) and easy > 3


def test_nothing_labelled_gives_no_pairs():
    pairs = hard_pairs(GROUP[:0], np.zeros((0, 4), np.int8), np.zeros((0, 4)), **OPTIONS)
    assert [rows.shape for rows in pairs] == [(0, 5), (0, 5)]
