# SPDX-License-Identifier: Apache-2.0
"""Word features by BERT (Devlin et al., arXiv:1810.04805): one vector per given word.

A word's vector is the mean over its word pieces in the last layer. What BERT splits further, such
as n't into n, ' and t, still gives one vector; so does an unknown word, as [UNK].
"""

from __future__ import annotations

import hashlib
import os
import string
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import paddle
from paddle import nn
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from ..layers.bert import DEVIATION, BertEmbeddings, BertEncoder, additive_mask, convert
from .errors import WeightsFileError

PAD, UNKNOWN, BEGIN, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
LONGEST_WORD = 100  # characters; longer words are unknown
_PLACE = 0.15  # size of random position vectors beside random word vectors

Pieces = list[int]  # ids of the pieces of one word


class BertWords(nn.Layer):
    """BERT without pooler; defaults are those of BERT-base, uncased.

    Args:
        vocab: the published `vocab.txt`, one piece a line. Without it words are spelled, which only
            random weights (`init_seed`) are made for.
        lower_case: ignore case and accents.
        max_position: pieces that are seen together, the two at the ends included. Longer sentences
            are cut between words into windows that follow one another.
        batch_size: windows that run together.
        init_seed: draw parameters from this seed.

    Raises:
        ValueError: sizes that do not fit.
        WeightsFileError: the vocabulary is missing or damaged.
    """

    source = (  # of weights, for the error when there are none
        "take pytorch_model.bin or model.safetensors of https://huggingface.co/bert-base-uncased, "
        "and vocab.txt for the option vocab"
    )

    def __init__(
        self,
        vocab: str | None = None,
        lower_case: bool = True,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        intermediate_size: int = 3072,
        max_position: int = 512,
        batch_size: int = 32,
        init_seed: int | None = None,
    ):
        super().__init__()
        if max_position < 3 or batch_size < 1:
            raise ValueError(
                "bert: expected max_position of at least 3 and batch_size of at least 1, found "
                f"{max_position} and {batch_size}"
            )
        if vocab is None and init_seed is None:
            raise WeightsFileError("bert: expected the option vocab, the vocab.txt of the weights")
        pieces = _spelling() if vocab is None else _read_vocab(vocab)
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        self._tokenizer = _tokenizer(self._ids, lower_case)
        self._known: dict[str, Pieces] = {}
        self.dim, self.max_position, self.batch_size = hidden_size, max_position, batch_size
        self.embeddings = BertEmbeddings(len(pieces), hidden_size, max_position, dropout=0.0)
        self.encoder = BertEncoder(num_layers, hidden_size, num_heads, intermediate_size, 0.0)
        if init_seed is not None:
            _draw(self, init_seed)
        self.identity = {
            "name": "bert",
            "vocab": hashlib.sha256("\n".join(pieces).encode()).hexdigest(),
            "lower_case": lower_case,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "intermediate_size": intermediate_size,
            "max_position": max_position,
        }
        if init_seed is not None:
            self.identity["places"] = _PLACE
        self.eval()

    def forward(self, ids: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        """Hidden states [N, L, dim] of pieces [N, L]; mask [N, L] is 0 on padding."""
        return self.encoder(self.embeddings(ids), additive_mask(mask))

    def words(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Features of the words of sentences that are split already.

        Returns:
            Of each sentence, float32 [number of words, dim].
        """
        result = [np.zeros((len(sentence), self.dim), np.float32) for sentence in sentences]
        windows = []
        for number, sentence in enumerate(sentences):
            windows += [(number, *window) for window in self._windows(sentence)]
        windows.sort(key=lambda window: sum(map(len, window[2])))
        for first in range(0, len(windows), self.batch_size):
            batch = windows[first : first + self.batch_size]
            vectors = self._run([words for _, _, words in batch])
            for (number, start, words), rows in zip(batch, vectors, strict=True):
                result[number][start : start + len(words)] = rows
        return result

    def _windows(self, sentence: Sequence[str]) -> Iterator[tuple[int, list[Pieces]]]:
        """(number of the first word, words) of windows that fit into the network."""
        room, start, taken = self.max_position - 2, 0, 0
        words = [self.pieces(word)[:room] for word in sentence]
        for number, word in enumerate(words):
            if taken + len(word) > room:
                yield start, words[start:number]
                start, taken = number, 0
            taken += len(word)
        if words:
            yield start, words[start:]

    def pieces(self, word: str) -> Pieces:
        """Ids of the pieces of a word; [UNK] for one without any, such as a space."""
        if word not in self._known:
            found = self._tokenizer.encode(word, add_special_tokens=False).ids
            self._known[word] = found or [self._ids[UNKNOWN]]
        return self._known[word]

    @paddle.no_grad()
    def _run(self, batch: list[list[Pieces]]) -> list[np.ndarray]:
        rows = [[self._ids[BEGIN], *chain.from_iterable(words), self._ids[END]] for words in batch]
        lengths = np.array([len(row) for row in rows])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self._ids[PAD], np.int64)
        ids[mask] = np.concatenate(rows)
        hidden = self(paddle.to_tensor(ids), paddle.to_tensor(mask.astype(np.float32))).numpy()
        result = []
        for states, words in zip(hidden, batch, strict=True):
            counts = np.array([len(word) for word in words])
            starts = 1 + np.cumsum(counts) - counts
            sums = np.add.reduceat(states[: 1 + counts.sum()], starts)
            result.append(sums / counts[:, None].astype(np.float32))
        return result

    @staticmethod
    def convert(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Own names from published ones, see `models.layers.bert`; the pooler is dropped."""
        own = convert(state)
        return {name: value for name, value in own.items() if not name.startswith("pooler.")}


Extractor = BertWords


def _spelling() -> list[str]:
    """A vocabulary of single characters."""
    signs = string.digits + string.ascii_letters + string.punctuation
    return [PAD, UNKNOWN, BEGIN, END, *signs, *(f"##{sign}" for sign in signs)]


def _read_vocab(path: str | os.PathLike) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            pieces = [line.rstrip("\n") for line in file]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise WeightsFileError(f"{path}: expected a vocabulary of BERT ({reason})") from None
    if missing := [piece for piece in (PAD, UNKNOWN, BEGIN, END) if piece not in pieces]:
        raise WeightsFileError(
            f"{path}: expected a vocabulary of BERT, one piece a line, with {PAD}, {UNKNOWN}, "
            f"{BEGIN} and {END}, found {len(pieces)} lines without {missing[0]}"
        )
    return pieces


def _tokenizer(ids: dict[str, int], lower_case: bool) -> Tokenizer:
    pieces = WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=LONGEST_WORD)
    tokenizer = Tokenizer(pieces)
    tokenizer.normalizer = BertNormalizer(lowercase=lower_case)  # accents go with the case
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _draw(net: nn.Layer, seed: int) -> None:
    """Normal weights; each depends on the seed and its name only.

    Positions are drawn small: as after training, a vector shall tell the word before its place.
    """
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            stream = np.random.RandomState([seed & 0xFFFFFFFF, zlib.crc32(name.encode())])
            place = name.startswith(("embeddings.position", "embeddings.token_type"))
            deviation = DEVIATION * (_PLACE if place else 1)
            value = stream.standard_normal(parameter.shape) * deviation
            parameter.set_value(value.astype(np.float32))
