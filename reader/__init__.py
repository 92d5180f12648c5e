# SPDX-License-Identifier: Apache-2.0
"""Reader registry: the folder is the registry. ``reader/<name>.py`` defines ``Reader``.

Readers give NumPy arrays; nothing here imports Paddle.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path


class UnknownReader(LookupError):
    """No file of that name under ``reader/``."""

    exit_code = 2


def list_readers() -> list[str]:
    """Names of all readers, sorted."""
    names = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return sorted(n for n in names if not n.startswith("_") and re.fullmatch("[a-z0-9_]+", n))


def get_reader(name: str) -> type:
    """Class ``Reader`` of ``reader/<name>.py``; case is folded and ``-`` equals ``_``.

    Raises:
        UnknownReader: no such file; the message lists those that exist.
    """
    key = str(name).casefold().replace("-", "_")
    if key not in list_readers():
        listing = "\n".join(f"  {n}" for n in list_readers())
        raise UnknownReader(f"Reader {name} Not Found.\nAvailable readers:\n{listing}")
    return importlib.import_module(f"{__name__}.{key}").Reader
