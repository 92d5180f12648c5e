# SPDX-License-Identifier: Apache-2.0
"""A question as rows of tokens for each of three objectives, and what is to be predicted in them.

``vqa`` predicts the answer from video and question, ``vaq`` the question from video and answer,
``qav`` the video from question and answer. A row holds F places for the frames of the video. With
dialogue (VLEP, TVQA) the instruction names it, and its tail is left out of rows that are too long.
Source: Flipped-VQA (arXiv:2310.15747), its released code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from .llama_tokenizer import Tokenizer

OBJECTIVES = ("vqa", "vaq", "qav")
LETTERS = "ABCDE"
PAD, FRAME = -1, -2  # what stands in rows behind their ends, and for frames
ANSWER = "Answer: The answer is "  # ends with a blank

_WHAT = {"vqa": ("answer", "video and question"), "vaq": ("question", "video and answer"),
         "qav": ("video", "question and answer")}  # fmt: skip
_ANCHOR_TO_LABEL = {"vqa": 5, "vaq": 2, "qav": 2}  # tokens from the anchor to the first label
_CHUNK = 256  # questions that are encoded together, on all threads
_TAIL = 4  # tokens of an answer: "(", letter, ")", </s>


class Overflow(ValueError):
    """A prompt has no room in a row."""


class Prompt(NamedTuple):
    """The texts of a question."""

    question: str
    choices: str
    dialogue: str | None  # None: a data set without; "": none for this question


def make_prompt(question: str, options: Sequence[str], dialogue: str | None) -> Prompt:
    """Texts of a question as ``tidy_question`` gives it, and of two to five options."""
    lines = "".join(f"({x}) {option}\n" for x, option in zip(LETTERS, options, strict=False))
    return Prompt(f"Question: {question}\n", f"Choices: \n{lines}", dialogue)


def tidy_question(text: str) -> str:
    """First letter upper, all others lower, a question mark at the end.

    Raises:
        ValueError: there is no text.
    """
    text = text.capitalize().strip()  # so a leading blank leaves no letter upper
    if not text:
        raise ValueError("expected a question, found an empty one")
    return text if text.endswith("?") else text + "?"


def _instruction(objective: str, plain: bool) -> str:
    what, given = _WHAT[objective]
    given = given if plain else f"dialogue, {given}"
    return f"Instruction: Predict the {what} based on the {given}.\n"


class Asked(NamedTuple):
    """Which rows of a question are wanted."""

    prompt: Prompt
    options: Sequence[int]  # whose letters are written as the answer, one in each row
    right: int = 0  # the row by whose tokens the start of labels is found


class Encoded(NamedTuple):
    """Rows of one objective: ``head``, ``dialogue`` and a ``tail`` each; PAD and FRAME inside."""

    objective: str
    plain: bool  # a data set without dialogue?
    frames: int
    head: tuple[int, ...]
    dialogue: list[int]
    tails: list[list[int]]
    start: int  # of labels: the first place of the answer, the question or the frames

    @property
    def rows(self) -> list[list[int]]:
        """Whole rows, of any length."""
        return [[*self.head, *self.dialogue, *tail] for tail in self.tails]

    @property
    def video_start(self) -> int:
        """The first place of frames."""
        return self.start if self.objective == "qav" else self.head.index(FRAME)

    @property
    def parts(self) -> tuple[int, int]:
        """Where the dialogue begins and ends."""
        return len(self.head), len(self.head) + len(self.dialogue)


def encode_all(
    tokenizer: Tokenizer,
    asked: Iterable[Asked],
    frames: int,
    objectives: Sequence[str] = OBJECTIVES,
) -> Iterator[dict[str, Encoded]]:
    """Rows of each question by objective.

    Raises:
        ValueError: the tokenizer has no token of its own for the word before the labels.
    """
    asked = iter(asked)
    while chunk := [*islice(asked, _CHUNK)]:
        texts = [text for each in chunk for text in _texts(each, objectives)]
        ids = iter(tokenizer.encode(texts))
        for each in chunk:
            yield _joined(tokenizer, each, ids, frames, objectives)


def encode(tokenizer: Tokenizer, asked: Asked, *layout: Any) -> dict[str, Encoded]:
    """Rows of one question, see ``encode_all``."""
    return next(encode_all(tokenizer, [asked], *layout))


def _texts(asked: Asked, objectives: Sequence[str]) -> Iterator[str]:
    """What is to be encoded of a question: the dialogue, then what follows it in each row."""
    yield asked.prompt.dialogue or ""
    for objective in objectives:
        for option in asked.options:
            yield _tail(asked.prompt, objective, LETTERS[option])


def _joined(
    tokenizer: Tokenizer,
    asked: Asked,
    ids: Iterator[list[int]],
    frames: int,
    objectives: Sequence[str],
) -> dict[str, Encoded]:
    dialogue, made = next(ids), {}
    plain = asked.prompt.dialogue is None
    for objective in objectives:
        head = _head(tokenizer, objective, plain, frames)
        video = [FRAME] * frames if objective == "qav" else []
        tails = [[*next(ids), *video, tokenizer.end] for _ in asked.options]
        encoded = Encoded(objective, plain, frames, head, dialogue, tails, 0)
        start = _start(tokenizer, encoded, asked.right)
        made[objective] = encoded._replace(start=start)
    return made


def _head(tokenizer: Tokenizer, objective: str, plain: bool, frames: int) -> tuple[int, ...]:
    """What stands before the dialogue, or, if that data set has none, before the question."""
    instruction = _instruction(objective, plain)
    if objective != "qav":
        video = (*[FRAME] * frames, tokenizer.newline)
        return (tokenizer.begin, *tokenizer.constant(f"{instruction}Video:"), *video)
    return (tokenizer.begin, *(() if plain else tokenizer.constant(instruction)))


def _tail(prompt: Prompt, objective: str, letter: str) -> str:
    """The text after the dialogue."""
    answer = f"{prompt.choices}{ANSWER}({letter})"
    if objective == "vaq":
        return f"{answer}\n{prompt.question.strip()}"
    text = prompt.question + answer
    if objective == "vqa":
        return text
    before = _instruction(objective, True) if prompt.dialogue is None else ""
    return f"{before}{text}\nVideo:"


def _start(tokenizer: Tokenizer, encoded: Encoded, right: int) -> int:
    """First place of labels; the word before them is searched from the left, as published."""
    objective, tails = encoded.objective, encoded.tails
    if not encoded.plain and objective != "vaq":
        whole = encoded.parts[1] + len(tails[0])
        return whole - (_TAIL if objective == "vqa" else encoded.frames + 1)
    row = [*encoded.head, *encoded.dialogue, *tails[right if encoded.plain else 0]]
    word = getattr(tokenizer, _WHAT[objective][0])
    if word not in row:
        raise ValueError(
            f"{tokenizer.path}: expected a token of its own for {_WHAT[objective][0].capitalize()} "
            "at the beginning of a line, as LLaMA's tokenizer.model has, found none"
        )
    return row.index(word) + _ANCHOR_TO_LABEL[objective]


def ambiguous(tokenizer: Tokenizer, encoded: Encoded) -> bool:
    """Does the word by which the start of labels is found occur more than once in a row?"""
    if not encoded.plain and encoded.objective != "vaq":
        return False
    word = getattr(tokenizer, _WHAT[encoded.objective][0])
    before = encoded.head.count(word) + encoded.dialogue.count(word)
    return before + max(tail.count(word) for tail in encoded.tails) > 1


def fit(
    tokenizer: Tokenizer, encoded: Encoded, length: int, unique: bool = False
) -> tuple[np.ndarray, int]:
    """Rows of exactly ``length``, and where labels start in them.

    Dialogue loses its tail where it must; a row without any is cut at its end, so that labels may
    be lost.

    Args:
        unique: the word before a question that is to be predicted may occur only once (VLEP).

    Returns:
        int64 (R, length) with PAD and FRAME inside, and the start, that of the last row for all.

    Raises:
        Overflow: no room.
    """
    out = np.full((len(encoded.tails), length), PAD, np.int64)
    start = encoded.start
    for k, row in enumerate(encoded.rows):
        start = encoded.start
        if len(row) > length and encoded.dialogue:
            if len(encoded.tails[k]) > length:
                raise Overflow(f"{len(encoded.tails[k])} tokens behind the dialogue")
            out[k] = [*row[: length - len(encoded.tails[k])], *encoded.tails[k]]
            start = _start_when_cut(tokenizer, encoded, out, unique)
        else:
            out[k, : len(row)] = row[:length]
    return out, start


def _start_when_cut(
    tokenizer: Tokenizer, encoded: Encoded, rows: np.ndarray, unique: bool
) -> int:
    if encoded.objective == "vqa":
        return rows.shape[1] - _TAIL
    if encoded.objective == "qav":
        return rows.shape[1] - encoded.frames - 1
    places = np.nonzero(rows == tokenizer.question)[1]
    if unique and len(places) > 1:
        raise Overflow(f"the word Question {len(places)} times in it and its dialogue")
    return int(places[0]) + _ANCHOR_TO_LABEL["vaq"]


def labels(objective: str, rows: np.ndarray, start: int, frames: int) -> np.ndarray:
    """What is to be predicted at each place, int64 as ``rows``.

    vqa, vaq: the tokens from ``start`` on, 0 elsewhere. qav: the frame's number, -1 elsewhere.

    Raises:
        Overflow: there is no room for the frames.
    """
    if objective != "qav":
        there = (np.arange(rows.shape[-1]) >= start) & (rows >= 0)
        return np.where(there, rows, 0)
    if start + frames > rows.shape[-1]:
        raise Overflow(f"{start + frames + 1} tokens")
    out = np.full(rows.shape, -1, np.int64)
    out[..., start : start + frames] = np.arange(frames)
    return out


def published_fields(
    tokenizer: Tokenizer, asked: Asked, frames: int, length: int, unique: bool = False
) -> dict[str, dict[str, Any]]:
    """Fields of a question as the published code has them: {field: {objective: value}}.

    Raises:
        Overflow: where the published code fails.
    """
    fields: dict[str, dict[str, Any]] = {
        name: {} for name in ("text_id", "label", "label_mask", "video_start", "video_index")
    }
    for objective, encoded in encode(tokenizer, asked, frames).items():
        rows, start = fit(tokenizer, encoded, length, unique)
        marked = labels(objective, rows, start, frames)
        places = np.arange(length)
        mask = places == start if objective == "qav" else (places >= start) & (rows >= 0)
        fields["text_id"][objective] = np.maximum(rows, 0)
        fields["label"][objective] = marked
        fields["label_mask"][objective] = np.broadcast_to(mask, rows.shape).astype(np.float32)
        fields["video_start"][objective] = start if objective == "qav" else encoded.video_start
        fields["video_index"][objective] = np.arange(start, start + frames)
    return fields
