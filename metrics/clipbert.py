# SPDX-License-Identifier: Apache-2.0
"""Metrics of ClipBERT's tasks, and their published result files.

    task                numbers                                 an entry of the result file
    anetqa              overall and every category              {question_id, answer: text}
    frameqa, msrvtt_qa  overall_acc, <type>_acc                 {question_id, answer: label, data}
    action, transition  overall_acc                             {question_id, answer: option, data}
    vqa                 overall_acc, <type>_acc (VQA score)     {question_id, answer: text}
    retrieval           text2video_r1, …, video2text_meanR      {vid_id, txt_id, score}
    msrvtt_mc           mc_accuracy                             question id: option
    pretrain            mlm_acc, mlm_loss, itm_acc, itm_loss    (no such file)

Recalls (r1, r5, r10) and mc_accuracy are per cent, all other accuracies fractions; none is rounded.
Sources: github.com/jayleicn/ClipBERT (arXiv:2102.06183); github.com/MILVLG/anetqa-code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .common.answers import TypedAnswers, WordAnswers
from .common.choices import Choices
from .common.errors import DataError
from .common.facade import Facade
from .common.files import read_json, write_json
from .common.pretraining import Pretraining
from .common.records import Records
from .common.result_rows import read_rows, write_rows
from .common.retrieval import ABSENT, DECIMALS, Retrieval
from .common.taxonomy import TaxonomyAnswers

Task = Literal[
    "anetqa", "frameqa", "msrvtt_qa", "action", "transition", "retrieval", "msrvtt_mc", "vqa",
    "pretrain",
]  # fmt: skip

_TYPES = {
    "frameqa": ("object", "number", "color", "location"),
    "msrvtt_qa": ("what", "who", "how", "where", "when"),
    "vqa": ("yes/no", "number", "other"),
}
_UNKNOWN = "<UNK>"  # a label beyond the answers


class Metric(Facade):
    """Accuracy of answers, retrieval, or pretraining.

    Args:
        task: as of the network and the reader.
        strict: a missing or an unknown id is an error; otherwise the former is wrong (and belongs
            to no mean of pretraining), the latter ignored, and both are reported.
        ans2label: tasks with answers in words: file {answer: label}. It names the labels of a
            result file of frameqa and msrvtt_qa, and what random answers are drawn from.
        round_scores: retrieval: rank by scores of 4 decimals, as the published results do; ties
            are broken by order in the file.

    Raises:
        ValueError: an option out of range, or one that the task has no use for.
    """

    def __init__(
        self,
        task: Task = "anetqa",
        strict: bool = False,
        ans2label: str | None = None,
        round_scores: bool = False,
    ):
        super().__init__(_scorer(task, strict, round_scores))
        if ans2label and not isinstance(self._scorer, WordAnswers):
            raise ValueError(f"ans2label: expected with answers in words, found it with {task}")
        if round_scores and task != "retrieval":
            raise ValueError(f"round_scores: expected with retrieval, found it with {task}")
        self.task, self.ans2label = task, ans2label

    def expect(self, references: Mapping[str, Mapping[str, Any]]) -> None:
        """Say what is to be answered, {id: reference}; start afresh.

        What a reference has: ``question``, ``video``, and where known ``answer`` (a text, or the
        number of one of ``choices``), ``answer_type``, ``taxonomy``; vqa: ``labels`` {answer:
        score}; retrieval: ``texts``, ``captions``, ``count``; pretrain: ``caption``.
        """
        super().expect(references)

    def random(self, records: Sequence[dict], rng: np.random.Generator) -> list[dict]:
        """The records with everything drawn by lot; answers from ans2label or from all they name.

        Raises:
            DataError: ans2label cannot be read.
        """
        if self.ans2label:
            return self._scorer.random(records, rng, [*self._words().values()])
        return self._scorer.random(records, rng)

    def write(
        self, folder: str | os.PathLike, model_name: str, mode: str, topk: int | None = None
    ) -> Path:
        """Write ``results_all.json`` and return its path.

        That is the published result file: best answers alone, whatever ``topk``. For mode "test",
        if true answers are known, ``scores.json`` comes beside it, whose accuracies of the
        original question answering tasks are per cent with two decimals. Pretraining has scores
        only, whose path is then the returned one.
        """
        scores = self._write_scores(folder, mode, always=self.task == "pretrain")
        if self.task == "pretrain":
            return scores
        path = scores.with_name("results_all.json")
        if self.task == "msrvtt_mc":
            return write_json(path, {name: answer for name, _, answer in self._scorer.predicted()})
        rows = _pairs if self.task == "retrieval" else self._answer_rows
        return write_rows(path, rows(self._scorer.predicted()))

    def read(self, path: str | os.PathLike) -> list[dict]:
        """Records of a result file of the task, .json or .json.gz; after ``expect``.

        Raises:
            DataError: the file is missing or not of that form, or ans2label is needed.
        """
        if self.task == "pretrain":
            raise DataError(f"{path}: pretraining has no result file; give a predictions.jsonl")
        if self.task == "retrieval":
            rows = read_rows(path, ("vid_id", "txt_id", "score"))
            return _scored_pairs(path, rows, self._scorer.references)
        if self.task == "msrvtt_mc":
            options = read_json(path)
            if not isinstance(options, dict):
                raise DataError(f"{path}: expected an object {{question id: option}}, found none")
            return [{"id": name, "answer": option} for name, option in options.items()]
        rows = read_rows(path, ("question_id", "answer"))
        if self.task in ("frameqa", "msrvtt_qa"):
            return self._labelled(path, rows)
        return [{"id": str(row["question_id"]), "answer": row["answer"]} for row in rows]

    def _labelled(self, path: str | os.PathLike, rows: Sequence[dict]) -> list[dict]:
        """Records of labels that ans2label names."""
        if not self.ans2label:
            raise DataError(
                f"{path}: the file has labels instead of answers; set METRIC.ans2label to the file "
                "{answer: label} of the training"
            )
        words, records = self._words(), []
        for n, row in enumerate(rows):
            if type(label := row["answer"]) is not int:
                raise DataError(f"{path}: result {n}: expected a label as answer, found {label!r}")
            answer = words.get(label, _UNKNOWN)
            records.append({"id": str(row["question_id"]), "answer": answer, "label": label})
        return records

    def _words(self) -> dict[int, str]:
        """Label -> answer."""
        labels = read_json(self.ans2label)
        if not isinstance(labels, dict) or set(map(type, labels.values())) != {int}:
            raise DataError(f"{self.ans2label}: expected an object {{answer: label}}, found none")
        return {label: answer for answer, label in labels.items()}

    def _answer_rows(self, predicted: Iterator[tuple]) -> Iterator[dict[str, Any]]:
        """Entries of the result file of a question answering task."""
        numbered, original = self.task != "anetqa", self.task not in ("anetqa", "vqa")
        for name, reference, answer, *label in predicted:
            number = int(name) if numbered and name.isdecimal() else name
            row = {"question_id": number, "answer": answer}
            if original:
                row["answer"] = label[0] if label else answer
                row["data"] = _example(reference, number)
            yield row


def _scorer(task: str, strict: bool, round_scores: bool) -> Records:
    """What takes the records of a task."""
    if task == "anetqa":
        return TaxonomyAnswers(strict)
    if task in _TYPES:
        return TypedAnswers(_TYPES[task], strict, soft=task == "vqa")
    if task in ("action", "transition", "msrvtt_mc"):
        return Choices(strict, percent=task == "msrvtt_mc")
    if task == "retrieval":
        return Retrieval(strict, round_scores)
    if task == "pretrain":
        return Pretraining(strict)
    raise ValueError(f"task: expected one of {', '.join(get_args(Task))}, found {task}")


def _example(reference: Mapping[str, Any], number: int | str) -> dict[str, Any]:
    """A question under the names of the published files."""
    names = {"question": "question", "video": "vid_id", "choices": "options", "answer": "answer",
             "answer_type": "answer_type"}  # fmt: skip
    example = {names[key]: reference[key] for key in names if key in reference}
    return example | {"question_id": number}


def _pairs(predicted: Iterator[tuple]) -> Iterator[dict[str, Any]]:
    """Entries of a retrieval result: all captions of a video, video after video."""
    for name, _, scores in predicted:
        for text, score in enumerate(np.round(scores.astype(np.float64), DECIMALS).tolist()):
            yield {"vid_id": name, "txt_id": text, "score": score}


def _scored_pairs(
    path: str | os.PathLike, rows: Sequence[dict], references: Mapping[str, Mapping]
) -> list[dict]:
    """Records of the pairs of a retrieval result; of equal pairs the first one counts."""
    count = max((r.get("count", 0) for r in references.values()), default=0)
    videos: dict[str, np.ndarray] = {}
    for n, row in enumerate(rows):
        text, score = row["txt_id"], row["score"]
        if type(text) is not int or not 0 <= text < count or type(score) not in (int, float):
            raise DataError(
                f"{path}: result {n}: expected txt_id from 0 to {count - 1} and a number as score, "
                f"found {text!r} and {score!r}"
            )
        scores = videos.get(name := str(row["vid_id"]))
        if scores is None:
            scores = videos[name] = np.full(count, ABSENT, np.float32)
        if scores[text] == ABSENT:
            scores[text] = score
    return [{"id": name, "scores": scores} for name, scores in videos.items()]
