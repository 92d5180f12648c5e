# SPDX-License-Identifier: Apache-2.0
"""Attention supervision by ranking: labelled regions shall be attended more than the others.

Source: TVQA+ (arXiv:1904.11574), section 4.4. A pair row is (sample, answer, frame, word, region).
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F


def ranking_loss(
    positive: paddle.Tensor, negative: paddle.Tensor, kind: str, alpha: float, margin: float
) -> paddle.Tensor:
    """Sum over pairs of scores (P,): log(1 + exp(alpha * (n - p))) or max(0, margin + n - p)."""
    if positive.shape[0] == 0:
        return paddle.zeros([], positive.dtype)
    difference = negative - positive
    if kind == "lse":
        return F.softplus(alpha * difference).sum()
    return F.relu(margin + difference).sum()


def hard_pairs(
    groups: np.ndarray, pattern: np.ndarray, scores: np.ndarray, *, num_negatives: int,
    num_hard: int, pool_size: int, drop_topk: int, rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Positive and negative pair rows with the best-scored negatives first.

    Args:
        groups: (G, 4) sample, answer, frame, word.
        pattern: (G, Lr) 1 for a positive, 0 for a negative region, -1 for none.
        scores: (G, Lr) of this step.
        num_hard, pool_size: with pool_size > num_negatives, ``num_hard`` negatives a positive are
            drawn from the best ``pool_size`` and the others from the rest.
        drop_topk: so many of the best-scored negatives are left out.

    Returns:
        two (P, 5) int64 arrays. Too few negatives are used again from the best one on.
    """
    positives, negatives = [], []
    for group, kinds, row in zip(groups, pattern, scores, strict=True):
        chosen = np.tile(np.flatnonzero(kinds == 1), num_negatives)
        other = np.flatnonzero(kinds == 0)
        ranked = other[np.argsort(-row[other], kind="stable")]
        ranked = ranked[drop_topk:] if len(ranked) > drop_topk else ranked
        single = len(chosen) // num_negatives
        if pool_size > num_negatives and len(ranked) > pool_size:
            hard = rng.choice(ranked[:pool_size], num_hard * single)
            easy = rng.choice(ranked[pool_size:], (num_negatives - num_hard) * single)
            drawn = np.concatenate([hard, easy])
        else:
            drawn = np.resize(ranked, len(chosen))
        positives.append(_rows(group, chosen))
        negatives.append(_rows(group, drawn))
    if not positives:
        return np.zeros((0, 5), np.int64), np.zeros((0, 5), np.int64)
    return np.concatenate(positives), np.concatenate(negatives)


def _rows(group: np.ndarray, regions: np.ndarray) -> np.ndarray:
    return np.column_stack([np.tile(group, (len(regions), 1)), regions])
