# SPDX-License-Identifier: Apache-2.0
"""Operators whose gradients are slow in Paddle on CPU, in a form that is fast there.

On CPU a matrix product is the one operator near the machine's speed: a maximum over an axis takes
500 times as long backwards as forwards, LayerNorm 25 times, dropout spends its time on random
numbers, a depthwise convolution is 50 times slower than a product of the same size. So transposes,
convolutions and sums are written as matrix products here, and chains of element-wise operations run
in the cache (``rowwise``). Results agree with the plain operators to rounding; on other devices,
and inside ``plain()``, those are used.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from . import rowwise
from .rowwise import Output

_NOTHING = 1e-25  # probability that counts as 0
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
    return F.dropout(x, p) if _native() else _Dropout.apply(x, p)


def softmax(x: paddle.Tensor) -> paddle.Tensor:
    """Softmax over the last axis, exactly 0 where it is below 1e-25.

    Paddle's own gives masked places e^-64 at least on CPU. Products of such a gradient are
    subnormal numbers, with which matrix products take ten times as long.
    """
    return F.softmax(x) if _native() or x.stop_gradient else _Softmax.apply(x)


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """Exact GELU; the gradient of Paddle's own takes three times as long as the value."""
    return F.gelu(x) if _native() else _Gelu.apply(x)


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
    if _native():
        keep = mask.unsqueeze(-1)
        return (x * keep + (1 - keep) * _LOW).max(1)
    return _Max.apply(x, mask)


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


