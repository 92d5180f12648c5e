# SPDX-License-Identifier: Apache-2.0
"""What a run tells: console lines, ``metrics.jsonl``, VisualDL curves, progress bars."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from .errors import ConfigError

logger = logging.getLogger("vlzoo")


def setup(level: int = logging.INFO, rank: int = 0) -> None:
    """Console log on stdout in the field's format; other ranks only report warnings."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        logging.Formatter("[%(levelname)s: %(filename)s: %(lineno)4d]: %(message)s")
    )
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level if rank == 0 else logging.WARNING)


def clock() -> str:
    """Wall-clock time as it stands in training lines."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def progress(iterable: Any, total: int | None = None, desc: str = "") -> Any:
    """The iterable with a bar when stderr is a terminal, unchanged otherwise."""
    if not sys.stderr.isatty():
        return iterable
    from tqdm import tqdm

    return tqdm(iterable, total=total, desc=desc, leave=False, dynamic_ncols=True)


class Curves:
    """Scalars of a run: one JSON object a line, and VisualDL when asked for."""

    def __init__(self, folder: Path, visualdl: bool = False, enabled: bool = True):
        self._file = self._board = None
        if not enabled:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115
        if visualdl:
            try:
                from visualdl import LogWriter
            except ImportError as error:
                raise ConfigError(
                    "TRAIN.visualdl needs VisualDL: bash run.sh setup log (pip install visualdl), "
                    "or set it to false"
                ) from error
            self._board = LogWriter(logdir=str(folder / "visualdl"))

    def add(self, tag: str, step: int, values: dict[str, float]) -> None:
        """Record ``values`` of phase ``tag`` (train, valid, test) at ``step``."""
        if self._file:
            self._file.write(
                json.dumps({"tag": tag, "step": step, "time": time.time(), **values}) + "\n"
            )
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(f"{tag}/{name}", float(value), step)

    def close(self) -> None:
        for stream in (self._file, self._board):
            if stream:
                stream.close()
