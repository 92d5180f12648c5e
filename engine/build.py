# SPDX-License-Identifier: Apache-2.0
"""From a configuration to objects: the only place that looks up models, readers and metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import backbone, dist
from .config import Config, bind, coerce, find, schema
from .errors import ConfigError, WeightsError
from .log import logger


def model_class(name: str) -> type:
    """Model class by name (imports Paddle)."""
    from models import get_model

    return get_model(name)


def extractor_class(name: str) -> type:
    """Class of a frozen feature network by name (imports Paddle)."""
    from models.extractors import get_extractor

    return get_extractor(name)


def _arguments(cfg: Config, section: str) -> dict[tuple[str, str], Any]:
    known = schema()[section]
    return {(section, k): v for k, v in cfg[section].items() if k not in known}


def model(cfg: Config) -> Any:
    """The network, freshly initialised from TRAIN.seed, with its backbone if it has one."""
    import paddle

    construct = _constructor(cfg)
    paddle.seed(cfg["TRAIN"]["seed"])
    if cfg["MODEL"].get("backbone"):
        return backbone.build(construct)
    made = construct()
    if len(backbone.kept(made)) < len(made.state_dict()):
        logger.warning("MODEL.backbone is empty: frozen weights are random, drawn from TRAIN.seed")
    return made


def join(cfg: Config) -> None:
    """Join the other processes, as many as MODEL.tensor_parallel of them to one network."""
    shared = coerce(cfg["MODEL"].get("tensor_parallel", 1), int, "MODEL.tensor_parallel")
    dist.init(shared)


def outline(cfg: Config) -> Any:
    """The network's shapes and types, without values and at no cost in memory."""
    return backbone.outline(_constructor(cfg))


def _constructor(cfg: Config) -> Callable[[], Any]:
    cls = model_class(cfg.model_name)
    kwargs = bind(cls, _arguments(cfg, "MODEL"), cfg.marks)
    return lambda: _construct(cls, kwargs, "MODEL")


def _construct(cls: type, kwargs: dict[str, Any], where: str) -> Any:
    try:
        return cls(**kwargs)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def reader(cfg: Config, split: str) -> Any:
    """Reader of a split: train, valid, test or infer."""
    from reader import get_reader

    cls = get_reader(cfg["DATASET"]["name"])
    section = split.upper()
    kwargs = bind(cls, cfg.reader_args(section), cfg.marks, also=schema()[section])
    if section == "INFER" and "filelist" in _parameters(cls):
        kwargs["filelist"] = cfg["INFER"]["filelist"]
    try:
        return cls(split, **kwargs)
    except ValueError as error:
        raise ConfigError(f"{section}: {error}") from None


def _parameters(cls: type) -> Any:
    import inspect

    return inspect.signature(cls).parameters


def check_sizes(model: Any, batch: dict) -> None:
    """Do the vectors that the reader gives have the lengths that the network takes?

    Raises:
        ConfigError: they do not; names the input and both lengths.
    """
    if not hasattr(model, "example_batch"):
        return
    examples = model.example_batch(1)
    for key in getattr(model, "feature_inputs", examples):
        if key not in batch or key not in examples:
            continue
        expected, found = np.shape(examples[key]), np.shape(batch[key])
        if len(expected) > 1 and found[-1] != expected[-1]:
            raise ConfigError(
                f"{key}: the network takes vectors of {expected[-1]} numbers, the reader "
                f"gives {found[-1]}; change the sizes under MODEL or those of the data set"
            )


def metric(cfg: Config) -> Any:
    """Metric object; needs no Paddle."""
    from metrics import get_metrics

    cls = get_metrics(cfg["METRIC"]["name"])
    kwargs = bind(cls, _arguments(cfg, "METRIC"), cfg.marks)
    return _construct(cls, kwargs, "METRIC")


def extractors(cfg: Config) -> dict[str, Any]:
    """The frozen feature networks of DATASET.extractors by their role, ready to run."""
    built = {}
    for role, options in cfg["DATASET"]["extractors"].items():
        if not isinstance(options, dict) or "name" not in options:
            raise ConfigError(
                f"DATASET.extractors.{role}: expected {{name: ...}}, found {options!r}"
            )
        built[role] = build_extractor(**options)
        if hasattr(built[role], "freeze"):
            built[role].freeze(logger.info)
    return built


def build_extractor(
    name: str, weights: str | None = None, init_seed: int | None = None, **options: Any
) -> Any:
    """A frozen feature network with its weights, in evaluation mode.

    Its ``identity`` names everything that its features depend on, the weights' hash included.

    Raises:
        ConfigError: unknown option, or neither ``weights`` nor ``init_seed`` is given.
    """
    cls = extractor_class(name)
    kwargs = bind(cls, {(f"extractors.{name}", k): v for k, v in options.items()}, {})
    if (weights is None) == (init_seed is None):
        raise ConfigError(
            f"extractors.{name}: expected either weights (a file) or init_seed (random weights), "
            f"found {'both' if weights else 'neither'}"
        )
    if init_seed is not None:
        seed = coerce(init_seed, int, f"extractors.{name}.init_seed")
        extractor = _construct(cls, kwargs | {"init_seed": seed}, f"extractors.{name}")
        extractor.identity["weights"] = f"random, seed {seed}"
    else:
        weights = str(find(weights))
        if not any(Path(weights + suffix).exists() for suffix in ("", ".pdparams")):
            raise WeightsError(
                f"extractors.{name}: expected weights at {weights}, found nothing there; "
                f"{getattr(cls, 'source', 'check the path')}"
            )
        extractor = _construct(cls, kwargs, f"extractors.{name}")
        extractor.identity["weights"] = load_extractor(extractor, weights)
        logger.info("%s: weights %s", name, weights)
    extractor.eval()
    return extractor


def load_extractor(extractor: Any, weights: str) -> str:
    """Fill an extractor from its file or folder; returns the sha256 of what was read."""
    from .weights import load_into, resolve

    if hasattr(extractor, "load_files"):  # several published files, read without copying the tables
        return extractor.load_files(weights)
    path = resolve(weights)
    load_into(extractor, path)
    return sha256(path)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