class _Dropout(PyLayer):
    @staticmethod
    def forward(ctx, x, p):
        ctx.kept, ctx.scale = rowwise.kept([x.size // x.shape[-1], x.shape[-1]], p)
        return _keep(x, ctx.kept, ctx.scale)

    @staticmethod
    def backward(ctx, dy):
        return _keep(dy, ctx.kept, ctx.scale)


def _keep(x: paddle.Tensor, kept: np.ndarray, scale: np.float32) -> paddle.Tensor:
    rows, size = kept.shape
    source, result = rowwise.view(x).reshape(rows, size), Output(x.shape)
    target = result.array.reshape(rows, size)

    def work(_: int, block: slice) -> None:
        np.multiply(source[block], scale, out=target[block])
        target[block] *= kept[block]

    rowwise.run(work, rows, size)
    return result.tensor()


class _Softmax(PyLayer):
    @staticmethod
    def forward(ctx, x):
        y = F.thresholded_relu(F.softmax(x), _NOTHING)
        ctx.save_for_backward(y.detach())  # not y itself, see _Gelu
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensor()
        dx = y * dy
        total = paddle.matmul(dx, paddle.ones([dx.shape[-1], 1]))
        return dx - y * total


class _Gelu(PyLayer):
    @staticmethod
    def forward(ctx, x):
        y = F.gelu(x)
        # Not y itself: a result that its own graph node holds is never freed.
        ctx.save_for_backward(x, y.detach())
        return y

    @staticmethod
    def backward(ctx, dy):
        """With the normal distribution P and its density p: dx = dy * (P + x * p), P = y / x."""
        result = Output(dy.shape)
        source, value, gradient, dx = (
            a.reshape(-1, dy.shape[-1])
            for a in (*map(rowwise.view, (*ctx.saved_tensor(), dy)), result.array)
        )

        def work(_: int, block: slice) -> None:
            x, d = source[block], dx[block]
            np.multiply(x, x, out=d)
            d *= np.float32(-0.5)
            np.exp(d, out=d)
            d *= x
            d *= np.float32(1 / math.sqrt(2 * math.pi))
            chance = np.full_like(d, 0.5)
            np.divide(value[block], x, out=chance, where=x != 0)
            d += chance
            d *= gradient[block]

        rowwise.run(work, *dx.shape)
        return result.tensor()


class _LayerNorm(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        ctx.save_for_backward(x, weight)
        ctx.epsilon, ctx.leaf = epsilon, x.stop_gradient  # of features no gradient is needed
        return F.layer_norm(x, x.shape[-1], weight, bias, epsilon)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensor()
        size, result = x.shape[-1], Output(x.shape)
        source, gradient, dx = (
            a.reshape(-1, size) for a in (rowwise.view(x), rowwise.view(dy), result.array)
        )
        gain = weight.numpy()
        sums = np.empty((len(rowwise.blocks(len(dx), size)), 2, size), np.float32)

        def work(number: int, block: slice) -> None:
            dx[block] = gradient[block]
            mean, rate = rowwise.moments([source[block]], ctx.epsilon)
            found = rowwise.norm_backward([dx[block]], [source[block]], [gain], mean, rate)
            sums[number, 0], sums[number, 1] = found[0][0], found[1][0]

        rowwise.run(work, len(dx), size)
        dweight, dbias = map(paddle.to_tensor, sums.sum(0))
        return None if ctx.leaf else result.tensor(), dweight, dbias


class _Max(PyLayer):
    @staticmethod
    def forward(ctx, x, mask):
        ctx.save_for_backward(x, mask)
        n, length, size = x.shape
        result = Output([n, size])
        source, keep, y = rowwise.view(x), rowwise.view(mask), result.array
        ctx.largest = y

        def work(_: int, block: slice) -> None:
            shown = np.where(keep[block][:, :, None] > 0, source[block], np.float32(_LOW))
            shown.max(1, out=y[block])

        rowwise.run(work, n, length * size)
        return result.tensor()

    @staticmethod
    def backward(ctx, dy):
        x, mask = ctx.saved_tensor()
        result = Output(x.shape)
        source, keep, gradient = (rowwise.view(t) for t in (x, mask, dy))
        y, dx = ctx.largest, result.array

        def work(_: int, block: slice) -> None:
            largest = source[block] == y[block][:, None]
            largest &= keep[block][:, :, None] > 0
            np.multiply(largest, gradient[block][:, None], out=dx[block])

        rowwise.run(work, x.shape[0], x.shape[1] * x.shape[2])
        return result.tensor(), None


class _ConcatNormLinear(PyLayer):
    @staticmethod
    def forward(ctx, a, b, gain, offset, weight, bias, epsilon, p):
        rows, size = a.shape
        first, second = rowwise.view(a), rowwise.view(b)
        normed = [Output(a.shape) for _ in range(3)]
        ctx.kept = [rowwise.kept(a.shape, p) if p else (None, np.float32(1)) for _ in range(3)]
        ctx.mean, ctx.rate = np.empty((rows, 1), np.float32), np.empty((rows, 1), np.float32)
        gains, offsets = (np.split(t.numpy(), 3) for t in (gain, offset))

        def work(_: int, block: slice) -> None:
            parts = [first[block], second[block], first[block] * second[block]]
            mean, rate = rowwise.moments(parts, epsilon)
            ctx.mean[block], ctx.rate[block] = mean, rate
            for x, out, g, o, (kept, scale) in zip(
                parts, normed, gains, offsets, ctx.kept, strict=True
            ):
                n = out.array[block]
                rowwise.normalise(x, mean, rate, g * scale, o * scale, n)
                if kept is not None:
                    n *= kept[block]

        rowwise.run(work, rows, size)
        normed = [n.tensor() for n in normed]
        y = paddle.matmul(paddle.ones([rows, 1]), bias.unsqueeze(0))
        for n, w in zip(normed, paddle.split(weight, 3), strict=True):
            y = y.add_(paddle.matmul(n, w))
        y = F.relu(y)
        # Not y itself: a result that its own graph node holds is never freed.
        ctx.save_for_backward(a, b, gain, weight, y > 0, *normed)
        return y

    @staticmethod
    def backward(ctx, dy):
        a, b, gain, weight, shown, *normed = ctx.saved_tensor()
        rows, size = a.shape
        dy = dy * shown.astype(dy.dtype)
        dbias = paddle.matmul(paddle.ones([1, rows]), dy).squeeze(0)
        dweight = paddle.concat([paddle.matmul(n, dy, transpose_x=True) for n in normed])
        dn = [paddle.matmul(dy, w, transpose_y=True) for w in paddle.split(weight, 3)]
        first, second = rowwise.view(a), rowwise.view(b)
        found = [rowwise.view(d) for d in dn]
        scale = ctx.kept[0][1]
        gains = np.split(gain.numpy() * scale, 3)
        sums = np.empty((len(rowwise.blocks(rows, size)), 2, 3, size), np.float32)

        def work(number: int, block: slice) -> None:
            parts = [first[block], second[block], first[block] * second[block]]
            da, db, dab = dx = [d[block] for d in found]
            for d, (kept, _) in zip(dx, ctx.kept, strict=True):
                if kept is not None:
                    d *= kept[block]
            mean, rate = ctx.mean[block], ctx.rate[block]
            sums[number] = rowwise.norm_backward(dx, parts, gains, mean, rate)
            da += dab * parts[1]
            dab *= parts[0]
            db += dab

        rowwise.run(work, rows, size)
        dgain, doffset = (paddle.to_tensor(s.ravel() * scale) for s in sums.sum(0))
        da, db = (d if hasattr(d, "__dlpack__") else paddle.to_tensor(f)
                  for d, f in zip(dn[:2], found[:2], strict=True))  # fmt: skip
        return da, db, dgain, doffset, dweight, dbias
