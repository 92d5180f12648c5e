# SPDX-License-Identifier: Apache-2.0
"""Read files of ``torch.save`` without PyTorch: the zip form and the older form without zip.

Such a file is a pickle that describes tensors as (storage, offset, size, stride), beside the raw
bytes of the storages. The pickle goes through the allow-list unpickler with the names below added;
a tensor's bytes are touched only when it is asked for, straight from the memory-mapped file.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from reader.common import safe_pickle

from .errors import WeightsError
from .streams import array_at

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_TYPES = {
    "Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bf16", "Long": "i8", "Int": "i4",
    "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?", "ComplexFloat": "c8",
    "ComplexDouble": "c16",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A tensor that has not been read yet; offset and strides in elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    numel: int
    start: int = 0  # in elements, for the views of very old files


class _Namespace(dict):
    """Stands for argparse.Namespace: training options beside the tensors."""

    def __setstate__(self, state: dict) -> None:
        self.update(state)


@dataclass(frozen=True)
class TorchFile:
    """The object that was saved, with ``Tensor`` where a tensor is, and the means to read those."""

    tree: Any
    array: Callable[[Tensor], np.ndarray]


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without storage")
    return Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _from_type(function: Any, kind: Any, args: tuple, *_: Any) -> Any:
    if function not in (_tensor, _parameter):
        raise ValueError("a tensor of an unknown kind")
    return function(*args)


def _globals() -> dict[tuple[str, str], Any]:
    table: dict[tuple[str, str], Any] = {("torch", f"{n}Storage"): t for n, t in _TYPES.items()}
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"):
        table["torch", name] = f"torch.{name}"
    table |= {
        ("torch", "Size"): lambda size=(): size,
        ("torch", "device"): lambda *parts: ":".join(map(str, parts)),
        ("torch", "Tensor"): "torch.Tensor",
        ("torch.nn.parameter", "Parameter"): "torch.nn.Parameter",
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
        ("argparse", "Namespace"): _Namespace,
        ("collections", "defaultdict"): lambda factory=None: {},
    }
    return table


class _Reader:
    """Finds storages in the mapped file and cuts tensors out of them."""

    def __init__(self, path: str, data: mmap.mmap):
        self.path, self.data = path, data
        self.order = "<"
        self.places: dict[str, tuple[int, int]] = {}  # storage key -> byte offset, byte length
        self.budget = 4 * len(data) + (64 << 20)  # overlapping and repeated tensors are copied

    def storage(self, reference: tuple) -> _Storage:
        kind, dtype, key, _, numel, *view = reference
        if kind != "storage" or dtype not in _TYPES.values():
            raise WeightsError(
                f"{self.path}: expected a state dict, found a saved module; save its state_dict()"
            )
        start = 0
        if view and view[0]:
            _, start, numel = view[0]
        return _Storage(dtype, str(key), int(numel), int(start))

    def array(self, tensor: Tensor) -> np.ndarray:
        storage, size, stride = tensor.storage, tensor.size, tensor.stride
        item = np.dtype(storage.dtype.replace("bf16", "u2")).itemsize
        if storage.key not in self.places:
            raise ValueError(f"storage {storage.key} is missing")
        start, length = self.places[storage.key]
        if len(size) != len(stride) or min((tensor.offset, storage.start, *size, *stride)) < 0:
            raise ValueError(f"a tensor of size {size} and stride {stride}")
        if 0 in size:
            return np.empty(size, "f4" if storage.dtype == "bf16" else storage.dtype)
        last = tensor.offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if last >= storage.numel or (storage.start + storage.numel) * item > length:
            raise ValueError(f"a tensor that reaches beyond storage {storage.key}")
        begin = start + (storage.start + tensor.offset) * item
        dtype, strides = self.order + storage.dtype, tuple(s * item for s in stride)
        if math.prod(size) * item > self.budget:
            raise ValueError("tensors far larger than the file")
        made = array_at(self.data, dtype, size, begin, strides)
        if made.base is None or storage.dtype == "bf16":
            self.budget -= made.nbytes
        return made


def _zip_member(data: mmap.mmap, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Byte offset and length of a stored member."""
    at = info.header_offset
    if info.compress_type != zipfile.ZIP_STORED or data[at : at + 4] != b"PK\3\4":
        raise ValueError(f"member {info.filename} is compressed or misplaced")
    name, extra = struct.unpack_from("<HH", data, at + 26)
    start = at + 30 + name + extra
    if start + info.file_size > len(data):
        raise ValueError(f"member {info.filename} breaks off")
    return start, info.file_size


def read_zip(path: str, data: mmap.mmap, archive: zipfile.ZipFile) -> TorchFile:
    """Open the zip form (PyTorch 1.6 and later)."""
    names = {info.filename: info for info in archive.infolist()}
    index = next(n for n in names if n.endswith("data.pkl"))
    top = index[: -len("data.pkl")]
    if any(n.startswith(f"{top}code/") for n in names):
        raise WeightsError(
            f"{path}: expected a state dict, found a TorchScript program; save its state_dict()"
        )
    reader = _Reader(path, data)
    for name, info in names.items():
        if name.startswith(f"{top}data/"):
            reader.places[name[len(top) + 5 :]] = _zip_member(data, info)
        elif name == f"{top}byteorder":
            start, length = _zip_member(data, info)
            reader.order = ">" if data[start : start + length] == b"big" else "<"
    start, length = _zip_member(data, names[index])
    tree = safe_pickle.load_stream(
        io.BytesIO(data[start : start + length]),
        name=path, extra=_globals(), persistent_load=reader.storage,
    )  # fmt: skip
    return TorchFile(tree, reader.array)


def read_legacy(path: str, data: mmap.mmap, file: BinaryIO) -> TorchFile:
    """Open the form without zip: magic number, version, system, object, storage keys, storages."""
    reader = _Reader(path, data)
    storages: dict[str, _Storage] = {}

    def storage(reference: tuple) -> _Storage:
        made = reader.storage(reference)
        storages.setdefault(made.key, made)
        return made

    magic, _, system = (safe_pickle.load_stream(file, name=path) for _ in range(3))
    if magic != LEGACY_MAGIC:
        raise ValueError("wrong magic number")
    reader.order = "<" if system.get("little_endian", sys.byteorder == "little") else ">"
    tree = safe_pickle.load_stream(file, name=path, extra=_globals(), persistent_load=storage)
    at = file.tell
    for key in map(str, safe_pickle.load_stream(file, name=path)):
        (count,) = struct.unpack(reader.order + "q", file.read(8))
        length = count * np.dtype(storages[key].dtype.replace("bf16", "u2")).itemsize
        if count < 0 or at() + length > len(data):
            raise ValueError(f"storage {key} breaks off at byte {len(data)}")
        reader.places[key] = (at(), length)
        file.seek(length, io.SEEK_CUR)
    return TorchFile(tree, reader.array)
