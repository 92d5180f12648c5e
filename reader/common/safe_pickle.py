# SPDX-License-Identifier: Apache-2.0
"""Read pickles as data: an unpickler for numbers, text, containers and numpy arrays only.

A pickle is a program: any of its instructions may name a Python function and call it. Here each
name is looked up in a short table, and everything else is an error. The functions in the table are
our own; they check what they are given, so that a damaged or hostile file can neither run code, nor
reach into numpy's internals, nor use memory out of proportion to its size.

It is built on the standard library's Python unpickler (not its C twin) because that one keeps its
memo in a dictionary and lets single instructions be replaced: in the C one, five bytes can claim
64 GB.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

import numpy as np

from .errors import DataError

Globals = Mapping[tuple[str, str], Any]

_DTYPE = re.compile(r"[<>=|]?(?:[biufc]\d{1,2}|[SU]\d{1,9}|\?)")
_PIECE = 1 << 16  # bytes that may be asked of a file without looking at its length
_SLACK = 1 << 20  # bytes that any file, however small, may unfold to
_GROWTH = 4  # honest files repeat nothing, so 1 suffices; text that is re-encoded counts again


def load(path: str | os.PathLike, *, encoding: str = "latin1", extra: Globals | None = None) -> Any:
    """Object in the pickle file ``path`` (protocols 0-5, Python 2 or 3).

    Args:
        encoding: how Python 2 byte strings become text, or ``"bytes"`` to leave them as bytes.
        extra: further names that may occur, ``{(module, name): function, class or marker}``.

    Raises:
        DataError: not a pickle, damaged, or it names something that a data file has no use for.
    """
    try:
        with open(path, "rb") as file:
            return load_stream(file, name=str(path), encoding=encoding, extra=extra)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def loads(
    data: bytes, *, name: str = "pickle", encoding: str = "latin1", extra: Globals | None = None
) -> Any:
    """Object in the pickle ``data``; see ``load``. ``name`` stands in error messages."""
    return load_stream(io.BytesIO(data), name=name, encoding=encoding, extra=extra)


def load_stream(
    file: BinaryIO,
    *,
    name: str,
    encoding: str = "latin1",
    extra: Globals | None = None,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Next pickle of a seekable file, which is left just behind it; see ``load``.

    Args:
        persistent_load: what turns the file's references to outside objects into those objects.
    """
    source = _Source(file)
    reader = _Reader(source, name, encoding, extra or {}, persistent_load)
    try:
        return reader.load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{name}: expected a pickle, found {source.explain(error)}") from None


