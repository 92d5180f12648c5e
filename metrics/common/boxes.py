# SPDX-License-Identifier: Apache-2.0
"""Boxes in images: overlap, and average precision as in Pascal VOC.

Boxes are [x1, y1, x2, y2] in pixels. The published evaluation of TVQA+ counts both corner pixels
as inside, in single precision, on boxes that it has already made one pixel larger; both are kept.
Source: eval_tvqa_plus.py of github.com/jayleicn/TVQAplus (arXiv:1904.11574).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

_RECALLS = np.arange(0.0, 1.1, 0.1)  # of the 11-point average
_LARGER = np.array([0, 0, 1, 1], np.float32)


class Boxes(NamedTuple):
    """Boxes of many images in one table."""

    image: np.ndarray  # (n,) int, position of the image in the order of the images
    label: np.ndarray  # (n,) int
    box: np.ndarray  # (n, 4)
    score: np.ndarray | None = None  # (n,), of predicted boxes


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap of boxes (..., 4), (..., 4) -> (...) float32, corner pixels included; 0/0: 0."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    one = np.float32(1)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + one
    inter = np.maximum(sides, 0).prod(-1)
    area_a, area_b = ((c[..., 2:] - c[..., :2] + one).prod(-1) for c in (a, b))
    union = area_a + area_b - inter
    return np.divide(inter, union, out=np.zeros_like(union), where=union != 0)


def average_precision(
    precision: np.ndarray, recall: np.ndarray, eleven_point: bool = False
) -> float:
    """Area under the interpolated precision-recall curve.

    Args:
        precision: (P,) after each prediction, best score first.
        recall: (P,) likewise.
        eleven_point: mean of the best precision at recalls 0, 0.1, … 1 instead (VOC 2007).
    """
    if eleven_point:
        best = [precision[recall >= r].max(initial=0.0) for r in _RECALLS]
        return float(np.sum(np.divide(best, len(_RECALLS))))
    precision = np.concatenate([[0.0], precision, [0.0]])
    recall = np.concatenate([[0.0], recall, [1.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))


def true_positives(truth: Boxes, found: Boxes, threshold: float = 0.5) -> np.ndarray:
    """Which found boxes hit: each takes the true box of its image and label that it overlaps most.

    It is a hit when they overlap by ``threshold`` or more and no box before it took the same one.

    Args:
        truth: true boxes; of equal overlaps the first wins.
        found: predicted boxes, within an image the best first.
        threshold: smallest overlap that counts.

    Returns:
        (len(found.box),) bool.
    """
    labels = max(truth.label.max(initial=0), found.label.max(initial=0)) + 1
    true_group, group = (b.image * labels + b.label for b in (truth, found))
    by_group = np.argsort(true_group, kind="stable")
    true_group = true_group[by_group]
    first, last = (np.searchsorted(true_group, group, side) for side in ("left", "right"))
    count = last - first  # true boxes that each found box competes for
    f = np.repeat(np.arange(len(group)), count)
    position = np.arange(len(f)) - np.repeat(np.cumsum(count) - count - first, count)
    t = by_group[position]
    iou = box_iou(*(b.box.astype(np.float32)[i] + _LARGER for b, i in ((found, f), (truth, t))))
    ranked = np.lexsort((-iou, f))  # stable: of equal overlaps the first true box leads
    f, t, iou = f[ranked], t[ranked], iou[ranked]
    best = np.unique(f, return_index=True)[1]
    best = best[iou[best] >= threshold]
    hits = np.zeros(len(group), bool)
    hits[f[best[np.unique(t[best], return_index=True)[1]]]] = True
    return hits


def average_precisions(
    truth: Boxes, found: Boxes, threshold: float = 0.5, eleven_point: bool = False
) -> dict[int, dict[str, Any]]:
    """Average precision of every label that has a true box.

    Predictions are sorted by score, first within their image, then over all images in order; each
    time equal scores come out in reverse (an ascending stable sort, read from its end).

    Args:
        truth: true boxes.
        found: predicted boxes with scores.
        threshold: smallest overlap that counts.
        eleven_point: as of ``average_precision``.

    Returns:
        label -> {ap, precisions (P,), recalls (P,), n_tp, n_fp, n_positives}, labels ascending.
    """
    order = np.lexsort((np.arange(len(found.image)), found.score))[::-1]
    order = order[np.argsort(found.image[order], kind="stable")]  # images in order, best first
    found = Boxes(*(column[order] for column in found))
    hits = true_positives(truth, found, threshold)
    out = {}
    for label, positives in zip(*np.unique(truth.label, return_counts=True), strict=True):
        mine = np.flatnonzero(found.label == label)
        ranked = mine[np.argsort(found.score[mine], kind="stable")[::-1]]
        hit = np.cumsum(hits[ranked])
        precision, recall = hit / np.arange(1, len(hit) + 1), hit / positives
        right = int(hits[mine].sum())
        out[int(label)] = {
            "ap": average_precision(precision, recall, eleven_point),
            "precisions": precision,
            "recalls": recall,
            "n_tp": right,
            "n_fp": len(mine) - right,
            "n_positives": int(positives),
        }
    return out
