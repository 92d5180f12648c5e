# SPDX-License-Identifier: Apache-2.0
"""Texts as ids of word pieces."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from models.extractors import bert
from reader.common.errors import DataError
from reader.common.wordpiece import MASK, WordPieces, pad_rows

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "run", "##ning", "##s", "cafe", "man", "'",
          "s", ",", "?", "-", "中", "##man"]  # fmt: skip
TEXTS = ["Running man's  CAFÉ?", "runs, runs", "", "xyz run-man", "中man", "run\x00\t\nrun", "¿run",
         "r" * 101, "[MASK] run", "manman"]  # fmt: skip


@pytest.fixture
def path(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return tmp_path / "vocab.txt"


def test_pieces(path):
    vocabulary = WordPieces(path)
    told = " ".join(PIECES[i] for i in vocabulary.encode(TEXTS[0], 40))
    assert told == "[CLS] run ##ning man ' s cafe ? [SEP]"
    assert vocabulary.encode("", 40) == [2, 3] and vocabulary.encode("xyz", 40) == [2, 1, 3]
    assert vocabulary.encode("run run run run", 4) == [2, 5, 5, 3]
    assert len(vocabulary) == len(PIECES) and vocabulary.special(MASK) == 4 and vocabulary.pad == 0
    sent = pickle.loads(pickle.dumps(vocabulary))
    assert sent.encode(TEXTS[0], 40) == vocabulary.encode(TEXTS[0], 40)


def test_the_same_pieces_as_the_extractor_of_word_features(path):
    vocabulary = WordPieces(path)
    extractor = bert._tokenizer({piece: i for i, piece in enumerate(bert._read_vocab(path))}, True)
    for text in TEXTS:
        expected = extractor.encode(text, add_special_tokens=False).ids
        assert vocabulary.encode(text, 99) == [2, *expected, 3]


def test_rows_are_padded_to_the_longest():
    ids, mask = pad_rows([[2, 5, 3], [2, 3], np.array([2, 5, 5, 3])])
    assert ids.tolist() == [[2, 5, 3, 0], [2, 3, 0, 0], [2, 5, 5, 3]] and ids.dtype == np.int64
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]] and mask.dtype == np.float32
    assert pad_rows([[2, 3]], -100, 4)[0].tolist() == [[2, 3, -100, -100]]


def test_bad_vocabularies(tmp_path, path):
    short = b"[PAD]\n[UNK]\n[SEP]", r"found 3 lines without \[CLS\]"
    for content, message in (short, (b"\xff\xfe", "not UTF-8"), (b"", "found 0 lines without")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            WordPieces(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"expected the vocab\.txt"):
        WordPieces(tmp_path / "gone.txt")
