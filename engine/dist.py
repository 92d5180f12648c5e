# SPDX-License-Identifier: Apache-2.0
"""Data parallelism over ``python -m paddle.distributed.launch``: everything collective is here.

A step's gradients are summed over the processes after its last backward pass, each loss having been
weighted by its share of the step's samples, unless it is a sum over them. So any number of
processes, and any accumulation, gives the gradient of the mean, or sum, over the same samples.

Where several processes share one network (MODEL.tensor_parallel), they count as one: they have the
same number here and are given the same samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from .errors import ConfigError

_shared = 1  # processes that share one network
_group: Any = None  # of those that hold the same part of it; None: all processes


def world_size() -> int:
    """Number of networks, each on one process or shared by several."""
    return processes() // _shared


def rank() -> int:
    """Number of this process's network, from 0."""
    return process() // _shared


def processes() -> int:
    """Number of processes."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM") or 1)


def process() -> int:
    """Number of this process, from 0; that one writes files."""
    return int(os.environ.get("PADDLE_TRAINER_ID") or 0)


def init(shared: int = 1) -> None:
    """Join the other processes; nothing to do for a single one.

    Args:
        shared: so many processes share one network, which Paddle's Fleet divides among them.
    """
    global _shared, _group
    degrees = hybrid(processes(), shared)
    if shared > 1:
        from paddle.distributed import fleet

        strategy = fleet.DistributedStrategy()
        strategy.hybrid_configs = degrees
        fleet.init(is_collective=True, strategy=strategy)
        _group = fleet.get_hybrid_communicate_group().get_data_parallel_group()
        _shared = shared
    elif processes() > 1:
        import paddle.distributed as dist

        if not dist.is_initialized():
            dist.init_parallel_env()


def hybrid(count: int, shared: int) -> dict[str, int]:
    """Fleet's hybrid_configs for so many processes of which ``shared`` share a network.

    Raises:
        ConfigError: the processes cannot be divided so.
    """
    if shared < 1 or count % shared:
        raise ConfigError(
            f"MODEL.tensor_parallel: expected a divisor of the number of processes ({count}), "
            f"found {shared}; start a multiple of it with python -m paddle.distributed.launch"
        )
    return {"dp_degree": count // shared, "mp_degree": shared, "pp_degree": 1, "sharding_degree": 1}


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
        dist.all_reduce(parameter.grad, group=_group)


def sum_values(values: list[float]) -> list[float]:
    """Sum of each number over all networks.

    All processes take part, so that a signal to any of them reaches all.
    """
    if processes() == 1:
        return values
    import paddle
    import paddle.distributed as dist

    tensor = paddle.to_tensor(values, dtype="float64")
    dist.all_reduce(tensor)
    return [value / _shared for value in tensor.tolist()]


def broadcast(parameters: Iterable[Any]) -> None:
    """Give every network the parameters of the first."""
    if world_size() > 1:
        import paddle.distributed as dist

        for parameter in parameters:
            dist.broadcast(parameter, src=process() % _shared, group=_group)


def gather(item: Any) -> list[Any]:
    """The picklable ``item`` of every network's process, in order of their numbers."""
    if world_size() == 1:
        return [item]
    import paddle.distributed as dist

    items: list[Any] = []
    dist.all_gather_object(items, item, group=_group)
    return items


def barrier() -> None:
    """Wait until all processes are here."""
    if processes() > 1:
        import paddle.distributed as dist

        dist.barrier()
