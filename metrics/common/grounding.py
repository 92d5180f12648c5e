# SPDX-License-Identifier: Apache-2.0
"""Temporal grounding: overlap of moments, non-maximum suppression, recall.

Everything is float64 and works on all queries of a video at once. Moments are (start, end) in any
one unit; an end before its start is allowed, as the published evaluation allows it.
Source: evaluation code of TALL / CTRL (arXiv:1705.02101, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient; a division by zero gives 0."""
    out = np.zeros(np.broadcast(numerator, denominator).shape)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def _overlap(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection (negative between disjoint moments) and span of both, (...) each."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    inter = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    return inter, np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])


def signed_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Published overlap of moments (..., 2), (..., 2) -> (...): intersection / span.

    The intersection of disjoint moments is negative, hence so is their overlap; 0/0 counts as 0.
    """
    return _divide(*_overlap(a, b))


def span_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """As ``signed_iou``, but 0 for disjoint and inverted moments. Source: TVQA+ evaluation."""
    inter, span = _overlap(a, b)
    return _divide(np.maximum(inter, 0.0), span)


def temporal_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of moments (..., 2), (..., 2) -> (...); disjoint or 0/0: 0."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    inter = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    inter = np.maximum(inter, 0.0)
    lengths = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0])
    return _divide(inter, lengths - inter)


def nms(
    scores: np.ndarray, moments: np.ndarray, threshold: float, limit: int | None = None
) -> np.ndarray:
    """Greedy temporal non-maximum suppression for Q queries over T moments each.

    Picks the best remaining moment, drops those that overlap it by more than ``threshold``, and
    goes on. Among equal scores the highest index wins (a stable ascending sort read from its end).

    Args:
        scores: (Q, T).
        moments: (Q, T, 2).
        threshold: largest overlap (``temporal_iou``) that survives.
        limit: number of picks after which to stop; None: until nothing remains.

    Returns:
        (Q, P) indices in order of picking, rows filled up with -1; P is at most ``limit``.
    """
    moments = np.asarray(moments, np.float64)
    order = np.argsort(scores, axis=1, kind="stable")[:, ::-1]  # (Q, T), best first
    start = np.take_along_axis(moments[..., 0], order, 1)
    end = np.take_along_axis(moments[..., 1], order, 1)
    length = end - start
    alive = np.ones(order.shape, bool)
    picks = np.full((len(order), min(order.shape[1], limit or order.shape[1])), -1)
    rows = np.arange(len(order))
    for column in range(picks.shape[1]):
        best = alive.argmax(1)
        some = alive[rows, best]  # (Q,): does anything remain?
        if not some.any():
            return picks[:, :column]
        picks[some, column] = order[rows[some], best[some]]
        at = (rows, best)
        inter = np.minimum(end, end[at][:, None]) - np.maximum(start, start[at][:, None])
        np.maximum(inter, 0.0, out=inter)
        union = length + length[at][:, None] - inter
        with np.errstate(invalid="ignore"):  # 0/0 is not above any threshold, so it survives
            alive &= ~(inter / union > threshold)
        alive[at] = False
    return picks


def recall_hits(
    moments: np.ndarray, picks: np.ndarray, truth: np.ndarray, iou: float, topn: Sequence[int]
) -> np.ndarray:
    """Does one of the first n picks overlap the true moment by ``iou`` or more (``signed_iou``)?

    Args:
        moments: (Q, T, 2).
        picks: (Q, P) indices from ``nms``, -1 where there is none.
        truth: (Q, 2).
        iou: smallest overlap that counts.
        topn: numbers of picks to look at.

    Returns:
        (len(topn), Q) bool.
    """
    if picks.shape[1] == 0:
        return np.zeros((len(topn), len(picks)), bool)
    picked = np.take_along_axis(moments, np.maximum(picks, 0)[..., None], 1)  # (Q, P, 2)
    good = (signed_iou(picked, truth[:, None, :]) >= iou) & (picks >= 0)
    return np.stack([good[:, :n].any(1) for n in topn])
