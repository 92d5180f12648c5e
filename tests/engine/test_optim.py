# SPDX-License-Identifier: Apache-2.0
"""Recipes: schedules, parameters with rates of their own, AdamW as published recipes mean it."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from engine import errors, loader, optim
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


# ---- rates by epoch, incomplete steps left out


def published_rate(epoch: float, lr: float, least: float, warmup: float, epochs: int) -> float:
    """LLaMA-Adapter's, and MAE's."""
    if epoch < warmup:
        return lr * epoch / warmup
    share = (epoch - warmup) / (epochs - warmup)
    return least + (lr - least) * 0.5 * (1 + math.cos(math.pi * share))


@pytest.mark.parametrize(("warmup", "share"), [(2, 2), (2, 0.4), (0, 0), (0.5, 0.1)])
def test_rates_by_epoch_begin_at_0(warmup, share):
    recipe = toy.recipe("unused", learning_rate=0.02, min_learning_rate=1e-3, schedule="cosine",
                        rate_of="epoch", warmup=share)  # fmt: skip
    batches = loader.plan(range(10), 1, accumulate=4, leftovers=False)
    begins = [batch.begin for batch in batches if batch.last]
    assert begins == [0.0, 0.4] and len(batches) == 8
    for epoch in range(5):
        for begin in begins:
            found = optim.learning_rate(epoch + begin, 5, recipe)
            expected = published_rate(epoch + begin, 0.02, 1e-3, warmup, 5)
            assert found == pytest.approx(expected, rel=1e-12)
    assert (optim.learning_rate(0, 5, recipe) == 0) is (warmup > 0)
    assert optim.learning_rate(9, 5, recipe) == pytest.approx(1e-3)
    with pytest.raises(errors.ConfigError, match=r"TRAIN.rate_of: expected one of step, epoch"):
        optim.learning_rate(0, 5, toy.recipe("unused", rate_of="hour"))


def test_a_rate_of_0_fills_the_moments_alone():
    paddle.seed(4)
    model = toy.Model(dropout=0.0)
    recipe = toy.recipe("unused", optimizer="adamw", learning_rate=0.1, schedule="cosine",
                        rate_of="epoch", warmup=1, weight_decay=0.5)  # fmt: skip
    plan = optim.Rates(model, recipe)
    optimizer = optim.build(model, recipe, plan)
    weight = model.hidden.weight
    before, moved = weight.numpy(), []
    for epoch in (0, 0.5):
        weight.grad = paddle.full_like(weight, 1.0 if epoch == 0 else 0.0)
        plan.set(optimizer, epoch, 2)
        optimizer.step()
        moved.append(np.abs(weight.numpy() - before).max())
    assert moved[0] == 0 and moved[1] > 0.01  # by the first step's gradient


def test_groups_follow_a_rate_of_0():
    model = toy.Model(dropout=0.0)
    recipe = toy.recipe(
        "unused", optimizer="sgd", learning_rate=0.1, schedule="cosine", warmup=1, rate_of="epoch",
        groups=[{"match": "^out", "learning_rate": 0.2}],
    )  # fmt: skip
    plan = optim.Rates(model, recipe)
    optimizer = optim.build(model, recipe, plan)
    for epoch, expected in ((0, (0.0, 0.0)), (0.5, (0.05, 0.1))):
        weights = model.hidden.weight, model.out.weight
        before = [weight.numpy() for weight in weights]
        for parameter in model.parameters():
            parameter.grad = paddle.ones_like(parameter)
        plan.set(optimizer, epoch, 2)
        optimizer.step()
        for weight, old, rate in zip(weights, before, expected, strict=True):
            np.testing.assert_allclose(old - weight.numpy(), rate, atol=1e-6)


def test_incomplete_steps_are_left_out():
    whole = loader.plan(range(11), 2, accumulate=2)
    assert [b.last for b in whole] == [False, True] * 2 + [False, True]
    assert len(whole[-1].indices) == 1 and len({b.begin for b in whole}) == 3
    fewer = loader.plan(range(13), 2, accumulate=2, leftovers=False)
    assert [b.indices for b in fewer] == [list(range(i, i + 2)) for i in range(0, 12, 2)]
    assert fewer[-1].last and [b.begin for b in fewer[::2]] == [0.0, 2 / 7, 4 / 7]
    assert loader.plan(range(3), 1, accumulate=4, leftovers=False) == []
