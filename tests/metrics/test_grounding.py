# SPDX-License-Identifier: Apache-2.0
"""Overlap, suppression and recall against plain loops and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from metrics.common.grounding import nms, recall_hits, signed_iou, temporal_iou


def _slow_nms(scores, moments, threshold):
    """The published loop over Python lists."""
    remaining = [i for i, _ in sorted(enumerate(scores), key=lambda pair: pair[1])]
    picks = []
    while remaining:
        best = remaining.pop()
        picks.append(best)
        kept = []
        for other in remaining:
            (s, e), (a, b) = moments[best], moments[other]
            inter = max(0.0, min(e, b) - max(s, a))
            union = (e - s) + (b - a) - inter
            if (inter / union if union else 0.0) <= threshold:
                kept.append(other)
        remaining = kept
    return picks


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("levels", [2, 1000])  # few levels: many ties
@pytest.mark.parametrize("threshold", [0.05, 0.45, 0.7 - 0.05])
def test_nms_equals_the_published_loop(threshold, levels, inverted):
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=(6, 40)).astype(np.float32)
    start = rng.integers(300, size=(6, 40)).astype(np.float64)
    moments = np.stack([start, start + rng.integers(0, 120, size=(6, 40))], -1)
    if inverted:
        moments[::2] = moments[::2, :, ::-1]
    picks = nms(scores, moments, threshold)
    for row, s, m in zip(picks.tolist(), scores.tolist(), moments.tolist(), strict=True):
        assert [p for p in row if p >= 0] == _slow_nms(s, m, threshold)


def test_nms_stops_after_the_limit_with_the_same_first_picks():
    rng = np.random.default_rng(0)
    moments = np.sort(rng.uniform(0, 100, (3, 50, 2)), -1)
    scores = rng.standard_normal((3, 50))
    full, few = nms(scores, moments, 0.3), nms(scores, moments, 0.3, 4)
    assert few.shape == (3, 4)
    assert np.array_equal(few, full[:, :4])


def test_nms_overlap_at_the_threshold_survives_and_ties_go_to_the_highest_index():
    moments = np.array([[[0, 100], [50, 100], [0, 100]]], float)  # overlaps: 0.5, 1
    assert nms(np.zeros((1, 3)), moments, 0.5).tolist() == [[2, 1]]
    assert nms(np.zeros((1, 3)), moments, 0.49).tolist() == [[2]]


def test_nms_equal_empty_moments_do_not_suppress_one_another():
    moments = np.array([[[5, 5], [5, 5]]], float)
    assert nms(np.array([[2.0, 1.0]]), moments, 0.0).tolist() == [[0, 1]]


def test_nms_without_windows():
    assert nms(np.zeros((2, 0)), np.zeros((2, 0, 2)), 0.5).shape == (2, 0)


def test_signed_and_ordinary_overlap():
    a = np.array([[0, 10], [0, 10], [0, 10], [5, 5], [10, 0]])
    b = np.array([[5, 15], [20, 30], [0, 10], [5, 5], [0, 10]])
    assert signed_iou(a, b).tolist() == [5 / 15, -10 / 30, 1.0, 0.0, -1.0]
    assert temporal_iou(a, b)[:4].tolist() == [5 / 15, 0.0, 1.0, 0.0]


def test_recall_counts_the_limit_itself_and_only_the_first_picks():
    moments = np.array([[[0, 10], [0, 20], [100, 110]]], float)
    truth = np.array([[0, 20]], float)
    picks = np.array([[2, 0, 1]])
    assert recall_hits(moments, picks, truth, 0.5, [1, 2, 3]).tolist() == [[False], [True], [True]]
    assert not recall_hits(moments, picks, truth, 0.51, [2]).any()
    assert recall_hits(moments, np.array([[2, -1, -1]]), truth, -1.0, [3]).tolist() == [[True]]
    assert recall_hits(moments, np.array([[-1, -1, -1]]), truth, -1.0, [3]).tolist() == [[False]]
