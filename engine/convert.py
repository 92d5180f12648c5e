# SPDX-License-Identifier: Apache-2.0
"""From published weights of any format to a ``.pdparams`` file with our own names."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import build
from .backbone import outline
from .config import load
from .errors import ConfigError, WeightsError
from .formats import save_state
from .weights import Report, compare, read_for, resolve


def convert(
    name: str, source: str, target: str, config: str | None = None, partial: bool = False
) -> Report:
    """Write the weights in ``source`` as those of model or extractor ``name`` to ``target``.

    Args:
        config: configuration file of the model; default: the model's default sizes.
        partial: whether the network may have parameters that ``source`` lacks.

    Raises:
        ConfigError: unknown name. WeightsError: unreadable, or not weights of this network.
    """
    if not target.endswith(".pdparams"):
        raise ConfigError(f"{target}: expected a name that ends in .pdparams; change it")
    network = _network(name, config)
    path = resolve(source)
    state = read_for(network, path)
    report = compare(network, state)
    if report.unexpected or report.misshaped or (report.missing and not partial):
        raise WeightsError(
            f"{path}: expected weights of {name}, found {len(report.matched)} arrays that fit; "
            f"{report.problems()}; give the right --config, or --partial when names may be missing"
        )
    save_state(target, {n: np.asarray(state[n]) for n in report.matched})
    return report


def _network(name: str, config: str | None) -> Any:
    """The model, or else the extractor, of that name; one with a backbone without values."""
    if config:
        cfg = load(config)
        external = hasattr(build.model_class(cfg.model_name), "read_backbone")
        return build.outline(cfg) if external else build.model(cfg)
    try:
        cls = build.model_class(name)
    except LookupError as no_model:
        try:
            cls = build.extractor_class(name)
        except (LookupError, ValueError) as no_extractor:
            raise ConfigError(f"{no_model}\n{no_extractor}") from None
    return outline(cls) if hasattr(cls, "read_backbone") else cls()
