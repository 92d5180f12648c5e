# SPDX-License-Identifier: Apache-2.0
"""Items that cannot be loaded, such as damaged videos: told, listed, and no more than allowed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .checkpoint import replace_text
from .errors import DataError
from .log import logger


class Training:
    """The list of a training run, ``bad_samples.txt``: one line for every item left out.

    Args:
        folder: of the checkpoints; the list of an interrupted run there goes on.
        budget: items that may be left out.
        rank: of this process; each but the first has a file of its own.
    """

    def __init__(self, folder: Path, budget: int, rank: int = 0):
        self.path = folder / f"bad_samples{f'.{rank}' if rank else ''}.txt"
        self.budget = budget
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        self.known = dict.fromkeys(lines)

    def add(self, messages: Iterable[str]) -> None:
        """Note items of a batch; one that is known from an earlier epoch counts once.

        Raises:
            DataError: more than the budget.
        """
        new = [line for line in (_line(m) for m in messages) if line not in self.known]
        if not new:
            return
        for line in new:
            logger.warning("left out of training: %s", line)
        self.known |= dict.fromkeys(new)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path, "".join(f"{line}\n" for line in self.known))
        if len(self.known) > self.budget:
            raise DataError(
                f"TRAIN.max_bad: expected at most {self.budget} items that cannot be loaded, found "
                f"{len(self.known)}, listed in {self.path}; the latest: {new[-1]}; mend them, or "
                "allow more"
            )


def tell(messages: list[str]) -> None:
    """Say what evaluation or prediction left out, and what that means."""
    for message in messages:
        logger.warning("cannot be loaded: %s", _line(message))
    if messages:
        logger.warning("%d items left out: what is asked about them counts as wrong", len(messages))


def _line(message: str) -> str:
    return " ".join(message.split())
