# SPDX-License-Identifier: Apache-2.0
"""From a path to a filled network: finding weights, comparing, converting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from engine import convert, formats, weights
from engine.errors import ConfigError, WeightsError

ROOT = Path(__file__).resolve().parents[2]


class Net(paddle.nn.Layer):
    """A layer whose weight has two names, a buffer, a number."""

    def __init__(self, width: int = 3):
        super().__init__()
        self.fc = paddle.nn.Linear(2, width)
        self.tied = self.fc
        self.scale = self.create_parameter([])
        self.register_buffer("steps", paddle.zeros([1], dtype="int64"))

    @staticmethod
    def convert(state):
        return {name.removeprefix("net."): value for name, value in state.items()}


def state_of(net) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in net.state_dict().items()}


def values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "fc.weight": rng.normal(size=(2, 3)).astype(np.float32),
        "fc.bias": rng.normal(size=3).astype(np.float32),
        "scale": np.array(2.5, np.float32),
        "steps": np.array([7]),
    }


def test_apply_state_fills_parameters_buffers_and_both_names():
    net, state, said = Net(), values(), []
    for value in state.values():
        value.flags.writeable = False
    report = weights.apply_state(net, state, source="w", log=said.append)
    filled = state_of(net)
    assert all(np.array_equal(filled[k], v) for k, v in state.items()) and not said
    assert np.array_equal(filled["tied.weight"], state["fc.weight"])
    assert sorted(report.matched) == sorted(state) and not report.problems()


def test_strict_lists_every_problem_and_changes_nothing():
    net, state = Net(), values()
    before = state_of(net)
    state["fc.weight"] = np.zeros((3, 2), np.float32)
    state["extra"] = state.pop("scale")
    with pytest.raises(WeightsError) as caught:
        weights.apply_state(net, state, source="w.pdparams")
    message = str(caught.value)
    assert "w.pdparams: expected the 4 parameters of this network, found 2 that fit" in message
    assert "1 missing: scale; 1 unexpected: extra" in message
    assert "1 misshaped: fc.weight [3, 2] instead of [2, 3]" in message and "\n" not in message
    assert all(np.array_equal(before[k], v) for k, v in state_of(net).items())


def test_long_lists_are_capped():
    state = values() | {f"layer{i}": np.zeros(1) for i in range(30)}
    with pytest.raises(WeightsError, match=r"30 unexpected: layer0, .*layer7, \.\.\. and 22 more;"):
        weights.apply_state(Net(), state, source="w")


def test_not_strict_logs_but_wrong_shapes_stay_errors():
    net, state, said = Net(), values(), []
    state["extra"] = state.pop("scale")
    report = weights.apply_state(net, state, source="w", strict=False, log=said.append)
    assert report.missing == ["scale"] and report.unexpected == ["extra"]
    assert said == ["w: 3 parameters loaded; 1 missing: scale; 1 unexpected: extra"]
    state["fc.bias"] = np.zeros(4, np.float32)
    with pytest.raises(WeightsError, match=r"fc\.bias \[4\] instead of \[3\]"):
        weights.apply_state(net, state, source="w", strict=False)
    with pytest.raises(WeightsError, match="found 0 that fit"):
        weights.apply_state(net, {"other": np.zeros(1)}, source="w", strict=False)


def test_heads_of_another_task_are_left_out(tmp_path):
    net, said = Net(), []
    state = {k: paddle.to_tensor(v) for k, v in values().items()}
    state["fc.bias"] = paddle.zeros([4])
    paddle.save(state, str(tmp_path / "w.pdparams"))
    with pytest.raises(WeightsError, match=r"fc\.bias \[4\] instead of \[3\]"):
        weights.start_from(net, tmp_path / "w", log=said.append)
    net.task_heads = ("fc.",)
    before = net.fc.bias.numpy()
    report = weights.start_from(net, tmp_path / "w", log=said.append)
    assert report.missing == ["fc.bias"] and np.array_equal(net.fc.bias.numpy(), before)
    assert np.array_equal(net.fc.weight.numpy(), values()["fc.weight"])  # its size is the same
    assert said[0].endswith("of another task, left out: fc.bias")
    net.initial_weights = [{"name": "v.pt", "urls": [], "note": "v.pt is sent on request"}]
    with pytest.raises(WeightsError, match=r"found nothing there.*; v\.pt is sent on request$"):
        weights.start_from(net, tmp_path / "v.pt")


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_precisions_are_converted_with_a_note(dtype):
    net, state, said = Net(), values(), []
    weight = np.array([[1, -2, 0.5], [4, 0, -0.25]], np.float32)
    stored = (weight.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else weight
    state["fc.weight"] = stored if dtype == "bfloat16" else weight.astype(dtype)
    weights.apply_state(net, state, source="w", log=said.append)
    assert np.array_equal(net.fc.weight.numpy(), weight) and net.fc.weight.dtype == paddle.float32
    assert said == [f"w: 1 parameters converted, {dtype} -> float32"]


def test_bfloat16_networks_and_wrong_kinds_of_number():
    net, state = Net(), values()
    net.fc.to(dtype="bfloat16")
    weights.apply_state(net, state, source="w")
    loaded = net.fc.weight.astype("float32").numpy()
    assert net.fc.weight.dtype == paddle.bfloat16
    np.testing.assert_allclose(
        loaded, state["fc.weight"], rtol=2**-7
    )  # Paddle 2.6 cuts, 3.3 rounds
    state["scale"] = np.array(2)
    with pytest.raises(WeightsError, match="scale of type int64 instead of float32"):
        weights.apply_state(net, state, source="w")


def test_resolve(tmp_path):
    for name in ("a.pdparams", "b.pdckpt", "c"):
        (tmp_path / name).write_bytes(b"x")
    for given, found in (("a", "a.pdparams"), ("a.pdparams",) * 2, ("b", "b.pdckpt"), ("c", "c")):
        assert weights.resolve(str(tmp_path / given)) == tmp_path / found
    with pytest.raises(WeightsError, match=r"one weights file, found a\.pdparams, b\.pdckpt"):
        weights.resolve(tmp_path)
    one, streams, empty = (tmp_path / n for n in ("one", "streams", "empty"))
    for file in (one / "model.safetensors", one / "config.json", streams / "fc.w_0"):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    empty.mkdir()
    assert weights.resolve(one) == one / "model.safetensors" and weights.resolve(streams) == streams
    with pytest.raises(WeightsError, match="an empty folder"):
        weights.resolve(empty)
    for missing in ("none", "a.pdparams.pdparams"):
        with pytest.raises(WeightsError, match="found nothing there"):
            weights.resolve(tmp_path / missing)


def test_load_into_converts_names(tmp_path):
    formats.save_state(tmp_path / "w.pdparams", {f"net.{k}": v for k, v in values().items()})
    net = Net()
    weights.load_into(net, tmp_path / "w")
    assert np.array_equal(net.fc.bias.numpy(), values()["fc.bias"])
    with pytest.raises(WeightsError, match=r"w\.pdparams: .*misshaped: fc\.weight \[2, 3\]"):
        weights.load_into(Net(width=4), tmp_path / "w")


def test_convert_writes_what_paddle_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(convert.build, "model_class", lambda name: {"net": Net}[name])
    monkeypatch.setattr(convert.build, "extractor_class", lambda name: {"eye": Net}[name])
    np.savez(tmp_path / "src.npz", **{f"net.{k}": v for k, v in values().items()})
    for name in ("net", "eye"):
        target = tmp_path / f"{name}.pdparams"
        report = convert.convert(name, str(tmp_path / "src.npz"), str(target))
        assert len(report.matched) == 4
        read = paddle.load(str(target), return_numpy=True)
        assert all(np.array_equal(read[k], v) for k, v in values().items()) and len(read) == 4
    np.savez(tmp_path / "part.npz", **{"net.fc.bias": values()["fc.bias"]})
    source, target = str(tmp_path / "part.npz"), str(tmp_path / "part.pdparams")
    with pytest.raises(WeightsError, match=r"3 missing: scale, steps, fc\.weight"):
        convert.convert("net", source, target)
    assert not os.path.exists(target)
    assert len(convert.convert("net", source, target, partial=True).matched) == 1
    with pytest.raises(ConfigError, match=r"ends in \.pdparams"):
        convert.convert("net", source, "out.pth")


def test_convert_command(tmp_path):
    config = tmp_path / "tall.yaml"
    config.write_text(
        "MODEL: {name: TALL, visual_feature_dim: 24, sentence_embedding_size: 10, "
        "semantic_size: 16, hidden_size: 12}\nDATASET: {name: TALL}\n"
    )
    source = ROOT / "tests" / "golden" / "formats" / "TALL_py2.pdparams"
    command = [sys.executable, "tools/convert.py", "TALL", str(source)]
    done, wrong = (
        subprocess.run(
            [*command, str(tmp_path / target), "-c", str(config)],
            cwd=ROOT, capture_output=True, text=True,
        )
        for target in ("out.pdparams", "out.pth")
    )  # fmt: skip
    assert done.returncode == 0 and "4 arrays written" in done.stdout, done.stderr
    wanted, read = formats.load_state(source), formats.load_state(tmp_path / "out.pdparams")
    assert all(np.array_equal(read[k], v) for k, v in wanted.items()) and len(read) == 4
    assert wrong.returncode == 2 and "expected a name that ends in .pdparams" in wrong.stderr
