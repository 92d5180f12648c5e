# SPDX-License-Identifier: Apache-2.0
"""Annotations of ClipBERT's tasks: questions, options and captions, one JSON object a line.

ANetQA alone has 1.4 million questions: a file is read through once, and what is kept of a line are
some numbers (where it starts, its video, its label). Texts are read from the file when needed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from .errors import DataError
from .json_lines import read_at, read_blocks
from .layout import find
from .tvqa_plus import read_json

logger = logging.getLogger("vlzoo")

OPTIONS = 5  # of a question of multiple choice
UNKNOWN = "<UNK>"  # the answer that stands for all others


class Record(NamedTuple):
    """A line."""

    id: str | None  # None: the line's number is its id
    video: str  # or image
    text: str | None  # question or caption
    options: Sequence[str]  # of multiple choice
    answer: Any  # text, number of the option, or {answer: score}; None where unknown
    kind: str | None  # of the answer, a name


class Format(NamedTuple):
    """What the lines of a task hold."""

    text: str | None  # key of the question or caption
    answer: str | None  # "text", "option", "scores"; None: there is none
    ids: tuple[str, ...] = ()  # keys of the id
    video: tuple[str, ...] = ("gif_name", "video_id", "clip_name")  # keys of the video or image


_QUESTION = Format("question", "text")
_CHOICE = Format("question", "option")
FORMATS = {
    "anetqa": _QUESTION._replace(ids=("key", "qa_id")),
    "frameqa": _QUESTION,
    "msrvtt_qa": _QUESTION,
    "action": _CHOICE,
    "transition": _CHOICE,
    "retrieval": Format("caption", None),
    "msrvtt_mc": Format(None, "option", ("qid",)),
    "vqa": Format("question", "scores", ("question_id",), ("image_id",)),
    "pretrain": Format("caption", None, (), ("coco_id", "vg_id", *_QUESTION.video)),
}


def parse(task: str, line: Mapping[str, Any], answered: bool = False) -> Record:
    """One line of a task's annotations.

    Args:
        answered: must it have an answer?

    Raises:
        ValueError: a key is missing or holds something else; says which.
    """
    form = FORMATS[task]
    text = None if form.text is None else _text(line, form.text)
    options = _options(line) if form.answer == "option" else ()
    key = "labels" if form.answer == "scores" else "answer"
    answer = line.get(key) if form.answer else None
    if answer is not None:
        answer = _ANSWERS[form.answer](answer)
    elif answered and form.answer:
        raise ValueError(f"expected an answer for training as {key}, found none")
    name = _name(line, form.ids) if form.ids else None
    return Record(name, _name(line, form.video), text, options, answer, line.get("answer_type"))


def _text(line: Mapping[str, Any], key: str) -> str:
    if not isinstance(value := line.get(key), str):
        raise ValueError(f"expected text as {key}, found {value!r:.40}")
    return value


def _name(line: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The first of these keys that there is, as text; numbers are names, too."""
    for key in keys:
        value = line.get(key)
        if isinstance(value, str) and value:
            return value
        if type(value) is int:
            return str(value)
    raise ValueError(f"expected a name as {' or '.join(keys)}, found none")


def _options(line: Mapping[str, Any]) -> list[str]:
    options = line.get("options")
    if not isinstance(options, list) or not all(isinstance(each, str) for each in options):
        raise ValueError(f"expected {OPTIONS} texts as options, found {options!r:.40}")
    if len(options) != OPTIONS:
        raise ValueError(f"expected {OPTIONS} options, found {len(options)}")
    return options


def _text_answer(answer: Any) -> str:
    if not isinstance(answer, str):
        raise ValueError(f"expected text as answer, found {answer!r:.40}")
    return answer


def _option_answer(answer: Any) -> int:
    if not isinstance(answer, str | int) or str(answer) not in map(str, range(OPTIONS)):
        raise ValueError(f"expected 0 to {OPTIONS - 1} as answer, found {answer!r:.40}")
    return int(answer)


def _scores(answer: Any) -> dict[str, float]:
    if not isinstance(answer, dict) or not all(isinstance(s, int | float) for s in answer.values()):
        raise ValueError(f"expected scores by answer as labels, found {answer!r:.40}")
    return answer


_ANSWERS = {"text": _text_answer, "option": _option_answer, "scores": _scores}


def read_answers(path: str | os.PathLike) -> dict[str, int]:
    """Answer -> label of a JSON file; labels are 0 to n - 1.

    Raises:
        DataError: unreadable, or other labels.
    """
    labels = read_json(find(path))
    found = sorted(v for v in labels.values() if type(v) is int)
    if not labels or found != list(range(len(labels))):
        raise DataError(
            f"{path}: expected a label of 0 to {len(labels) - 1} for each of {len(labels)} "
            "answers, every one once, found others"
        )
    return labels


