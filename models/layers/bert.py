# SPDX-License-Identifier: Apache-2.0
"""BERT (Devlin et al., arXiv:1810.04805) in parts that other networks put together.

Parameters are named as in HuggingFace's files without the prefix `bert.`; see `convert`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from . import kernels

LAYER_NORM_EPSILON = 1e-12
DEVIATION = 0.02  # of the initial weights


def _normal() -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, DEVIATION))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A dense layer with BERT's initial values."""
    return nn.Linear(inputs, outputs, weight_attr=_normal())


def embedding(rows: int, size: int) -> nn.Embedding:
    """A table with BERT's initial values; padding has a vector like any other."""
    return nn.Embedding(rows, size, weight_attr=_normal())


def spread(layer: nn.Layer, deviation: float) -> None:
    """Give freshly drawn weights another standard deviation, as small networks need.

    Nothing is done to parameters without values, of a network that is only outlined.
    """
    with paddle.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim == 2 and parameter._is_initialized():
                parameter.set_value(parameter * (deviation / DEVIATION))


def additive_mask(mask: paddle.Tensor) -> paddle.Tensor:
    """0 where mask [N, L] is 1, -10000 where it is 0: [N, 1, 1, L], to add to attention scores."""
    return ((1.0 - mask.astype("float32")) * -10000.0).unsqueeze([1, 2])


def dense(x: paddle.Tensor, layer: nn.Linear) -> paddle.Tensor:
    """``layer(x)``; where its bias learns, by the form whose gradient is fast on CPU."""
    if layer.training and layer.bias is not None and not layer.bias.stop_gradient:
        return kernels.linear(x, layer.weight, layer.bias)
    return layer(x)


def gelu(x: paddle.Tensor, training: bool) -> paddle.Tensor:
    """Exact GELU; in training by the form whose gradient is fast on CPU."""
    return kernels.gelu(x) if training else F.gelu(x)


def normalise(x: paddle.Tensor, norm: nn.LayerNorm) -> paddle.Tensor:
    """``norm(x)``; in training by the form whose gradient is fast on CPU."""
    return kernels.layer_norm(x, norm) if norm.training else norm(x)


def drop(x: paddle.Tensor, dropout: nn.Dropout) -> paddle.Tensor:
    """``dropout(x)`` by the form that is fast on CPU."""
    return kernels.dropout(x, dropout.p, dropout.training)


def leading(x: paddle.Tensor, first: int | None) -> paddle.Tensor:
    """The first positions of [N, L, D]; all without a number."""
    return x if first is None else x[:, :first]


