# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that survive a kill at any moment, and exact resumption from them.

A checkpoint is three files with one prefix: ``.pdparams`` (parameters), ``.pdopt`` (optimiser) and
``.pdstate`` (JSON: position, best score, fingerprints of the other two). All are written under
temporary names and fsynced; then ``.pdstate`` alone is renamed, and that is the commit: a reader
takes, for each of the other two, whichever of final and temporary file has the fingerprint that
``.pdstate`` names. A kill before the commit leaves the old checkpoint, a kill after it the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import backbone
from .errors import WeightsError
from .formats import load_checkpoint, load_object, load_state, save_state
from .log import logger

PARAMS, OPTIMISER, STATE, IDENTITY = ".pdparams", ".pdopt", ".pdstate", ".identity.json"
_TEMPORARY = ".tmp"
_MASTER = "_master_weight"  # suffix of fp32 copies of 16-bit parameters in .pdopt


@dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 0  # epoch to go on with
    batch: int = 0  # batches of it already done, a whole number of optimiser steps
    step: int = 0  # optimiser steps done
    best: float | None = None
    best_epoch: int = 0  # in which it was found
    validated: int = 0  # optimiser step of the last validation inside an epoch
    plan: dict[str, Any] = field(default_factory=dict)  # what the position depends on
    digest: str = ""  # of the configuration
    features: dict[str, Any] = field(default_factory=dict)  # identity of what was trained on


