# SPDX-License-Identifier: Apache-2.0
"""Features of TVQA+: named blocks of rows, in the published HDF5 files or in a packed store.

A store is a folder with, for each part (``qa``, ``subtitles``, ``regions``), ``<part>.npy`` (all
rows), ``<part>_keys.npy`` (sorted names) and ``<part>_spans.npy`` (first row and end of each name),
all memory-mapped when read. Besides, ``regions`` has ``boxes.npy`` (float64, as published, one per
row), ``counts.npy`` (rows of every frame) and ``frames.npy`` (first frame and end of each name).
``index.json`` lists the parts that are complete, and what made them.

Files are opened by the process that reads them, so readers can be sent to worker processes.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .tvqa_plus import read_json

INDEX = "index.json"
FORMAT = "tvqa_plus 1"
Spans = Sequence[tuple[int, int]]  # (first row, end) of ranges, one after another


class Rows:
    """Blocks of rows by name."""

    dim: int  # numbers of a row
    where: str  # file, for messages

    def length(self, key: str) -> int | None:
        """Rows of a block; None if there is no such block."""
        raise NotImplementedError

    def keys(self) -> list[str]:
        """All names, sorted."""
        raise NotImplementedError

    def width(self, key: str) -> int:
        """Numbers of a row of a block, which should be ``dim``."""
        return self.dim

    def read(self, key: str, spans: Spans | None = None) -> np.ndarray:
        """Rows of a block, all of them or those of some ranges one after another: float32 (n, D).

        Raises:
            DataError: no such block, fewer rows, or values that are not finite.
        """
        length = self.length(key)
        if length is None:
            raise DataError(f"{self.where}: expected features of {key}, found none")
        spans = [(0, length)] if spans is None else [span for span in spans if span[1] > span[0]]
        end = max((stop for _, stop in spans), default=0)
        if end > length:
            raise DataError(f"{self.where}: {key}: expected {end} rows or more, found {length}")
        rows = self._read(key, spans) if spans else np.zeros((0, self.dim), np.float32)
        if not np.isfinite(rows).all():
            raise DataError(f"{self.where}: {key}: expected finite numbers, found NaN or infinity")
        return rows

    def _read(self, key: str, spans: Spans) -> np.ndarray:
        raise NotImplementedError


class H5Rows(Rows):
    """One dataset per name in an HDF5 file.

    Raises:
        DataError: no HDF5 file, or an empty one.
    """

    def __init__(self, path: str | os.PathLike):
        self.where = str(path)
        self._owner, self._last = 0, (None, None)
        first = next(iter(self._open()), None)
        if first is None:
            raise DataError(f"{path}: expected features, found an empty file")
        self.dim = self._dataset(first).shape[1]

    def _open(self) -> Any:
        """The file, opened once per process: HDF5's state does not survive a fork."""
        if self._owner != os.getpid():
            import h5py

            try:
                self._file, self._owner = h5py.File(self.where, "r"), os.getpid()
                self._last = (None, None)
            except OSError as error:
                raise DataError(f"{self.where}: expected an HDF5 file ({error})") from None
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k != "_file"}
        return state | {"_owner": 0, "_last": (None, None)}

    def _dataset(self, key: str) -> Any:
        """A dataset or None; the last one asked for is at hand without a look into the file."""
        file = self._open()
        if self._last[0] != key:
            dataset = file.get(key)
            if dataset is not None and getattr(dataset, "ndim", 0) != 2:
                raise DataError(f"{self.where}: {key}: expected rows of numbers, found {dataset}")
            self._last = key, dataset
        return self._last[1]

    def keys(self) -> list[str]:
        return sorted(self._open())

    def length(self, key: str) -> int | None:
        dataset = self._dataset(key)
        return None if dataset is None else dataset.shape[0]

    def width(self, key: str) -> int:
        return self._dataset(key).shape[1]

    def _read(self, key: str, spans: Spans) -> np.ndarray:
        dataset = self._dataset(key)
        if dataset.shape[1] != self.dim:
            raise DataError(
                f"{self.where}: {key}: expected rows of {self.dim} numbers as in the rest of the "
                f"file, found {dataset.shape[1]}"
            )
        if len(spans) == 1:
            return dataset[slice(*spans[0])].astype(np.float32, copy=False)
        return self._read_at_once(dataset, spans)

    def _read_at_once(self, dataset: Any, spans: Spans) -> np.ndarray:
        """All ranges by one call, which takes a tenth of the time of a call for each."""
        import h5py

        rows = np.empty((sum(b - a for a, b in spans), self.dim), np.float32)
        chosen = dataset.id.get_space()
        chosen.select_none()
        for a, b in spans:
            chosen.select_hyperslab((a, 0), (b - a, self.dim), op=h5py.h5s.SELECT_OR)
        dataset.id.read(h5py.h5s.create_simple(rows.shape), chosen, rows)
        return rows


class StoreRows(Rows):
    """One part of a packed store."""

    def __init__(self, folder: Path, part: str):
        self.where = str(folder / f"{part}.npy")
        self._folder, self._part = folder, part
        self._arrays: dict[str, np.ndarray] = {}
        self.dim = self.array(part).shape[1]

    def array(self, name: str) -> np.ndarray:
        """One array of the store, mapped."""
        if name not in self._arrays:
            path = self._folder / f"{name}.npy"
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise DataError(f"{path}: expected an array, found none ({error})") from None
            self._arrays[name] = np.asarray(array)
        return self._arrays[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": {}}

    def row(self, key: str) -> int | None:
        """Position of a name."""
        names, name = self.array(f"{self._part}_keys"), key.encode()
        if len(name) > names.dtype.itemsize:
            return None
        at = int(np.searchsorted(names, np.array(name, names.dtype)))
        return at if at < len(names) and names[at] == name else None

    def keys(self) -> list[str]:
        return [name.decode() for name in self.array(f"{self._part}_keys").tolist()]

    def _span(self, row: int) -> tuple[int, int]:
        first, end = self.array(f"{self._part}_spans")[row].tolist()
        return first, end

    def length(self, key: str) -> int | None:
        row = self.row(key)
        return None if row is None else int(np.subtract(*self._span(row)[::-1]))

    def _read(self, key: str, spans: Spans) -> np.ndarray:
        first, _ = self._span(self.row(key))
        rows = self.array(self._part)
        chosen = [rows[first + a : first + b] for a, b in spans]
        return np.concatenate(chosen).astype(np.float32, copy=False)


def read_index(folder: Path) -> dict[str, Any]:
    """``index.json`` of a store.

    Raises:
        DataError: no store, or one of another format.
    """
    if not (folder / INDEX).exists():
        raise DataError(f"{folder}: expected a store with {INDEX}; make it with prepare.py pack")
    index = read_json(folder / INDEX)
    if index.get("format") != FORMAT or not isinstance(index.get("parts"), dict):
        raise DataError(f"{folder / INDEX}: expected a store of format {FORMAT!r}; pack it again")
    return index


def open_part(folder: Path, part: str) -> StoreRows:
    """A complete part of a store.

    Raises:
        DataError: it is missing or not complete.
    """
    found = sorted(read_index(folder)["parts"])
    if part not in found:
        raise DataError(
            f"{folder}: expected a store with {part}, found {', '.join(found) or 'nothing'}; "
            "run prepare.py pack again"
        )
    return StoreRows(folder, part)
