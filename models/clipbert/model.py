# SPDX-License-Identifier: Apache-2.0
"""ClipBERT as the engine sees it: clips of a video scored one by one, objective, records.

Source: Less is More: ClipBERT for Video-and-Language Learning via Sparse Sampling
(arXiv:2102.06183), and ANetQA (CVPR 2023) for its configuration there.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ..layers import kernels
from ..layers.bert import DEVIATION, spread
from . import checkpoints, objectives
from .network import GridCNN, Transformer
from .pictures import prepared

_CHOICES = 5  # of a multiple-choice question
_TOP = 5  # answers in a record
_LABELS = {"anetqa": 12911, "frameqa": 1540, "msrvtt_qa": 1500, "vqa": 3129}  # as published
_CHOOSING, _MATCHING = ("action", "transition"), ("retrieval", "msrvtt_mc")
_LOSSES = {"vqa": ("bce",), **dict.fromkeys(_MATCHING, ("ce", "rank"))}

Task = Literal[
    "anetqa", "frameqa", "msrvtt_qa", "action", "transition", "retrieval", "msrvtt_mc", "vqa",
    "pretrain",
]  # fmt: skip


class Model(nn.Layer):
    """ClipBERT for one task; the published configuration on ANetQA is the default.

    Args:
        task: what the rows of text are: questions with one of ``num_labels`` answers (anetqa,
            frameqa, msrvtt_qa; vqa: with several, each to some degree), a question with one of 5
            options (action, transition), captions that match or not (retrieval; msrvtt_mc: 5 a
            question), or captions with masked words (pretrain).
        num_labels: answers of a question's task; None: as published for the task.
        max_img_size: side of the square that uint8 frames are fitted into; None: they are taken
            as they are.
        image_mean, image_std: of red, green, blue from 0 to 255.
        score_agg_func: how scores of clips become those of the video: mean, max, or lse, the
            logarithm of summed exponentials.
        loss_type: ce; rank for matches, with ``margin`` and ``itm_neg_size`` captions that do not
            match after the one that does; bce for vqa.
        pixel_random_sampling_size: so many grid cells, drawn at random, are read in training of
            task pretrain; 0: all.
        freeze_cnn: of the CNN only the last convolution learns.
        dropout: its probability everywhere in the transformer.
        hidden_size, num_layers, num_heads, intermediate_size, vocab_size, max_position: of BERT.
        initializer_range: standard deviation of its initial weights.
        blocks, width, stem_width, outputs: of the CNN, see ``ResNet``.
        grid_rows, grid_cols: most that the grid of a frame has.
        encode_rows: texts x clips that BERT reads together in evaluation.
        encode_frames: frames that the CNN sees together in evaluation.

    Raises:
        ValueError: an option out of range, or options that do not go together.
    """

    task_heads = ("transformer.classifier.",)
    feature_inputs = ()  # frames and texts have any length
    benchmark_batch = 1
    published_weights = [checkpoints.ANETQA]
    initial_weights = [checkpoints.PRETRAINED]
    plain_operators = staticmethod(kernels.plain)  # context in which nothing is rearranged for CPU

    def __init__(
        self, task: Task = "anetqa", num_labels: int | None = None,
        max_img_size: int | None = 448, image_mean: list[float] = (123.675, 116.28, 103.53),
        image_std: list[float] = (1.0, 1.0, 1.0),
        score_agg_func: Literal["mean", "max", "lse"] = "mean",
        loss_type: Literal["ce", "rank", "bce"] = "ce", margin: float = 0.2, itm_neg_size: int = 1,
        pixel_random_sampling_size: int = 0, freeze_cnn: bool = False, dropout: float = 0.1,
        hidden_size: int = 768, num_layers: int = 12, num_heads: int = 12,
        intermediate_size: int = 3072, vocab_size: int = 30522, max_position: int = 512,
        initializer_range: float = DEVIATION,
        blocks: list[int] = (3, 4, 6, 3), width: int = 64, stem_width: int | None = None,
        outputs: int | None = None, grid_rows: int = 100, grid_cols: int = 100,
        encode_rows: int = 64, encode_frames: int = 16,
    ):  # fmt: skip
        super().__init__()
        _check_options(task, score_agg_func, loss_type)
        self.task, self.score_agg_func, self.loss_type = task, score_agg_func, loss_type
        self.margin, self.itm_neg_size = margin, itm_neg_size
        self.pictures = {"side": max_img_size, "mean": list(image_mean),
                         "deviation": list(image_std)}  # fmt: skip
        self.sampled_cells = pixel_random_sampling_size
        self.encode_rows, self.encode_frames = encode_rows, encode_frames
        self.cnn = GridCNN(hidden_size, blocks, width, stem_width, outputs, freeze_cnn)
        if max_img_size is not None:
            _check_side(max_img_size, self.cnn.side(max_img_size), min(grid_rows, grid_cols))
        self.transformer = Transformer(
            _width(task, loss_type, num_labels), grid_rows, grid_cols, vocab_size=vocab_size,
            hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads,
            intermediate_size=intermediate_size, max_position=max_position, dropout=dropout,
        )  # fmt: skip
        if initializer_range != DEVIATION:
            spread(self.transformer, initializer_range)

    # network

    def forward(self, batch: dict[str, Any]) -> dict[str, paddle.Tensor]:
        """Batch -> ``clip_scores`` (N, R, C) of N clips, and ``scores`` (R, C) of their videos.

        For questions with options R counts questions and C options. Task pretrain: ``hidden``
        (R, L, D) of the words and ``itm_scores`` (R, 2), of one clip.

        Raises:
            LabelError: the batch is one of another task, or has texts that BERT has no vectors for.
        """
        objectives.check_task(self.task, batch.get("task", self.task))
        table = self.transformer.bert.embeddings
        vectors = table.word_embeddings.weight, table.position_embeddings.weight
        objectives.check_texts(batch["ids"], *(x.shape[0] for x in vectors))
        return self.read(self.embed(self.grid(batch)), batch)

    def read(self, visual: paddle.Tensor, batch: dict[str, Any]) -> dict[str, paddle.Tensor]:
        """As ``forward``, of what ``embed`` made of the frames."""
        if self.task == "pretrain":
            visual = paddle.gather(visual.squeeze(1), batch["video"])
            hidden, scores = self.transformer.reconstruct(batch["ids"], batch["mask"], visual)
            return {"hidden": hidden, "itm_scores": scores}
        score = self._score if self.training else self._score_in_parts
        clip_scores = score(visual, batch["ids"], batch["mask"], batch["video"])
        if self.task in _CHOOSING:
            clip_scores = clip_scores.reshape([clip_scores.shape[0], -1, _CHOICES])
        scores = objectives.pool(clip_scores, self.score_agg_func)
        return {"clip_scores": clip_scores, "scores": scores}

    def grid(self, batch: dict[str, Any]) -> paddle.Tensor:
        """Grid cells (V, N, h, w, D) of the clips, each the mean over its frames."""
        frames = batch["frames"]
        videos, count = frames.shape[:2]
        length = count if self.task == "pretrain" else batch["num_frm"]
        frames = frames.flatten(0, 1)
        step = len(frames) if self.training else self.encode_frames
        cells = paddle.concat([
            self.cnn(prepared(frames[i : i + step], **self.pictures))
            for i in range(0, len(frames), step)
        ])  # fmt: skip
        return cells.reshape([videos, count // length, length, *cells.shape[1:]]).mean(2)

    def embed(self, grid: paddle.Tensor) -> paddle.Tensor:
        """Grid (V, N, h, w, D) -> what BERT reads, (V, N, cells, D)."""
        cells = self.draw_cells(grid.shape[2] * grid.shape[3]) if self.training else None
        visual = self.transformer.bert.visual_embeddings(grid.flatten(0, 1), cells)
        return visual.reshape([*grid.shape[:2], *visual.shape[1:]])

    def draw_cells(self, count: int) -> paddle.Tensor | None:
        """Indices of the cells that a training step reads, ascending; None: all."""
        if not 0 < self.sampled_cells < count:
            return None
        rng = np.random.default_rng(paddle.randint(0, 2**31 - 1, [1], dtype="int64").item())
        return paddle.to_tensor(np.sort(rng.choice(count, self.sampled_cells, replace=False)))

    def _score(
        self, visual: paddle.Tensor, ids: paddle.Tensor, mask: paddle.Tensor, video: paddle.Tensor
    ) -> paddle.Tensor:
        """Scores (N, R, C) of visual (V, N, cells, D) and texts (R, L) on their videos (R,)."""
        clips = visual.shape[1]
        visual = paddle.gather(visual, video).flatten(0, 1)
        ids, mask = (paddle.repeat_interleave(x, clips, 0) for x in (ids, mask))
        scores = self.transformer.scores(ids, mask, visual)
        return scores.reshape([-1, clips, scores.shape[1]]).transpose([1, 0, 2])

    def _score_in_parts(
        self, visual: paddle.Tensor, ids: paddle.Tensor, mask: paddle.Tensor, video: paddle.Tensor
    ) -> paddle.Tensor:
        """As ``_score``, a few texts of like length at a time, without the longer ones' padding."""
        lengths = mask.sum(1).astype("int64").numpy()
        order, found = np.argsort(lengths, kind="stable"), []
        step = max(1, self.encode_rows // visual.shape[1])
        for rows in (order[i : i + step] for i in range(0, len(order), step)):
            part = paddle.to_tensor(rows)
            ids_, mask_, video_ = (paddle.gather(x, part) for x in (ids, mask, video))
            longest = int(lengths[rows[-1]])
            found.append(self._score(visual, ids_[:, :longest], mask_[:, :longest], video_))
        return paddle.index_select(paddle.concat(found, 1), paddle.to_tensor(np.argsort(order)), 1)

    # objective

    def loss(self, outputs: dict, batch: dict) -> dict[str, paddle.Tensor]:
        """``loss``, the mean over rows; task pretrain: the sum of ``mlm`` and ``itm``.

        ``mlm`` is a mean over all places of all texts; those that no word is asked for count as 0.
        """
        if self.task == "pretrain":
            index, labels = objectives.masked_words(batch["mlm_labels"])
            mlm = objectives.cross_entropy(self.word_scores(outputs, index), labels).sum()
            mlm = mlm / batch["mlm_labels"].size
            itm = objectives.cross_entropy(outputs["itm_scores"], batch["itm_labels"]).mean()
            return {"loss": mlm + itm, "mlm": mlm, "itm": itm}
        scores = outputs["scores"]
        if self.loss_type == "rank":
            objectives.check_matches(batch["labels"], self.itm_neg_size)
            rows = objectives.ranking(scores, self.itm_neg_size, self.margin)
        elif self.loss_type == "bce":
            rows = objectives.soft_cross_entropy(scores, batch["labels"])
        else:
            objectives.check_labels(batch["labels"], scores.shape[1])
            rows = objectives.cross_entropy(scores, batch["labels"])
        return {"loss": rows.mean()}

    def word_scores(self, outputs: dict, index: paddle.Tensor) -> paddle.Tensor:
        """Scores (M, vocabulary) of the words at ``index`` in R * L."""
        return self.transformer.words(paddle.gather(outputs["hidden"].flatten(0, 1), index))

    # records

    def predict(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """Records: one per question, per video (retrieval) or per row (pretrain)."""
        records = self._records(self(batch), batch)
        for record, reference in zip(records, batch.get("references", ()), strict=False):
            record["reference"] = reference
        return records

    def _records(self, outputs: dict, batch: dict) -> list[dict[str, Any]]:
        if self.task == "pretrain":
            return self._reconstructions(outputs, batch)
        scores = outputs["scores"]
        if self.task in _CHOOSING:
            return _choices(batch["id"], scores.numpy())
        if self.task in _MATCHING:
            chances = objectives.match_probability(scores).numpy()
            if self.task == "msrvtt_mc":
                return _choices(batch["id"], chances.reshape(-1, _CHOICES))
            video = batch["video"].numpy()
            return [{"id": x, "scores": chances[video == v]} for v, x in enumerate(batch["id"])]
        chances = F.sigmoid(scores) if self.loss_type == "bce" else F.softmax(scores)
        return _answers(batch["id"], scores.numpy(), chances.numpy(), batch["answers"])

    def _reconstructions(self, outputs: dict, batch: dict) -> list[dict[str, Any]]:
        index, words = objectives.masked_words(batch["mlm_labels"])
        scores, rows = self.word_scores(outputs, index), len(batch["mlm_labels"])
        row = index.numpy() // batch["mlm_labels"].shape[1]

        def per_row(values: paddle.Tensor) -> np.ndarray:
            return np.bincount(row, values.numpy(), rows)

        itm, labels = outputs["itm_scores"], batch["itm_labels"]
        mlm_loss, tokens = per_row(objectives.cross_entropy(scores, words)), per_row(words >= 0)
        mlm_correct = per_row(scores.argmax(1) == words)
        itm_loss = objectives.cross_entropy(itm, labels).numpy()
        itm_correct = (itm.argmax(1) == labels).numpy()
        return [
            {"id": name, "mlm_loss": float(mlm_loss[i]), "mlm_tokens": int(tokens[i]),
             "mlm_correct": int(mlm_correct[i]), "itm_loss": float(itm_loss[i]),
             "itm_correct": int(itm_correct[i])}
            for i, name in enumerate(batch["id"])
        ]  # fmt: skip

    # tools

    def example_batch(self, size: int, seed: int = 0) -> dict[str, Any]:
        """A random training batch with the frames of the published configurations."""
        rng = np.random.default_rng(seed)
        length, clips = (1, 1) if self.task in ("vqa", "pretrain") else (2, 4)
        side, table = self.pictures["side"] or 224, self.transformer.bert.embeddings
        vocabulary, most = (x.weight.shape[0] for x in (table.word_embeddings,
                                                        table.position_embeddings))  # fmt: skip
        negatives = self.itm_neg_size if self.task in _MATCHING else 0
        texts = _CHOICES if self.task in _CHOOSING else 1 + negatives
        words = min(40, most)
        mask = np.arange(words) < rng.integers(words // 4, words + 1, (size * texts, 1))
        ids = rng.integers(1, vocabulary, mask.shape) * mask
        return {
            "frames": rng.integers(0, 256, (size, clips * length, 3, side, side), np.uint8),
            "num_frm": length,
            "ids": ids,
            "mask": mask.astype(np.float32),
            "video": np.repeat(np.arange(size), texts),
            **self._example_labels(ids, rng, texts),
        }

    def _example_labels(
        self, ids: np.ndarray, rng: np.random.Generator, texts: int
    ) -> dict[str, np.ndarray]:
        rows = len(ids)
        if self.task == "pretrain":
            words = np.where((ids > 0) & (rng.random(ids.shape) < 0.15), ids, -100)
            return {"itm_labels": rng.integers(0, 2, rows), "mlm_labels": words}
        if self.task in _MATCHING:
            return {"labels": (np.arange(rows) % texts == 0).astype(np.int64)}
        if self.task in _CHOOSING:
            return {"labels": rng.integers(0, _CHOICES, rows // _CHOICES)}
        answers = self.transformer.classifier[2].weight.shape[1]
        if self.task == "vqa":
            return {"labels": rng.random((rows, answers), np.float32)}
        return {"labels": rng.integers(0, answers, rows)}

    def flops(self, batch: dict[str, Any]) -> int:
        """Multiplications and additions of convolutions and matrix products of a forward pass."""
        videos, frames, _, height, width = batch["frames"].shape
        if self.pictures["side"]:
            height = width = self.pictures["side"]
        pairs, length = batch["ids"].shape
        pairs *= 1 if self.task == "pretrain" else frames // batch["num_frm"]
        cells = self.cnn.side(height) * self.cnn.side(width)
        if self.training and self.sampled_cells:
            cells = min(cells, self.sampled_cells)
        found = videos * frames * self.cnn.products(height, width)
        first = length if self.task == "pretrain" else 1
        return 2 * (found + pairs * self.transformer.products(length + cells, first))

    @staticmethod
    def convert(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Published names and layouts to ours, see ``checkpoints.convert``."""
        return checkpoints.convert(state)


def _check_options(task: str, score_agg_func: str, loss_type: str) -> None:
    if task not in get_args(Task):
        raise ValueError(f"task: expected one of {', '.join(get_args(Task))}, found {task!r}")
    losses = _LOSSES.get(task, ("ce",))
    if score_agg_func not in ("mean", "max", "lse"):
        raise ValueError(f"score_agg_func: expected mean, max or lse, found {score_agg_func!r}")
    if loss_type not in losses:
        raise ValueError(
            f"loss_type: expected {' or '.join(losses)} for task {task}, found {loss_type!r}"
        )
    if score_agg_func == "lse" and loss_type != "ce":
        raise ValueError(f"score_agg_func: expected mean or max with loss_type {loss_type}")


def _check_side(pixels: int, cells: int, most: int) -> None:
    if not 1 <= cells <= most:
        raise ValueError(
            f"max_img_size: expected a grid of 1 to {most} cells a side, found {cells} for "
            f"{pixels} pixels"
        )


def _width(task: str, loss_type: str, num_labels: int | None) -> int | None:
    """Scores of a row; None: no classifier."""
    if task == "pretrain":
        return None
    if task in _CHOOSING:
        return 1
    if task in _MATCHING:
        return 1 if loss_type == "rank" else 2
    return num_labels or _LABELS[task]


def _choices(names: list[str], scores: np.ndarray) -> list[dict[str, Any]]:
    """Records of questions with scores (R, 5) of their options."""
    return [
        {"id": name, "scores": row, "answer": int(row.argmax())}
        for name, row in zip(names, scores, strict=True)
    ]


def _answers(
    names: list[str], scores: np.ndarray, chances: np.ndarray, answers: list[str]
) -> list[dict[str, Any]]:
    """Records of questions with scores and probabilities (R, C) of their answers.

    Labels from ``len(answers)`` on, which a wide head may have, are no answers.
    """
    scores = scores[:, : len(answers)]
    count = min(_TOP, scores.shape[1])
    some = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    some.sort(1)  # of equal scores the first label wins
    order = np.argsort(-np.take_along_axis(scores, some, 1), 1, kind="stable")
    records = []
    for name, labels, row in zip(names, np.take_along_axis(some, order, 1), chances, strict=True):
        top = [[answers[label], float(row[label])] for label in labels]
        records.append({"id": name, "label": int(labels[0]), "answer": top[0][0],
                        "score": top[0][1], "top": top})  # fmt: skip
    return records
