# SPDX-License-Identifier: Apache-2.0
"""Frozen weights from elsewhere: read in a stream, cached, kept out of checkpoints."""

from __future__ import annotations

import json
import os
import pickle
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from engine import backbone, checkpoint, cli, config, dist, dry_run, formats, train, weights
from engine.errors import ConfigError, WeightsError

RNG = np.random.default_rng(5)
BASE = {
    "base.weight": RNG.normal(size=(4, 6)).astype(np.float16),
    "norm": RNG.normal(size=6).astype(np.float16),
}


class Net(paddle.nn.Layer):
    """A frozen matrix and vector from a folder of .npz files; a gate of its own."""

    def __init__(self, path: Path | None = None, dtype: str = "float32"):
        super().__init__()
        self.backbone, self.reads = path and str(path), 0
        self.backbone_sizes = {"width": 6}
        fail = paddle.nn.initializer.Assign(np.full([4, 6], np.nan))
        paddle.set_default_dtype(dtype)
        self.base = paddle.nn.Linear(4, 6, weight_attr=paddle.ParamAttr(initializer=fail),
                                     bias_attr=False)  # fmt: skip
        self.norm = self.create_parameter([6])
        paddle.set_default_dtype("float32")
        one = paddle.nn.initializer.Constant(1.5)
        self.gate = self.create_parameter([2], default_initializer=one)
        self.base.weight.stop_gradient = self.norm.stop_gradient = True

    def own(self, name):
        return name == "gate"

    def read_backbone(self, open_file):
        path = Path(self.backbone)
        if not path.exists():
            raise ValueError(f"{path}: expected weights, found none; ask for them")
        return self._arrays(path, open_file)

    def _arrays(self, path, open_file):
        self.reads += 1
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        for file in files:
            yield from open_file(file).items()

    def convert(self, state):
        return dict(state)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, array in BASE.items():
        np.savez(tmp_path / f"{name}.npz", **{name: array})
    return tmp_path


def frozen(net: Net) -> dict[str, np.ndarray]:
    return {"base.weight": net.base.weight.numpy(), "norm": net.norm.numpy()}


def build(path: Path, **options) -> Net:
    return backbone.build(lambda: Net(path, **options))


def test_folder_is_converted_once_and_then_mapped(folder):
    first = build(folder)
    cache = folder / backbone.CACHE
    stored = load_file(cache)
    assert all(np.array_equal(stored[n], v) and stored[n].dtype == v.dtype for n, v in BASE.items())
    again = build(folder)
    assert (first.reads, again.reads) == (1, 0)
    for net in (first, again):
        assert all(np.array_equal(v, BASE[n]) for n, v in frozen(net).items())
        assert net.gate.numpy().tolist() == [1.5, 1.5] and net.base.weight.stop_gradient
        assert not net.gate.stop_gradient
    assert first.backbone_digest == again.backbone_digest
    assert json.loads(formats.open_state(cache).metadata["sizes"]) == {"width": 6}
    assert not list(folder.glob("*.tmp"))


def test_changed_originals_are_converted_again_and_deleted_ones_are_not_missed(folder):
    before = build(folder).backbone_digest
    np.savez(folder / "norm.npz", norm=BASE["norm"] + 1)
    changed = build(folder)
    assert np.array_equal(changed.norm.numpy(), BASE["norm"] + 1) and changed.reads == 1
    assert changed.backbone_digest != before
    for file in folder.glob("*.npz"):
        file.unlink()
    assert np.array_equal(build(folder).norm.numpy(), BASE["norm"] + 1)
    (folder / backbone.CACHE).write_bytes(b"cut off")
    with pytest.raises(WeightsError, match="expected all frozen weights, found no"):
        build(folder)


def test_without_room_for_the_cache_weights_are_streamed(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backbone.os, "fsync", full)
    net = build(folder)
    assert all(np.array_equal(v, BASE[n]) for n, v in frozen(net).items()) and net.reads == 2
    assert sorted(p.name for p in folder.glob("*.*") if p.name[0] != ".") == sorted(
        f"{n}.npz" for n in BASE
    )


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_types_of_files_and_networks(tmp_path, stored, dtype):
    """A single file is read as it is; bfloat16 is widened exactly."""
    values = {n: paddle.to_tensor(v).astype(stored) for n, v in BASE.items()}
    path = tmp_path / "base.safetensors"
    _save(path, {n: v.numpy() for n, v in values.items()})
    net = build(path, dtype=dtype)
    for name, value in {"base.weight": net.base.weight, "norm": net.norm}.items():
        assert value.dtype == getattr(paddle, dtype)
        wanted = values[name].astype(dtype).astype("float32")
        assert np.array_equal(value.astype("float32").numpy(), wanted.numpy())
    assert not (tmp_path / backbone.CACHE).exists()


