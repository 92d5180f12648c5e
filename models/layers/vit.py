# SPDX-License-Identifier: Apache-2.0
"""Parts of vision transformers (Dosovitskiy et al., arXiv:2010.11929), named as in timm."""

from __future__ import annotations

from typing import Any, Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

from . import kernels
from .bert import dense, gelu, linear, normalise
from .initialise import uniform_fan_in

Activation = Literal["gelu", "quick_gelu"]


def recomputed(function: Any, *inputs: Any) -> Any:
    """``function(*inputs)`` whose activations are not kept but made again for its gradient.

    It must not draw random numbers; those it needs are among its inputs.
    """
    from paddle.distributed.fleet.utils import recompute

    return recompute(function, *inputs, preserve_rng_state=False)


class DropPath(nn.Layer):
    """Leaves out a branch of a residual network at random, per row, in training.

    Args:
        rate: probability of leaving out; what is kept is divided by 1 - rate.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path_rate: expected 0 <= rate < 1, found {rate}")
        self.rate = rate

    def scale(self, shape: list[int]) -> paddle.Tensor | None:
        """0 or 1 / (1 - rate) in this shape; None where nothing is left out."""
        if not self.training or self.rate == 0:
            return None
        kept = (paddle.rand(shape) >= self.rate).astype("float32")
        return kept / (1 - self.rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """(N, ...) to the same shape, one decision for each of the N."""
        return scaled(x, self.scale([x.shape[0]] + [1] * (x.ndim - 1)))


def scaled(x: paddle.Tensor, scale: paddle.Tensor | None) -> paddle.Tensor:
    """``x * scale``; x without a scale."""
    return x if scale is None else x * scale


class PatchEmbed(nn.Layer):
    """Pictures to vectors of their square patches, by one matrix product.

    ``proj`` is a convolution of stride ``patch``; on CPU the product is faster.
    """

    def __init__(self, patch: int, width: int, bias: bool = True):
        super().__init__()
        weight, self.patch = uniform_fan_in(3 * patch * patch), patch
        bias_attr = uniform_fan_in(3 * patch * patch) if bias else False
        self.proj = nn.Conv2D(3, width, patch, patch, weight_attr=weight, bias_attr=bias_attr)

    def forward(self, pictures: paddle.Tensor) -> paddle.Tensor:
        """(N, 3, H, W) -> (N, H / patch * W / patch, D), row by row; what is left over is cut."""
        n, side = pictures.shape[0], self.patch
        rows, columns = (size // side for size in pictures.shape[2:])
        x = pictures[:, :, : rows * side, : columns * side]
        x = x.reshape([n, 3, rows, side, columns, side]).transpose([0, 2, 4, 1, 3, 5])
        x = x.reshape([n, rows * columns, 3 * side * side])
        weight = self.proj.weight.flatten(1).t()
        if self.proj.bias is None:
            return paddle.matmul(x, weight)
        return kernels.linear(x, weight, self.proj.bias)


class Attention(nn.Layer):
    """Multi-head self-attention; queries, keys and values by one layer ``qkv``, in this order."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(
                f"vit: expected the width to be a multiple of the heads, found {width} and {heads}"
            )
        self.heads = heads
        self.qkv = linear(width, 3 * width)
        self.proj = linear(width, width)

    def mix(self, x: paddle.Tensor, axis: int = -2) -> tuple[paddle.Tensor, paddle.Tensor]:
        """What ``proj`` projects, and the weights (others..., heads, L, L), each row of sum 1.

        Args:
            x: (..., D) with tokens along ``axis``; the axes in between are others as well.
        """
        ndim, axis = x.ndim, axis % x.ndim
        others = [a for a in range(ndim - 1) if a != axis]
        order = [*others, ndim - 1, axis, ndim]  # of (..., heads, D / heads)
        back = sorted(range(ndim + 1), key=order.__getitem__)
        shape = [*x.shape[:-1], self.heads, x.shape[-1] // self.heads]
        query, key, value = (
            part.reshape(shape).transpose(order)
            for part in paddle.split(dense(x, self.qkv), 3, -1)
        )
        scores = paddle.matmul(query * shape[-1] ** -0.5, key, transpose_y=True)
        weights = F.softmax(scores)
        return paddle.matmul(weights, value).transpose(back).flatten(-2), weights

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """(..., L, D) to the same shape."""
        return dense(self.mix(x)[0], self.proj)


class Mlp(nn.Layer):
    """Two projections.

    Args:
        activation: between them: gelu, exact, or quick_gelu, x * sigmoid(1.702 x), as in CLIP.
    """

    def __init__(self, width: int, hidden: int, activation: Activation = "gelu"):
        super().__init__()
        self.fc1 = linear(width, hidden)
        self.fc2 = linear(hidden, width)
        self.activation = activation

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """(..., D) to the same shape."""
        x = dense(x, self.fc1)
        x = gelu(x, self.training) if self.activation == "gelu" else x * F.sigmoid(1.702 * x)
        return dense(x, self.fc2)


class Block(nn.Layer):
    """Attention, then two projections; normalised before each.

    Args:
        hidden: between the projections; 4 ``width`` by default.
        drop_path: see ``DropPath``.
        epsilon: of the norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int | None = None,
        activation: Activation = "gelu",
        drop_path: float = 0.0,
        epsilon: float = 1e-6,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, epsilon)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, epsilon)
        self.mlp = Mlp(width, hidden or 4 * width, activation)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """(N, L, D) to the same shape."""
        x = x + self.drop_path(self.attn(normalise(x, self.norm1)))
        return x + self.drop_path(self.mlp(normalise(x, self.norm2)))
