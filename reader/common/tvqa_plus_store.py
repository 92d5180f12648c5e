# SPDX-License-Identifier: Apache-2.0
"""Packing of TVQA+'s feature files into a memory-mapped store (see ``tvqa_plus_rows``).

A store grows by whole parts; one is listed in ``index.json`` when all its arrays are on disk. A run
that was killed is started again and goes on with the part that is missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .tvqa_plus import IDENTITY, read_json, stream_json
from .tvqa_plus_regions import frame_boxes, region_counts
from .tvqa_plus_rows import FORMAT, INDEX, H5Rows, read_index

ROLES = {"qa": "text", "subtitles": "text", "regions": "regions"}  # keys of identity.json
_HEADER = 128  # bytes before the first row

Progress = Callable[[Iterable, int, str], Iterable]  # (steps, their number, what) -> steps


def _quiet(steps: Iterable, total: int, what: str) -> Iterable:
    return steps


def read_identity(features: str | os.PathLike, role: str) -> dict[str, Any] | None:
    """What made a feature file, as ``identity.json`` beside it says; None without a stamp."""
    path = Path(features).parent / IDENTITY
    return read_json(path).get(role) if path.exists() else None


def pack(
    folder: str | os.PathLike,
    *,
    qa_bert: Path | None = None,
    sub_bert: Path | None = None,
    vcpt: Path | None = None,
    vfeat: Path | None = None,
    half: bool = False,
    progress: Progress = _quiet,
) -> list[str]:
    """Pack the given files; parts that are complete already are left as they are.

    Args:
        folder: the store; created if need be.
        vcpt, vfeat: both or neither.
        half: store features in half precision: half the disk, errors of up to 5e-4 of a value.
        progress: wraps steps, such as ``lambda steps, total, what: tqdm(steps, what, total)``.

    Returns:
        lines about what the files lack.

    Raises:
        DataError: damaged files, a store of other files, or another process writes to it.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    sources = {"qa": [qa_bert], "subtitles": [sub_bert], "regions": [vfeat, vcpt]}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            return [
                line
                for part, files in sources.items()
                if files[0] is not None
                for line in _pack_part(folder, part, files, half, progress)
            ]
    except Timeout:
        raise DataError(f"{folder}: another process is packing into this folder") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot write the store: {error.strerror or error}") from None


def _pack_part(
    folder: Path, part: str, files: list[Path], half: bool, progress: Progress
) -> list[str]:
    index = read_index(folder) if (folder / INDEX).exists() else {"format": FORMAT, "parts": {}}
    described = {
        "files": [[f.name, f.stat().st_size, int(f.stat().st_mtime)] for f in files],
        "dtype": "float16" if half else "float32",
        "identity": read_identity(files[0], ROLES[part]),
    }
    if part in index["parts"]:
        if index["parts"][part] != described:
            differ = [k for k, v in described.items() if index["parts"][part].get(k) != v]
            raise DataError(
                f"{folder}: holds {part} of other {differ[0]} than {files[0]}; choose another "
                "folder or remove it"
            )
        return []
    features, lines = H5Rows(files[0]), []
    if part == "regions":
        keys = _write_regions(folder, features, files[1], half, progress)
        if rest := sorted(set(features.keys()) - set(keys)):
            lines.append(f"{files[1]}: no boxes of {len(rest)} clips, the first is {rest[0]}")
    else:
        keys = features.keys()
        blocks = ((key, features.read(key)) for key in keys)
        _write_rows(folder, part, features.dim, progress(blocks, len(keys), part), half)
    index["parts"][part] = described
    _replace(folder / INDEX, json.dumps(index, indent=1).encode())
    return lines


def _write_regions(
    folder: Path, features: H5Rows, vcpt: Path, half: bool, progress: Progress
) -> list[str]:
    """Rows, boxes and counts of all clips that both files have; returns their names."""
    frames: dict[str, np.ndarray] = {}  # clip -> counts

    def blocks() -> Iterator[tuple[str, np.ndarray]]:
        for video, entry in stream_json(vcpt):
            if features.length(video) is None:
                continue
            counts = region_counts(f"{vcpt}: {video}", entry)
            rows = features.read(video)
            if len(rows) != counts.sum():
                raise DataError(
                    f"{features.where}: {video}: expected {counts.sum()} rows as counted in "
                    f"{vcpt.name}, found {len(rows)}"
                )
            for frame in range(len(counts)):
                boxes.append(frame_boxes(f"{vcpt}: {video}", entry, frame))
            frames[video] = counts.astype(np.int32)
            yield video, rows

    with _Array(folder / "boxes.npy", np.float64, 4) as boxes:
        steps = progress(blocks(), len(features.keys()), "regions")
        names = _write_rows(folder, "regions", features.dim, steps, half)
    counts = [frames[name] for name in names]
    ends = np.cumsum([len(c) for c in counts], dtype=np.int64)
    _save(folder / "counts.npy", np.concatenate([np.zeros(0, np.int32), *counts]))
    _save(folder / "frames.npy", np.stack([ends - [len(c) for c in counts], ends], 1))
    return names


def _write_rows(
    folder: Path, part: str, dim: int, blocks: Iterable[tuple[str, np.ndarray]], half: bool
) -> list[str]:
    """Write blocks as they come; returns their names as the index has them, sorted."""
    ends: dict[str, tuple[int, int]] = {}
    with _Array(folder / f"{part}.npy", np.float16 if half else np.float32, dim) as array:
        for key, rows in blocks:
            first = array.rows
            array.append(rows)
            ends[key] = (first, array.rows)
    names = sorted(ends)
    _save(folder / f"{part}_keys.npy", np.array([name.encode() for name in names], np.bytes_))
    spans = np.array([ends[name] for name in names], np.int64).reshape(-1, 2)
    _save(folder / f"{part}_spans.npy", spans)
    return names


class _Array:
    """An ``.npy`` file of unknown length; it gets its name when it is complete."""

    def __init__(self, path: Path, dtype: type, dim: int):
        self._path, self._dtype, self._dim = path, np.dtype(dtype).newbyteorder("<"), dim
        self.rows = 0

    def append(self, rows: np.ndarray) -> None:
        """Add rows (n, dim)."""
        with np.errstate(over="ignore"):
            values = rows.astype(self._dtype)
        if values.dtype.itemsize < rows.dtype.itemsize and not np.isfinite(values).all():
            raise DataError(
                f"{self._path.name}: expected numbers below 65504 for half precision, found "
                f"{np.abs(rows).max():g}; pack without --half"
            )
        self._file.write(values.tobytes())
        self.rows += len(rows)

    def __enter__(self) -> _Array:
        self._file = open(_partial(self._path), "wb")
        self._file.write(b"\0" * _HEADER)
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is None:
            shape = f"({self.rows}, {self._dim})"
            text = f"{{'descr': '{self._dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
            head = b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little")
            self._file.seek(0)
            self._file.write(head + text.ljust(_HEADER - 11).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            os.replace(_partial(self._path), self._path)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _save(path: Path, array: np.ndarray) -> None:
    with open(_partial(path), "wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
    os.replace(_partial(path), path)


def _replace(path: Path, data: bytes) -> None:
    with open(_partial(path), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(_partial(path), path)