def _columns(
    task: str, lines: list[dict], answered: bool
) -> tuple[Sequence[str], Sequence[str | None]] | None:
    """Videos and answers of open questions or captions, if all lines are as they should be.

    That is told in a fraction of the time that looking at them one by one takes.
    """
    form, keys = FORMATS[task], lines[0].keys()
    if form.answer not in (None, "text") or any(line.keys() != keys for line in lines):
        return None

    def column(*names: str | None) -> tuple[list, set[type]]:
        key = next((name for name in names if name in keys), "")
        values = [line.get(key) for line in lines]
        return values, set(map(type, values))

    named = [column(*form.video), *([column(*form.ids)] if form.ids else [])]
    answers, kinds = column("answer") if form.answer else ([None] * len(lines), set())
    fine = column(form.text)[1] == {str} and kinds <= ({str} if answered else {str, type(None)})
    if not fine or any(not kinds <= {str, int} or "" in values for values, kinds in named):
        return None
    return list(map(str, named[0][0])), answers


class Annotations:
    """All lines of one or several files of a task.

    Args:
        labels: answer -> label, for open questions.
        training: answers must be there; those without a label get that of ``<UNK>``, or 0, with a
            warning.

    Attributes:
        videos: names, in order of first appearance.
        video: int32 (R,), which of them a line is about.
        label: int32 (R,), label of the answer or number of the option; -1 where unknown.

    Raises:
        DataError: unreadable, empty, or a damaged line; names file and line.
    """

    def __init__(
        self,
        task: str,
        paths: Sequence[str],
        labels: Mapping[str, int] | None = None,
        training: bool = False,
    ):
        self._task, self._paths, self._labels = task, list(paths), labels or {}
        self._training, self._open = training, FORMATS[task].answer == "text"
        names: dict[str, int] = {}
        parts = [part for file in range(len(paths)) for part in self._scan(file, names)]
        if not parts:
            raise DataError(f"{paths[0]}: expected annotations, found none")
        self._file, self._offset, self.video, self.label = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        self.videos = list(names)

    def __len__(self) -> int:
        return len(self.video)

    def _scan(self, file: int, names: dict[str, int]) -> Iterator[tuple[np.ndarray, ...]]:
        """(file, offset, video, label) of some lines at a time."""
        unknown, example, replacement = 0, "", self._labels.get(UNKNOWN, 0)
        for numbers, offsets, lines in read_blocks(find(self._paths[file])):
            columns = _columns(self._task, lines, self._training)
            if columns is None:
                records = self._parse(file, numbers, lines)
                columns = [r.video for r in records], [r.answer for r in records]
            videos, answers = columns
            labels = np.array(self._number(answers), np.int32)
            if self._training and self._open and (labels < 0).any():
                unknown += int((labels < 0).sum())
                example = example or answers[int(labels.argmin())]
                labels[labels < 0] = replacement
            video = np.array([names.setdefault(name, len(names)) for name in videos], np.int32)
            yield np.full(len(lines), file, np.int16), offsets, video, labels
        if unknown:
            logger.warning(
                "%s: the answers of %d questions, such as %r, have no label; %d is learned instead",
                self._paths[file], unknown, example, replacement,
            )  # fmt: skip

    def _number(self, answers: Sequence[Any]) -> list[int]:
        """Labels of answers, numbers of options."""
        if self._open:
            return [self._labels.get(answer, -1) for answer in answers]
        return [answer if isinstance(answer, int) else -1 for answer in answers]

    def _parse(self, file: int, numbers: np.ndarray, lines: list[dict]) -> list[Record]:
        records: list[Record] = []
        try:
            for line in lines:
                records.append(parse(self._task, line, self._training))
        except ValueError as error:
            where = f"{self._paths[file]}:{numbers[len(records)]}"
            raise DataError(f"{where}: {error}") from None
        return records

    def read(self, rows: Sequence[int]) -> list[Record]:
        """Records of some lines."""
        records = []
        for file, part in groupby(rows, self._file.__getitem__):
            lines = read_at(find(self._paths[file]), self._offset[list(part)])
            records += [parse(self._task, line) for line in lines]
        return records

    def __iter__(self) -> Iterator[Record]:
        for file, path in enumerate(self._paths):
            for numbers, _, lines in read_blocks(find(path)):
                yield from self._parse(file, numbers, lines)
