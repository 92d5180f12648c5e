# SPDX-License-Identifier: Apache-2.0
"""Data parallelism over ``python -m paddle.distributed.launch``: everything collective is here.

A step's gradients are summed over the processes after its last backward pass, each loss having been
weighted by its share of the step's samples, unless it is a sum over them. So any number of
processes, and any accumulation, gives the gradient of the mean, or sum, over the same samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM") or 1)


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("PADDLE_TRAINER_ID") or 0)


def init() -> None:
    """Join the other processes; nothing to do for a single one."""
    if world_size() > 1:
        import paddle.distributed as dist

        if not dist.is_initialized():
            dist.init_parallel_env()


def sum_gradients(parameters: Iterable[Any]) -> None:
    """Add every parameter's gradient over all processes, in place.

    A parameter that this process did not use counts as zero.
    """
    if world_size() == 1:
        return
    import paddle
    import paddle.distributed as dist

    for parameter in parameters:
        if parameter.stop_gradient:
            continue
        if parameter.grad is None:
            parameter.grad = paddle.zeros_like(parameter)
        dist.all_reduce(parameter.grad)


def sum_values(values: list[float]) -> list[float]:
    """Sum of each number over all processes."""
    if world_size() == 1:
        return values
    import paddle
    import paddle.distributed as dist

    tensor = paddle.to_tensor(values, dtype="float64")
    dist.all_reduce(tensor)
    return tensor.tolist()


def broadcast(parameters: Iterable[Any]) -> None:
    """Give every process the parameters of process 0."""
    if world_size() > 1:
        import paddle.distributed as dist

        for parameter in parameters:
            dist.broadcast(parameter, src=0)


def gather(item: Any) -> list[Any]:
    """The picklable ``item`` of every process, in order of their numbers."""
    if world_size() == 1:
        return [item]
    import paddle.distributed as dist

    items: list[Any] = []
    dist.all_gather_object(items, item)
    return items


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        import paddle.distributed as dist

        dist.barrier()
