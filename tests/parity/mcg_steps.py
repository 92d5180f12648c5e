# SPDX-License-Identifier: Apache-2.0
"""Optimiser steps of MCG's recipe, by the engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from engine import config, optim
from tools.parity import Tracked


class Recipe:
    """AdamW without decay, linear warm-up and decay.

    Args:
        options: the case's ``optim``.
    """

    def __init__(self, model: Any, options: Tracked):
        assert options["name"] == "adamw" and options["weight_decay"] == 0
        self.total, self.limit = options["num_train_steps"], options["grad_norm"]
        self.step = self.taken = 0
        self.parameters = [p for p in model.parameters() if not p.stop_gradient]
        values = {key: entry["default"] for key, entry in config.schema()["TRAIN"].items()}
        beta1, beta2 = options["betas"]
        constant = options["decay"] == "constant"  # the published constant rate has no warm-up
        self.recipe = SimpleNamespace(**values | {
            "optimizer": "adamw", "adam_eps_mode": "fluid", "epsilon": options["eps"],
            "beta1": beta1, "beta2": beta2, "learning_rate": options["lr"],
            "schedule": options["decay"],
            "warmup": 0 if constant else int(options["warmup_ratio"] * self.total),
        })  # fmt: skip
        self.rates = optim.Rates(model, self.recipe)
        self.optimizer = optim.build(model, self.recipe, self.rates)

    def idle(self, count: int) -> None:
        """Steps on gradients of 0, which change nothing but the count of Adam's steps."""
        optim.idle_steps(self.optimizer, self.parameters, count)
        self.taken += count

    def update(self) -> tuple[float, float]:
        """A step on the gradients, which are cleared; returns their norm and the rate."""
        norm = optim.clip_gradients(self.parameters, self.limit)
        self.rates.set(self.optimizer, self.step, self.total)
        optim.set_fluid_epsilon(self.optimizer, self.recipe, self.taken)
        self.optimizer.step()
        self.optimizer.clear_grad(set_to_zero=False)
        self.step, self.taken = self.step + 1, self.taken + 1
        return norm, self.optimizer.get_lr()
