# SPDX-License-Identifier: Apache-2.0
"""A model, reader and metric of the smallest size that exercise all of the engine's contracts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from engine import config


class Reader:
    """Noisy linear regression; item noise depends on epoch and index alone."""

    drop_last = False

    def __init__(self, split: str = "train", samples: int = 22, nan_at: int = -1):
        rng = np.random.default_rng(5)
        self.x = rng.normal(size=(samples, 6)).astype(np.float32)
        self.y = (self.x @ rng.normal(size=(6, 2))).astype(np.float32)
        self.epoch, self.split = 0, split
        if nan_at >= 0:
            self.x[nan_at] = np.nan

    def __len__(self) -> int:
        return len(self.x)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, i: int) -> dict:
        noise = np.random.default_rng((self.epoch, i)).normal(size=6) * 0.01
        return {"id": f"s{i}", "x": (self.x[i] + noise).astype(np.float32), "y": self.y[i]}

    def collate(self, items: list[dict]) -> dict:
        batch = {k: np.stack([item[k] for item in items]) for k in ("x", "y")}
        return batch | {"id": [item["id"] for item in items]}

    def references(self) -> dict[str, dict]:
        return {f"s{i}": {"y": y.tolist()} for i, y in enumerate(self.y)}


class Model(nn.Layer):
    """Two layers; the loss is a mean over samples, or with ``sums`` their sum."""

    def __init__(self, hidden: int = 8, dropout: float = 0.3, sums: bool = False):
        super().__init__()
        self.loss_sums_samples = sums
        self.hidden = nn.Linear(6, hidden)
        self.out = nn.Linear(hidden, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: dict) -> paddle.Tensor:
        return self.out(self.dropout(F.tanh(self.hidden(batch["x"]))))

    def loss(self, outputs: paddle.Tensor, batch: dict) -> dict[str, paddle.Tensor]:
        errors = (outputs - batch["y"]).square().mean(-1)
        error = errors.sum() if self.loss_sums_samples else errors.mean()
        return {"loss": error, "half": error / 2}

    def predict(self, batch: dict) -> list[dict]:
        return [{"id": i, "y": y} for i, y in zip(batch["id"], self(batch).numpy(), strict=True)]

    @staticmethod
    def convert(state: dict) -> dict:
        return state


class Metric:
    """Mean squared error."""

    primary, higher_is_better = "mse", False

    def expect(self, references: dict[str, dict]) -> None:
        self.references, self.records = references, {}

    def update(self, records: list[dict]) -> None:
        self.records |= {r["id"]: r for r in records}

    def result(self) -> dict[str, float]:
        errors = [
            float(np.mean((np.asarray(self.records[i]["y"], np.float64) - r["y"]) ** 2))
            for i, r in self.references.items()
            if i in self.records
        ]
        missing = len(self.references) - len(errors)
        return {"mse": sum(errors) / max(1, len(errors)), "missing": missing}

    def report(self) -> list[str]:
        return [f"mse {self.result()['mse']:.6f}"]


def recipe(folder, **changes) -> SimpleNamespace:
    """TRAIN section with the defaults of the schema."""
    values = {k: v["default"] for k, v in config.schema()["TRAIN"].items()}
    values |= {"save_dir": str(folder), "epoch": 2, "batch_size": 4, "learning_rate": 0.02}
    values |= {"adam_eps_mode": "standard", "log_interval": 1}
    return SimpleNamespace(**(values | changes))
