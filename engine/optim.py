# SPDX-License-Identifier: Apache-2.0
"""Optimisers, learning-rate schedules and gradient clipping of the published recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from .errors import ConfigError


def learning_rate(step: int, total: int, recipe: SimpleNamespace) -> float:
    """Learning rate of optimiser step ``step`` (from 0) out of ``total``."""
    warm = int(recipe.warmup if recipe.warmup >= 1 else recipe.warmup * total)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    factors: dict[str, Callable[[], float]] = {
        "constant": lambda: 1.0,
        "linear": lambda: 1.0 - done,
        "cosine": lambda: 0.5 * (1.0 + math.cos(math.pi * done)),
        "multistep": lambda: recipe.gamma ** sum(step >= m * total for m in recipe.milestones),
    }
    return recipe.learning_rate * _choose(factors, "TRAIN.schedule", recipe.schedule)()


def _choose(table: dict[str, Any], key: str, name: str) -> Any:
    if name not in table:
        raise ConfigError(f"{key}: expected one of {', '.join(table)}, found {name}")
    return table[name]


def build(model: Any, recipe: SimpleNamespace) -> Any:
    """The Paddle optimiser of a TRAIN section, over ``model.param_groups()`` when it has them."""
    from paddle import optimizer as opt

    groups = model.param_groups() if hasattr(model, "param_groups") else list(model.parameters())
    shared = {"learning_rate": recipe.learning_rate, "parameters": groups}
    adam = {"beta1": recipe.beta1, "beta2": recipe.beta2, "epsilon": recipe.epsilon}
    l2 = {"weight_decay": recipe.weight_decay or None}
    _choose({"fluid": 1, "standard": 1}, "TRAIN.adam_eps_mode", recipe.adam_eps_mode)
    builders: dict[str, Callable[[], Any]] = {
        "adam": lambda: opt.Adam(**shared, **adam, **l2),
        "adamw": lambda: opt.AdamW(**shared, **adam, weight_decay=recipe.weight_decay),
        "momentum": lambda: opt.Momentum(**shared, momentum=recipe.beta1, **l2),
        "sgd": lambda: opt.SGD(**shared, **l2),
    }
    return _choose(builders, "TRAIN.optimizer", recipe.optimizer)()


def set_fluid_epsilon(optimizer: Any, recipe: SimpleNamespace, step: int) -> None:
    """Make step ``step`` (from 0) of a stock Adam apply epsilon as Paddle 1.x and TensorFlow did.

    They add it to the uncorrected ``sqrt(v)``; Paddle 2 and later to the corrected one. The two
    agree when the latter's epsilon is divided by ``sqrt(1 - beta2 ** t)``.
    """
    if recipe.adam_eps_mode == "fluid" and recipe.optimizer in ("adam", "adamw"):
        optimizer._epsilon = recipe.epsilon / math.sqrt(1.0 - recipe.beta2 ** (step + 1))


def clip_gradients(parameters: Iterable[Any], limit: float | None) -> float | None:
    """Scale all gradients by ``limit / max(limit, norm)`` in place; returns the global norm.

    The norm is left alone (and None returned) without a limit. Gradients below the limit are not
    touched, which saves a pass over memory.
    """
    if limit is None:
        return None
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    import paddle

    with paddle.no_grad():
        # On CPU a matrix product is 6 to 30 times faster than dot, norm or a sum of squares.
        flat = [g.astype("float32").reshape([1, -1]) for g in gradients]
        squares = [paddle.matmul(g, g, transpose_y=True) for g in flat]
        norm = paddle.sqrt(paddle.add_n(squares)).item()
        if norm > limit:
            for gradient in gradients:
                gradient.scale_(limit / norm)
    return norm