def _save(path: Path, state: dict[str, np.ndarray]) -> None:
    """Through the writer of the cache, which takes bfloat16 as uint16."""
    model = SimpleNamespace(state_dict=lambda: state)
    with open(path, "wb") as file:
        backbone._write(file, state.items(), model, backbone._Files())
    if not any(v.dtype == np.uint16 for v in state.values()):
        save_file(load_file(path), path)


def test_one_array_is_in_memory_at_a_time(tmp_path):
    """Of what a folder's reader makes, nothing is kept while the next is made."""
    alive: list = []

    class Watching(Net):
        def _arrays(self, path, open_file):
            for name, array in BASE.items():
                assert sum(ref() is not None for ref in alive) <= 1, name
                made = array.copy()
                alive.append(weakref.ref(made))
                yield name, made
                del made

    backbone.build(lambda: Watching(tmp_path))
    assert len(alive) == 2


def test_mistakes_are_one_line(tmp_path, folder):
    with pytest.raises(WeightsError, match="expected weights, found none; ask for them"):
        build(tmp_path / "nothing")
    np.savez(folder / "norm.npz", norm=np.zeros(7, np.float16))
    with pytest.raises(WeightsError, match=r"norm: expected \[6\], found \[7\]") as error:
        build(folder)
    assert "\n" not in str(error.value) and error.value.exit_code == 4
    np.savez(folder / "norm.npz", other=np.zeros(7, np.float16))
    with pytest.raises(WeightsError, match="other: expected no such weight"):
        build(folder)
    (folder / "norm.npz").unlink()
    with pytest.raises(WeightsError, match=r"found no norm \(1 missing\)"):
        build(folder)


# ---- checkpoints


def test_checkpoints_hold_and_need_the_own_parameters_only(folder, tmp_path):
    net = build(folder)
    optimizer = paddle.optimizer.AdamW(0.1, parameters=[net.gate])
    (net.gate.sum() * 2).backward()
    optimizer.step()
    saved = checkpoint.Checkpoints(tmp_path / "run", "net")
    features = backbone.identity(net)
    prefix = saved.save("epoch0", net, optimizer, checkpoint.Progress(epoch=1, features=features))
    assert set(formats.load_state(f"{prefix}.pdparams")) == {"gate"}
    path = saved.export("best", net, features)
    other = build(folder)
    report = weights.load_into(other, path)
    assert report.matched == ["gate"] and np.array_equal(other.gate, net.gate)
    second = paddle.optimizer.AdamW(0.1, parameters=[other.gate])
    assert checkpoint.resume(str(tmp_path / "run"), "net", other, second).epoch == 1
    for one, its_optimizer in ((net, optimizer), (other, second)):
        one.gate.clear_grad()
        one.gate.square().sum().backward()
        its_optimizer.step()
    assert np.array_equal(other.gate, net.gate)
    with pytest.raises(WeightsError, match="1 unexpected: norm"):
        weights.apply_state(other, {"gate": net.gate.numpy(), "norm": BASE["norm"]}, source="x")


def test_a_checkpoint_of_another_backbone_is_refused(folder, tmp_path):
    net = build(folder)
    saved = checkpoint.Checkpoints(tmp_path / "run", "net")
    optimizer = paddle.optimizer.AdamW(0.1, parameters=[net.gate])
    net.gate.sum().backward()
    optimizer.step()
    progress = checkpoint.Progress(features=backbone.identity(net))
    prefix = saved.save("epoch0", net, optimizer, progress)
    path = saved.export("best", net, backbone.identity(net))
    np.savez(folder / "norm.npz", norm=BASE["norm"] + 1)
    other = build(folder)
    for load in (
        lambda: weights.load_into(other, path),
        lambda: weights.load_into(other, f"{prefix}.pdparams"),
        lambda: checkpoint.resume(str(prefix), "net", other, optimizer),
    ):
        with pytest.raises(WeightsError, match="expected the backbone that it was trained with"):
            load()


def test_lazily_opened_files_are_those_of_load_state(tmp_path):
    state = {"a": RNG.normal(size=(300, 1000)).astype(np.float32), "b": np.arange(5, dtype="f4")}
    save_file(state, tmp_path / "x.safetensors", metadata={"k": "v"})
    np.savez(tmp_path / "x.npz", **state)
    formats.save_state(tmp_path / "x.pdparams", state)
    for name in ("x.safetensors", "x.npz", "x.pdparams"):
        opened = formats.open_state(tmp_path / name)
        view = opened["a"]
        opened.release()
        assert set(opened) == set(state) and len(opened) == 2
        assert all(np.array_equal(opened[n], v) for n, v in state.items())
        assert np.array_equal(view, state["a"])
    assert formats.open_state(tmp_path / "x.safetensors").metadata == {"k": "v"}
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-1])
    with pytest.raises(WeightsError, match="damaged or incomplete"):
        formats.open_state(tmp_path / "x.safetensors")


