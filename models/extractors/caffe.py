# SPDX-License-Identifier: Apache-2.0
"""Reads the blobs of Caffe's `.caffemodel` and `.binaryproto` files straight from the wire format.

Two layouts exist. The C3D fork 1.0 (the published Sports-1M model and mean cube) numbers BlobProto
num=1 channels=2 length=3 height=4 width=5 data=6 diff=7; Caffe itself and the fork 1.1 have
num=1 channels=2 height=3 width=4 data=5 diff=6 shape=7 double_data=8. Field 5 tells them apart: an
integer in the first, data in the second. Nets hold `layers` (field 2; name=4, blobs=6) or `layer`
(field 100; name=1, blobs=7). Source: caffe.proto of the two repositories.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .errors import WeightsFileError

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # wire type: bytes
_NETS = {2: (4, 6), 100: (1, 7)}  # field of the layers: (their name's field, their blobs' field)


def read_caffemodel(path: str | os.PathLike) -> dict[str, list[np.ndarray]]:
    """Blobs of every layer that has any: name -> [weight, bias], float32.

    Raises:
        WeightsFileError: missing file, not a Caffe model, or cut short.
    """
    return _read(path, "a Caffe model with parameters", _layers)


def read_binaryproto(path: str | os.PathLike) -> np.ndarray:
    """The one blob of a `.binaryproto` file, such as a mean cube [1, 3, 16, 128, 171], float32.

    Raises:
        WeightsFileError: missing file, not a Caffe blob, or cut short.
    """
    return _read(path, "a Caffe blob", _blob)


def _read(path: str | os.PathLike, what: str, parse: Callable[[memoryview], Any]) -> Any:
    try:
        with open(path, "rb") as file:
            return parse(memoryview(file.read()))
    except OSError as error:
        found = error.strerror
    except (IndexError, KeyError, ValueError) as error:
        found = f"something else or a part of one ({error}); download it again"
    raise WeightsFileError(f"{path}: expected {what}, found {found}")


def _layers(buffer: memoryview) -> dict[str, list[np.ndarray]]:
    layers = {}
    for number, wire, layer in _fields(buffer):
        if number in _NETS and wire == _BYTES:
            name_field, blob_field = _NETS[number]
            values = [(n, v) for n, w, v in _fields(layer) if w == _BYTES]
            name = b"".join(bytes(v) for n, v in values if n == name_field).decode()
            if blobs := [_blob(v) for n, v in values if n == blob_field]:
                layers[name] = blobs
    if not layers:
        raise ValueError("no layer has any")
    return layers


def _blob(buffer: memoryview) -> np.ndarray:
    """One BlobProto as a float32 array of its own shape."""
    fields = list(_fields(buffer))
    fork = any(number == 5 and wire == _VARINT for number, wire, _ in fields)
    kinds = {6: "<f4"} if fork else {5: "<f4", 8: "<f8"}
    chunks = [np.frombuffer(v, kinds[n]) for n, w, v in fields if n in kinds and w != _VARINT]
    data = np.concatenate(chunks or [np.zeros(0)]).astype(np.float32, copy=False)
    sizes = {n: v for n, w, v in fields if w == _VARINT and n < (6 if fork else 5)}
    shape = [sizes[n] for n in sorted(sizes)]
    for number, wire, value in fields:
        if number == 7 and wire == _BYTES and not fork:
            shape = _shape(value)
    if not data.size or math.prod(shape) != data.size:
        raise ValueError(f"a blob of shape {shape} holds {data.size} numbers")
    return data.reshape(shape)


def _shape(message: memoryview) -> list[int]:
    """Dimensions of a BlobShape, packed or not."""
    dims: list[int] = []
    for _, wire, value in _fields(message):
        if wire == _VARINT:
            dims.append(value)
            continue
        at = 0
        while at < len(value):
            dim, at = _varint(value, at)
            dims.append(dim)
    return dims


def _fields(buffer: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, integer or bytes) of one protobuf message."""
    at = 0
    while at < len(buffer):
        key, at = _varint(buffer, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(buffer, at)
        else:
            size, at = _varint(buffer, at) if wire == _BYTES else (_FIXED[wire], at)
            value, at = buffer[at : at + size], at + size
            if at > len(buffer):
                raise ValueError(f"a field of {size} bytes ends after the file")
        yield key >> 3, wire, value


def _varint(buffer: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")
