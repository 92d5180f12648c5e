# SPDX-License-Identifier: Apache-2.0
"""Operators whose gradients are slow in Paddle on CPU, in a form that is fast there.

On CPU a matrix product is the one operator near the machine's speed: a maximum over an axis takes
500 times as long backwards as forwards, LayerNorm 25 times, dropout spends its time on random
numbers, a depthwise convolution is 50 times slower than a product of the same size. So sums,
expansions, transposes and convolutions are written as matrix products here. Results agree with the
plain operators to rounding; on other devices, and inside ``plain()``, those are used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

_LOW = -1e10  # what masked places are set to, as published
_plain = False


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Inside, Paddle's own operators are used, for comparison."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def _native() -> bool:
    return _plain or not paddle.get_device().startswith("cpu")


def layer_norm(x: paddle.Tensor, norm: nn.LayerNorm) -> paddle.Tensor:
    """``norm(x)`` over the last axis."""
    if _native():
        return norm(x)
    return _LayerNorm.apply(x, norm.weight, norm.bias, norm._epsilon)


def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """(..., in) times weight (in, out) plus bias (out,)."""
    if _native():
        return F.linear(x, weight, bias)
    flat = x.reshape([-1, x.shape[-1]])
    y = paddle.matmul(flat, weight)
    y = y + paddle.matmul(paddle.ones([flat.shape[0], 1]), bias.unsqueeze(0))
    return y.reshape([*x.shape[:-1], weight.shape[1]])


def unit(x: paddle.Tensor) -> paddle.Tensor:
    """Rows of length 1 along the last axis; rows of zeros stay zeros."""
    squares = paddle.matmul(x * x, paddle.ones([x.shape[-1], 1]))
    return x * paddle.rsqrt(paddle.clip(squares, 1e-24))


def dropout(x: paddle.Tensor, p: float, training: bool) -> paddle.Tensor:
    """Elements are dropped with probability p, kept ones scaled by 1 / (1 - p)."""
    if not training or p == 0:
        return x
    if _native():
        return F.dropout(x, p)
    return x * keep_mask(x.shape, p)


def keep_mask(shape: list[int], p: float) -> paddle.Tensor:
    """Random 0 or 1 / (1 - p), float32; a function of ``paddle.seed``.

    16 random bits a number: the probability is exact to 8e-6, and the scale fits it exactly.
    """
    size = int(np.prod(shape))
    threshold = round(p * 65536)
    seed = paddle.randint(0, 2**31 - 1, [1], dtype="int64").item()
    bits = np.random.SFC64(seed).random_raw(-(-size // 4)).view(np.uint16)[:size]
    scale = np.float32(65536 / (65536 - threshold))
    return paddle.to_tensor(np.multiply(bits >= threshold, scale, dtype=np.float32).reshape(shape))


def depthwise(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """Depthwise convolution along the length of (N, L, D) with zero padding.

    Args:
        weight: (D, 1, k), k odd. bias: (D,).
    """
    n, length, size = x.shape
    kernel = weight.shape[-1]
    if _native():
        y = F.conv1d(x.transpose([0, 2, 1]), weight, bias, padding=kernel // 2, groups=size)
        return y.transpose([0, 2, 1])
    bands = paddle.matmul(weight.squeeze(1), _diagonals(kernel, length))  # (D, L * L)
    rows = paddle.matmul(paddle.eye(size), x.reshape([-1, size]), transpose_y=True)  # (D, N * L)
    mixed = paddle.matmul(rows.reshape([size, n, length]), bands.reshape([size, length, length]))
    mixed, ones = mixed.reshape([size, -1]), paddle.ones([n * length, 1])
    y = paddle.matmul(mixed, paddle.eye(size), transpose_x=True)
    return (y + paddle.matmul(ones, bias.unsqueeze(0))).reshape([n, length, size])


def _diagonals(kernel: int, length: int) -> paddle.Tensor:
    """(k, L * L): tap j connects input s with output t = s - j + k // 2; column s * L + t."""
    source, target = np.indices((length, length))
    tap = source - target + kernel // 2
    return paddle.to_tensor((tap == np.arange(kernel)[:, None, None]).astype(np.float32)).reshape(
        [kernel, -1]
    )


