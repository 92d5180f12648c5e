# SPDX-License-Identifier: Apache-2.0
"""Fine-tuned adapters as the reference implementation writes them.

A file holds the trained extras alone, under our names and in PyTorch's layout, beside the state of
AdamW, the epoch and the options.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

ADAPTERS = {
    "name": "llama_vqa_adapter.pth",
    "urls": [],
    "note": "the authors' adapters of LLaMA-1 7B are checkpoint/<dataset>.pth of "
    "https://huggingface.co/datasets/ikodoh/Flipped-VQA-Data",
}
_FIRST = ("adapter_query.weight", "visual_proj.weight", "temporal_emb.weight")
_LINEAR = re.compile(
    r"(visual_proj|output|.*\.(w[qkvo]|w[123]))\.weight"  # embeddings are stored alike
)

Shapes = Mapping[str, Sequence[int]]


def convert(state: Mapping[str, np.ndarray], shapes: Shapes) -> dict[str, np.ndarray]:
    """PyTorch's layout [out, in] to ours; a state of ours passes unchanged.

    Args:
        shapes: of the network's parameters. A square matrix is taken for one of ours.
    """
    return {name: _turned(name, value, shapes) for name, value in state.items()}


def _turned(name: str, value: np.ndarray, shapes: Shapes) -> np.ndarray:
    wanted = tuple(shapes.get(name, ()))
    if _LINEAR.fullmatch(name) and value.shape != wanted and value.shape[::-1] == wanted:
        return np.ascontiguousarray(value.T)
    return value


def training(tree: Any, shapes: Shapes) -> dict[str, Any]:
    """What a checkpoint of the reference says about a run, to go on with it.

    Args:
        tree: the file's object, with numpy arrays for tensors.
        shapes: of the network's parameters.

    Returns:
        ``parameters`` and ``moments`` (first and second one of Adam) under our names and in our
        layout, ``betas``, ``step`` (of the optimiser) and ``epoch``, the one that was finished.

    Raises:
        ValueError: another kind of file.
    """
    keys = ("model", "optimizer", "epoch")
    if not isinstance(tree, dict) or any(key not in tree for key in keys):
        raise ValueError(
            f"expected a training checkpoint with {', '.join(keys)}, found "
            f"{sorted(map(str, tree))[:5] if isinstance(tree, dict) else type(tree).__name__}; use "
            "--pretrain for weights alone"
        )
    names = in_order(tree["model"])
    groups, state = tree["optimizer"]["param_groups"], tree["optimizer"]["state"]
    numbers = [number for group in groups for number in group["params"]]
    if len(numbers) != len(names):
        raise ValueError(
            f"expected an optimiser of the {len(names)} parameters, found {len(numbers)}; use "
            "--pretrain for the weights alone"
        )
    pairs = [(name, state[n]) for name, n in zip(names, numbers, strict=True) if n in state]
    moments = {
        name: tuple(_turned(name, one[key], shapes) for key in ("exp_avg", "exp_avg_sq"))
        for name, one in pairs
    }
    return {
        "parameters": convert(tree["model"], shapes),
        "moments": moments,
        "betas": tuple(groups[-1]["betas"]),
        "step": max((int(one["step"]) for _, one in pairs), default=0),
        "epoch": int(tree["epoch"]),
    }


def in_order(names: Iterable[str]) -> list[str]:
    """Names of trained extras in the order in which the reference's optimiser knows them."""
    return sorted(names, key=lambda n: (_FIRST.index(n), "") if n in _FIRST else _layer(n))


def _layer(name: str) -> tuple[int, str]:
    found = re.match(r"layers\.(\d+)\.", name)
    return len(_FIRST) + (int(found[1]) if found else 0), name
