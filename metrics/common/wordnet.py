# SPDX-License-Identifier: Apache-2.0
"""WordNet 3.0 from its own files: base forms, first senses, Wu-Palmer similarity.

NLTK computes the similarity differently from version to version, so it is written out here; it
gives the digits of NLTK 3.3 or of NLTK 3.8.
Sources: wndb(5WN) and morphy(7WN) of wordnet.princeton.edu; Wu and Palmer, ACL P94-1019.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from pathlib import Path
from typing import Literal, NamedTuple

from .errors import DataError

Mode = Literal["nltk33", "nltk38"]

NOUN, VERB, ADJECTIVE, ADVERB = "n", "v", "a", "r"  # in the order of a word's senses
_FILES = {NOUN: "noun", VERB: "verb", ADJECTIVE: "adj", ADVERB: "adv"}
_ENDINGS = {
    NOUN: (
        ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"),
        ("shes", "sh"), ("men", "man"), ("ies", "y"),
    ),
    VERB: (
        ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"),
        ("ing", ""),
    ),
    ADJECTIVE: (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    ADVERB: (),
}  # fmt: skip


class Synset(NamedTuple):
    """A set of synonyms: word class, and place in the file of that class."""

    pos: str
    offset: int


_ROOT = Synset("", 0)  # above everything, where a similarity joins what has nothing in common


class WordNet:
    """A folder with index.noun, data.noun, noun.exc and those of verbs, adjectives and adverbs.

    Raises:
        DataError: a file is missing.
    """

    def __init__(self, folder: str | os.PathLike):
        self._folder = Path(folder)
        self._index = {pos: self._by_first_word(f"index.{name}") for pos, name in _FILES.items()}
        self._irregular = {pos: self._by_first_word(f"{name}.exc") for pos, name in _FILES.items()}
        self._data = {pos: self._read(f"data.{name}") for pos, name in _FILES.items()}
        self.first = functools.cache(self._first)
        self._above = functools.cache(self._hypernyms)
        self._depths = functools.cache(self._find_depths)
        self._distances = functools.cache(self._find_distances)

    def _read(self, name: str) -> str:
        try:
            return (self._folder / name).read_bytes().decode("latin-1")  # one character a byte
        except OSError as error:
            raise DataError(
                f"{self._folder / name}: expected a file of WordNet 3.0 ({error.strerror})"
            ) from None

    def _by_first_word(self, name: str) -> dict[str, str]:
        """First word of every line -> line; the licence above is indented."""
        lines = self._read(name).splitlines()
        return {line[: line.index(" ")]: line for line in lines if line[:1].strip()}

    def base_forms(self, word: str, pos: str) -> list[str]:
        """Entries of a word class that a word, in lower case, may be a form of; itself first."""
        entries, irregular = self._index[pos], self._irregular[pos].get(word)
        if irregular:
            return _known([word, *irregular.split()[1:]], entries)
        forms = _stripped([word], pos)
        found = _known([word, *forms], entries)
        while forms and not found:
            forms = _stripped(forms, pos)
            found = _known(forms, entries)
        return found

    def lemma(self, word: str, pos: str) -> str:
        """The shortest base form, or the word itself."""
        return min(self.base_forms(word, pos), key=len, default=word)

    def _offsets(self, entry: str, pos: str) -> list[int]:
        """Senses of an entry, the commonest first."""
        fields = self._index[pos][entry].split()
        return [int(offset) for offset in fields[-int(fields[2]) :]]

    def _first(self, word: str) -> Synset | None:
        """The first sense of a word: as a noun, else a verb, an adjective, an adverb."""
        word = word.lower()
        for pos in _FILES:
            for entry in self.base_forms(word, pos)[:1]:
                return Synset(pos, self._offsets(entry, pos)[0])
        return None

    def _fields(self, synset: Synset) -> list[str]:
        """A line of a data file without its gloss."""
        data, start = self._data[synset.pos], synset.offset
        line = data[start : data.find("|", start)].split()
        if not line or line[0] != f"{start:08d}":
            raise DataError(
                f"{self._folder}/data.{_FILES[synset.pos]}: expected the synset {start:08d} at that"
                " byte, found another; copy the files of WordNet 3.0 again, with their line ends"
            )
        return line

    def name(self, synset: Synset) -> str:
        """Such as dog.n.01; satellite adjectives have s."""
        if synset == _ROOT:
            return "*ROOT*"
        fields = self._fields(synset)
        entry = fields[4].split("(")[0].lower()  # without a marker such as (a)
        sense = self._offsets(entry, synset.pos).index(synset.offset) + 1
        return f"{entry}.{fields[2]}.{sense:02d}"

    def _hypernyms(self, synset: Synset) -> list[Synset]:
        """What is directly above, of instances, too."""
        if synset.pos not in (NOUN, VERB):
            return []
        fields = self._fields(synset)
        start = 4 + 2 * int(fields[3], 16)  # behind the words, each with a number
        pointers = fields[start + 1 : start + 1 + 4 * int(fields[start])]
        above = zip(pointers[::4], pointers[1::4], strict=True)
        return [Synset(synset.pos, int(offset)) for kind, offset in above if kind in ("@", "@i")]

    def _find_depths(self, synset: Synset) -> tuple[int, int]:
        """Edges of the shortest and of the longest way to the top."""
        above = [] if synset == _ROOT else [self._depths(each) for each in self._above(synset)]
        if not above:
            return 0, 0
        return 1 + min(low for low, _ in above), 1 + max(high for _, high in above)

    def _find_distances(self, synset: Synset) -> dict[Synset, int]:
        """Edges to itself and everything above."""
        found, queue = {}, deque([(synset, 0)])
        while queue:
            each, distance = queue.popleft()
            if each not in found:
                found[each] = distance
                queue.extend((above, distance + 1) for above in self._above(each))
        return found

    def similarity(self, a: Synset, b: Synset, mode: Mode) -> float:
        """Wu-Palmer similarity in 0…1; 0 where NLTK finds none.

        nltk33 puts a root above everything if ``a`` is a verb: similarities are not symmetric, and
        those of an adjective or adverb to other synsets are 0. nltk38 does unless both are nouns.
        """
        ways_a, ways_b = self._distances(a), self._distances(b)
        if a.pos == VERB or (mode == "nltk38" and not a.pos == b.pos == NOUN):
            ways_a, ways_b = (w | {_ROOT: max(w.values()) + 1} for w in (ways_a, ways_b))
        joint = ways_a.keys() & ways_b.keys()
        if not joint:
            return 0.0
        deepest = max(self._depths(each)[0] for each in joint)
        best = [each for each in joint if self._depths(each)[0] == deepest]
        subsumer = a if a in best else min(best, key=self.name)
        depth = self._depths(subsumer)[1] + 1
        above = {_ROOT: 0} if subsumer == _ROOT else self._distances(subsumer)
        lengths = [
            min(ways[each] + up for each, up in above.items() if each in ways)
            for ways in (ways_a, ways_b)
        ]
        return 2.0 * depth / (sum(lengths) + 2 * depth)


def _known(forms: list[str], entries: dict[str, str]) -> list[str]:
    return [form for form in dict.fromkeys(forms) if form in entries]


def _stripped(forms: list[str], pos: str) -> list[str]:
    return [
        form[: -len(old)] + new
        for form in forms
        for old, new in _ENDINGS[pos]
        if form.endswith(old)
    ]
