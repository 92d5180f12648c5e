# SPDX-License-Identifier: Apache-2.0
"""Answers in free text: a transformer decoder over what STAGE's encoder has found.

The design is this project's own. The decoder reads a memory of question words, frames and subtitle
words, and may copy words of the question and the subtitles (pointer-generator, arXiv:1704.04368).
What depends on the memory alone is computed once per question (``Source``); answers of the same
question, whether training target, candidates or hypotheses of a search, share it as more queries.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.nn import initializer

from ..layers import kernels
from ..layers.conv_encoder import sinusoids
from ..layers.spans import top_pairs, widen, within
from .search import UNK

_LOW = -1e9
_TINY = 1e-10  # keeps the logarithm of what cannot be copied finite


class Memory(NamedTuple):
    """What an answer is made from: question words, frames, subtitle words frame by frame."""

    tokens: paddle.Tensor  # (N, M, D)
    mask: paddle.Tensor  # (N, M) float 0/1
    words: int  # M begins with so many question words,
    frames: int  # then there are so many frames


class Source(NamedTuple):
    """A memory as the attention of the decoder takes it: L <= M tokens, most padding left out."""

    keys: list[paddle.Tensor]  # per layer (N, heads, L, D / heads)
    values: list[paddle.Tensor]
    bias: paddle.Tensor  # (N, 1, 1, L): 0, or -1e9 on padding
    copy: Copy | None

    def select(self, samples: paddle.Tensor) -> Source:
        """Some of the samples."""

        def rows(x: paddle.Tensor) -> paddle.Tensor:
            return paddle.gather(x, samples)

        copy = self.copy and Copy(*map(rows, self.copy[:4]), self.copy.extended)
        return Source(*([rows(x) for x in part] for part in self[:2]), rows(self.bias), copy)


class Copy(NamedTuple):
    """What copying takes besides."""

    tokens: paddle.Tensor  # (N, L, D)
    keys: paddle.Tensor  # (N, L, D)
    bias: paddle.Tensor  # (N, 1, L): -1e9 on frames, too
    ids: paddle.Tensor  # (N, L) of words, in the vocabulary or from its end on
    extended: int  # V_ext, the vocabulary with the other words of the batch


class Attention(nn.Layer):
    """Multi-head attention over keys and values that are projected beforehand."""

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj, self.k_proj = _linear(size, size), _linear(size, size)
        self.v_proj, self.out_proj = _linear(size, size), _linear(size, size)

    def project(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """(R, L, D) -> keys and values (R, heads, L, D / heads)."""
        return self._split(self.k_proj, x), self._split(self.v_proj, x)

    def _split(self, layer: nn.Linear, x: paddle.Tensor) -> paddle.Tensor:
        y = kernels.linear(x, layer.weight, layer.bias)
        return y.reshape([*x.shape[:2], self.heads, -1]).transpose([0, 2, 1, 3])

    def forward(
        self, x: paddle.Tensor, keys: paddle.Tensor, values: paddle.Tensor, bias: paddle.Tensor
    ) -> paddle.Tensor:
        """Queries (R, L, D), a bias for (R, heads, L, keys) -> (R, L, D)."""
        query = self._split(self.q_proj, x) / math.sqrt(keys.shape[-1])
        scores = paddle.matmul(query, keys, transpose_y=True) + bias
        weights = kernels.dropout(kernels.softmax(scores), self.dropout, self.training)
        mixed = paddle.matmul(weights, values).transpose([0, 2, 1, 3])
        return self.out_proj(mixed.reshape(x.shape))


class DecoderLayer(nn.Layer):
    """Attention to what was said, attention to the memory, two linear layers; norms come first."""

    def __init__(self, size: int, heads: int, ffn: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(size) for _ in range(3))
        self.self_attn = Attention(size, heads, dropout)
        self.cross_attn = Attention(size, heads, dropout)
        self.linear1, self.linear2 = _linear(size, ffn), _linear(ffn, size)

    def forward(
        self, x: paddle.Tensor, memory: tuple, past: tuple | None, bias: paddle.Tensor
    ) -> tuple[paddle.Tensor, tuple]:
        """Tokens of answers -> the same, and the keys and values of all of them so far.

        Args:
            x: (N * K, T, D), K answers of each of N samples.
            memory: keys, values and bias of the N samples.
            past: keys and values (N * K, heads, t, D / heads) of the tokens before.
            bias: for (T, t + T).
        """
        y = kernels.layer_norm(x, self.norm1)
        present = self.self_attn.project(y)
        if past is not None:
            present = tuple(paddle.concat(pair, 2) for pair in zip(past, present, strict=True))
        x = x + self._drop(self.self_attn(y, *present, bias))
        y = kernels.layer_norm(x, self.norm2).reshape([memory[0].shape[0], -1, x.shape[-1]])
        x = x + self._drop(self.cross_attn(y, *memory)).reshape(x.shape)
        y = self._drop(F.relu(self.linear1(kernels.layer_norm(x, self.norm3))))
        return x + self._drop(self.linear2(y)), present

    def _drop(self, x: paddle.Tensor) -> paddle.Tensor:
        return kernels.dropout(x, self.dropout, self.training)


class AnswerDecoder(nn.Layer):
    """From a memory to the log-probabilities of answer tokens.

    Args:
        vocab_size: V words. size: width D.
        layers, heads, ffn, dropout: of the transformer.
        use_copy: words of the question and the subtitles can be copied.
        use_sub_memory: subtitle words are in the memory.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(
        self, *, vocab_size: int, size: int, layers: int = 2, heads: int = 4, ffn: int = 512,
        dropout: float = 0.1, use_copy: bool = True, use_sub_memory: bool = True,
    ):  # fmt: skip
        super().__init__()
        if size % heads:
            raise ValueError(f"dec_heads: expected a divisor of hsz {size}, found {heads}")
        self.vocab_size, self.size, self.dropout = vocab_size, size, dropout
        self.use_copy, self.use_sub_memory = use_copy, use_sub_memory
        self.embed = _embedding(vocab_size, size, 1 / math.sqrt(size))
        self.out_bias = self.create_parameter([vocab_size], is_bias=True)
        self.mem_norm = nn.LayerList([nn.LayerNorm(size) for _ in range(3)])
        self.type_embed = _embedding(3, size, 0.02)
        self.span_embed = _embedding(2, size, 0.02)
        blocks = [DecoderLayer(size, heads, ffn, dropout) for _ in range(layers)]
        self.layers = nn.LayerList(blocks)
        self.final_norm = nn.LayerNorm(size)
        if use_copy:
            self.copy_q, self.copy_k = (_linear(size, size, bias=False) for _ in range(2))
            self.copy_gate = _linear(3 * size, 1)

    # memory

    def memory(
        self, *, question: paddle.Tensor, question_mask: paddle.Tensor, frames: paddle.Tensor,
        frame_mask: paddle.Tensor, seen: paddle.Tensor, in_span: paddle.Tensor,
        pieces: paddle.Tensor | None = None, pieces_mask: paddle.Tensor | None = None,
        piece: paddle.Tensor | None = None,
    ) -> Memory:  # fmt: skip
        """What the encoder found, as one sequence.

        Args:
            question: (N, Lq, D), mask (N, Lq).
            frames: (N, Li, D), mask (N, Li) of those that exist.
            seen: (N, Li) those that exist and have something to attend: others are about -1e10.
            in_span: (N, Li) int64, 1 in the moment of the answer.
            pieces: (R, Ls, D) encoded subtitles, mask (R, Ls), and ``piece`` (N, Li) int64, the
                row of each frame (any row for padding); needed with ``use_sub_memory`` only.
        """
        n, length, size = frames.shape
        kind = self.type_embed.weight
        place = paddle.to_tensor(sinusoids(length, size)) + self.span_embed(in_span)
        frames = paddle.where(seen.unsqueeze(-1) > 0, frames, paddle.zeros_like(frames))
        tokens = [
            kernels.layer_norm(question, self.mem_norm[0]) + kind[0],
            kernels.layer_norm(frames, self.mem_norm[1]) + (place + kind[1]),
        ]
        mask = [question_mask, frame_mask]
        if self.use_sub_memory:
            normed, rows = kernels.layer_norm(pieces, self.mem_norm[2]), piece.reshape([-1])
            words = paddle.gather(normed, rows).reshape([n, length, -1, size])
            place = (place + kind[2]).unsqueeze(2)  # repeated by a product, as is quickest on CPU
            place = paddle.matmul(paddle.ones([words.shape[2], 1]), place)
            tokens.append((words + place).reshape([n, -1, size]))
            words_mask = paddle.gather(pieces_mask, rows).reshape([n, length, -1])
            mask.append((words_mask * frame_mask.unsqueeze(-1)).reshape([n, -1]))
        mask = (paddle.concat(mask, 1) > 0).astype("float32")
        return Memory(paddle.concat(tokens, 1), mask, question.shape[1], length)

    def source(
        self, memory: Memory, copy_ids: paddle.Tensor | None = None, copy_size: int = 0
    ) -> Source:
        """Keys and values of a memory.

        Args:
            copy_ids: (N, Lq + Li * Ls) int64 ids of question and subtitle words, (N, Lq) without
                ``use_sub_memory``; words that the vocabulary lacks are numbered from V on. Needed
                with ``use_copy`` only.
            copy_size: of the vocabulary with those; where an id is larger, that counts.
        """
        shown = memory.mask.numpy() > 0
        columns = np.argsort(~shown, 1, kind="stable")[:, : shown.sum(1).max()]  # (N, L)
        shown = np.take_along_axis(shown, columns, 1)
        tokens = _take(memory.tokens, columns)
        pairs = [layer.cross_attn.project(tokens) for layer in self.layers]
        copy = None
        if self.use_copy:
            asked, said = columns < memory.words, columns >= memory.words + memory.frames
            words = asked | said
            places = np.where(words, columns - memory.frames * said, 0)
            ids = copy_ids.numpy()
            extended = max(self.vocab_size, copy_size, int(ids.max()) + 1)
            ids = paddle.to_tensor(np.take_along_axis(ids, places, 1))
            bias = _bias(words & shown).unsqueeze(1)
            copy = Copy(tokens, self.copy_k(tokens), bias, ids, extended)
        return Source(*map(list, zip(*pairs, strict=True)), _bias(shown).unsqueeze([1, 2]), copy)

    # answers

    def forward(self, ids: paddle.Tensor, source: Source) -> paddle.Tensor:
        """Log-probabilities of the token after each one.

        Args:
            ids: (N, T), or (N, K, T) for K answers to each question; the first token is BOS.

        Returns:
            (N, T, V_ext) or (N, K, T, V_ext); V_ext is V without ``use_copy``.
        """
        answers = ids.reshape([ids.shape[0], -1, ids.shape[-1]])
        logp, _ = self._run(answers, source, None)
        return logp.reshape([*ids.shape, -1])

    def steps(self, source: Source) -> Steps:
        """The ``step`` of a search, with what was computed for earlier tokens kept."""
        return Steps(self, source)

    def _run(
        self, ids: paddle.Tensor, source: Source, past: list | None
    ) -> tuple[paddle.Tensor, list]:
        """(N, K, T) tokens after those of ``past`` -> (N, K * T, V_ext), the new past."""
        n, _, length = ids.shape
        done = 0 if past is None else past[0][0].shape[2]
        known = paddle.where(ids < self.vocab_size, ids, paddle.full_like(ids, UNK))
        places = paddle.to_tensor(sinusoids(done + length, self.size)[done:])
        x = self.embed(known).reshape([-1, length, self.size]) * math.sqrt(self.size) + places
        x = start = kernels.dropout(x, self.dropout, self.training)
        later = np.triu(np.full((length, done + length), _LOW, np.float32), done + 1)
        bias, present = paddle.to_tensor(later), []
        for i, layer in enumerate(self.layers):
            memory = (source.keys[i], source.values[i], source.bias)
            x, kept = layer(x, memory, past and past[i], bias)
            present.append(kept)
        h = kernels.layer_norm(x, self.final_norm)
        h, start = (y.reshape([n, -1, self.size]) for y in (h, start))
        logits = paddle.matmul(h, self.embed.weight, transpose_y=True) + self.out_bias
        if source.copy is None:
            return F.log_softmax(logits, -1), present
        return paddle.log(self._with_copies(logits, h, start, source.copy) + _TINY), present

    def _with_copies(
        self, logits: paddle.Tensor, h: paddle.Tensor, start: paddle.Tensor, copy: Copy
    ) -> paddle.Tensor:
        """Logits (N, L, V) -> probabilities (N, L, V_ext), where repeated words add up."""
        n, length, _ = h.shape
        query = self.copy_q(h) / math.sqrt(self.size)
        scores = paddle.matmul(query, copy.keys, transpose_y=True) + copy.bias
        weights = kernels.softmax(scores)  # over the memory
        context = paddle.matmul(weights, copy.tokens)
        gate = F.sigmoid(self.copy_gate(paddle.concat([h, context, start], -1)))
        copied = (weights * (1 - gate)).transpose([0, 2, 1]).reshape([-1, length])
        rows = copy.ids + paddle.arange(n).unsqueeze(1) * copy.extended
        total = paddle.zeros([n * copy.extended, length], copied.dtype)
        total = paddle.scatter_nd_add(total, rows.reshape([-1, 1]), copied)
        total = total.reshape([n, copy.extended, length]).transpose([0, 2, 1])
        words = F.softmax(logits, -1) * gate
        others = paddle.zeros([n, length, copy.extended - self.vocab_size], words.dtype)
        return total + paddle.concat([words, others], -1)


