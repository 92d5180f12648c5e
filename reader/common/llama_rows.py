# SPDX-License-Identifier: Apache-2.0
"""Rows of tokens of all questions of a data set, made once, and batches of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .llama_prompts import Asked, Encoded, Overflow, ambiguous, encode_all, fit, labels
from .llama_tokenizer import Rows, Tokenizer


class Layout(NamedTuple):
    """How questions become rows."""

    objectives: tuple[str, ...]
    frames: int
    length: int  # of the longest row that may be
    unique: bool  # see ``fit``


class Tokens(NamedTuple):
    """A question: rows of each objective, without padding, and where their labels start."""

    rows: dict[str, list[np.ndarray]]
    starts: dict[str, int]
    video_start: int  # of vqa and vaq
    ambiguous: bool  # was the first of several anchors taken?


def make_tokens(
    tokenizer: Tokenizer, layout: Layout, questions: Iterable[Asked]
) -> Iterator[Tokens | Overflow]:
    """Rows of each question, or what there is no room for. Ids of frames and padding are 0.

    Raises:
        ValueError: the tokenizer does not suit.
    """
    for made in encode_all(tokenizer, questions, layout.frames, layout.objectives):
        try:
            yield _fitted(tokenizer, layout, made)
        except Overflow as error:
            yield error


def _fitted(tokenizer: Tokenizer, layout: Layout, made: dict[str, Encoded]) -> Tokens:
    rows, starts, several = {}, {}, False
    for objective, encoded in made.items():
        _require_room(encoded, layout.length)
        fitted, starts[objective] = fit(tokenizer, encoded, layout.length, layout.unique)
        ends = [min(encoded.parts[1] + len(tail), layout.length) for tail in encoded.tails]
        rows[objective] = [np.maximum(row[:n], 0) for row, n in zip(fitted, ends, strict=True)]
        several = several or ambiguous(tokenizer, encoded)
    return Tokens(rows, starts, made["vqa"].video_start, several)


def _require_room(encoded: Encoded, length: int) -> None:
    needed = len(encoded.head) + max(map(len, encoded.tails))
    if needed > length:
        raise Overflow(f"{needed} tokens" + (" without its dialogue" if encoded.dialogue else ""))


class Table:
    """Tokens of many questions."""

    def __init__(self, layout: Layout, size: int):
        self._layout, self._rows = layout, Rows(size)
        self._first, self._starts = array("q", [0]), array("i")
        self._video_start = 0

    def __len__(self) -> int:
        return len(self._first) - 1

    def append(self, tokens: Tokens) -> None:
        """Add a question, with as many rows of each objective as those before."""
        for objective in self._layout.objectives:
            for row in tokens.rows[objective]:
                self._rows.append(row.tolist())
            self._starts.append(tokens.starts[objective])
        self._first.append(len(self._rows))
        self._video_start = tokens.video_start

    def __getitem__(self, i: int) -> Tokens:
        objectives, first = self._layout.objectives, self._first[i]
        count = (self._first[i + 1] - first) // len(objectives)
        rows = {
            objective: [self._rows[first + n * count + k] for k in range(count)]
            for n, objective in enumerate(objectives)
        }
        starts = self._starts[i * len(objectives) : (i + 1) * len(objectives)]
        starts = dict(zip(objectives, starts, strict=True))
        return Tokens(rows, starts, self._video_start, False)


def collate_tokens(items: Sequence[Tokens], frames: int) -> dict[str, np.ndarray]:
    """Rows of questions as arrays, padded to the longest of all.

    Returns:
        <objective>_ids and <objective>_labels int64 (B, R, L); video_start int64 (B,), and with
        qav also qav_start.
    """
    longest = max(len(row) for item in items for rows in item.rows.values() for row in rows)
    batch = {"video_start": np.array([item.video_start for item in items], np.int64)}
    for objective in items[0].rows:
        ids = np.stack([pad_rows(item.rows[objective], longest) for item in items])
        marked = [
            labels(objective, rows, item.starts[objective], frames)
            for rows, item in zip(ids, items, strict=True)
        ]
        batch |= {f"{objective}_ids": ids, f"{objective}_labels": np.stack(marked)}
        if objective == "qav":
            batch["qav_start"] = np.array([item.starts["qav"] for item in items], np.int64)
    return batch


def pad_rows(rows: Sequence[Any], length: int) -> np.ndarray:
    """int64 (R, length), 0 behind the rows' ends."""
    out = np.zeros((len(rows), length), np.int64)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return out
