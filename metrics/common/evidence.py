# SPDX-License-Identifier: Apache-2.0
"""Answers with evidence, scored as TVQA+ does: accuracy, temporal overlap, grounding of words.

A prediction is an answer, a span in seconds, and boxes of words in frames. It may come from a
network or from a published result file; both are turned into ``Prediction`` and meet in
``Evidence``. Source: eval_tvqa_plus.py of github.com/jayleicn/TVQAplus (arXiv:1904.11574).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from .boxes import Boxes, average_precisions
from .errors import DataError
from .grounding import span_iou

logger = logging.getLogger("vlzoo")

CHOICES = 5  # answers to choose from
ANY_ANSWER = -1  # of boxes that belong to the question alone
UNKNOWN_WORD = 0  # id of <unk>; the evaluation leaves out its boxes
FPS, _INTERVAL = 3, 6  # frame ids count from 1; every sixth is used
_MAX_FRAMES = 300  # frames of a longer clip are not used
_RECALLS = np.arange(0.1, 1, 0.1)
_JOINT_IOU = 0.5


@dataclass(frozen=True)
class Generated:
    """An answer in words, and how likely the candidates are."""

    answer: str
    score: float  # log-probability, after beam search normalised by length
    means: np.ndarray  # (candidates,) mean log-likelihood of a token; empty: none are given
    sums: np.ndarray | None  # (candidates,) log-likelihood; not in result files


@dataclass(frozen=True)
class Prediction:
    """What is scored of a question."""

    answer: int | None  # None: boxes alone were predicted, or there are no candidates
    span: tuple[float, float] | None  # seconds
    entries: np.ndarray  # (E, 4) int64 rows: answer or ANY_ANSWER, frame, word, number of boxes
    boxes: np.ndarray  # (B, 4) float64 [x1, y1, x2, y2], entry after entry
    scores: np.ndarray  # (B,) float64
    generated: Generated | None = None

    def lists(self) -> Iterator[tuple[int, int, int, np.ndarray, np.ndarray]]:
        """(answer, frame id, word id, boxes (n, 4), scores (n,)) of every entry."""
        start = 0
        for answer, frame, word, count in self.entries.tolist():
            part = slice(start, start := start + count)
            yield answer, frame, word, self.boxes[part], self.scores[part]


def frame_time(frame: int) -> float:
    """Second at which a frame id lies."""
    return (frame - 1) / FPS


def span_seconds(
    first: int, last: int, first_frame: int, *, exact: bool = False, clip_frames: int = 0
) -> tuple[float, float]:
    """Seconds from the start of a frame to the end of another.

    Args:
        first: position of the first frame among those used.
        last: position of the last one, inclusive.
        first_frame: frame id at position 0.
        exact: frames start where they lie; the published rule rounds the offset of the first one
            (0 to 5/3 s) to 0 or 1 s.
        clip_frames: length of the clip when seconds are to be stretched as training labels of
            clips beyond 300 frames were shrunk; the published result is not.
    """
    offset = frame_time(first_frame) if exact else first_frame % _INTERVAL // FPS
    step, stretch = _INTERVAL // FPS, max(1, clip_frames / _MAX_FRAMES)
    return (step * first + offset) * stretch, (step * (last + 1) + offset) * stretch


def box_arrays(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """``entries``, ``boxes`` and ``scores`` of a ``Prediction`` from a record that has them.

    Raises:
        DataError: missing, of a wrong shape, or not finite.
    """
    entries = array(record, "entries", (None, 4), np.int64)
    choices = max(CHOICES, np.size(record.get("answer_scores", ())))
    if (entries < 0).any() or (entries[:, 0] >= choices).any():
        raise DataError(
            f"record {record['id']}: expected entries of answers 0 to {choices - 1} and no "
            "negative number, found others"
        )
    total = int(entries[:, 3].sum())
    boxes, scores = array(record, "boxes", (total, 4)), array(record, "box_scores", (total,))
    return {"entries": entries, "boxes": boxes, "scores": scores}


def array(
    record: Mapping[str, Any], key: str, shape: tuple[int | None, ...], dtype: type = np.float64
) -> np.ndarray:
    """An array of a record with the expected shape (None: any length) and finite numbers.

    Raises:
        DataError: it is missing or not like that.
    """
    name = f"record {record.get('id')}: expected {key}"
    if key not in record:
        raise DataError(f"{name}, found none")
    try:
        given = np.asarray(record[key])
        if dtype is np.int64 and given.dtype.kind not in "iu":
            raise ValueError(f"{given.dtype} instead of whole numbers")
        found = given.astype(dtype)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} as numbers, found: {error}") from None
    sizes = zip_longest(shape, found.shape, fillvalue=-1)
    if found.shape != tuple(n if m is None else m for m, n in sizes):
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise DataError(f"{name} of shape ({expected}), found {found.shape}")
    if not np.isfinite(found).all():
        raise DataError(f"{name} to be finite, found NaN or infinity")
    return found


class Evidence:
    """Predictions of one data set against its references.

    Args:
        protocol: "published": accuracy and overlaps are means over the questions that have an
            answer; "strict": over all, and one without an answer is wrong. Average precision is
            over all true boxes either way.

    Raises:
        ValueError: another protocol.
    """

    def __init__(self, protocol: str = "published"):
        if protocol not in ("published", "strict"):
            raise ValueError(f"protocol: expected published or strict, found {protocol}")
        self.protocol = protocol
        self.references: dict[str, Mapping[str, Any]] = {}
        self.predictions: dict[str, Prediction] = {}
        self._expected = False
        self._scores: dict[str, Any] | None = None

    def expect(self, references: Mapping[str, Mapping[str, Any]]) -> None:
        """Say what is to be answered; start afresh.

        Args:
            references: id -> {vid_name, question, choices, and where known: answer, moment
                [start, end] in seconds, objects {frame id: [(label, word id, box), …]}}.
        """
        self.references, self.predictions = dict(references), {}
        self._expected, self._scores = True, None

    def reference(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """The reference of a record that is to be added; its own one without ``expect``.

        Raises:
            DataError: the record's id is unknown or has been there before.
        """
        name = record.get("id")
        if self._expected and name not in self.references:
            raise DataError(
                f"record {name}: expected one of the {len(self.references)} questions of this data "
                "set; score predictions with the configuration that made them"
            )
        if name in self.predictions:
            raise DataError(f"record {name}: expected one record of a question, found another")
        if not self._expected:
            own = {"vid_name": record.get("vid_name", name)}
            self.references[name] = own | record.get("reference", {})
        return self.references[name]

    def add(self, name: str, prediction: Prediction) -> None:
        """Take the prediction of a question."""
        self.predictions[name] = prediction
        self._scores = None

    def predicted(self) -> Iterator[tuple[str, Mapping[str, Any], Prediction]]:
        """(id, reference, prediction) in the order of the references."""
        for name, reference in self.references.items():
            if name in self.predictions:
                yield name, reference, self.predictions[name]

    @property
    def has_answers(self) -> bool:
        """Do the references say what is right?"""
        return any("answer" in reference for reference in self.references.values())

    def missing(self) -> list[str]:
        """Ids of questions that nobody answered."""
        answered = {name for name, p in self.predictions.items() if p.answer is not None}
        return [name for name in self.references if name not in answered]

    def scores(self) -> dict[str, Any]:
        """Accuracy, overlaps, ``overall_map``, and ``metrics_per_class`` of every label.

        Returns:
            The published result: numbers in 0…1, and label -> {ap, class_id, precisions, recalls,
            n_tp, n_fp, n_positives, label}.
        """
        if self._scores is None:
            per_class = self._grounding()
            precisions = [c["ap"] for c in per_class.values()]
            self._scores = {
                "metrics_per_class": per_class,
                "overall_map": float(np.mean(precisions)) if precisions else 0.0,
                **self._answers(),
            }
        return self._scores

    def counted(self) -> Iterator[tuple[Mapping[str, Any], Prediction | None]]:
        """(reference, prediction or None) of the questions that accuracy is the mean of."""
        for name, reference in self.references.items():
            found = self.predictions.get(name)
            if found is not None and found.answer is None:
                found = None
            if "answer" in reference and (found is not None or self.protocol == "strict"):
                yield reference, found

    def _answers(self) -> dict[str, float]:
        """Means over the questions that count."""
        missing, strict = self.missing(), self.protocol == "strict"
        if missing:
            logger.warning(
                "%d of %d questions have no answer and %s, the first is %s", len(missing),
                len(self.references), "count as wrong" if strict else "are left out", missing[0],
            )  # fmt: skip
        rows = []  # right, predicted start and end, true start and end
        for reference, found in self.counted():
            right = found is not None and found.answer == reference["answer"]
            span = found.span if found is not None else (0, 0)
            rows.append((right, *span, *reference.get("moment", (0, 0))))
        if not rows:
            logger.warning("nothing to score: expected answers of questions with known ones")
            rows = [(0.0,) * 5]
        table = np.array(rows, np.float64)
        right, iou = table[:, 0], span_iou(table[:, 1:3], table[:, 3:])
        recall = {f"R@{r:.2f}": float(np.mean(iou >= r)) for r in _RECALLS}
        joint = float(np.mean(right * (iou >= _JOINT_IOU)))
        means = {"miou": float(iou.mean()), "ans_span_joint_acc@.5": joint}
        return recall | means | {"qa_acc": float(right.mean())}

    def _grounding(self) -> dict[str, dict[str, Any]]:
        """Average precision of every label of the true boxes."""
        truth, images, labels = self._truth()
        pairs = zip(truth.image.tolist(), truth.label.tolist(), strict=True)
        found = self._found(images, {*pairs})
        return {
            labels[word]: {
                "ap": scores["ap"],
                "class_id": word,
                "precisions": scores["precisions"].tolist(),
                "recalls": scores["recalls"].tolist(),
                **{key: scores[key] for key in ("n_tp", "n_fp", "n_positives")},
                "label": labels[word],
            }
            for word, scores in average_precisions(truth, found).items()
        }

    def _truth(self) -> tuple[Boxes, dict[tuple[str, int], int], dict[int, str]]:
        """True boxes, (id, frame) -> image for all frames with ground truth, word id -> label."""
        images: dict[tuple[str, int], int] = {}
        labels: dict[int, str] = {}
        rows = []  # image, word id, box
        for name, reference in self.references.items():
            for frame, objects in reference.get("objects", {}).items():
                image = images.setdefault((name, frame), len(images))
                for label, word, box in objects:
                    if word != UNKNOWN_WORD:
                        labels[word] = label
                        rows.append((image, word, *box))
        table = np.array(rows, np.float64).reshape(-1, 6)
        return Boxes(*table[:, :2].astype(np.int64).T, table[:, 2:]), images, labels

    def _found(
        self, images: Mapping[tuple[str, int], int], annotated: set[tuple[int, int]]
    ) -> Boxes:
        """Boxes predicted for the right answer, of words (image, word id) that are annotated."""
        parts, absent = [], []
        for name, reference, prediction in self.predicted():
            answer = reference.get("answer")
            image = np.full(len(prediction.entries), -1)
            for e, (k, frame, word, _) in enumerate(prediction.entries.tolist()):
                if answer is None or k not in (answer, ANY_ANSWER) or word == UNKNOWN_WORD:
                    continue
                if (name, frame) not in images:
                    absent.append((name, frame))
                elif (images[name, frame], word) in annotated:
                    image[e] = images[name, frame]
            count = prediction.entries[:, 3]
            image, word = np.repeat(image, count), np.repeat(prediction.entries[:, 2], count)
            kept = image >= 0
            parts.append((image[kept], word[kept], prediction.boxes[kept], prediction.scores[kept]))
        if absent:
            logger.warning(
                "%d lists of boxes in frames without ground truth are skipped, the first is of "
                "question %s, frame %d", len(absent), *absent[0],
            )  # fmt: skip
        parts.append((*np.zeros((2, 0), np.int64), np.zeros((0, 4)), np.zeros(0)))
        return Boxes(*(np.concatenate(column) for column in zip(*parts, strict=True)))
