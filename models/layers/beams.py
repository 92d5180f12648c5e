# SPDX-License-Identifier: Apache-2.0
"""Searches for token sequences that keep several hypotheses a sample, many samples at a time.

Nothing is known of the network but ``step(tokens, samples, parents)``, which continues hypotheses
by one token each and returns the log-probabilities of the next one, (n, k, V):

- tokens (n, k): last token of k hypotheses of each of n samples;
- samples (n,): which samples of the call before go on (in the first call: all of them);
- parents (n, k): which hypothesis of the call before each one continues (in the first call: 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

Step = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Beam(Protocol):
    """The hypotheses of one sample."""

    def advance(self, logp: np.ndarray, length: int) -> np.ndarray:
        """Continue by one token.

        Args:
            logp: (>= hypotheses, V), -inf where a token is not allowed.
            length: of the hypotheses with that token, the first one aside.

        Returns:
            (hypotheses, 2) int64: which one each continues, and its new token.
        """

    def done(self, length: int) -> bool:
        """Is the sample's search over after tokens of that number?"""


def search(step: Step, beams: Sequence[Beam], start: int, max_length: int) -> None:
    """Let every beam advance until it is done.

    Args:
        start: the token that all hypotheses begin with.
        max_length: of a hypothesis without it; no beam goes on from there.
    """
    running, kept = list(beams), np.arange(len(beams))
    last, parents = np.full((len(beams), 1), start), np.zeros((len(beams), 1), np.int64)
    for length in range(1, max_length + 1):
        logp = step(last, kept, parents)
        moves = [beam.advance(row, length) for beam, row in zip(running, logp, strict=True)]
        kept = np.array([i for i, beam in enumerate(running) if not beam.done(length)], np.int64)
        if not len(kept):
            break
        running = [running[i] for i in kept]
        parents, last = np.zeros((2, len(kept), max(len(moves[i]) for i in kept)), np.int64)
        for row, i in enumerate(kept):
            count = len(moves[i])
            parents[row, :count], last[row, :count] = moves[i].T


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the ``count`` largest finite values, descending; of equal ones the first first."""
    if count < len(scores):
        threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
        places = np.flatnonzero(scores >= threshold)
    else:
        places = np.arange(len(scores))
    places = places[np.isfinite(scores[places])]
    return places[np.argsort(-scores[places], kind="stable")][:count]