def masked_max(x: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
    """Largest value over the middle axis of (N, L, D) among places with mask (N, L) 1.

    -1e10 where there is none. Of equal largest values every one receives the gradient.
    """
    keep = mask.unsqueeze(-1)
    masked = x * keep + (1 - keep) * _LOW
    if _native():
        return masked.max(1)
    return _Max.apply(masked)


def concat_norm_linear(
    a: paddle.Tensor, b: paddle.Tensor, norm: nn.LayerNorm, linear: nn.Linear, p: float,
    training: bool,
) -> paddle.Tensor:  # fmt: skip
    """ReLU(linear(dropout(norm([a; b; a * b])))) for (..., D) each, without the concatenation."""
    shape = [*a.shape[:-1], linear.weight.shape[1]]
    if _native():
        y = norm(paddle.concat([a, b, a * b], -1))
        return F.relu(linear(dropout(y, p, training)))
    a, b = (x.reshape([-1, x.shape[-1]]) for x in (a, b))
    parameters = (norm.weight, norm.bias, linear.weight, linear.bias)
    y = _ConcatNormLinear.apply(a, b, *parameters, norm._epsilon, p if training else 0.0)
    return y.reshape(shape)


def _moments(parts: list[paddle.Tensor], epsilon: float) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Mean and 1 / standard deviation (R, 1) of rows whose parts (R, D) are given."""
    ones = paddle.ones([parts[0].shape[-1], 1])
    size = len(parts) * parts[0].shape[-1]
    mean = sum(paddle.matmul(x, ones) for x in parts) / size
    square = sum(paddle.matmul(x * x, ones) for x in parts) / size
    return mean, paddle.rsqrt(square - mean * mean + epsilon)


class _LayerNorm(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        size = x.shape[-1]
        mean, rate = _moments([x.reshape([-1, size])], epsilon)
        ctx.save_for_backward(x, weight, mean, rate)
        ctx.leaf = x.stop_gradient  # features: only the parameters need gradients
        return F.layer_norm(x, size, weight, bias, epsilon)

    @staticmethod
    def backward(ctx, dy):
        x, weight, mean, rate = ctx.saved_tensor()
        shape, size = x.shape, x.shape[-1]
        x, dy = x.reshape([-1, size]), dy.reshape([-1, size])
        product = dy * x
        gradients = _norm_gradients([dy], [product], mean, rate, [weight], size)
        scale, shift, (dweight,), (dbias,) = gradients
        if ctx.leaf:
            return None, dweight, dbias
        one = paddle.ones([1, size])
        dx = dy * paddle.matmul(rate, weight.unsqueeze(0))
        dx = dx.add_(x * paddle.matmul(scale, one)).add_(paddle.matmul(shift, one))
        return dx.reshape(shape), dweight, dbias


def _norm_gradients(dy, products, mean, rate, weights, size):
    """What LayerNorm's gradient needs over the parts of a row.

    With n = (x - mean) * rate and a = dy * weight, dx = rate * (a - mean(a) - n * mean(a * n)) =
    rate * a + x * scale + shift.

    Args:
        dy, products: per part (R, D) the gradient, and the gradient times x.
        mean, rate: (R, 1). weights: per part (D,). size: numbers of a whole row.

    Returns:
        scale, shift (R, 1); gradients of weights and biases per part.
    """
    total_a = sum(paddle.matmul(d, w.unsqueeze(1)) for d, w in zip(dy, weights, strict=True))
    total_p = sum(paddle.matmul(q, w.unsqueeze(1)) for q, w in zip(products, weights, strict=True))
    mean_a = total_a / size
    mean_an = rate * (total_p / size - mean * mean_a)
    scale = -(rate * rate) * mean_an
    shift = -rate * mean_a - mean * scale
    sums = paddle.concat([mean * rate, paddle.ones_like(rate)], 1)  # (R, 2)
    dweights, dbiases = [], []
    for d, q in zip(dy, products, strict=True):
        centre, dbias = paddle.matmul(sums, d, transpose_x=True)
        dweights.append(paddle.matmul(rate, q, transpose_x=True).squeeze(0) - centre)
        dbiases.append(dbias)
    return scale, shift, dweights, dbiases


class _Max(PyLayer):
    @staticmethod
    def forward(ctx, x):
        y = x.max(1)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, y = ctx.saved_tensor()
        first = x == y.unsqueeze(1)
        return first.astype(dy.dtype) * dy.unsqueeze(1)


class _ConcatNormLinear(PyLayer):
    @staticmethod
    def forward(ctx, a, b, gain, offset, weight, bias, epsilon, p):
        parts = [a, b, a * b]
        mean, rate = _moments(parts, epsilon)
        gains, offsets, weights = (paddle.split(t, 3) for t in (gain, offset, weight))
        left = paddle.concat([-mean * rate, paddle.ones_like(rate)], 1)
        normed, masks, y = [], [], bias
        for x, g, o, w in zip(parts, gains, offsets, weights, strict=True):
            n = x * paddle.matmul(rate, g.unsqueeze(0))
            n = n.add_(paddle.matmul(left, paddle.stack([g, o])))
            if p:
                masks.append(keep_mask(n.shape, p))
                n = n.multiply_(masks[-1])
            normed.append(n)
            y = paddle.matmul(n, w) + y if y is bias else y.add_(paddle.matmul(n, w))
        y = F.relu(y)
        ctx.save_for_backward(a, b, gain, weight, mean, rate, y, *normed, *masks)
        return y

    @staticmethod
    def backward(ctx, dy):
        a, b, gain, weight, mean, rate, y, *saved = ctx.saved_tensor()
        normed, masks = saved[:3], saved[3:]
        size = a.shape[-1]
        parts = [a, b, a * b]
        gains, weights = paddle.split(gain, 3), paddle.split(weight, 3)
        dy = dy * (y > 0).astype(dy.dtype)
        dbias = paddle.matmul(paddle.ones([1, dy.shape[0]]), dy).squeeze(0)
        dweight = paddle.concat([paddle.matmul(n, dy, transpose_x=True) for n in normed])
        dn = [paddle.matmul(dy, w, transpose_y=True) for w in weights]
        for d, m in zip(dn, masks, strict=False):
            d.multiply_(m)
        products = [d * x for d, x in zip(dn, parts, strict=True)]
        found = _norm_gradients(dn, products, mean, rate, gains, 3 * size)
        scale, shift, dgains, doffsets = found
        one = paddle.ones([1, size])
        wide, flat = paddle.matmul(scale, one), paddle.matmul(shift, one)
        dx = [
            d.multiply_(paddle.matmul(rate, g.unsqueeze(0))).add_(x * wide).add_(flat)
            for d, x, g in zip(dn, parts, gains, strict=True)
        ]
        da, db = dx[0].add_(dx[2] * b), dx[1].add_(dx[2] * a)
        return da, db, paddle.concat(dgains), paddle.concat(doffsets), dweight, dbias
