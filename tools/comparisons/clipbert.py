# SPDX-License-Identifier: Apache-2.0
"""ClipBERT as published against ClipBERT as built: same numbers, less work.

The published evaluation takes a question and its video at a time, encodes the video's frames anew
and reads its clips one after the other, with padding; the published training step loops over clips
as well. Run as a script it measures one of both ways, so that each has the peak memory of a process
of its own. The network has its configured size; frames and questions are few.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

_RATIO = 120  # questions of a video of ANetQA
_CLIPS, _WORDS = 16, 40  # of its evaluation: clips of one frame, word pieces with padding
_QUESTIONS = {"published": 1, "ours": 4}  # that are timed
_TRAIN_SIDE = 224  # pixels of a frame in the training step; evaluation has the configured ones


def evaluation_batch(model: Any, questions: int) -> dict[str, Any]:
    """Questions of 10 to 24 word pieces about one video."""
    rng, side = np.random.default_rng(0), model.pictures["side"]
    mask = np.arange(_WORDS) < rng.integers(10, 25, (questions, 1))
    words = model.transformer.bert.embeddings.word_embeddings.weight.shape[0]
    return {
        "frames": rng.integers(0, 256, (1, _CLIPS, 3, side, side), np.uint8),
        "num_frm": 1,
        "ids": rng.integers(1, words, mask.shape) * mask,
        "mask": mask.astype(np.float32),
        "video": np.zeros(questions, np.int64),
    }


def published_scores(model: Any, batch: dict[str, Any]) -> Any:
    """Scores (R, C) by the published graph: clip after clip, the last layer for all positions."""
    import paddle

    bert, clips = model.transformer.bert, []
    for first in range(0, batch["frames"].shape[1], batch["num_frm"]):
        frames = batch["frames"][:, first : first + batch["num_frm"]]
        visual = model.embed(model.grid(batch | {"frames": frames})).squeeze(1)
        visual = paddle.gather(visual, batch["video"])
        hidden = bert(batch["ids"], batch["mask"], visual)
        clips.append(model.transformer.classifier(bert.pooler(hidden)))
    return paddle.stack(clips).mean(0)


def each_question(model: Any, batch: dict[str, Any], questions: int) -> np.ndarray:
    """The published evaluation: a question with its video at a time."""
    found = []
    for row in range(questions):
        alone = {key: batch[key][row : row + 1] for key in ("ids", "mask", "video")}
        found.append(published_scores(model, batch | alone).numpy())
    return np.concatenate(found)


def timed(function: Any) -> tuple[float, Any]:
    """Seconds of a call, and what it gives."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def evaluation(model: Any, published: bool) -> dict[str, Any]:
    """Seconds of a video's frames and of a question; pixels a side, scores of one question."""
    import paddle

    from engine import loader

    count = _QUESTIONS["published" if published else "ours"]
    batch = loader.to_tensors(evaluation_batch(model, _QUESTIONS["ours"]))
    one_clip = batch | {"frames": batch["frames"][:, :1]}
    model.eval()
    with paddle.no_grad():
        model(one_clip)["scores"].numpy()  # warm-up
        if published:
            seconds, scores = timed(lambda: each_question(model, batch, count))
            return {"question": seconds / count, "scores": scores[0].tolist()}
        frames, grid = timed(lambda: model.grid(batch).numpy())
        visual = model.embed(paddle.to_tensor(grid))
        seconds, scores = timed(lambda: model.read(visual, batch)["scores"].numpy())
    return {
        "frames": frames, "question": seconds / count, "scores": scores[0].tolist(),
        "side": model.pictures["side"],
    }  # fmt: skip


def training(cfg: Any, published: bool, repeats: int = 2) -> dict[str, Any]:
    """Seconds of a training step on one question with 2 clips of 2 frames, its loss and memory."""
    from engine import build, loader, optim
    from engine.loop import peak_memory
    from tools.benchmark import best

    cfg["MODEL"].update(max_img_size=_TRAIN_SIDE, dropout=0.0)
    recipe, model = cfg.engine_args("TRAIN"), build.model(cfg)
    batch = model.example_batch(1)
    batch = loader.to_tensors(batch | {"frames": batch["frames"][:, :4]})
    plan = optim.Rates(model, recipe)
    optimizer = optim.build(model, recipe, plan)
    model.train()

    def step() -> tuple[float, float]:
        scores = published_scores(model, batch) if published else model(batch)["scores"]
        loss = model.loss({"scores": scores}, batch)["loss"]
        loss.backward()
        norm = optim.clip_gradients(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        return float(loss), norm

    with model.plain_operators() if published else contextlib.nullcontext():
        numbers = step()
        seconds = best(step, repeats)
    return {"numbers": numbers, "train": seconds, "memory": peak_memory() / 2**30}


def compare(cfg: Any) -> dict[str, Any]:
    """Evaluation and a training step, as published and as built."""
    sections, found = {name: dict(cfg[name]) for name in ("MODEL", "TRAIN")}, {}
    for way in ("published", "ours"):
        command = [sys.executable, __file__, way, json.dumps(sections)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
    slow, fast = found["published"], found["ours"]
    frames, question = fast["frames"], fast["question"]
    per_question = frames / _RATIO + question
    scores = [np.array(found[way]["scores"]) for way in ("published", "ours")]
    return {
        "evaluation: clips of one frame, pixels a side": f"{_CLIPS}, {fast['side']}",
        "published: frames and clips of a question, s": slow["question"],
        "ours: frames of a video, s": frames,
        f"ours: clips of a question ({_QUESTIONS['ours']} timed), s": question,
        f"ours: a question at {_RATIO} a video, from both, s": per_question,
        "evaluation, times faster": slow["question"] / per_question,
        "largest difference of scores, relative": float(
            np.abs(scores[0] - scores[1]).max() / np.abs(scores[0]).max()
        ),
        "training: clips x frames, pixels a side": f"2 x 2, {_TRAIN_SIDE}",
        "published graph: train, samples/s": 1 / slow["train"],
        "ours: train, samples/s": 1 / fast["train"],
        "train step, times faster": slow["train"] / fast["train"],
        "published graph: peak memory, GB": slow["memory"],
        "ours: peak memory, GB": fast["memory"],
        "largest relative difference of loss and gradient norm": max(
            abs(a - b) / a for a, b in zip(slow["numbers"], fast["numbers"], strict=True)
        ),
    }  # fmt: skip


COMPARISONS = {"Frames encoded per question, clips looped (as published) and not": compare}


def main() -> None:
    """Measure one way and print JSON."""
    from engine import build, config, runtime

    way, sections = sys.argv[1:]
    runtime.prepare()
    runtime.import_paddle()
    cfg = config.load(ROOT / "configs" / "clipbert.yaml")
    for name, values in json.loads(sections).items():
        cfg[name].update(values)
    runtime.select_device(cfg["TRAIN"]["use_gpu"])
    published, model = way == "published", dict(cfg["MODEL"])
    found = training(cfg, published)
    cfg["MODEL"].update(model)
    print(json.dumps(found | evaluation(build.model(cfg), published)))


if __name__ == "__main__":
    main()
