# SPDX-License-Identifier: Apache-2.0
"""MCG as published against MCG as built: same answers, less work; and what recomputing saves.

The published evaluation encodes a video for every question about it, and in every step of the
search projects what the decoder reads anew, once for each hypothesis. Run as a script this measures
training steps in a process of their own, so that each way has its own peak memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

_QUESTIONS = 24  # about a video of MSRVTT-QA
_ASKED = 1  # of them, the published way
_WORDS = 12  # of a question
_SEEN = 8  # frames of that video, as for MSVD-QA
_VIDEOS, _FRAMES = 1, 8  # of a training step


class Repeated:
    """A search's step that projects the memory of every hypothesis anew for every word."""

    def __init__(self, decoder: Any, fused: Any, beams: int):
        import paddle

        self.decoder, self.beams, self.past = decoder, beams, None
        self.fused = paddle.concat([fused] * beams)

    def __call__(self, tokens: np.ndarray, samples: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """See ``models/layers/beams.py``; of one sample."""
        import paddle

        count = tokens.shape[1]
        tokens, parents = (np.resize(x, self.beams) for x in (tokens, parents))
        if self.past is not None:
            rows = paddle.to_tensor(parents)
            self.past = [tuple(paddle.gather(x, rows) for x in pair) for pair in self.past]
        ids = paddle.to_tensor(tokens.reshape(-1, 1, 1))
        hidden, self.past = self.decoder(ids, self.decoder.memory(self.fused), self.past)
        scores = self.decoder.words(hidden[:, 0, 0]).numpy()[None, :count]
        scores = scores - scores.max(-1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def asked(model: Any) -> dict[str, Any]:
    """A random video with questions about it."""
    from engine import loader

    batch, rng = model.example_batch(1), np.random.default_rng(1)
    words = model.text_encoder.embeddings.word_embeddings.weight.shape[0]
    ids = np.zeros((_QUESTIONS, batch["ids"].shape[1]), np.int64)
    ids[:, :_WORDS] = rng.integers(5, words - 2, (_QUESTIONS, _WORDS))
    tokens = ["[PAD]", "[SEP]", *map(str, range(2, words - 2)), "[DEC]", "[ENC]"]
    return loader.to_tensors({
        "id": [str(n) for n in range(_QUESTIONS)], "tokens": tokens, "ids": ids,
        "mask": (ids > 0).astype(np.float32), "video": np.zeros(_QUESTIONS, np.int64),
        "frames": batch["frames"].astype(np.uint8),
    })  # fmt: skip


def one_by_one(model: Any, batch: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Records of the first questions, each with its video encoded for itself."""
    records, decoder, beams = [], model.text_decoder, model.beams["size"]
    kept = decoder.steps
    decoder.steps = lambda fused: Repeated(decoder, fused, beams)
    try:
        for n in range(count):
            rows = {key: batch[key][n : n + 1] for key in ("id", "ids", "mask", "video")}
            records += model.predict(batch | rows)
    finally:
        decoder.steps = kept
    return records


def answering(cfg: Any) -> dict[str, Any]:
    """All questions about a video together, and one after the other as published."""
    import paddle

    model = _network(cfg["MODEL"], num_frm=_SEEN)
    model.eval()
    batch = asked(model)
    with paddle.no_grad():
        start = time.perf_counter()
        ours = model.predict(batch)
        fast = (time.perf_counter() - start) / _QUESTIONS
        start = time.perf_counter()
        published = one_by_one(model, batch, _ASKED)
        slow = (time.perf_counter() - start) / _ASKED
    pairs = list(zip(published, ours, strict=False))
    return {
        "frames of the video": _SEEN,
        "questions about it": _QUESTIONS,
        "asked one by one, as published": _ASKED,
        "published: s a question": slow,
        "ours: s a question": fast,
        "times faster": slow / fast,
        "equal answers": all(a["answer"] == b["answer"] for a, b in pairs),
        "largest difference of scores": max(abs(a["score"] - b["score"]) for a, b in pairs),
    }


def _network(given: dict[str, Any], **options: Any) -> Any:
    """The network for questions of a MODEL section, with some options changed."""
    import paddle

    from engine import build

    given = {key: value for key, value in given.items() if key not in ("name", "task")}
    paddle.seed(0)
    return build.model_class("mcg")(**given | options)


def recomputing(cfg: Any) -> dict[str, Any]:
    """A training step with and without keeping what the video encoder computes."""
    from tools.benchmark import matrix_rate

    given = json.dumps([cfg["MODEL"], vars(cfg.engine_args("TRAIN"))])
    found = {}
    for way in ("kept", "recomputed"):
        command = [sys.executable, __file__, way, given]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
    rate = matrix_rate()
    shown: dict[str, Any] = {"videos": _VIDEOS, "frames of a video": _FRAMES}
    for way, figures in found.items():
        shown[f"{way}: samples/s"] = _VIDEOS / figures["seconds"]
        shown[f"{way}: peak memory, GB"] = figures["memory"]
        shown[f"{way}: share of the matrix rate"] = figures["flops"] / figures["seconds"] / rate
    losses = [figures["loss"] for figures in found.values()]
    shown["relative difference of losses"] = abs(losses[0] - losses[1]) / losses[0]
    return shown


def measure(given: dict[str, Any], recipe: dict[str, Any], recompute: bool) -> dict[str, float]:
    """Loss, seconds, peak memory and operations of a training step, the second of two.

    The operations are those of a network that learns everywhere and computes nothing twice.
    """
    from engine.loop import Trainer, peak_memory

    options = {"num_frm": _FRAMES, "dropout": 0.0, "drop_path_rate": 0.0, "recompute": recompute}
    model = _network(given, **options)
    model.train()
    trainer, batch = Trainer(model, None, SimpleNamespace(**recipe)), model.example_batch(_VIDEOS)
    trainer.step_on(batch)
    start = time.perf_counter()
    loss = trainer.step_on(batch)["loss"]
    return {
        "loss": loss, "seconds": time.perf_counter() - start, "memory": peak_memory() / 2**30,
        "flops": 3 * model.flops(batch),
    }  # fmt: skip


COMPARISONS = {
    "Questions about one video together, and one by one as published": answering,
    "Training with and without recomputing the video encoder": recomputing,
}


def main() -> None:
    """Measure one way and print JSON."""
    from engine import runtime

    way, given = sys.argv[1:]
    runtime.prepare()
    runtime.import_paddle()
    model, recipe = json.loads(given)
    runtime.select_device(recipe["use_gpu"])
    print(json.dumps(measure(model, recipe, way == "recomputed")))


if __name__ == "__main__":
    main()
