# SPDX-License-Identifier: Apache-2.0
"""STAGE as the engine sees it: answer head, objective, records.

Source: TVQA+: Spatio-Temporal Grounding for Video Question Answering (arXiv:1904.11574) and the
code its numbers were made with.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import paddle
import paddle.nn.functional as F

from ..layers import kernels
from ..layers.qa_video import Projection, QAVideoEncoder
from ..layers.ranking import hard_pairs, ranking_loss
from ..layers.spans import scan_pairs, top_pairs, training_spans, widen, within

_ANSWERS = 5
_BOX_SCORE = 0.2  # published: regions that a word attends with at least this cosine


class Model(QAVideoEncoder):
    """Answer, moment and boxes; the published configuration is the default.

    Args:
        hsz: width D of the hidden layers. bridge_hsz: width between feature and hidden layers.
        embedding_size: length of a word feature. vfeat_size: length of a region feature.
        dropout: its probability everywhere. attention_dropout: the encoders' self-attention's.
        input_streams: "sub" (subtitles), "vfeat" (regions) or both.
        add_local: the answer sees the frames of the moment besides the whole clip.
        t_iter: refinement stages of the span scores; the published result does not depend on them.
        extra_span_length: frames by which a moment is widened for ``add_local``.
        scale: factor of the cosines in the attention's softmax.
        input_encoder_*, cls_encoder_*: blocks, convolutions, kernel and heads of both encoders.
        use_sup_att, att_weight, att_loss_type, alpha, margin: attention supervision (section 4.4).
        num_negatives, num_hard, negative_pool_size, drop_topk: its hard negatives, where the reader
            asks for them.
        ts_weight: of the span loss.
        span_iou_thd, span_prob_thd, max_num_proposal: training moments besides the labelled one.

    Raises:
        ValueError: an option out of range.
    """

    loss_sums_samples = True
    loss_couples_samples = True  # the answer loss is rescaled by the batch's number of moments
    feature_inputs = ("qas_bert", "sub_bert", "vid")
    published_weights = []  # the authors published none

    def __init__(
        self, hsz: int = 128, bridge_hsz: int = 300, embedding_size: int = 768,
        vfeat_size: int = 300, dropout: float = 0.1, attention_dropout: float = 0.1,
        input_streams: list[str] = ("sub", "vfeat"), add_local: bool = True, t_iter: int = 0,
        extra_span_length: int = 3, scale: float = 10.0, input_encoder_n_blocks: int = 1,
        input_encoder_n_conv: int = 2, input_encoder_kernel_size: int = 7,
        input_encoder_n_heads: int = 0, cls_encoder_n_blocks: int = 1, cls_encoder_n_conv: int = 2,
        cls_encoder_kernel_size: int = 5, cls_encoder_n_heads: int = 0, use_sup_att: bool = True,
        att_weight: float = 0.1, att_loss_type: Literal["lse", "hinge"] = "lse",
        alpha: float = 20.0, margin: float = 0.1, num_negatives: int = 2, num_hard: int = 2,
        negative_pool_size: int = 0, drop_topk: int = 0, ts_weight: float = 0.5,
        span_iou_thd: float = 0.5, span_prob_thd: float = 0.01, max_num_proposal: int = 1,
    ):  # fmt: skip
        if att_loss_type not in ("lse", "hinge"):
            raise ValueError(f"att_loss_type: expected lse or hinge, found {att_loss_type!r}")
        if t_iter:
            warnings.warn("t_iter: the published result does not depend on it", stacklevel=2)

        def encoder(n_blocks: int, n_conv: int, kernel_size: int, n_heads: int) -> dict:
            return {"n_blocks": n_blocks, "n_conv": n_conv, "kernel_size": kernel_size,
                    "n_heads": n_heads, "attention_dropout": attention_dropout}  # fmt: skip

        super().__init__(
            hsz=hsz, bridge_hsz=bridge_hsz, embedding_size=embedding_size, vfeat_size=vfeat_size,
            dropout=dropout, input_streams=list(input_streams), t_iter=t_iter, scale=scale,
            input_encoder=encoder(input_encoder_n_blocks, input_encoder_n_conv,
                                  input_encoder_kernel_size, input_encoder_n_heads),
            cls_encoder=encoder(cls_encoder_n_blocks, cls_encoder_n_conv,
                                cls_encoder_kernel_size, cls_encoder_n_heads),
        )  # fmt: skip
        self.classifier = Projection(hsz * (2 if add_local else 1), 1, dropout)
        self.add_local, self.extra_span_length = add_local, extra_span_length
        self.use_sup_att = use_sup_att and "vfeat" in self.streams
        self.att_weight, self.ts_weight = att_weight, ts_weight
        self.ranking = {"kind": att_loss_type, "alpha": alpha, "margin": margin}
        self.hard = {"num_negatives": num_negatives, "num_hard": num_hard,
                     "pool_size": negative_pool_size, "drop_topk": drop_topk}  # fmt: skip
        self.proposals = {
            "proposals": max_num_proposal, "min_product": span_prob_thd, "min_iou": span_iou_thd
        }  # fmt: skip
        self._feature_sizes = embedding_size, vfeat_size

    # network

    def forward(self, batch: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Batch -> what ``encode`` returns, with ``answer_scores`` (N', A) of ``row_sample`` (N',).

        N' is N, or more in training with ``add_local``: one row per moment.
        """
        found = self.encode(batch)
        vectors = found["vectors"]  # (N, A, Li, D)
        n, answers, length, size = vectors.shape
        visible = found["frame_mask"].reshape([-1, length])
        summary = kernels.masked_max(vectors.reshape([-1, length, size]), visible)
        summary = summary.reshape([n, answers, size])
        samples, spans = self._windows(found["temporal_scores"], batch)
        found["row_sample"] = samples
        if self.add_local:
            summary = self._with_local(found, summary, samples, spans)
        found["classifier_in"] = summary
        found["answer_scores"] = self.classifier(summary).squeeze(-1)
        return found

    def _windows(self, scores: paddle.Tensor, batch: dict) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the answer head: their samples (N',), their moments [start, end) (N', A, 2)."""
        n, answers, length = scores.shape[:3]
        if not self.add_local:
            return np.arange(n), np.zeros((n, answers, 2), np.int64)
        start, end = _probabilities(scores)
        if not self.training:
            pairs, _ = top_pairs(start.reshape(-1, length), end.reshape(-1, length))
            return np.arange(n), pairs[:, 0].reshape(n, answers, 2) + np.array([0, 1])
        right = (np.arange(n), batch["target"].numpy())
        truth = np.stack([batch[f"ts_label_{side}"].numpy() for side in ("st", "ed")], -1)
        samples, spans = training_spans(truth, start[right], end[right], **self.proposals)
        return samples, np.repeat(spans[:, None], answers, 1)

    def _with_local(
        self, found: dict, summary: paddle.Tensor, samples: np.ndarray, spans: np.ndarray
    ) -> paddle.Tensor:
        length, size = found["vectors"].shape[2:]
        windows = within(widen(spans, self.extra_span_length, length), length)  # (N', A, Li)
        rows = paddle.to_tensor(samples)
        frames = paddle.gather(found["vectors"], rows).reshape([-1, length, size])
        mask = paddle.gather(found["frame_mask"], rows) * paddle.to_tensor(windows)
        local = kernels.masked_max(frames, mask.reshape([-1, length]))
        summary = paddle.gather(summary, rows)
        return paddle.concat([local.reshape(summary.shape), summary], -1)

    # objective

    def loss(self, outputs: dict, batch: dict) -> dict[str, paddle.Tensor]:
        """``loss`` = ``cls`` + att_weight * ``att`` + ts_weight * ``ts``, sums over the batch.

        ``att`` is 0 in evaluation mode and without labelled regions.
        """
        target, samples = batch["target"], paddle.to_tensor(outputs["row_sample"])
        n, rows = target.shape[0], samples.shape[0]
        answers = F.cross_entropy(
            outputs["answer_scores"], paddle.gather(target, samples), reduction="sum"
        )
        scores = outputs["temporal_scores"]
        right = paddle.gather_nd(scores, paddle.stack([paddle.arange(n), target], 1))  # (N, Li, 2)
        sides = [
            F.cross_entropy(right[:, :, i], batch[f"ts_label_{side}"], reduction="sum")
            for i, side in enumerate(("st", "ed"))
        ]
        terms = {"cls": answers * (n / rows), "ts": (sides[0] + sides[1]) / 2}
        terms["att"] = self._attention_loss(outputs, batch)
        total = terms["cls"] + self.att_weight * terms["att"] + self.ts_weight * terms["ts"]
        return {"loss": total, **terms}

    def _attention_loss(self, outputs: dict, batch: dict) -> paddle.Tensor:
        if not (self.training and self.use_sup_att):
            return paddle.zeros([])
        attention, frames = outputs["vfeat"], outputs["frames"]
        words = batch["qas_mask"].shape[-1]

        def scores(rows: paddle.Tensor) -> paddle.Tensor:
            n, answer, frame, word, region = rows.unbind(1)
            row = paddle.gather(frames.row, n * frames.shape[1] + frame)
            index = paddle.stack([row, answer * words + word, region], 1)
            return paddle.gather_nd(attention.scores, index)

        pairs = batch.get("pos_container"), batch.get("neg_container")
        if "att_groups" in batch:
            pairs = self.hard_pairs(scores, batch)
        if pairs[0] is None or pairs[0].shape[0] == 0:
            return paddle.zeros([])
        return ranking_loss(scores(pairs[0]), scores(pairs[1]), **self.ranking)

    def hard_pairs(self, scores: Any, batch: dict) -> list[paddle.Tensor]:
        """Pairs whose negatives are chosen by the ``scores`` of this step."""
        groups, pattern = batch["att_groups"].numpy(), batch["att_pattern"].numpy()
        regions = pattern.shape[1]
        every = np.column_stack([
            np.repeat(groups, regions, 0), np.tile(np.arange(regions), len(groups))
        ])  # fmt: skip
        if not len(every):
            return [paddle.zeros([0, 5], "int64")] * 2
        with paddle.no_grad():
            found = scores(paddle.to_tensor(every)).numpy().reshape(pattern.shape)
        rng = np.random.default_rng(paddle.randint(0, 2**31 - 1, [1], dtype="int64").item())
        pairs = hard_pairs(groups, pattern, found, rng=rng, **self.hard)
        return [paddle.to_tensor(rows) for rows in pairs]

    # records

    def predict(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One record per question: answer scores, best moment of every answer, attended boxes."""
        outputs = self(batch)
        start, end = _probabilities(outputs["temporal_scores"])
        n, answers, length = start.shape
        spans, _ = scan_pairs(start.reshape(-1, length), end.reshape(-1, length))
        spans, chances = spans.reshape(n, answers, 2), np.stack([start, end], -1)
        scores = outputs["answer_scores"].numpy()
        attention = self._attention(outputs, batch)
        records = []
        for i, (name, meta) in enumerate(zip(batch["id"], batch["meta"], strict=True)):
            indices = np.asarray(meta["image_indices"], np.int64)
            record = {
                "id": name, "vid_name": meta["vid_name"], "answer_scores": scores[i],
                "image_indices": indices, "spans": spans[i],
                "span_probs": np.ascontiguousarray(chances[i, :, : len(indices)]),
                **attention[i],
            }  # fmt: skip
            if "reference" in meta:
                record["reference"] = meta["reference"]
            records.append(record)
        return records

    def _attention(self, outputs: dict, batch: dict) -> list[dict[str, np.ndarray]]:
        if "vfeat" not in self.streams:
            return [attended_boxes(None, None, None, meta) for meta in batch["meta"]]
        frames, scores = outputs["frames"], outputs["vfeat"].scores
        answers, words = batch["qas_mask"].shape[1:]
        scores = scores.numpy().reshape([-1, answers, words, scores.shape[-1]])
        row = frames.row.numpy().reshape(frames.shape)
        ids, wanted = batch["qas"].numpy(), batch["object_mask"].numpy()
        found = []
        for i, meta in enumerate(batch["meta"]):
            first, count = meta["anno_st_idx"], len(meta["boxes"])
            found.append(
                attended_boxes(scores[row[i, first : first + count]], ids[i], wanted[i], meta)
            )
        return found

    # tools

    def example_batch(self, size: int, seed: int = 0) -> dict[str, np.ndarray]:
        """A random training batch of the sizes at which the published code was measured."""
        rng = np.random.default_rng(seed)
        frames, words, tokens, regions, pieces = 31, 26, 40, 20, 20

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal((size, *shape), np.float32)

        def mask(*shape: int, shortest: int) -> np.ndarray:
            lengths = rng.integers(shortest, shape[-1] + 1, (size, *shape[:-1], 1))
            return (np.arange(shape[-1]) < lengths).astype(np.float32)

        embedding, vfeat = self._feature_sizes
        start = rng.integers(0, frames // 2, size)
        batch = {
            "qas_bert": normal(_ANSWERS, words, embedding),
            "qas_mask": mask(_ANSWERS, words, shortest=12),
            "ts_label_mask": np.ones((size, frames), np.float32),
            "ts_label_st": start,
            "ts_label_ed": start + rng.integers(0, frames // 2, size),
            "target": rng.integers(0, _ANSWERS, size),
        }
        if "sub" in self.streams:
            batch["sub_bert"] = normal(pieces, tokens, embedding)
            batch["sub_mask"] = mask(pieces, tokens, shortest=10)
            batch["sub_index"] = np.tile(np.arange(frames) * pieces // frames, (size, 1))
        if "vfeat" in self.streams:
            batch["vid"] = normal(frames, regions, vfeat)
            batch["vid_mask"] = mask(frames, regions, shortest=regions)
            pairs = rng.integers(0, [size, 1, frames, 12, regions], (12 * size, 5))
            pairs[:, 1] = batch["target"][pairs[:, 0]]
            batch["pos_container"] = pairs
            batch["neg_container"] = np.column_stack([pairs[:, :4], (pairs[:, 4] + 1) % regions])
        return batch

    def flops(self, batch: dict[str, np.ndarray]) -> int:
        """Multiplications and additions of the matrix products of a forward pass."""
        n, answers, words, embedding = batch["qas_bert"].shape
        frames, d = n * batch["ts_label_mask"].shape[1], self.hsz
        bridge = self.bert_word_encoding_fc[2].weight.shape[1]
        blocks = len(self.input_encoder.stacked_encoderBlocks[0].conv)
        statement = len(self.cls_encoder.stacked_encoderBlocks[0].conv)

        def embed(tokens: int, size: int) -> int:
            return tokens * (size * bridge + bridge * d + blocks * d * d)

        total, rows = embed(n * answers * words, embedding), frames * answers * words
        for key in ("sub_bert", "vid"):
            if key in batch:
                pieces, length, size = batch[key].shape[1:]
                attended = n * pieces * answers * words
                total += embed(n * pieces * length, size) + attended * d * (2 * length + 3 * d)
        return 2 * (total + rows * d * d * (statement + 3 * (len(self.streams) - 1)))

    @staticmethod
    def convert(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """PyTorch's names and layouts to ours: matrices are transposed, ``module.`` is dropped.

        A state of ours passes unchanged: it holds no position table, and the published one does.
        """
        names = {name.removeprefix("module."): value for name, value in state.items()}
        if not any(name.endswith("position_encoding.pe") for name in names):
            return names
        return {
            name: np.ascontiguousarray(value.T) if value.ndim == 2 else value
            for name, value in names.items()
            if not name.endswith("position_encoding.pe")
        }


def attended_boxes(
    scores: np.ndarray | None, ids: np.ndarray, wanted: np.ndarray, meta: dict
) -> dict[str, np.ndarray]:
    """Regions that object words attend in the frames that have boxes, in the published order.

    Args:
        scores: (frames, A, Lqa, Lr) cosines; None: no boxes.
        ids, wanted: (A, Lqa) word ids, and which of them are objects.
        meta: ``boxes`` per frame, ``image_indices`` and ``anno_st_idx``, the first of these frames.

    Returns:
        ``entries`` (E, 4) answer, frame id, word id, number of boxes; ``boxes`` (B, 4) and
        ``box_scores`` (B,), ascending inside an entry.
    """
    entries, boxes, values = [], [np.zeros((0, 4))], [np.zeros(0, np.float32)]
    for answer in range(0 if scores is None else scores.shape[1]):
        words = np.flatnonzero(wanted[answer])
        for frame, regions in enumerate(meta["boxes"]):
            image = meta["image_indices"][meta["anno_st_idx"] + frame]
            for word in words:
                row = scores[frame, answer, word, : len(regions)]
                order = np.argsort(row, kind="stable")
                order = order[row[order] >= _BOX_SCORE]
                entries.append((answer, image, ids[answer, word], len(order)))
                boxes.append(np.asarray(regions, np.float64).reshape(-1, 4)[order])
                values.append(row[order])
    return {
        "entries": np.array(entries, np.int64).reshape(-1, 4),
        "boxes": np.concatenate(boxes),
        "box_scores": np.concatenate(values),
    }


def _probabilities(scores: paddle.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Span scores (N, A, Li, 2) -> start and end probabilities (N, A, Li)."""
    with paddle.no_grad():
        chances = F.softmax(scores.detach(), 2).numpy()
    return chances[..., 0], chances[..., 1]
