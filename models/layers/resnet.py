# SPDX-License-Identifier: Apache-2.0
"""Bottleneck ResNet with frozen batch norm (He et al., arXiv:1512.03385), named as in detectron2.

Its parameters are `stem.conv1.weight`, `stem.conv1.norm.weight`, `res2.0.conv1.weight` and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

BATCH_NORM_EPSILON = 1e-5


class FrozenBatchNorm(nn.Layer):
    """Batch norm by stored statistics, also in training; all four vectors are buffers.

    At first it changes nothing.
    """

    def __init__(self, channels: int):
        super().__init__()
        values = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0}
        for name, value in {**values, "running_var": 1.0 - BATCH_NORM_EPSILON}.items():
            self.register_buffer(name, paddle.full([channels], value))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Same shape as x [N, C, H, W]."""
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, epsilon=BATCH_NORM_EPSILON)


class ConvNorm(nn.Conv2D):
    """Convolution without bias that keeps the size, then its frozen `norm`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1):
        deviation = (2 / (outputs * kernel * kernel)) ** 0.5  # He, by outputs
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride,
            padding=kernel // 2 * dilation,
            dilation=dilation,
            weight_attr=nn.initializer.Normal(0.0, deviation),
            bias_attr=False,
        )
        self.norm = FrozenBatchNorm(outputs)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        return self.norm(nn.Conv2D.forward(self, x))  # super() is lost in exported programs


class Stem(nn.Layer):
    """7x7 convolution and 3x3 maximum, each of stride 2.

    Args:
        pool: `padded`, one pixel on every side, as everywhere today; `ceil`, none, and windows that
            reach over the right and lower edge, as in Caffe (one row and column more for sizes
            that are multiples of 4).
    """

    def __init__(self, inputs: int, outputs: int, pool: Literal["padded", "ceil"] = "padded"):
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, 7, 2)
        self.pool = pool

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, inputs, H, W] to [N, outputs, about H / 4, about W / 4]."""
        x = F.relu(self.conv1(x))
        if self.pool == "ceil":
            return F.max_pool2d(x, 3, 2, ceil_mode=True)
        return F.max_pool2d(x, 3, 2, padding=1)


class Bottleneck(nn.Layer):
    """1x1, 3x3 and 1x1 convolution beside a shortcut.

    Args:
        stride_in_1x1: the first convolution has the stride (MSRA's and Caffe's networks), not the
            second (torchvision's).
        dilation: of the 3x3 convolution.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        stride: int = 1,
        stride_in_1x1: bool = True,
        dilation: int = 1,
    ):
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = None
        if inputs != outputs or stride > 1:
            self.shortcut = ConvNorm(inputs, outputs, 1, stride)
        self.conv1 = ConvNorm(inputs, width, 1, first)
        self.conv2 = ConvNorm(width, width, 3, second, dilation)
        self.conv3 = ConvNorm(width, outputs, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def stage(
    inputs: int,
    width: int,
    outputs: int,
    blocks: int,
    stride: int = 1,
    stride_in_1x1: bool = True,
    dilation: int = 1,
) -> nn.Sequential:
    """Blocks of one size in a row; the first has the stride, all have the dilation."""
    layers = [Bottleneck(inputs, width, outputs, stride, stride_in_1x1, dilation)]
    for _ in range(blocks - 1):
        layers.append(Bottleneck(outputs, width, outputs, 1, stride_in_1x1, dilation))
    return nn.Sequential(*layers)


class ResNet(nn.Layer):
    """Stem and stages `res2`, `res3`, ...; each stage but the first halves the picture.

    Args:
        blocks: of each stage: (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) ResNet-101; fewer numbers
            make fewer stages, e.g. (3, 4, 6) ends at C4.
        width: of the bottlenecks of res2; it doubles from stage to stage.
        stem_width: channels of the stem; `width` by default.
        outputs: channels of res2, which double as well; 4 `width` by default.
        stem_pool: see `Stem`.
        stride_in_1x1: see `Bottleneck`.
        frozen: how many of stem, res2, res3, ... do not learn.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        stem_width: int | None = None,
        outputs: int | None = None,
        stem_pool: Literal["padded", "ceil"] = "padded",
        stride_in_1x1: bool = True,
        frozen: int = 0,
    ):
        super().__init__()
        self.names = [f"res{number + 2}" for number in range(len(blocks))]
        self.channels = stem_width or width  # of the last stage
        self.stem = Stem(3, self.channels, stem_pool)
        for number, (name, count) in enumerate(zip(self.names, blocks, strict=True)):
            stride, out = 2 if number else 1, (outputs or 4 * width) << number
            part = stage(self.channels, width << number, out, count, stride, stride_in_1x1)
            self.add_sublayer(name, part)
            self.channels = out
        for name in ["stem", *self.names][:frozen]:
            for parameter in getattr(self, name).parameters():
                parameter.stop_gradient = True

    def forward(self, pictures: paddle.Tensor) -> paddle.Tensor:
        """Last stage of pictures [N, 3, H, W]: [N, channels, H / s, W / s], s = 2^(stages + 1)."""
        return self.stages(pictures)[-1]

    def stages(self, pictures: paddle.Tensor) -> list[paddle.Tensor]:
        """Stem and every stage."""
        found = []
        for name in ["stem", *self.names]:
            pictures = getattr(self, name)(pictures)
            found.append(pictures)
        return found
