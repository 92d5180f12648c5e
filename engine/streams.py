# SPDX-License-Identifier: Apache-2.0
"""The binary stream of Paddle 1.x.

It is a row of tensors without names, sorted by the names that they had (``save_params``
and ``save_persistables`` of release 1.6). Per tensor, little endian: uint32 version, uint64 number
of LoD levels and the levels, uint32 version, int32 length of a protobuf message with type and
shape, that message, the values.
"""

from __future__ import annotations

import itertools
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from reader.common.raw_arrays import array_at

from .errors import WeightsError

State = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

_STREAM_TYPES = {
    0: "?", 1: "<i2", 2: "<i4", 3: "<i8", 4: "<f2", 5: "<f4", 6: "<f8", 20: "<u1", 21: "<i1",
    22: "<bf16", 23: "<c8", 24: "<c16",
}  # fmt: skip


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 63:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
    raise ValueError("a damaged tensor header")


def _tensor_header(data: mmap.mmap, at: int, end: int) -> tuple[int, list[int]]:
    """Type number and shape: fields 1 and 2 of a protobuf message."""
    kind, shape = -1, []
    while at < end:
        tag, at = _varint(data, at, end)
        if tag == 0x12:  # dimensions, packed
            length, at = _varint(data, at, end)
            stop = min(at + length, end)
            while at < stop:
                value, at = _varint(data, at, stop)
                shape.append(value)
            continue
        value, at = _varint(data, at, end)
        if tag == 0x08:
            kind = value
        elif tag == 0x10:
            shape.append(value)
        else:
            raise ValueError("a damaged tensor header")
    return kind, shape


def read_stream(data: mmap.mmap) -> Iterator[np.ndarray]:
    """Tensors of a stream in file order.

    Raises:
        ValueError, TypeError, struct.error: damaged or incomplete.
    """
    at = 0
    while at < len(data):
        version, levels = struct.unpack_from("<IQ", data, at)
        at += 12
        for _ in range(min(levels, 16)):
            at += 8 + struct.unpack_from("<Q", data, at)[0]
        inner, length = struct.unpack_from("<Ii", data, at)
        at += 8
        if version or inner or levels > 15 or not 0 < length <= len(data) - at:
            raise ValueError(f"no tensor at byte {at}")
        kind, shape = _tensor_header(data, at, at + length)
        at += length
        if kind not in _STREAM_TYPES:
            raise ValueError(f"a tensor of unknown type {kind}")
        array = array_at(data, _STREAM_TYPES[kind], tuple(shape), at)
        stored = 2 if _STREAM_TYPES[kind] == "<bf16" else array.itemsize
        at += array.size * stored
        yield array


def _optimiser_shapes(expected: Shapes) -> Iterator[dict[str, tuple[int, ...]]]:
    """Names and shapes that Paddle 1.x may have saved beside the parameters."""
    adam = {f"{n}_{m}_0": tuple(s) for n, s in expected.items() for m in ("moment1", "moment2")}
    adam |= {f"{n}_beta{b}_pow_acc_0": (1,) for n in expected for b in (1, 2)}
    momentum = {f"{n}_velocity_0": tuple(s) for n, s in expected.items()}
    rate, counter = {"learning_rate_0": (1,)}, {"@LR_DECAY_COUNTER@": (1,)}
    for own, lr, count in itertools.product(({}, adam, momentum), (rate, {}), ({}, counter)):
        yield {**own, **lr, **count}


def name_tensors(
    path: Path, tensors: list[np.ndarray], expected: Shapes | None
) -> tuple[State, State]:
    """The tensors of a stream under their names: parameters, and optimiser variables.

    Raises:
        WeightsError: number or shapes are not those of ``expected``.
    """
    if not expected:
        raise WeightsError(
            f"{path}: expected named weights, found Paddle's binary stream without names; it can "
            "be read only together with the network that it belongs to"
        )
    shapes = [tensor.shape for tensor in tensors]
    for others in _optimiser_shapes(expected):
        names = sorted([*expected, *others])
        if shapes == [tuple({**others, **expected}[n]) for n in names]:
            named = dict(zip(names, tensors, strict=True))
            return {n: named[n] for n in expected}, {n: named[n] for n in others}
    wanted = [f"{n} {list(expected[n])}" for n in sorted(expected)]
    raise WeightsError(
        f"{path}: expected a stream of {len(wanted)} tensors ({_some(wanted)}) with or without "
        f"optimiser variables, found {len(shapes)} ({_some([str(list(s)) for s in shapes])}); "
        "use the configuration that these weights were trained with, or fetch the file again"
    )


def _some(items: list[str]) -> str:
    return ", ".join(items[:6]) + (", ..." if len(items) > 6 else "")
