# SPDX-License-Identifier: Apache-2.0
"""Recipes: schedules, parameters with rates of their own, AdamW as published recipes mean it."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from engine import errors, optim
from tests import toy


def rates(total: int, steps: list[int], **changes) -> list[float]:
    recipe = toy.recipe("unused", learning_rate=1.0, **changes)
    return [optim.learning_rate(step, total, recipe) for step in steps]


def test_schedules():
    assert rates(10, [0, 1, 2, 5, 9], schedule="linear", warmup=0.2) == pytest.approx(
        [0.5, 1.0, 7 / 8, 4 / 8, 1e-8]
    )
    assert rates(100, [0, 3, 8, 15], schedule="invsqrt", warmup=4) == pytest.approx(
        [0.25, 1.0, math.sqrt(4 / 9), 0.5]
    )
    steps = {"milestones": [0.3, 0.6], "gamma": 0.5}
    assert rates(10, [2, 3, 5, 6], schedule="multistep", **steps) == [1, 0.5, 0.5, 0.25]
    assert rates(10, [1, 2, 4, 5], schedule="multistep_skip", **steps) == [1, 0.5, 0.5, 0.125]
    assert rates(5, [4], schedule="constant") == [1.0]


GROUPS = [{"match": r"^out\.", "learning_rate": 0.1, "weight_decay": 0.5, "schedule": "constant"}]


def adamw(parameter, gradients, rates, decay, first=False, epsilon=1e-6, b1=0.9, b2=0.98):
    """The update of Hugging Face's AdamW: epsilon beside the uncorrected root, decay afterwards.

    Paddle decays ``first``.
    """
    m = v = np.zeros_like(parameter)
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        step = lr * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + epsilon)
        shrink = 1 - lr * decay
        parameter = parameter * shrink - step if first else (parameter - step) * shrink
    return parameter


def test_groups_have_their_own_rate_and_decay():
    paddle.seed(4)
    model = toy.Model(dropout=0.0)
    recipe = toy.recipe(
        "unused", optimizer="adamw", adam_eps_mode="fluid", epsilon=1e-6, beta2=0.98,
        learning_rate=0.01, weight_decay=0.2, schedule="linear", no_decay=["bias"], groups=GROUPS,
    )  # fmt: skip
    plan = optim.Rates(model, recipe)
    optimizer = optim.build(model, recipe, plan)
    before = {name: p.numpy().astype(np.float64) for name, p in model.named_parameters()}
    rng, given = np.random.default_rng(0), {name: [] for name in before}
    for step in range(4):
        for name, p in model.named_parameters():
            given[name].append(rng.normal(size=p.shape).astype(np.float32))
            p.grad = paddle.to_tensor(given[name][-1])
        plan.set(optimizer, step, 4)
        optim.set_fluid_epsilon(optimizer, recipe, step)
        optimizer.step()
    falling = [optim.learning_rate(step, 4, recipe) for step in range(4)]
    for name, p in model.named_parameters():
        out = name.startswith("out.")
        decay = 0.0 if name.endswith("bias") else 0.5 if out else 0.2
        expected = adamw(before[name], given[name], [0.1] * 4 if out else falling, decay, True)
        assert np.abs(p.numpy() - expected).max() < 1e-6, name


def test_small_decay_equals_the_published_update():
    """Paddle decays before the update; the difference, decay * rate^2, is below fp32's rounding."""
    paddle.seed(4)
    model = toy.Model(dropout=0.0)
    recipe = toy.recipe("unused", optimizer="adamw", adam_eps_mode="fluid", epsilon=1e-6,
                        beta2=0.98, learning_rate=1e-3, weight_decay=1e-3)  # fmt: skip
    plan = optim.Rates(model, recipe)
    optimizer = optim.build(model, recipe, plan)
    weight = model.hidden.weight
    before, rng, given = weight.numpy().astype(np.float64), np.random.default_rng(0), []
    for step in range(5):
        given.append(rng.normal(size=weight.shape).astype(np.float32))
        weight.grad = paddle.to_tensor(given[-1])
        plan.set(optimizer, step, 5)
        optim.set_fluid_epsilon(optimizer, recipe, step)
        optimizer.step()
    expected = adamw(before, given, [1e-3] * 5, 1e-3)
    assert np.abs(weight.numpy() - expected).max() < 3e-7


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"match": "nothing"}, "none left"),
        ({"match": "("}, "regular expression"),
        ({"learning_rate": 1.0}, "match"),
        ({"match": "out", "rate": 1.0}, "rate"),
    ],
)
def test_a_group_that_means_nothing_is_refused(group, words):
    with pytest.raises(errors.ConfigError, match=words):
        optim.Rates(toy.Model(), toy.recipe("unused", groups=[group]))
