# SPDX-License-Identifier: Apache-2.0
"""Files of named feature vectors: the original folders of one `.npy` each, and packed stores.

A store is a folder with `features.npy` (float32 [N, D], memory-mapped when read) and `index.json`
({"names", "dim", "identity"}). It counts as finished once `index.json` exists; until then
`progress.jsonl` says which rows are there, so that a writer that was killed goes on where it was.
A folder of `shard-<i>-of-<n>` stores opens as one.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .journal import LOCK, PROGRESS, Journal, flush

FEATURES, INDEX = "features.npy", "index.json"
HEADER = 128  # bytes before the first row; the header is written last


class FeatureSource:
    """Named vectors to read by row number."""

    names: list[str]  # sorted as plain strings, without `.npy`
    dim: int  # length of a vector
    identity: dict[str, Any] | None = None  # what made them; unknown for a folder of `.npy`

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Vectors float32 [n, D] of row numbers.

        Raises:
            DataError: a vector is missing, of another length, or not finite; names the file.
        """
        indices = np.asarray(indices, np.int64).reshape(-1)
        values = self._read(indices)
        if not np.isfinite(values).all():
            row = indices[~np.isfinite(values).all(1)][0]
            raise DataError(
                f"{self._where(row)}: expected finite numbers, found NaN or infinity; extract the "
                "feature again"
            )
        return values

    def _read(self, indices: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _where(self, row: int) -> str:
        raise NotImplementedError


def open_features(path: str | os.PathLike) -> FeatureSource:
    """Open a folder of `.npy` files, a packed store, or a folder of shards.

    Raises:
        DataError: nothing there, an unfinished or damaged store, shards missing or of different
            origin.
    """
    folder = Path(path)
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries]
    except OSError as error:
        raise DataError(f"{folder}: expected a folder of features ({error.strerror})") from None
    if INDEX in found:
        return _Store(folder, [folder])
    if PROGRESS in found:
        raise DataError(f"{folder}: expected a finished feature store; run its extraction again")
    if shards := sorted(name for name in found if _SHARD.fullmatch(name)):
        return _Store(folder, [folder / name for name in _complete(folder, shards)])
    names = sorted(name[:-4] for name in found if name.endswith(".npy"))
    if not names:
        raise DataError(f"{folder}: expected .npy files or a feature store, found neither")
    return _Folder(folder, names)


_SHARD = re.compile(r"shard-(\d+)-of-(\d+)")


def shard_folder(store: str | os.PathLike, index: int, count: int) -> Path:
    """Folder of shard `index` (from 0) of `count`; the store itself when there is only one."""
    return Path(store) / f"shard-{index}-of-{count}" if count > 1 else Path(store)


def _complete(folder: Path, shards: list[str]) -> list[str]:
    count, *others = {int(_SHARD.fullmatch(name)[2]) for name in shards}  # type: ignore[index]
    if others:
        raise DataError(f"{folder}: expected shards of one run, found {', '.join(shards)}")
    wanted = [shard_folder(folder, i, count).name for i in range(count)]
    if missing := [name for name in wanted if name not in shards]:
        raise DataError(f"{folder}: missing {', '.join(missing)}; run these shards, too")
    return wanted


class _Folder(FeatureSource):
    """One `.npy` file per vector; files are read when asked for."""

    def __init__(self, folder: Path, names: list[str]):
        self._folder, self.names = folder, names
        self.dim = self._load(0).size

    def _where(self, row: int) -> str:
        return str(self._folder / f"{self.names[row]}.npy")

    def _load(self, row: int) -> np.ndarray:
        path = self._where(row)
        try:
            value = np.load(path, allow_pickle=False)
        except OSError as error:
            raise DataError(f"{path}: expected a feature ({error.strerror or error})") from None
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: expected an array of numbers: {error}") from None
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise DataError(f"{path}: expected an array of numbers, found another kind of file")
        return value

    def _read(self, indices: np.ndarray) -> np.ndarray:
        unique, places = np.unique(indices, return_inverse=True)
        values = np.empty((len(unique), self.dim), np.float32)
        for out, row in zip(values, unique, strict=True):
            value = self._load(row)
            if value.size != self.dim:
                raise DataError(
                    f"{self._where(row)}: expected {self.dim} numbers as in {self.names[0]}.npy, "
                    f"found shape {value.shape}"
                )
            out[:] = value.reshape(-1)
        return values[places.reshape(-1)]


