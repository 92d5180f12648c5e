# SPDX-License-Identifier: Apache-2.0
"""Accuracy of answers in words: all or nothing, or the VQA score.

Sources: the question answering of github.com/jayleicn/ClipBERT; the VQA score, arXiv:1505.00468.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from .errors import DataError
from .records import Records, finite, values

_TOP = 5  # answers kept of a record
_NONE = -1  # number of no answer


def percentage(fraction: float) -> float:
    """Per cent with two decimals, as published."""
    return round(fraction * 100, 2)


class WordAnswers(Records):
    """Answers in words; one that equals the truth, a string, is right.

    Every different answer gets a number, so that a question takes some bytes. Subclasses say which
    averages there are.

    Args:
        strict: of ``Records``.
    """

    higher_is_better, truths = True, ("answer", "labels")

    def __init__(self, strict: bool = False):
        super().__init__(
            strict,
            answer=np.int32(_NONE),
            label=np.int32(_NONE),
            top=np.full(_TOP, _NONE, np.int32),
            probability=np.zeros(_TOP, np.float32),
        )
        self._number: defaultdict[str, int] = defaultdict()
        self._number.default_factory = self._number.__len__  # the next number

    def update(self, records: Sequence[dict]) -> None:
        """Add records {id, answer, and where known: label, top [[answer, probability], …]}.

        Raises:
            DataError: the answer is no text, or numbers are missing or not finite.
        """
        records, rows = self.known(records)
        answers = values(records, "answer", str)
        there, texts, probabilities = _pairs(records)
        top = np.full(there.shape, _NONE, np.int32)
        probability = np.zeros(there.shape, np.float32)
        top[there], probability[there] = self._numbers(texts), probabilities
        self.put(
            rows,
            answer=self._numbers(answers),
            label=values(records, "label", int, _NONE),
            top=top,
            probability=finite(probability, records, "probabilities"),
        )

    def _numbers(self, answers: Sequence[str]) -> np.ndarray:
        return np.fromiter(map(self._number.__getitem__, answers), np.int32, len(answers))

    def credits(self) -> tuple[np.ndarray, np.ndarray]:
        """(what every answer is worth in 0…1, is the truth known), each (references,)."""
        absent, nobody = -2, -3  # the truth is not known; nobody gave that answer
        truth = np.fromiter(
            (
                absent if (answer := r.get("answer")) is None else self._number.get(answer, nobody)
                for r in self.references.values()
            ),
            np.int32,
            len(self.references),
        )
        return (truth == self["answer"]).astype(np.float64), truth != absent

    def predicted(self) -> Iterator[tuple[str, Mapping[str, Any], str, int]]:
        """(id, reference, answer, label or -1) of every question that has an answer."""
        words = [*self._number]
        answer, label = self["answer"].tolist(), self["label"].tolist()
        for row, name, reference in self.present():
            yield name, reference, words[answer[row]], label[row]

    def _ranked(self) -> Iterator[tuple[str, Mapping[str, Any], list[tuple[str, float | None]]]]:
        """(id, reference, [(answer, probability), …] from the best one) of what is answered.

        A result file knows but one answer, without a probability.
        """
        words = [*self._number]
        for row, name, reference in self.present():
            pairs = zip(self["top"][row].tolist(), self["probability"][row].tolist(), strict=True)
            found = [(words[n], p) for n, p in pairs if n != _NONE]
            yield name, reference, found or [(words[self["answer"][row]], None)]

    def answers(self, topk: int | None = None) -> list[str]:
        """The best answers to every question."""
        lines = []
        for name, reference, ranked in self._ranked():
            lines.append(heading(name, reference))
            lines += [scored("answer", *pair) for pair in ranked[: topk or 1]]
        return lines

    def pages(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Questions with their best answers, as engine/page.py takes them."""
        for name, reference, ranked in islice(self._ranked(), limit):
            truths = true_answers(reference)
            choices = []
            for k, (text, probability) in enumerate(ranked):
                choice = {"text": text, "score": probability, "predicted": k == 0}
                choices.append(choice | ({"correct": text in truths} if truths else {}))
            page = described(name, reference) | {"choices": choices}
            yield page | ({"note": f"true answer: {', '.join(truths)}"} if truths else {})

    @staticmethod
    def random(
        records: Sequence[dict], rng: np.random.Generator, vocabulary: Sequence[str] = ()
    ) -> list[dict]:
        """The records with answers drawn by lot: from the vocabulary, or from all they name."""
        words = vocabulary or sorted(
            {r["answer"] for r in records} | {text for r in records for text, _ in r.get("top", ())}
        )
        drawn = rng.integers(len(words), size=len(records)).tolist() if records else []
        return [_certain(r, words[n]) for r, n in zip(records, drawn, strict=True)]

    @staticmethod
    def frequent(records: Sequence[dict], references: Mapping[str, Mapping]) -> list[dict]:
        """The records with the answer that is worth most over all ``references``.

        Raises:
            DataError: there are no answers.
        """
        worth: Counter[str] = Counter()
        for reference in references.values():
            worth.update(true_answers(reference))
        answer = commonest(worth)
        return [_certain(record, answer) for record in records]


