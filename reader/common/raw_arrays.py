# SPDX-License-Identifier: Apache-2.0
"""Arrays out of the raw bytes of a file that is mapped into memory."""

from __future__ import annotations

from typing import Any

import numpy as np

VIEW_FROM = 1 << 20  # bytes; smaller arrays are copied, larger ones stay in the mapped file


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 values of bfloat16 numbers given as uint16."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def array_at(
    data: Any,
    dtype: str | np.dtype,
    shape: tuple[int, ...],
    offset: int,
    strides: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Array at byte ``offset`` of ``data``, in native byte order and C layout.

    A large array that is stored so is a read-only view of ``data``, any other a copy. ``bf16`` is
    widened to float32.

    Raises:
        ValueError, TypeError: it does not fit into ``data``.
    """
    bf16 = str(dtype).endswith("bf16")
    dtype = np.dtype(dtype.replace("bf16", "u2") if bf16 else dtype)
    view = np.ndarray(shape, dtype, data, offset, strides)
    if bf16:
        return widen_bfloat16(view)
    plain = view.flags.aligned and view.flags.c_contiguous and dtype.isnative
    if view.nbytes >= VIEW_FROM and plain:
        return view
    return np.array(view, dtype.newbyteorder("="), order="C")
