# SPDX-License-Identifier: Apache-2.0
"""LLaMA's shards, fine-tuned adapters, and PyTorch's files."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from engine import backbone, checkpoint, formats, weights
from models.llama_vqa import Model, checkpoints
from models.llama_vqa import backbone as published_backbone
from reader.common import torch_files
from reader.common.llama_tokenizer import Tokenizer
from tests.parity.llama_vqa_model import (
    NAMES,
    Recipe,
    batch_of,
    build,
    check_after,
    check_losses,
    check_records,
    close,
    published,
)
from tools.parity import Case, Tracked

# ---- shards


def check_sharded(case: Case) -> None:
    """Meta's shards become a LLaMA, by way of the cache and without; with extras it answers."""
    z, meta = case.npz, _meta(case)
    folder = case.file("params.json").parent
    shards = [case.file(f"/{path.name}") for path in sorted(folder.glob("consolidated.*.pth"))]
    case.equal("n_shards", len(shards), meta["n_shards"])
    params = case.tracked("params.json")
    case.equal("params", dict(params), meta.plain("params"))
    words = Tokenizer(case.file("tokenizer.model")).size
    _check_names(case)
    _check_batch(case, meta["args"]["max_seq_len"])
    meta["args"].note("accum_iter", "batch_size", "blr", "epochs", "lr", "min_lr",
                      "warmup_epochs", "weight_decay")  # fmt: skip
    with _copied(folder) as copy:

        def construct(**options: Any) -> Model:
            return backbone.build(
                lambda: build(params, meta["args"], words, backbone=str(copy), **options)
            )

        model = construct()  # writes the cache
        _check_merged(case, model, "shards")
        case.equal("cache", (copy / backbone.CACHE).is_file(), True)
        model = construct()
        _check_merged(case, model, "cache")
        _fill_extras(model, z.under("param/"))
        _check_answers(case, model, "loss/", "eval/out/nll")
        check_records(case, model, batch_of(z, "eval/in/batch0"), "eval/out/batch0")
        count, rows = int(z["partial/adapter_layer"]), meta["args"]["adapter_len"]
        extras = z.under("param/")
        extras["adapter_query.weight"] = extras["adapter_query.weight"][-count * rows :]
        for name, skip in (("upstream_skip", True), ("corrected", False)):
            model = construct(adapter_layer=count, skip_early_layers=skip)
            _fill_extras(model, extras)
            _check_answers(case, model, f"partial/{name}/loss/", f"partial/{name}/eval_nll")


def _meta(case: Case) -> Tracked:
    (name,) = (n for n in case.files if n.endswith(".json") and not n.endswith("params.json"))
    return case.tracked(name)


@contextmanager
def _copied(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(shutil.copytree(folder, Path(temporary) / folder.name))


def _check_names(case: Case) -> None:
    z, meta = case.npz, _meta(case)
    base, extras = set(z.under("merged/")), set(z.under("param/"))
    case.equal("named_parameters_order", sorted(meta["named_parameters_order"]),
               sorted(base | extras))  # fmt: skip
    case.equal("trainable", checkpoints.in_order(extras), meta["trainable"])
    case.equal("names", set(published_backbone.names(meta["params"]["n_layers"])), base)
    for name, axis in meta["split_dims"].items():
        ours = published_backbone.shard_axis(name)
        case.equal(f"split_dims: {name}", -1 if ours is None else ours, axis)


def _check_batch(case: Case, width: int) -> None:
    """What the batches hold besides our own."""
    z = case.npz
    for folder in ("in/batch0", "eval/in/batch0"):
        part = z.under(f"{folder}/")
        size = (len(part["video"]),)
        for name in ("video_len", "answer", "qtype"):
            case.equal(f"{folder}/{name}", part[name].shape, size)
        for name in NAMES:
            index = part[f"video_index/{name}"]
            case.equal(f"{folder}/{name}", part[f"text_id/{name}"].shape[-1], width)
            run = index[:, :1] + np.arange(part["video"].shape[1])
            case.equal(f"{folder}/video_index/{name}", index, run)
        case.equal(f"{folder}/video_start", part["video_start/vqa"], part["video_start/vaq"])
        case.equal(f"{folder}/qav", part["video_start/qav"], part["video_index/qav"][:, 0])


def _check_merged(case: Case, model: Model, source: str) -> None:
    own = dict(model.named_parameters())
    for name, golden in case.npz.under("merged/").items():
        case.equal(f"{source}: {name}", published(name, own[name].numpy()), golden)


def _fill_extras(model: Model, state: dict[str, np.ndarray]) -> None:
    weights.apply_state(model, model.convert(state), source="param/*")


def _check_answers(case: Case, model: Model, losses: str, nll: str) -> None:
    """Losses of the objectives in training, and of the options' words."""
    z = case.npz
    model.train()
    batch = batch_of(z, "in/batch0")
    check_losses(case, model.loss(model(batch), batch), z.under(losses))
    model.eval()
    with paddle.no_grad():
        found, plan = model.option_losses(batch_of(z, "eval/in/batch0"))
    ours = np.zeros_like(z[nll])
    ours[tuple(plan.cells.T)] = found
    close(case, nll, ours, z[nll])
    case.equal(f"{nll}: counts", (ours != 0).sum(-1), z["eval/out/count"])


# ---- adapters


def check_adapter_checkpoint(case: Case) -> None:
    """A fine-tuned file of the reference: what it holds, as weights, and to go on from."""
    expected, path = case.tracked(".json"), case.file(".pth")
    tree = formats.load_object(path)
    for key in ("epoch", "scaler", "args"):
        case.equal(key, tree[key], expected.plain(key))
    case.equal("model_keys", list(tree["model"]), expected["model_keys"])
    groups = json.loads(json.dumps(tree["optimizer"]["param_groups"]))
    case.equal("param_groups", groups, expected["param_groups"])
    _check_moments(case, tree["optimizer"]["state"], expected["optimizer_state"])
    folder, name = re.search(r"(\w+)/\* of (\S+)\.npz", expected["model_values"]).groups()
    files = [f"{name}.json", f"{name}.npz"]
    run = Case(case.folder, {"kind": "model", "name": name, "files": files}, lines=case.lines)
    state = run.npz.under("param/")
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary) / "base.safetensors"
        _write_base(base, state)
        model = backbone.build(
            lambda: build(run.json["params_json"], run.json["args"], run.json["vocab_size"],
                          backbone=str(base))
        )  # fmt: skip
    weights.load_into(model, path)
    check_after(run, model, folder)
    _check_rest(run, model, path)


