# SPDX-License-Identifier: Apache-2.0
"""ClipBERT's parts: frames to grid cells, cells beside words in one BERT, heads.

Parameters carry the names of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from ..layers.bert import (
    LAYER_NORM_EPSILON,
    BertModel,
    BertPredictions,
    additive_mask,
    drop,
    embedding,
    linear,
    normalise,
)
from ..layers.initialise import uniform_fan_in
from ..layers.resnet import ResNet

_FROZEN = 2  # stem and res2


class GridCNN(nn.Layer):
    """Frames to grid cells (Jiang et al., arXiv:2001.03615).

    Args:
        hidden_size: length D of a cell's vector.
        blocks, width, stem_width, outputs: see ``ResNet``.
        freeze: nothing but the last convolution learns.
    """

    def __init__(
        self, hidden_size: int, blocks: Sequence[int], width: int, stem_width: int | None,
        outputs: int | None, freeze: bool,
    ):  # fmt: skip
        super().__init__()
        frozen = 1 + len(blocks) if freeze else _FROZEN
        backbone = ResNet(blocks, width, stem_width, outputs, frozen=frozen)
        self.feature = nn.Sequential(("backbone", backbone))
        weight = uniform_fan_in(9 * backbone.channels)
        self.grid_encoder = nn.Sequential(
            nn.Conv2D(backbone.channels, hidden_size, 3, padding=1, weight_attr=weight,
                      bias_attr=False)
        )  # fmt: skip

    def forward(self, frames: paddle.Tensor) -> paddle.Tensor:
        """Frames (N, 3, H, W) -> (N, h, w, D)."""
        x = self.grid_encoder(self.feature(frames))
        return F.relu(F.max_pool2d(x, 2, 2)).transpose([0, 2, 3, 1])

    def side(self, pixels: int) -> int:
        """Cells along a side of so many pixels."""
        for _ in ("stem", *self.feature.backbone.names):
            pixels = -(-pixels // 2)
        return pixels // 2

    def products(self, height: int, width: int) -> int:
        """Multiplications of the convolutions over a frame of so many pixels."""
        backbone, found = self.feature.backbone, 0
        for name in ("stem", *backbone.names):  # each, the stem's pool aside, halves both sides
            height, width = -(-height // 2), -(-width // 2)
            found += height * width * _numbers(getattr(backbone, name))
        return found + height * width * _numbers(self.grid_encoder)


class VisualEmbeddings(nn.Layer):
    """Cells with the vectors of their row, column and type, normalised; no dropout."""

    def __init__(self, hidden_size: int, rows: int, columns: int):
        super().__init__()
        self.row_position_embeddings = embedding(rows, hidden_size)
        self.col_position_embeddings = embedding(columns, hidden_size)
        self.token_type_embeddings = embedding(1, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, LAYER_NORM_EPSILON)

    def forward(self, grid: paddle.Tensor, cells: paddle.Tensor | None = None) -> paddle.Tensor:
        """Grid (N, h, w, D) -> (N, h * w, D), row by row, or only ``cells``, the given indices."""
        height, width, size = grid.shape[1:]
        rows = self.row_position_embeddings.weight[:height].unsqueeze(1)
        columns = self.col_position_embeddings.weight[:width].unsqueeze(0)
        place = (rows + columns).reshape([-1, size]) + self.token_type_embeddings.weight
        x = grid.reshape([-1, height * width, size]) + place
        if cells is not None:
            x = paddle.index_select(x, cells, 1)  # gather along an axis learns wrongly in 2.6
        return normalise(x, self.LayerNorm)


class CrossModalBert(BertModel):
    """BERT that reads words and cells together."""

    def __init__(self, rows: int, columns: int, **sizes: int | float):
        super().__init__(**sizes)
        hidden_size = self.pooler.dense.weight.shape[0]
        self.visual_embeddings = VisualEmbeddings(hidden_size, rows, columns)

    def forward(
        self, ids: paddle.Tensor, mask: paddle.Tensor, visual: paddle.Tensor,
        first: int | None = None,
    ) -> paddle.Tensor:  # fmt: skip
        """Hidden states (N, L + V, D), or the first so many of each row.

        Args:
            ids, mask: (N, L) words; 1 where they are no padding.
            visual: (N, V, D) of the visual embeddings.
        """
        x = paddle.concat([self.embeddings(ids), drop(visual, self.embeddings.dropout)], 1)
        seen = paddle.ones(visual.shape[:2])
        mask = paddle.concat([mask.astype("float32"), seen], 1)
        return self.encoder(x, additive_mask(mask), first)


class PretrainingHeads(nn.Layer):
    """Masked words, and whether text and picture belong together."""

    def __init__(self, hidden_size: int, vocab_size: int):
        super().__init__()
        self.predictions = BertPredictions(hidden_size, vocab_size)
        self.seq_relationship = linear(hidden_size, 2)


class Transformer(nn.Layer):
    """The BERT of words and cells with its head.

    Args:
        num_labels: scores of a row; None: the heads of pretraining.
        rows, columns: most that a grid has.
        sizes: of the BERT, see ``BertModel``.
    """

    def __init__(self, num_labels: int | None, rows: int, columns: int, **sizes: int | float):
        super().__init__()
        self.bert = CrossModalBert(rows, columns, **sizes)
        hidden_size = sizes["hidden_size"]
        if num_labels is None:
            self.cls = PretrainingHeads(hidden_size, sizes["vocab_size"])
        else:
            self.classifier = nn.Sequential(
                linear(hidden_size, 2 * hidden_size), nn.ReLU(), linear(2 * hidden_size, num_labels)
            )

    def scores(
        self, ids: paddle.Tensor, mask: paddle.Tensor, visual: paddle.Tensor
    ) -> paddle.Tensor:
        """Scores (N, num_labels); arguments as those of ``CrossModalBert``."""
        pooled = self.bert.pooler(self.bert(ids, mask, visual, 1))
        return self.classifier(drop(pooled, self.bert.embeddings.dropout))

    def reconstruct(
        self, ids: paddle.Tensor, mask: paddle.Tensor, visual: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Hidden states (N, L, D) of the words, and scores (N, 2) of not matching and matching."""
        hidden = self.bert(ids, mask, visual, ids.shape[1])
        return hidden, self.cls.seq_relationship(self.bert.pooler(hidden))

    def words(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """Scores (..., vocabulary) of hidden states (..., D)."""
        return self.cls.predictions(hidden, self.bert.embeddings.word_embeddings.weight)

    def products(self, length: int, first: int) -> int:
        """Multiplications of a row of ``length`` words and cells, ``first`` in the last layer."""
        layer = self.bert.encoder.layer[0]
        size = layer.attention.self.query.weight.shape[0]
        whole = _numbers(layer)  # biases and norms are few
        pairs = 2 * size * length
        full = (len(self.bert.encoder.layer) - 1) * length * (whole + pairs)
        last = first * (whole - 2 * size * size + pairs) + length * 2 * size * size
        heads = [self.bert.pooler, *([] if hasattr(self, "cls") else [self.classifier])]
        return full + last + sum(map(_numbers, heads))  # few words are masked


def _numbers(layer: nn.Layer) -> int:
    """How many the parameters hold."""
    return sum(math.prod(parameter.shape) for parameter in layer.parameters())
