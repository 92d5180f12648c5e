# SPDX-License-Identifier: Apache-2.0
"""How a store grows safely: one process adds to a folder, and writes down what reached the disk.

Data are appended and forced to the disk first, then the line that names them, so after a crash the
lines tell which data are whole. A line that was cut in the middle does not count.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import DataError

PROGRESS = "progress.jsonl"
LOCK = ".lock"


class Journal:
    """The lock of a folder and its ``progress.jsonl``; the folder is created if need be.

    Raises:
        DataError: the folder cannot be written to, or another process is doing so.
    """

    def __init__(self, folder: Path):
        from filelock import FileLock, Timeout

        self.path = folder / PROGRESS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / LOCK)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise DataError(f"{folder}: another process is writing to this store") from None
        except OSError as error:
            raise DataError(f"{folder}: cannot write here: {error.strerror or error}") from None
        self._file: Any = None

    def open(self, again: str) -> list[Any]:
        """Values of the whole lines; what was cut behind them is dropped.

        Args:
            again: how to make a store anew, for the error.

        Raises:
            DataError: a line is damaged.
        """
        found = self.path.read_bytes() if self.path.exists() else b""
        *lines, rest = found.split(b"\n")
        try:
            values = [json.loads(line) for line in lines]
        except ValueError:
            raise DataError(f"{self.path}: damaged; remove the folder and {again}") from None
        self._file = open(self.path, "ab")  # noqa: SIM115
        self._file.truncate(len(found) - len(rest))
        return values

    def line(self, value: Any) -> None:
        """Add a line."""
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()

    def remove(self) -> None:
        """Delete the lines, which an index has replaced; nothing can be added afterwards."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the next process in."""
        if self._file:
            self._file.close()
        self._lock.release()


def flush(file: Any) -> None:
    """Force what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())
