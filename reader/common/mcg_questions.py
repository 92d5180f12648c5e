# SPDX-License-Identifier: Apache-2.0
"""Open questions about videos, in JSON lines (MSVD-QA, MSRVTT-QA) or NExT-QA's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from . import csv_rows, json_lines
from .clipbert_records import parse
from .errors import DataError
from .layout import find
from .tvqa_plus import read_json

_COLUMNS = ("video", "question", "qid", "type")  # of a table; `answer` may be absent for filelists


class Question(NamedTuple):
    """A row."""

    id: str
    video: str  # its name, or, where places are known, its path without ending
    text: str
    answer: str | None
    kind: str  # what, who, ..., or NExT-QA's CW, CH, ...
    index: int | None = None  # number of the row of a table
    second: str | None = None  # another right answer

    def reference(self) -> dict[str, Any]:
        """What is known, under the names that metrics use."""
        known = {
            "question": self.text, "answer": self.answer, "answer_type": self.kind,
            "video": self.video, "index": self.index, "second": self.second,
        }  # fmt: skip
        return {key: value for key, value in known.items() if value is not None}


def read_questions(
    paths: Sequence[str],
    *,
    answered: bool = False,
    places: str | None = None,
    seconds: str | None = None,
) -> list[Question]:
    """Questions of all files, in their order. Files called .csv are tables.

    The id of a line of JSON is its number from 0, over all files; of a row of a table
    ``<video>_<qid>``, since NExT-QA counts the questions of each video by itself.

    Args:
        answered: must all have an answer?
        places: JSON file {video: path in the folder, without ending}, of tables.
        seconds: JSON file {video: {qid: second reference}}, of tables.

    Raises:
        DataError: unreadable, empty, a damaged row, an id twice; names file and line.
    """
    where = None if places is None else _read_map(places, str)
    more = {} if seconds is None else _read_map(seconds, dict)
    found: list[Question] = []
    for path in paths:
        table = str(path).lower().endswith(".csv")
        rows = _table(path, where, more) if table else _lines(path, len(found))
        for line, question in rows:
            if answered and question.answer is None:
                raise DataError(f"{path}:{line}: expected an answer for training, found none")
            found.append(question._replace(index=len(found)) if table else question)
    if not found:
        raise DataError(f"{paths[0]}: expected questions, found none")
    _require_once(found)
    return found


def _read_map(path: str, kind: type) -> dict[str, Any]:
    """A JSON file {video: value}, each a ``kind``."""
    values = read_json(find(path))
    if bad := next((k for k, value in values.items() if not isinstance(value, kind)), None):
        raise DataError(f"{path}: {bad}: expected a {kind.__name__}, found {values[bad]!r:.40}")
    return values


def _require_once(found: Sequence[Question]) -> None:
    seen: set[str] = set()
    for question in found:
        if question.id in seen:
            raise DataError(f"annotations: expected every id once, found {question.id} twice")
        seen.add(question.id)


def _lines(path: str, first: int) -> Iterator[tuple[int, Question]]:
    """(line number, question) of a file of JSON lines."""
    for numbers, _, rows in json_lines.read_blocks(find(path)):
        for line, row in zip(numbers.tolist(), rows, strict=True):
            try:
                record = parse("msrvtt_qa", row)
            except ValueError as error:
                raise DataError(f"{path}:{line}: {error}") from None
            kind = record.kind or next(iter(record.text.split()), "")
            yield line, Question(str(first), record.video, record.text, record.answer, kind)
            first += 1


def _table(
    path: str, places: Mapping[str, str] | None, seconds: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[int, Question]]:
    """(line number, question) of a table."""
    for numbers, _, rows in csv_rows.read_blocks(find(path), _COLUMNS):
        for line, row in zip(numbers.tolist(), rows, strict=True):
            name, number = row["video"], row["qid"]
            if not name or not number:
                raise DataError(f"{path}:{line}: expected a video and a qid, found none")
            if places is not None and name not in places:
                raise DataError(f"{path}:{line}: video_paths: expected {name}, found none")
            yield line, Question(
                f"{name}_{number}", name if places is None else places[name], row["question"],
                row.get("answer") or None, row["type"], None, seconds.get(name, {}).get(number),
            )  # fmt: skip
