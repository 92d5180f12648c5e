# SPDX-License-Identifier: Apache-2.0
"""What the benchmark compares of MCG, on a small network."""

from __future__ import annotations

import pytest

from engine import config
from tools.comparisons import mcg

SMALL = {
    "name": "mcg", "task": "msvd_qa", "num_frm": 2, "crop_img_size": 32, "hidden_size": 16,
    "num_layers": 2, "num_heads": 2, "intermediate_size": 24, "vit_depth": 2, "vit_heads": 2,
    "vocab_size": 60, "max_position": 40, "proj_size": 6, "initializer_range": 0.3,
}  # fmt: skip


def test_questions_together_and_one_by_one(monkeypatch):
    monkeypatch.setattr(mcg, "_QUESTIONS", 5)
    monkeypatch.setattr(mcg, "_ASKED", 5)
    calls, step = [], mcg.Repeated.__call__

    def watched(self: mcg.Repeated, *call: object) -> object:
        calls.append(self.fused.shape[0])
        return step(self, *call)

    monkeypatch.setattr(mcg.Repeated, "__call__", watched)
    found = mcg.answering({"MODEL": SMALL})
    assert found["equal answers"] is True and found["largest difference of scores"] < 1e-4
    assert set(calls) == {3} and len(calls) >= 5  # every hypothesis had a memory of its own


def test_a_training_step_is_measured():
    recipe = {key: entry["default"] for key, entry in config.schema()["TRAIN"].items()}
    recipe |= {"optimizer": "adamw", "adam_eps_mode": "fluid"}
    found = [mcg.measure(SMALL, recipe, recompute) for recompute in (False, True)]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)
    assert all(figures["flops"] > 0 and figures["memory"] > 0 for figures in found)
