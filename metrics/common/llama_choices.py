# SPDX-License-Identifier: Apache-2.0
"""Accuracy of options that are chosen by the loss of their text, by type of question.

Source: Flipped-VQA (arXiv:2310.15747), github.com/mlvlab/Flipped-VQA.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from .answers import commonest, described, heading, percentage
from .errors import DataError
from .records import Records, values

LETTERS = "ABCDE"
_NONE = -1  # no option


class LossChoices(Records):
    """The option of the least loss, of two to five.

    A loss that is no number stands for a text without any loss, and is less than all numbers.

    Args:
        types: published name -> types of questions that it averages over.
        type_mean: the plain mean over ``types``, besides.
        strict: of ``Records``.
    """

    primary, higher_is_better, truths = "overall_acc", True, ("answer",)

    def __init__(
        self, types: Mapping[str, Sequence[str]], type_mean: bool = False, strict: bool = False
    ):
        blank = np.full(len(LETTERS), np.nan, np.float32)
        super().__init__(strict, answer=np.int8(_NONE), options=np.int8(0), losses=blank)
        self._types, self._type_mean = types, type_mean
        groups = ("type_mean_acc",) if type_mean else tuple(f"{name}_acc" for name in types)
        self.columns = ("overall_acc", *groups)

    def update(self, records: Sequence[dict]) -> None:
        """Add records {id, answer, and where known: scores (K,) float}.

        Raises:
            DataError: there is no such option, or scores of another shape, or infinite ones.
        """
        records, rows = self.known(records)
        answers = values(records, "answer", int)
        losses = np.full((len(records), len(LETTERS)), np.nan, np.float32)
        options = np.zeros(len(records), np.int8)
        for n, (record, answer) in enumerate(zip(records, answers, strict=True)):
            count = len(self.references[record["id"]].get("choices", ())) or None
            if "scores" in record:
                given = _losses(record, count)
                options[n] = count = len(given)
                losses[n, :count] = given
            if not 0 <= answer < (count or len(LETTERS)):
                raise DataError(
                    f"record {record['id']}: expected an answer from 0 to "
                    f"{(count or len(LETTERS)) - 1}, found {answer}"
                )
        self.put(rows, answer=answers, options=options, losses=losses)

    def _counts(self) -> tuple[dict[str, list[int]], list[int]]:
        """([right, all] of every type of question in order of appearance, of all questions)."""
        answer, kinds, whole = self["answer"].tolist(), {}, [0, 0]
        for row, reference in enumerate(self.references.values()):
            truth = reference.get("answer")
            if truth is None:
                continue
            for counts in (whole, kinds.setdefault(reference.get("type"), [0, 0])):
                counts[0] += answer[row] == truth
                counts[1] += 1
        kinds.pop(None, None)
        return kinds, whole

    def groups(self) -> dict[str, list[int]]:
        """Name -> [right, all]: the published groups, then single types, "overall" at first."""
        kinds, whole = self._counts()
        found = {"overall": whole}
        for name, members in self._types.items():
            parts = [kinds.get(kind, [0, 0]) for kind in members]
            found[name] = [sum(column) for column in zip(*parts, strict=True)]
        members = [kind for kinds in self._types.values() for kind in kinds]
        return found | {kind: kinds.get(kind, [0, 0]) for kind in dict.fromkeys([*members, *kinds])}

    def scores(self) -> dict[str, float]:
        """Fractions ``overall_acc``, ``<group>_acc``, ``<type>_acc``, and ``type_mean_acc``.

        Groups without questions are 0, and take no part in the mean.
        """
        groups = self.groups()
        found = {f"{name}_acc": right / max(1, count) for name, (right, count) in groups.items()}
        if self._type_mean:
            there = [found[f"{name}_acc"] for name in self._types if groups[name][1]]
            found["type_mean_acc"] = sum(there) / max(1, len(there))
        return found

    details = scores

    def published(self) -> dict[str, float]:
        """Per cent with two decimals."""
        return {name: percentage(value) for name, value in self.scores().items()}

    def report(self) -> list[str]:
        """Accuracy in per cent, that of groups and types with their numbers of questions."""
        found, groups = self.published(), self.groups()
        _, total = groups.pop("overall")
        lines = [f"accuracy over questions {found['overall_acc']:.2f}"]
        if self._type_mean:
            lines.append(f"accuracy over types, their plain mean {found['type_mean_acc']:.2f}")
        for name, (_, count) in groups.items():
            share = percentage(count / max(1, total))
            lines.append(f"  {name}: {found[f'{name}_acc']:.2f} of {count} questions ({share} %)")
        return lines

    def predicted(self) -> Iterator[tuple[str, Mapping[str, Any], int, list[float | None] | None]]:
        """(id, reference, option, losses, or None where only the option is known).

        A loss that is no number is None.
        """
        for row, name, reference in self.present():
            found = self["losses"][row, : self["options"][row]].astype(np.float64).tolist()
            losses = [None if loss != loss else loss for loss in found]
            yield name, reference, int(self["answer"][row]), losses or None

    def answers(self, topk: int | None = None) -> list[str]:
        """The best options of every question, with their losses."""
        lines = []
        for name, reference, answer, losses in self.predicted():
            lines.append(heading(name, reference))
            order = np.argsort(_numbers(losses), kind="stable").tolist() if losses else [answer]
            for k in order[: topk or 1]:
                loss = f" (loss {losses[k] or 0:.3f})" if losses else ""
                lines.append(f"  answer: ({LETTERS[k]}) {_text(reference, k)}{loss}")
        return lines

    def pages(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Questions with the likelihoods of their options, as engine/page.py takes them."""
        for name, reference, answer, losses in islice(self.predicted(), limit):
            count = len(losses or reference.get("choices", ())) or answer + 1
            shares: list[float | None] = [None] * count
            if losses:
                likely = np.exp(-np.maximum(_numbers(losses), 0))
                shares = (likely / max(likely.sum(), 1e-300)).tolist()
            choices = []
            for k, share in enumerate(shares):
                text = _text(reference, k)
                choices.append({"text": text, "score": share, "predicted": k == answer})
                if reference.get("answer") is not None:
                    choices[-1]["correct"] = k == reference["answer"]
            page = described(name, reference) | {"choices": choices}
            yield page | ({"note": str(reference["type"])} if reference.get("type") else {})

    @staticmethod
    def random(records: Sequence[dict], rng: np.random.Generator) -> list[dict]:
        """The records with losses drawn by lot."""
        return [_chosen(r, rng.random(len(r["scores"]), np.float32)) for r in records]

    @staticmethod
    def frequent(records: Sequence[dict], references: Mapping[str, Mapping]) -> list[dict]:
        """The records with the option that is right most often in ``references``.

        Raises:
            DataError: there are no answers.
        """
        truths = (reference.get("answer") for reference in references.values())
        option = commonest(Counter(t for t in truths if t is not None))
        return [
            _chosen(r, (np.arange(len(r["scores"])) != option).astype(np.float32)) for r in records
        ]


def _losses(record: Mapping[str, Any], count: int | None) -> np.ndarray:
    """The record's scores as float32 (K,).

    Raises:
        DataError: they are not like that, or there are not ``count`` of them.
    """
    name = f"record {record['id']}: expected scores"
    try:
        found = np.asarray(record["scores"], np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} as numbers, found: {error}") from None
    fitting = [count] if count else [*range(2, len(LETTERS) + 1)]
    if found.ndim != 1 or len(found) not in fitting:
        sizes = " or ".join(map(str, fitting))
        raise DataError(f"{name} of {sizes} options, found shape {found.shape}")
    if np.isinf(found).any():
        raise DataError(f"{name} that are finite, found infinity")
    return found


def _numbers(losses: Sequence[float | None]) -> np.ndarray:
    """Losses to sort by: none is less than all of them."""
    return np.array([-1.0 if loss is None else loss for loss in losses])


def _text(reference: Mapping[str, Any], option: int) -> str:
    choices = reference.get("choices", ())
    return choices[option] if option < len(choices) else f"option {option}"


def _chosen(record: Mapping[str, Any], losses: np.ndarray) -> dict[str, Any]:
    return {**record, "scores": losses, "answer": int(losses.argmin())}
