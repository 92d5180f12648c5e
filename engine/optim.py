# SPDX-License-Identifier: Apache-2.0
"""Optimisers, learning-rate schedules and gradient clipping of the published recipes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from .errors import ConfigError

_LEAST = 1e-8  # a rate that a schedule brings to 0
_GROUP_KEYS = ("learning_rate", "schedule", "warmup", "milestones", "gamma", "weight_decay")


def learning_rate(step: float, total: float, recipe: SimpleNamespace) -> float:
    """Learning rate of optimiser step ``step`` (from 0) out of ``total``.

    ``linear`` reaches 0 with the last step; ``cosine`` falls to ``min_learning_rate``; ``invsqrt``
    falls with the root of the step number from the end of the warm-up; ``multistep_skip`` is
    ``multistep`` as some published code has it: counted one step later, and with two powers of
    gamma at the last milestone.

    With ``rate_of`` epoch, ``step`` and ``total`` count epochs, with fractions, and the warm-up
    begins at exactly 0 (MAE, LLaMA-Adapter).
    """
    by_epoch = _choose({"step": False, "epoch": True}, "TRAIN.rate_of", recipe.rate_of)
    warm = recipe.warmup if recipe.warmup >= 1 else recipe.warmup * total
    warm = warm if by_epoch else int(warm)
    if step < warm:
        return recipe.learning_rate * (step + (not by_epoch)) / warm
    done = min(1.0, (step - warm) / (total - warm)) if total > warm else 1.0
    least = recipe.min_learning_rate and recipe.min_learning_rate / recipe.learning_rate
    factors: dict[str, Callable[[], float]] = {
        "constant": lambda: 1.0,
        "linear": lambda: max(0.0, (total - step - 1) / max(1, total - warm)),
        "cosine": lambda: least + (1.0 - least) * 0.5 * (1.0 + math.cos(math.pi * done)),
        "invsqrt": lambda: math.sqrt(warm / (step + 1)),
        "multistep": lambda: recipe.gamma ** _passed(step, total, recipe),
        "multistep_skip": lambda: _skipping(_passed(step + 1, total, recipe), recipe),
    }
    rate = recipe.learning_rate * _choose(factors, "TRAIN.schedule", recipe.schedule)()
    return rate if rate > 0 else min(_LEAST, recipe.learning_rate)


def _passed(step: int, total: int, recipe: SimpleNamespace) -> int:
    """How many milestones lie behind; they are shares of all steps."""
    return sum(step >= share * total - 1e-6 for share in recipe.milestones)


def _skipping(passed: int, recipe: SimpleNamespace) -> float:
    return recipe.gamma ** (passed + (passed == len(recipe.milestones)))


def _choose(table: dict[str, Any], key: str, name: str) -> Any:
    if name not in table:
        raise ConfigError(f"{key}: expected one of {', '.join(table)}, found {name}")
    return table[name]


class Rates:
    """The recipe of every parameter: TRAIN's, changed by the first of TRAIN.groups that matches.

    Raises:
        ConfigError: a group without a regular expression, with another key, or without parameters.
    """

    def __init__(self, model: Any, recipe: SimpleNamespace):
        rest = [(n, p) for n, p in model.named_parameters() if not p.stop_gradient]
        self.recipe, self.groups = recipe, []  # (recipe, parameters with decay, those without)
        self.no_decay = getattr(recipe, "no_decay", [])
        for group in getattr(recipe, "groups", []):
            found = _matcher(group)
            mine = [pair for pair in rest if found(pair[0])]
            if not mine:
                raise ConfigError(
                    f"TRAIN.groups: expected {group['match']!r} to match parameters, found none "
                    "left; the names are those of the weights file"
                )
            rest = [pair for pair in rest if not found(pair[0])]
            changes = {key: value for key, value in group.items() if key != "match"}
            self._add(SimpleNamespace(**(vars(recipe) | changes)), mine)
        self._add(recipe, rest)

    def _add(self, recipe: SimpleNamespace, pairs: list[tuple[str, Any]]) -> None:
        bare = {name for name, _ in pairs if any(part in name for part in self.no_decay)}
        split = [[p for name, p in pairs if (name in bare) is bool(kind)] for kind in (0, 1)]
        self.groups.append((recipe, *split))

    def parameters(self) -> list[Any]:
        """What Paddle's optimisers take: parameters, or groups of them where these differ."""
        if len(self.groups) == 1 and not self.no_decay:
            return self.groups[0][1]
        return [
            {"params": part, "weight_decay": float(decay)}
            for recipe, *parts in self.groups
            for part, decay in zip(parts, (recipe.weight_decay, 0.0), strict=True)
            if part
        ]

    def set(self, optimizer: Any, step: float, total: float) -> None:
        """Set the rates of a step; see ``learning_rate``."""
        base = learning_rate(step, total, self.recipe)
        if len(self.groups) > 1:  # whose rates are set as multiples of it
            base = max(base, _LEAST)
        optimizer.set_lr(base)
        for recipe, *parts in self.groups[:-1]:
            factor = learning_rate(step, total, recipe) / base
            for parameter in (p for part in parts for p in part):
                parameter.optimize_attr["learning_rate"] = factor


def _matcher(group: Any) -> Callable[[str], Any]:
    if not isinstance(group, dict) or not isinstance(group.get("match"), str):
        raise ConfigError(f"TRAIN.groups: expected {{match: regular expression}}, found {group!r}")
    for key in group:
        if key not in (*_GROUP_KEYS, "match"):
            known = ", ".join(("match", *_GROUP_KEYS))
            raise ConfigError(f"TRAIN.groups: expected keys {known}, found {key}")
    try:
        return re.compile(group["match"]).search
    except re.error as error:
        raise ConfigError(
            f"TRAIN.groups: expected a regular expression, found {group['match']!r} ({error})"
        ) from None


def build(model: Any, recipe: SimpleNamespace, rates: Rates | None = None) -> Any:
    """The Paddle optimiser of a TRAIN section."""
    from paddle import optimizer as opt

    parameters = (rates or Rates(model, recipe)).parameters()
    shared = {"learning_rate": recipe.learning_rate, "parameters": parameters}
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

    They, and the AdamW of Hugging Face's library, add it to the uncorrected ``sqrt(v)``; Paddle 2
    and later to the corrected one. The two agree when the latter's epsilon is divided by
    ``sqrt(1 - beta2 ** t)``.
    """
    if recipe.adam_eps_mode == "fluid" and recipe.optimizer in ("adam", "adamw"):
        optimizer._epsilon = recipe.epsilon / math.sqrt(1.0 - recipe.beta2 ** (step + 1))
        for group in optimizer._param_groups:
            if isinstance(group, dict):
                group["epsilon"] = optimizer._epsilon


def idle_steps(optimizer: Any, parameters: Iterable[Any], count: int) -> None:
    """Steps on gradients of 0: nothing moves, but Adam's bias correction counts them."""
    import paddle

    rate = optimizer.get_lr()
    optimizer.set_lr(0.0)  # no decay either
    for _ in range(count):
        for parameter in parameters:
            parameter.grad = paddle.zeros_like(parameter)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
    optimizer.set_lr(rate)


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
