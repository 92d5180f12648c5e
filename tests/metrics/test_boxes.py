# SPDX-License-Identifier: Apache-2.0
"""Overlap of boxes and average precision, by hand and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from metrics.common.boxes import (
    Boxes,
    average_precision,
    average_precisions,
    box_iou,
    true_positives,
)


def _boxes(*rows) -> Boxes:
    """Rows (image, label, box) or (image, label, box, score)."""
    image, label, box, *score = zip(*rows, strict=True) if rows else ((), (), ())
    box = np.array(box, float).reshape(-1, 4)
    score = np.array(score[0] if score else (), float)
    return Boxes(np.array(image, int), np.array(label, int), box, score)


def _random(rng, images, labels, count, levels) -> Boxes:
    corner = rng.integers(0, 5, (count, 2))
    box = np.concatenate([corner, corner + rng.integers(4, 10, (count, 2))], 1).astype(float)
    return Boxes(
        rng.integers(images, size=count), rng.integers(1, labels + 1, count), box,
        rng.integers(levels, size=count).astype(float),
    )  # fmt: skip


def _overlap(a, b):
    """Of one pair, after both grew by a pixel."""
    a, b = ([c[0], c[1], c[2] + 1, c[3] + 1] for c in (a, b))
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    inter *= max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    area = sum((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
    return np.float32(inter) / np.float32(area - inter)


def _reversed_sort(scores):
    """Positions by an ascending stable sort, read from its end."""
    return sorted(range(len(scores)), key=lambda i: scores[i])[::-1]


def _slow(truth, found, label):
    """(score, hit) of all predictions of a label, best first, as plain loops find them."""
    listed = []
    for image in sorted({*truth.image.tolist(), *found.image.tolist()}):
        true = [b for i, k, b in zip(*truth[:3], strict=True) if (i, k) == (image, label)]
        rows = [(s, b) for i, k, b, s in zip(*found, strict=True) if (i, k) == (image, label)]
        used = set()
        for r in _reversed_sort([score for score, _ in rows]):
            ious = [_overlap(rows[r][1], b) for b in true]
            best = int(np.argmax(ious)) if ious else -1
            hit = bool(ious) and ious[best] >= 0.5 and best not in used
            used |= {best} if ious and ious[best] >= 0.5 else set()
            listed.append((rows[r][0], hit))
    return [listed[r] for r in _reversed_sort([score for score, _ in listed])]


@pytest.mark.parametrize("levels", [2, 5, 10**6])  # few levels: many ties
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_average_precisions_equal_plain_loops(seed, levels):
    rng = np.random.default_rng(seed)
    truth = _random(rng, 6, 3, 60, 1)
    found = _random(rng, 8, 4, 200, levels)  # images and a label without truth, too
    scores = average_precisions(truth, found)
    assert list(scores) == [1, 2, 3]
    hits = 0
    for label, ours in scores.items():
        slow = [hit for _, hit in _slow(truth, found, label)]
        right, positives = np.cumsum(slow), int((truth.label == label).sum())
        assert np.array_equal(ours["recalls"], right / positives)
        assert np.array_equal(ours["precisions"], right / np.arange(1, len(slow) + 1))
        assert (ours["n_tp"], ours["n_fp"]) == (sum(slow), len(slow) - sum(slow))
        assert ours["n_positives"] == positives
        hits += sum(slow)
    assert hits > 20


def test_corner_pixels_count():
    a = np.array([[0, 0, 9, 9], [0, 0, 4, 4], [5, 5, 4, 4]])
    b = np.array([[0, 0, 9, 4], [5, 0, 9, 4], [5, 5, 4, 4]])
    assert box_iou(a, b).tolist() == [0.5, 0.0, 0.0]  # the last has no pixel: 0/0
    assert box_iou(a[:, None], b[None]).shape == (3, 3)
    assert box_iou(a, b).dtype == np.float32


def test_boxes_grow_by_a_pixel_before_they_are_compared():
    truth = _boxes((0, 1, [0, 0, 0, 0]))
    assert box_iou([0, 0, 2, 0], [0, 0, 0, 0]) < 0.5  # 1/3; of the grown ones 4/8
    assert true_positives(truth, _boxes((0, 1, [0, 0, 2, 0], 1))).tolist() == [True]
    assert true_positives(truth, _boxes((0, 1, [0, 0, 3, 0], 1))).tolist() == [False]


def test_a_true_box_is_found_once_and_no_second_best_is_taken():
    truth = _boxes((0, 1, [0, 0, 99, 99]), (0, 1, [0, 0, 99, 80]))
    found = _boxes((0, 1, [0, 0, 99, 99], 0.9), (0, 1, [0, 0, 99, 97], 0.8))
    assert true_positives(truth, found).tolist() == [True, False]


def test_of_equal_overlaps_the_first_true_box_is_taken():
    truth = _boxes((0, 1, [0, 0, 9, 9]), (0, 1, [0, 0, 9, 9]))
    found = _boxes((0, 1, [0, 0, 9, 9], 0.9), (0, 1, [0, 0, 9, 9], 0.8))
    assert true_positives(truth, found).tolist() == [True, False]


def test_among_equal_scores_the_last_comes_first():
    right, wrong = [0, 0, 9, 9], [50, 50, 59, 59]
    truth = _boxes((0, 1, right), (1, 1, right))
    for boxes, precisions in (((wrong, right), [1.0, 0.5]), ((right, wrong), [0.0, 0.5])):
        found = _boxes(*((image, 1, box, 0.5) for image, box in enumerate(boxes)))
        assert average_precisions(truth, found)[1]["precisions"].tolist() == precisions


def test_area_under_the_curve_and_eleven_points_by_hand():
    precision, recall = np.array([1, 1 / 2, 2 / 3]), np.array([1 / 2, 1 / 2, 1])
    assert average_precision(precision, recall) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert average_precision(precision, recall, True) == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert average_precision(np.zeros(0), np.zeros(0)) == 0.0
    assert average_precision(np.zeros(0), np.zeros(0), eleven_point=True) == 0.0


def test_without_predictions_and_without_truth():
    truth = _boxes((0, 4, [0, 0, 9, 9]), (1, 4, [0, 0, 9, 9]), (1, 7, [0, 0, 9, 9]))
    found = _boxes((1, 4, [0, 0, 9, 9], 0.3), (1, 9, [0, 0, 9, 9], 0.8))
    scores = average_precisions(truth, found)
    assert {k: v["ap"] for k, v in scores.items()} == {4: 0.5, 7: 0.0}
    assert scores[7]["precisions"].size == 0
    assert (scores[7]["n_tp"], scores[7]["n_fp"], scores[7]["n_positives"]) == (0, 0, 1)
    assert [s["ap"] for s in average_precisions(truth, _boxes()).values()] == [0.0, 0.0]
    assert average_precisions(_boxes(), found) == {}
