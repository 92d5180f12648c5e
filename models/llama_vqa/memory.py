# SPDX-License-Identifier: Apache-2.0
"""How much a training pass remembers for its gradients, for ``train.py --dry-run``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WIDE, _NARROW = 9, 17  # vectors of D numbers per token and layer, in float32 and in dtype


def activations(
    rows: int, length: int, sizes: Mapping[str, Any], dtype: str, recompute: bool
) -> int:
    """Bytes that a pass over rows of ``length`` tokens keeps; measured in float32, within 5 %.

    Args:
        sizes: of the network: dim, num_layers, num_heads.
        recompute: layers keep their inputs alone, but for the one at work.
    """
    number = 4 if dtype == "float32" else 2
    layer = rows * length * sizes["dim"] * (4 * _WIDE + number * _NARROW)
    layer += rows * sizes["num_heads"] * length**2 * (4 + number)
    if recompute:
        return layer + sizes["num_layers"] * rows * length * sizes["dim"] * number
    return sizes["num_layers"] * layer
