# SPDX-License-Identifier: Apache-2.0
"""Beam search by the rules of the transformers library, release 4.11; see ``layers.beams``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..layers.beams import Step, largest, search


class Hypothesis(NamedTuple):
    """An answer."""

    tokens: list[int]  # between the first token and the last one, which are the same for all
    score: float  # sum of log-probabilities over the length, see ``beam_search``
    ended: bool  # by the last token, not by the length limit


def beam_search(
    step: Step, samples: int, *, start: int, end: int, size: int = 3, max_length: int = 10,
    min_length: int = 1, length_penalty: float = 1.0,
) -> list[list[Hypothesis]]:  # fmt: skip
    """At most ``size`` hypotheses of every sample, best first, of equal ones the latest found.

    Args:
        start, end: first and last token of an answer.
        size: number B of hypotheses that go on at a time.
        max_length: tokens of an answer, the first one included, the last one not.
        min_length: as many are before the last one.
        length_penalty: exponent of the length, the first token included, by which sums of
            log-probabilities are divided.

    Raises:
        ValueError: an option out of range.
    """
    if size < 1 or max_length < 2:
        raise ValueError(
            f"num_beams, max_length: expected at least 1 and 2, found {size} and {max_length}"
        )
    beams = [_Beam(end, size, max_length, min_length, length_penalty) for _ in range(samples)]
    search(step, beams, start, max_length - 1)
    return [beam.answers() for beam in beams]


class _Beam:
    """Hypotheses of one sample: those that go on, best first, and the best finished ones.

    Lengths in ``advance`` and ``done`` count the tokens before the newest, the first one included.
    """

    def __init__(
        self, end: int, size: int, max_length: int, min_length: int, length_penalty: float
    ):
        self.end, self.size, self.length_penalty = end, size, length_penalty
        self.max_length, self.min_length = max_length, min_length
        self.tokens: list[list[int]] = [[]]
        self.scores = np.zeros(1, np.float32)
        self.best_sum = 0.0  # of the last step, finished hypotheses included
        self.finished: list[Hypothesis] = []

    def advance(self, logp: np.ndarray, length: int) -> np.ndarray:
        """See ``layers.beams.Beam``; whatever ends outside the B best continuations is dropped."""
        scores = self.scores[:, None] + logp[: len(self.scores)]
        if length < self.min_length:
            scores[:, self.end] = -np.inf
        chosen = largest(scores.ravel(), 2 * self.size)
        self.best_sum = float(scores.flat[chosen[0]])
        moves = []
        for rank, (parent, token) in enumerate(zip(*np.divmod(chosen, logp.shape[1]), strict=True)):
            if token == self.end and rank < self.size:
                self._finish(self.tokens[parent], scores[parent, token], length, True)
            elif token != self.end and len(moves) < self.size:
                moves.append((parent, token))
        moves = np.array(moves, np.int64).reshape(-1, 2)
        self.tokens = [[*self.tokens[parent], token] for parent, token in moves.tolist()]
        self.scores = scores[moves[:, 0], moves[:, 1]]
        return moves

    def done(self, length: int) -> bool:
        """Is the best continuation no better than what is finished, or the limit reached?"""
        if len(self.finished) == self.size:
            worst = min(hypothesis.score for hypothesis in self.finished)
            if worst >= self.best_sum / length**self.length_penalty:
                return True
        if length + 1 == self.max_length:
            for tokens, score in zip(self.tokens, self.scores, strict=True):
                self._finish(tokens, score, self.max_length, False)
        return length + 1 == self.max_length

    def answers(self) -> list[Hypothesis]:
        """Finished hypotheses, best first."""
        return sorted(self.finished, key=lambda hypothesis: hypothesis.score)[::-1]

    def _finish(self, tokens: list[int], logp: np.float32, length: int, ended: bool) -> None:
        """Keep it, or drop it or the worst one where there are more than B."""
        self.finished.append(
            Hypothesis(tokens, float(logp) / length**self.length_penalty, ended)
        )
        if len(self.finished) > self.size:
            scores = [hypothesis.score for hypothesis in self.finished]
            del self.finished[self.size if scores[-1] <= min(scores[:-1]) else np.argmin(scores)]
