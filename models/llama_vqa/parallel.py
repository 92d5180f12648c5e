# SPDX-License-Identifier: Apache-2.0
"""One network on several GPUs: every matrix of a layer is divided, activations are exchanged.

Queries, keys, values, w1, w3 and the last layer are divided by outputs, wo and w2 by inputs: so a
layer needs two sums over the GPUs. Embeddings, norms and the trained extras are on all of them.
Paddle has these layers on GPUs only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.autograd import PyLayer

from .network import Whole, hidden_size

_BY_OUTPUT = re.compile(r"(output|.*\.(wq|wk|wv|w1|w3))\.weight")
_BY_INPUT = re.compile(r".*\.(wo|w2)\.weight")


def axis(name: str) -> int | None:
    """Along which axis of [in, out] a weight is divided; None: all of it is everywhere."""
    if _BY_OUTPUT.fullmatch(name):
        return 1
    return 0 if _BY_INPUT.fullmatch(name) else None


def split(name: str, array: np.ndarray, rank: int, degree: int) -> np.ndarray:
    """What GPU ``rank`` of ``degree`` holds of a weight."""
    along = axis(name)
    return array if along is None else np.split(array, degree, along)[rank]


def merge(name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    """The weight that ``split`` divided."""
    along = axis(name)
    return parts[0] if along is None else np.concatenate(parts, along)


def check(degree: int, sizes: Mapping[str, Any], train_backbone: bool) -> None:
    """Can so many GPUs share the network?

    Raises:
        ValueError: they cannot.
    """
    if degree < 1:
        raise ValueError(f"tensor_parallel: expected at least 1, found {degree}")
    divided = {
        "num_heads": sizes["num_heads"], "vocab_size": sizes["vocab_size"],
        "hidden numbers": hidden_size(sizes["dim"], sizes["multiple_of"]),
    }  # fmt: skip
    for name, value in divided.items():
        if value % degree:
            raise ValueError(
                f"tensor_parallel: expected a divisor of {name} = {value}, found {degree}"
            )
    if degree > 1 and train_backbone:
        raise ValueError("tensor_parallel: expected 1 with train_backbone, whose weights are saved")
    if degree > 1 and not paddle.device.get_device().startswith("gpu"):
        raise ValueError(
            f"tensor_parallel: expected {degree} GPUs, found a CPU, for which Paddle has no such "
            "layers; set it to 1"
        )


class Parts(Whole):
    """Makes the part of the big layers that this process holds; see ``Whole``.

    Fleet must have been started with as many GPUs in a model-parallel group.
    """

    def __init__(self, degree: int):
        from paddle.distributed import fleet

        groups = fleet.get_hybrid_communicate_group()
        if groups is None:
            raise ValueError(
                f"tensor_parallel: expected processes of python -m paddle.distributed.launch, "
                f"{degree} a network, found a single one"
            )
        self.degree, self.rank = degree, groups.get_model_parallel_rank()
        self.group = groups.get_model_parallel_group()
        if (found := groups.get_model_parallel_world_size()) != degree:
            raise ValueError(f"tensor_parallel: expected {degree} processes a group, found {found}")

    @staticmethod
    def column(inputs: int, outputs: int, deviation: float) -> nn.Layer:
        """Outputs are divided."""
        return _divided("Column", inputs, outputs, deviation, gather_output=False)

    @staticmethod
    def row(inputs: int, outputs: int, deviation: float) -> nn.Layer:
        """Inputs are divided already; outputs are summed over the GPUs."""
        return _divided("Row", inputs, outputs, deviation, input_is_parallel=True)

    @staticmethod
    def words(inputs: int, outputs: int, deviation: float) -> nn.Layer:
        """Outputs are divided, then gathered."""
        return _divided("Column", inputs, outputs, deviation, gather_output=True)

    def heads(self, gate: paddle.Tensor) -> paddle.Tensor:
        """(1, H, 1, 1) -> (1, H / degree, 1, 1)."""
        return OwnHeads.apply(gate, self.rank, self.degree, self.group)


def _divided(kind: str, inputs: int, outputs: int, deviation: float, **options: bool) -> nn.Layer:
    from paddle.distributed.fleet import meta_parallel

    attribute = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, deviation))
    make = getattr(meta_parallel, f"{kind}ParallelLinear")
    return make(inputs, outputs, weight_attr=attribute, has_bias=False, **options)


class OwnHeads(PyLayer):
    """The numbers of this process's heads; their gradients are gathered, so that all have all."""

    @staticmethod
    def forward(ctx: Any, gate: paddle.Tensor, rank: int, degree: int, group: Any) -> paddle.Tensor:
        """(1, H, 1, 1) -> (1, H / degree, 1, 1)."""
        ctx.place = (rank, degree, group)
        return gate.chunk(degree, 1)[rank].clone()

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        """(1, H / degree, 1, 1) -> (1, H, 1, 1)."""
        rank, degree, group = ctx.place
        parts = [paddle.zeros_like(gradient) for _ in range(degree)]
        parts[rank] = gradient
        whole = paddle.concat(parts, 1)
        paddle.distributed.all_reduce(whole, group=group)
        return whole