class _Source:
    """A file of known length that never returns less than it was asked for."""

    def __init__(self, file: BinaryIO):
        self.file, self.start = file, file.tell()
        self.size = file.seek(0, io.SEEK_END)
        file.seek(self.start)
        self.ended = False

    def read(self, count: int) -> bytes:
        if count > _PIECE and count > self.size - self.file.tell():  # before memory is set aside
            self.ended = True
            raise EOFError
        data = self.file.read(count)
        if len(data) < count:
            self.ended = True
            raise EOFError
        return data

    def readline(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            self.ended = True
            raise EOFError
        return line

    def explain(self, error: Exception) -> str:
        at = self.file.tell()
        if self.size == self.start:
            return "an empty file; fetch or write it again"
        if self.ended:
            return f"one that breaks off (byte {at} of {self.size}); fetch or write it again"
        return (
            f"something unreadable near byte {at} of {self.size} ({type(error).__name__}); "
            "check that this is the right file, or fetch it again"
        )


class _Marker:
    """Stands for a class that is named in pickles but never called."""


_NDARRAY = _Marker()


class _Reader(pickle._Unpickler):
    def __init__(self, source: _Source, name: str, encoding: str, extra: Globals, persistent_load):
        super().__init__(source, encoding=encoding)
        self.name, self.budget = name, _GROWTH * source.size + _SLACK
        self.pending: dict[int, Any] = {}  # arrays and types whose state is still to come, by id
        self.table = {**self._globals(), **extra}
        self.functions = {id(value) for value in self.table.values()}
        self.classes = tuple(v for v in extra.values() if isinstance(v, type))
        if persistent_load:
            self.persistent_load = persistent_load

    def _globals(self) -> dict[tuple[str, str], Any]:
        table: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): self._container(OrderedDict),
            ("_codecs", "encode"): self._encode,
            ("numpy", "ndarray"): _NDARRAY,
            ("numpy", "dtype"): self._dtype,
        }
        for core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
            table[f"{core}.multiarray", "_reconstruct"] = self._reconstruct
            table[f"{core}.multiarray", "scalar"] = self._scalar
            table[f"{core}.numeric", "_frombuffer"] = self._frombuffer
        for module in ("builtins", "__builtin__"):  # Python 3 and Python 2
            for kind in (tuple, list, dict, set, frozenset):
                table[module, kind.__name__] = self._container(kind)
            table[module, "bytes"] = lambda data=b"": self._bytes(bytes, data)
            table[module, "bytearray"] = lambda *args: self._bytes(bytearray, *args)
            table[module, "complex"] = lambda re, im: complex(float(re), float(im))
        return table

    # what the table's names do

    def _spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            self._refuse("unfolds to far more than the file holds")

    def _refuse(self, what: str) -> None:
        raise DataError(f"{self.name}: expected plain data, found a pickle that {what}; not loaded")

    def _container(self, kind: type) -> Callable:
        def make(items=()):
            self._spend(8 * len(items))
            return kind(items)

        return make

    def _encode(self, text: str, encoding: str = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            self._refuse(f"encodes text as {str(encoding)[:20]!r}")
        self._spend(len(text))
        return text.encode("latin1")

    def _bytes(self, kind: type, data: Any = b"", encoding: str = "latin1") -> bytes | bytearray:
        if isinstance(data, str):  # Python 2's bytearray
            data = self._encode(data, encoding)
        if not isinstance(data, (bytes, list)):
            self._refuse(f"makes {kind.__name__} of a {type(data).__name__}")
        self._spend(len(data))
        return kind(data)

    def _dtype(self, spec: str | bytes, align: Any = False, copy: Any = True) -> np.dtype:
        spec = spec.decode("ascii") if isinstance(spec, bytes) else spec
        if not isinstance(spec, str) or not _DTYPE.fullmatch(spec):
            kind = "object arrays" if str(spec).strip("<>=|").startswith("O") else "arrays of type"
            self._refuse(f"holds {kind} {str(spec)[:20]!r}")
        made = np.dtype(spec, align=False, copy=True)
        self.pending[id(made)] = made
        return made

    def _reconstruct(self, kind: Any, shape: Any, code: Any) -> np.ndarray:
        if kind is not _NDARRAY:
            self._refuse("holds an unknown kind of array")
        made = np.empty(0, np.uint8)
        self.pending[id(made)] = made
        return made

    def _scalar(self, dtype: np.dtype, raw: bytes | str = b"") -> np.generic:
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(dtype, np.dtype) or len(raw) != dtype.itemsize:
            raise ValueError
        return np.frombuffer(raw, dtype)[0] if raw else dtype.type()

    def _frombuffer(self, buffer, dtype, shape, order, axis_order=None) -> np.ndarray:
        if not isinstance(dtype, np.dtype) or not isinstance(buffer, (bytes, bytearray)):
            raise ValueError
        flat = np.frombuffer(buffer, dtype)
        if order == "K":  # numpy 2.3: stored with its axes in the order of memory
            return flat.reshape(shape).transpose(axis_order)
        return flat.reshape(shape, order=order)

    # replaced instructions

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.table[module, name]
        except KeyError:
            asked = re.sub(r"[^\w.]", "?", f"{module}.{name}")[:80]
            raise DataError(
                f"{self.name}: expected plain data, found a pickle that asks for '{asked}', which "
                "can run code; not loaded: get this file from a source you trust, as plain arrays"
            ) from None

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, self.classes):
            target.__setstate__(state)
        elif self.pending.pop(id(target), None) is None:
            # attributes of containers (PyTorch keeps version numbers there) are no data
            if not isinstance(target, (OrderedDict, bytearray)):
                self._refuse(f"changes a {type(target).__name__}")
        elif isinstance(target, np.dtype):
            self._build_dtype(target, state)
        else:
            self._build_array(target, state)

    def _build_dtype(self, dtype: np.dtype, state: tuple) -> None:
        order, *structure = state[1:5]
        order = order.decode() if isinstance(order, bytes) else order
        if order not in ("<", ">", "=", "|") or structure != [None] * 3:
            self._refuse("holds arrays of records")
        sizes = (dtype.itemsize, dtype.alignment) if dtype.kind in "SU" else (-1, -1)
        dtype.__setstate__((3, order, None, None, None, *sizes, 0))

    def _build_array(self, array: np.ndarray, state: tuple) -> None:
        shape, dtype, fortran, raw = state[-4:]
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # a Python 2 byte string
        if not isinstance(dtype, np.dtype) or not isinstance(raw, (bytes, bytearray)):
            self._refuse("holds an object array")
        self._spend(len(raw))
        array.__setstate__((1, tuple(map(int, shape)), dtype, bool(fortran), bytes(raw)))

    def _new(self) -> None:
        args = self.stack.pop()
        kind = self.stack.pop()
        if kind not in self.classes or args:
            self._refuse("makes an object of a class")
        self.append(kind())

    def _reduce(self) -> None:
        args = self.stack.pop()
        function = self.stack[-1]
        if id(function) not in self.functions:
            self._refuse(f"calls a {type(function).__name__}")
        self.stack[-1] = function(*args)

    def _bytearray(self) -> None:
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(count)))

    def _forbidden(self) -> None:
        self._refuse("uses instructions for objects of classes")

    dispatch: ClassVar[dict[int, Callable]] = dict(pickle._Unpickler.dispatch)
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.NEWOBJ[0]] = _new
    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.BYTEARRAY8[0]] = _bytearray
    dispatch[pickle.INST[0]] = dispatch[pickle.OBJ[0]] = dispatch[pickle.NEWOBJ_EX[0]] = _forbidden
    dispatch[pickle.EXT1[0]] = dispatch[pickle.EXT2[0]] = dispatch[pickle.EXT4[0]] = _forbidden
