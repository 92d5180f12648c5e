# SPDX-License-Identifier: Apache-2.0
"""ClipBERT's golden schedules against the engine's."""

from __future__ import annotations

from engine import optim
from tests import toy
from tools.parity import Case


def check_schedule(case: Case) -> None:
    """Learning rates by step, and the factors of milestones by epoch.

    Numbers of steps and of validations are remarks: the engine counts whole epochs, with their last
    and smaller batch, and validates by epochs.
    """
    z = case.json
    z.note("num_steps", "param_group_rule")  # the groups of networks are compared with theirs
    for known in z.plain("get_lr_sched"):
        decay = known["decay"]
        total = known["num_train_steps"]
        # a share of all steps, at times of 1; the published constant rate has none
        warmup = 0 if decay == "constant" else int(known["warmup_ratio"] * total)
        recipe = toy.recipe("unused", schedule=decay, learning_rate=known["learning_rate"],
                            warmup=warmup)  # fmt: skip
        ours = [optim.learning_rate(step - 1, total, recipe) for step in known["steps"]]
        case.close(f"rate of {decay}, {total} steps", ours, known["lr"], 1e-15, 1e-9)
    for known in z.plain("multi_step"):
        last = known["epochs"][-1]
        recipe = toy.recipe("unused", schedule="multistep_skip", learning_rate=1.0,
                            gamma=known["gamma"],
                            milestones=[m / last for m in known["milestones"]])  # fmt: skip
        ours = [optim.learning_rate(9 * epoch, 9 * last, recipe) for epoch in known["epochs"]]
        case.close(f"factor of {known['milestones']}", ours, known["factor"], 1e-12)


CHECKS = {"schedule": check_schedule}