# ---- dry run, several processes


def test_dry_run_tells_sizes_without_values(folder):
    values = {key: entry["default"] for key, entry in config.schema()["TRAIN"].items()}
    recipe = SimpleNamespace(**values | {"batch_size": 6, "accumulate": 4, "optimizer": "adamw"})
    net = backbone.outline(lambda: Net(folder, dtype="bfloat16"))
    assert not any(p._is_initialized() for p in net.parameters())
    told = dict(dry_run.lines(net, recipe, _Sections()))
    assert told["parameters"] == "32 (bfloat16, float32)"
    assert told["trainable parameters"] == "2 (float32)"
    assert told["effective batch"].startswith("24 samples a step")
    assert told["learning rate"] == "0.001 constant, warm-up 0 of all steps (2)"
    assert "weights 6.8e-08 GB, gradients 8e-09 GB, optimiser 1.6e-08 GB" in (
        told["memory (estimate)"]
    )
    assert "is there" in told["backbone"]
    net.activation_bytes = lambda samples, data: 10**9 * samples * data["length"]
    told = dict(dry_run.lines(net, recipe, _Sections()))
    assert told["memory (estimate)"].endswith("activations 12 GB")


class _Sections(dict):
    """A configuration with one option of the reader."""

    def __init__(self):
        super().__init__(MODEL={})

    def reader_args(self, section):
        return {"length": 2}


def test_processes_that_share_a_network():
    assert dist.hybrid(8, 2) == {
        "dp_degree": 4, "mp_degree": 2, "pp_degree": 1, "sharding_degree": 1
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"divisor of the number of processes \(8\), found 3"):
        dist.hybrid(8, 3)


def test_networks_are_counted_not_processes(monkeypatch):
    monkeypatch.setattr(dist, "_shared", 2)
    monkeypatch.setitem(os.environ, "PADDLE_TRAINERS_NUM", "8")
    monkeypatch.setitem(os.environ, "PADDLE_TRAINER_ID", "5")
    assert (dist.world_size(), dist.rank(), dist.processes(), dist.process()) == (4, 2, 8, 5)


# ---- training checkpoints of others


def test_training_goes_on_from_a_published_checkpoint(tmp_path):
    """Moments and the count of steps are as if the run had not been interrupted."""

    class Other(Net):
        def read_training(self, tree):
            if "moments" not in tree:
                raise ValueError("expected moments, found none")
            return tree

    def run(net, optimizer, steps):
        for step in steps:
            (net.gate * paddle.to_tensor([1.0, step - 1.5])).sum().backward()
            optimizer.step()
            optimizer.clear_grad()

    def made():
        net = Other()
        return net, paddle.optimizer.AdamW(0.1, beta1=0.9, beta2=0.95, parameters=[net.gate])

    whole, optimizer = made()
    run(whole, optimizer, range(3))
    state = optimizer.state_dict()
    moments = [state[f"{whole.gate.name}_moment{k}_0"].numpy() for k in (1, 2)]
    tree = {"parameters": {"gate": whole.gate.numpy()}, "moments": {"gate": moments},
            "betas": [0.9, 0.95], "step": 3, "epoch": 4}  # fmt: skip
    run(whole, optimizer, range(3, 6))
    path = tmp_path / "checkpoint_best.pth"
    path.write_bytes(pickle.dumps(tree, 2))
    resumed, optimizer = made()
    progress = checkpoint.resume(str(path), "net", resumed, optimizer)
    assert (progress.epoch, progress.batch, progress.step) == (5, 0, 3)
    run(resumed, optimizer, range(3, 6))
    np.testing.assert_allclose(resumed.gate.numpy(), whole.gate.numpy(), rtol=1e-6)
    path.write_bytes(pickle.dumps({"model": {}}, 2))
    with pytest.raises(WeightsError, match=r"--resume .*: expected moments, found none"):
        checkpoint.resume(str(path), "net", resumed, optimizer)


def test_a_trained_backbone_is_kept_and_not_compared(folder):
    class Trained(Net):
        def own(self, name):
            return True

    net = backbone.build(lambda: Trained(folder))
    assert set(backbone.kept(net)) == {"base.weight", "norm", "gate"}
    assert np.array_equal(net.norm.numpy(), BASE["norm"]) and not backbone.identity(net)
    assert backbone.identity(build(folder))


def test_dry_run_flag_needs_no_data(capsys):
    args = cli.parse("train", ["--config", "configs/tall.yaml", "--dry-run"])
    train.main(args, config.load("configs/tall.yaml"))
    said = capsys.readouterr().out
    assert "trainable parameters  21,597,112 (float32)" in said and "learning rate" in said
