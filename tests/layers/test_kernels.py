# SPDX-License-Identifier: Apache-2.0
"""The fast forms equal Paddle's operators, gradients included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from models.layers import kernels, rowwise


def tensor(*shape: int, seed: int = 0, shift: float = 0.0) -> paddle.Tensor:
    values = np.random.default_rng(seed).standard_normal(shape, np.float32) + np.float32(shift)
    found = paddle.to_tensor(values)
    found.stop_gradient = False
    return found


def norm(size: int) -> nn.LayerNorm:
    layer = nn.LayerNorm(size)
    layer.weight.set_value(tensor(size, seed=8, shift=1.0))
    layer.bias.set_value(tensor(size, seed=9))
    return layer


NORM, WIDE = norm(12), norm(36)
LINEAR = nn.Linear(36, 10)
X, A, B = tensor(4, 7, 12, seed=1), tensor(4, 7, 12, seed=2), tensor(4, 7, 12, seed=3, shift=1.0)
TAPS, BIAS = tensor(12, 1, 5, seed=4), tensor(12, seed=5)
MATRIX, OFFSET = tensor(12, 9, seed=6), tensor(9, seed=7)
VALUES = tensor(5, 4001, seed=10)
MASK = paddle.to_tensor((np.arange(7) < [[7], [3], [1], [0]]).astype(np.float32))

CASES = {
    "layer_norm": (lambda: kernels.layer_norm(X, NORM), [X, NORM.weight, NORM.bias]),
    "gelu": (lambda: kernels.gelu(VALUES * 4.0), [VALUES]),  # both tails
    "softmax": (lambda: kernels.softmax(X * 3.0 - 1e4 * (X > 1.0).astype("float32")), [X]),
    "linear": (lambda: kernels.linear(X, MATRIX, OFFSET), [X, MATRIX, OFFSET]),
    "depthwise": (lambda: kernels.depthwise(X, TAPS, BIAS), [X, TAPS, BIAS]),
    "masked_max": (lambda: kernels.masked_max(X, MASK), [X]),
    "concat_norm_linear": (
        lambda: kernels.concat_norm_linear(A, B, WIDE, LINEAR, 0.0, True),
        [A, B, WIDE.weight, WIDE.bias, LINEAR.weight, LINEAR.bias],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_the_plain_operators(name):
    function, inputs = CASES[name]
    results = []
    for plain in (True, False):
        for x in inputs:
            x.clear_gradient(set_to_zero=False)
        if plain:
            with kernels.plain():
                y = function()
        else:
            y = function()
        (y * tensor(*y.shape, seed=11)).sum().backward()
        results.append([y.numpy(), *(x.grad.numpy() for x in inputs)])
    assert any(np.abs(g).max() > 0 for g in results[0][1:])
    for plain, fast in zip(*results, strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=2e-5)


def test_layer_norm_of_features_needs_no_gradient_of_them():
    x = X.detach()
    kernels.layer_norm(x, NORM).sum().backward()
    assert NORM.bias.grad is not None and x.grad is None


def test_gelu_at_zero_and_far_from_it():
    x = paddle.to_tensor([0.0, -0.0, 1e-38, -1e-38, 60.0, -60.0], stop_gradient=False)
    kernels.gelu(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [0.5, 0.5, 0.5, 0.5, 1, 0], atol=1e-7)


def test_rows_of_zeros_have_no_direction_and_a_finite_gradient():
    x = paddle.zeros([2, 3])
    x.stop_gradient = False
    y = kernels.unit(x)
    y.sum().backward()
    assert not y.numpy().any() and np.isfinite(x.grad.numpy()).all()
    assert kernels.unit(A).norm(axis=-1).numpy() == pytest.approx(1.0, abs=1e-6)


def test_dropout_is_unbiased_and_a_function_of_the_seed():
    paddle.seed(3)
    first = kernels.dropout(paddle.ones([400, 500]), 0.1, True).numpy()
    paddle.seed(3)
    assert (kernels.dropout(paddle.ones([400, 500]), 0.1, True).numpy() == first).all()
    assert (kernels.dropout(paddle.ones([400, 500]), 0.1, True).numpy() != first).any()
    assert first.mean() == pytest.approx(1.0, abs=5e-3)
    assert (first == 0).mean() == pytest.approx(0.1, abs=5e-3)
    assert set(np.unique(first)) == {0.0, np.float32(65536 / (65536 - 6554))}


def test_dropout_is_off_in_evaluation():
    for p, training in ((0.5, False), (0.0, True)):
        assert (kernels.dropout(A, p, training) == A).all()


def test_dropped_elements_get_no_gradient_through_the_joint_layer():
    """The gradient of the fused layer with dropout equals the numerical one for the same masks."""

    def loss(b: paddle.Tensor) -> paddle.Tensor:
        paddle.seed(5)
        return (kernels.concat_norm_linear(A, b, WIDE, LINEAR, 0.3, True) ** 2).sum()

    b = B.detach()
    b.stop_gradient = False
    loss(b).backward()
    step = tensor(*B.shape, seed=12).detach() * 1e-2
    numeric = (loss(b.detach() + step) - loss(b.detach() - step)) / 2
    assert float((b.grad * step).sum()) == pytest.approx(float(numeric), rel=2e-2)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    norm = nn.LayerNorm(64)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        x = tensor(40, 90, 64, seed=20)
        assert len(rowwise.blocks(40 * 90, 64)) > 6
        paddle.seed(1)
        y = kernels.masked_max(
            kernels.dropout(kernels.layer_norm(x, norm), 0.2, True), paddle.ones([40, 90])
        )
        y.sum().backward()
        found.append((y.numpy(), x.grad.numpy()))
    assert all((a == b).all() for a, b in zip(*found, strict=True))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the size of the process")
def test_graphs_without_a_backward_pass_are_freed():
    def size() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    a, norm, linear = tensor(4000, 64, seed=30), nn.LayerNorm(192), nn.Linear(192, 64)
    sizes = []
    for _ in range(40):
        kernels.concat_norm_linear(a, a * 1.0, norm, linear, 0.1, True)
        sizes.append(size())
    assert sizes[-1] - sizes[4] < 50e6  # 40 graphs hold 200 MB


def test_an_error_in_a_block_reaches_the_caller():
    def fail(number: int, _: slice) -> None:
        if number == 5:
            raise ValueError("block 5")

    with pytest.raises(ValueError, match="block 5"):
        rowwise.run(fail, 10_000, 64)
