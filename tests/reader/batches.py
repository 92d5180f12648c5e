# SPDX-License-Identifier: Apache-2.0
"""What the readers' tests ask of batches."""

from __future__ import annotations

from typing import Any

import numpy as np


def batch_of(reader: Any, *indices: int) -> dict[str, Any]:
    """These items, or all of them, collated."""
    return reader.collate([reader[i] for i in indices or range(len(reader))])


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Are two batches equal, types included?"""
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == b[key].dtype and np.array_equal(value, b[key]), key
        else:
            assert repr(value) == repr(b[key]), key
    return True
