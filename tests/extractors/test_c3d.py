# SPDX-License-Identifier: Apache-2.0
"""C3D against the golden numbers, its published formats, and its fast path."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.extractors import UnknownExtractor, frozen, get_extractor, list_extractors
from models.extractors.c3d import C3D, CONVS
from models.extractors.errors import WeightsFileError
from tests.conftest import ROOT
from tests.extractors import caffe_files

SMALL = {"widths": [2, 3, 4, 4, 5, 5, 6, 6], "fc_dims": [7], "side": 32}


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(ROOT / "tests/golden/tall/c3d_tiny.npz"))


@pytest.fixture(scope="module")
def state(golden):
    return {k.removeprefix("param/"): v for k, v in golden.items() if k.startswith("param/")}


def build(golden, state, head=True, **options):
    widths = [state[f"{name}.bias"].size for name in CONVS]
    dense = [state[f"fc{i}.bias"].size for i in (6, 7, 8)]
    mean = golden["in/channel_mean_bgr"].tolist()
    net = C3D(widths, dense if head else dense[:1], **{"mean": mean} | options)
    load(net, C3D.convert(state, head=head))
    return net


def load(net, state):
    missing, unexpected = net.set_state_dict(state)
    assert not missing and not unexpected


def clips(n=2, side=112, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 16, side, side, 3), np.uint8)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-4)


def test_golden(golden, state):
    net, frames = build(golden, state), golden["in/frames_u8_bgr_thwc"][None]
    ours = net.activations(frames)
    assert set(ours) == {"pool4", "conv5b", "pool5", "fc6_pre", "fc6", "fc7", "prob"}
    for name, value in ours.items():
        close(value, golden[f"out/{name}"])
    close(net.features(frames), golden["out/fc6"])


def test_golden_with_the_padded_pool(golden, state):
    net, frames = build(golden, state, pool5="padded"), golden["in/frames_u8_bgr_thwc"][None]
    close(net.activations(frames)["pool5"], golden["out/pool5_padded_variant"])
    close(net.features(frames), golden["out/fc6_pool5_padded_variant"])


def test_batches_do_not_matter(golden, state):
    net, x = build(golden, state, head=False), clips(3)
    one_by_one = np.concatenate([net.features(clip[None]) for clip in x])
    np.testing.assert_allclose(net.features(x), one_by_one, rtol=1e-5)
    assert not np.allclose(one_by_one[0], one_by_one[1])


def test_published_sizes():
    """Every name and shape of the published files."""
    path = ROOT.parent / "shared/specs/tall_feature_models_state_dict.json"
    if not path.exists():
        pytest.skip(f"needs {path}")
    published = json.loads(path.read_text())["c3d_sports1m"]
    shapes = {name.split(" ")[0]: shape for name, shape in published.items()}
    foreign = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    converted = C3D.convert({n: v for n, v in foreign.items() if n[:3] not in ("fc7", "fc8")})
    net = C3D()
    ours = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert {name: value.shape for name, value in converted.items()} == ours
    assert net.dim == 4096


def _mmaction(name):
    layer, kind = name.split(".")
    if layer == "fc8":
        return f"cls_head.fc_cls.{kind}"
    return f"backbone.{layer}.conv.{kind}" if layer.startswith("conv") else f"backbone.{name}"


def _pytorch(name):
    return name.replace("conv1a", "conv1").replace("conv2a", "conv2")


@pytest.mark.parametrize("rename", [_mmaction, _pytorch, str, lambda n: f"module.{n}"])
def test_convert(state, rename):
    foreign = {rename(name): value for name, value in state.items()}
    whole = C3D.convert(foreign, head=True)
    assert set(whole) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(whole[name], value.T if value.ndim == 2 else value)
    assert set(C3D.convert(foreign)) == {n for n in state if n[:3] not in ("fc7", "fc8")}
    again = C3D.convert(whole, head=True)
    assert all(np.array_equal(again[name], whole[name]) for name in whole)
    assert "extra" in C3D.convert(foreign | {"extra": np.zeros(1)})


@pytest.mark.parametrize("layout", ["fork", "caffe"])
@pytest.mark.parametrize("file", ["c3d.caffemodel", "conv3d_deepnetA_sport1m_iter_1900000"])
def test_caffe_file(tmp_path, golden, state, layout, file):
    layers = {n: [state[f"{n}.weight"], state[f"{n}.bias"]] for n in CONVS}
    layers |= {f"fc{i}-1": [state[f"fc{i}.weight"], state[f"fc{i}.bias"]] for i in (6, 7, 8)}
    (tmp_path / file).write_bytes(caffe_files.model(layout, layers))
    found = C3D.convert(C3D.read_file(tmp_path / file), head=True)
    assert set(found) == set(state)
    net = build(golden, state)
    load(net, found)
    close(net.features(golden["in/frames_u8_bgr_thwc"][None]), golden["out/fc6"])
    assert C3D.read_file(tmp_path / "other.pdparams") is None


def test_preprocess():
    import cv2

    frame = np.random.default_rng(0).integers(0, 256, (90, 200, 3), np.uint8)
    expected = cv2.resize(frame, (171, 128))[8:120, 29:141]
    np.testing.assert_array_equal(C3D(**SMALL | {"side": 112}).preprocess(frame), expected)
    half = C3D(**SMALL | {"side": 56}).preprocess(frame)
    np.testing.assert_array_equal(half, cv2.resize(frame, (85, 64))[4:60, 14:70])


def test_positions():
    net = C3D(**SMALL)
    assert net.positions(64).tolist() == [list(range(0, 64, 4))]
    assert net.positions(20).tolist() == [[int(i * 20 / 16) for i in range(16)]]
    assert net.positions(4).tolist() == [[0] * 4 + [1] * 4 + [2] * 4 + [3] * 4]
    net = C3D(**SMALL, mode="mean16")
    np.testing.assert_array_equal(net.positions(70), np.arange(64).reshape(4, 16))
    assert net.positions(10).shape == (1, 16)
    with pytest.raises(ValueError, match="found 0"):
        net.positions(0)


def test_mean_cube(tmp_path, golden, state):
    """A cube that holds each channel's mean everywhere is the same as the three numbers."""
    mean = golden["in/channel_mean_bgr"]
    cube = np.broadcast_to(mean[:, None, None, None], (3, 16, 128, 171)).copy()
    cube[:, :, :8], cube[:, :, :, :29] = 0, 0  # outside of the crop
    (tmp_path / "m.binaryproto").write_bytes(caffe_files.blob("fork", cube).SerializeToString())
    np.save(tmp_path / "m.npy", cube[None])
    frames = golden["in/frames_u8_bgr_thwc"][None]
    for file in ("m.binaryproto", "m.npy"):
        net = build(golden, state, head=False, mean=str(tmp_path / file))
        close(net.features(frames), golden["out/fc6"])
        assert len(net.identity["mean"]) == 64
    for bad in (cube[:, :8], cube[0]):
        np.save(tmp_path / "bad.npy", bad)
        with pytest.raises(WeightsFileError, match=r"bad\.npy: expected a mean of shape"):
            C3D(**SMALL | {"side": 112}, mean=str(tmp_path / "bad.npy"))
    (tmp_path / "bad.npy").write_text("x")
    for file in ("bad.npy", "none.npy", "none.binaryproto"):
        with pytest.raises(WeightsFileError, match=file):
            C3D(**SMALL | {"side": 112}, mean=str(tmp_path / file))


