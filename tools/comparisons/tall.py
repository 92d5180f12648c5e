# SPDX-License-Identifier: Apache-2.0
"""TALL as published against TALL as built: same numbers, less work.

Run as a script it measures the published training step alone, under whatever settings of Paddle the
environment has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

_VIDEOS, _WINDOWS, _SENTENCES = 127, 161_396, 10_146  # TACoS
_LENGTHS = (64, 128, 256, 512)


def published_forward(model: Any, batch: dict) -> Any:
    """The published graph: the full tensor of pairs through two 1x1 convolutions, (3, Q, T)."""
    import paddle
    import paddle.nn.functional as F

    v, s = model.embed(batch["visual"], batch["sentence"])
    shape = [s.shape[0], v.shape[0], v.shape[1]]
    vv, ss = v.unsqueeze(0).expand(shape), s.unsqueeze(1).expand(shape)
    pairs = paddle.concat([vv * ss, vv + ss, vv, ss], axis=2)  # (Q, T, 4S)
    hidden = F.relu(F.conv2d(pairs.unsqueeze(0).transpose([0, 3, 1, 2]), model.mid_out_weights))
    return F.conv2d(hidden, model.sim_mat_weights)[0]


def _measure(model: Any, recipe: Any, forward: Any, repeats: int = 12) -> tuple[list[float], float]:
    """First three losses, and the seconds of an optimiser step."""
    from engine import loader, optim
    from tools.benchmark import best

    batch = loader.to_tensors(model.example_batch(recipe.batch_size))
    optimizer = optim.build(model, recipe)

    def step() -> float:
        loss = model.loss(forward(batch), batch)["loss"]
        loss.backward()
        optim.clip_gradients(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        return float(loss)

    return [step() for _ in range(3)], best(step, repeats)


def training_step(cfg: Any) -> dict[str, float]:
    """One optimiser step at the configured sizes."""
    from engine import build

    recipe = cfg.engine_args("TRAIN")
    model = build.model(cfg)
    published, slow = _measure(model, recipe, lambda batch: published_forward(model, batch))
    fresh = build.model(cfg)
    ours, fast = _measure(fresh, recipe, fresh)
    stock = _stock_seconds(cfg)
    return {
        "published graph, Paddle as it ships, s": stock,
        "published graph, our runtime settings, s": slow,
        "ours, s": fast,
        "faster than as it ships": stock / fast,
        "faster than same settings": slow / fast,
        "largest difference of 3 losses": max(
            abs(a - b) for a, b in zip(published, ours, strict=True)
        ),
    }


def _stock_seconds(cfg: Any) -> float:
    """The published step in a process of its own with Paddle's default settings."""
    ours = ("OMP_NUM_THREADS", "FLAGS_use_stride_kernel", "MKL_DEBUG_CPU_TYPE")
    env = {k: v for k, v in os.environ.items() if k not in ours}
    sizes = {k: v for k, v in cfg["MODEL"].items() if k != "name"}
    command = [sys.executable, __file__, json.dumps(sizes), json.dumps(cfg["TRAIN"])]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def evaluation(
    cfg: Any, windows: int = 634, sentences: int = 32, pairs: int = 40
) -> dict[str, float]:
    """All windows of a video of mean length against its sentences, and one pair per step."""
    import paddle

    from engine import build
    from tools.benchmark import best

    model = build.model(cfg)
    model.eval()
    visual = paddle.rand([windows, cfg["MODEL"].get("visual_feature_dim", 12288)])
    sentence = paddle.rand([sentences, cfg["MODEL"].get("sentence_embedding_size", 4800)])

    def one_by_one() -> np.ndarray:
        return np.stack(
            [
                published_forward(model, {"visual": visual[j : j + 1], "sentence": sentence[:1]})
                .numpy()
                .reshape(3)
                for j in range(pairs)
            ]
        )

    with paddle.no_grad():
        matrix = best(lambda: model({"visual": visual, "sentence": sentence}).numpy(), 3)
        single = best(one_by_one, 3) / pairs
        together = model({"visual": visual, "sentence": sentence}).numpy()[:, 0, :pairs].T
        difference = float(np.abs(together - one_by_one()).max())
    per_pair = matrix / (windows * sentences)
    return {
        "one pair per step, ms/pair": single * 1e3,
        "one matrix per video, ms/pair": per_pair * 1e3,
        "times faster": single / per_pair,
        "largest difference": difference,
    }


def matching(cfg: Any) -> dict[str, float]:
    """Reader start on made-up data of TACoS' size: windows matched with sentences."""
    from reader.common.window_index import WindowIndex
    from reader.common.windows import window_grid, window_name

    rng = np.random.default_rng(0)
    names, videos, moments = [], [], []
    frames = rng.integers(4_000, 13_300, _VIDEOS)
    while len(names) < _WINDOWS:
        video, count = f"s{len(set(videos))}-d1.avi", int(frames[len(set(videos)) % _VIDEOS])
        names += [window_name(video, *w) for w in window_grid(count, _LENGTHS).tolist()]
        asked = _SENTENCES // _VIDEOS + 1
        start = rng.integers(1, count - 600, asked)
        moments += np.stack([start, start + rng.integers(40, 600, asked)], 1).tolist()
        videos += [video] * asked
    names = sorted(names[:_WINDOWS])
    start = time.perf_counter()
    matches = WindowIndex(names).match(videos, np.array(moments))
    seconds = time.perf_counter() - start
    loops, checked, same = _published_loops(names[:400], videos, np.array(moments), matches)
    return {
        "windows": len(names),
        "sentences": len(videos),
        "matched": len(matches.window),
        "ours, s": seconds,
        "published loops, s (extrapolated)": loops * len(names) / checked,
        "first windows give the same matches": same,
    }


def _published_loops(names: list[str], videos: list, moments: np.ndarray, matches: Any) -> tuple:
    """Seconds of the published pair-by-pair matching for some windows; is the result the same?"""
    sentences = [f"{v}_{a}_{b}" for v, (a, b) in zip(videos, moments.tolist(), strict=True)]
    found, start = [], time.perf_counter()
    for w, name in enumerate(names):
        for m, sentence in enumerate(sentences):
            if name.split("_")[0] != sentence.split("_")[0]:
                continue
            s, e = (int(x) for x in name.split("_")[1:])
            a, b = (int(x) for x in sentence.split("_")[1:])
            inter, union = min(e, b) - max(s, a), max(e, b) - min(s, a)
            if inter / union > 0.5 and (e - s - inter) / (e - s) < 0.15:
                found.append((w, m))
    seconds = time.perf_counter() - start
    ours = [(w, m) for w, m in zip(matches.window, matches.moment, strict=True) if w < len(names)]
    return seconds, len(names), ours == found


COMPARISONS = {
    "training step": training_step,
    "evaluation": evaluation,
    "matching of windows and sentences": matching,
}


def main() -> None:
    """Print the seconds of the published step; arguments: MODEL and TRAIN sections as JSON."""
    from engine.build import model_class

    sizes, recipe = (json.loads(text) for text in sys.argv[1:3])
    model = model_class("tall")(**sizes)
    forward = lambda batch: published_forward(model, batch)  # noqa: E731
    print(json.dumps(_measure(model, SimpleNamespace(**recipe), forward, 3)[1]))


if __name__ == "__main__":
    main()
