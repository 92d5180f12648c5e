# SPDX-License-Identifier: Apache-2.0
"""MCG's words: one BERT for texts alone and beside video tokens, another that writes answers.

Layers, names and masks are those of BLIP (Li et al., arXiv:2201.12086). No token types.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn

from ..layers.bert import (
    BertAttention,
    BertEmbeddings,
    BertEncoder,
    BertLayer,
    BertPredictions,
    additive_mask,
)
from ..layers.initialise import uniform_fan_in

_LOW = -10000.0
_MARKS = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"}
_CONTRACTIONS = [
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
]  # fmt: skip
Pair = tuple[paddle.Tensor, paddle.Tensor]  # keys and values (N, heads, L, D / heads)


class TextEncoder(nn.Layer):
    """Texts, and texts beside video tokens, by the same layers.

    Args:
        words_head: with the head that predicts masked words.
    """

    def __init__(
        self, *, vocab_size: int, hidden_size: int, num_layers: int, num_heads: int,
        intermediate_size: int, max_position: int, dropout: float, words_head: bool,
    ):  # fmt: skip
        super().__init__()
        self.embeddings = BertEmbeddings(
            vocab_size, hidden_size, max_position, 0, dropout, fixed_padding=True
        )
        self.encoder = BertEncoder(num_layers, hidden_size, num_heads, intermediate_size, dropout)
        if words_head:
            self.cls = nn.Sequential(("predictions", UntiedPredictions(hidden_size, vocab_size)))

    def forward(
        self, ids: paddle.Tensor, mask: paddle.Tensor, positions: paddle.Tensor | None = None
    ) -> paddle.Tensor:
        """Texts (R, L) with their mask -> (R, L, D); positions are 0 ... L-1 by default."""
        return self.encoder(self.embeddings(ids, positions=positions), additive_mask(mask))

    def attend(
        self, ids: paddle.Tensor, mask: paddle.Tensor, positions: paddle.Tensor | None = None
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """As ``forward``, and the last layer's attention from the first word to all (R, L).

        The attention is the mean over heads and takes no part in gradients.
        """
        x, bias = self.embeddings(ids, positions=positions), additive_mask(mask)
        *before, last = self.encoder.layer
        wide = self.encoder.repeated(bias, x)
        for layer in before:
            x = layer(x, wide)
        with paddle.no_grad():
            weights = last.attention.self.probabilities(x, bias, 1)
        return last(x, wide), weights.mean(1).squeeze(1)

    def fuse(
        self, text: paddle.Tensor, mask: paddle.Tensor, video: paddle.Tensor,
        first: int | None = None,
    ) -> paddle.Tensor:  # fmt: skip
        """Encoded texts (R, L, D) and video tokens (R, V, D) -> (R, L + V, D), or the ``first``."""
        seen = paddle.ones(video.shape[:2])
        mask = paddle.concat([mask.astype("float32"), seen], 1)
        return self.encoder(paddle.concat([text, video], 1), additive_mask(mask), first)


class UntiedPredictions(BertPredictions):
    """Scores of all words, whose vectors are its own."""

    def __init__(self, hidden_size: int, vocab_size: int):
        super().__init__(hidden_size, vocab_size)
        attr = uniform_fan_in(hidden_size)
        self.transform.dense = nn.Linear(
            hidden_size, hidden_size, weight_attr=attr, bias_attr=uniform_fan_in(hidden_size)
        )
        self.decoder = nn.Embedding(vocab_size, hidden_size, weight_attr=attr)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """(..., D) -> (..., vocabulary)."""
        return super().forward(x, self.decoder.weight)


class DecoderLayer(BertLayer):
    """Attention to the answer so far, attention to a memory, two projections."""

    def __init__(
        self, hidden_size: int, num_heads: int, intermediate_size: int, dropout: float = 0.1
    ):
        super().__init__(hidden_size, num_heads, intermediate_size, dropout)
        self.crossattention = BertAttention(hidden_size, num_heads, dropout)

    def forward(
        self, x: paddle.Tensor, memory: Pair, past: Pair | None, mask: paddle.Tensor | None
    ) -> tuple[paddle.Tensor, Pair]:
        """Tokens of answers -> the same, and the keys and values of all of them so far.

        Args:
            x: (N * K, T, D), K answers of each of N samples.
            memory: of the N samples, all of it visible.
            past: of the t tokens before (N * K).
            mask: added to scores (N * K, heads, T, t + T).
        """
        present = self.attention.self.project(x)
        if past is not None:
            present = tuple(paddle.concat(pair, 2) for pair in zip(past, present, strict=True))
        x = self.attention.attend(x, *present, mask)
        rows = x.reshape([memory[0].shape[0], -1, x.shape[-1]])
        x = self.crossattention.attend(rows, *memory).reshape(x.shape)
        return self.output(self.intermediate(x), x), present


class _Body(nn.Layer):
    """What published names call ``bert``."""

    def __init__(
        self, vocab_size: int, hidden_size: int, max_position: int, dropout: float, *sizes: int
    ):
        super().__init__()
        self.embeddings = BertEmbeddings(
            vocab_size, hidden_size, max_position, 0, dropout, fixed_padding=True
        )
        num_layers, num_heads, intermediate_size = sizes
        self.encoder = BertEncoder(
            num_layers, hidden_size, num_heads, intermediate_size, dropout, DecoderLayer
        )


class AnswerDecoder(nn.Layer):
    """Answers, token by token, from the encoded question and video."""

    def __init__(
        self, *, vocab_size: int, hidden_size: int, num_layers: int, num_heads: int,
        intermediate_size: int, max_position: int, dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.bert = _Body(vocab_size, hidden_size, max_position, dropout, num_layers, num_heads,
                          intermediate_size)  # fmt: skip
        self.cls = nn.Sequential(("predictions", BertPredictions(hidden_size, vocab_size)))

    def memory(self, fused: paddle.Tensor) -> list[Pair]:
        """What every layer reads of (N, S, D); answers and hypotheses of a sample share it."""
        return [layer.crossattention.self.project(fused) for layer in self.bert.encoder.layer]

    def forward(
        self, ids: paddle.Tensor, memory: list[Pair], past: list[Pair] | None = None
    ) -> tuple[paddle.Tensor, list[Pair]]:
        """Hidden states, from which ``words`` predicts the next tokens.

        Args:
            ids: (N, K, T), K answers of each of N samples; 0 is padding. With ``past`` T is 1, and
                0 a word like any other.
            past: of the tokens before, as this function returned it.

        Returns:
            (N, K, T, D) and the new past.
        """
        n, answers, length = ids.shape
        done = 0 if past is None else past[0][0].shape[2]
        ids = ids.reshape([-1, length])
        x = self.bert.embeddings(ids, positions=paddle.arange(done, done + length))
        mask = _looking_back(ids) if past is None else None
        present = []
        for i, layer in enumerate(self.bert.encoder.layer):
            x, kept = layer(x, memory[i], past and past[i], mask)
            present.append(kept)
        return x.reshape([n, answers, length, -1]), present

    def words(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """Hidden states (..., D) -> scores (..., vocabulary) of the next tokens."""
        return self.cls.predictions(hidden, self.bert.embeddings.word_embeddings.weight)

    def steps(self, fused: paddle.Tensor) -> Steps:
        """The ``step`` of a search for answers from (N, S, D)."""
        return Steps(self, fused)


class Steps:
    """Continues hypotheses token by token; see ``layers.beams`` for the call.

    The memory of a sample is projected once. When its search is over it stays, at the price of
    some idle rows, until half of all rows are: copying it costs as much as a step.
    """

    def __init__(self, decoder: AnswerDecoder, fused: paddle.Tensor):
        self.decoder, self.memory = decoder, decoder.memory(fused)
        self.rows = np.arange(fused.shape[0])  # where the samples of the last call are
        self.past: list[Pair] | None = None
        self.width = 1

    @paddle.no_grad()
    def __call__(
        self, tokens: np.ndarray, samples: np.ndarray, parents: np.ndarray
    ) -> np.ndarray:
        """(n, k) tokens -> (n, k, V) log-probabilities of the next ones."""
        held, width = self.memory[0][0].shape[0], tokens.shape[1]
        before = self.rows[samples]
        if 2 * len(samples) <= held:
            self.memory = _gather(self.memory, before)
            held, self.rows = len(samples), np.arange(len(samples))
        else:
            self.rows = before
        source = np.zeros((held, width), np.int64)
        source[self.rows] = before[:, None] * self.width + parents
        ids = np.zeros((held, width), np.int64)
        ids[self.rows] = tokens
        if self.past is not None:
            self.past = _gather(self.past, source.ravel())
        self.width = width
        hidden, self.past = self.decoder(
            paddle.to_tensor(ids).unsqueeze(-1), self.memory, self.past
        )
        hidden = paddle.gather(hidden.squeeze(2), paddle.to_tensor(self.rows))
        return _log_softmax(self.decoder.words(hidden).numpy())


def _looking_back(ids: paddle.Tensor) -> paddle.Tensor:
    """To add to attention scores (R, heads, T, T): later tokens and padding, 0, are hidden."""
    later = paddle.to_tensor(np.triu(np.ones((ids.shape[1],) * 2, bool), 1))
    return ((ids == 0).unsqueeze([1, 2]) | later).astype("float32") * _LOW


def _gather(pairs: list[Pair], rows: np.ndarray) -> list[Pair]:
    index = paddle.to_tensor(rows)
    return [tuple(paddle.gather(x, index) for x in pair) for pair in pairs]


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis; for a large vocabulary 1000 times as fast as Paddle's on CPU."""
    scores = scores - scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def read_pieces(ids: Sequence[int], tokens: Sequence[str]) -> str:
    """The text of word pieces, as the transformers library writes it."""
    pieces = [tokens[i] for i in ids if i < len(tokens) and tokens[i] not in _MARKS]
    text = " ".join(pieces).replace(" ##", "").strip()
    for found, wanted in _CONTRACTIONS:
        text = text.replace(found, wanted)
    return text


def smoothed_loss(
    scores: paddle.Tensor, targets: paddle.Tensor, smoothing: float = 0.0
) -> paddle.Tensor:
    """Cross-entropy (M,) of scores (M, V) with targets (M,).

    Args:
        smoothing: share of the target's probability that is spread over the whole vocabulary.
    """
    right = paddle.take_along_axis(scores, targets.unsqueeze(1), 1).squeeze(1)
    loss = paddle.logsumexp(scores, 1) - right  # Paddle's cross-entropy ends at 64 on CPU
    if not smoothing:
        return loss
    # -log p of a word is that of the target plus the difference of their scores
    size = scores.shape[1]
    mean = paddle.matmul(scores, paddle.full([size, 1], 1 / size)).squeeze(1)
    return loss + smoothing * (right - mean)
