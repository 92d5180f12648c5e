# SPDX-License-Identifier: Apache-2.0
"""Which samples form which batch on which process, and how they are loaded.

The plan is a pure function of the order, so a run that stopped in the middle of an epoch goes on at
the same batch without loading what came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DataError

DEBUG_BATCHES = 3  # of an epoch, and of validation, with TRAIN.debug
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Batch:
    """Part of a batch that one process computes."""

    indices: list[int]  # this process's samples
    weight: float  # their share of the optimiser step's samples
    last: bool  # does the optimiser step after it?
    parts: int = 1  # batches of the optimiser step
    begin: float = 0.0  # share of the epoch's batches that are taken before this step's


def plan(
    order: Sequence[int],
    batch_size: int,
    *,
    accumulate: int = 1,
    drop_last: bool = False,
    leftovers: bool = True,
    rank: int = 0,
    world: int = 1,
) -> list[Batch]:
    """Batches of an epoch for one process; ``batch_size`` counts all processes together.

    Without ``leftovers`` the epoch ends with the last step that has all of its batches.
    """
    batches = [list(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    if drop_last and batches and len(batches[-1]) < batch_size:
        batches.pop()
    planned = []
    for start in range(0, len(batches), accumulate):
        window = batches[start : start + accumulate]
        if len(window) < accumulate and not leftovers:
            break
        total = sum(map(len, window))
        for k, batch in enumerate(window):
            mine = batch[len(batch) * rank // world : len(batch) * (rank + 1) // world]
            last = k == len(window) - 1
            planned.append(Batch(mine, len(mine) / total, last, len(window), start / len(batches)))
    return planned


def training_order(reader: Any, epoch: int, seed: int) -> Sequence[int]:
    """The reader's own order of an epoch, or a permutation that depends on seed and epoch only."""
    if hasattr(reader, "order"):
        return reader.order(epoch)
    return np.random.default_rng((seed, epoch)).permutation(len(reader)).tolist()


BROKEN = "broken"  # key of a batch: messages about items that were left out of it


class _Failure(dict):
    """An error on its way from a worker process, where exceptions lose their type.

    Of an item that is ``broken``, or one that nothing can go on without.
    """


class _Whole:
    """A value on its way from a worker process, where Paddle takes structures apart."""

    def __init__(self, value: Any):
        self.value = value


class _Guarded:
    """The reader, with user errors turned into values that reach the main process.

    With ``workers``, what is no plain array is wrapped: Paddle makes tensors of arrays inside of
    structures, and cannot send empty ones.
    """

    def __init__(self, reader: Any, workers: bool = False):
        self.reader, self.workers = reader, workers

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.reader[index]
        except Exception as error:
            code = getattr(error, "exit_code", None)
            if code is None:
                raise
            broken = bool(getattr(error, "broken", False))
            return _Failure(__error__=str(error), __code__=code, broken=broken)

    def collate(self, items: list[Any]) -> Any:
        failed = [item for item in items if isinstance(item, _Failure)]
        empty = {"__array__": np.zeros(1)}  # Paddle's loader ends at a batch without any array
        for failure in failed:
            if not failure["broken"]:
                return failure | empty
        good = [item for item in items if not isinstance(item, _Failure)]
        batch = self.reader.collate(good) if good else empty
        if failed:
            batch[BROKEN] = [failure["__error__"] for failure in failed]
        if not self.workers:
            return batch
        return {
            key: value if isinstance(value, np.ndarray) and value.size else _Whole(value)
            for key, value in batch.items()
        }


def load(reader: Any, batches: Sequence[Sequence[int]], num_workers: int) -> Iterator[dict]:
    """Collated batches in the given order, loaded by ``num_workers`` processes (0: this one).

    Items whose error says that they alone are ``broken`` are left out of their batch, which then
    tells of them under BROKEN; a batch of nothing else has no other key.

    Raises:
        DataError: what the reader raised besides, also from inside a worker.
    """
    guarded = _Guarded(reader, workers=num_workers > 0)
    if num_workers == 0:
        stream = (guarded.collate([guarded[i] for i in indices]) for indices in batches)
    else:
        from paddle.io import DataLoader

        stream = DataLoader(
            guarded,
            batch_sampler=list(batches),
            collate_fn=guarded.collate,
            num_workers=num_workers,
            timeout=_TIMEOUT_SECONDS,
        )
    left = len(batches)
    for batch in stream:
        if "__error__" in batch:
            error = DataError(batch["__error__"])
            error.exit_code = int(batch["__code__"])
            raise error
        left -= 1
        batch.pop("__array__", None)
        yield {k: v.value if isinstance(v, _Whole) else v for k, v in batch.items()}
    assert not left, f"the loader left out {left} of {len(batches)} batches"


def first_batch(reader: Any) -> dict:
    """A batch of the first item that is not broken; empty when there is none."""
    for batch in load(reader, [[i] for i in range(len(reader))], 0):
        if BROKEN not in batch:
            return batch
    return {}


def chunks(reader: Any, batch_size: int) -> list[list[int]]:
    """All items in their order; the reader's ``items_per_batch`` wins over ``batch_size``.

    Readers set it where an item is a batch of its own kind (a whole video, say).
    """
    size = getattr(reader, "items_per_batch", None) or batch_size
    return [list(range(i, min(i + size, len(reader)))) for i in range(0, len(reader), size)]


def to_tensors(batch: dict) -> dict:
    """NumPy arrays of numbers become tensors on the current device; everything else stays."""
    import paddle

    return {k: paddle.to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}
