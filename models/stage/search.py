# SPDX-License-Identifier: Apache-2.0
"""Greedy and beam search for token sequences, many samples at a time; see ``layers.beams``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..layers.beams import Step, largest, search

PAD, UNK, BOS, EOS = range(4)
BANNED = (PAD, UNK, BOS)


class Hypothesis(NamedTuple):
    """An answer."""

    tokens: list[int]  # the last one is EOS unless the length limit cut it
    score: float  # normalised by length
    logp: float


def greedy_search(
    step: Step, samples: int, *, max_length: int, banned: Sequence[int] = BANNED
) -> list[Hypothesis]:
    """The most probable next token each time, of equal ones the lowest; ``score`` is ``logp``."""
    tokens, logp = [[] for _ in range(samples)], np.zeros(samples)
    running, kept = np.arange(samples), np.arange(samples)
    last = np.full((samples, 1), BOS)
    for _ in range(max_length):
        scores = _allowed(step(last, kept, np.zeros_like(last)), banned)[:, 0]
        best = scores.argmax(1)
        logp[running] += scores[np.arange(len(best)), best]
        for sample, token in zip(running, best.tolist(), strict=True):
            tokens[sample].append(token)
        kept = np.flatnonzero(best != EOS)
        running, last = running[kept], best[kept, None]
        if not len(running):
            break
    return [Hypothesis(t, p, p) for t, p in zip(tokens, logp.tolist(), strict=True)]


def beam_search(
    step: Step, samples: int, *, size: int, max_length: int, length_penalty: float,
    banned: Sequence[int] = BANNED,
) -> list[list[Hypothesis]]:  # fmt: skip
    """Finished hypotheses of every sample, best first, of equal ones the earliest finished.

    Args:
        size: number B of hypotheses that are kept alive.
        length_penalty: exponent a of lp(n) = ((5 + n) / 6)^a, by which sums of log-probabilities
            over n tokens are divided; 0: not at all.
    """
    beams = [_Beam(size, max_length, length_penalty) for _ in range(samples)]
    search(lambda *call: _allowed(step(*call), banned), beams, BOS, max_length)
    return [beam.answers() for beam in beams]


def _allowed(logp: np.ndarray, banned: Sequence[int]) -> np.ndarray:
    logp = np.array(logp, np.float32)
    logp[..., list(banned)] = -np.inf
    return logp


class _Beam:
    """Hypotheses of one sample: those alive, in the order of their scores, and those finished."""

    def __init__(self, size: int, max_length: int, length_penalty: float):
        self.size, self.max_length, self.length_penalty = size, max_length, length_penalty
        self.tokens: list[list[int]] = [[]]
        self.scores = np.zeros(1, np.float32)
        self.finished: list[Hypothesis] = []

    def advance(self, logp: np.ndarray, length: int) -> np.ndarray:
        """Continue by one token.

        Args:
            logp: (>= alive hypotheses, V), -inf where a token is not allowed.
            length: of the hypotheses with that token.

        Returns:
            (alive hypotheses, 2) int64: which one each continues, and its new token.
        """
        scores = self.scores[:, None] + logp[: len(self.scores)]
        chosen = largest(scores.ravel(), 2 * self.size)
        moves = []
        for rank, (parent, token) in enumerate(zip(*np.divmod(chosen, logp.shape[1]), strict=True)):
            if token == EOS and rank < self.size:
                self._finish([*self.tokens[parent], EOS], scores[parent, EOS], length)
            elif token != EOS and len(moves) < self.size:
                moves.append((parent, token))
        moves = np.array(moves, np.int64).reshape(-1, 2)
        self.tokens = [[*self.tokens[parent], token] for parent, token in moves.tolist()]
        self.scores = scores[moves[:, 0], moves[:, 1]]
        return moves

    def done(self, length: int) -> bool:
        """Can nothing better be found? At the length limit all that is alive is finished."""
        if not self.tokens:
            return True
        if len(self.finished) >= self.size:
            bound = float(self.scores[0]) / self._penalty(self.max_length)
            if bound <= max(h.score for h in self.finished):
                return True
        if length == self.max_length:
            for tokens, score in zip(self.tokens, self.scores, strict=True):
                self._finish(tokens, score, length)
        return length == self.max_length

    def answers(self) -> list[Hypothesis]:
        """Finished hypotheses, best first."""
        return sorted(self.finished, key=lambda h: -h.score)

    def _finish(self, tokens: list[int], logp: np.float32, length: int) -> None:
        self.finished.append(Hypothesis(tokens, float(logp) / self._penalty(length), float(logp)))

    def _penalty(self, length: int) -> float:
        return ((5 + length) / 6) ** self.length_penalty
