# SPDX-License-Identifier: Apache-2.0
"""Texts as MCG reads and writes them: BERT's word pieces and two marks, [DEC] and [ENC]."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from .clipbert_rows import hide_pieces
from .wordpiece import BEGIN, END, MASK, PAD, UNKNOWN, WordPieces

ANSWER, QUESTION = "[DEC]", "[ENC]"  # what answers and questions begin with, instead of [CLS]
SPECIAL = (PAD, UNKNOWN, BEGIN, END, MASK, ANSWER, QUESTION)
LONGEST_ANSWER = 64  # pieces
_MARKS = re.compile("|".join(map(re.escape, SPECIAL)))

# codes of pieces, of which a network makes words
NOTHING, STARTS, CONTINUES, ENDS, BEGINS = range(5)
_CODES = {PAD: NOTHING, END: ENDS, BEGIN: BEGINS}


class Texts(WordPieces):
    """A published ``vocab.txt`` and the two marks, which are its last pieces.

    Attributes:
        tokens: all pieces, by id.

    Raises:
        DataError: missing, or no vocabulary of BERT.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        self.tokens = [""] * (1 + max(self._ids.values()))
        for piece, number in self._ids.items():
            self.tokens[number] = piece
        self.tokens += [mark for mark in (ANSWER, QUESTION) if mark not in self._ids]
        self._marks = {mark: self.tokens.index(mark) for mark in (ANSWER, QUESTION)}
        self._marks |= {mark: self.special(mark) for mark in SPECIAL if mark not in self._marks}

    @cached_property
    def codes(self) -> np.ndarray:
        """int8 by id: 0 padding, 1 starts a word, 2 continues one, 3 [SEP], 4 [CLS]."""
        return np.array(
            [_CODES.get(t, CONTINUES if t.startswith("##") else STARTS) for t in self.tokens],
            np.int8,
        )

    def caption(self, text: str, limit: int) -> list[int]:
        """[CLS], the pieces, [SEP]; no more than ``limit`` ids. Marks in a text are pieces."""
        ids: list[int] = []
        for part, mark in _parts(text):
            ids += self.encode(part, limit + 2)[1:-1]
            ids += [self._marks[mark]] if mark else []
        return [self._marks[BEGIN], *ids[: limit - 2], self._marks[END]]

    def question(self, text: str, limit: int) -> list[int]:
        """As a caption that begins with [ENC]."""
        return [self._marks[QUESTION], *self.caption(text, limit)[1:]]

    def answer(self, text: str, limit: int = LONGEST_ANSWER) -> list[int]:
        """As a caption that begins with [DEC]."""
        return [self._marks[ANSWER], *self.caption(text, limit)[1:]]

    def hide(
        self, ids: Sequence[int], draws: np.ndarray, words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Masked language modelling; marks are never hidden.

        Args:
            draws: (3, L) uniform in [0, 1): hide it? as [MASK]? else as any piece?
            words: (L,), any pieces.

        Returns:
            ids with hidden pieces replaced or not, and labels, -100 except for hidden pieces.
        """
        ids = np.asarray(ids)
        plain = ~np.isin(ids, list(self._marks.values()))
        return hide_pieces(ids, plain, draws, words, self._marks[MASK])


def _parts(text: str) -> list[tuple[str, str | None]]:
    """Pieces of text, and the mark that follows each."""
    parts = _MARKS.split(text)
    return list(zip(parts, [*_MARKS.findall(text), None], strict=True))
