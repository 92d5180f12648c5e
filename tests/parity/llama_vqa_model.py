# SPDX-License-Identifier: Apache-2.0
"""LLaMA-VQA's network: states, losses, gradients, scores of options, training."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle

from engine import config, loader, optim
from models.llama_vqa import Model, objectives
from tools.parity import Case, Tracked

CLOSE, GRADIENT, AFTER = 1e-5, 1e-5, (1e-5, 5e-4)  # AFTER: of 99.9 % of the numbers, and of all
NAMES = ("vqa", "vaq", "qav")
# where the run was made; nothing of it matters to the numbers
REMARKS = ("dataset", "device", "llama_model_path", "model", "num_workers", "resume", "seed",
           "start_epoch", "sub")  # fmt: skip


def build(params: Tracked, args: Tracked, vocab_size: int, **options: Any) -> Model:
    """The network that a params.json and the options of a run describe, as upstream builds it."""
    args.note(*REMARKS)
    assert params["vocab_size"] == -1
    sizes = {
        "dim": params["dim"], "num_layers": params["n_layers"], "num_heads": params["n_heads"],
        "multiple_of": params["multiple_of"], "norm_eps": params["norm_eps"],
        "vocab_size": vocab_size, "max_feats": args["max_feats"], "bias": args["bias"],
        "adapter_len": args["adapter_len"], "adapter_layer": args["adapter_layer"],
        "tau": args["tau"], "vaq": args["vaq"], "qav": args["qav"], "skip_early_layers": True,
    }  # fmt: skip
    return Model(**sizes | options)


def published(name: str, array: np.ndarray) -> np.ndarray:
    """An array of PyTorch's layout in ours; the other way round the same."""
    alike = ("tok_embeddings.weight", "adapter_query.weight", "temporal_emb.weight")
    return array.T if array.ndim == 2 and name not in alike else array


def fill(model: Model, state: Mapping[str, np.ndarray]) -> Model:
    """Give all parameters their published values."""
    own = dict(model.named_parameters())
    assert set(own) == set(state), set(own) ^ set(state)
    for name, parameter in own.items():
        array = published(name, state[name])
        assert tuple(parameter.shape) == array.shape, (name, parameter.shape, array.shape)
        parameter.set_value(np.ascontiguousarray(array))
    return model


def batch_of(z: Mapping[str, np.ndarray], prefix: str, trim: bool = True) -> dict[str, Any]:
    """The batch of published fields under ``prefix``, with rows as long as the longest."""
    video = z[f"{prefix}/video"]
    batch = {"id": [str(i) for i in range(len(video))], "video": video,
             "video_start": z[f"{prefix}/video_start/vqa"]}  # fmt: skip
    for name in NAMES:
        if f"{prefix}/text_id/{name}" not in z:
            continue
        ids, labels = (z[f"{prefix}/{part}/{name}"] for part in ("text_id", "label"))
        if name == "qav":
            batch["qav_start"] = z[f"{prefix}/video_index/qav"][:, 0]
            used = (ids != 0) | (labels >= 0)
        else:
            used = ids != 0
        width = 1 + np.flatnonzero(used.any((0, 1))).max() if trim else ids.shape[-1]
        batch |= {f"{name}_ids": ids[..., :width], f"{name}_labels": labels[..., :width]}
    return loader.to_tensors(batch)


def close(case: Case, group: str, ours: Any, golden: Any) -> None:
    """Within the tolerance of outputs, losses and scores."""
    case.close(group, ours, golden, CLOSE, 1e-6)


def check_model(case: Case) -> None:
    """All of a case of the network."""
    z, meta = case.npz, case.json
    meta.note("name", "data", "seed_note", "deterministic_rerun")
    for remark in [key for key in meta if key.startswith("noise_")]:
        meta.plain(remark)
    args = meta["args"]
    case.equal("max_seq_len", args["max_seq_len"], meta["max_seq_len"])
    state = z.under("param/")
    model = fill(build(meta["params_json"], args, meta["vocab_size"]), state)
    _check_batches(case)
    model.train()
    _check_states(case, model, batch_of(z, "in/batch0", trim=False))
    _check_gradients(case, model, batch_of(z, "in/batch0"))
    scored = _check_scores(case, model, "eval")
    _check_accuracy(case, scored)
    _check_training(case, model)
    _check_scores(case, model, "eval_after")


