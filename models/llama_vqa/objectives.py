# SPDX-License-Identifier: Apache-2.0
"""The rows of the objectives in one pass, which tokens they ask for, and the losses of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F


@dataclass(frozen=True)
class Rows:
    """Rows of all objectives as one batch.

    Attributes:
        ids: (N, L). start: (N,) places of their first frames. owner: (N,) numbers of their videos.
        weighted: (N, 1), do words behind the frames weigh them (gate2)?
        first: number of an objective's first row.
    """

    ids: np.ndarray
    start: np.ndarray
    owner: np.ndarray
    weighted: np.ndarray
    first: dict[str, int]


def rows(batch: Mapping[str, Any], names: Sequence[str]) -> Rows:
    """The rows ``<name>_ids`` (B, R, L) of the objectives, one after the other."""
    parts, first, count = [], {}, 0
    for name in names:
        ids, qav = batch[f"{name}_ids"].numpy(), name == "qav"
        videos, repeats, _ = ids.shape
        owner = np.repeat(np.arange(videos), repeats)
        start = batch["qav_start" if qav else "video_start"].numpy()[owner]
        parts.append((ids.reshape(len(owner), -1), start, owner, np.full((len(owner), 1), not qav)))
        first[name], count = count, count + len(owner)
    width = max(part[0].shape[1] for part in parts)
    parts = [(np.pad(ids, ((0, 0), (0, width - ids.shape[1]))), *rest) for ids, *rest in parts]
    return Rows(*(np.concatenate(part) for part in zip(*parts, strict=True)), first)


def asked(labels: np.ndarray, ignored: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (N, L) -> row, place (M,) of the words that predict one, and what they predict (M,).

    A word predicts the label of the next one.
    """
    row, place = np.nonzero(labels[:, 1:] != ignored)
    return row, place, labels[row, place + 1]


def before_frames(labels: np.ndarray, start: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """As ``asked`` of rows with labels (N, L) of ``count`` frames, of which all are asked for."""
    place = (start[:, None] + np.arange(count) - 1).ravel()
    row = np.repeat(np.arange(len(labels)), count)
    return row, place, labels[row, place + 1]


def token_losses(logits: paddle.Tensor, targets: np.ndarray) -> paddle.Tensor:
    """Cross-entropy (M,) in float32 of logits (M, C) and right classes (M,)."""
    right = paddle.to_tensor(targets)
    return F.cross_entropy(logits.astype("float32"), right, reduction="none").flatten()


def exact_losses(
    logits: paddle.Tensor, rows: paddle.Tensor, targets: paddle.Tensor
) -> paddle.Tensor:
    """Cross-entropy (M,) of classes ``targets`` (M,) by ``rows`` (M,) of logits (U, C).

    Exactly 0 where float32 cannot tell the probability from 1: published scores are means of the
    losses that are not.
    """
    logits = logits.astype("float32")
    below = logits - logits.max(-1, keepdim=True)
    total = paddle.log(paddle.exp(below).sum(-1))
    chosen = paddle.gather_nd(below, paddle.stack([rows, targets], -1))
    return paddle.gather(total, rows) - chosen


def frame_logits(hidden: paddle.Tensor, frames: paddle.Tensor, tau: float) -> paddle.Tensor:
    """Normed states (B, T, D) before every frame and frames (B, F, D) -> (B, T, F), float32."""
    return paddle.matmul(hidden.astype("float32"), frames, transpose_y=True) / tau
