# SPDX-License-Identifier: Apache-2.0
"""Skip-thoughts "combine-skip" sentence vectors (Kiros et al., arXiv:1506.06726).

uni-skip (one GRU, 2400) beside bi-skip (a GRU over the words, 1200, and one over the reversed
words, 1200). Each of the two encoders has its own word table; the vocabulary is cased.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from .errors import WeightsFileError

UNKNOWN, END = "UNK", "<eos>"
PARAMETERS = ("W", "b", "U", "Wx", "bx", "Ux")
GRUS = {"uni": "uni", "bi": "bi", "bi_r": "bi"}  # recurrent layer: its word table
FILES = ("dictionary.txt", "utable.npy", "btable.npy", "uni_skip.npz", "bi_skip.npz")
BATCH = 64  # sentences that run together


class SkipThoughts(nn.Layer):
    """Encoder of sentences; its vector is [uni | bi forward | bi backward].

    Args:
        dim_word: length of a word vector.
        uni_dim: hidden units of uni-skip.
        bi_dim: hidden units of bi-skip in each direction.
        eos: append the end token to every sentence.
        normalise: divide the uni and the bi part by their lengths.
        init_seed: draw parameters and word vectors from this seed; any word then has a vector.
    """

    source = (  # of weights, for the error when there are none
        "a folder with dictionary.txt, utable.npy, btable.npy, uni_skip.npz and bi_skip.npz from "
        "http://www.cs.toronto.edu/~rkiros/models/"
    )

    def __init__(
        self,
        dim_word: int = 620,
        uni_dim: int = 2400,
        bi_dim: int = 1200,
        eos: bool = False,
        normalise: bool = True,
        init_seed: int | None = None,
    ):
        super().__init__()
        self.dim_word, self.eos, self.normalise = dim_word, eos, normalise
        self.dim = uni_dim + 2 * bi_dim
        for name, units in zip(GRUS, (uni_dim, bi_dim, bi_dim), strict=True):
            self.add_sublayer(name, _GRU(dim_word, units))
        self._rows: dict[str, int] = {}
        self._tables: dict[str, Any] = {}
        if init_seed is not None:
            _draw(self, init_seed)
            self._tables = {t: _RandomTable(t, init_seed, dim_word) for t in ("uni", "bi")}
        self.identity: dict[str, Any] = {
            "name": "skip_thoughts",
            "dim_word": dim_word,
            "uni_dim": uni_dim,
            "bi_dim": bi_dim,
            "eos": eos,
            "normalise": normalise,
        }
        self.eval()

    def set_tables(self, vocabulary: Sequence[str], uni: np.ndarray, bi: np.ndarray) -> None:
        """Use these word vectors: row i of both tables [V, dim_word] belongs to vocabulary[i].

        The tables may be memory-mapped; only the rows that are asked for are read.

        Raises:
            WeightsFileError: a table of another shape, or no row for unknown words.
        """
        for name, table in (("uni", uni), ("bi", bi)):
            if table.shape != (len(vocabulary), self.dim_word):
                raise WeightsFileError(
                    f"{name}-skip word table: expected {len(vocabulary)} rows of {self.dim_word} "
                    f"(one for each word of the dictionary), found {table.shape}"
                )
        self._rows = {word: row for row, word in enumerate(vocabulary)}
        self._tables = {"uni": uni, "bi": bi}
        for word in (UNKNOWN, END) if self.eos else (UNKNOWN,):
            if word not in self._rows:
                raise WeightsFileError(f"dictionary: expected the word {word!r}, found none")

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """Vectors of sentences: float32 [N, dim]. One without any word gives zeros, and a warning.

        Raises:
            WeightsFileError: there are no word vectors yet.
        """
        return self.encode_tokens([tokenise(sentence) for sentence in sentences])

    @paddle.no_grad()
    def encode_tokens(self, sentences: Sequence[Sequence[str]]) -> np.ndarray:
        """Vectors of tokenised sentences: float32 [N, dim]. See `encode`."""
        if not self._tables:
            raise WeightsFileError("skip_thoughts: expected weights or init_seed, found neither")
        result = np.zeros((len(sentences), self.dim), np.float32)
        order = sorted(range(len(sentences)), key=lambda i: -len(sentences[i]))
        filled = [i for i in order if len(sentences[i])]
        if len(filled) < len(order):
            warnings.warn(
                f"{len(order) - len(filled)} of {len(order)} sentences have no word: zero vectors",
                stacklevel=2,
            )
        end = [END] if self.eos else []
        for first in range(0, len(filled), BATCH):
            chosen = filled[first : first + BATCH]
            result[chosen] = self._run([[*sentences[i], *end] for i in chosen])
        return result

    def _run(self, sentences: list[list[str]]) -> np.ndarray:
        """Vectors of sentences that are sorted by decreasing length: float32 [B, dim]."""
        lengths = np.array([len(s) for s in sentences])
        parts = {}
        for name, table in GRUS.items():
            words = np.zeros((len(sentences), lengths[0], self.dim_word), np.float32)
            for row, sentence in zip(words, sentences, strict=True):
                vectors = self._look_up(table, sentence)
                row[: len(sentence)] = vectors[::-1] if name == "bi_r" else vectors
            parts[name] = getattr(self, name)(paddle.to_tensor(words), lengths).numpy()
        uni, bi = parts["uni"], np.concatenate([parts["bi"], parts["bi_r"]], 1)
        if self.normalise:
            uni = uni / np.linalg.norm(uni, axis=1, keepdims=True)
            bi = bi / np.linalg.norm(bi, axis=1, keepdims=True)
        return np.concatenate([uni, bi], 1)

    def _look_up(self, table: str, words: list[str]) -> np.ndarray:
        source = self._tables[table]
        if isinstance(source, _RandomTable):
            return np.stack([source[word] for word in words])
        unknown = self._rows[UNKNOWN]
        return source[[self._rows.get(word, unknown) for word in words]]

    def load_files(self, folder: str | os.PathLike) -> str:
        """Load the folder of published files: dictionary.txt, {u,b}table.npy, {uni,bi}_skip.npz.

        Returns:
            sha256 over the network files, the dictionary and every 1000th row of the tables.

        Raises:
            WeightsFileError: a file is missing, damaged or of other sizes than this network.
        """
        paths = {name: Path(folder) / name for name in FILES}
        if missing := [name for name, path in paths.items() if not path.is_file()]:
            raise WeightsFileError(
                f"{folder}: expected a folder with {', '.join(FILES)}; missing {', '.join(missing)}"
            )
        state = {}
        for part in ("uni", "bi"):
            arrays = _load_archive(paths[f"{part}_skip.npz"])
            state |= {f"{part}.{name}": value for name, value in arrays.items()}
        self._set_state(self.convert(state), folder)
        tables = [_load(paths[name], mmap_mode="r") for name in FILES[1:3]]
        self.set_tables(_read_words(paths["dictionary.txt"]), *tables)
        digest = hashlib.sha256()
        for name in ("uni_skip.npz", "bi_skip.npz", "dictionary.txt"):
            digest.update(paths[name].read_bytes())
        for table in tables:
            digest.update(np.ascontiguousarray(table[::1000]).tobytes())
        return digest.hexdigest()

    def _set_state(self, state: dict[str, np.ndarray], source: Any) -> None:
        for name, parameter in self.named_parameters():
            shape = state[name].shape if name in state else "nothing"
            if shape != tuple(parameter.shape):
                raise WeightsFileError(
                    f"{source}: expected {name} of shape {tuple(parameter.shape)}, found {shape}"
                )
            parameter.set_value(state[name].astype(np.float32))

    @staticmethod
    def convert(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Own names from the published ones, which are prefixed by their file: `uni.encoder_W`,
        `bi.encoder_r_W` and so on (`/` for the dot does as well). Layouts are the same; the
        training vocabulary `Wemb` and the decoders are dropped.
        """  # fmt: skip
        result = {}
        for name, value in state.items():
            match = re.fullmatch(r"(uni|bi)[./]encoder_(r_)?(W|b|U|Wx|bx|Ux)", name)
            if match:
                result[f"{match[1]}{'_r' if match[2] else ''}.{match[3]}"] = value
            elif not re.fullmatch(r"(uni|bi)[./](Wemb|decoder_.*|ff_.*)", name):
                result[name] = value
        return result