def _pairs(records: Sequence[dict]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Which of (records, _TOP) best answers there are, and all texts and probabilities in a row."""
    try:
        tops = [record.get("top", ())[:_TOP] for record in records]
        there = np.arange(_TOP) < np.array([*map(len, tops)], np.int64)[:, None]
        flat = [*chain.from_iterable(chain.from_iterable(tops))]
        texts, probabilities = flat[::2], flat[1::2]
        if len(flat) != 2 * there.sum() or set(map(type, texts)) - {str}:
            raise TypeError("others")
        return there, texts, np.array(probabilities, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"records from {records[0]['id']} on: expected top [[answer, probability], ...], "
            f"found: {error}"
        ) from None


def _certain(record: Mapping[str, Any], answer: str) -> dict[str, Any]:
    return {**record, "answer": answer, "label": _NONE, "top": [[answer, 1.0]]}


def commonest(counts: Counter) -> Any:
    """What is counted most.

    Raises:
        DataError: nothing is.
    """
    if not counts:
        raise DataError("most frequent answer: expected answers to count, found none")
    return counts.most_common(1)[0][0]


def true_answers(reference: Mapping[str, Any]) -> dict[str, float]:
    """Right answer -> its worth, the best first; empty when it is not known."""
    if "labels" in reference:
        return dict(sorted(reference["labels"].items(), key=lambda pair: -pair[1]))
    answer = reference.get("answer")
    return {} if answer is None else {answer: 1.0}


class TypedAnswers(WordAnswers):
    """Answers in words, averaged over all questions and over those of every ``answer_type``.

    Args:
        types: those that are published, with 0 where there is no such question; others follow.
        strict: of ``Records``.
        soft: VQA score: a reference has ``labels`` {answer: worth}; an answer not in it is worth 0.
    """

    primary = "overall_acc"

    def __init__(self, types: Sequence[str], strict: bool = False, soft: bool = False):
        super().__init__(strict)
        self._types, self._soft = types, soft
        self.columns = ("overall_acc", *(f"{name}_acc" for name in types))

    def credits(self) -> tuple[np.ndarray, np.ndarray]:
        """Of ``WordAnswers``, or the VQA score."""
        if not self._soft:
            return super().credits()
        known = np.array(["labels" in r for r in self.references.values()], bool)
        worth, words, answer = np.zeros(len(known)), [*self._number], self["answer"].tolist()
        for row, _, reference in self.present():
            worth[row] = reference.get("labels", {}).get(words[answer[row]], 0.0)
        return worth, known

    def scores(self) -> dict[str, float]:
        """Fractions ``overall_acc`` and ``<type>_acc``."""
        return {key: value for key, value in self.details().items() if key != "ratios"}

    def details(self) -> dict[str, Any]:
        """``scores`` and ``ratios`` {<type>_ratio: [fraction of the questions, their number]}."""
        credit, known = self.credits()
        number = {name: n for n, name in enumerate((*self._types, None))}
        types = (r.get("answer_type") for r in self.references.values())
        kind = [number.setdefault(name, len(number)) for name in types]
        kind = np.array(kind, np.int64)[known]
        counts = np.bincount(kind, minlength=len(number))
        worth = np.bincount(kind, credit[known], minlength=len(number))
        total = max(1, len(kind))
        out: dict[str, Any] = {"overall_acc": float(worth.sum()) / total}
        del number[None]  # questions without a type
        out |= {f"{t}_acc": float(worth[n]) / max(1, int(counts[n])) for t, n in number.items()}
        ratios = {
            f"{t}_ratio": [float(counts[n]) / total, int(counts[n])] for t, n in number.items()
        }
        return out | {"ratios": ratios}

    def published(self) -> dict[str, Any]:
        """``details`` in per cent with two decimals."""
        out = self.details()
        ratios = {key: [percentage(part), n] for key, (part, n) in out.pop("ratios").items()}
        return {key: percentage(value) for key, value in out.items()} | {"ratios": ratios}

    def report(self) -> list[str]:
        """Accuracy in per cent, of every type with its share of the questions."""
        found = self.published()
        lines = [f"accuracy {found['overall_acc']:.2f}"]
        for key, (share, count) in found["ratios"].items():
            name = key.removesuffix("_ratio")
            lines.append(
                f"  {name}: {found[f'{name}_acc']:.2f} of {count} questions ({share:.2f} %)"
            )
        return lines


def heading(name: str, reference: Mapping[str, Any]) -> str:
    """What was asked, for people."""
    return f"{name}: {reference['question']}" if reference.get("question") else name


def scored(label: str, text: str, probability: float | None) -> str:
    """An answer with its probability, where there is one."""
    return f"  {label}: {text}" + ("" if probability is None else f" ({probability:.1%})")


def described(name: str, reference: Mapping[str, Any]) -> dict[str, Any]:
    """Head of a page."""
    page = {"id": name, "title": reference.get("question") or name}
    return page | ({"video": reference["video"]} if reference.get("video") else {})