def _check_batches(case: Case) -> None:
    """What batches hold besides our own: derived fields, and the same for the next."""
    z, meta = case.npz, case.json
    counts = {"in": meta["n_train_batches"], "eval/in": meta["n_val_batches"]}
    for folder, count in counts.items():
        found = {key.removeprefix(f"{folder}/").split("/")[0] for key in z
                 if key.startswith(f"{folder}/")}  # fmt: skip
        case.equal(f"{folder}: batches", found, {f"batch{i}" for i in range(count)})
        for i in range(count):
            part = z.under(f"{folder}/batch{i}/")
            size = len(part["video"])
            case.equal(f"{folder}/batch{i}: video", part["video"].ndim, 3)
            for name in ("video_len", "answer", "qtype"):  # read by the metric, or by nothing
                case.equal(f"{folder}/batch{i}/{name}", part[name].shape, (size,))
            start = part["video_start/vqa"]
            case.equal(f"{folder}/batch{i}/video_start/vaq", part["video_start/vaq"], start)
            for name in NAMES:
                if f"text_id/{name}" in part:
                    width = part[f"text_id/{name}"].shape[-1]
                    case.equal(f"{folder}/batch{i}/{name}", width, meta["max_seq_len"])
                if f"video_index/{name}" in part:
                    index = part[f"video_index/{name}"]
                    run = index[:, :1] + np.arange(part["video"].shape[1])
                    case.equal(f"{folder}/batch{i}/video_index/{name}", index, run)
            if "video_index/qav" in part:
                first = part["video_index/qav"][:, 0]
                case.equal(f"{folder}/batch{i}/video_start/qav", part["video_start/qav"], first)


# ---- states


def _check_states(case: Case, model: Model, batch: dict[str, Any]) -> None:
    """Inputs and outputs of layers, attention of the first, and what the losses are made of."""
    z, seen, hooks = case.npz, {}, []

    def watch(number: int) -> Any:
        def note(_: Any, inputs: tuple, outputs: tuple) -> None:
            if number == model.used[0]:
                seen["embed"], seen["places"] = inputs[:2]
            seen[f"layer{number}"] = outputs[0]

        return note

    for number in model.used:
        hooks.append(model.layers[number].register_forward_post_hook(watch(number)))
    outputs = model(batch)
    for hook in hooks:
        hook.remove()
    count = len(batch["video"])
    for name, first in outputs["first"].items():
        mine = slice(first, first + count)
        for key in [key for key in z if key.startswith(f"out/{name}/h_")]:
            close(case, key, seen[key.split("/h_")[1]][mine], z[key])
        _check_asked(case, model, batch, name, outputs["hidden"][mine], outputs["frames"])
    _check_attention(case, model, seen["embed"][:count], seen["places"])


def _check_asked(
    case: Case, model: Model, batch: dict, name: str, hidden: paddle.Tensor, frames: paddle.Tensor
) -> None:
    """Which tokens predict something, and what they say."""
    z, labels = case.npz, batch[f"{name}_labels"].numpy()[:, 0]
    if name == "qav":
        row, place, _ = objectives.before_frames(
            labels, batch["qav_start"].numpy(), frames.shape[1]
        )
    else:
        row, place, _ = objectives.asked(labels)
    key = f"out/{name}/label_pos"
    case.equal(key, np.column_stack([row, place]).astype(z[key].dtype), z[key])
    states = model.norm(paddle.to_tensor(hidden.numpy()[row, place]))
    if name == "qav":  # before they are divided
        found = objectives.frame_logits(states.reshape([*frames.shape[:2], -1]), frames, 1.0)
        found = found.flatten(0, 1)
    else:
        found = model.output(states)
    close(case, f"out/{name}/logits_at_label_pos", found, z[f"out/{name}/logits_at_label_pos"])


def _check_attention(case: Case, model: Model, x: paddle.Tensor, at: Any) -> None:
    """Weights of prompts and of text in the first layer of the rows for vqa."""
    z, layer, rows = case.npz, model.layers[model.used[0]], case.npz["out/vqa/attn0_rows"]
    places = SimpleNamespace(turns=at.turns, mask=at.mask, frames=at.frames,
                             after=at.after[: len(x)])  # fmt: skip
    q, (k, _) = layer.attention.project(layer.attention_norm(x), places)
    text = layer.attention.text_weights(q, k, places)
    adapter = layer.attention.adapter_weights(q, model.adapters()[model.used[0]][0])
    adapter = adapter.reshape([*text.shape[:3], -1])
    both = paddle.concat([adapter, text], -1).transpose([1, 0, 2, 3]).numpy()
    close(case, "out/vqa/attn0_probs", both[:, :, rows], z["out/vqa/attn0_probs"])


