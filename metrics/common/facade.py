# SPDX-License-Identifier: Apache-2.0
"""What a metric of several tasks offers, by the scorer of the task that it has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import write_json
from .records import Records


class Facade:
    """Numbers and answers by ``scorer``; the published files are the metric's own."""

    def __init__(self, scorer: Records):
        self._scorer = scorer
        self.primary, self.columns = scorer.primary, scorer.columns
        self.higher_is_better = scorer.higher_is_better
        for name in ("pages", "random", "frequent"):  # not every task has them
            if hasattr(scorer, name) and not hasattr(self, name):
                setattr(self, name, getattr(scorer, name))
        self._checked = self._expected = False

    def expect(self, references: Mapping[str, Mapping[str, Any]]) -> None:
        """Say what is to be answered, {id: reference}; start afresh. Keys: see the reader."""
        self._scorer.expect(references)
        self._checked, self._expected = False, True

    def update(self, records: Sequence[dict]) -> None:
        """Add records of the network, or those that ``read`` made.

        Without ``expect``, those of a raw video may have their ``reference``.

        Raises:
            DataError: missing keys, wrong shapes, numbers not finite; strict: an unknown id.
        """
        if not self._expected:
            asked = {r["id"]: r["reference"] for r in records if "reference" in r}
            if asked:
                self._scorer.expect(asked)
        self._scorer.update(records)
        self._checked = False

    def result(self) -> dict[str, float]:
        """The task's numbers, not rounded, and how many ids are ``missing``.

        Raises:
            DataError: strict, and some are.
        """
        if not self._checked:
            self._scorer.check()
            self._checked = True
        return self._scorer.scores() | {"missing": self._scorer.missing()}

    def details(self) -> dict[str, Any]:
        """The numbers in the published structure, not rounded, answer types with their ratios."""
        return self._scorer.details()

    def report(self) -> list[str]:
        """The numbers for people."""
        missing, total = self._scorer.missing(), len(self._scorer.references)
        return [f"{total - missing} predicted, {missing} missing", *self._scorer.report()]

    def answers(self, topk: int | None = None) -> list[str]:
        """What was predicted: up to ``topk`` answers, options or captions (default: the best)."""
        return self._scorer.answers(topk)

    def _write_scores(self, folder: str | os.PathLike, mode: str, always: bool) -> Path:
        """Write ``scores.json`` where true answers are known, or ``always``; returns its path."""
        path = Path(folder) / "scores.json"
        if always or (mode == "test" and self._scorer.has_truth()):
            write_json(path, self._scorer.published(), indent=1)
        return path