class BertEmbeddings(nn.Layer):
    """Sum of word, position and token type vectors, normalised.

    Args:
        token_types: size of that table; 0 for networks without it.
        fixed_padding: reading the vector of word 0 gives it no gradient.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        max_position: int = 512,
        token_types: int = 2,
        dropout: float = 0.1,
        fixed_padding: bool = False,
    ):
        super().__init__()
        self.fixed_padding = fixed_padding
        self.word_embeddings = embedding(vocab_size, hidden_size)
        self.position_embeddings = embedding(max_position, hidden_size)
        self.token_type_embeddings = embedding(token_types, hidden_size) if token_types else None
        self.LayerNorm = nn.LayerNorm(hidden_size, LAYER_NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        ids: paddle.Tensor,
        token_types: paddle.Tensor | None = None,
        positions: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        """Vectors [N, L, D] of ids [N, L]; token types are 0 and positions 0 ... L-1 by default."""
        if positions is None:
            positions = paddle.arange(ids.shape[1])
        words = self.word_embeddings(ids)
        if self.fixed_padding:
            words = paddle.where((ids == 0).unsqueeze(-1), words.detach(), words)
        x = words + self.position_embeddings(positions)
        if self.token_type_embeddings is not None:
            if token_types is None:
                x = x + self.token_type_embeddings.weight[0]
            else:
                x = x + self.token_type_embeddings(token_types)
        return drop(normalise(x, self.LayerNorm), self.dropout)


class BertSelfAttention(nn.Layer):
    """Multi-head scaled dot product attention without its output projection."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float = 0.1):
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(
                f"bert: expected hidden_size to be a multiple of num_heads, found {hidden_size} "
                f"and {num_heads}"
            )
        self.num_heads = num_heads
        self.query = linear(hidden_size, hidden_size)
        self.key = linear(hidden_size, hidden_size)
        self.value = linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: paddle.Tensor, mask: paddle.Tensor | None = None, first: int | None = None
    ) -> paddle.Tensor:
        """[N, L, D] to [N, first or L, D]; see `BertEncoder`."""
        return self.attend(leading(x, first), *self.project(x), mask)

    def project(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Keys and values [N, heads, L, D / heads] of [N, L, D]."""
        return self._split(dense(x, self.key)), self._split(dense(x, self.value))

    def attend(
        self,
        x: paddle.Tensor,
        keys: paddle.Tensor,
        values: paddle.Tensor,
        mask: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        """[N, Lq, D] to the same shape by keys and values of any other vectors."""
        weights = drop(self.weights(self._split(dense(x, self.query)), keys, mask), self.dropout)
        return (weights @ values).transpose([0, 2, 1, 3]).flatten(2)

    def _split(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, L, D] to [N, heads, L, D / heads]."""
        size = x.shape[-1] // self.num_heads
        return x.reshape([0, 0, self.num_heads, size]).transpose([0, 2, 1, 3])

    def probabilities(
        self, x: paddle.Tensor, mask: paddle.Tensor | None = None, first: int | None = None
    ) -> paddle.Tensor:
        """Attention [N, heads, first or L, L] among [N, L, D], before dropout."""
        queries, keys = dense(leading(x, first), self.query), dense(x, self.key)
        return self.weights(self._split(queries), self._split(keys), mask)

    def weights(
        self, queries: paddle.Tensor, keys: paddle.Tensor, mask: paddle.Tensor | None
    ) -> paddle.Tensor:
        """Attention [N, heads, Lq, Lk], each row of sum 1, of queries and keys [N, heads, L, d]."""
        scores = paddle.matmul(queries * queries.shape[-1] ** -0.5, keys, transpose_y=True)
        return kernels.softmax(scores if mask is None else scores + mask)


class BertOutput(nn.Layer):
    """Projection and dropout, added to the residual, normalised: the end of both halves."""

    def __init__(self, inputs: int, hidden_size: int, dropout: float = 0.1):
        super().__init__()
        self.dense = linear(inputs, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, LAYER_NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: paddle.Tensor, residual: paddle.Tensor) -> paddle.Tensor:
        """[N, L, inputs] and [N, L, D] to [N, L, D]."""
        return normalise(drop(dense(x, self.dense), self.dropout) + residual, self.LayerNorm)


class BertAttention(nn.Layer):
    """First half of a layer: `self` and `output`."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float = 0.1):
        super().__init__()
        self.self = BertSelfAttention(hidden_size, num_heads, dropout)
        self.output = BertOutput(hidden_size, hidden_size, dropout)

    def forward(
        self, x: paddle.Tensor, mask: paddle.Tensor | None = None, first: int | None = None
    ) -> paddle.Tensor:
        """[N, L, D] to [N, first or L, D]; see `BertEncoder`."""
        return self.output(self.self(x, mask, first), leading(x, first))

    def attend(
        self,
        x: paddle.Tensor,
        keys: paddle.Tensor,
        values: paddle.Tensor,
        mask: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        """[N, Lq, D] to the same shape; see `BertSelfAttention.project`."""
        return self.output(self.self.attend(x, keys, values, mask), x)


class BertIntermediate(nn.Layer):
    """Widening projection with exact GELU."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.dense = linear(hidden_size, intermediate_size)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, L, D] to [N, L, intermediate_size]."""
        return gelu(dense(x, self.dense), self.training)


class BertLayer(nn.Layer):
    """Self-attention, then two projections; normalised after each."""

    def __init__(
        self, hidden_size: int, num_heads: int, intermediate_size: int, dropout: float = 0.1
    ):
        super().__init__()
        self.attention = BertAttention(hidden_size, num_heads, dropout)
        self.intermediate = BertIntermediate(hidden_size, intermediate_size)
        self.output = BertOutput(intermediate_size, hidden_size, dropout)

    def forward(
        self, x: paddle.Tensor, mask: paddle.Tensor | None = None, first: int | None = None
    ) -> paddle.Tensor:
        """[N, L, D] to [N, first or L, D]; see `BertEncoder`."""
        x = self.attention(x, mask, first)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Layer):
    """Layers in a row; they take any vectors, not only those of `BertEmbeddings`.

    Args:
        kind: of the layers; what `forward` does is right for `BertLayer` only.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        dropout: float = 0.1,
        kind: type[BertLayer] = BertLayer,
    ):
        super().__init__()
        sizes = (hidden_size, num_heads, intermediate_size, dropout)
        self.layer = nn.LayerList([kind(*sizes) for _ in range(num_layers)])

    def forward(
        self, x: paddle.Tensor, mask: paddle.Tensor | None = None, first: int | None = None
    ) -> paddle.Tensor:
        """Hidden states [N, first or L, D] of the last layer.

        Args:
            x: [N, L, D].
            mask: added to the attention scores; any shape that fits [N, heads, L, L], such as that
                of `additive_mask`.
            first: how many positions are wanted; the last layer computes no others.
        """
        *before, last = self.layer
        mask = self.repeated(mask, x)
        for layer in before:
            x = layer(x, mask)
        if mask is not None and first is not None:
            mask = mask[..., :first, :]
        return last(x, mask, first)

    def repeated(self, mask: paddle.Tensor | None, x: paddle.Tensor) -> paddle.Tensor | None:
        """A mask of keys repeated for all queries of [N, L, D].

        On CPU it takes ten times as long to add it as it is.
        """
        if mask is None or mask.shape[-2] != 1 or not paddle.get_device().startswith("cpu"):
            return mask
        heads, length = self.layer[0].attention.self.num_heads, x.shape[1]
        return paddle.expand(mask, [x.shape[0], heads, length, mask.shape[-1]])


class BertTransform(nn.Layer):
    """What masked language models do to hidden states before they compare them with words."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.dense = linear(hidden_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, LAYER_NORM_EPSILON)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[..., D] to the same shape."""
        return normalise(gelu(dense(x, self.dense), self.training), self.LayerNorm)


