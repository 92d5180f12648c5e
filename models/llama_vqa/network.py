# SPDX-License-Identifier: Apache-2.0
"""LLaMA's layers with adapter prompts and a learned weight of frames.

Attention is computed heads first, (H, N, L, d): so nothing is copied for the adapter, whose keys
and values all rows share.

Sources: LLaMA (arXiv:2302.13971), LLaMA-Adapter (arXiv:2303.16199), Flipped-VQA (arXiv:2310.15747).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ..layers import kernels

_FAR = -1e30  # added where a token must not look
Pair = tuple[paddle.Tensor, paddle.Tensor]  # keys and values


class Whole:
    """Makes the big layers, each whole on one device; see ``parallel`` for parts of them."""

    @staticmethod
    def column(inputs: int, outputs: int, deviation: float) -> nn.Layer:
        """A linear layer whose outputs may be split; those of a part are a part."""
        return nn.Linear(inputs, outputs, weight_attr=_normal(deviation), bias_attr=False)

    row = column  # a linear layer whose inputs may be split

    @staticmethod
    def words(inputs: int, outputs: int, deviation: float) -> nn.Layer:
        """As ``column``, but all outputs are wanted."""
        return Whole.column(inputs, outputs, deviation)

    @staticmethod
    def table(rows: int, size: int, deviation: float) -> nn.Layer:
        """Embeddings."""
        return nn.Embedding(rows, size, weight_attr=_normal(deviation))

    @staticmethod
    def heads(gate: paddle.Tensor) -> paddle.Tensor:
        """Of a number per head (1, H, 1, 1), those of the heads that are here."""
        return gate


def _normal(deviation: float) -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, deviation))


@dataclass(frozen=True)
class Places:
    """Where the tokens of a pass stand, and what they may look at.

    Attributes:
        turns: complex (1 or N, L, d / 2), rotations.
        mask: (1 or N, L, keys), to add to scores; the keys are those of earlier passes, then ours.
        frames: (1 or N, L, 1) 1 for frames that are weighted by ``gate2``, or None: no weights.
        after: (1 or N, L, 1) 1 for tokens to which these weights apply.
    """

    turns: paddle.Tensor
    mask: paddle.Tensor
    frames: paddle.Tensor | None = None
    after: paddle.Tensor | None = None


def places(
    positions: np.ndarray, size: int, frames: tuple[int, int] | None = None,
    mask: np.ndarray | None = None, weighted: np.ndarray | bool = True,
) -> Places:  # fmt: skip
    """Of tokens at ``positions`` (1 or N, L).

    Args:
        size: of a head.
        frames: first frame and first token behind the frames.
        mask: bool (1 or N, L, keys), what may be looked at; default: the token and those before.
        weighted: do the tokens behind the frames weigh them? Per row where rows differ, (N, 1).
    """
    rate = 10000.0 ** (-np.arange(0, size, 2)[: size // 2].astype(np.float32) / size)
    angles = positions[..., None].astype(np.float32) * rate.astype(np.float32)
    turns = paddle.to_tensor(np.exp(1j * angles).astype(np.complex64))
    if mask is None:
        mask = positions[:, :, None] >= positions[:, None, :]
    shown = paddle.to_tensor(np.where(mask, 0, _FAR).astype(np.float32))
    if frames is None:
        return Places(turns, shown)
    inside = (positions >= frames[0]) & (positions < frames[1])
    after = (positions >= frames[1]) & weighted
    flags = (paddle.to_tensor(x[..., None].astype(np.float32)) for x in (inside, after))
    return Places(turns, shown, *flags)


class RMSNorm(nn.Layer):
    """x / sqrt(mean(x^2) + eps) in float32, then times a weight in the type of x."""

    def __init__(self, size: int, epsilon: float, dtype: str):
        super().__init__()
        one = nn.initializer.Constant(1.0)
        self.weight = self.create_parameter([size], dtype=dtype, default_initializer=one)
        self.epsilon = epsilon

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """(..., D) -> same."""
        wide, size = as_type(x, "float32"), x.shape[-1]
        squares = paddle.matmul(wide * wide, paddle.full([size, 1], 1 / size))
        return as_type(wide * paddle.rsqrt(squares + self.epsilon), x.dtype) * self.weight


def as_type(x: paddle.Tensor, dtype: Any) -> paddle.Tensor:
    """``x`` in another type; itself where it has this type."""
    same = x.dtype == (getattr(paddle, dtype) if isinstance(dtype, str) else dtype)
    return x if same else x.astype(dtype)


class Attention(nn.Layer):
    """Causal attention, beside it attention to the adapter's prompts.

    Args:
        adapted: does this layer use prompts and gates?
        bias: ``gate2`` begins as its negative.
    """

    def __init__(self, dim: int, heads: int, bias: float, adapted: bool, depth: int, make: Any):
        super().__init__()
        self.head, self.make = dim // heads, make
        inner, outer = dim**-0.5, (2 * depth * dim) ** -0.5
        self.wq, self.wk, self.wv = (make.column(dim, dim, inner) for _ in range(3))
        self.wo = make.row(dim, dim, outer)
        for name, value in (("gate1", 0.0), ("gate2", -bias)):
            gate = self.create_parameter(
                [1, heads, 1, 1], dtype="float32",
                default_initializer=nn.initializer.Constant(value),
            )  # fmt: skip
            gate.stop_gradient = not adapted
            self.add_parameter(name, gate)

    def _split(self, x: paddle.Tensor) -> paddle.Tensor:
        """(N, L, D) -> (H, N, L, d)."""
        return x.reshape([*x.shape[:2], -1, self.head]).transpose([2, 0, 1, 3])

    def adapter(self, prompts: paddle.Tensor) -> Pair:
        """Keys and values (H, A, d) of prompts (A, D)."""
        rows = prompts.unsqueeze(0)
        keys, values = (self._split(w(rows)).squeeze(1) for w in (self.wk, self.wv))
        return keys, values

    def project(self, x: paddle.Tensor, at: Places) -> tuple[paddle.Tensor, Pair]:
        """(N, L, D) -> queries, keys and values (H, N, L, d).

        Where frames are weighted, keys have one more number: ``gate2`` for frames, else 0.
        """
        q, k, v = (self._split(w(x)) for w in (self.wq, self.wk, self.wv))
        q = turned(q, at.turns * self.head**-0.5)
        k = turned(k, at.turns)
        if at.frames is not None:
            gate = as_type(self.make.heads(self.gate2).reshape([-1, 1, 1, 1]), x.dtype)
            more = (gate * as_type(at.frames, x.dtype)).expand([*k.shape[:-1], 1])
            k = paddle.concat([k, more], -1)
        return q, (k, v)

    def text_weights(self, q: paddle.Tensor, k: paddle.Tensor, at: Places) -> paddle.Tensor:
        """Attention (H, N, L, keys) to the text and the frames."""
        if at.after is not None:
            more = as_type(at.after, q.dtype).unsqueeze(0).expand([*q.shape[:-1], 1])
            q = paddle.concat([q, more], -1)
        scores = paddle.matmul(q, k, transpose_y=True)
        return as_type(kernels.softmax(as_type(scores, "float32") + at.mask), q.dtype)

    def adapter_weights(self, q: paddle.Tensor, keys: paddle.Tensor) -> paddle.Tensor:
        """Attention (H, N * L, A) to the prompts, times tanh(gate1)."""
        scores = paddle.matmul(q.flatten(1, 2), keys, transpose_y=True)
        gate = paddle.tanh(self.make.heads(self.gate1)).reshape([-1, 1, 1])
        return as_type(kernels.softmax(as_type(scores, "float32")) * gate, q.dtype)

    def forward(
        self, x: paddle.Tensor, at: Places, adapter: Pair | None, past: Pair | None = None
    ) -> tuple[paddle.Tensor, Pair]:
        """(N, L, D) -> same, and keys and values of all tokens so far."""
        rows, length = x.shape[:2]
        q, pair = self.project(x, at)
        if past is not None:
            pair = tuple(paddle.concat(both, 2) for both in zip(past, pair, strict=True))
        out = paddle.matmul(self.text_weights(q, pair[0], at), pair[1])
        if adapter is not None:
            more = paddle.matmul(self.adapter_weights(q, adapter[0]), adapter[1])
            out = out + more.reshape(out.shape)
        return self.wo(out.transpose([1, 2, 0, 3]).reshape([rows, length, -1])), pair


def turned(x: paddle.Tensor, turns: paddle.Tensor) -> paddle.Tensor:
    """Rotate consecutive pairs of numbers of (H, N, L, d) in float32."""
    pairs = as_type(x, "float32").reshape([*x.shape[:-1], -1, 2])
    rotated = paddle.as_real(paddle.as_complex(pairs) * turns)
    return as_type(rotated.reshape(x.shape), x.dtype)


class FeedForward(nn.Layer):
    """w2(silu(w1 x) * w3 x)."""

    def __init__(self, dim: int, hidden: int, depth: int, make: Any):
        super().__init__()
        self.w1 = make.column(dim, hidden, dim**-0.5)
        self.w2 = make.row(hidden, dim, (2 * depth * hidden) ** -0.5)
        self.w3 = make.column(dim, hidden, dim**-0.5)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """(N, L, D) -> same."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def hidden_size(dim: int, multiple_of: int) -> int:
    """Of the feed-forward part."""
    return multiple_of * math.ceil(int(8 * dim / 3) / multiple_of)


class Block(nn.Layer):
    """One layer of LLaMA."""

    def __init__(
        self, dim: int, heads: int, multiple_of: int, epsilon: float, bias: float, adapted: bool,
        depth: int, dtype: str, make: Any,
    ):  # fmt: skip
        super().__init__()
        self.attention = Attention(dim, heads, bias, adapted, depth, make)
        self.feed_forward = FeedForward(dim, hidden_size(dim, multiple_of), depth, make)
        self.attention_norm, self.ffn_norm = (RMSNorm(dim, epsilon, dtype) for _ in range(2))

    def forward(
        self, x: paddle.Tensor, at: Places, adapter: Pair | None = None, past: Pair | None = None
    ) -> tuple[paddle.Tensor, Pair]:
        """(N, L, D) -> same, and keys and values of all tokens so far."""
        attended, pair = self.attention(self.attention_norm(x), at, adapter, past)
        x = x + attended
        return x + self.feed_forward(self.ffn_norm(x)), pair
