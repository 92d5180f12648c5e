# SPDX-License-Identifier: Apache-2.0
"""Word classes by NLTK's averaged perceptron, with its weights from either of its file formats."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .errors import DataError
from .files import read_json

_NAME = "averaged_perceptron_tagger"
_PARTS = ("weights", "tagdict", "classes")


class Tagger:
    """Tags of the Penn Treebank.

    Args:
        files: as ``find`` gives them.

    Raises:
        DataError: they are damaged.
    """

    def __init__(self, files: Sequence[Path]):
        from nltk.tag.perceptron import PerceptronTagger

        try:
            weights, known, tags = _pickled(*files) if len(files) == 1 else map(read_json, files)
            self._tagger = PerceptronTagger(load=False)
            self._tagger.model.weights, self._tagger.tagdict = weights, known
            self._tagger.model.classes = set(tags)
            self.tags(["one", "word"])
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(
                f"{files[0]}: expected the weights of {_NAME}, found: {error}"
            ) from None

    def tags(self, words: Sequence[str]) -> list[str]:
        """A tag for every word of a sentence."""
        return [tag for _, tag in self._tagger.tag(words)]


def find(folder: str | os.PathLike) -> list[Path]:
    """The tagger's files in a folder of NLTK's data: three of JSON, or one pickle, or none."""
    taggers = Path(folder) / "taggers"
    parts = [taggers / f"{_NAME}_eng" / f"{_NAME}_eng.{part}.json" for part in _PARTS]
    if all(part.is_file() for part in parts):
        return parts
    whole = taggers / _NAME / f"{_NAME}.pickle"
    return [whole] if whole.is_file() else []


def _pickled(path: Path) -> tuple:
    from reader.common import safe_pickle

    return safe_pickle.load(path, extra={("__builtin__", "set"): set})