def _check_gradients(case: Case, model: Model, batch: dict[str, Any]) -> None:
    """Losses and gradients of a trimmed batch; the latter are cleared. Frozen weights have none."""
    z, terms = case.npz, model.loss(model(batch), batch)
    check_losses(case, terms, z.under("loss/"))
    terms["loss"].backward()
    golden = z.under("grad/")
    case.equal("grad: of which", {n for n, p in model.named_parameters() if p.grad is not None},
               set(golden))  # fmt: skip
    for name, parameter in model.named_parameters():
        if name in golden:
            ours = published(name, parameter.grad.numpy())
            case.close(f"grad/{name}", ours, golden[name], 1e-9, GRADIENT)
        parameter.clear_gradient(set_to_zero=False)


def check_losses(case: Case, terms: dict[str, Any], golden: Mapping[str, np.ndarray]) -> None:
    """Those of all objectives; one that is switched off is 0."""
    for name, value in golden.items():
        found = terms["loss"] if name == "total" else terms.get(name, 0.0)
        close(case, f"loss/{name}", float(found), value)


# ---- scores


def _check_scores(case: Case, model: Model, folder: str) -> list[np.ndarray]:
    """Losses of options' words and what follows from them; returns which questions are right."""
    z, right = case.npz, []
    model.eval()
    for number in range(case.json["n_val_batches"]):
        batch, key = batch_of(z, f"eval/in/batch{number}"), f"{folder}/out/batch{number}"
        few = len(batch["video"]) <= case.json["eval_batch_size"]
        case.equal(f"{folder}: eval_batch_size", few, True)
        check_records(case, model, batch, key)
        right.append(z[f"{key}/pred"] == z[f"eval/in/batch{number}/answer"])
        if number == 0:
            check_option_losses(case, model, batch, f"{folder}/out")
    return right


def check_records(case: Case, model: Model, batch: dict[str, Any], key: str) -> None:
    """Scores and chosen options of all questions."""
    z, records = case.npz, model.predict(batch)
    close(case, f"{key}/score", [record["scores"] for record in records], z[f"{key}/score"])
    case.equal(f"{key}/pred", [record["answer"] for record in records], z[f"{key}/pred"].tolist())


def check_option_losses(case: Case, model: Model, batch: dict[str, Any], key: str) -> None:
    """Of every word of all options, 0 where none is asked for."""
    z = case.npz
    with paddle.no_grad():
        losses, plan = model.option_losses(batch)
    counts = z[f"{key}/count"]
    found = np.zeros((*counts.shape, case.json["max_seq_len"] - 1), np.float32)
    found[tuple(plan.cells.T)] = losses
    case.equal(f"{key}/count", (found != 0).sum(-1), counts)
    if f"{key}/nll" in z:
        close(case, f"{key}/nll", found, z[f"{key}/nll"])


def _check_accuracy(case: Case, right: list[np.ndarray]) -> None:
    """The published meters: shares of right answers, of all and of groups of types."""
    golden = case.json["val_stats_before_training"]
    case.equal("val_stats: lr", golden["lr"], 0.0)  # nothing has set it
    right = np.concatenate(right)
    kinds = np.concatenate([case.npz[f"eval/in/batch{i}/qtype"]
                            for i in range(case.json["n_val_batches"])])  # fmt: skip
    groups = {"C": (1, 2), "T": (3, 4, 5), "D": (6, 7, 8), "In": (1,), "Seq": (2,), "Pre": (3,),
              "Feas": (4,), "Total": range(-1, 9), "acc": range(-1, 9)}  # fmt: skip
    for name in golden:
        if name != "lr":
            chosen = right[np.isin(kinds, list(groups[name]))]
            share = chosen.sum() / max(1, len(chosen))
            case.close(f"val_stats: {name}", share, golden[name], 1e-9)


# ---- training


