# SPDX-License-Identifier: Apache-2.0
"""Objectives of pre-training: videos with captions, patches with words, masked words.

Source: Multi-granularity Contrastive Cross-modal Collaborative Generation (arXiv:2410.09379), where
``vtc`` is called instance contrast and ``mcl`` token contrast. All features are rows of length 1
(``layers.kernels.unit``). V videos have one caption each; L is the length of the captions, N the
number of patches, P the length of the features.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from ..layers.kernels import softmax, unit

PatchWeights = Literal["batch_rows", "per_video"]

TEMPERATURE = 0.1  # of tokens
LOWEST, HIGHEST = 0.001, 0.5  # temperature of videos and captions
_QUANTILES = 0.1, 0.9  # to which weights are cut
_CONTINUES, _SEP = 2, 3  # kinds of pieces
_LEFT_OUT = -1e4  # score of what a softmax leaves out
_NOTHING = 1e-20  # attention to padding, which Paddle's softmax gives e^-64


# ---- videos and captions


def clamp_temperature(temperature: paddle.Tensor) -> None:
    """Put the parameter back into its range, as is done before every step."""
    with paddle.no_grad():
        temperature.set_value(paddle.clip(temperature, LOWEST, HIGHEST))


def vtc(
    video: paddle.Tensor, text: paddle.Tensor, temperature: paddle.Tensor, together: bool = True
) -> dict[str, paddle.Tensor]:
    """Cross-entropy of finding each video's caption and each caption's video.

    Args:
        video, text: (V, P).
        temperature: what similarities are divided by.
        together: among those of all processes, which all have to call. Gradients of the features
            are those of the sum of all processes' losses.

    Returns:
        vtc and its two parts vtc_v2t and vtc_t2v, means over the V.
    """
    if not together:
        return contrast(video, text, video, text, 0, temperature)
    rows, first = gather(paddle.concat([video, text], 1))
    videos, texts = paddle.split(rows, 2, 1)
    return contrast(video, text, videos, texts, first, temperature)


def contrast(
    video: paddle.Tensor, text: paddle.Tensor, videos: paddle.Tensor, texts: paddle.Tensor,
    first: int, temperature: paddle.Tensor,
) -> dict[str, paddle.Tensor]:  # fmt: skip
    """See ``vtc``.

    Args:
        video, text: (V, P).
        videos, texts: (M, P) to choose from; from row ``first`` on they are ``video`` and ``text``.
    """
    scores = (
        paddle.matmul(one, others, transpose_y=True) / temperature
        for one, others in ((video, texts), (text, videos))
    )
    # Paddle's cross-entropy ends at 64 on CPU, which low temperatures go beyond
    v2t, t2v = ((paddle.logsumexp(s, 1) - paddle.diagonal(s, first)).mean() for s in scores)
    return {"vtc": (v2t + t2v) / 2, "vtc_v2t": v2t, "vtc_t2v": t2v}


def gather(x: paddle.Tensor) -> tuple[paddle.Tensor, int]:
    """Rows (R, P) of all processes in order of their numbers, and where this one's begin.

    The number of rows may differ. The gradient of a row is the sum of what all processes find.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x, 0
    counts = paddle.zeros([dist.get_world_size()], "int64")
    counts[dist.get_rank()] = len(x)
    dist.all_reduce(counts)
    counts = counts.tolist()
    first = sum(counts[: dist.get_rank()])
    return _Gather.apply(x, first, sum(counts)), first


class _Gather(PyLayer):
    @staticmethod
    def forward(ctx, x, first, total):
        ctx.own = slice(first, first + len(x))
        rows = paddle.zeros([total, x.shape[1]], x.dtype)
        rows[ctx.own] = x
        dist.all_reduce(rows)
        return rows

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient[ctx.own]


# ---- patches and words


class Words(NamedTuple):
    """Words of captions, and [SEP] after them where it is seen; the other places hold zeros."""

    embeddings: paddle.Tensor  # (V, L - 1, D)
    weights: paddle.Tensor  # (V, L - 1)
    shown: paddle.Tensor  # (V, L - 1), 1 on words and [SEP]


def words(hidden: paddle.Tensor, attention: paddle.Tensor, pieces: paddle.Tensor) -> Words:
    """Sums over the pieces of every word.

    As published, a piece carries the attention paid to its right neighbour, and the last position
    is never looked at: a caption that fills all positions loses its last word and [SEP].

    Args:
        hidden: (V, L, D) of the pieces.
        attention: (V, L) of the last layer, from [CLS] to all pieces, mean over the heads.
        pieces: (V, L) kinds of pieces: 0 padding, 1 starts a word, 2 continues one, 3 [SEP], 4
            [CLS].
    """
    pieces = pieces[:, :-1].astype("int64")
    ends = (pieces == _SEP).astype("int64")
    seen = (paddle.cumsum(ends, 1) == ends).astype("int64")  # up to the first [SEP]
    number = paddle.cumsum((pieces != _CONTINUES).astype("int64") * seen, 1) - 1  # of [CLS] it is 0
    last = number[:, -1:] - 1 + ends.max(1, keepdim=True)  # that is complete
    slots = paddle.arange(1, pieces.shape[1] + 1).unsqueeze(0)
    shown = (slots <= last).astype(hidden.dtype)
    member = (number.unsqueeze(1) == slots.unsqueeze(2)).astype(hidden.dtype)
    member = member * seen.unsqueeze(1).astype(hidden.dtype) * shown.unsqueeze(2)
    weights = paddle.matmul(member, attention.detach()[:, 1:].unsqueeze(2)).squeeze(2)
    return Words(paddle.matmul(member, hidden[:, :-1]), weights, shown)


