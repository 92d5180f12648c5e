# SPDX-License-Identifier: Apache-2.0
"""Run by test_dist.py under paddle.distributed.launch: train and evaluate the toy model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import runtime

runtime.prepare()

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from engine import checkpoint, dist, evaluate  # noqa: E402
from engine.loop import Trainer  # noqa: E402
from reader.common.errors import BrokenSample  # noqa: E402
from tests import toy  # noqa: E402


class Broken(toy.Reader):
    """Items in their order; the first one cannot be loaded."""

    def order(self, epoch: int) -> list[int]:
        return list(range(len(self)))

    def __getitem__(self, i: int) -> dict:
        if i == 0:
            raise BrokenSample("s0: broken")
        return super().__getitem__(i)


class Coupled(toy.Model):
    """Its loss waits for the other processes."""

    loss_couples_samples = True

    def loss(self, outputs: paddle.Tensor, batch: dict) -> dict[str, paddle.Tensor]:
        found = super().loss(outputs, batch)
        (samples,) = dist.sum_values([float(len(batch["id"]))])
        return found | {"samples": paddle.to_tensor(samples)}


def coupled(folder: Path) -> list[float]:
    """Samples of every step's loss, one for each process."""
    samples: list[float] = []
    options = {"batch_size": dist.world_size(), "max_bad": 1, "epoch": 1}
    run = Trainer(Coupled(), Broken(), toy.recipe(folder, **options), "toy")
    run.on_step = lambda step, terms: samples.append(terms.get("samples", 0.0))
    run.run()
    return samples


def main(folder: Path) -> None:
    """Write losses, final parameters and the score of the evaluation into ``folder``."""
    dist.init()
    paddle.seed(3 + dist.rank())  # process 0's parameters must win
    options = {"batch_size": 6, "accumulate": 2, "clip_norm": 0.5, "epoch": 2}
    reader, losses = toy.Reader(), []
    model = toy.Model(dropout=0.0)
    paddle.seed(7)
    untrained = evaluate.predictions(toy.Model(), reader, batch_size=4)
    run = Trainer(model, reader, toy.recipe(folder, **options), "toy")
    run.on_step = lambda step, terms: losses.append(terms["loss"])
    run.run()
    paddle.seed(11)
    summed = toy.Model(dropout=0.0, sums=True)
    options |= {"clip_norm": None, "optimizer": "sgd", "learning_rate": 1e-3}
    other = Trainer(summed, reader, toy.recipe(folder / "sums", **options), "toy")
    other.on_step = lambda step, terms: losses.append(terms["loss"])
    other.run()

    pairs = coupled(folder / "coupled")
    records = evaluate.predictions(model, reader, batch_size=4)
    assert [r["id"] for r in records] == [f"s{i}" for i in range(len(reader))]
    scores = evaluate.score(toy.Metric(), reader, records)
    if dist.rank() == 0:
        parameters = checkpoint.parameters_of(model)
        parameters |= {f"sums/{k}": v for k, v in checkpoint.parameters_of(summed).items()}
        np.savez(folder / "parameters.npz", **parameters)
        result = {"losses": losses, "scores": scores, "coupled": pairs}
        result["untrained"] = [[r["id"], r["y"].tolist()] for r in untrained]
        (folder / "result.json").write_text(json.dumps(result))
    dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
