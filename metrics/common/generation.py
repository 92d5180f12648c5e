# SPDX-License-Identifier: Apache-2.0
"""Generated text against reference texts: exact match, F1, BLEU, ROUGE-L, CIDEr-D, METEOR.

``score`` takes raw texts and gives all of them. The functions of single metrics take words, as
``normalise`` makes them, and several references for each prediction, as captions have them.
BLEU, ROUGE-L and CIDEr-D give the digits of the COCO caption tools on the same words.

METEOR-lite (exact words, then Porter stems; one set of parameters) needs no Java and is not
comparable to METEOR 1.5, which also knows synonyms, paraphrases and word classes: ``JavaMeteor``.
Sources: BLEU, P02-1040; ROUGE, W04-1013; CIDEr, arXiv:1411.5726; METEOR, W05-0909 and W14-3348;
github.com/tylin/coco-caption for all details of the first three.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .errors import DataError

Words = tuple[str, ...]

_STRAIGHT = str.maketrans("‘’“”", "''\"\"")
_PUNCTUATION = frozenset((
    "''", "'", "``", "`", "-lrb-", "-rrb-", "-lcb-", "-rcb-", ".", "?", "!", ",", ":", "-", "--",
    "...", ";",
))  # fmt: skip
_ARTICLES = frozenset(("a", "an", "the"))
_ORDERS = 4  # n-grams of 1 to 4 words
_TINY, _SMALL = 1e-15, 1e-9  # of the COCO tools: a quotient of nothing by nothing
_BETA2 = 1.2**2  # ROUGE-L: weight of recall
_SIGMA2 = 6.0**2  # CIDEr-D: tolerance to another length


def normalise(text: str) -> Words:
    """Words of a text that is already split by blanks: lower case, straight quotes, no punctuation.

    Word endings that the tokeniser split off ("n't", "'s") stay.
    """
    words = text.translate(_STRAIGHT).lower().split()
    return tuple([word for word in words if word not in _PUNCTUATION])


def score(
    predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]
) -> dict[str, float]:
    """All metrics of a data set; 0…1, CIDEr-D 0…10.

    Args:
        predictions: N texts, split by blanks; an empty one is an empty answer.
        references: for each prediction its text, or one or more texts. The best reference counts,
            except that CIDEr-D takes the mean, and BLEU counts n-grams of all of them.

    Raises:
        DataError: no prediction, another number of references, or a prediction without one.
    """
    words = _words(predictions, references)
    means = {name: float(values.mean()) for name, values in _per_sample(*words).items()}
    named = {f"BLEU-{n}": float(value) for n, value in enumerate(bleu(*words), 1)}
    names = ("exact_match", "exact_match_no_articles", "token_f1")
    return {name: means.pop(name) for name in names} | named | means


def per_sample(
    predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """As ``score``, but the values (N,) whose means it gives; BLEU has none."""
    return _per_sample(*_words(predictions, references))


def _per_sample(
    predictions: Sequence[Words], references: Sequence[Sequence[Words]]
) -> dict[str, np.ndarray]:
    return {
        "exact_match": exact_match(predictions, references),
        "exact_match_no_articles": exact_match(predictions, references, articles=False),
        "token_f1": token_f1(predictions, references),
        "ROUGE-L": rouge_l(predictions, references),
        "CIDEr-D": cider_d(predictions, references),
        "METEOR-lite": meteor_lite(predictions, references),
    }


def _words(
    predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]
) -> tuple[list[Words], list[list[Words]]]:
    """Normalised words of predictions and of their references."""
    if not len(predictions) or len(predictions) != len(references):
        raise DataError(
            "text metrics: expected predictions and as many references, "
            f"found {len(predictions)} and {len(references)}"
        )
    several = [[texts] if isinstance(texts, str) else texts for texts in references]
    for n, texts in enumerate(several):
        if not len(texts):
            raise DataError(f"text metrics: expected a reference of prediction {n}, found none")
    return (
        [normalise(text) for text in predictions],
        [[normalise(text) for text in texts] for texts in several],
    )


def _best(
    pair: Callable[[Words, Words], float],
    predictions: Sequence[Words],
    references: Sequence[Sequence[Words]],
) -> np.ndarray:
    """Value of each prediction with its best reference, (N,)."""
    values = (
        max(pair(found, true) for true in several)
        for found, several in zip(predictions, references, strict=True)
    )
    return np.fromiter(values, np.float64, len(predictions))


def _without_articles(words: Words) -> Words:
    return tuple([word for word in words if word not in _ARTICLES])


def exact_match(
    predictions: Sequence[Words], references: Sequence[Sequence[Words]], articles: bool = True
) -> np.ndarray:
    """Is the prediction one of its references? (N,) 0 or 1; optionally without a, an, the."""
    kept = (lambda words: words) if articles else _without_articles
    return _best(lambda found, true: kept(found) == kept(true), predictions, references)


def token_f1(
    predictions: Sequence[Words], references: Sequence[Sequence[Words]]
) -> np.ndarray:
    """F1 of the bags of words without articles, (N,); two empty bags: 1. Source: SQuAD."""
    return _best(_token_f1, predictions, references)


def _token_f1(found: Words, true: Words) -> float:
    found, true = _without_articles(found), _without_articles(true)
    if not found or not true:
        return float(found == true)
    common = sum(min(found.count(word), true.count(word)) for word in {*found} & {*true})
    return 2 * common / (len(found) + len(true))


class _Grams(NamedTuple):
    """n-grams of one order: a row for each distinct one of each text, in the order of the texts.

    Texts are the predictions, then all references.
    """

    text: np.ndarray  # (R,) int, position of the text
    gram: np.ndarray  # (R,) int, which n-gram it is
    count: np.ndarray  # (R,) int, how often the text has it
    twin: np.ndarray  # (R,) int, row of the same n-gram in the sample's prediction; -1: none


def _sample(references: Sequence[Sequence[Words]]) -> np.ndarray:
    """To which sample each text belongs: N predictions, then all references."""
    sample = np.arange(len(references))
    return np.concatenate([sample, np.repeat(sample, [len(several) for several in references])])


def _grams(
    predictions: Sequence[Words], references: Sequence[Sequence[Words]]
) -> Iterator[_Grams]:
    """Tables of the n-grams of one word, of two, and so on."""
    sample = _sample(references)
    texts = [*predictions, *(words for several in references for words in several)]
    ids: dict[str, int] = {}
    word = np.array([ids.setdefault(w, len(ids)) for words in texts for w in words], np.int64)
    length = [len(words) for words in texts]
    text = np.repeat(np.arange(len(texts)), length)
    left = np.repeat(np.cumsum(length), length) - np.arange(len(word))  # words to the text's end
    gram = np.zeros_like(word)  # the n-gram that starts at each word
    for n in range(_ORDERS):
        start = np.flatnonzero(left > n)
        longer = gram[start] * len(ids) + word[start + n]
        distinct, gram[start] = np.unique(longer, return_inverse=True)
        size = max(1, len(distinct))
        key, count = np.unique(text[start] * size + gram[start], return_counts=True)
        row_text, row_gram = np.divmod(key, size)
        wanted = sample[row_text] * size + row_gram
        twin = np.searchsorted(key, wanted)  # predictions come first: never beyond the last row
        yield _Grams(row_text, row_gram, count, np.where(key[twin] == wanted, twin, -1))


def bleu(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """BLEU-1 to BLEU-4 of the corpus, (4,); of several references the closest length counts."""
    hits, totals = [], []
    for grams in _grams(predictions, references):
        own = grams.text < len(predictions)
        row = np.flatnonzero(~own & (grams.twin >= 0))
        twin = grams.twin[row]
        hit = np.zeros_like(grams.count)
        np.maximum.at(hit, twin, np.minimum(grams.count[row], grams.count[twin]))
        hits.append(hit.sum())
        totals.append(grams.count[own].sum())
    precision = (np.array(hits) + _TINY) / (np.array(totals) + _SMALL)
    length = sum(map(len, predictions))
    closest = sum(
        min((abs(len(true) - len(found)), len(true)) for true in several)[1]
        for found, several in zip(predictions, references, strict=True)
    )
    ratio = (length + _TINY) / (closest + _SMALL)
    brevity = math.exp(min(0.0, 1 - 1 / ratio))
    return np.cumprod(precision) ** (1 / np.arange(1, _ORDERS + 1)) * brevity


def rouge_l(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """F of the longest common subsequence, (N,); best precision and recall over references."""
    values = map(_rouge_l, predictions, references)
    return np.fromiter(values, np.float64, len(predictions))


def _rouge_l(found: Words, several: Sequence[Words]) -> float:
    found = found or ("",)  # to the COCO tools an empty text is one empty word
    common = [(lcs_length(found, true or ("",)), len(true) or 1) for true in several]
    precision = max(words for words, _ in common) / len(found)
    recall = max(words / length for words, length in common)
    if not precision:
        return 0.0
    return (1 + _BETA2) * precision * recall / (recall + _BETA2 * precision)


def lcs_length(a: Words, b: Words) -> int:
    """Length of the longest common subsequence.

    A column of the usual table is kept as the bits of one number (bit i is 0 where the table
    grows at a[i]), as in Hyyrö, "Bit-parallel LCS-length computation revisited" (2004).
    """
    places: dict[str, int] = defaultdict(int)
    for i, word in enumerate(a):
        places[word] |= 1 << i
    full = column = (1 << len(a)) - 1
    for word in b:
        if equal := column & places.get(word, 0):
            column = (column + equal) | (column - equal)
    return len(a) - (column & full).bit_count()


def cider_d(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """CIDEr-D, (N,) 0…10, mean over references; document frequencies are those of the references.

    It depends on the whole data set; with one sample all is 0.
    """
    samples, sample = len(predictions), _sample(references)
    similarity = np.zeros(len(sample))  # of each text and its sample's prediction
    for grams in _grams(predictions, references):
        size = int(grams.gram.max(initial=0)) + 1
        is_reference = grams.text >= samples
        document = np.sort((sample[grams.text] * size + grams.gram)[is_reference])
        first = np.diff(document, prepend=-1) > 0  # of several references with the same n-gram
        frequency = np.bincount(document[first] % size, minlength=size)
        # one logarithm, not a difference of two: exactly 0 for an n-gram of all samples
        weight = grams.count * np.log(samples / np.maximum(1, frequency))[grams.gram]
        norm = np.sqrt(np.bincount(grams.text, weight**2, len(sample)))
        row = np.flatnonzero(is_reference & (grams.twin >= 0))
        clipped = np.minimum(weight[row], weight[grams.twin[row]]) * weight[row]
        dot, scale = np.bincount(grams.text[row], clipped, len(sample)), norm * norm[sample]
        similarity += np.divide(dot, scale, out=np.zeros(len(dot)), where=scale != 0)
    texts = [*predictions, *(words for several in references for words in several)]
    length = np.array([max(0, len(words) - 1) for words in texts])  # in pairs of words, as there
    similarity *= np.exp(-((length - length[sample]) ** 2) / (2 * _SIGMA2)) * 10 / _ORDERS
    return np.bincount(sample[samples:], similarity[samples:]) / np.bincount(sample[samples:])


def meteor_lite(
    predictions: Sequence[Words], references: Sequence[Sequence[Words]]
) -> np.ndarray:
    """METEOR with equal words and equal stems only, (N,)."""
    return _best(_meteor_lite, predictions, references)


def _meteor_lite(found: Words, true: Words) -> float:
    pairs = sorted(_matches(found, true))
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(found), len(pairs) / len(true)
    adjacent = sum(b == (i + 1, j + 1) for (i, j), b in pairwise(pairs))
    broken = (len(pairs) - adjacent) / len(pairs)
    return precision * recall / (0.9 * precision + 0.1 * recall) * (1 - 0.5 * broken**3)


def _matches(found: Words, true: Words) -> list[tuple[int, int]]:
    """Positions of matched words: first equal ones, then equal stems, each from the end."""
    pairs = []
    left, others = range(len(found)), range(len(true))
    for form in (str, stem):
        waiting: dict[str, list[int]] = defaultdict(list)
        for j in others:
            waiting[form(true[j])].append(j)
        unmatched = []
        for i in reversed(left):
            same = waiting.get(form(found[i]))
            if same:
                pairs.append((i, same.pop()))
            else:
                unmatched.append(i)
        left, others = unmatched[::-1], sorted(j for same in waiting.values() for j in same)
    return pairs


@functools.cache
def _stemmer() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer(PorterStemmer.NLTK_EXTENSIONS).stem


@functools.cache
def stem(word: str) -> str:
    """Porter stem with NLTK's extensions."""
    return _stemmer()(word)


