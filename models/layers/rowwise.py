# SPDX-License-Identifier: Apache-2.0
"""Chains of element-wise operations on CPU, block by block of rows, on all threads.

Paddle runs element-wise operators on one thread and through memory once per operator. Here a chain
of them runs on a block of rows that stays in the cache, and blocks run side by side. Blocks and
their order are fixed, so results do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import paddle

_BLOCK = 1 << 15  # numbers of a block: 128 KB


def view(tensor: paddle.Tensor) -> np.ndarray:
    """The memory of a CPU tensor as an array, without a copy from Paddle 3 on."""
    tensor = tensor.detach()
    return np.from_dlpack(tensor) if hasattr(tensor, "__dlpack__") else tensor.numpy()


class Output:
    """A new tensor that is filled through ``array``."""

    def __init__(self, shape: list[int], dtype: str = "float32"):
        self._tensor = paddle.empty(shape, dtype)
        self.array = view(self._tensor)

    def tensor(self) -> paddle.Tensor:
        """What was written."""
        shared = hasattr(self._tensor, "__dlpack__")
        return self._tensor if shared else paddle.to_tensor(self.array)


@lru_cache(None)
def _pool(threads: int, _process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "rowwise")


def blocks(rows: int, width: int) -> list[slice]:
    """Cut rows of so many numbers into blocks."""
    step = max(1, _BLOCK // width)
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def run(work: Callable[[int, slice], None], rows: int, width: int) -> int:
    """Call work(number, rows) for every block; returns the number of blocks."""
    todo = list(enumerate(blocks(rows, width)))
    threads = int(os.environ.get("OMP_NUM_THREADS") or 1)

    def share(part: Iterator[tuple[int, slice]]) -> None:
        for number, block in part:
            work(number, block)

    if threads == 1 or len(todo) < 2 * threads:
        share(todo)
    else:
        parts = [todo[i::threads] for i in range(threads)]
        list(_pool(threads, os.getpid()).map(share, parts))
    return len(todo)


def kept(shape: list[int], p: float) -> tuple[np.ndarray, np.float32]:
    """Which elements dropout keeps, a function of ``paddle.seed``, and the factor that makes up.

    16 random bits an element: the probability is exact to 8e-6, and the factor fits it exactly.
    """
    size, threshold = int(np.prod(shape)), round(p * 65536)
    seed = paddle.randint(0, 2**31 - 1, [1], dtype="int64").item()
    bits = np.random.SFC64(seed).random_raw(-(-size // 4)).view(np.uint16)[:size]
    return (bits >= threshold).reshape(shape), np.float32(65536 / (65536 - threshold))


def row_sums(x: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(r, D), weights (D,) -> (r, 1); a matrix product is faster than a sum."""
    return (x @ (np.ones(x.shape[1], np.float32) if weights is None else weights))[:, None]


def moments(parts: list[np.ndarray], epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 1 / standard deviation (r, 1) of rows whose parts (r, D) are given."""
    size = np.float32(sum(part.shape[1] for part in parts))
    mean = sum(row_sums(part) for part in parts) / size
    square = sum(row_sums(part * part) for part in parts) / size
    return mean, 1 / np.sqrt(square - mean * mean + np.float32(epsilon))


def normalise(
    x: np.ndarray, mean: np.ndarray, rate: np.ndarray, gain: np.ndarray, offset: np.ndarray,
    out: np.ndarray,
) -> None:  # fmt: skip
    """(x - mean) * rate * gain + offset."""
    np.subtract(x, mean, out=out)
    out *= rate * gain
    out += offset


def norm_backward(
    dy: list[np.ndarray], parts: list[np.ndarray], gains: list[np.ndarray], mean: np.ndarray,
    rate: np.ndarray,
) -> tuple[list[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """Gradient of LayerNorm over rows in parts; ``dy`` is overwritten by that of the parts.

    With n = (x - mean) * rate and a = dy * gain: dx = rate * (a - mean(a) - n * mean(a * n)).

    Returns:
        gradients of gains and of offsets, (D,) per part.
    """
    size = np.float32(sum(part.shape[1] for part in parts))
    products = [d * x for d, x in zip(dy, parts, strict=True)]
    mean_a = sum(row_sums(d, g) for d, g in zip(dy, gains, strict=True)) / size
    mean_p = sum(row_sums(q, g) for q, g in zip(products, gains, strict=True)) / size
    scale = -(rate * rate) * rate * (mean_p - mean * mean_a)
    shift = -rate * mean_a - mean * scale
    centre, one = (mean * rate)[:, 0], np.ones(len(rate), np.float32)
    dgains, doffsets = [], []
    for d, q, x, gain in zip(dy, products, parts, gains, strict=True):
        dgains.append(rate[:, 0] @ q - centre @ d)
        doffsets.append(one @ d)
        d *= rate * gain
        np.multiply(x, scale, out=q)
        q += shift
        d += q
    return dgains, doffsets
