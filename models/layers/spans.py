# SPDX-License-Identifier: Apache-2.0
"""Choosing a moment from start and end probabilities over frames (STAGE, arXiv:1904.11574).

Two searches of the published code that differ where products tie; both are needed for its numbers.
"""

from __future__ import annotations

import numpy as np


def top_pairs(start: np.ndarray, end: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The k pairs i <= j with the largest start[i] * end[j]; of equal ones the last in row order.

    Args:
        start, end: (M, L) probabilities.

    Returns:
        (M, k, 2) int64 pairs, both ends inclusive, and their (M, k) products.
    """
    rows, length = start.shape
    products = np.triu(start[:, :, None] * end[:, None, :]).reshape(rows, -1)
    if k == 1:
        best = length * length - 1 - np.argmax(products[:, ::-1], 1)[:, None]
    else:
        best = np.argsort(products, 1, kind="stable")[:, ::-1][:, :k]
    return np.stack(np.divmod(best, length), -1), np.take_along_axis(products, best, 1)


def scan_pairs(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best pair of a scan from left to right, of equal ones the first; (0, 1) if all are 0.

    Args:
        start, end: (M, L) probabilities.

    Returns:
        (M, 2) int64 pairs, both ends inclusive, and their (M,) products.
    """
    rows, length = start.shape
    every = np.arange(rows)
    pairs, best = np.tile(np.array([0, 1]), (rows, 1)), np.zeros(rows, start.dtype)
    highest = np.zeros(rows, np.int64)
    for j in range(length):
        highest = np.where(start[:, j] > start[every, highest], j, highest)
        product = start[every, highest] * end[:, j]
        better = product > best
        pairs[better] = np.stack([highest, np.full(rows, j)], 1)[better]
        best = np.where(better, product, best)
    return pairs, best


def span_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap / hull of [start, end) pairs (..., 2); 0 where the hull is empty."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    overlap = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    hull = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    return np.divide(np.maximum(overlap, 0), hull, out=np.zeros_like(hull), where=hull != 0)


def widen(spans: np.ndarray, frames: int, length: int) -> np.ndarray:
    """[start, end) pairs (..., 2) extended by ``frames`` on both sides, inside [0, length)."""
    start = np.maximum(spans[..., 0] - frames, 0)
    return np.stack([start, np.minimum(spans[..., 1] + frames, length)], -1)


def within(spans: np.ndarray, length: int) -> np.ndarray:
    """[start, end) pairs (..., 2) as float32 masks (..., length)."""
    frame = np.arange(length)
    inside = (frame >= spans[..., :1]) & (frame < spans[..., 1:])
    return inside.astype(np.float32)


def training_spans(
    truth: np.ndarray, start: np.ndarray, end: np.ndarray, proposals: int, min_product: float,
    min_iou: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Every sample's labelled span, then its proposals that are probable and overlap the label.

    Args:
        truth: (N, 2) labels, both ends inclusive.
        start, end: (N, L) probabilities of the right answer.

    Returns:
        (N',) sample of each row and (N', 2) its [start, end); N <= N' <= (1 + proposals) N.
    """
    pairs, products = top_pairs(start, end, proposals)
    exclusive = np.array([0, 1])
    samples, spans = [], []
    for n, label in enumerate(truth + exclusive):
        found = pairs[n][products[n] >= min_product] + exclusive
        chosen = found[span_iou(found, label) >= min_iou]
        spans += [label, *chosen]
        samples += [n] * (1 + len(chosen))
    return np.array(samples), np.stack(spans)