Extractor = SkipThoughts


class _GRU(nn.Layer):
    """GRU in the published layout; W, U hold the reset gate's columns, then the update gate's.

    r, u = sigmoid(x W + b + h U); c = tanh(x Wx + bx + r * (h Ux)); h' = u * h + (1 - u) * c.
    """

    def __init__(self, inputs: int, units: int):
        super().__init__()
        self.units = units
        shapes = ([inputs, 2 * units], [2 * units], [units, 2 * units])
        shapes += ([inputs, units], [units], [units, units])
        for name, shape in zip(PARAMETERS, shapes, strict=True):
            self.add_parameter(name, self.create_parameter(shape, is_bias=len(shape) == 1))

    def forward(self, words: paddle.Tensor, lengths: np.ndarray) -> paddle.Tensor:
        """Last states [B, units] of words [B, T, E]; `lengths` [B] must not increase."""
        gates = (words @ self.W + self.b).transpose([1, 0, 2])  # (T, B, 2U)
        inputs = (words @ self.Wx + self.bx).transpose([1, 0, 2])  # (T, B, U)
        state = paddle.zeros([words.shape[0], self.units])
        for step in range(words.shape[1]):
            running = int((lengths > step).sum())  # the shorter sentences have ended
            before = state[:running]
            reset, update = F.sigmoid(gates[step, :running] + before @ self.U).chunk(2, axis=1)
            new = F.tanh(inputs[step, :running] + reset * (before @ self.Ux))
            after = update * before + (1 - update) * new
            state = paddle.concat([after, state[running:]]) if running < len(lengths) else after
        return state


