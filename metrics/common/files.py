# SPDX-License-Identifier: Apache-2.0
"""JSON files of metrics: read plain or gzip-compressed ones, write in one step."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from pathlib import Path
from typing import Any

from .errors import DataError

_ROOT = Path(__file__).resolve().parents[2]


def read_json(path: str | os.PathLike) -> Any:
    """Contents of a .json or .json.gz, from the working directory or else the toolkit's root.

    Raises:
        DataError: no such file, not JSON, or a key twice in one object.
    """
    path = Path(path).expanduser()
    path = path if path.exists() else _ROOT / path
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return json.loads(data, object_pairs_hook=_unique)
    except FileNotFoundError:
        raise DataError(f"{path}: expected a JSON file, found none; check the path") from None
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise DataError(f"{path}: expected a JSON file, found: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice} twice in one object")
    return out


def write_json(path: str | os.PathLike, document: Any, indent: int | None = None) -> Path:
    """Write a JSON file under another name, then rename it; folders are made when absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(document, indent=indent), encoding="utf-8")
    partial.replace(path)
    return path
