# SPDX-License-Identifier: Apache-2.0
"""How well a language model foretells texts, token by token."""

from __future__ import annotations

import math

from .sums import Sums

_MOST = 700.0  # a loss whose exponential is still a number


class LanguageModel(Sums):
    """Means over the tokens of all texts; a text without a record is in none.

    Args:
        strict: of ``Records``.
    """

    keys = ("lm_loss", "lm_tokens", "lm_correct")
    primary, higher_is_better = "perplexity", False
    columns = ("perplexity", "token_acc")

    def scores(self) -> dict[str, float]:
        """``perplexity`` (infinite without any token), ``token_acc``, ``lm_loss`` of a token."""
        loss, tokens, correct = self["sums"].sum(axis=0).tolist()
        if not tokens:
            return {"perplexity": math.inf, "token_acc": 0.0, "lm_loss": 0.0}
        loss /= tokens
        perplexity = math.exp(min(loss, _MOST))
        return {"perplexity": perplexity, "token_acc": correct / tokens, "lm_loss": loss}

    details = published = scores

    def report(self) -> list[str]:
        """Perplexity, and accuracy in per cent."""
        text = "tokens: perplexity {perplexity:.4f}, accuracy {token_acc:.2%}, loss {lm_loss:.4f}"
        return [text.format(**self.scores())]

    def answers(self, topk: int | None = None) -> list[str]:
        """What was found of every text."""
        lines = []
        for row, name, reference in self.present():
            loss, tokens, right = self["sums"][row].tolist()
            mean = math.exp(min(loss / max(1.0, tokens), _MOST))
            lines.append(f"{name}: {reference.get('text', '')}")
            lines.append(f"  {right:.0f} of {tokens:.0f} tokens right, perplexity {mean:.3f}")
        return lines