class _RandomTable:
    """A vector for any word, drawn from the word itself: N(0, 1)."""

    def __init__(self, name: str, seed: int, dim: int):
        self._name, self._seed, self._dim = name, seed & 0xFFFFFFFF, dim
        self._known: dict[str, np.ndarray] = {}

    def __getitem__(self, word: str) -> np.ndarray:
        if word not in self._known:
            key = zlib.crc32(f"{self._name} {word}".encode())
            stream = np.random.RandomState([self._seed, key])
            self._known[word] = stream.standard_normal(self._dim).astype(np.float32)
        return self._known[word]


def _draw(net: SkipThoughts, seed: int) -> None:
    """Random parameters under which the last state still tells all words and their order.

    Recurrent matrices are orthogonal, gates depend little on their input, and the update gates'
    biases spread over -1 ... 3, so that units keep from 1/4 to 19/20 of their state at each word.
    """
    for name, parameter in net.named_parameters():
        stream = np.random.RandomState([seed & 0xFFFFFFFF, zlib.crc32(name.encode())])
        kind, shape = name.rpartition(".")[2], parameter.shape
        if kind in ("U", "Ux"):
            squares = stream.standard_normal((shape[1] // shape[0], shape[0], shape[0]))
            value = np.concatenate([np.linalg.qr(square)[0] for square in squares], 1)
        elif kind in ("W", "Wx"):
            value = 0.5 * stream.standard_normal(shape) / np.sqrt(shape[0])
        elif kind == "b":
            half = shape[0] // 2
            value = np.concatenate([np.zeros(half), stream.permutation(np.linspace(-1, 3, half))])
        else:
            value = np.zeros(shape)
        if kind in ("W", "U"):
            value = 0.2 * value
        parameter.set_value(value.astype(np.float32))


def _load(path: Path, **options: Any) -> Any:
    try:
        return np.load(path, allow_pickle=False, **options)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsFileError(f"{path}: expected NumPy arrays, found: {error}") from None


def _load_archive(path: Path) -> dict[str, np.ndarray]:
    """The encoder's arrays; the large training vocabulary is not read."""
    archive = _load(path)
    try:
        return {name: archive[name] for name in archive.files if name.startswith("encoder_")}
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise WeightsFileError(f"{path}: expected NumPy arrays, found: {error}") from None


def _read_words(path: Path) -> list[str]:
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")
    if not lines[-1]:
        lines.pop()
    words = []
    for number, line in enumerate(lines, 1):
        try:
            words.append(line.decode().strip())
        except UnicodeDecodeError:
            message = f"{path}:{number}: expected a word in UTF-8, found {line[:40]!r}"
            raise WeightsFileError(message) from None
    return words


def tokenise(sentence: str) -> list[str]:
    """Words of a sentence as NLTK's `word_tokenize` gives them: case is kept, quotes become `` ''.

    A text of several sentences is split first, at blanks only, by Punkt without its trained English
    abbreviations, which would have to be downloaded: a full stop after an abbreviation (Dr., St.)
    inside the text becomes a token of its own, where the trained one keeps it.
    """
    splitter, words = _tokenisers()
    starts = [start for start, _ in splitter.span_tokenize(sentence)]
    starts = [start for start in starts if start and sentence[start - 1].isspace()]
    bounds = itertools.pairwise([0, *starts, len(sentence)])
    return [token for a, b in bounds for token in words.tokenize(sentence[a:b].strip())]


@functools.lru_cache(maxsize=1)
def _tokenisers() -> tuple[Any, Any]:
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer(), NLTKWordTokenizer()
