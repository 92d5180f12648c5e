# SPDX-License-Identifier: Apache-2.0
"""WUPS of answers to open-ended questions, by kind of question.

Kinds are those of NExT-QA (arXiv:2105.08276). The first letter says whether a question is causal,
temporal or descriptive; answers to DB (yes or no) and DC (counting) must be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np

from .answers import WordAnswers
from .wordnet import Mode
from .wups import Wups

_GROUPS = {"C": "causal", "T": "temporal", "D": "descriptive"}
_KINDS = ("CH", "CW", "DB", "DC", "DL", "DO", "TC", "TN", "TP")
_EQUAL = ("DB", "DC")
_THRESHOLD, _SLIP = 0.9, 9.0


class OpenAnswers(WordAnswers):
    """WUPS@0 and WUPS@0.9, averaged over all questions, over every group and over every kind.

    A reference has ``answer``, ``answer_type`` and, where there is one, ``second``, another right
    answer: the better score counts.

    Args:
        wups: compares answers.
        mode: of ``wups``, in the numbers; the report has both.
        join_previous: TP counts as TN, and is no kind of its own.
        slip: WUPS@0.9 of a question without a second answer has the threshold 9, so that all but
            equal words count a tenth.
        strict: of ``Records``.
    """

    primary = "overall_wups_0"
    columns = ("overall_wups_0", "C_wups_0", "T_wups_0", "D_wups_0", "overall_wups_9")

    def __init__(
        self,
        wups: Wups,
        mode: Mode = "nltk33",
        join_previous: bool = False,
        slip: bool = False,
        strict: bool = False,
    ):
        super().__init__(strict)
        self._wups, self._mode, self._slip = wups, mode, slip
        self._joined = {"TP": "TN"} if join_previous else {}
        self._kinds = [kind for kind in _KINDS if kind not in self._joined]

    def scores(self) -> dict[str, float]:
        """``overall_wups_0``, ``overall_wups_9``, ``C_wups_0``, …, ``TP_wups_9`` in per cent."""
        return self._means(self._mode)

    details = scores

    def published(self) -> dict[str, float]:
        """``scores`` with two decimals."""
        return {key: round(value, 2) for key, value in self.scores().items()}

    def _means(self, mode: Mode) -> dict[str, float]:
        """All averages; 0 where there is no question."""
        if self.counted is None:
            self.counted = {}
        if mode not in self.counted:
            values, known = self._values(mode)
            self.counted[mode] = {
                f"{name}_wups_{key}": 100 * float(values[rows & known, n].sum())
                / max(1, int((rows & known).sum()))
                for name, rows in self._sets()
                for n, key in enumerate("09")
            }  # fmt: skip
        return dict(self.counted[mode])

    def _values(self, mode: Mode) -> tuple[np.ndarray, np.ndarray]:
        """(WUPS@0 and @0.9 (references, 2), is the truth known (references,))."""
        values = np.zeros((len(self.references), 2))
        known = np.array([r.get("answer") is not None for r in self.references.values()], bool)
        words, answer = [*self._number], self["answer"].tolist()
        for row, _, reference in self.present():
            if known[row]:
                values[row] = self._pair(words[answer[row]], reference, mode)
        return values, known

    def _pair(
        self, prediction: str, reference: Mapping[str, Any], mode: Mode
    ) -> tuple[float, float]:
        """WUPS@0 and @0.9 of an answer."""
        prediction = self._wups.clean(prediction)
        truths = [self._wups.clean(truth) for truth in _truths(reference)]
        if reference.get("answer_type") in _EQUAL:
            same = float(prediction in truths)
            return same, same
        thresholds = 0.0, _SLIP if self._slip and len(truths) == 1 else _THRESHOLD
        low, high = (
            max(self._wups.score(prediction, truth, threshold, mode) for truth in truths)
            for threshold in thresholds
        )
        return low, high

    def _sets(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and questions (references,) of every average."""
        kinds = [str(r.get("answer_type", "")) for r in self.references.values()]
        kinds = np.array([self._joined.get(kind, kind) for kind in kinds], str)
        yield "overall", np.ones(len(kinds), bool)
        for group in _GROUPS:
            yield group, np.char.startswith(kinds, group)
        for kind in self._kinds:
            yield kind, kinds == kind

    def report(self) -> list[str]:
        """Groups as NLTK 3.3 and as NLTK 3.8 have them, then every kind."""
        lines = []
        for mode in sorted(get_args(Mode), key=lambda mode: mode != self._mode):
            found = self._means(mode)
            groups = ", ".join(f"{_GROUPS[g]} {found[f'{g}_wups_0']:.2f}" for g in _GROUPS)
            lines.append(
                f"WUPS@0 {found['overall_wups_0']:.2f} ({groups}), WUPS@0.9 "
                f"{found['overall_wups_9']:.2f} with the similarity of {mode}"
            )
        found, counts = self.scores(), {name: int(rows.sum()) for name, rows in self._sets()}
        return lines + [
            f"  {kind}: WUPS@0 {found[f'{kind}_wups_0']:.2f}, WUPS@0.9 "
            f"{found[f'{kind}_wups_9']:.2f} of {counts[kind]} questions"
            for kind in self._kinds
        ]

    def pages(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Of ``WordAnswers``, with both right answers."""
        for page in super().pages(limit):
            truths = _truths(self.references[page["id"]])
            if len(truths) > 1:
                page["note"] = f"true answers: {', '.join(truths)}"
                for choice in page["choices"]:
                    choice["correct"] = choice["text"] in truths
            yield page


def _truths(reference: Mapping[str, Any]) -> list[str]:
    """Right answers, one or two where they are known."""
    return [reference[key] for key in ("answer", "second") if reference.get(key) is not None]
