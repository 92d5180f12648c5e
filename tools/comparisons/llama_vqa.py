# SPDX-License-Identifier: Apache-2.0
"""LLaMA-VQA as published against LLaMA-VQA as built: same numbers, less work.

The published code reads every row to its full length, the three objectives of training one after
the other and every option of a question for itself, and asks for all words at all places. Sizes
are reduced so that both ways take about a minute on two cores; rows are as long as those of
NExT-QA.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

SIZES = {
    "dim": 512, "num_layers": 8, "num_heads": 8, "multiple_of": 256, "vocab_size": 32000,
    "dtype": "float32",
}  # fmt: skip
_LENGTH = 128  # of published rows
_OPTIONS = 5
_QUESTIONS, _SAMPLES = 4, 2
_TIMES = 3  # of either way, of which the faster counts


def network(cfg: Any, **options: Any) -> Any:
    """A network of the sizes above with gates that are open; further options as configured."""
    import paddle

    from engine import build

    kept = ("max_feats", "adapter_len", "visual_dim", "bias", "tau")
    given = {key: value for key, value in cfg["MODEL"].items() if key in kept}
    paddle.seed(0)
    model = build.model_class("llama_vqa")(**given | SIZES | options)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        gate = layer.attention.gate1
        gate.set_value(rng.uniform(-1, 1, gate.shape).astype(np.float32))
    return model


def padded(batch: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The batch with rows of the published length."""
    def longer(rows: np.ndarray, value: int) -> np.ndarray:
        return np.pad(rows, ((0, 0), (0, 0), (0, _LENGTH - rows.shape[-1])), constant_values=value)

    ids = {f"{name}_ids": longer(batch[f"{name}_ids"], 0) for name in names}
    return batch | ids | {
        f"{name}_labels": longer(batch[f"{name}_labels"], -1 if name == "qav" else 0)
        for name in names
    }  # fmt: skip


def asked(model: Any) -> dict[str, Any]:
    """Random questions with five options, which differ in the third label from the end."""
    batch = model.example_batch(_QUESTIONS)
    ids, labels = (np.repeat(batch[f"vqa_{part}"], _OPTIONS, 1) for part in ("ids", "labels"))
    letter = ids.shape[-1] - 3
    for rows in (ids, labels):
        rows[:, :, letter] = np.arange(3, 3 + _OPTIONS)
    names = [str(number) for number in range(_QUESTIONS)]
    return batch | {"vqa_ids": ids, "vqa_labels": labels, "id": names}


def full_pass(model: Any, batch: dict[str, Any], name: str, option: int = 0) -> tuple[Any, Any]:
    """Last states (B, L, D), normed, of one row of every sample, and the projected frames."""
    ids = batch[f"{name}_ids"][:, option].numpy()
    frames, video = model.video(batch["video"])
    start = batch["qav_start" if name == "qav" else "video_start"].numpy()
    positions = np.arange(ids.shape[1])[None]
    at = model.places(batch, positions, weighted=name != "qav")
    x = model.embed(ids, positions, start, video, np.arange(len(ids)))
    return model.norm(model.decode(x, at)[0]), frames


def all_words(model: Any, states: Any, labels: Any) -> Any:
    """Losses (B, L - 1) from the logits of all words at all places; 0 where none is asked for."""
    import paddle.nn.functional as F

    logits, right = model.output(states)[:, :-1], labels[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), right.flatten(), reduction="none")
    return losses.reshape(right.shape) * (right != 0).astype("float32")


def option_by_option(model: Any, batch: dict[str, Any]) -> np.ndarray:
    """Scores (B, K), one pass over full rows for each option."""
    found = []
    for option in range(_OPTIONS):
        model.eval()  # forgets the prompts' keys and values
        states, _ = full_pass(model, batch, "vqa", option)
        losses = all_words(model, states, batch["vqa_labels"][:, option]).numpy()
        found.append(losses.sum(1) / (losses != 0).sum(1))
    return np.stack(found, 1)


