# SPDX-License-Identifier: Apache-2.0
"""Encoder of short sequences by depthwise separable convolutions (QANet, arXiv:1804.09541), in the
variant of STAGE (arXiv:1904.11574).

Convolutions see padded positions, which hold biases and position codes: the result at the end of a
sequence depends on the padded length. The published numbers were made so; nothing masks it here.
"""

from __future__ import annotations

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from . import kernels
from .initialise import uniform_fan_in

_MAX_LENGTH = 500


def sinusoids(length: int, size: int) -> np.ndarray:
    """Position codes (length, size): sine at even, cosine at odd places."""
    position = np.arange(length, dtype=np.float32)[:, None]
    rate = np.exp(np.arange(0, size, 2, dtype=np.float32) * (-math.log(10000.0) / size))
    codes = np.zeros((length, size), np.float32)
    codes[:, 0::2] = np.sin(position * rate)
    codes[:, 1::2] = np.cos(position * rate)[:, : size // 2]
    return codes


class Conv1D(nn.Layer):
    """Parameters of a convolution along sequences: weight (channels, channels / groups, kernel)."""

    def __init__(self, channels: int, kernel_size: int, groups: int):
        super().__init__()
        fan_in = channels // groups * kernel_size
        shape = [channels, channels // groups, kernel_size]
        self.weight = self.create_parameter(shape, attr=uniform_fan_in(fan_in))
        self.bias = self.create_parameter([channels], attr=uniform_fan_in(fan_in))


class DepthwiseSeparableConv(nn.Layer):
    """ReLU(pointwise(depthwise(x))) along the length of (N, L, D)."""

    def __init__(self, size: int, kernel_size: int):
        super().__init__()
        self.depthwise_conv = Conv1D(size, kernel_size, groups=size)
        self.pointwise_conv = Conv1D(size, 1, groups=1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """(N, L, D) -> (N, L, D)."""
        x = kernels.depthwise(x, self.depthwise_conv.weight, self.depthwise_conv.bias)
        weight = self.pointwise_conv.weight.squeeze(-1).t()  # (in, out)
        return F.relu(kernels.linear(x, weight, self.pointwise_conv.bias))


class SelfAttention(nn.Layer):
    """Multi-head self-attention whose mask fills the rows of padded QUERIES (as published).

    Padded keys take part. ``linears`` are query, key, value and output.
    """

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        if size % heads:
            raise ValueError(f"n_heads: expected a divisor of hsz {size}, found {heads}")
        self.heads, self.dropout = heads, dropout
        self.linears = nn.LayerList([linear(size, size) for _ in range(4)])

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        """(N, L, D), (N, L) of 0/1 -> (N, L, D)."""
        n, length, size = x.shape
        query, key, value = (
            layer(x).reshape([n, length, self.heads, -1]).transpose([0, 2, 1, 3])
            for layer in self.linears[:3]
        )
        scores = paddle.matmul(query, key, transpose_y=True) / math.sqrt(size // self.heads)
        keep = mask.reshape([n, 1, length, 1])
        scores = scores * keep + (keep - 1) * 1e9
        weights = F.dropout(F.softmax(scores, -1), self.dropout, training=self.training)
        mixed = paddle.matmul(weights, value).transpose([0, 2, 1, 3]).reshape([n, length, size])
        return self.linears[3](mixed)


class EncoderBlock(nn.Layer):
    """Position codes, then residual convolutions and attention, then LayerNorm."""

    def __init__(
        self, size: int, n_conv: int, kernel_size: int, n_heads: int, dropout: float,
        attention_dropout: float,
    ):  # fmt: skip
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, found {kernel_size}")
        self.dropout = dropout
        self.position_encoding = _PositionEncoding(size)
        self.layer_norm = nn.LayerList([nn.LayerNorm(size) for _ in range(n_conv)])
        self.conv = nn.LayerList([DepthwiseSeparableConv(size, kernel_size) for _ in range(n_conv)])
        self.final_layer_norm = nn.LayerNorm(size)
        self.multi_head_attn = None
        if n_heads:
            self.multi_head_attn = SelfAttention(size, n_heads, attention_dropout)
            self.attn_layer_norm = nn.LayerNorm(size)

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        """(N, L, D), (N, L) of 0/1 -> (N, L, D)."""
        x = x + self.position_encoding.pe[: x.shape[1]]
        for i, (norm, conv) in enumerate(zip(self.layer_norm, self.conv, strict=True)):
            y = kernels.layer_norm(x, norm)
            if i % 2 == 0:
                y = kernels.dropout(y, self.dropout, self.training)
            x = x + conv(y)
        if self.multi_head_attn is not None:
            x = x + self.multi_head_attn(self.attn_layer_norm(x), mask)
        return kernels.layer_norm(x, self.final_layer_norm)


class _PositionEncoding(nn.Layer):
    def __init__(self, size: int):
        super().__init__()
        table = paddle.to_tensor(sinusoids(_MAX_LENGTH, size))
        self.register_buffer("pe", table, persistable=False)


class StackedEncoder(nn.Layer):
    """``n_blocks`` encoder blocks, one after the other."""

    def __init__(
        self, size: int, *, n_blocks: int, n_conv: int, kernel_size: int, n_heads: int,
        dropout: float, attention_dropout: float,
    ):  # fmt: skip
        super().__init__()
        block = (size, n_conv, kernel_size, n_heads, dropout, attention_dropout)
        self.stacked_encoderBlocks = nn.LayerList([EncoderBlock(*block) for _ in range(n_blocks)])

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        """(N, L, D), (N, L) of 0/1 -> (N, L, D)."""
        for block in self.stacked_encoderBlocks:
            x = block(x, mask)
        return x


def linear(size_in: int, size_out: int) -> nn.Linear:
    """Linear layer, initialised as PyTorch does by default."""
    init = uniform_fan_in(size_in)
    return nn.Linear(size_in, size_out, weight_attr=init, bias_attr=uniform_fan_in(size_in))
