# SPDX-License-Identifier: Apache-2.0
"""Questions with options about videos, as NExT-QA, STAR, DramaQA, VLEP and TVQA publish them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from . import csv_rows, json_lines
from .errors import DataError
from .layout import find
from .llama_prompts import LETTERS, tidy_question
from .text import read_lines

DATASETS = ("nextqa", "star", "dramaqa", "vlep", "tvqa")
WITH_DIALOGUE = ("vlep", "tvqa")
WHOLE = (-1000, 1000)  # seconds of a clip whose time is unknown

_EVENT = tidy_question("Which event is more likely to happen right after?")  # VLEP has no other
_LAST_SHOT = 9999  # names of shots have four digits


class Question(NamedTuple):
    """A row."""

    id: str
    video: str
    text: str  # as in the prompt
    options: tuple[str, ...]
    answer: int | None  # number of an option
    kind: str | None = None  # NExT-QA's CW, CH, ...; STAR's Interaction, ...
    window: tuple[int, int] | None = None  # seconds, rounded; None: the whole video
    shots: tuple[int, int] | None = None  # first and last, of a scene of DramaQA

    def reference(self, index: int) -> dict[str, Any]:
        """What is known, under the names that metrics use."""
        known = {
            "question": self.text, "choices": list(self.options), "answer": self.answer,
            "video": self.video, "type": self.kind, "index": index,
        }  # fmt: skip
        return {key: value for key, value in known.items() if value is not None}

    def features(self) -> list[str]:
        """Names of what its frames are made of: the video, or the shots of a scene."""
        if self.shots is None:
            return [self.video]
        first, last = self.shots
        return [f"{self.video[:-4]}{shot:04d}" for shot in range(first, last + 1)]


def read_questions(dataset: str, path: str, answered: bool = False) -> list[Question]:
    """All questions of a file.

    Args:
        dataset: one of ``DATASETS``.
        answered: must all have an answer?

    Raises:
        DataError: unreadable, empty, a damaged row, an id twice, rows with more options than
            others; names file and line.
    """
    found: dict[str, Question] = {}
    for where, row in _rows(dataset, path):
        try:
            question = _PARSE[dataset](row, len(found))
            _check(question, answered, next(iter(found.values()), question))
        except (ValueError, OverflowError) as error:
            raise DataError(f"{where}: {error}") from None
        if question.id in found:
            raise DataError(f"{where}: expected every id once, found {question.id} again")
        found[question.id] = question
    if not found:
        raise DataError(f"{path}: expected questions, found none")
    return list(found.values())


def _rows(dataset: str, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file and line, row)."""
    if dataset in ("star", "dramaqa"):
        for number, row in enumerate(json_lines.stream_list(find(path))):
            yield f"{path}: entry {number}", row
        return
    blocks = (
        csv_rows.read_blocks(find(path), ("video", "question", "qid", "type", *_columns(5)))
        if dataset == "nextqa"
        else json_lines.read_blocks(find(path))
    )
    for numbers, _, rows in blocks:
        for line, row in zip(numbers.tolist(), rows, strict=True):
            yield f"{path}:{line}", row


def _check(question: Question, answered: bool, first: Question) -> None:
    count = len(question.options)
    if not 2 <= count <= len(LETTERS):
        raise ValueError(f"expected 2 to {len(LETTERS)} options, found {count}")
    if count != len(first.options):
        raise ValueError(f"expected {len(first.options)} options as before, found {count}")
    if question.answer is not None and not 0 <= question.answer < count:
        raise ValueError(f"expected an answer of 0 to {count - 1}, found {question.answer}")
    if answered and question.answer is None:
        raise ValueError("expected an answer for training, found none")


# rows of each data set


def _nextqa(row: Mapping[str, Any], _: int) -> Question:
    video, number = _name(row, "video"), _name(row, "qid")
    return Question(
        f"{video}_{number}", video, tidy_question(row["question"]), _options(row, _columns(5)),
        _number(row, "answer"), row["type"] or None,
    )  # fmt: skip


def _star(row: Mapping[str, Any], _: int) -> Question:
    name = _name(row, "question_id")
    choices = sorted(_list(row, "choices", dict), key=lambda choice: _whole(choice, "choice_id"))
    options = tuple(_text(choice, "choice") for choice in choices)
    answer = None
    if row.get("answer") is not None:
        text = _text(row, "answer")
        if text not in options:
            raise ValueError(f"expected one of the choices as answer, found {text!r:.40}")
        answer = options.index(text)
    window = (_second(row.get("start"), "start"), _second(row.get("end"), "end"))
    return Question(
        name, _name(row, "video_id"), tidy_question(_text(row, "question")), options, answer,
        name.partition("_")[0], window,
    )  # fmt: skip


