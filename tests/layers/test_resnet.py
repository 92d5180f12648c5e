# SPDX-License-Identifier: Apache-2.0
"""ResNet against reference numbers and NumPy, and what its options change."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from models.layers.resnet import Bottleneck, FrozenBatchNorm, ResNet, Stem, stage
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def seed():
    paddle.seed(0)


def golden(name):
    path = ROOT.parent / "shared" / "golden" / "clipbert" / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return np.load(path)


@pytest.mark.parametrize("file", ["qa_frameqa.npz", "vqa_bce_oddsize.npz"])
def test_reference_numbers(file):
    """Stem and every stage of a published code, also where sizes are odd."""
    file = golden(file)
    prefix = "param/cnn.feature.backbone."
    outputs = "out/clip0/" if "out/clip0/stem" in file else "out/"
    state = {n[len(prefix) :]: file[n] for n in file.files if n.startswith(prefix)}
    first = ("res2.0.conv1.weight", "stem.conv1.weight", "res2.0.conv3.weight")
    net = ResNet((3, 4, 6, 3), *(len(state[name]) for name in first))
    own = net.state_dict()
    assert own.keys() == state.keys()
    for name, value in own.items():
        value.set_value(state[name])
    frames = file["in/frames_rgb_uint8"]
    frames = frames[:, : len(file[outputs + "stem"]) // len(frames)]
    pictures = frames.reshape(-1, *frames.shape[2:])
    pictures = pictures - np.array([123.675, 116.28, 103.53]).reshape(3, 1, 1)
    found = net.stages(paddle.to_tensor(pictures[:, ::-1].astype(np.float32)))
    for name, value in zip(["stem", *net.names], found, strict=True):
        expected = file[outputs + name]
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-5, err_msg=name)


def random_picture(channels, height, width):
    values = np.random.default_rng(0).normal(size=(1, channels, height, width))
    return paddle.to_tensor(values.astype(np.float32))


def test_frozen_batch_norm():
    """Formula of the statistics, the same in training, without anything that learns."""
    rng = np.random.default_rng(0)
    norm = FrozenBatchNorm(3)
    np.testing.assert_allclose(norm.running_var.numpy(), 1 - 1e-5)
    values = {n: rng.uniform(0.5, 2, 3).astype(np.float32) for n in norm.state_dict()}
    assert list(values) == ["weight", "bias", "running_mean", "running_var"]
    for name, value in values.items():
        getattr(norm, name).set_value(value)
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    weight, bias, mean, var = (v.reshape(3, 1, 1).astype(float) for v in values.values())
    norm.train()
    picture = paddle.to_tensor(x, stop_gradient=False)
    found = norm(picture)
    np.testing.assert_allclose(
        found.numpy(), (x - mean) / np.sqrt(var + 1e-5) * weight + bias, atol=1e-5
    )
    found.sum().backward()
    expected = np.broadcast_to(weight / np.sqrt(var + 1e-5), x.shape)
    np.testing.assert_allclose(picture.grad.numpy(), expected, rtol=1e-5)
    np.testing.assert_array_equal(norm.running_mean.numpy(), values["running_mean"])
    assert not norm.parameters()


def test_stem_pools():
    """Caffe's pool reaches over the right and lower edge and has no border on the others."""
    picture = random_picture(3, 32, 38)
    padded, ceil = Stem(3, 2), Stem(3, 2, "ceil")
    ceil.set_state_dict(padded.state_dict())
    before = np.maximum(padded.conv1(picture).numpy()[0], 0)  # (2, 16, 19)
    for stem, first, rows, columns in ((padded, -1, 8, 10), (ceil, 0, 8, 9)):
        found = stem(picture).numpy()[0]
        assert found.shape == (2, rows, columns)
        for row in range(rows):
            for column in range(columns):
                top, left = 2 * row + first, 2 * column + first
                window = before[:, max(top, 0) : top + 3, max(left, 0) : left + 3]
                np.testing.assert_array_equal(found[:, row, column], window.max((1, 2)))
    assert Stem(3, 2, "ceil")(picture[:, :, :, :34]).shape[3] == 8
    assert Stem(3, 2, "ceil")(picture[:, :, :, :36]).shape[3] == 9


def test_where_the_stride_is():
    first, second = Bottleneck(4, 2, 8, 2), Bottleneck(4, 2, 8, 2, stride_in_1x1=False)
    assert first.conv1._stride == [2, 2] == second.conv2._stride
    assert first.conv2._stride == [1, 1] == second.conv1._stride
    second.set_state_dict(first.state_dict())
    x = random_picture(4, 7, 8)
    assert first(x).shape == second(x).shape == [1, 8, 4, 4]
    assert np.abs((first(x) - second(x)).numpy()).max() > 0.01


def test_stages():
    """Shortcuts stand where sizes change; dilation keeps sizes and looks further."""
    assert [block.shortcut is None for block in stage(8, 2, 8, 3)] == [True] * 3
    assert [block.shortcut is None for block in stage(8, 2, 8, 2, stride=2)] == [False, True]
    assert [block.shortcut is None for block in stage(4, 2, 8, 2)] == [False, True]
    wide = stage(8, 2, 8, 1, dilation=2)
    for _, weight in wide.named_parameters():
        weight.set_value(np.abs(weight.numpy()))  # so that nothing falls below zero
    empty = np.zeros((1, 8, 9, 9), np.float32)
    point = empty.copy()
    point[0, :, 4, 4] = 1
    changed = wide(paddle.to_tensor(point)) - wide(paddle.to_tensor(empty))
    rows, columns = np.nonzero(np.abs(changed.numpy()).sum((0, 1)))
    assert {*rows} == {*columns} == {2, 4, 6}


def test_fewer_stages():
    net = ResNet((1, 2, 1), width=2)
    assert (net.names, net.channels) == (["res2", "res3", "res4"], 32)
    found = net(paddle.zeros([2, 3, 64, 50]))
    assert found.shape == [2, 32, 4, 4]
    names = [name for name, _ in net.named_parameters()]
    assert names[:2] == ["stem.conv1.weight", "res2.0.shortcut.weight"]


def test_frozen_stages_do_not_learn():
    net = ResNet((1, 1, 1), width=2, frozen=2)
    net(random_picture(3, 32, 32)).sum().backward()
    for name, parameter in net.named_parameters():
        frozen = name.startswith(("stem", "res2"))
        assert parameter.stop_gradient == frozen == (parameter.grad is None), name
