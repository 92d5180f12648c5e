# SPDX-License-Identifier: Apache-2.0
"""Parts of vision transformers against NumPy and Paddle's own layers."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from models.layers import vit


@pytest.fixture(autouse=True)
def seed():
    paddle.seed(0)


def randomised(layer: paddle.nn.Layer, seed: int = 0) -> paddle.nn.Layer:
    """The layer with large random parameters, norms and biases included."""
    rng = np.random.default_rng(seed)
    for name, parameter in layer.named_parameters():
        value = rng.normal(0, 0.4, parameter.shape) + ("norm" in name and name.endswith("weight"))
        parameter.set_value(value.astype(np.float32))
    return layer


def tensor(*shape: int, seed: int = 1) -> paddle.Tensor:
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return paddle.to_tensor(values, stop_gradient=False)


def by_numpy(state: dict, x: np.ndarray, heads: int, activation: str) -> np.ndarray:
    """A block as the paper describes it, in float64, one sequence and one head at a time."""
    p = {name: value.astype(np.float64) for name, value in state.items()}
    size = x.shape[-1]

    def dense(x, name):
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p[f"{name}.weight"] + p[
            f"{name}.bias"
        ]

    result = []
    for tokens in x.astype(np.float64):
        q, k, v = np.split(dense(norm(tokens, "norm1"), "attn.qkv"), 3, -1)
        mixed = []
        for head in range(heads):
            part = slice(head * size // heads, (head + 1) * size // heads)
            weights = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size // heads))
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        tokens = tokens + dense(np.concatenate(mixed, -1), "attn.proj")
        y = dense(norm(tokens, "norm2"), "mlp.fc1")
        if activation == "gelu":
            y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2
        else:
            y = y / (1 + np.exp(-1.702 * y))
        result.append(tokens + dense(y, "mlp.fc2"))
    return np.stack(result)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("training", [True, False])
def test_block_equals_numpy(activation, training):
    block = randomised(vit.Block(12, 3, hidden=20, activation=activation))
    block.train() if training else block.eval()
    x = tensor(2, 5, 12)
    state = {name: value.numpy() for name, value in block.state_dict().items()}
    expected = by_numpy(state, x.numpy(), 3, activation)
    np.testing.assert_allclose(block(x).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected - x.numpy()).max() > 1


def test_gradients_in_training_equal_those_of_the_plain_operators():
    block, x = randomised(vit.Block(12, 3)), tensor(2, 5, 12)
    found = []
    for mode in (block.train, block.eval):
        mode()
        (block(x) * tensor(2, 5, 12, seed=2)).sum().backward()
        found.append([t.grad.numpy().copy() for t in (x, *block.parameters())])
        for t in (x, *block.parameters()):
            t.clear_gradient(set_to_zero=False)
    for fast, plain in zip(*found, strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())
        assert np.abs(plain).max() > 0


def test_attention_along_any_axis():
    """Along the second of four axes it is attention along the third of swapped ones."""
    attention, x = randomised(vit.Attention(8, 2)), tensor(2, 3, 4, 8)
    mixed, weights = attention.mix(x, 1)
    swapped, others = attention.mix(x.transpose([0, 2, 1, 3]))
    np.testing.assert_allclose(mixed.transpose([0, 2, 1, 3]).numpy(), swapped.numpy(), atol=1e-6)
    np.testing.assert_allclose(weights.numpy(), others.numpy(), atol=1e-6)
    assert weights.shape == [2, 4, 2, 3, 3]
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, atol=1e-6)
    one = attention.mix(x[1, :, 2])[0].numpy()  # the others do not take part
    np.testing.assert_allclose(mixed[1, :, 2].numpy(), one, atol=1e-6)


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="found 10 and 4"):
        vit.Attention(10, 4)


@pytest.mark.parametrize("bias", [True, False])
def test_patches_are_those_of_a_convolution(bias):
    embed, pictures = randomised(vit.PatchEmbed(4, 6, bias)), tensor(2, 3, 9, 14)
    conv = paddle.nn.Conv2D(3, 6, 4, 4, bias_attr=bias)
    conv.set_state_dict(embed.proj.state_dict())
    found = []
    for y, own in ((embed(pictures), embed.proj),
                   (conv(pictures).flatten(2).transpose([0, 2, 1]), conv)):  # fmt: skip
        (y * tensor(*y.shape, seed=2)).sum().backward()
        gradients = [t.grad.numpy().copy() for t in (pictures, *own.parameters())]
        found.append([y.numpy(), *gradients])
        pictures.clear_gradient(set_to_zero=False)
    assert found[0][0].shape == (2, 2 * 3, 6)
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_paths_are_dropped_per_row_in_training():
    drop = vit.DropPath(0.25)
    x = paddle.ones([4000, 2, 3])
    values = drop(x).numpy()
    assert (values == values[:, :1, :1]).all()
    kept = values[:, 0, 0]
    np.testing.assert_allclose(np.unique(kept), [0, 4 / 3], rtol=1e-6)
    assert np.mean(kept > 0) == pytest.approx(0.75, abs=0.03)
    assert drop.scale([2, 1, 5, 1]).shape == [2, 1, 5, 1]
    drop.eval()
    assert drop.scale([2]) is None and (drop(x).numpy() == 1).all()
    assert vit.DropPath(0.0).scale([2]) is None
    with pytest.raises(ValueError, match=r"drop_path_rate.*found 1"):
        vit.DropPath(1)


def test_recomputing_changes_no_gradient():
    block, x, scale = randomised(vit.Block(12, 3)), tensor(2, 5, 12), tensor(2, 1, 1, seed=3)
    scale.stop_gradient = True
    calls, found = [], []

    def function(x, unused, scale):
        calls.append(unused)
        return block(x) * scale

    for run in (function, lambda *inputs: vit.recomputed(function, *inputs)):
        y = run(x * 2, None, scale)
        (y * tensor(2, 5, 12, seed=2)).sum().backward()
        found.append([y.numpy(), *(t.grad.numpy().copy() for t in (x, *block.parameters()))])
        for t in (x, *block.parameters()):
            t.clear_gradient(set_to_zero=False)
    assert len(calls) == 3
    for plain, again in zip(*found, strict=True):
        np.testing.assert_array_equal(plain, again)