class _Store(FeatureSource):
    """One or more packed stores as one."""

    def __init__(self, path: Path, parts: list[Path]):
        self._path = path
        indexes = [_read_index(part) for part in parts]
        self.dim, self.identity = indexes[0]["dim"], indexes[0]["identity"]
        for part, index in zip(parts, indexes, strict=True):
            if (index["dim"], index["identity"]) != (self.dim, self.identity):
                raise DataError(
                    f"{part}: expected {self.dim} numbers made by {self.identity}, as in "
                    f"{parts[0].name}; found {index['dim']} by {index['identity']}"
                )
        names = [name for index in indexes for name in index["names"]]
        order = sorted(range(len(names)), key=names.__getitem__)
        self.names = [names[i] for i in order]
        if len(set(names)) < len(names):
            double = next(a for a, b in itertools.pairwise(self.names) if a == b)
            raise DataError(f"{path}: expected every name once, found {double} twice")
        self._arrays = [_map(p, i) for p, i in zip(parts, indexes, strict=True)]
        self._row = np.array(order, np.int64)
        self._bounds = np.cumsum([0, *(len(i["names"]) for i in indexes)])

    def _where(self, row: int) -> str:
        return f"{self._path}: {self.names[row]}"

    def _read(self, indices: np.ndarray) -> np.ndarray:
        rows = self._row[indices]
        if len(self._arrays) == 1:
            return self._arrays[0][rows]
        part = np.searchsorted(self._bounds, rows, side="right") - 1
        values = np.empty((len(rows), self.dim), np.float32)
        for number in np.unique(part):
            mine = part == number
            values[mine] = self._arrays[number][rows[mine] - self._bounds[number]]
        return values


def _read_index(store: Path) -> dict[str, Any]:
    path = store / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        names, dim, identity = index["names"], index["dim"], index["identity"]
    except FileNotFoundError:
        raise DataError(f"{store}: expected a finished store; run its extraction again") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: expected names, dim and identity as JSON: {error!r}") from None
    listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not listed or not isinstance(dim, int) or not isinstance(identity, dict | None):
        raise DataError(f"{path}: expected a list of names, an integer dim and an identity")
    return index