def test_random_parameters():
    a, b, c = (C3D(**SMALL, init_seed=seed) for seed in (1, 1, 2))
    x = clips(4, 32)
    np.testing.assert_array_equal(a.features(x), b.features(x))
    assert not np.allclose(a.features(x), c.features(x))
    assert float(a.conv1a.weight.flatten()[0]) == pytest.approx(0.092544, abs=1e-5)
    deep = C3D(widths=[8] * 8, fc_dims=[64], side=32, init_seed=0)
    size = {k: np.abs(v).mean() for k, v in deep.activations(x).items()}
    assert size["fc6"] > 0.05 * size["pool4"] > 1e-3


def test_options():
    assert C3D(**SMALL).identity == {
        "name": "c3d", "feature": "fc6", "widths": SMALL["widths"], "dim": 7, "pool5": "ceil",
        "mode": "uniform16", "side": 32, "mean": [104.0, 117.0, 128.0],
    }  # fmt: skip
    for bad, message in (
        ({"widths": [1, 2]}, "8 widths"),
        ({"fc_dims": []}, "fc_dims"),
        ({"pool5": "floor"}, "floor"),
        ({"mode": "all"}, "all"),
        ({"side": 8}, "at least 16"),
        ({"mean": [1.0]}, "three means"),
        ({"mean": "cube.npy"}, "side 32"),
    ):
        with pytest.raises(ValueError, match=message):
            C3D(**SMALL | bad)


def test_freeze(golden, state):
    net, lines = build(golden, state, head=False), []
    x = clips(3)
    before = net.features(x)
    assert net.freeze(lines.append) and net.freeze(lines.append)
    assert len(lines) == 1 and "oneDNN" in lines[0]
    after = net.features(x)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())
    np.testing.assert_allclose(net.features(x[:1]), after[:1], rtol=1e-5, atol=1e-4)


def test_freeze_falls_back_and_says_so(monkeypatch):
    net, lines = C3D(**SMALL, init_seed=0), []
    before = net.features(clips(1, 32))
    with monkeypatch.context() as patch:
        patch.setattr(frozen, "_predictor", lambda *a: 1 / 0)
        assert not net.freeze(lines.append)
    with monkeypatch.context() as patch:
        patch.setattr(frozen, "_predictor", lambda *a: lambda x: net._eager(x) * 1.01)
        assert not net.freeze(lines.append)
    assert "division by zero" in lines[0] and "1.0e-02 off" in lines[1]
    np.testing.assert_array_equal(net.features(clips(1, 32)), before)


def test_registry():
    names = list_extractors()
    assert {"c3d", "skip_thoughts"} <= {*names} and not {"caffe", "frozen", "errors"} & {*names}
    assert get_extractor("C3D") is C3D
    assert get_extractor("Skip-Thoughts").__name__ == "SkipThoughts"
    for bad in ("caffe", "../c3d", "i3d"):
        with pytest.raises(UnknownExtractor, match=", ".join(names)) as error:
            get_extractor(bad)
        assert error.value.exit_code == 2
