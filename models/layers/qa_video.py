# SPDX-License-Identifier: Apache-2.0
"""STAGE's encoder: questions, subtitles and regions to one vector and two span scores per frame.

Source: TVQA+ (arXiv:1904.11574), section 4. Layers carry the names of the published checkpoints.

Frames do not see one another before the span scores, so everything up to there runs on the frames
that exist, in one row each: (F, A * Lqa, D) with F real frames of the batch and A candidates.
Frames that show the same subtitle sentences share them.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from . import kernels
from .conv_encoder import DepthwiseSeparableConv, StackedEncoder, linear

_LOW = -1e10


class Attention(NamedTuple):
    """Question words over the tokens of their context, row by row."""

    output: paddle.Tensor  # (R, A * Lqa, D)
    mask: paddle.Tensor  # (R, A * Lqa): a real word that sees a token
    scores: paddle.Tensor  # (R, A * Lqa, Lx) cosines, about -1e10 where masked
    weights: paddle.Tensor  # (R, A * Lqa, Lx)


class Frames(NamedTuple):
    """The frames of a batch that exist."""

    index: paddle.Tensor  # (F,) position in (N * Li)
    sample: paddle.Tensor  # (F,)
    row: paddle.Tensor  # (N * Li,) row of each position; F for padding
    shape: tuple[int, int]  # (N, Li)

    @classmethod
    def of(cls, mask: paddle.Tensor) -> Frames:
        """From a mask (N, Li)."""
        flat = mask.reshape([-1]) > 0
        index = paddle.nonzero(flat).squeeze(-1)
        count = paddle.cumsum(flat.astype("int64"), 0) - 1
        row = paddle.where(flat, count, paddle.full_like(count, index.shape[0]))
        return cls(index, index // mask.shape[1], row, tuple(mask.shape))

    def spread(self, rows: paddle.Tensor, fill: float) -> paddle.Tensor:
        """(F, ...) -> (N, Li, ...) with ``fill`` where there is no frame."""
        padding = paddle.full([1, *rows.shape[1:]], fill, rows.dtype)
        spread = paddle.gather(paddle.concat([rows, padding]), self.row)
        return spread.reshape([*self.shape, *rows.shape[1:]])


class Projection(nn.Layer):
    """LayerNorm, dropout, linear layer; the published name of the list is ``conv``."""

    def __init__(self, size_in: int, size_out: int, dropout: float, relu: bool = False):
        super().__init__()
        layers = [nn.LayerNorm(size_in), nn.Dropout(dropout), linear(size_in, size_out)]
        self.conv = nn.Sequential(*layers, *([nn.ReLU()] if relu else []))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """(..., D) -> (..., size_out)."""
        return self.conv(x)


class _FrameConv(nn.Layer):
    """Parameters of a refinement stage, on which the published result does not depend."""

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.conv = nn.Sequential(
            nn.LayerNorm(size), nn.Dropout(dropout), DepthwiseSeparableConv(size, 3)
        )


class QAVideoEncoder(nn.Layer):
    """Joint encoder of question words with subtitles and regions.

    Args: see ``models.stage.Model``.
    """

    plain_operators = staticmethod(kernels.plain)  # context in which nothing is rearranged for CPU

    def __init__(
        self, *, hsz: int, bridge_hsz: int, embedding_size: int, vfeat_size: int, dropout: float,
        input_streams: list[str], t_iter: int, scale: float, input_encoder: dict, cls_encoder: dict,
        attention_dropout: float,
    ):  # fmt: skip
        super().__init__()
        if not input_streams or not set(input_streams) <= {"sub", "vfeat"}:
            raise ValueError(f"input_streams: expected some of sub, vfeat, found {input_streams}")
        self.streams = [s for s in ("sub", "vfeat") if s in input_streams]
        self.hsz, self.scale, self.dropout = hsz, scale, dropout

        def projection(size_in: int) -> nn.Sequential:
            layers = [nn.LayerNorm(size_in), nn.Dropout(dropout), linear(size_in, bridge_hsz)]
            return nn.Sequential(*layers, nn.ReLU(), nn.LayerNorm(bridge_hsz))

        self.bert_word_encoding_fc = projection(embedding_size)
        if "vfeat" in self.streams:
            self.vid_fc = projection(vfeat_size)
        if len(self.streams) == 2:
            self.concat_fc = nn.Sequential(
                nn.LayerNorm(3 * hsz), nn.Dropout(dropout), linear(3 * hsz, hsz), nn.ReLU(),
                nn.LayerNorm(hsz),
            )  # fmt: skip
        self.input_embedding = nn.Sequential(
            nn.Dropout(dropout), linear(bridge_hsz, hsz), nn.ReLU(), nn.LayerNorm(hsz)
        )
        shared = {"dropout": dropout, "attention_dropout": attention_dropout}
        self.input_encoder = StackedEncoder(hsz, **input_encoder, **shared)
        self.c2q_down_projection = nn.Sequential(
            nn.LayerNorm(3 * hsz), nn.Dropout(dropout), linear(3 * hsz, hsz), nn.ReLU()
        )
        self.cls_encoder = StackedEncoder(hsz, **cls_encoder, **shared)
        stages = [Projection(hsz, hsz, dropout, relu=True)]
        stages += [_FrameConv(hsz, dropout) for _ in range(t_iter)]
        self.cls_projection_layers = nn.LayerList(stages)
        scorers = [
            nn.LayerList([Projection(hsz, 1, dropout) for _ in range(t_iter + 1)]) for _ in "se"
        ]
        self.temporal_scoring_st_layers, self.temporal_scoring_ed_layers = scorers

    # single parts

    def embed(self, tokens: paddle.Tensor, mask: paddle.Tensor, bridge: nn.Layer) -> paddle.Tensor:
        """Feature sequences (R, L, size) with mask (R, L) -> (R, L, D)."""
        x = kernels.dropout(kernels.layer_norm(tokens, bridge[0]), self.dropout, self.training)
        x = kernels.layer_norm(F.relu(_apply(bridge[2], x)), bridge[4])
        x = kernels.dropout(x, self.dropout, self.training)
        x = kernels.layer_norm(F.relu(_apply(self.input_embedding[1], x)), self.input_embedding[3])
        return self.input_encoder(x, mask)

    def attend(
        self, words: paddle.Tensor, words_mask: paddle.Tensor, context: paddle.Tensor,
        context_mask: paddle.Tensor, sample: paddle.Tensor,
    ) -> Attention:  # fmt: skip
        """Attention of every question word over each context row of its sample (section 4.2).

        Args:
            words: (N, A * Lqa, D), mask (N, A * Lqa). context: (R, Lx, D), mask (R, Lx).
            sample: (R,) whose words a row belongs to.
        """
        unit_words = kernels.dropout(kernels.unit(words), self.dropout, self.training)
        unit_context = kernels.dropout(kernels.unit(context), self.dropout, self.training)
        tiled, tiled_mask = paddle.gather(words, sample), paddle.gather(words_mask, sample)
        mask = paddle.matmul(tiled_mask.unsqueeze(-1), context_mask.unsqueeze(1))
        scores = paddle.matmul(paddle.gather(unit_words, sample), unit_context, transpose_y=True)
        scores = scores + (mask - 1) * -_LOW
        weights = F.softmax(scores * self.scale, -1) * mask
        attended = paddle.matmul(weights, context)
        norm, _, projection = self.c2q_down_projection[:3]
        output = kernels.concat_norm_linear(
            tiled, attended, norm, projection, self.dropout, self.training
        )
        seen = context_mask.max(-1, keepdim=True)  # (R, 1)
        return Attention(output, tiled_mask * seen, scores, weights)

    def fuse(self, sub: Attention, vid: Attention) -> paddle.Tensor:
        """Both streams joined (section 4.3), (F, A * Lqa, D)."""
        norm, _, projection, _, last = self.concat_fc
        joined = kernels.concat_norm_linear(
            sub.output, vid.output, norm, projection, self.dropout, self.training
        )
        return kernels.layer_norm(joined, last)

    def summarise(self, fused: paddle.Tensor, mask: paddle.Tensor, words: int) -> paddle.Tensor:
        """Statement encoder and maximum over words: (F, A * Lqa, D) -> (F, A, D)."""
        frames, _, size = fused.shape
        fused, mask = fused.reshape([-1, words, size]), mask.reshape([-1, words])
        encoded = self.cls_encoder(fused, mask)
        return kernels.masked_max(encoded, mask).reshape([frames, -1, size])

    def span_scores(
        self, frames: paddle.Tensor, frame_mask: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Frame vectors (N, A, Li, D), (N, Li) -> refined vectors, start and end scores (…, 2)."""
        refined = frames + self.cls_projection_layers[0](frames)
        start = self.temporal_scoring_st_layers[0](refined)
        end = self.temporal_scoring_ed_layers[0](refined)
        mask = frame_mask.unsqueeze([1, 3])
        return refined, paddle.concat([start, end], -1) * mask + (1 - mask) * _LOW

    # all together

    def encode(self, batch: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Everything up to the span scores.

        Returns:
            ``words`` (N * A, Lqa, D); per stream an ``Attention`` under ``sub`` and ``vfeat``, the
            former by subtitle piece: ``pieces`` (R, Ls, D), ``pieces_mask`` (R, Ls) and ``piece``
            (F,) of each frame; ``frames``; ``vectors`` (N, A, Li, D) with ``frame_mask``
            (N, A, Li); ``temporal_scores`` (N, A, Li, 2).
        """
        n, answers, length = batch["qas_mask"].shape
        frames = Frames.of(batch["ts_label_mask"])
        rows_mask = batch["qas_mask"].reshape([-1, length])
        rows = batch["qas_bert"].reshape([n * answers, length, -1])
        words = self.embed(rows, rows_mask, self.bert_word_encoding_fc)
        question = (words.reshape([n, -1, self.hsz]), rows_mask.reshape([n, -1]))
        found = {"words": words, "frames": frames}
        if "sub" in self.streams:
            found |= self._subtitles(batch, question, frames)
        if "vfeat" in self.streams:
            found |= self._regions(batch, question, frames)
        if len(self.streams) == 2:
            by_frame = found["sub"]._replace(
                output=paddle.gather(found["sub"].output, found["piece"])
            )
            fused, mask = self.fuse(by_frame, found["vfeat"]), found["vfeat"].mask
        elif "vfeat" in self.streams:
            fused, mask = found["vfeat"].output, found["vfeat"].mask
        else:
            fused, mask = (paddle.gather(x, found["piece"]) for x in found["sub"][:2])
        vectors = self.summarise(fused, mask, length)
        visible = mask.reshape([-1, answers, length]).max(-1)
        vectors = frames.spread(vectors, _LOW).transpose([0, 2, 1, 3])
        found["frame_mask"] = frames.spread(visible, 0.0).transpose([0, 2, 1])
        found["vectors"], found["temporal_scores"] = self.span_scores(
            vectors, batch["ts_label_mask"]
        )
        return found

    def _subtitles(self, batch: dict, question: tuple, frames: Frames) -> dict:
        n, pieces, length, size = batch["sub_bert"].shape
        mask = batch["sub_mask"].reshape([-1, length])
        tokens = batch["sub_bert"].reshape([-1, length, size])
        context = self.embed(tokens, mask, self.bert_word_encoding_fc)
        sample = paddle.arange(n).unsqueeze(1).tile([1, pieces]).reshape([-1])
        if "sub_index" in batch:
            index = paddle.gather(batch["sub_index"].reshape([-1]), frames.index)
            piece = frames.sample * pieces + index
        else:
            piece = frames.index
        attention = self.attend(*question, context, mask, sample)
        return {"sub": attention, "pieces": context, "pieces_mask": mask, "piece": piece}

    def _regions(self, batch: dict, question: tuple, frames: Frames) -> dict:
        regions, size = batch["vid"].shape[2:]
        mask = paddle.gather(batch["vid_mask"].reshape([-1, regions]), frames.index)
        features = paddle.gather(batch["vid"].reshape([-1, regions, size]), frames.index)
        context = self.embed(kernels.unit(features), mask, self.vid_fc)
        return {"vfeat": self.attend(*question, context, mask, frames.sample)}


def _apply(layer: nn.Linear, x: paddle.Tensor) -> paddle.Tensor:
    return kernels.linear(x, layer.weight, layer.bias)
