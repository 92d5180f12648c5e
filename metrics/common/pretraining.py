# SPDX-License-Identifier: Apache-2.0
"""Masked words and image-text matching.

Source: pretraining of github.com/jayleicn/ClipBERT (arXiv:2102.06183).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .sums import Sums

_WORDS = 30522  # of bert-base-uncased


class Pretraining(Sums):
    """Means over masked words and over pairs; a pair without a record is in neither.

    Args:
        strict: of ``Records``.
    """

    keys = ("mlm_loss", "mlm_tokens", "mlm_correct", "itm_loss", "itm_correct")
    primary, higher_is_better = "mlm_acc", True
    columns = ("mlm_acc", "mlm_loss", "itm_acc", "itm_loss")

    def scores(self) -> dict[str, float]:
        """``mlm_acc``, ``mlm_loss`` of a masked word; ``itm_acc``, ``itm_loss`` of a pair."""
        sums = dict(zip(self.keys, self["sums"].sum(axis=0).tolist(), strict=True))
        words, pairs = max(1.0, sums["mlm_tokens"]), max(1, len(self["sums"]) - self.missing())
        return {
            "mlm_acc": sums["mlm_correct"] / words,
            "mlm_loss": sums["mlm_loss"] / words,
            "itm_acc": sums["itm_correct"] / pairs,
            "itm_loss": sums["itm_loss"] / pairs,
        }

    details = published = scores

    def report(self) -> list[str]:
        """Accuracies in per cent, and losses."""
        text = (
            "masked words: accuracy {mlm_acc:.2%}, loss {mlm_loss:.4f}; "
            "pairs: accuracy {itm_acc:.2%}, loss {itm_loss:.4f}"
        )
        return [text.format(**self.scores())]

    def answers(self, topk: int | None = None) -> list[str]:
        """What was found of every pair."""
        lines = []
        for row, name, reference in self.present():
            _, words, right, _, matched = self["sums"][row].tolist()
            lines.append(f"{name}: {reference.get('caption', '')}")
            match = "right" if matched else "wrong"
            lines.append(f"  masked words: {right:.0f} of {words:.0f} right; match: {match}")
        return lines

    @staticmethod
    def random(records: Sequence[dict], rng: np.random.Generator) -> list[dict]:
        """The records with words drawn from BERT's vocabulary, and matches, by lot."""

        def guess(record: Mapping[str, Any]) -> dict[str, Any]:
            words = record["mlm_tokens"]
            return {
                "mlm_loss": words * math.log(_WORDS),
                "mlm_correct": int(rng.binomial(words, 1 / _WORDS)),
                "itm_loss": math.log(2),
                "itm_correct": int(rng.integers(2)),
            }

        return [record | guess(record) for record in records]
