# SPDX-License-Identifier: Apache-2.0
"""Accuracy of answers for every category of question, as ANetQA counts it.

Source: eval_res of github.com/MILVLG/anetqa-code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .answers import WordAnswers
from .errors import DataError

_FIELDS = ("question structures", "question semantics", "reasoning skills", "answer types")


@dataclass
class Category:
    """Questions of a kind, and how many of them are answered right."""

    field: str
    name: str
    total: int = 0
    right: float = 0.0

    @property
    def accuracy(self) -> float:
        return self.right / max(1, self.total)


def categories(
    references: Mapping[str, Mapping[str, Any]], credit: np.ndarray, known: np.ndarray
) -> list[Category]:
    """Counts of every value of the taxonomy's four fields.

    A question counts for every one of its reasoning skills. Fields come in their fixed order,
    the values of each in order of first appearance.

    Args:
        references: those with a ``taxonomy`` {field: text; reasoning skills: list} count.
        credit: (references,) worth of the answers, 0…1.
        known: (references,) which questions count.

    Raises:
        DataError: a taxonomy is not of that form.
    """
    kinds: dict[tuple | None, int] = {None: 0}  # few different taxonomies, many questions
    kind = np.zeros(len(references), np.int64)
    for n, (name, reference) in enumerate(references.items()):
        if (taxonomy := reference.get("taxonomy")) is None:
            continue
        try:
            structure, semantics, skills, types = map(taxonomy.get, _FIELDS)
            skills = (skills,) if isinstance(skills, str) else tuple(skills or ())
            kind[n] = kinds.setdefault((structure, semantics, skills, types), len(kinds))
        except (AttributeError, TypeError):
            raise DataError(
                f"question {name}: expected a taxonomy of texts and a list of reasoning skills, "
                f"found {taxonomy!r}"
            ) from None
    total = np.bincount(kind[known], minlength=len(kinds)).tolist()
    right = np.bincount(kind[known], credit[known], minlength=len(kinds)).tolist()
    out: dict[tuple[str, str], Category] = {}
    for f, field in enumerate(_FIELDS):
        for key, n in kinds.items():
            if key is None or key[f] is None or not total[n]:
                continue
            for name in key[f] if isinstance(key[f], tuple) else (key[f],):
                category = out.setdefault((field, name), Category(field, name))
                category.total += total[n]
                category.right += right[n]
    return list(out.values())


class TaxonomyAnswers(WordAnswers):
    """Answers in words, averaged over all questions and over every category of them.

    A question without an answer is wrong; those whose true answer is unknown do not count.
    """

    primary, columns = "overall", ("overall",)

    def scores(self) -> dict[str, float]:
        """Fractions: one of every category by its name, then ``overall``."""
        found, overall = self._counts()
        return {c.name: c.accuracy for c in found} | {"overall": overall.accuracy}

    details = published = scores

    def _counts(self) -> tuple[list[Category], Category]:
        """Categories and the overall count; kept, for there may be a million questions."""
        if self.counted is None:
            credit, known = self.credits()
            overall = Category("", "overall", int(known.sum()), float(credit[known].sum()))
            self.counted = categories(self.references, credit, known), overall
        return self.counted

    def report(self) -> list[str]:
        """A table: accuracy in per cent and number of questions of every category."""
        found, overall = self._counts()
        width = max(len(c.name) for c in (*found, overall)) + 2
        lines, field = [], ""
        for category in found:
            if category.field != field:
                lines.append(field := category.field)
            lines.append("  " + _line(category, width))
        return [*lines, _line(overall, width + 2)]


def _line(category: Category, width: int) -> str:
    percent = 100 * category.accuracy
    return f"{category.name:<{width}}{percent:6.2f} % of {category.total} questions"