def save(prefix: Path, parameters: dict, optimiser: dict, progress: Progress) -> None:
    """Write a checkpoint; it exists as a whole or not at all."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prints = {}
    for suffix, values in ((PARAMS, parameters), (OPTIMISER, optimiser)):
        temporary = _path(prefix, suffix + _TEMPORARY)
        write_durably(temporary, lambda file, values=values: save_state(file, values))
        prints[suffix] = _fingerprint(temporary)
    record = json.dumps({"progress": asdict(progress), "files": prints}, indent=1, default=str)
    replace_text(_path(prefix, STATE), record)
    for suffix in prints:
        os.replace(_path(prefix, suffix + _TEMPORARY), _path(prefix, suffix))
    _sync_folder(prefix.parent)


def load(prefix: Path) -> tuple[dict, dict, Progress]:
    """Parameters, optimiser state and progress of a checkpoint written by ``save``.

    Raises:
        WeightsError: a file is missing or does not belong to the others.
    """
    record = json.loads(_path(prefix, STATE).read_text())
    values = [load_state(_matching(prefix, s, record["files"][s])) for s in (PARAMS, OPTIMISER)]
    return values[0], values[1], Progress(**record["progress"])


def parameters_file(prefix: Path) -> Path:
    """The parameter file of a checkpoint, also when a kill left it under its temporary name."""
    state = _path(prefix, STATE)
    if state.exists():
        return _matching(prefix, PARAMS, json.loads(state.read_text())["files"][PARAMS])
    return _path(prefix, PARAMS)


def _matching(prefix: Path, suffix: str, fingerprint: str) -> Path:
    for name in (suffix, suffix + _TEMPORARY):
        path = _path(prefix, name)
        if path.exists() and _fingerprint(path) == fingerprint:
            return path
    raise WeightsError(
        f"{prefix}{suffix}: expected the file that {prefix.name}{STATE} was saved with, found "
        "another or none; resume from another checkpoint of this folder"
    )


def _path(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)


def _fingerprint(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_durably(path: Path, write: Callable[[Any], None]) -> None:
    """Call ``write(file)`` on a new file and force it to the disk."""
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    temporary = _path(path, _TEMPORARY)
    write_durably(temporary, lambda file: file.write(text.encode()))
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Checkpoints:
    """The checkpoints of one run in ``folder``: per epoch, latest, best, and the oldest removed.

    Args:
        folder: never emptied; only epoch checkpoints of this run beyond ``keep`` are removed.
        name: prefix of all file names, the model's name as the user typed it.
        keep: number of epoch checkpoints to keep; 0: all.
    """

    def __init__(self, folder: str | Path, name: str, keep: int = 0):
        self.folder, self.name, self.keep = Path(folder), name, keep
        self._written: list[Path] = []

    def save(self, tag: str, model: Any, optimizer: Any, progress: Progress) -> Path:
        """Save as ``<name>_<tag>`` and make it the latest."""
        prefix = self.folder / f"{self.name}_{tag}"
        save(prefix, *state_of(model, optimizer), progress)
        replace_text(self.folder / f"{self.name}_latest", prefix.name + "\n")
        if prefix in self._written:
            self._written.remove(prefix)
        self._written.append(prefix)
        self._prune()
        return prefix

    def export(self, tag: str, model: Any, features: Any = None) -> Path:
        """Write the parameters alone as ``<name>_<tag>.pdparams`` (``<name>.pdparams`` when empty).

        What is known of the features they were trained on goes beside them.
        """
        path = self.folder / f"{self.name}{'_' + tag if tag else ''}{PARAMS}"
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = _path(path, _TEMPORARY)
        write_durably(temporary, lambda file: save_state(file, parameters_of(model)))
        if features:
            replace_text(path.with_suffix(IDENTITY), json.dumps(features, indent=1))
        os.replace(temporary, path)
        return path

    def _prune(self) -> None:
        while self.keep and len(self._written) > self.keep:
            old = self._written.pop(0)
            for suffix in (STATE, PARAMS, OPTIMISER):
                _path(old, suffix).unlink(missing_ok=True)


def parameters_of(model: Any) -> dict[str, np.ndarray]:
    """Name -> array of everything that the network is made of, but for a frozen backbone."""
    return {name: value.numpy() for name, value in backbone.kept(model).items()}


def state_of(model: Any, optimizer: Any) -> tuple[dict, dict]:
    """Parameters and optimiser state, both under the parameters' structured names.

    Paddle names a parameter's accumulators after a process-wide counter; renaming them makes the
    file independent of what else the process built. Flat networks get the names of release 1.8.
    """
    names = {p.name: n for n, p in model.named_parameters()}
    optimiser = {}
    state = optimizer.state_dict()
    for name, value in state.pop("master_weights", {}).items():  # autocast O2
        state[f"{name}{_MASTER}"] = value
    for key, value in state.items():
        owner = max((n for n in names if key.startswith(n + "_")), key=len, default=None)
        key = names[owner] + key[len(owner) :] if owner else key
        optimiser[key] = value.numpy() if hasattr(value, "numpy") else value
    return parameters_of(model), optimiser


def restore_optimiser(model: Any, optimizer: Any, state: dict[str, Any]) -> int:
    """Fill the optimiser from ``state_of``'s or release 1.8's names; returns the entries used."""
    import paddle

    names = {n: p.name for n, p in model.named_parameters()}
    renamed = {}
    for key, value in state.items():
        owner = max((n for n in names if key.startswith(n + "_")), key=len, default=None)
        if owner and isinstance(value, np.ndarray):
            renamed[names[owner] + key[len(owner) :]] = paddle.to_tensor(value)
    used = len(renamed)
    masters = {k: renamed.pop(k) for k in list(renamed) if k.endswith(_MASTER)}
    if masters:
        renamed["master_weights"] = {k.removesuffix(_MASTER): v for k, v in masters.items()}
    if renamed:
        optimizer.set_state_dict(renamed)
    return used


def find(resume: str | Path, name: str) -> Path:
    """Prefix of the checkpoint that ``--resume`` means: folder, prefix or one of its files.

    Raises:
        WeightsError: there is none.
    """
    path = Path(resume)
    if path.is_dir() and (path / f"{name}_latest").exists():
        return path / (path / f"{name}_latest").read_text().strip()
    if path.suffix in (PARAMS, OPTIMISER, STATE):
        path = path.with_suffix("")
    if any(_path(path, s).exists() for s in (STATE, PARAMS)):
        return path
    raise WeightsError(
        f"--resume {resume}: expected a checkpoint prefix, its .pdparams, a .pdckpt or a folder "
        f"with {name}_latest, found none; give the path without its suffix"
    )


def resume(path: str, name: str, model: Any, optimizer: Any) -> Progress:
    """Continue from ``path``: everything when it is our checkpoint, else what it holds.

    Bare parameters and files of older releases give parameters and, where there is one, the
    optimiser's state; the run then starts at epoch 0. Training checkpoints of a published
    implementation are taken where the network can read them (``read_training``).
    """
    from .weights import apply_state, resolve

    if hasattr(model, "read_training") and _is_foreign(path):
        return _resume_published(path, model, optimizer)
    if Path(path).suffix == ".pdckpt" or (Path(path).is_dir() and not _has_latest(path, name)):
        prefix, parameters_at = None, resolve(path)
    else:
        prefix = find(path, name)
        parameters_at = _path(prefix, PARAMS)
    progress = Progress()
    if prefix and _path(prefix, STATE).exists():
        parameters, optimiser, progress = load(prefix)
    else:
        shapes = {k: tuple(v.shape) for k, v in backbone.kept(model).items()}
        parameters, optimiser = load_checkpoint(parameters_at, shapes)
        if prefix and _path(prefix, OPTIMISER).exists():
            optimiser = load_state(_path(prefix, OPTIMISER))
    backbone.check(model, progress.features or {}, str(path))
    apply_state(model, model.convert(parameters), source=str(path))
    used = restore_optimiser(model, optimizer, optimiser)
    if not used:
        logger.warning("%s holds no optimiser state: the optimiser starts afresh", path)
    logger.info("resumed from %s: epoch %d, step %d", prefix or path, progress.epoch, progress.step)
    return progress


def _is_foreign(path: str) -> bool:
    return Path(path).is_file() and Path(path).suffix not in (PARAMS, OPTIMISER, STATE, ".pdckpt")


def _resume_published(path: str, model: Any, optimizer: Any) -> Progress:
    """Go on after the epoch that a published implementation saved: weights, moments, position."""
    from .weights import apply_state

    try:
        found = model.read_training(load_object(path))
    except ValueError as error:
        raise WeightsError(f"--resume {path}: {error}") from None
    apply_state(model, found["parameters"], source=path)
    state, step = {}, found["step"]
    for name, (first, second) in found["moments"].items():
        state |= {f"{name}_moment1_0": first, f"{name}_moment2_0": second}
        for number, beta in enumerate(found["betas"], 1):  # Paddle keeps the next step's power
            power = np.full([1], beta ** (step + 1), np.float32)
            state[f"{name}_beta{number}_pow_acc_0"] = power
    restore_optimiser(model, optimizer, state)
    progress = Progress(epoch=found["epoch"] + 1, step=step)
    logger.info("resumed from %s: epoch %d, step %d", path, progress.epoch, progress.step)
    return progress


def trained_features(path: Path) -> dict[str, Any]:
    """Identity of the features that parameters were trained on; empty if unknown."""
    identity, state = (path.with_name(path.stem + s) for s in (IDENTITY, STATE))
    if identity.is_file():
        return json.loads(identity.read_text())
    if state.is_file():
        return json.loads(state.read_text())["progress"]["features"] or {}
    return {}


def _has_latest(folder: str, name: str) -> bool:
    return (Path(folder) / f"{name}_latest").exists()
