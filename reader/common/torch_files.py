# SPDX-License-Identifier: Apache-2.0
"""Read files of ``torch.save`` without PyTorch: the zip form and the older form without zip.

Such a file is a pickle that describes tensors as (storage, offset, size, stride), beside the raw
bytes of the storages. The pickle goes through the allow-list unpickler with the names below added;
a tensor's bytes are touched only when it is asked for, straight from the memory-mapped file.
``open_file`` is all that most need; ``read_zip`` and ``read_legacy`` take an opened file.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from . import safe_pickle
from .errors import DataError
from .raw_arrays import array_at

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DAMAGE = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, EOFError,
    RecursionError, MemoryError, NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip

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
    """The object that was saved, with ``Tensor`` where a tensor is, and the means to read those.

    ``array`` reads a tensor in native byte order and C layout, and widens bfloat16 to float32.
    ``view`` never copies: a read-only view of the mapped file as it is stored, bfloat16 as uint16.
    """

    tree: Any
    array: Callable[[Tensor], np.ndarray]
    view: Callable[[Tensor], np.ndarray]


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """What a damaged or unreadable file raises inside becomes a one-line DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except DAMAGE as error:
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(
            f"{path}: expected a PyTorch file, found a damaged or incomplete one ({why}); "
            "delete it and fetch it again"
        ) from None


def open_file(path: str | os.PathLike) -> TorchFile:
    """Open a file of ``torch.save``, mapped into memory; nothing of its tensors is read.

    Raises:
        DataError: missing, damaged, unsafe or no such file; also when a tensor is asked for.
    """
    name = str(path)
    with reading(path), open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if data[:4] == b"PK\3\4":
            with zipfile.ZipFile(file) as archive:
                opened = read_zip(name, data, archive)
        elif data[:1] == b"\x80" and LEGACY_MAGIC.to_bytes(10, "little") in data[:24]:
            opened = read_legacy(name, data, file)
        else:
            raise DataError(
                f"{path}: expected a PyTorch file (.pth), found something else; fetch it again"
            )

    def guarded(read: Callable[[Tensor], np.ndarray]) -> Callable[[Tensor], np.ndarray]:
        def read_tensor(tensor: Tensor) -> np.ndarray:
            with reading(path):
                return read(tensor)

        return read_tensor

    return TorchFile(opened.tree, guarded(opened.array), guarded(opened.view))


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
            raise DataError(
                f"{self.path}: expected a state dict, found a saved module; save its state_dict()"
            )
        start = 0
        if view and view[0]:
            _, start, numel = view[0]
        return _Storage(dtype, str(key), int(numel), int(start))

    def _place(self, tensor: Tensor) -> tuple[int, tuple[int, ...]]:
        """Byte offset and byte strides of a tensor that lies inside its storage."""
        storage, size, stride = tensor.storage, tensor.size, tensor.stride
        item = np.dtype(storage.dtype.replace("bf16", "u2")).itemsize
        if storage.key not in self.places:
            raise ValueError(f"storage {storage.key} is missing")
        start, length = self.places[storage.key]
        if len(size) != len(stride) or min((tensor.offset, storage.start, *size, *stride)) < 0:
            raise ValueError(f"a tensor of size {size} and stride {stride}")
        last = tensor.offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        beyond = last >= storage.numel or (storage.start + storage.numel) * item > length
        if beyond and 0 not in size:
            raise ValueError(f"a tensor that reaches beyond storage {storage.key}")
        begin = start + (storage.start + tensor.offset) * item
        return begin, tuple(s * item for s in stride)

    def array(self, tensor: Tensor) -> np.ndarray:
        """In native byte order and C layout; bfloat16 as float32."""
        begin, strides = self._place(tensor)
        stored, size = tensor.storage.dtype, tensor.size
        if 0 in size:
            return np.empty(size, "f4" if stored == "bf16" else stored)
        if math.prod(size) * np.dtype(stored.replace("bf16", "u2")).itemsize > self.budget:
            raise ValueError("tensors far larger than the file")
        made = array_at(self.data, self.order + stored, size, begin, strides)
        if made.base is None or stored == "bf16":
            self.budget -= made.nbytes
        return made

    def view(self, tensor: Tensor) -> np.ndarray:
        """As it is stored, without a copy; bfloat16 as uint16."""
        begin, strides = self._place(tensor)
        dtype = np.dtype(self.order + tensor.storage.dtype.replace("bf16", "u2"))
        if 0 in tensor.size:
            return np.empty(tensor.size, dtype)
        return np.ndarray(tensor.size, dtype, self.data, begin, strides)


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
        raise DataError(
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
    return TorchFile(tree, reader.array, reader.view)


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
    return TorchFile(tree, reader.array, reader.view)
