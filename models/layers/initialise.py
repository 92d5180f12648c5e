# SPDX-License-Identifier: Apache-2.0
"""Initial values of parameters that published recipes rely on and Paddle's defaults differ from."""

from __future__ import annotations

import math

import paddle
from paddle.nn import initializer


def uniform_fan_in(fan_in: int) -> paddle.ParamAttr:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for Linear and convolutions."""
    bound = 1 / math.sqrt(fan_in)
    return paddle.ParamAttr(initializer=initializer.Uniform(-bound, bound))