class Steps:
    """Continues hypotheses token by token; see ``search`` for the call."""

    def __init__(self, decoder: AnswerDecoder, source: Source):
        self.decoder, self.source, self.past, self.width = decoder, source, None, 1

    @paddle.no_grad()
    def __call__(
        self, tokens: np.ndarray, samples: np.ndarray, parents: np.ndarray
    ) -> np.ndarray:
        """(n, k) tokens -> (n, k, V_ext) log-probabilities of the next ones."""
        if len(samples) < self.source.bias.shape[0]:
            self.source = self.source.select(paddle.to_tensor(samples))
        if self.past is not None:
            rows = paddle.to_tensor((samples[:, None] * self.width + parents).ravel())
            self.past = [tuple(paddle.gather(x, rows) for x in pair) for pair in self.past]
        self.width = tokens.shape[1]
        ids = paddle.to_tensor(tokens).unsqueeze(-1)
        logp, self.past = self.decoder._run(ids, self.source, self.past)
        return logp.numpy()


def token_scores(log_probs: paddle.Tensor, target: paddle.Tensor) -> paddle.Tensor:
    """Log-probabilities (..., T, V_ext) of the target tokens (..., T)."""
    return paddle.take_along_axis(log_probs, target.unsqueeze(-1), -1).squeeze(-1)


