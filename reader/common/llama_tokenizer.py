# SPDX-License-Identifier: Apache-2.0
"""LLaMA's tokenizer: a SentencePiece model of byte pairs, and rows of its ids."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .errors import DataError
from .layout import find

PUBLISHED = 32000  # pieces
# anchors of the published tokenizer, by which another one of the same size is found out
ANCHORS = {"Video": 15167, "Question": 16492, "Answer": 22550, "<0x0A>": 13}


class Tokenizer:
    """A published ``tokenizer.model``, or one with the same special pieces.

    Attributes:
        size: number of pieces.
        begin, end: ids of <s> and </s>.
        newline, video, question, answer: ids of the pieces by which places in prompts are found.

    Raises:
        DataError: missing, no SentencePiece model, or one that lacks a piece that prompts need.
    """

    def __init__(self, path: str | os.PathLike):
        from sentencepiece import SentencePieceProcessor

        self.path = path
        try:
            with open(find(path), "rb") as file:
                self._model = SentencePieceProcessor(model_proto=file.read())
        except OSError as error:
            raise DataError(
                f"{path}: expected LLaMA's tokenizer.model ({error.strerror}); it comes with the "
                "weights, set DATASET.tokenizer"
            ) from None
        except RuntimeError:
            raise self._wrong("another kind of file") from None
        self.size = self._model.get_piece_size() if self._model.serialized_model_proto() else 0
        if not self.size:
            raise self._wrong("an empty file")
        self.begin, self.end = self._model.bos_id(), self._model.eos_id()
        if self.begin < 0 or self.end < 0:
            raise self._wrong("one without <s> and </s>")
        places = [self._anchor(piece) for piece in ANCHORS]
        self.video, self.question, self.answer, self.newline = places
        self._constant = lru_cache(maxsize=64)(lambda text: tuple(self.encode([text])[0]))

    def _wrong(self, found: str) -> DataError:
        return DataError(
            f"{self.path}: expected LLaMA's tokenizer.model (SentencePiece), found {found}"
        )

    def _anchor(self, piece: str) -> int:
        number = self._model.piece_to_id(piece)
        if number == self._model.unk_id():
            raise self._wrong(f"{self.size} pieces without {piece!r}, which prompts need")
        if self.size == PUBLISHED and number != ANCHORS[piece]:
            raise self._wrong(
                f"one of {PUBLISHED} pieces that has {piece!r} at {number}, not {ANCHORS[piece]}"
            )
        return number

    @property
    def pieces(self) -> list[str]:
        """All pieces, by id."""
        return [self._model.id_to_piece(i) for i in range(self.size)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, without <s> and </s>; each text begins with a blank of its own."""
        return self._model.encode(list(texts), out_type=int)

    def constant(self, text: str) -> tuple[int, ...]:
        """Ids of a text that comes again and again."""
        return self._constant(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return self._model.decode([int(i) for i in ids])


class Rows:
    """Many short rows of ids in one array, which processes can share.

    Args:
        size: ids are below it.
    """

    def __init__(self, size: int):
        self._ids = array("H" if size <= 1 << 16 else "I")
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, ids: Sequence[int]) -> None:
        """Add a row."""
        self._ids.extend(ids)
        self._ends.append(len(self._ids))

    def __getitem__(self, i: int) -> np.ndarray:
        """Row i, int64."""
        return np.array(self._ids[self._ends[i] : self._ends[i + 1]], np.int64)
