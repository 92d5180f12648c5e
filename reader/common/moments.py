# SPDX-License-Identifier: Apache-2.0
"""Files of moment localisation: sentence vectors by moment, and video lengths.

Sentence file: a pickle of ``[[name, vectors], ...]`` with name ``<video>_<start>_<end>`` (frames)
and vectors (n, E) float32 or a list of such rows. It is written as Python 2 would write it
(protocol 2, byte strings), so that the published Python 2 code reads it, too. Beside it,
``<file>.identity.json`` names what made the vectors.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from . import safe_pickle
from .errors import DataError

Entry = tuple[str, np.ndarray]  # name, vectors (n, E) float32


class VideoInfo(NamedTuple):
    """Length and rate of a video."""

    num_frames: int
    fps: float | None = None


def read_sentences(path: str | os.PathLike) -> list[Entry]:
    """Entries of a sentence file in file order; protocols 0-5, Python 2 or 3, arrays or lists.

    Raises:
        DataError: not such a pickle, no entry, or vectors that are not numbers of one size.
    """
    data = safe_pickle.load(path, encoding="bytes")
    if not isinstance(data, list | tuple) or not data:
        raise DataError(
            f"{path}: expected a list of [name, vectors], found {_describe(data)}; "
            "make the file again with data/dataset/tall/prepare.py"
        )
    entries = [_entry(f"{path}: entry {i}", item) for i, item in enumerate(data)]
    sizes = {vectors.shape[1]: name for name, vectors in entries if len(vectors)}
    if len(sizes) > 1:
        found = ", ".join(f"{size} ({name})" for size, name in sizes.items())
        raise DataError(f"{path}: expected sentence vectors of one size, found {found}")
    return entries


def _describe(data: Any) -> str:
    return f"an empty {type(data).__name__}" if data in ([], (), {}) else type(data).__name__


def _entry(where: str, item: Any) -> Entry:
    if not isinstance(item, list | tuple) or len(item) != 2:
        raise DataError(f"{where}: expected [name, vectors], found {type(item).__name__}")
    name, vectors = item
    try:
        name = name.decode("utf-8") if isinstance(name, bytes) else name
        if not isinstance(name, str):
            raise ValueError(f"a name of type {type(name).__name__}")
        rows = np.asarray(vectors, np.float32)
        if rows.size == 0:
            rows = rows.reshape(0, 0)
        if rows.ndim != 2:
            raise ValueError(f"an array of shape {rows.shape}")
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: expected a name and vectors (n, E), found: {error}") from None
    if not np.isfinite(rows).all():
        raise DataError(f"{where} ({name}): expected finite numbers, found NaN or infinity")
    return name, rows


def write_sentences(
    path: str | os.PathLike, entries: Sequence[Entry], stamp: Mapping[str, Any] | None = None
) -> None:
    """Write a sentence file and its stamp: {"identity": of the extractor, ...}."""
    stamp_path(path).unlink(missing_ok=True)  # a stamp never stands beside an older file
    items = [[name, list(np.asarray(vectors, np.float32))] for name, vectors in entries]
    write_python2_pickle(path, items)
    if stamp:
        write_json(stamp_path(path), dict(stamp))


def stamp_path(path: str | os.PathLike) -> Path:
    """Where the stamp of a sentence file, or of a folder of windows, stands."""
    return Path(f"{Path(path)}.identity.json")


def read_stamp(path: str | os.PathLike) -> dict[str, Any]:
    """The stamp of a file or folder; empty when it has none."""
    return _read_json(stamp_path(path)) if stamp_path(path).exists() else {}


def same_stamp(path: str | os.PathLike, stamp: Mapping[str, Any]) -> bool:
    """Does a sentence file bear this stamp?"""
    return read_stamp(path) == json.loads(json.dumps(stamp))


def read_video_info(path: str | os.PathLike) -> dict[str, VideoInfo]:
    """Video name -> length: a pickle of frame counts, or JSON {name: {num_frames, fps}}.

    Raises:
        DataError: unreadable, or not of that form.
    """
    is_json = str(path).endswith(".json")
    data = _read_json(path) if is_json else safe_pickle.load(path, encoding="bytes")
    try:
        if is_json:
            return {k: VideoInfo(int(v["num_frames"]), v.get("fps")) for k, v in data.items()}
        return {
            (k.decode("utf-8") if isinstance(k, bytes) else str(k)): VideoInfo(int(v))
            for k, v in data.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(f"{path}: expected frame counts by video name, found other data") from None


def _read_json(path: str | os.PathLike) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or f"not JSON: {error}"
        raise DataError(f"{path}: expected a JSON file, found {reason}") from None


def write_json(path: str | os.PathLike, data: Any) -> None:
    """Write JSON in one step."""
    _replace(path, json.dumps(data, indent=1).encode())


def write_python2_pickle(path: str | os.PathLike, data: Any) -> None:
    """Write lists, dicts, numbers, text and arrays as Python 2.7 with an old NumPy would."""
    path = Path(path)
    partial = _partial(path)
    with open(partial, "wb") as file:
        _Python2Pickler(file, protocol=2).dump(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _replace(path: str | os.PathLike, data: bytes) -> None:
    partial = _partial(Path(path))
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _partial(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}")


class _Python2Pickler(pickle._Pickler):
    """Byte strings and text become Python 2 ``str``; NumPy goes by its old module name."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def _save_str(self, obj: str | bytes) -> None:
        raw = obj.encode("utf-8") if isinstance(obj, str) else obj
        short = len(raw) < 256
        head = struct.pack("<cB", b"U", len(raw)) if short else struct.pack("<ci", b"T", len(raw))
        self.write(head)
        self.write(raw)
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = _save_str

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if obj is np.zeros(0).__reduce__()[0]:
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)