def answering(cfg: Any) -> dict[str, Any]:
    """Questions with five options, both ways."""
    import paddle

    from engine import loader

    model = network(cfg)
    model.eval()
    ours = asked(model)
    full = loader.to_tensors(padded(ours, ["vqa"]))
    ours = loader.to_tensors(ours)
    with paddle.no_grad():
        fast, records = _best(lambda: model.predict(ours))
        slow, scores = _best(lambda: option_by_option(model, full))
    difference = np.abs(np.stack([record["scores"] for record in records]) - scores)
    return _sizes() | {
        "questions": _QUESTIONS,
        "options of a question": _OPTIONS,
        "published: questions/s": _QUESTIONS / slow,
        "ours: questions/s": _QUESTIONS / fast,
        "times faster": slow / fast,
        "largest difference of scores": float(difference.max()),
    }


def one_by_one(model: Any, batch: dict[str, Any]) -> dict[str, float]:
    """Losses of a training step by one pass over full rows for each objective; with gradients."""
    import paddle
    import paddle.nn.functional as F

    terms = {}
    for name in model.objectives:
        states, frames = full_pass(model, batch, name)
        labels = batch[f"{name}_labels"][:, 0]
        if name == "qav":
            logits = paddle.matmul(states, frames, transpose_y=True)[:, :-1] / model.tau
            right = labels[:, 1:].flatten()
            chosen = (right >= 0).astype("float32")
            losses = F.cross_entropy(
                logits.flatten(0, 1), paddle.clip(right, 0), reduction="none"
            ).flatten() * chosen
            terms[name] = losses.sum() / chosen.sum()
        else:
            losses = all_words(model, states, labels)
            terms[name] = losses.sum() / (labels[:, 1:] != 0).astype("float32").sum()
    sum(terms.values()).backward()
    return {name: float(value) for name, value in terms.items()}


def together(model: Any, batch: dict[str, Any]) -> dict[str, float]:
    """Losses of a training step as we do it, with gradients."""
    terms = model.loss(model(batch), batch)
    terms["loss"].backward()
    return {name: float(value) for name, value in terms.items() if name != "loss"}


def training(cfg: Any) -> dict[str, Any]:
    """Losses and gradients of a training step with three objectives, both ways."""
    from engine import loader

    model = network(cfg, vaq=True, qav=True)
    model.train()
    ours = model.example_batch(_SAMPLES)
    full = loader.to_tensors(padded(ours, model.objectives))
    ours = loader.to_tensors(ours)

    def cleared(way: Any, batch: dict[str, Any]) -> dict[str, float]:
        model.clear_gradients()
        return way(model, batch)

    fast, found = _best(lambda: cleared(together, ours))
    gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    slow, published = _best(lambda: cleared(one_by_one, full))
    parameters = dict(model.named_parameters())
    off = [np.abs(g - parameters[n].grad.numpy()).max() / np.abs(g).max()
           for n, g in gradients.items()]  # fmt: skip
    return _sizes() | {
        "samples": _SAMPLES,
        "published: s a step": slow,
        "ours: s a step": fast,
        "times faster": slow / fast,
        "largest difference of losses": max(abs(found[n] - published[n]) for n in published),
        "largest relative difference of gradients": float(max(off)),
    }


def _sizes() -> dict[str, Any]:
    return {"network": ", ".join(f"{k} {v}" for k, v in SIZES.items()), "published row": _LENGTH}


def _best(way: Any) -> tuple[float, Any]:
    """Seconds of the fastest of some calls, and what the last gave."""
    seconds = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        found = way()
        seconds.append(time.perf_counter() - start)
    return min(seconds), found


COMPARISONS = {
    "Five options of a question by one shared pass, and one by one as published": answering,
    "Three objectives in one pass over trimmed rows, and one by one as published": training,
}
