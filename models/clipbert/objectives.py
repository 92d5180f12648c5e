# SPDX-License-Identifier: Apache-2.0
"""Scores of a video from those of its clips, and what they are trained for.

Losses are given per row; the network's loss is their mean.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F

_ALIKE = (("anetqa", "frameqa", "msrvtt_qa"), ("action", "transition"))  # tasks of equal batches


class LabelError(Exception):
    """The network's options do not fit the data; the message is one line."""

    exit_code = 2


def check_task(own: str, given: str) -> None:
    """Raise LabelError where a batch is made for a task other than the network's own."""
    if given not in next((tasks for tasks in _ALIKE if own in tasks), (own,)):
        raise LabelError(
            f"task: expected the same MODEL.task and DATASET.task, found {own} and {given}"
        )


def check_texts(ids: paddle.Tensor, words: int, places: int) -> None:
    """Raise LabelError where texts (R, L) have more places or word ids than BERT has vectors."""
    if ids.shape[1] > places:
        raise LabelError(
            f"max_position: expected {ids.shape[1]} or more, the pieces of the longest text, found "
            f"{places}; change MODEL.max_position or DATASET.max_txt_len"
        )
    if int(ids.max()) >= words:
        raise LabelError(
            f"vocab_size: expected more than the largest piece of a text, {int(ids.max())}, found "
            f"{words}; set MODEL.vocab_size to the number of lines of vocab.txt or more"
        )


def check_matches(labels: paddle.Tensor, negatives: int) -> None:
    """Raise LabelError where it is not one match followed by so many others, and so on."""
    expected = np.arange(len(labels)) % (1 + negatives) == 0
    if len(labels) % (1 + negatives) or not np.array_equal(labels.numpy() > 0, expected):
        raise LabelError(
            f"itm_neg_size: expected {negatives} captions after every match, found others; set "
            "MODEL.itm_neg_size and DATASET.itm_neg_size to the same number"
        )


def check_labels(labels: paddle.Tensor, classes: int) -> None:
    """Raise LabelError where a label is not below ``classes``."""
    if int(labels.max()) >= classes:
        raise LabelError(
            f"num_labels: expected more than the largest label of the data, {int(labels.max())}, "
            f"found {classes}; set MODEL.num_labels to the number of answers of ans2label"
        )


def pool(clip_scores: paddle.Tensor, how: str) -> paddle.Tensor:
    """Scores of clips (N, R, C) -> (R, C) by their mean, max or lse (log of summed exponentials).

    The cross-entropy of "lse" is the published one over all clips and classes together.
    """
    if how == "mean":
        return clip_scores.mean(0)
    if how == "max":
        best = clip_scores.argmax(0, keepdim=True)  # of equal clips only the first one learns
        return paddle.take_along_axis(clip_scores, best, 0).squeeze(0)
    return paddle.logsumexp(clip_scores, 0)


def cross_entropy(scores: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    """Scores (R, C), labels (R,) -> (R,), 0 for negative labels.

    Paddle's own ends at 64 on CPU, where it takes no probability for less than exp(-64).
    """
    scores = scores.astype("float32")
    scores = scores - scores.max(1, keepdim=True).detach()
    own = paddle.take_along_axis(scores, labels.clip(0).unsqueeze(1), 1).squeeze(1)
    return (paddle.logsumexp(scores, 1) - own) * (labels >= 0).astype("float32")


def soft_cross_entropy(scores: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    """Scores (R, C), labels (R, C) of 0 to 1, each class for itself -> sums over classes (R,)."""
    return F.binary_cross_entropy_with_logits(scores, labels, reduction="none").sum(1)


def ranking(scores: paddle.Tensor, negatives: int, margin: float) -> paddle.Tensor:
    """Scores (V * (1 + negatives), 1), each video's matching text first -> (V, negatives).

    Zero where the match's probability is above the other's by the margin.
    """
    chances = F.sigmoid(scores).reshape([-1, 1 + negatives])
    return F.relu(margin + chances[:, 1:] - chances[:, :1])


def match_probability(scores: paddle.Tensor) -> paddle.Tensor:
    """Scores (R, 2) of no match and match, or (R, 1) of a match -> (R,)."""
    if scores.shape[1] == 1:
        return F.sigmoid(scores[:, 0])
    return F.softmax(scores)[:, 1]


def masked_words(labels: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Labels (R, L), -100 where no word is asked for -> positions in R * L, their labels: (M,).

    Where none is asked for at all, one place with its -100, since empty arrays fail in Paddle 2.6.
    """
    flat = labels.reshape([-1])
    index = paddle.nonzero(flat >= 0).squeeze(-1)
    if not len(index):
        index = paddle.zeros([1], "int64")
    return index, paddle.gather(flat, index)
