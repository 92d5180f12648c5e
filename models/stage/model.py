# SPDX-License-Identifier: Apache-2.0
"""STAGE as the engine sees it: answer head, objective, records.

Source: TVQA+: Spatio-Temporal Grounding for Video Question Answering (arXiv:1904.11574) and the
code its numbers were made with.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
import paddle.nn.functional as F

from ..layers import kernels
from ..layers.qa_video import Projection, QAVideoEncoder
from ..layers.ranking import hard_pairs, ranking_loss
from ..layers.spans import scan_pairs, top_pairs, training_spans, widen, within
from .decoder import (
    AnswerDecoder,
    answer_scores,
    generation_loss,
    predicted_spans,
    span_flags,
    token_scores,
)
from .search import BANNED, BOS, EOS, PAD, beam_search, greedy_search

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
        answer_vocab: JSON list of words; given, answers are generated instead of chosen: ``dec_*``,
            ``use_copy`` and ``use_sub_memory`` shape the decoder (``AnswerDecoder``).
        gen_weight, label_smoothing: of the generation loss.
        mc_weight: of the cross-entropy between the mean log-likelihoods of the five choices.
        beam_size, length_penalty, max_answer_len, ban_unk: of the search; beam_size 1 is greedy.

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
        answer_vocab: str | None = None, dec_layers: int = 2, dec_heads: int = 4,
        dec_ffn: int = 512, use_copy: bool = True, use_sub_memory: bool = True,
        gen_weight: float = 1.0, mc_weight: float = 0.0, label_smoothing: float = 0.0,
        beam_size: int = 4, length_penalty: float = 0.7, max_answer_len: int = 16,
        ban_unk: bool = True,
    ):  # fmt: skip
        _check_options(att_loss_type, t_iter, use_copy, label_smoothing)
        super().__init__(
            hsz=hsz, bridge_hsz=bridge_hsz, embedding_size=embedding_size, vfeat_size=vfeat_size,
            dropout=dropout, input_streams=list(input_streams), t_iter=t_iter, scale=scale,
            input_encoder=_encoder(input_encoder_n_blocks, input_encoder_n_conv,
                                   input_encoder_kernel_size, input_encoder_n_heads),
            cls_encoder=_encoder(cls_encoder_n_blocks, cls_encoder_n_conv,
                                 cls_encoder_kernel_size, cls_encoder_n_heads),
            attention_dropout=attention_dropout)  # fmt: skip
        self.add_local, self.extra_span_length = add_local, extra_span_length
        self.use_sup_att, self.att_weight = use_sup_att and "vfeat" in self.streams, att_weight
        self.ts_weight, self.gen_weight, self.mc_weight = ts_weight, gen_weight, mc_weight
        self.ranking = att_loss_type, alpha, margin
        self.hard = {"num_negatives": num_negatives, "num_hard": num_hard,
                     "pool_size": negative_pool_size, "drop_topk": drop_topk}  # fmt: skip
        self.proposals = max_num_proposal, span_prob_thd, span_iou_thd
        self.label_smoothing, self._feature_sizes = label_smoothing, (embedding_size, vfeat_size)
        self.max_answer_len, self.banned = max_answer_len, BANNED if ban_unk else (PAD, BOS)
        self.beam, self.decoder = {"size": beam_size, "length_penalty": length_penalty}, None
        if answer_vocab is None:
            self.classifier = Projection(hsz * (1 + add_local), 1, dropout)
        else:
            self.decoder = AnswerDecoder(
                vocab_size=_count_words(answer_vocab), size=hsz, layers=dec_layers,
                heads=dec_heads, ffn=dec_ffn, dropout=dropout, use_copy=use_copy,
                use_sub_memory=use_sub_memory and "sub" in self.streams)  # fmt: skip

    # network

    def forward(self, batch: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Batch -> what ``encode`` returns and the answer.

        Choosing: ``answer_scores`` (N', A) of ``row_sample`` (N',); N' is N, or more in training
        with ``add_local``: one row per moment. Generating: ``source`` of the decoder, with
        ``memory`` and ``spans`` (N, 2), and for given targets ``log_probs`` (N, T, V_ext).
        """
        found = self.encode(batch)
        if self.decoder is None:
            self._choose(found, batch)
        else:
            self._read(found, batch)
            if self.training:
                found["log_probs"] = self.decoder(batch["dec_in"], found["source"])
                if self.mc_weight:
                    found["mc_scores"], _ = self._likelihoods(found["source"], batch)
        return found

    def _likelihoods(self, source: Any, batch: dict) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Mean and sum of the log-probabilities of every choice's tokens, each (N, A)."""
        log_probs = self.decoder(batch["cand_in"], source)
        return answer_scores(token_scores(log_probs, batch["cand_tgt"]), batch["cand_mask"])

    def _choose(self, found: dict, batch: dict) -> None:
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

    def _read(self, found: dict, batch: dict) -> None:
        """Add the decoder's memory; the moment it is told of is the label's in training only."""
        frames = found["frames"]
        if self.training:
            spans = np.stack([batch[f"ts_label_{side}"].numpy() for side in ("st", "ed")], -1)
        else:
            spans = predicted_spans(found["temporal_scores"].squeeze(1))
        flags = span_flags(spans, self.extra_span_length, frames.shape[1])
        said = {}
        if self.decoder.use_sub_memory:
            said = {"pieces": found["pieces"], "pieces_mask": found["pieces_mask"],
                    "piece": frames.spread(found["piece"], 0)}  # fmt: skip
        found["spans"], found["in_span"] = spans, paddle.to_tensor(flags)
        found["memory"] = self.decoder.memory(
            question=found["words"], question_mask=batch["qas_mask"].squeeze(1),
            frames=found["vectors"].squeeze(1), frame_mask=batch["ts_label_mask"],
            seen=found["frame_mask"].squeeze(1), in_span=found["in_span"], **said,
        )  # fmt: skip
        found["source"] = self.decoder.source(
            found["memory"], batch.get("copy_ids"), batch.get("copy_size", 0)
        )

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
        samples, spans = training_spans(truth, start[right], end[right], *self.proposals)
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
        """``loss`` = answer term + att_weight * ``att`` + ts_weight * ``ts``, sums over the batch.

        The answer term is ``cls``, or gen_weight * ``gen`` + mc_weight * ``mc`` of a generating
        network. ``att`` is 0 in evaluation mode and without labelled regions.
        """
        target, scores = batch["target"], outputs["temporal_scores"]
        right = paddle.stack([paddle.arange(target.shape[0]), target], 1)
        right = paddle.gather_nd(scores, right)  # (N, Li, 2)
        sides = [
            F.cross_entropy(right[:, :, i], batch[f"ts_label_{side}"], reduction="sum")
            for i, side in enumerate(("st", "ed"))
        ]
        terms = {"ts": (sides[0] + sides[1]) / 2, "att": self._attention_loss(outputs, batch)}
        if self.decoder is None:
            terms["cls"] = answer = self._answer_loss(outputs, target)
        else:
            terms["gen"] = generation_loss(
                outputs["log_probs"], batch["dec_tgt"], batch["dec_mask"], self.label_smoothing
            )
            answer = self.gen_weight * terms["gen"]
            if "mc_scores" in outputs:
                terms["mc"] = F.cross_entropy(
                    outputs["mc_scores"], batch["mc_target"], reduction="sum"
                )
                answer = answer + self.mc_weight * terms["mc"]
        total = answer + self.att_weight * terms["att"] + self.ts_weight * terms["ts"]
        return {"loss": total, **terms}

    def _answer_loss(self, outputs: dict, target: paddle.Tensor) -> paddle.Tensor:
        """Cross-entropy of all rows, scaled to the number of samples."""
        rows = paddle.gather(target, paddle.to_tensor(outputs["row_sample"]))
        total = F.cross_entropy(outputs["answer_scores"], rows, reduction="sum")
        return total * (target.shape[0] / rows.shape[0])

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
        return ranking_loss(scores(pairs[0]), scores(pairs[1]), *self.ranking)

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
        """One record per question: answer, best moment, attended boxes.

        Choosing: scores of the answers, and moment and boxes of every one. Generating: the text,
        and scores of candidates where the batch has some.
        """
        outputs = self(batch)
        start, end = _probabilities(outputs["temporal_scores"])
        n, answers, length = start.shape
        spans, _ = scan_pairs(start.reshape(-1, length), end.reshape(-1, length))
        spans, chances = spans.reshape(n, answers, 2), np.stack([start, end], -1)
        attention = self._attention(outputs, batch)
        given = _scores(outputs) if self.decoder is None else self.texts(outputs, batch)
        records = []
        for i, (name, meta) in enumerate(zip(batch["id"], batch["meta"], strict=True)):
            indices = np.asarray(meta["image_indices"], np.int64)
            records.append({
                "id": name, "vid_name": meta["vid_name"], "image_indices": indices,
                "spans": spans[i],
                "span_probs": np.ascontiguousarray(chances[i, :, : len(indices)]),
                **{key: values[i] for key, values in given.items()}, **attention[i],
                **({"reference": meta["reference"]} if "reference" in meta else {}),
            })  # fmt: skip
        return records

    def texts(self, outputs: dict, batch: dict) -> dict[str, Any]:
        """Generated ``answer`` with ``answer_logp`` of every sample, and scores of candidates."""
        source = outputs["source"]
        n, steps = batch["qas_bert"].shape[0], self.decoder.steps(source)
        limits = {"max_length": self.max_answer_len, "banned": self.banned}
        if batch.get("greedy") or self.beam["size"] == 1:
            best = greedy_search(steps, n, **limits)
        else:
            best = [found[0] for found in beam_search(steps, n, **self.beam, **limits)]
        words = batch["vocabulary"]
        known = [words + oov for oov in batch.get("oov", [[]] * n)]
        given = {
            "answer": [
                " ".join(names[token] for token in found.tokens if token != EOS)
                for found, names in zip(best, known, strict=True)
            ],
            "answer_logp": [float(found.score) for found in best],
        }
        if "cand_in" in batch:
            scores = self._likelihoods(source, batch)
            given["answer_scores"], given["answer_scores_sum"] = (x.numpy() for x in scores)
        return given

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
        answers = _ANSWERS if self.decoder is None else 1
        start = rng.integers(0, frames // 2, size)
        batch = {
            "qas_bert": normal(answers, words, embedding),
            "qas_mask": mask(answers, words, shortest=12),
            "ts_label_mask": np.ones((size, frames), np.float32),
            "ts_label_st": start,
            "ts_label_ed": start + rng.integers(0, frames // 2, size),
            "target": rng.integers(0, answers, size),
        }
        if self.decoder is not None:
            vocabulary, length = self.decoder.vocab_size, self.max_answer_len
            target = rng.integers(EOS, vocabulary, (size, length))
            start_token = np.full((size, 1), BOS)
            batch["dec_in"] = np.concatenate([start_token, target[:, :-1]], 1)
            batch["dec_tgt"], batch["dec_mask"] = target, mask(length, shortest=2)
            if self.decoder.use_copy:
                said = frames * tokens if "sub" in self.streams else 0
                batch["copy_ids"] = rng.integers(EOS, vocabulary, (size, words + said))
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
            name: np.ascontiguousarray(value.T) if _is_matrix(name, value) else value
            for name, value in names.items()
            if not name.endswith("position_encoding.pe")
        }


def _is_matrix(name: str, value: np.ndarray) -> bool:
    return value.ndim == 2 and not name.endswith("embed.weight")


def _encoder(n_blocks: int, n_conv: int, kernel_size: int, n_heads: int) -> dict[str, int]:
    return {"n_blocks": n_blocks, "n_conv": n_conv, "kernel_size": kernel_size, "n_heads": n_heads}


def _check_options(
    att_loss_type: str, t_iter: int, use_copy: bool, label_smoothing: float
) -> None:
    if att_loss_type not in ("lse", "hinge"):
        raise ValueError(f"att_loss_type: expected lse or hinge, found {att_loss_type!r}")
    if label_smoothing and use_copy:
        raise ValueError("label_smoothing: expected 0 with use_copy, which has no fixed vocabulary")
    if t_iter:
        warnings.warn("t_iter: the published result does not depend on it", stacklevel=3)


def _count_words(path: str) -> int:
    try:
        return len(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"answer_vocab: expected a JSON list of words, found {path} ({error}); make it with "
            "data/dataset/tvqa_plus/prepare.py vocab"
        ) from None


def _scores(outputs: dict) -> dict[str, np.ndarray]:
    return {"answer_scores": outputs["answer_scores"].numpy()}


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
        ``box_scores`` (B,), ascending inside an entry; ``regions`` (R, 4) of all frames and
        ``region_frames`` (K, 2) frame id, number of regions.
    """
    entries, boxes, values = [], [np.zeros((0, 4))], [np.zeros(0, np.float32)]
    images = meta["image_indices"][meta["anno_st_idx"] :]
    shown = [np.asarray(regions, np.float64).reshape(-1, 4) for regions in meta["boxes"]]
    for answer in range(0 if scores is None else scores.shape[1]):
        words = np.flatnonzero(wanted[answer])
        for frame, (image, regions) in enumerate(zip(images, shown, strict=False)):
            for word in words:
                row = scores[frame, answer, word, : len(regions)]
                order = np.argsort(row, kind="stable")
                order = order[row[order] >= _BOX_SCORE]
                entries.append((answer, image, ids[answer, word], len(order)))
                boxes.append(regions[order])
                values.append(row[order])
    return {
        "entries": np.array(entries, np.int64).reshape(-1, 4),
        "boxes": np.concatenate(boxes),
        "box_scores": np.concatenate(values),
        "regions": np.concatenate([np.zeros((0, 4)), *shown]),
        "region_frames": np.array(
            [(i, len(r)) for i, r in zip(images, shown, strict=False)], np.int64
        ).reshape(-1, 2),
    }


def _probabilities(scores: paddle.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Span scores (N, A, Li, 2) -> start and end probabilities (N, A, Li)."""
    with paddle.no_grad():
        chances = F.softmax(scores.detach(), 2).numpy()
    return chances[..., 0], chances[..., 1]
