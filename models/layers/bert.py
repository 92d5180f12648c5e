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

LAYER_NORM_EPSILON = 1e-12
DEVIATION = 0.02  # of the initial weights


def _normal() -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, DEVIATION))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, weight_attr=_normal())


def _embedding(rows: int, size: int) -> nn.Embedding:
    return nn.Embedding(rows, size, weight_attr=_normal())  # padding has a vector like any other


def additive_mask(mask: paddle.Tensor) -> paddle.Tensor:
    """0 where mask [N, L] is 1, -10000 where it is 0: [N, 1, 1, L], to add to attention scores."""
    return ((1.0 - mask.astype("float32")) * -10000.0).unsqueeze([1, 2])


class BertEmbeddings(nn.Layer):
    """Sum of word, position and token type vectors, normalised.

    Args:
        token_types: size of that table; 0 for networks without it.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        max_position: int = 512,
        token_types: int = 2,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.word_embeddings = _embedding(vocab_size, hidden_size)
        self.position_embeddings = _embedding(max_position, hidden_size)
        self.token_type_embeddings = _embedding(token_types, hidden_size) if token_types else None
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
        x = self.word_embeddings(ids) + self.position_embeddings(positions)
        if self.token_type_embeddings is not None:
            if token_types is None:
                x = x + self.token_type_embeddings.weight[0]
            else:
                x = x + self.token_type_embeddings(token_types)
        return self.dropout(self.LayerNorm(x))


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
        self.query = _linear(hidden_size, hidden_size)
        self.key = _linear(hidden_size, hidden_size)
        self.value = _linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
        """[N, L, D] to [N, L, D]; mask: see `BertEncoder`."""
        keys, values = self._split(self.key(x)), self._split(self.value(x))
        weights = self.dropout(self.weights(self._split(self.query(x)), keys, mask))
        return (weights @ values).transpose([0, 2, 1, 3]).flatten(2)

    def _split(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, L, D] to [N, heads, L, D / heads]."""
        size = x.shape[-1] // self.num_heads
        return x.reshape([0, 0, self.num_heads, size]).transpose([0, 2, 1, 3])

    def weights(
        self, queries: paddle.Tensor, keys: paddle.Tensor, mask: paddle.Tensor | None
    ) -> paddle.Tensor:
        """Attention [N, heads, Lq, Lk], each row of sum 1, of queries and keys [N, heads, L, d]."""
        scores = paddle.matmul(queries * queries.shape[-1] ** -0.5, keys, transpose_y=True)
        return F.softmax(scores if mask is None else scores + mask)


class BertOutput(nn.Layer):
    """Projection and dropout, added to the residual, normalised: the end of both halves."""

    def __init__(self, inputs: int, hidden_size: int, dropout: float = 0.1):
        super().__init__()
        self.dense = _linear(inputs, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, LAYER_NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: paddle.Tensor, residual: paddle.Tensor) -> paddle.Tensor:
        """[N, L, inputs] and [N, L, D] to [N, L, D]."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertAttention(nn.Layer):
    """First half of a layer: `self` and `output`."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float = 0.1):
        super().__init__()
        self.self = BertSelfAttention(hidden_size, num_heads, dropout)
        self.output = BertOutput(hidden_size, hidden_size, dropout)

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
        """[N, L, D] to [N, L, D]; mask: see `BertEncoder`."""
        return self.output(self.self(x, mask), x)


class BertIntermediate(nn.Layer):
    """Widening projection with exact GELU."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.dense = _linear(hidden_size, intermediate_size)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, L, D] to [N, L, intermediate_size]."""
        return F.gelu(self.dense(x))


class BertLayer(nn.Layer):
    """Self-attention, then two projections; normalised after each."""

    def __init__(
        self, hidden_size: int, num_heads: int, intermediate_size: int, dropout: float = 0.1
    ):
        super().__init__()
        self.attention = BertAttention(hidden_size, num_heads, dropout)
        self.intermediate = BertIntermediate(hidden_size, intermediate_size)
        self.output = BertOutput(intermediate_size, hidden_size, dropout)

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
        """[N, L, D] to [N, L, D]; mask: see `BertEncoder`."""
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Layer):
    """Layers in a row; they take any vectors, not only those of `BertEmbeddings`."""

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        dropout: float = 0.1,
    ):
        super().__init__()
        sizes = (hidden_size, num_heads, intermediate_size, dropout)
        self.layer = nn.LayerList([BertLayer(*sizes) for _ in range(num_layers)])

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
        """Hidden states [N, L, D] of the last layer.

        Args:
            x: [N, L, D].
            mask: added to the attention scores; any shape that fits [N, heads, L, L], such as that
                of `additive_mask`.
        """
        for layer in self.layer:
            x = layer(x, mask)
        return x


class BertPooler(nn.Layer):
    """Vector of a sentence: tanh of a projection of the first hidden state."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.dense = _linear(hidden_size, hidden_size)

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
    `position_ids`; `gamma` and `beta` of old files become `weight` and `bias`. PyTorch stores dense
    weights [out, in], ours are [in, out]; which it is shows in the biases, and where all weights
    are square they count as published. Other names pass unchanged.
    """
    result = {}
    for name, value in state.items():
        name = name.removeprefix("module.").removeprefix("bert.")
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        if not name.startswith("cls.") and not name.endswith("position_ids"):
            result[name] = value
    dense = [n for n in result if n.endswith(".weight") and _is_dense(n, result)]
    if all(len(result[n]) == len(result[_bias(n)]) for n in dense):
        result |= {name: np.ascontiguousarray(result[name].T) for name in dense}
    return result


def _is_dense(name: str, state: Mapping[str, np.ndarray]) -> bool:
    return np.ndim(state[name]) == 2 and _bias(name) in state


def _bias(name: str) -> str:
    return name.removesuffix("weight") + "bias"
