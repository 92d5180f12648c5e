# SPDX-License-Identifier: Apache-2.0
"""LLaMA's weights from every layout, fine-tuned adapters, and networks on several devices."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import save_file

from engine import backbone as engine_backbone
from engine.convert import convert
from engine.errors import WeightsError
from engine.formats import load_state, open_state
from models.llama_vqa import backbone, checkpoints, parallel
from models.llama_vqa.network import Attention, FeedForward, Whole, hidden_size, places
from tests.conftest import ROOT
from tests.engine.test_formats import tensor, torch_pickle, torch_zip

SIZES = {"dim": 16, "num_layers": 2, "num_heads": 4, "multiple_of": 8, "norm_eps": 1e-6,
         "vocab_size": 24}  # fmt: skip
PARAMS = {"dim": 16, "multiple_of": 8, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-6,
          "vocab_size": -1}  # fmt: skip
CONFIG = {
    "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "rms_norm_eps": 1e-6, "vocab_size": 24, "intermediate_size": 48, "hidden_act": "silu",
    "max_position_embeddings": 2048,
}  # fmt: skip
TABLE = "tok_embeddings.weight"


def weights_of(sizes: dict) -> dict[str, np.ndarray]:
    """A LLaMA under our names in Paddle's layout, float16."""
    rng, dim = np.random.default_rng(1), sizes["dim"]
    hidden = hidden_size(dim, sizes["multiple_of"])
    shapes = {"tok_embeddings": (sizes["vocab_size"], dim), "output": (dim, sizes["vocab_size"]),
              "w1": (dim, hidden), "w3": (dim, hidden), "w2": (hidden, dim)}  # fmt: skip
    found = {}
    for name in backbone.names(sizes["num_layers"]):
        part = name.split(".")[-2]
        shape = (dim,) if part.endswith("norm") else shapes.get(part, (dim, dim))
        found[name] = rng.normal(size=shape).astype(np.float16)
    return found


WEIGHTS = weights_of(SIZES)


def torch_file(path: Path, state: dict[str, np.ndarray]) -> None:
    """As torch.save writes float16 tensors."""
    tensors, raw = {}, {}
    for name, value in state.items():
        strides = tuple(s // value.itemsize for s in value.strides)
        tensors[name] = tensor(name, value.size, value.shape, strides, 0, "Half")
        raw[name] = value.tobytes()
    path.write_bytes(torch_zip(torch_pickle(**tensors), raw))


def turned(name: str, value: np.ndarray) -> np.ndarray:
    """Between Paddle's layout and PyTorch's."""
    return np.ascontiguousarray(value.T) if value.ndim == 2 and name != TABLE else value


def meta_folder(path: Path, shards: int, **changes) -> Path:
    """Meta's layout, divided as Megatron divides."""
    path.mkdir(exist_ok=True)
    (path / "params.json").write_text(json.dumps(PARAMS | changes))
    for number in range(shards):
        part = {}
        for name, value in WEIGHTS.items():
            value = turned(name, value)
            if value.ndim == 2:
                inward = name == TABLE or ".wo." in name or ".w2." in name
                value = np.ascontiguousarray(np.split(value, shards, int(inward))[number])
            part[name] = value
        part["rope.freqs"] = part["layers.0.attention.inner_attention.rope.freqs"] = np.ones(
            2, np.float16
        )
        torch_file(path / f"consolidated.{number:02d}.pth", part)
    return path


def face_state() -> dict[str, np.ndarray]:
    """Hugging Face's names, layout and order of rows."""
    state = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float16)}
    for name, value in WEIGHTS.items():
        value = turned(name, value)
        if ".wq." in name or ".wk." in name:  # as its conversion script has it
            value = value.reshape(4, 2, 2, 16).transpose(0, 2, 1, 3).reshape(16, 16)
        state[backbone.published(name)] = np.ascontiguousarray(value)
    return state


def face_folder(path: Path, form: str = "safetensors", **changes) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG | changes))
    state = face_state()
    names = sorted(state)
    for number, part in enumerate((names[:9], names[9:]), 1):
        some = {name: state[name] for name in part}
        if form == "bin":
            torch_file(path / f"pytorch_model-{number:05d}-of-00002.bin", some)
        else:
            save_file(some, path / f"model-{number:05d}-of-00002.safetensors")
    return path


def read(path: Path, **sizes) -> dict[str, np.ndarray]:
    return dict(backbone.read(path, SIZES | sizes, open_state))


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray] = WEIGHTS) -> bool:
    return list(found) == list(wanted) and all(
        v.dtype == wanted[n].dtype and np.array_equal(v, wanted[n]) for n, v in found.items()
    )


