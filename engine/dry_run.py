# SPDX-License-Identifier: Apache-2.0
"""What a training run will be like, told without data, weights or memory for the network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from . import build, dist, optim, runtime
from .config import Config, find

_MOMENTS = {"adam": 2, "adamw": 2, "momentum": 1, "sgd": 0}  # float32 numbers of each parameter
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4}
_GIGA = 1e9


def main(cfg: Config) -> None:
    """Print parameters, memory, batch and rates of the run that ``cfg`` describes."""
    recipe = cfg.engine_args("TRAIN")
    runtime.select_device(recipe.use_gpu)
    model = build.outline(cfg)
    for title, text in lines(model, recipe, cfg):
        print(f"{title:<22}{text}")


def lines(model: Any, recipe: SimpleNamespace, cfg: Config) -> list[tuple[str, str]]:
    """Titles and texts."""
    parameters = model.parameters()
    trained = [p for p in parameters if not p.stop_gradient]
    networks = max(1, dist.processes() // int(cfg["MODEL"].get("tensor_parallel") or 1))
    samples = math.ceil(recipe.batch_size / networks)
    memory = {
        "weights": weight_bytes(parameters),
        "gradients": weight_bytes(trained),
        "optimiser": 4 * _MOMENTS.get(recipe.optimizer, 2) * _count(trained),
    }
    if hasattr(model, "activation_bytes"):
        memory["activations"] = model.activation_bytes(samples, cfg.reader_args("TRAIN"))
    parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in memory.items())
    rest = "" if "activations" in memory else "; activations come on top"
    told = [
        ("parameters", f"{_count(parameters):,} ({_types(parameters)})"),
        ("trainable parameters", f"{_count(trained):,} ({_types(trained)})"),
        ("memory (estimate)", f"{_gigabytes(sum(memory.values()))}: {parts}{rest}"),
        ("effective batch", f"{recipe.batch_size * recipe.accumulate} samples a step: batch_size "
         f"{recipe.batch_size} (processes: {networks}), accumulate {recipe.accumulate}"),
        ("learning rate", _rates(model, recipe)),
    ]  # fmt: skip
    if backbone := getattr(model, "backbone", None):
        told.append(("backbone", _backbone(find(backbone))))
    return told


def _count(parameters: Iterable[Any]) -> int:
    return sum(math.prod(p.shape) for p in parameters)


def _type(parameter: Any) -> str:
    return str(parameter.dtype).split(".")[-1]


def _types(parameters: Iterable[Any]) -> str:
    return ", ".join(sorted({_type(p) for p in parameters})) or "none"


def weight_bytes(parameters: Iterable[Any]) -> int:
    """Bytes of their values."""
    return sum(math.prod(p.shape) * _BYTES.get(_type(p), 4) for p in parameters)


def _gigabytes(size: float) -> str:
    return f"{size / _GIGA:.3g} GB"


def _rates(model: Any, recipe: SimpleNamespace) -> str:
    """Peak rate and schedule of all groups of parameters."""
    texts = []
    for group, *parts in optim.Rates(model, recipe).groups:
        unit = "epochs" if group.rate_of == "epoch" else "steps"
        warm = f"{group.warmup:g}" + (f" {unit}" if group.warmup >= 1 else " of all steps")
        count = sum(map(_count, parts))
        texts.append(f"{group.learning_rate:g} {group.schedule}, warm-up {warm} ({count:,})")
    return "; ".join(texts)


def _backbone(path: Path) -> str:
    return f"{path} ({'is there' if path.exists() else 'MISSING: nothing there'})"
