# SPDX-License-Identifier: Apache-2.0
"""Texts as ids of BERT's word pieces (Devlin et al., arXiv:1810.04805), lower case, no accents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .errors import DataError
from .layout import find

PAD, UNKNOWN, BEGIN, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
_LONGEST_WORD = 100  # characters; longer words are unknown


class WordPieces:
    """A published ``vocab.txt``, one piece a line.

    Raises:
        DataError: missing, not text, or without the pieces that mark beginning, end and padding.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = path
        try:
            with open(find(path), encoding="utf-8") as file:
                pieces = [line.rstrip("\n") for line in file]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise DataError(
                f"{path}: expected the vocab.txt of bert-base-uncased ({reason})"
            ) from None
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        for piece in (PAD, UNKNOWN, BEGIN, END):
            self.special(piece)
        self.pad = self.special(PAD)

    def __len__(self) -> int:
        return len(self._ids)

    def special(self, piece: str) -> int:
        """Id of a piece that is no text, such as [CLS].

        Raises:
            DataError: the vocabulary has none.
        """
        if piece not in self._ids:
            raise DataError(
                f"{self.path}: expected a vocabulary of BERT, one piece a line, found "
                f"{len(self)} lines without {piece}; take the vocab.txt of bert-base-uncased"
            )
        return self._ids[piece]

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer

        pieces = WordPiece(self._ids, unk_token=UNKNOWN, max_input_chars_per_word=_LONGEST_WORD)
        tokenizer = Tokenizer(pieces)
        tokenizer.normalizer = BertNormalizer(lowercase=True)  # accents go with the case
        tokenizer.pre_tokenizer = BertPreTokenizer()
        return tokenizer

    def encode(self, text: str, limit: int) -> list[int]:
        """[CLS], the pieces of a text, [SEP]; no more than ``limit`` ids, cut before [SEP]."""
        pieces = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [self._ids[BEGIN], *pieces[: limit - 2], self._ids[END]]


def pad_rows(
    rows: Sequence[Sequence[int]], value: int = 0, length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as an array.

    Args:
        value: of padding.
        length: of a row; default: the longest one's.

    Returns:
        ids int64 (R, L), and a float32 mask (R, L), 1 where ids are and 0 on padding.
    """
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(length or lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, value, np.int64)
    ids[mask] = np.concatenate(rows)
    return ids, mask.astype(np.float32)