# ---- layouts


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_official_shards(tmp_path, shards):
    found = read(meta_folder(tmp_path, shards))
    assert same(found)
    assert all(v.flags.c_contiguous for v in found.values())


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_hugging_face(tmp_path, form):
    assert same(read(face_folder(tmp_path, form)))


def test_rows_of_queries_are_where_rotation_expects_them():
    """Meta rotates neighbours, Hugging Face halves: both give the same scores."""
    rng = np.random.default_rng(0)
    queries, keys = rng.normal(size=(2, 8))
    angle = 3 * 10000.0 ** (-np.arange(4) / 4)

    def neighbours(x):
        a, b = x[0::2], x[1::2]
        return np.stack([a * np.cos(angle) - b * np.sin(angle),
                         a * np.sin(angle) + b * np.cos(angle)], 1).ravel()  # fmt: skip

    def halves(x):
        other = np.concatenate([-x[4:], x[:4]])
        return x * np.tile(np.cos(angle), 2) + other * np.tile(np.sin(angle), 2)

    meta = [backbone.interleaved(x[:, None], 1)[:, 0] for x in (queries, keys)]
    np.testing.assert_allclose(halves(queries) @ keys, neighbours(meta[0]) @ meta[1], rtol=1e-12)


def test_own_file_also_of_a_whole_training(tmp_path):
    extras = {"adapter_query.weight": np.ones([4, 16], np.float32)}
    save_file(extras | WEIGHTS, tmp_path / "x.safetensors")
    assert same(read(tmp_path / "x.safetensors"))
    sizes = {"sizes": json.dumps(SIZES | {"norm_eps": 1e-5})}
    save_file(WEIGHTS, tmp_path / "y.safetensors", metadata=sizes)
    with pytest.raises(ValueError, match=r"expected norm_eps 1e-06 of LLaMA-1"):
        read(tmp_path / "y.safetensors")
    save_file(face_state(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"under our names .* give their folder"):
        read(tmp_path / "model.safetensors")


# ---- the wrong weights


@pytest.mark.parametrize("changes, message", [
    ({"norm_eps": 1e-5}, "LLaMA-2 or another family, with which the published recipe ends in NaN"),
    ({"n_kv_heads": 2}, "found n_kv_heads 2: LLaMA-2"),
    ({"rope_theta": 5e5}, "expected rope_theta 10000.0, found 500000.0"),
    ({"dim": 32, "n_layers": 3}, r"found dim 32 \(MODEL: 16\), num_layers 3 \(MODEL: 2\)"),
    ({"multiple_of": 256}, r"multiple_of 256 \(MODEL: 8\)"),
    ({"n_heads": None}, "num_heads None"),
])  # fmt: skip
def test_other_families_and_sizes_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        backbone.read(meta_folder(tmp_path, 1, **changes), SIZES, open_state)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes, message", [
    ({"rms_norm_eps": 1e-5}, "LLaMA-2"),
    ({"num_key_value_heads": 2}, "LLaMA-2"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling None"),
    ({"intermediate_size": 64}, "expected intermediate_size 48"),
    ({"vocab_size": 32001}, r"vocab_size 32001 \(MODEL: 24\)"),
])  # fmt: skip
def test_other_families_of_hugging_face(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        backbone.read(face_folder(tmp_path, **changes), SIZES, open_state)


def test_what_looks_like_another_family_and_is_wanted_is_warned_of(tmp_path):
    folder = meta_folder(tmp_path / "a", 1, norm_eps=1e-5)
    with pytest.warns(UserWarning, match="norm_eps 1e-05 is that of LLaMA-2"):
        assert same(read(folder, norm_eps=1e-5))
    folder = face_folder(tmp_path / "b", max_position_embeddings=4096)
    with pytest.warns(UserWarning, match="texts of 4096 tokens is that of LLaMA-2"):
        assert same(read(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(meta_folder(tmp_path / "c", 1))


def test_missing_weights_say_where_to_ask(tmp_path):
    with pytest.raises(ValueError, match=r"https://forms.gle/\w+ .* put params.json and consol"):
        read(tmp_path / "7B")
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    with pytest.raises(ValueError, match=r"expected consolidated.00.pth, found none"):
        read(tmp_path)
    (tmp_path / "params.json").write_text("{")
    with pytest.raises(ValueError, match="expected the description of a LLaMA"):
        read(tmp_path)


def test_incomplete_weights(tmp_path):
    folder = meta_folder(tmp_path / "a", 4)
    (folder / "consolidated.03.pth").unlink()
    with pytest.raises(ValueError, match=r"word vectors \[24, 16\].* \[24, 12\] in 3 shards"):
        read(folder)
    (folder / "consolidated.01.pth").unlink()
    with pytest.raises(ValueError, match=r"expected consolidated.00.pth, consolidated.01.pth, f"):
        read(folder)
    folder = face_folder(tmp_path / "b")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"found none called model\.layers"):
        read(folder)


def test_engine_tells_it_with_its_exit_code(tmp_path):
    class Net(nn.Layer):
        backbone = str(tmp_path)

        def read_backbone(self, open_file):
            return backbone.read(self.backbone, SIZES, open_file)

    with pytest.raises(WeightsError, match="LLaMA-1 is not downloaded") as error:
        engine_backbone.build(Net)
    assert error.value.exit_code == 4


# ---- adapters

EXTRAS = {
    "adapter_query.weight": (4, 16), "visual_proj.weight": (6, 16), "temporal_emb.weight": (3, 16),
    **{f"layers.{i}.attention.gate{k}": (1, 4, 1, 1) for i in range(11) for k in (1, 2)},
}  # fmt: skip


def adapter() -> dict:
    """A training checkpoint of the reference, with arrays for tensors."""
    rng = np.random.default_rng(2)

    def made():
        found = {n: rng.normal(size=s).astype(np.float32) for n, s in EXTRAS.items()}
        return found | {"visual_proj.weight": found["visual_proj.weight"].T}

    first, second = made(), made()
    state = {i: {"step": np.float32(7), "exp_avg": first[n], "exp_avg_sq": second[n]}
             for i, n in enumerate(EXTRAS)}  # fmt: skip
    groups = [{"params": [], "betas": (0.9, 0.95)},
              {"params": list(range(len(EXTRAS))), "betas": (0.9, 0.95)}]  # fmt: skip
    return {"model": made(), "optimizer": {"state": state, "param_groups": groups}, "epoch": 2}


def test_training_checkpoint_becomes_weights_and_moments():
    tree = adapter()
    found = checkpoints.training(tree, EXTRAS)
    assert (found["step"], found["epoch"], found["betas"]) == (7, 2, (0.9, 0.95))
    assert {n: v.shape for n, v in found["parameters"].items()} == EXTRAS
    for number, name in enumerate(EXTRAS):  # layer 10 comes after layer 2
        first, second = found["moments"][name]
        entry = tree["optimizer"]["state"][number]
        wanted = [entry[key] for key in ("exp_avg", "exp_avg_sq")]
        if name == "visual_proj.weight":
            wanted = [x.T for x in wanted]
        assert np.array_equal(first, wanted[0]) and np.array_equal(second, wanted[1])
    again = checkpoints.convert(found["parameters"], EXTRAS)
    assert all(np.array_equal(again[n], v) for n, v in found["parameters"].items())


def test_unused_parameters_have_no_moments():
    tree = adapter()
    del tree["optimizer"]["state"][3]
    moments = checkpoints.training(tree, EXTRAS)["moments"]
    assert set(EXTRAS) - set(moments) == {"layers.0.attention.gate1"}


@pytest.mark.parametrize("spoil, message", [
    (lambda t: t.pop("optimizer"), r"expected a training checkpoint with model, optimizer, epoch"),
    (lambda t: t["optimizer"]["param_groups"][1]["params"].pop(), "of the 25 parameters, found 24"),
])  # fmt: skip
def test_other_checkpoints_cannot_be_resumed(spoil, message):
    tree = adapter()
    spoil(tree)
    with pytest.raises(ValueError, match=message):
        checkpoints.training(tree, EXTRAS)
    with pytest.raises(ValueError, match="found list"):
        checkpoints.training([], EXTRAS)


def test_published_adapter_is_converted_without_the_llama(tmp_path):
    sizes = "dim: 32, num_layers: 4, num_heads: 4, multiple_of: 16, vocab_size: 640"
    config, target = tmp_path / "x.yaml", tmp_path / "x.pdparams"
    config.write_text(f"MODEL: {{name: llama_vqa, {sizes}, backbone: nowhere}}\n")
    source = ROOT / "tests" / "golden" / "llama_vqa" / "adapter_checkpoint" / "checkpoint_best.pth"
    report = convert("llama_vqa", str(source), str(target), str(config))
    found, published = load_state(target), load_state(source)
    assert set(found) == set(report.matched) == set(published) and len(found) == 11
    assert np.array_equal(found["visual_proj.weight"], published["visual_proj.weight"].T)
    assert np.array_equal(found["adapter_query.weight"], published["adapter_query.weight"])


# ---- several devices


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_weights_are_divided_and_merged(degree):
    for name, value in WEIGHTS.items():
        parts = [parallel.split(name, value, rank, degree) for rank in range(degree)]
        assert np.array_equal(parallel.merge(name, parts), value)
        whole = value.ndim == 1 or name == TABLE
        assert parts[0].size == value.size // (1 if whole else degree), name


class Simulated(Whole):
    """A process of several, whose sums are left to the test."""

    def __init__(self, rank: int, degree: int):
        self.rank, self.degree = rank, degree

    def column(self, inputs, outputs, deviation):
        return nn.Linear(inputs, outputs // self.degree, bias_attr=False)

    def row(self, inputs, outputs, deviation):
        return nn.Linear(inputs // self.degree, outputs, bias_attr=False)

    def heads(self, gate):
        return parallel.OwnHeads.apply(gate, self.rank, self.degree, None)


def _filled(layer: nn.Layer, prefix: str, maker: Whole | None) -> nn.Layer:
    for name, parameter in layer.named_parameters():
        if "gate" in name:
            parameter.set_value(np.linspace(-1, 1, 4, dtype="f4").reshape(1, 4, 1, 1))
            continue
        value = WEIGHTS[f"{prefix}.{name}"].astype(np.float32)
        if maker:
            value = parallel.split(f"{prefix}.{name}", value, maker.rank, maker.degree)
        parameter.set_value(np.ascontiguousarray(value))
    return layer


@pytest.mark.parametrize("degree", [2, 4])
def test_parts_of_a_layer_add_up(degree, monkeypatch):
    """Outputs and gradients of gates and prompts of all processes sum to those of one."""
    monkeypatch.setattr(paddle.distributed, "all_reduce", lambda *_, **__: None)
    x = paddle.to_tensor(np.random.default_rng(3).normal(size=(2, 7, 16)).astype("f4"))
    prompts = np.random.default_rng(4).normal(size=(3, 16)).astype("f4")
    at = places(np.arange(7)[None], 4, frames=(2, 4))
    results = []
    for makers in ([Whole], [Simulated(rank, degree) for rank in range(degree)]):
        out, gradients = 0, 0
        for maker in makers:
            mine = maker if isinstance(maker, Simulated) else None
            attention = _filled(Attention(16, 4, 3.0, True, 2, maker), "layers.1.attention", mine)
            forward = _filled(FeedForward(16, 48, 2, maker), "layers.1.feed_forward", mine)
            given = paddle.to_tensor(prompts, stop_gradient=False)
            found = attention(x, at, attention.adapter(given))[0]
            found.square().sum().backward() if mine is None else found.backward(results[0][1])
            out = out + found.numpy() + forward(x).numpy()
            learnt = (attention.gate1.grad, attention.gate2.grad, given.grad)
            gradients = gradients + np.concatenate([g.numpy().ravel() for g in learnt])
            if mine is None:
                results.append((None, 2 * found.detach()))
        results.append((out, gradients))
    (_, _), (out, gradients), (divided, summed) = results
    np.testing.assert_allclose(divided, out, atol=2e-4 * np.abs(out).max())
    np.testing.assert_allclose(summed, gradients, atol=2e-4 * np.abs(gradients).max())


@pytest.mark.parametrize("degree, train, message", [
    (0, False, "expected at least 1"),
    (3, False, "expected a divisor of num_heads = 4, found 3"),
    (2, True, "expected 1 with train_backbone"),
    (2, False, "expected 2 GPUs, found a CPU"),
])  # fmt: skip
def test_how_many_devices(degree, train, message):
    parallel.check(1, SIZES, True)
    with pytest.raises(ValueError, match=message):
        parallel.check(degree, SIZES, train)


def test_a_group_of_another_size_is_refused(monkeypatch):
    from paddle.distributed import fleet

    group = SimpleNamespace(get_model_parallel_rank=lambda: 1, get_model_parallel_group=lambda: "g",
                            get_model_parallel_world_size=lambda: 2)  # fmt: skip
    monkeypatch.setattr(fleet, "get_hybrid_communicate_group", lambda: group)
    assert parallel.Parts(2).rank == 1
    with pytest.raises(ValueError, match="expected 4 processes a group, found 2"):
        parallel.Parts(4)
    monkeypatch.setattr(fleet, "get_hybrid_communicate_group", lambda: None)
    with pytest.raises(ValueError, match=r"expected processes of python -m paddle\.distributed"):
        parallel.Parts(2)