class JavaMeteor:
    """METEOR 1.5 by its authors' Java program.

    Args:
        jar: the program, ``meteor-1.5.jar``, beside its folder ``data``.

    Raises:
        ValueError: no such file, or no ``java``.
    """

    def __init__(self, jar: str | Path):
        if not Path(jar).is_file():
            raise ValueError(f"METEOR: expected the file meteor-1.5.jar, found no file {jar}")
        java = shutil.which("java")
        if java is None:
            raise ValueError(
                "METEOR: expected the program java, found none on PATH; install a Java runtime, "
                "or use METEOR-lite"
            )
        options = ("-", "-", "-stdio", "-l", "en", "-norm")
        self._jar = str(jar)
        self._command = [java, "-Xmx2G", "-jar", self._jar, *options]

    def score(
        self, predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]
    ) -> float:
        """METEOR of a data set, 0…1; arguments as of ``generation.score``.

        Raises:
            DataError: as there; the program ends or answers anything but numbers.
        """
        words = zip(*_words(predictions, references), strict=True)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": complaints}
            plain = {**os.environ, "LC_ALL": "C.UTF-8"}  # it reads numbers by the locale
            try:
                with subprocess.Popen(self._command, encoding="utf-8", env=plain, **pipes) as java:
                    counts = sum(_counts(java, found, several) for found, several in words)
                    return float(_ask(java, f"EVAL ||| {' '.join(map(str, counts.tolist()))}"))
            except (OSError, ValueError) as error:
                complaints.seek(0)
                why = " ".join(complaints.read().split()[-30:]) or error
                raise DataError(f"METEOR: expected numbers of {self._jar}, found: {why}") from None


def _counts(java: subprocess.Popen, found: Words, several: Sequence[Words]) -> np.ndarray:
    """What the program counts in a sample; of a data set it takes the sums.

    Numbers: length, function words, matches of four stages by content and function words
    (each of the prediction, then of the reference), chunks, words of both.
    """
    texts = [" ".join(words).replace("|||", "") for words in (*several, found)]
    counts = np.array(_ask(java, f"SCORE ||| {' ||| '.join(texts)}").split(), np.float64)
    if len(counts) != 23:
        raise ValueError(f"{len(counts)} of them instead of 23")
    matches = counts[4:20].reshape(-1, 2).sum(0)
    if counts[20] == 1 and (matches == counts[:2]).all():
        counts[20] = 0  # a sample without a fault adds no chunk to those of the others
    return counts


def _ask(java: subprocess.Popen, line: str) -> str:
    """Answer of the program to a line."""
    java.stdin.write(f"{line}\n")
    java.stdin.flush()
    answer = java.stdout.readline()
    if not answer:
        raise ValueError("it ended")
    return answer
