# SPDX-License-Identifier: Apache-2.0
"""Frozen weights that come from elsewhere and are no part of our checkpoints.

A network with such a backbone offers

* ``backbone``: its file or folder, or None;
* ``own(name)``: is this parameter kept in checkpoints?
* ``read_backbone(open_file)``: checks at once what it can (ValueError), and returns an iterator
  over (name, array) of the whole backbone in the network's layout; ``open_file`` is
  ``formats.open_state``;
* optionally ``part(name, array)``: what this process holds of an array, and ``backbone_sizes``,
  which the cache keeps: ``open_file(cache).metadata["sizes"]`` has them as JSON.

A published folder is converted once: its arrays go into one safetensors file beside it, which is
mapped from then on. Memory holds the network and one array.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from reader.common.raw_arrays import widen_bfloat16

from .config import find
from .errors import WeightsError
from .formats import SAFE_TYPES, Arrays, open_state
from .log import logger

CACHE = "vlzoo_backbone.safetensors"
_HEADER = 1 << 16  # bytes of the cache's header beside 128 for each array
_TYPES = {np.dtype(v.replace("bf16", "u2")): k for k, v in SAFE_TYPES.items() if k != "U16"}


def kept(model: Any) -> dict[str, Any]:
    """Name -> parameter or buffer of what checkpoints of ``model`` hold."""
    own = getattr(model, "own", lambda name: True)
    return {name: value for name, value in model.state_dict().items() if own(name)}


def outline(construct: Callable[[], Any]) -> Any:
    """The network that ``construct`` makes, with shapes and types but without values."""
    import paddle

    with paddle.LazyGuard():
        return construct()


def build(construct: Callable[[], Any]) -> Any:
    """The network that ``construct`` makes, with its backbone; only the rest is initialised.

    Raises:
        WeightsError: the backbone is missing, damaged or that of another network.
    """
    model = outline(construct)
    fill(model)
    empty = {n: p for n, p in model.named_parameters() if not p._is_initialized()}
    if lacking := [name for name in empty if not model.own(name)]:
        raise WeightsError(
            f"{model.backbone}: expected all frozen weights, found no {lacking[0]} "
            f"({len(lacking)} missing); check the files"
        )
    for parameter in empty.values():
        parameter.initialize()
    return model


def fill(model: Any) -> None:
    """Read the backbone into ``model``; of a folder, by way of the cache in it."""
    started, path, files = time.perf_counter(), find(model.backbone), _Files()
    model.backbone = str(path)
    with _told():
        arrays: Iterable = _fitting(model, model.read_backbone(files.open))
        if path.is_dir():
            cache = path / CACHE
            if _fresh(cache) or _convert(cache, arrays, model, files):
                path, arrays = cache, _fitting(model, files.open(cache).items())
            else:
                arrays = _fitting(model, model.read_backbone(files.open))
        count, model.backbone_digest = _set_all(model, arrays, files)
    seconds = time.perf_counter() - started
    logger.info("Load backbone from %s: %d arrays in %.1f s", path, count, seconds)


@contextmanager
def _told() -> Iterator[None]:
    """A network says with ValueError what is wrong with its backbone."""
    try:
        yield
    except ValueError as error:
        raise WeightsError(str(error)) from None


class _Files:
    """The files that are open, whose memory is given back again and again."""

    def __init__(self) -> None:
        self.opened: list[Arrays] = []

    def open(self, path: str | os.PathLike) -> Arrays:
        self.opened.append(open_state(path))
        return self.opened[-1]

    def release(self) -> None:
        for file in self.opened:
            file.release()

    def stamps(self) -> list[tuple[str, int, int]]:
        """Name, bytes and time of change of each."""
        found = [(file.path.name, os.stat(file.path)) for file in self.opened]
        return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


# ---- into the network


def _set_all(
    model: Any, arrays: Iterable[tuple[str, np.ndarray]], files: _Files
) -> tuple[int, str]:
    """Fill the parameters; returns the number of arrays and a digest of the small ones.

    Vectors alone tell one training of a network from another, and are the same in every format.
    """
    own, digest, count = model.state_dict(), hashlib.blake2b(digest_size=16), 0
    vectors = {}
    for name, array in arrays:
        if array.ndim == 1:
            vectors[name] = hashlib.blake2b(_wide(array).tobytes(), digest_size=16).digest()
        _set(own[name], _part(model, name, array), files)
        count += 1
    for name in sorted(vectors):
        digest.update(vectors[name])
    return count, digest.hexdigest()


def _fitting(model: Any, arrays: Iterable[tuple[str, np.ndarray]]) -> Iterator:
    """The arrays, each checked against the network before anything is made of it."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, array in arrays:
        found = _part(model, name, array).shape
        if shapes.get(name) != found:
            wanted = list(shapes[name]) if name in shapes else "no such weight"
            raise WeightsError(
                f"{model.backbone}: {name}: expected {wanted}, found {list(found)}; use the "
                "configuration that these weights belong to"
            )
        yield name, array