def patch_weights(
    attention: paddle.Tensor, videos: int, how: PatchWeights = "batch_rows"
) -> paddle.Tensor:
    """How much each patch counts (V, N), sums of 1.

    Args:
        attention: over space (V T, heads, 1 + N, 1 + N), frames of a video in a row.
        how: "batch_rows": video i takes that of the i-th frame of the whole batch, as published;
            "per_video": the mean over its frames.
    """
    rows = attention.detach()[:, :, 0, 1:].mean(1)
    if how == "batch_rows":
        rows = rows[:videos]
    else:
        rows = rows.reshape([videos, -1, rows.shape[1]]).mean(1)
    return shares(rows, paddle.ones_like(rows))


def shares(weights: paddle.Tensor, used: paddle.Tensor) -> paddle.Tensor:
    """Weights (V, K) of ``trimmed`` to a sum of 1; zeros in rows of which nothing is used."""
    weights = trimmed(weights, used)
    return weights / paddle.clip(weights.sum(1, keepdim=True), min=1e-30)


def trimmed(weights: paddle.Tensor, used: paddle.Tensor) -> paddle.Tensor:
    """Weights (V, K) cut to the 10 % and 90 % quantiles of those where ``used`` is 1.

    Zeros elsewhere.
    """
    count = used.sum(1, keepdim=True)
    ordered = paddle.sort(paddle.where(used > 0, weights, paddle.full_like(weights, math.inf)), 1)

    def quantile(q: float) -> paddle.Tensor:
        rank = paddle.clip(count - 1, min=0) * q
        below = paddle.floor(rank)
        ends = paddle.concat([below, paddle.ceil(rank)], 1).astype("int64")
        low, high = paddle.split(paddle.take_along_axis(ordered, ends, 1), 2, 1)
        return low + (rank - below) * (high - low)

    low, high = (quantile(q) for q in _QUANTILES)
    cut = paddle.minimum(paddle.maximum(weights, low), high)
    return paddle.where(used > 0, cut, paddle.zeros_like(cut))


def mcl(
    found: Words, word: paddle.Tensor, patch: paddle.Tensor, weights: paddle.Tensor
) -> dict[str, paddle.Tensor]:
    """Cross-entropy of finding each word's own patches among those of the other words, and so on.

    A word's patches are their mean by similarity; the same for the words of a patch. As published,
    the other words include places that are left over, and means of words are not of length 1. A
    caption of no words counts nothing.

    Args:
        found: words of the captions.
        word: (V, L - 1, P), features of its embeddings.
        patch: (V, N, P).
        weights: of ``patch_weights``.

    Returns:
        mcl, and its parts, each a mean over the V: mcl_word and mcl_patch, which are means of
        mcl_word_1 (finding patches), mcl_word_2 (finding the word of some patches), mcl_patch_1
        (finding words), and mcl_patch_2.
    """
    used = (found.weights > _NOTHING).astype(found.weights.dtype)
    word_weights = shares(found.weights, used)
    weights = weights * found.shown.max(1, keepdim=True)
    scores, terms = similarities(word, patch, found.shown), {}
    for name, score, weight in zip(("word", "patch"), scores, (word_weights, weights), strict=True):
        right = paddle.diagonal(score, axis1=1, axis2=2)
        one, two = (
            ((paddle.logsumexp(score, axis) - right) * weight).sum() / len(word) for axis in (2, 1)
        )
        terms |= {f"mcl_{name}": (one + two) / 2, f"mcl_{name}_1": one, f"mcl_{name}_2": two}
    return {"mcl": terms["mcl_word"] + terms["mcl_patch"], **terms}


def similarities(
    word: paddle.Tensor, patch: paddle.Tensor, shown: paddle.Tensor
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Every word with every word's patches, every patch with every patch's words.

    Args:
        word: (V, L - 1, P).
        patch: (V, N, P).
        shown: (V, L - 1), 1 on words that patches choose from.

    Returns:
        (V, L - 1, L - 1) and (V, N, N), divided by the temperature.
    """
    scores = paddle.matmul(word, patch, transpose_y=True) / TEMPERATURE  # (V, L - 1, N)
    of_word = unit(paddle.matmul(F.softmax(scores), patch))
    left_out = (1 - shown).unsqueeze(1) * _LEFT_OUT
    of_patch = paddle.matmul(softmax(scores.transpose([0, 2, 1]) + left_out), word)
    return tuple(
        paddle.matmul(x, own, transpose_y=True) / TEMPERATURE
        for x, own in ((word, of_word), (patch, of_patch))
    )
