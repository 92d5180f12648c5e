# SPDX-License-Identifier: Apache-2.0
"""Result files that are one long list of objects."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from .errors import DataError
from .files import read_json

_BLOCK = 4096  # rows that are encoded at a time


def write_rows(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a JSON list without having all of it in memory.

    The file is written under another name, then renamed; folders are made when absent.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    rows, separator = iter(rows), "["
    with partial.open("w", encoding="utf-8") as file:
        while block := [*islice(rows, _BLOCK)]:
            file.write(separator + json.dumps(block)[1:-1])
            separator = ",\n"
        file.write("]\n" if separator != "[" else "[]\n")
    partial.replace(path)
    return path


def read_rows(path: str | os.PathLike, keys: Iterable[str]) -> list[dict[str, Any]]:
    """The list of a .json or .json.gz; every element has the keys.

    Raises:
        DataError: missing, not JSON, not a list of objects, or a key is absent.
    """
    rows, keys = read_json(path), set(keys)
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of results, found {type(rows).__name__}")
    for n, row in enumerate(rows):
        if not isinstance(row, dict) or not keys <= row.keys():
            raise DataError(
                f"{path}: result {n}: expected an object with {', '.join(sorted(keys))}, found "
                f"{str(row)[:80]}"
            )
    return rows
