# SPDX-License-Identifier: Apache-2.0
"""ClipBERT's parameter groups and rates, as its golden files have them, for options of any kind."""

from __future__ import annotations

from typing import Any

import paddle
import pytest

from models.clipbert import Model
from tests.models.test_clipbert import SMALL
from tests.parity.clipbert_steps import Recipe
from tools.parity import Tracked

UNUSED = "transformer.bert.visual_embeddings.position_embeddings.weight"
OPTIONS = {
    "optim": "adamw", "betas": [0.9, 0.98], "grad_norm": 5.0, "num_train_steps": 8,
    "warmup_ratio": 0.25, "total_n_examples": 8, "total_train_batch_size": 2,
    "learning_rate": 1e-3, "weight_decay": 1e-3, "decay": "linear", "step_decay_epochs": None,
    "transformer_lr_mul": 10.0, "transformer_lr_mul_prefix": "",
    "cnn_learning_rate": 5e-4, "cnn_weight_decay": 1e-3, "cnn_lr_decay": "linear",
    "cnn_step_decay_epochs": None, "cnn_lr_mul": 2.0, "cnn_lr_mul_prefix": "grid_encoder",
}  # fmt: skip


def recipe(**options: Any) -> Recipe:
    unused = {UNUSED: paddle.ones([2, 3]).numpy()}
    return Recipe(Model("frameqa", **SMALL), Tracked(OPTIONS | options), unused)


@pytest.mark.parametrize("prefix", ["", "classifier", "transformer.classifier", "transformer",
                                    "visual_embeddings", "nowhere"])  # fmt: skip
def test_groups_are_those_whose_name_contains_the_prefix(prefix):
    found = recipe(transformer_lr_mul_prefix=prefix)
    names = [n for n, p in found.model.named_parameters() if not p.stop_gradient]
    expected: list[list[str]] = [[] for _ in range(8)]
    for name in [*names, UNUSED]:
        cnn = name.startswith("cnn")
        faster = "grid_encoder" in name if cnn else bool(prefix) and prefix in name
        bare = "bias" in name or "LayerNorm" in name
        expected[4 * cnn + 2 * (not faster) + bare].append(name)
    assert found.names() == [sorted(group) for group in expected]


@pytest.mark.parametrize(("options", "transformer"), [
    ({}, [5e-4, 1e-3, 1e-3 * 5 / 6, 1e-3 * 4 / 6, 1e-3 * 3 / 6, 1e-3 * 2 / 6, 1e-3 / 6, 1e-8]),
    ({"decay": "constant"}, [1e-3] * 8),
    ({"warmup_ratio": 1.0, "cnn_lr_decay": "constant"}, [1e-3 * k / 8 for k in range(1, 8)]),
    ({"decay": "multi_step", "step_decay_epochs": [1]}, [1e-3] * 3 + [2.5e-4] * 5),
])  # fmt: skip
def test_rates_of_all_groups_also_of_empty_ones(options, transformer):
    found = recipe(**options)
    for found.step, rate in enumerate(transformer):
        assert found.rates()[:4] == pytest.approx([10 * rate] * 2 + [rate] * 2, rel=1e-9)
        assert found.rates()[4] == 2 * found.rates()[6]


def test_an_unused_parameter_decays_with_its_group():
    for prefix, rate in (("", 1e-3), ("visual", 1e-2)):
        found = recipe(decay="constant", transformer_lr_mul_prefix=prefix)
        found.model.transformer.classifier[0].weight.sum().backward()
        found.update()
        assert found.unused[UNUSED].tolist()[0][0] == pytest.approx(1 - 1e-3 * rate)
