# SPDX-License-Identifier: Apache-2.0
"""Optimiser steps of ClipBERT's recipe, by the engine."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np

from engine import config, optim
from tools.parity import Tracked

_SCHEDULES = {"multi_step": "multistep_skip"}


class Recipe:
    """AdamW over 8 groups: transformer and CNN, each with and without a factor, with decay first.

    Args:
        options: the case's ``optimizer``.
        unused: parameters that the published code decays although they never get a gradient.
    """

    def __init__(self, model: Any, options: Tracked, unused: dict[str, np.ndarray]):
        assert options["optim"] == "adamw"
        self.model, self.unused, self.step = model, dict(unused), 0
        self.total = options["num_train_steps"]
        self.limit = options["grad_norm"] if options["grad_norm"] > 0 else np.inf
        self.parts, groups = [], []
        names = [name for name, p in model.named_parameters() if not p.stop_gradient]
        for name, key in (("transformer", ""), ("cnn", "cnn_")):
            part = self._part(options, key)
            prefix, factor = options[f"{name}_lr_mul_prefix"], options[f"{name}_lr_mul"]
            self.parts.append((part, prefix, factor))
            mine = [each for each in names if each.startswith(name)]
            faster = [each for each in mine if prefix and prefix in each]
            match = f"^(?={name}).*{re.escape(prefix)}"  # the prefix may contain the name
            rate = factor * part["learning_rate"]
            groups.append(faster and part | {"match": match, "learning_rate": rate})
            groups.append(faster != mine and part | {"match": f"^{name}"})
        values = {key: entry["default"] for key, entry in config.schema()["TRAIN"].items()}
        beta1, beta2 = options["betas"]
        self.recipe = SimpleNamespace(**values | {
            "optimizer": "adamw", "adam_eps_mode": "fluid", "epsilon": 1e-6, "beta1": beta1,
            "beta2": beta2, "no_decay": ["bias", "LayerNorm.weight"],
            "groups": [group for group in groups if group],
        })  # fmt: skip
        self.plan = optim.Rates(model, self.recipe)
        self.optimizer = optim.build(model, self.recipe, self.plan)
        found = iter(self.plan.groups)
        self.groups = [next(found) if group else None for group in groups]

    def _part(self, options: Tracked, key: str) -> dict[str, Any]:
        """Recipe of the transformer, or of the CNN, whose options begin with ``key``."""
        schedule = options["cnn_lr_decay" if key else "decay"]
        milestones = options[f"{key}step_decay_epochs"] or []
        per_epoch = options["total_n_examples"] / options["total_train_batch_size"]
        return {
            "learning_rate": options[f"{key}learning_rate"],
            "weight_decay": options[f"{key}weight_decay"],
            "schedule": _SCHEDULES.get(schedule, schedule),
            "milestones": [epoch * per_epoch / self.total for epoch in milestones],
            "gamma": 0.5,
            # steps, for a share may be 1; the published multi_step and constant have none
            "warmup": 0 if schedule in ("multi_step", "constant")
            else int(options["warmup_ratio"] * self.total),
        }

    def names(self) -> list[list[str]]:
        """Names of the parameters of the 8 groups, and those of unused ones."""
        known = {id(p): name for name, p in self.model.named_parameters()}
        parts = [part for group in self.groups for part in (group[1:] if group else ([], []))]
        found = [sorted(known[id(p)] for p in part) for part in parts]
        for name in self.unused:
            found[self._group(name)] = sorted([*found[self._group(name)], name])
        return found

    def _group(self, unused: str) -> int:
        """Which group of the transformer, with decay, has an unused parameter."""
        _, prefix, _ = self.parts[0]
        return 0 if prefix and prefix in unused else 2

    def rates(self) -> list[float]:
        """Learning rates of the 8 groups at the current step, also of those without parameters."""
        found = []
        for part, _, factor in self.parts:
            recipe = SimpleNamespace(**vars(self.recipe) | part)
            rate = optim.learning_rate(self.step, self.total, recipe)
            found += [factor * rate] * 2 + [rate] * 2
        return found

    def update(self) -> tuple[float, list[float]]:
        """One step on the gradients, which are cleared; returns their norm and the rates."""
        rates = self.rates()
        norm = optim.clip_gradients(self.model.parameters(), self.limit)
        self.plan.set(self.optimizer, self.step, self.total)
        optim.set_fluid_epsilon(self.optimizer, self.recipe, self.step)
        self.optimizer.step()
        self.optimizer.clear_grad(set_to_zero=False)
        decay = self.parts[0][0]["weight_decay"]
        for name, value in self.unused.items():
            self.unused[name] = value * (1 - rates[self._group(name)] * decay)
        self.step += 1
        return norm, rates