def answer_scores(
    tokens: paddle.Tensor, mask: paddle.Tensor
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Mean and sum of token log-probabilities (..., T) where the mask is 1."""
    total = (tokens * mask).sum(-1)
    return total / mask.sum(-1), total


def generation_loss(
    log_probs: paddle.Tensor, target: paddle.Tensor, mask: paddle.Tensor, smoothing: float = 0.0
) -> paddle.Tensor:
    """Sum over answers of the mean negative log-probability of their tokens.

    Args:
        log_probs: (..., T, V_ext). target, mask: (..., T).
        smoothing: share of the loss that is the mean over the vocabulary; needs V_ext = V.
    """
    scores = token_scores(log_probs, target)
    if smoothing:
        scores = (1 - smoothing) * scores + smoothing * log_probs.mean(-1)
    return -answer_scores(scores, mask)[0].sum()


def predicted_spans(scores: paddle.Tensor) -> np.ndarray:
    """Span scores (N, Li, 2) -> the most probable moments (N, 2), both ends inclusive."""
    with paddle.no_grad():
        chances = F.softmax(scores.detach(), 1).numpy()
    return top_pairs(chances[..., 0], chances[..., 1])[0][:, 0]


def span_flags(spans: np.ndarray, extra: int, length: int) -> np.ndarray:
    """Moments (N, 2), both ends inclusive, widened by ``extra`` frames -> (N, length) int64."""
    return within(widen(spans + np.array([0, 1]), extra, length), length).astype(np.int64)


def _take(x: paddle.Tensor, columns: np.ndarray) -> paddle.Tensor:
    """(N, M, D), (N, L) -> (N, L, D)."""
    n, length, size = x.shape
    rows = paddle.to_tensor((columns + np.arange(n)[:, None] * length).ravel())
    return paddle.gather(x.reshape([-1, size]), rows).reshape([n, -1, size])


def _bias(shown: np.ndarray) -> paddle.Tensor:
    return paddle.to_tensor(np.where(shown, 0, _LOW).astype(np.float32))


def _linear(size_in: int, size_out: int, bias: bool = True) -> nn.Linear:
    weight = paddle.ParamAttr(initializer=initializer.XavierUniform())
    return nn.Linear(size_in, size_out, weight_attr=weight, bias_attr=None if bias else False)


def _embedding(rows: int, size: int, std: float) -> nn.Embedding:
    weight = paddle.ParamAttr(initializer=initializer.Normal(0.0, std))
    return nn.Embedding(rows, size, weight_attr=weight)