def _dramaqa(row: Mapping[str, Any], index: int) -> Question:
    video, shots = _name(row, "vid"), None
    if video.endswith("0000"):
        given = [_whole({"shot": each}, "shot") for each in _list(row, "shot_contained", int)]
        if not given or not 0 <= given[0] <= given[-1] <= _LAST_SHOT:
            raise ValueError(f"expected first and last as shot_contained, found {given}")
        shots = (given[0], given[-1])
    return Question(
        _name(row, "qid") if "qid" in row else str(index), video,
        tidy_question(_text(row, "que")), tuple(_list(row, "answers", str)),
        _number(row, "correct_idx"), shots=shots,
    )  # fmt: skip


def _vlep(row: Mapping[str, Any], _: int) -> Question:
    times = _list(row, "ts", (int, float))
    if len(times) != 2:
        raise ValueError(f"expected start and end as ts, found {times}")
    window = (_second(times[0], "ts"), _second(times[1], "ts"))
    return Question(
        _name(row, "example_id"), _name(row, "vid_name"), _EVENT,
        tuple(_list(row, "events", str)), _number(row, "answer"), window=window,
    )  # fmt: skip


def _tvqa(row: Mapping[str, Any], _: int) -> Question:
    return Question(
        _name(row, "qid"), _name(row, "vid_name"), tidy_question(_text(row, "q")),
        _options(row, _columns(5)), _number(row, "answer_idx"), window=_times(row.get("ts")),
    )  # fmt: skip


_PARSE: dict[str, Callable[[Mapping[str, Any], int], Question]] = {
    "nextqa": _nextqa, "star": _star, "dramaqa": _dramaqa, "vlep": _vlep, "tvqa": _tvqa,
}  # fmt: skip


# values of a row


def _columns(count: int) -> tuple[str, ...]:
    return tuple(f"a{k}" for k in range(count))


def _options(row: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_text(row, key) for key in keys)


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise ValueError(f"expected text as {key}, found {value!r:.40}")
    return value.encode("utf-8", "replace").decode()  # half characters have no token


def _name(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if type(value) is int or (isinstance(value, str) and value):
        return str(value)
    raise ValueError(f"expected a name as {key}, found {value!r:.40}")


def _list(row: Mapping[str, Any], key: str, kind: Any) -> list:
    value = row.get(key)
    if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
        raise ValueError(f"expected a list as {key}, found {value!r:.40}")
    if kind is str:
        return [_text({key: each}, key) for each in value]
    return value


def _whole(row: Mapping[str, Any], key: str) -> int:
    if type(row.get(key)) is not int:
        raise ValueError(f"expected a whole number as {key}, found {row.get(key)!r:.40}")
    return row[key]


def _number(row: Mapping[str, Any], key: str) -> int | None:
    """Number of an option; None, "" and -1 are unknown."""
    value = row.get(key)
    if value is None or value in ("", -1, "-1"):
        return None
    if type(value) is int or (isinstance(value, str) and value.isdecimal()):
        return int(value)
    raise ValueError(f"expected the number of an option as {key}, found {value!r:.40}")


def _second(value: Any, key: str) -> int:
    """Rounded, halves to the even number."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"expected seconds as {key}, found {value!r:.40}")
    return round(value)


def _times(text: Any) -> tuple[int, int]:
    """Of "<start>-<end>"; an unknown time, such as "NaN-NaN", is that of the whole clip."""
    if text is None:
        return WHOLE
    start, _, end = text.partition("-") if isinstance(text, str) else ("", "", "")
    try:
        times = float(start), float(end)
    except ValueError:
        raise ValueError(f'expected "start-end" in seconds as ts, found {text!r:.40}') from None
    return (round(times[0]), round(times[1])) if all(map(math.isfinite, times)) else WHOLE


# texts for language models


def read_texts(path: str) -> list[tuple[str, str]]:
    """(prompt, text) of each line; the prompt, which is not to be told, may be empty.

    A line is a text; in files ending in .jsonl an object with ``text`` and perhaps ``prompt``.

    Raises:
        DataError: unreadable, empty, or a line without text.
    """
    if not str(path).lower().endswith(".jsonl"):
        return [("", line) for _, line in read_lines(find(path), "text")]
    found = []
    for numbers, _, rows in json_lines.read_blocks(find(path)):
        for line, row in zip(numbers.tolist(), rows, strict=True):
            if not isinstance(row.get("text"), str) or not row["text"].strip():
                raise DataError(f"{path}:{line}: expected text as text, found {row!r:.40}")
            if not isinstance(prompt := row.get("prompt", ""), str):
                raise DataError(f"{path}:{line}: expected text as prompt, found {prompt!r:.40}")
            found.append((_text(row, "prompt") if prompt else "", _text(row, "text")))
    if not found:
        raise DataError(f"{path}: expected texts, found none")
    return found