def _map(store: Path, index: dict[str, Any]) -> np.ndarray:
    """The rows [N, D] of a store, mapped; there may be more of them than names (unfinished)."""
    path, count = store / FEATURES, len(index["names"])
    try:
        array = np.load(path, mmap_mode="r" if count else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: expected {count} rows of features: {error}") from None
    rows = array.shape[0] if array.ndim == 2 else -1
    if array.dtype != np.float32 or rows < count or array.shape[1] != index["dim"]:
        raise DataError(
            f"{path}: expected float32 of shape ({count}, {index['dim']}), found {array.dtype} "
            f"of shape {array.shape}"
        )
    return np.asarray(array)


class FeatureWriter:
    """Writes a packed store; goes on after a crash, and adds to a finished store.

    Rows reach the disk before the line that names them, `index.json` is replaced last, so the store
    on disk is good at every moment. One process at a time.

    Args:
        path: folder of the store; created if need be.
        dim: length of a vector.
        identity: what makes the vectors; must equal that of rows already there.

    Raises:
        DataError: the folder holds something else, or vectors of another length or origin, or
            another process is writing to it.
    """

    def __init__(self, path: str | os.PathLike, dim: int, identity: dict[str, Any] | None = None):
        self.path, self.dim = Path(path), int(dim)
        self.identity = json.loads(json.dumps(identity))  # as it will be read back
        self._check_folder()
        self._journal = Journal(self.path)
        try:
            self._resume()
        except BaseException:
            self._journal.close()
            raise

    def _check_folder(self) -> None:
        known = {FEATURES, INDEX, PROGRESS, LOCK, INDEX + ".part"}
        found = set(os.listdir(self.path)) if self.path.is_dir() else set()
        if other := sorted(found - known):
            raise DataError(
                f"{self.path}: expected a new folder or a feature store, found {other[0]}"
            )

    def _resume(self) -> None:
        """Read what is there, drop what was cut in the middle, open both files at their ends."""
        self._names: dict[str, None] = {}
        self.finished = (self.path / INDEX).exists()
        if self.finished:
            index = _read_index(self.path)
            self._require(index)
            self._names = dict.fromkeys(index["names"])
        lines = self._journal.open("extract again")
        self._headed = bool(lines)
        if lines:
            self.finished = False
            self._require(lines[0])
            self._names.update(dict.fromkeys(itertools.chain(*lines[1:])))
        self._features = open(self.path / FEATURES, "ab")  # noqa: SIM115
        size = HEADER + len(self._names) * self.dim * 4 if self._names else 0
        if self._features.tell() < size:
            raise DataError(
                f"{self.path / FEATURES}: expected at least {size} bytes, found "
                f"{self._features.tell()}; remove the folder and extract again"
            )
        if self._features.tell() > size:
            self._features.truncate(size)
        if not self._names:
            self._features.write(b"\0" * HEADER)

    def _require(self, found: dict[str, Any]) -> None:
        if (found["dim"], found["identity"]) != (self.dim, self.identity):
            raise DataError(
                f"{self.path}: expected {self.dim} numbers made by {self.identity}, found a store "
                f"of {found['dim']} by {found['identity']}; choose another folder or remove it"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)

    def append(self, names: Sequence[str], rows: np.ndarray) -> None:
        """Add vectors [n, D] under new names; on return they are on disk.

        Raises:
            DataError: a vector is not finite, or the disk does not take it.
        """
        rows = np.ascontiguousarray(rows, "<f4")
        if rows.shape != (len(names), self.dim):
            raise ValueError(f"expected rows ({len(names)}, {self.dim}), found {rows.shape}")
        if len(set(names)) < len(names) or any(name in self._names for name in names):
            raise ValueError(f"names must be new: {list(names)[:3]} ...")
        if not np.isfinite(rows).all():
            bad = names[int(np.flatnonzero(~np.isfinite(rows).all(1))[0])]
            raise DataError(f"{self.path}: the extractor gave NaN or infinity for {bad}")
        try:
            self._features.write(rows.tobytes())
            flush(self._features)
            if not self._headed:
                self.finished, self._headed = False, True
                self._journal.line({"dim": self.dim, "identity": self.identity})
            self._journal.line(list(names))
        except OSError as error:
            raise DataError(f"{self.path}: cannot write: {error.strerror}") from None
        self._names.update(dict.fromkeys(names))

    def finish(self) -> None:
        """Make the store readable; nothing can be added afterwards."""
        if not self.finished:
            self._features.flush()
            with open(self.path / FEATURES, "r+b") as file:
                file.write(_header(len(self._names), self.dim))
                flush(file)
            index = {"dim": self.dim, "identity": self.identity, "names": list(self._names)}
            with open(self.path / (INDEX + ".part"), "w", encoding="utf-8") as file:
                json.dump(index, file)
                flush(file)
            os.replace(file.name, self.path / INDEX)
            self.finished = True
        self._features.close()
        self._journal.remove()

    def close(self) -> None:
        """Let go of the files; what was appended stays for the next writer."""
        self._features.close()
        self._journal.close()

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _header(rows: int, dim: int) -> bytes:
    """Header of an `.npy` file (version 1.0) padded to its fixed size."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}"
    size = HEADER - 10
    return b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + text.ljust(size - 1).encode() + b"\n"


def pack(
    source: str | os.PathLike,
    store: str | os.PathLike,
    progress: Callable[[Iterable], Iterable] = iter,
    chunk: int = 1024,
) -> None:
    """Copy features of any kind (a folder of `.npy` files, shards) into one packed store.

    Goes on where it was after a crash.

    Args:
        progress: wraps the iterable of steps, such as tqdm.
        chunk: vectors per step.

    Raises:
        DataError: a bad source file, or a store that holds other names.
    """
    features = open_features(source)
    with FeatureWriter(store, features.dim, features.identity) as writer:
        todo = [i for i, name in enumerate(features.names) if name not in writer]
        if len(writer) + len(todo) != len(features):
            raise DataError(f"{store}: holds names that {source} has not; choose another folder")
        for first in progress(range(0, len(todo), chunk)):
            rows = todo[first : first + chunk]
            writer.append([features.names[i] for i in rows], features.rows(rows))
        writer.finish()
