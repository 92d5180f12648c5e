# SPDX-License-Identifier: Apache-2.0
"""Accuracy of answers that are chosen from five options.

Source: github.com/jayleicn/ClipBERT (TGIF-QA, MSRVTT-MC).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from .answers import commonest, described, heading, percentage
from .errors import DataError
from .evidence import array
from .records import Records, values

CHOICES = 5  # options of a question
_NONE = -1  # no option


class Choices(Records):
    """The chosen one of five options.

    Args:
        strict: of ``Records``.
        percent: report ``mc_accuracy`` in per cent, instead of the fraction ``overall_acc``.
    """

    higher_is_better, truths = True, ("answer",)

    def __init__(self, strict: bool = False, percent: bool = False):
        super().__init__(
            strict, answer=np.int32(_NONE), scores=np.full(CHOICES, np.nan, np.float32)
        )
        self._percent = percent
        self.primary = "mc_accuracy" if percent else "overall_acc"
        self.columns = (self.primary,)

    def update(self, records: Sequence[dict]) -> None:
        """Add records {id, answer, and where known: scores (5,)}.

        Raises:
            DataError: there is no such option, or scores of another shape or not finite.
        """
        records, rows = self.known(records)
        answers = values(records, "answer", int)
        scores = np.full((len(records), CHOICES), np.nan)
        for n, (record, answer) in enumerate(zip(records, answers, strict=True)):
            if not 0 <= answer < CHOICES:
                raise DataError(
                    f"record {record['id']}: expected an answer from 0 to {CHOICES - 1}, found "
                    f"{answer}"
                )
            if "scores" in record:
                scores[n] = array(record, "scores", (CHOICES,))
        self.put(rows, answer=answers, scores=scores)

    def scores(self) -> dict[str, float]:
        """``overall_acc`` as a fraction, or ``mc_accuracy`` in per cent."""
        truth = [r.get("answer") for r in self.references.values()]
        known = [n for n, answer in enumerate(truth) if answer is not None]
        right = self["answer"][known] == np.array([truth[n] for n in known], np.int64)
        accuracy = float(right.sum()) / max(1, len(known))
        return {self.primary: 100 * accuracy if self._percent else accuracy}

    details = scores

    def published(self) -> dict[str, Any]:
        """Per cent with two decimals; ``mc_accuracy`` as a text."""
        (value,) = self.scores().values()
        return {self.primary: f"{value:.2f}" if self._percent else percentage(value)}

    def report(self) -> list[str]:
        """Accuracy in per cent."""
        return [f"accuracy {float(self.published()[self.primary]):.2f}"]

    def predicted(self) -> Iterator[tuple[str, Mapping[str, Any], int]]:
        """(id, reference, option) of every question that has an answer."""
        for row, name, reference in self.present():
            yield name, reference, int(self["answer"][row])

    def _options(self, row: int, reference: Mapping[str, Any]) -> list[dict[str, Any]]:
        """{text, score (None from a result file), predicted, correct (where known)} of each."""
        texts = reference.get("choices", [f"option {k}" for k in range(CHOICES)])
        scores = self["scores"][row].astype(np.float64)
        options = []
        for k, (text, score) in enumerate(zip(texts, scores.tolist(), strict=True)):
            option = {"text": text, "score": None if np.isnan(score) else score}
            option["predicted"] = k == self["answer"][row]
            if reference.get("answer") is not None:
                option["correct"] = k == reference["answer"]
            options.append(option)
        return options

    def answers(self, topk: int | None = None) -> list[str]:
        """The best options of every question."""
        lines = []
        for row, name, reference in self.present():
            options = self._options(row, reference)
            options.sort(key=lambda o: (not o["predicted"], -(o["score"] or 0)))
            lines.append(heading(name, reference))
            for option in options[: topk or 1]:
                score = "" if option["score"] is None else f" (score {option['score']:.3f})"
                lines.append(f"  answer: {option['text']}{score}")
        return lines

    def pages(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Questions with their options, as engine/page.py takes them."""
        for row, name, reference in islice(self.present(), limit):
            options = self._options(row, reference)
            if not self._percent and options[0]["score"] is not None:
                shares = np.exp(self["scores"][row] - self["scores"][row].max(), dtype=np.float64)
                for option, share in zip(options, (shares / shares.sum()).tolist(), strict=True):
                    option["score"] = share
            yield described(name, reference) | {"choices": options}

    @staticmethod
    def random(records: Sequence[dict], rng: np.random.Generator) -> list[dict]:
        """The records with scores drawn by lot."""
        scores = rng.random((len(records), CHOICES)).astype(np.float32)
        return [_scored(r, row) for r, row in zip(records, scores, strict=True)]

    @staticmethod
    def frequent(records: Sequence[dict], references: Mapping[str, Mapping]) -> list[dict]:
        """The records with the option that is right most often in ``references``.

        Raises:
            DataError: there are no answers.
        """
        answers = (reference.get("answer") for reference in references.values())
        option = commonest(Counter(answer for answer in answers if answer is not None))
        scores = np.eye(CHOICES, dtype=np.float32)[option]
        return [_scored(record, scores) for record in records]


def _scored(record: Mapping[str, Any], scores: np.ndarray) -> dict[str, Any]:
    return {**record, "scores": scores, "answer": int(scores.argmax())}
