# SPDX-License-Identifier: Apache-2.0
"""Large comma-separated tables without holding them; rows may span lines. As ``json_lines``."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence

import numpy as np

from .errors import DataError

_BLOCK = 1 << 20  # bytes read at a time
_LONGEST = 1 << 24  # bytes of a row

Row = dict[str, str]
Block = tuple[np.ndarray, np.ndarray, list[Row]]


def read_blocks(path: str | os.PathLike, columns: Sequence[str]) -> Iterator[Block]:
    """(line numbers from 1, bytes before the rows, the rows by column), some rows at a time.

    Args:
        columns: that must be there; others may be.

    Raises:
        DataError: unreadable, a column is missing, or a row with another number of fields.
    """
    try:
        with open(path, "rb") as file:
            header, start = _header(path, file, columns)
            line, rest = 2, b""
            while block := file.read(_BLOCK):
                block = rest + block
                ends = _ends(block)
                whole = int(ends[-1]) if len(ends) else 0
                rest = block[whole:]
                if len(rest) > _LONGEST:
                    raise DataError(f"{path}:{line}: expected rows, found a quote without an end")
                yield from _parse(path, header, block[:whole], ends, start, line)
                start, line = start + whole, line + block.count(b"\n", 0, whole)
            yield from _parse(path, header, rest, np.array([len(rest)]), start, line)
    except OSError as error:
        raise DataError(f"{path}: expected a table ({error.strerror})") from None


def _header(path: str | os.PathLike, file, columns: Sequence[str]) -> tuple[list[str], int]:
    """Names of the columns, and where the first row is."""
    first = file.readline()
    header = next(csv.reader([_text(path, 1, first.removeprefix(b"\xef\xbb\xbf"))]), [])
    if absent := [name for name in columns if name not in header]:
        raise DataError(
            f"{path}: expected the columns {', '.join(columns)}, found no {absent[0]} in its first "
            f"line {first[:60]!r}"
        )
    return header, len(first)


def _ends(block: bytes) -> np.ndarray:
    """Where rows end: behind ends of lines that are not inside of quotes."""
    values = np.frombuffer(block, np.uint8)
    inside = np.cumsum(values == ord('"')) % 2
    return np.flatnonzero((values == ord("\n")) & (inside == 0)) + 1


def _parse(
    path: str | os.PathLike,
    header: list[str],
    block: bytes,
    ends: np.ndarray,
    start: int,
    line: int,
) -> Iterator[Block]:
    """Rows of a block, unless there are none."""
    numbers, offsets, rows = [], [], []
    first = 0
    for end in ends.tolist():
        piece = block[first:end]
        if piece.strip():
            rows.append(_row(path, line, header, piece))
            numbers.append(line)
            offsets.append(start + first)
        line, first = line + piece.count(b"\n"), end
    if rows:
        yield np.array(numbers), np.array(offsets), rows


def _row(path: str | os.PathLike, line: int, header: list[str], piece: bytes) -> Row:
    try:
        (fields,) = csv.reader([_text(path, line, piece)], strict=True)
    except (csv.Error, ValueError):
        raise DataError(f"{path}:{line}: expected a row, found {piece[:40]!r}") from None
    if len(fields) != len(header):
        raise DataError(f"{path}:{line}: expected {len(header)} fields, found {len(fields)}")
    return dict(zip(header, fields, strict=True))


def _text(path: str | os.PathLike, line: int, piece: bytes) -> str:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}:{line}: expected text in UTF-8, found {piece[:40]!r}") from None


def read_at(path: str | os.PathLike, offsets: Sequence[int]) -> list[Row]:
    """Rows before which there are so many bytes.

    Raises:
        DataError: the file is not what it was when it was read from start to end.
    """
    rows = []
    try:
        with open(path, "rb") as file:
            header, _ = _header(path, file, ())
            for offset in offsets:
                file.seek(int(offset))
                piece = file.readline()
                while piece.count(b'"') % 2 and (more := file.readline()):
                    piece += more
                rows.append(_row(path, 0, header, piece))
    except (OSError, DataError) as error:
        raise DataError(f"{path}: was changed while it is in use ({error}); start again") from None
    return rows
