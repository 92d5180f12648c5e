# SPDX-License-Identifier: Apache-2.0
"""Writes Caffe files with Google's protobuf, from message definitions of the two layouts."""

from __future__ import annotations

import functools

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

INT, FLOAT, DOUBLE, STRING, MESSAGE, INT64 = 5, 2, 1, 9, 11, 3
SIZES = ("num", "channels", "height", "width")
LAYOUTS = {
    "fork": {  # C3D 1.0: the published Sports-1M files
        "Blob": {
            "num": (1, INT), "channels": (2, INT), "length": (3, INT), "height": (4, INT),
            "width": (5, INT), "data": (6, FLOAT), "diff": (7, FLOAT),
        },
        "Layer": {
            "bottom": (2, STRING), "name": (4, STRING), "type": (5, INT), "blobs": (6, "Blob"),
        },
        "Net": {"name": (1, STRING), "layers": (2, "Layer")},
    },
    "caffe": {  # Caffe 1, C3D 1.1
        "Shape": {"dim": (1, INT64)},
        "Blob": {
            "num": (1, INT), "channels": (2, INT), "height": (3, INT), "width": (4, INT),
            "data": (5, FLOAT), "diff": (6, FLOAT), "shape": (7, "Shape"),
            "double_data": (8, DOUBLE),
        },
        "Layer": {
            "name": (1, STRING), "type": (2, STRING), "loss_weight": (5, FLOAT),
            "blobs": (7, "Blob"),
        },
        "Net": {"name": (1, STRING), "layer": (100, "Layer")},
    },
}  # fmt: skip
NUMBERS = {"data", "diff", "double_data", "dim", "loss_weight"}
REPEATED = {*NUMBERS, "bottom", "blobs", "layers", "layer"}


@functools.lru_cache
def messages(layout):
    """Message classes of a layout by name."""
    package = f"vlzoo_test_{layout}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package)
    for name, fields in LAYOUTS[layout].items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            added = message.field.add(name=field, number=number)
            added.label = 3 if field in REPEATED else 1
            added.type = MESSAGE if isinstance(kind, str) else kind
            if isinstance(kind, str):
                added.type_name = f".{package}.{kind}"
            elif field in NUMBERS:
                added.options.packed = field != "dim"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {n: message_factory.GetMessageClass(find(f"{package}.{n}")) for n in LAYOUTS[layout]}


def blob(layout, array, field="data"):
    """A BlobProto holding an array; the fork pads its shape to five dimensions in front."""
    message = messages(layout)["Blob"]()
    getattr(message, field).extend(np.ravel(array).tolist())
    if layout == "fork":
        sizes = [1] * (5 - array.ndim) + list(array.shape)
        for name, size in zip(("num", "channels", "length", "height", "width"), sizes, strict=True):
            setattr(message, name, size)
        message.diff.extend([0.5] * 3)
    else:
        message.shape.dim.extend(array.shape)
    return message


def model(layout, layers):
    """Bytes of a `.caffemodel`: name -> arrays."""
    net = messages(layout)["Net"](name="net")
    collection = net.layers if layout == "fork" else net.layer
    collection.add(name="data")
    for name, arrays in layers.items():
        layer = collection.add(name=name)
        layer.blobs.extend([blob(layout, array) for array in arrays])
    return net.SerializeToString()