def _check_moments(case: Case, state: dict, golden: Tracked) -> None:
    case.equal("optimizer_state", {str(key) for key in state}, set(golden))
    for number, entry in golden.items():
        ours = state[int(number)]
        case.equal(f"optimizer_state/{number}", set(ours), set(entry))
        case.equal(f"optimizer_state/{number}/step", float(ours["step"]), entry["step"])
        for key in ("exp_avg", "exp_avg_sq"):
            values, group = np.asarray(ours[key], np.float64), f"optimizer_state/{number}/{key}"
            case.equal(f"{group}/shape", list(values.shape), entry[key]["shape"])
            case.close(f"{group}/sum", values.sum(), entry[key]["sum"], 1e-9, 1e-6)
            case.close(f"{group}/abs_sum", np.abs(values).sum(), entry[key]["abs_sum"], 1e-9, 1e-6)


def _write_base(path: Path, state: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    layers = 1 + max(int(n.split(".")[1]) for n in state if n.startswith("layers."))
    names = published_backbone.names(layers)
    save_file({n: np.ascontiguousarray(published(n, state[n])) for n in names}, path)


def _check_rest(run: Case, model: Model, path: Path) -> None:
    """Training from the file to the last epoch ends where the uninterrupted run did."""
    args, count = run.json["args"], run.json["n_train_batches"]
    recipe = Recipe(model, args, count)
    progress = checkpoint.resume(str(path), "model", model, recipe.optimizer)
    per_epoch = sum(batch.last for batch in recipe.plan)
    run.equal("resumed at step", progress.step, progress.epoch * per_epoch)
    model.train()
    losses = []
    for epoch in range(progress.epoch, args["epochs"]):
        for n, part in enumerate(recipe.plan):
            batch = batch_of(run.npz, f"in/batch{n}")
            terms = model.loss(model(batch), batch)
            (terms["loss"] * part.weight).backward()
            losses.append(float(terms["loss"]))
            if part.last:
                recipe.step(epoch + part.begin)
    golden = run.npz["iter/total_loss"].reshape(args["epochs"], count)[progress.epoch :]
    close(run, "resumed: losses", losses, golden[:, : len(recipe.plan)].ravel())
    check_after(run, model, "after")


# ---- files


def check_pth(case: Case) -> None:
    """Every tensor and number of PyTorch's files, read at once and by views."""
    golden = case.npz
    for name in [name for name in case.files if name.endswith(".pth")]:
        path = case.file(f"/{name}" if "/" in name else name)
        tree, opened = formats.load_object(path), torch_files.open_file(path)
        for key, wanted in golden.items():
            value, lazy = _at(tree, key), _at(opened.tree, key)
            case.equal(f"{name}: {key}", np.asarray(value), wanted)
            case.equal(f"{name}: {key}, type", np.asarray(value).dtype, wanted.dtype)
            if isinstance(lazy, torch_files.Tensor) and lazy.storage.dtype != "bf16":
                case.equal(f"{name}: {key}, view", np.asarray(opened.view(lazy)), wanted)


def _at(tree: Any, key: str) -> Any:
    for step in key.split("/"):
        tree = tree[int(step)] if isinstance(tree, (list, tuple)) else tree[step]
    return tree


CHECKS = {
    "sharded": check_sharded,
    "adapter_checkpoint": check_adapter_checkpoint,
    "pth": check_pth,
}
