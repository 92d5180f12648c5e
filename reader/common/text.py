# SPDX-License-Identifier: Apache-2.0
"""Text files of one entry a line."""

from __future__ import annotations

import os

from .errors import DataError


def read_lines(path: str | os.PathLike, what: str = "entry") -> list[tuple[int, str]]:
    """(line number from 1, line) of a UTF-8 file; empty lines are left out, ends are stripped.

    Only line feeds end lines (with or without carriage return), so numbers are those of editors.

    Args:
        what: what a line holds, for messages.

    Raises:
        DataError: missing, not UTF-8 text (names the line), or without any entry.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: expected a text file ({error.strerror})") from None
    lines = []
    for number, line in enumerate(raw, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise DataError(
                f"{path}:{number}: expected one {what} a line in UTF-8, found {line[:40]!r}"
            )
        if text.strip():
            lines.append((number, text.strip()))
    if not lines:
        raise DataError(f"{path}: expected one {what} a line, found none")
    return lines


def read_pairs(path: str | os.PathLike, what: str = "entry") -> list[tuple[int, str | None, str]]:
    """(line number, name or None, text) of lines `<name><tab><text>` or `<text>`.

    Raises:
        DataError: see `read_lines`.
    """
    pairs = []
    for number, line in read_lines(path, what):
        name, tab, text = line.partition("\t")
        pairs.append((number, name.strip(), text.strip()) if tab else (number, None, line))
    return pairs