class Recipe:
    """The published recipe by the engine, over a number of batches given one by one."""

    def __init__(self, model: Model, args: Tracked, batches: int):
        defaults = {key: entry["default"] for key, entry in config.schema()["TRAIN"].items()}
        self.recipe = SimpleNamespace(**defaults | {
            "optimizer": "adamw", "adam_eps_mode": "standard", "beta1": 0.9, "beta2": 0.95,
            "epsilon": 1e-8, "weight_decay": args["weight_decay"], "learning_rate": args["lr"],
            "min_learning_rate": args["min_lr"], "schedule": "cosine", "rate_of": "epoch",
            "epoch": args["epochs"], "leftovers": False, "accumulate": args["accum_iter"],
            "warmup": args["warmup_epochs"] / args["epochs"],
        })  # fmt: skip
        self.parameters = [p for p in model.parameters() if not p.stop_gradient]
        self.rates = optim.Rates(model, self.recipe)
        self.optimizer = optim.build(model, self.recipe, self.rates)
        self.batches = batches
        self.plan = loader.plan(range(batches), 1, accumulate=args["accum_iter"], leftovers=False)

    def rate(self, epoch: float) -> float:
        """What the rate is set to at a point of training."""
        return optim.learning_rate(epoch, self.recipe.epoch, self.recipe)

    def step(self, epoch: float) -> tuple[float, float]:
        """A step on the gradients, which are cleared; returns their norm and the rate."""
        norm = optim.clip_gradients(self.parameters, float("inf"))
        self.rates.set(self.optimizer, epoch, self.recipe.epoch)
        self.optimizer.step()
        self.optimizer.clear_grad(set_to_zero=False)
        return norm, self.optimizer.get_lr()


def _check_training(case: Case, model: Model) -> None:
    """All epochs over the batches in their order."""
    z, args, count = case.npz, case.json["args"], case.json["n_train_batches"]
    peak = args["blr"] * args["batch_size"] * args["accum_iter"] / 256
    case.close("args: lr", args["lr"], peak, 1e-12)
    batches = [batch_of(z, f"in/batch{i}") for i in range(count)]
    recipe = Recipe(model, args, count)
    sizes = {len(batch["video"]) for batch in batches}
    case.equal("args: batch_size", max(sizes), args["batch_size"])
    model.train()
    losses, steps = [], 0
    for epoch in range(args["epochs"]):
        for n, batch in enumerate(batches):
            terms = model.loss(model(batch), batch)
            losses.append([float(terms.get(name, 0.0)) for name in ("loss", *NAMES)])
            if n < len(recipe.plan):  # the rest of the epoch is left over
                (terms["loss"] * recipe.plan[n].weight).backward()
                if recipe.plan[n].last:
                    mean = np.mean([x[0] for x in losses[-args["accum_iter"] :]])
                    found = mean, *recipe.step(epoch + recipe.plan[n].begin)
                    for name, value in zip(("loss", "grad_norm", "lr"), found, strict=True):
                        key = f"step/{steps}/{name}"
                        case.close(key, value, z[key], 1e-5 if name != "lr" else 1e-9, 1e-6)
                    steps += 1
        _check_epoch(case, recipe, epoch, np.array(losses[-count:]))
        if z.under(f"after_epoch{epoch}/"):
            check_after(case, model, f"after_epoch{epoch}")
    found = np.array(losses)
    close(case, "iter/total_loss", found[:, 0], z["iter/total_loss"])
    close(case, "iter/losses_vqa_vaq_qav", found[:, 1:], z["iter/losses_vqa_vaq_qav"])
    case.equal("steps", steps, len({key.split("/")[1] for key in z if key.startswith("step/")}))
    check_after(case, model, "after")


def _check_epoch(case: Case, recipe: Recipe, epoch: int, losses: np.ndarray) -> None:
    """Means over the batches of an epoch."""
    golden, accumulate = case.json["train_epoch_stats"][epoch], recipe.recipe.accumulate
    begins = np.arange(recipe.batches) // accumulate * accumulate / recipe.batches
    rate = np.mean([recipe.rate(epoch + begin) for begin in begins])
    case.close(f"train_epoch_stats[{epoch}]: lr", rate, golden["lr"], 1e-12)
    names = ("loss", *(f"{name}_loss" for name in NAMES))
    for name, value in zip(names, losses.mean(0), strict=True):
        close(case, f"train_epoch_stats[{epoch}]: {name}", value, golden[name])


def check_after(case: Case, model: Model, folder: str) -> None:
    """Trained parameters."""
    z, own = case.npz, dict(model.named_parameters())
    names = [n for n in own if model.own(n)]
    golden = z.under(f"{folder}/")
    if folder == "after":
        case.equal(f"{folder}: of which", set(golden), set(names))
    for name, array in golden.items():
        difference = np.abs(published(name, own[name].numpy()) - array)
        case.close(f"{folder}/{name}", difference, 0 * difference, AFTER[1])
        share = (difference > AFTER[0]).mean()
        case.equal(f"{folder}/{name}: beyond {AFTER[0]}", bool(share <= 1e-3), True)


CHECKS = {"model": check_model}