class BertPredictions(nn.Layer):
    """Scores of all words; their vectors are the caller's."""

    def __init__(self, hidden_size: int, vocab_size: int):
        super().__init__()
        self.transform = BertTransform(hidden_size)
        self.bias = self.create_parameter([vocab_size], is_bias=True)

    def forward(self, x: paddle.Tensor, words: paddle.Tensor) -> paddle.Tensor:
        """Hidden states [..., D] and words [V, D] to [..., V]."""
        return paddle.matmul(self.transform(x), words, transpose_y=True) + self.bias


class BertPooler(nn.Layer):
    """Vector of a sentence: tanh of a projection of the first hidden state."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.dense = linear(hidden_size, hidden_size)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, L, D] to [N, D]."""
        return F.tanh(self.dense(x[:, 0]))


class BertModel(nn.Layer):
    """Embeddings, encoder and, unless turned off, pooler; defaults are those of BERT-base."""

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        intermediate_size: int = 3072,
        max_position: int = 512,
        token_types: int = 2,
        dropout: float = 0.1,
        pooler: bool = True,
    ):
        super().__init__()
        self.embeddings = BertEmbeddings(
            vocab_size, hidden_size, max_position, token_types, dropout
        )
        self.encoder = BertEncoder(num_layers, hidden_size, num_heads, intermediate_size, dropout)
        self.pooler = BertPooler(hidden_size) if pooler else None

    def forward(
        self,
        ids: paddle.Tensor,
        mask: paddle.Tensor | None = None,
        token_types: paddle.Tensor | None = None,
        positions: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        """Hidden states [N, L, D] of the last layer; `pooler` makes sentence vectors of them.

        Args:
            ids: int64 [N, L].
            mask: [N, L], 1 on tokens and 0 on padding; all are tokens by default.
            token_types, positions: int64 [N, L] or of a shape that fits; see `BertEmbeddings`.
        """
        x = self.embeddings(ids, token_types, positions)
        return self.encoder(x, None if mask is None else additive_mask(mask))


def convert(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Own names and layout from published ones.

    Taken off are the prefixes `module.` and `bert.`; dropped are heads (`cls.*`) and
    `position_ids`; `gamma` and `beta` of old files become `weight` and `bias`; see `own_layout`.
    Other names pass unchanged.
    """
    result = {}
    for name, value in state.items():
        name = modern_name(name.removeprefix("module.").removeprefix("bert."))
        if not name.startswith("cls.") and not name.endswith("position_ids"):
            result[name] = value
    return own_layout(result)


def modern_name(name: str) -> str:
    """`weight` and `bias` for the `gamma` and `beta` of old files."""
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))


def own_layout(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state with dense weights [in, out].

    PyTorch stores them [out, in]; which it is shows in the biases, and where all weights are square
    they count as PyTorch's.
    """
    dense = [n for n in state if n.endswith(".weight") and _is_dense(n, state)]
    if any(len(state[n]) != len(state[_bias(n)]) for n in dense):
        return dict(state)
    return dict(state) | {name: np.ascontiguousarray(state[name].T) for name in dense}


def _is_dense(name: str, state: Mapping[str, np.ndarray]) -> bool:
    return np.ndim(state[name]) == 2 and _bias(name) in state


def _bias(name: str) -> str:
    return name.removesuffix("weight") + "bias"
