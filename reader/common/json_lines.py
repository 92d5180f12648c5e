# SPDX-License-Identifier: Apache-2.0
"""Large JSON files without holding them: objects one a line, and one list of objects."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .errors import DataError

_BLOCK = 1 << 20  # bytes or characters read at a time
_NOT_JSON = (ValueError, RecursionError)

Block = tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]


def read_blocks(path: str | os.PathLike) -> Iterator[Block]:
    """(line numbers from 1, bytes before the lines, their objects), some lines at a time.

    Empty lines are left out.

    Raises:
        DataError: unreadable, or a line that is no JSON object; names the line.
    """
    try:
        with open(path, "rb") as file:
            start, line = (3 if file.read(3) == b"\xef\xbb\xbf" else 0), 1
            file.seek(start)
            while block := file.read(_BLOCK):
                block += file.readline()
                ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
                offsets = start + np.concatenate([[0], ends[ends < len(block)]])
                numbers = line + np.arange(len(offsets))
                objects = _parse_together(block, len(offsets))
                if objects is None:
                    kept, objects = _parse_lines(path, block, line)
                    numbers, offsets = numbers[kept], offsets[kept]
                if objects:
                    yield numbers, offsets, objects
                start, line = start + len(block), line + len(ends)
    except OSError as error:
        raise DataError(f"{path}: expected a file of JSON lines ({error.strerror})") from None


def _parse_together(block: bytes, lines: int) -> list[dict] | None:
    """Objects of lines, parsed as one list, which is twice as fast; None if that does not work."""
    try:
        objects = json.loads(b"[" + block.rstrip().replace(b"\n", b",") + b"]")
    except _NOT_JSON:
        return None
    fine = len(objects) == lines and all(type(each) is dict for each in objects)
    return objects if fine else None


def _parse_lines(path: str | os.PathLike, block: bytes, first: int) -> tuple[list[int], list[dict]]:
    """(positions of the lines that are not empty, their objects)."""
    kept, objects = [], []
    for k, line in enumerate(block.split(b"\n")):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError(f"a {type(value).__name__}")
        except _NOT_JSON as error:
            raise DataError(
                f"{path}:{first + k}: expected a JSON object a line, found {line[:40]!r} ({error})"
            ) from None
        kept.append(k)
        objects.append(value)
    return kept, objects


def read_at(path: str | os.PathLike, offsets: Sequence[int]) -> list[dict[str, Any]]:
    """Objects of the lines before which there are so many bytes.

    Raises:
        DataError: the file is not what it was when it was read from start to end.
    """
    objects = []
    try:
        with open(path, "rb") as file:
            for offset in offsets:
                file.seek(int(offset))
                objects.append(json.loads(file.readline()))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: was changed while it is in use ({error}); start again") from None
    return objects


def stream_list(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """Objects of a file that is one JSON list of them, holding no more than a block of it.

    Raises:
        DataError: unreadable, or no such list; names the entry, counted from 0.
    """
    decode, number = json.JSONDecoder().raw_decode, 0
    try:
        with open(path, encoding="utf-8-sig") as file:
            text, at = file.read(_BLOCK).lstrip(), 1
            if text[:1] != "[":
                raise DataError(f"{path}: expected a JSON list, found {text[:20]!r}")
            while True:
                at = _skip(text, at)
                if text[at : at + 1] == "]":
                    return
                try:
                    value, at = decode(text, at)
                except _NOT_JSON as error:
                    more = file.read(max(_BLOCK, len(text) - at))
                    if not more:
                        raise DataError(f"{path}: entry {number}: not JSON: {error}") from None
                    text, at = text[at:] + more, 0
                    continue
                if not isinstance(value, dict):
                    raise DataError(f"{path}: entry {number}: no JSON object, but {value!r:.40}")
                yield value
                number += 1
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a JSON file ({error})") from None


def _skip(text: str, at: int) -> int:
    """The next place behind white space and commas."""
    while text[at : at + 1] and text[at] in " \t\r\n,":
        at += 1
    return at
