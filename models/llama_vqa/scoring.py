# SPDX-License-Identifier: Apache-2.0
"""The loss of every option of a question, what the options share being read once.

The rows of a question differ in the option's letter alone, near their end. So one pass goes over
what is equal, and a short one over the rest of all options, which sees the keys of the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .objectives import asked

Score = Literal["mean_nonzero", "mean", "letter"]
_AFTER_LETTER = 2  # labels: the bracket and the end of the text


@dataclass(frozen=True)
class Plan:
    """What is read of rows (B, K, L), and where the losses come from.

    Attributes:
        shared: (B,) tokens at the beginning of all rows of a question that are read once.
        tail: most tokens of a row that are read for itself.
        source: (M,) places in the tokens read, B * max(shared) of the first pass, then B * K * tail
            of the second, whose states predict ``targets`` (M,).
        cells: (M, 3) question, option and place in the row of these losses.
    """

    shared: np.ndarray
    tail: int
    source: np.ndarray
    targets: np.ndarray
    cells: np.ndarray


def plan(ids: np.ndarray, labels: np.ndarray) -> Plan:
    """Of rows and labels (B, K, L), 0 where ignored."""
    questions, options, length = ids.shape
    row, place, targets = asked(labels.reshape(-1, length))
    question, option = row // options, row % options
    needed = np.zeros(questions, np.int64)  # tokens up to the last that predicts something
    np.maximum.at(needed, question, place + 1)
    same = (ids == ids[:, :1]).all(1)
    equal = np.where(same.all(1), length, same.argmin(1))
    shared = np.maximum(np.minimum(equal, needed), 1)
    tail, first = int(np.maximum(needed - shared, 0).max(initial=0)), int(shared.max(initial=1))
    before = place < shared[question]
    own = (question * options + option) * tail + place - shared[question]
    source = np.where(before, question * first + place, questions * first + own)
    return Plan(shared, tail, source, targets, np.column_stack([question, option, place]))


def tail_layout(shared: np.ndarray, options: int, tail: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (B, K * tail) of the second pass and what they may look at.

    Returns:
        positions, and bool (B, K * tail, max(shared) + K * tail): what is shared, and of the own
        row the token itself and those before.
    """
    steps = np.tile(np.arange(tail), options)
    row = np.repeat(np.arange(options), tail)
    own = (row[:, None] == row) & (steps[:, None] >= steps)
    seen = np.arange(shared.max()) < shared[:, None]
    many = len(shared), options * tail
    parts = [np.broadcast_to(x, (*many, x.shape[-1])) for x in (seen[:, None], own[None])]
    return shared[:, None] + steps, np.concatenate(parts, 2)


def tails(ids: np.ndarray, plan: Plan) -> np.ndarray:
    """Ids (B, K * tail) that the second pass reads; of shorter rows the last one again."""
    questions, options, length = ids.shape
    place = np.minimum(plan.shared[:, None] + np.arange(plan.tail), length - 1)
    place = np.broadcast_to(place[:, None], (questions, options, plan.tail))
    return np.take_along_axis(ids, place, 2).reshape(questions, -1)


def only_letters(labels: np.ndarray) -> np.ndarray:
    """Labels (B, K, L) with that of the option's letter alone."""
    asked_for = labels != 0
    left = asked_for[..., ::-1].cumsum(-1)[..., ::-1]  # labels from here on
    return np.where(asked_for & (left == 1 + _AFTER_LETTER), labels, 0)


def totals(
    losses: np.ndarray, plan: Plan, shape: tuple[int, int], nonzero: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Sums (B, K) of losses (M,) and numbers of them; ``nonzero``: of those that are not 0."""
    cell = plan.cells[:, 0] * shape[1] + plan.cells[:, 1]
    weights = losses, (losses != 0 if nonzero else None)
    return tuple(np.bincount(cell, w, shape[0] * shape[1]).reshape(shape) for w in weights)


def scores(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mean losses float32 (B, K); those of nothing are NaN, which counts as the best."""
    with np.errstate(invalid="ignore"):
        return (total / count).astype(np.float32)