def _part(model: Any, name: str, array: np.ndarray) -> np.ndarray:
    """What this process holds of an array."""
    return model.part(name, array) if hasattr(model, "part") else array


def _wide(array: np.ndarray) -> np.ndarray:
    return widen_bfloat16(array) if array.dtype == np.uint16 else array.astype(np.float32)


def _set(parameter: Any, array: np.ndarray, files: _Files) -> None:
    """Fill a parameter that has no value yet, with an array that is uint16 for bfloat16."""
    import paddle

    tensor = paddle.to_tensor(np.ascontiguousarray(array))
    files.release()
    if tensor.dtype != parameter.dtype:
        tensor = tensor.astype(parameter.dtype)
    tensor._share_buffer_to(parameter)


# ---- the cache


def _fresh(cache: Path) -> bool:
    """Is there a cache, made of what lies beside it? What was deleted since does no harm."""
    if not cache.is_file():
        return False
    try:
        stamps = json.loads(open_state(cache).metadata["sources"])
    except (WeightsError, KeyError, ValueError):
        return False
    present = [(cache.parent / name, size, changed) for name, size, changed in stamps]
    return all(
        not path.exists() or (path.stat().st_size, path.stat().st_mtime_ns) == (size, changed)
        for path, size, changed in present
    )


def _convert(cache: Path, arrays: Iterable, model: Any, files: _Files) -> bool:
    """Write the cache; without room or permission there is none."""
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}.tmp")
    try:
        with _alone(cache):
            if _fresh(cache):  # another process was faster
                return True
            logger.info("%s is converted once, into %s", cache.parent, cache.name)
            with open(temporary, "wb") as file:
                _write(file, arrays, model, files)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, cache)
    except OSError as error:
        logger.warning("%s is not written (%s): loading stays slow", cache, error.strerror)
        return False
    finally:
        with suppress(OSError):
            temporary.unlink()
    return True


def _write(file: Any, arrays: Iterable, model: Any, files: _Files) -> None:
    """A safetensors file; the header, whose place is kept free, comes last."""
    names = list(model.state_dict())
    room = (_HEADER + sum(128 + len(name) for name in names)) // 8 * 8
    entries, at = {}, 0
    file.seek(8 + room)
    for name, array in arrays:
        place = [at, at + array.nbytes]
        shape = list(array.shape)
        entries[name] = {"dtype": _TYPES[array.dtype], "shape": shape, "data_offsets": place}
        file.write(np.ascontiguousarray(array).data)
        files.release()
        at = place[1]
    sizes = json.dumps(getattr(model, "backbone_sizes", {}))
    metadata = {"sizes": sizes, "sources": json.dumps(files.stamps())}
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    file.seek(0)
    file.write(struct.pack("<Q", room) + header.ljust(room))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock on a file's making; the system frees it when its holder dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that writes %s", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# ---- which backbone a checkpoint was trained with


def identity(model: Any) -> dict[str, Any]:
    """What a checkpoint keeps of a frozen backbone; empty without one."""
    digest = getattr(model, "backbone_digest", None)
    frozen = digest and len(kept(model)) < len(model.state_dict())
    return {"backbone": {"digest": digest}} if frozen else {}


def check(model: Any, trained: dict[str, Any], source: str) -> None:
    """Refuse a checkpoint that was trained with another backbone.

    Args:
        trained: what the checkpoint keeps, see ``identity``; published ones keep nothing.

    Raises:
        WeightsError: they differ.
    """
    expected, found = trained.get("backbone"), identity(model).get("backbone")
    if expected and found and expected["digest"] != found["digest"]:
        raise WeightsError(
            f"{source}: expected the backbone that it was trained with (digest "
            f"{expected['digest'][:8]}), found {model.backbone} (digest {found['digest'][:8]}); "
            "set MODEL.backbone to the former"
        )
