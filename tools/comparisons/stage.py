# SPDX-License-Identifier: Apache-2.0
"""STAGE as published against STAGE as built: same numbers, less work.

The published graph repeats the question for every frame, encodes and attends the subtitles of every
frame although neighbours show the same ones, and concatenates [question; context; product]. Run as
a script it measures one of both ways, so that each has the peak memory of a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

_SAMPLES = 8  # the batch at which the published code was measured


def tiled(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with one piece of subtitles per frame, as published."""
    index = batch["sub_index"]
    rows = np.arange(len(index))[:, None]
    pieces = {key: batch[key][rows, index] for key in ("sub_bert", "sub_mask")}
    return {key: value for key, value in batch.items() if key != "sub_index"} | pieces


def prepare(cfg: Any, published: bool, dropout: float) -> tuple[Any, Any, Callable]:
    """A network, a batch and a function that makes a training step: () -> loss, gradient norm."""
    from engine import build, loader, optim

    cfg["MODEL"]["dropout"] = dropout
    recipe, model = cfg.engine_args("TRAIN"), build.model(cfg)
    arrays = model.example_batch(_SAMPLES)
    batch = loader.to_tensors(tiled(arrays) if published else arrays)
    optimizer = optim.build(model, recipe)

    def step() -> tuple[float, float]:
        loss = model.loss(model(batch), batch)["loss"]
        loss.backward()
        norm = optim.clip_gradients(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        return float(loss), norm

    return model, batch, step


def measure(cfg: Any, published: bool, repeats: int) -> dict[str, Any]:
    """Loss and gradient norm without dropout; seconds and memory with the configured one."""
    import paddle

    from engine.loop import peak_memory
    from tools.benchmark import best

    dropout = cfg["MODEL"].get("dropout", 0.1)
    model, batch, step = prepare(cfg, published, 0.0)
    with model.plain_operators() if published else contextlib.nullcontext():
        numbers = step()
        model, batch, step = prepare(cfg, published, dropout)
        train, memory = best(step, repeats), peak_memory() / 2**30
        model.eval()
        with paddle.no_grad():
            infer = best(lambda: model(batch)["answer_scores"].numpy(), repeats)
    return {"numbers": numbers, "train": train, "infer": infer, "memory": memory}


def tiling(cfg: Any, repeats: int = 3) -> dict[str, float]:
    """A training step and inference at the published sizes, as published and as built."""
    sections = {name: dict(cfg[name]) for name in ("MODEL", "TRAIN")}
    found = {}
    for way in ("published", "ours"):
        command = [sys.executable, __file__, way, json.dumps(sections), str(repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
    slow, fast = found["published"], found["ours"]
    return {
        "samples": _SAMPLES,
        "published graph: train, samples/s": _SAMPLES / slow["train"],
        "ours: train, samples/s": _SAMPLES / fast["train"],
        "train step, times faster": slow["train"] / fast["train"],
        "published graph: inference, samples/s": _SAMPLES / slow["infer"],
        "ours: inference, samples/s": _SAMPLES / fast["infer"],
        "inference, times faster": slow["infer"] / fast["infer"],
        "published graph: peak memory, GB": slow["memory"],
        "ours: peak memory, GB": fast["memory"],
        "largest relative difference of loss and gradient norm": max(
            abs(a - b) / a for a, b in zip(slow["numbers"], fast["numbers"], strict=True)
        ),
    }


class Uncached:
    """A search's step that computes everything anew for every token."""

    def __init__(self, decoder: Any, memory: Any, copy_ids: Any):
        self.decoder, self.memory, self.copy_ids = decoder, memory, copy_ids
        self.prefixes: np.ndarray | None = None  # (n, k, tokens so far)

    def __call__(self, tokens: np.ndarray, samples: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """See ``models/stage/search.py``."""
        import paddle

        if self.prefixes is None:
            self.prefixes = tokens[:, :, None]
        else:
            before = self.prefixes[samples[:, None], parents]
            self.prefixes = np.concatenate([before, tokens[:, :, None]], -1)
        if len(samples) < self.memory.mask.shape[0]:
            rows = paddle.to_tensor(samples)
            kept = {key: paddle.gather(getattr(self.memory, key), rows)
                    for key in ("tokens", "mask")}  # fmt: skip
            self.memory = self.memory._replace(**kept)
            self.copy_ids = paddle.gather(self.copy_ids, rows)
        source = self.decoder.source(self.memory, self.copy_ids)
        return self.decoder(paddle.to_tensor(self.prefixes), source)[:, :, -1].numpy()


def beam(cfg: Any, samples: int = 16, words: int = 5000, length: int = 10) -> dict[str, Any]:
    """Beam search for answers of ``length`` tokens with and without the cache."""
    import paddle

    from engine import build, loader
    from tools.benchmark import best

    with tempfile.TemporaryDirectory() as folder:
        vocabulary = [str(n) for n in range(words)]
        path = Path(folder) / "vocabulary.json"
        path.write_text(json.dumps(vocabulary))
        given = dict(cfg["MODEL"])
        cfg["MODEL"].update(answer_vocab=str(path), max_answer_len=length)
        model = build.model(cfg)
        cfg["MODEL"].clear()
        cfg["MODEL"].update(given)
    model.eval()
    never = np.zeros(words, np.float32)
    never[3] = -1e4  # the end of an answer
    model.decoder.out_bias.set_value(never)
    batch = loader.to_tensors(model.example_batch(samples)) | {"vocabulary": vocabulary}
    with paddle.no_grad():
        outputs = model(batch)
        cached = model.texts(outputs, batch)
        fast = best(lambda: model.texts(outputs, batch), 3)
        decoder, ids = model.decoder, batch["copy_ids"]
        decoder.steps = lambda _: Uncached(decoder, outputs["memory"], ids)
        plain = model.texts(outputs, batch)
        slow = best(lambda: model.texts(outputs, batch), 2)
    return {
        "questions": samples,
        "beams": model.beam["size"],
        "tokens of an answer": length,
        "without cache, s": slow,
        "with cache, s": fast,
        "times faster": slow / fast,
        "equal answers": cached["answer"] == plain["answer"],
        "largest difference of scores": float(
            np.abs(np.subtract(cached["answer_logp"], plain["answer_logp"])).max()
        ),
    }


COMPARISONS = {
    "Questions tiled over frames (published graph) and not": tiling,
    "Generated answers: beam search with and without cache": beam,
}


def main() -> None:
    """Measure one way and print JSON."""
    from engine import config, runtime

    way, sections, repeats = sys.argv[1:]
    runtime.prepare()
    runtime.import_paddle()
    cfg = config.load(ROOT / "configs" / "stage.yaml")
    for name, values in json.loads(sections).items():
        cfg[name].update(values)
    runtime.select_device(cfg["TRAIN"]["use_gpu"])
    print(json.dumps(measure(cfg, way == "published", int(repeats))))


if __name__ == "__main__":
    main()
