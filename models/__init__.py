# SPDX-License-Identifier: Apache-2.0
"""Model registry: the folder is the registry. ``models/<name>/__init__.py`` exports ``Model``."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

_NOT_MODELS = {"layers", "extractors"}


class UnknownModel(LookupError):
    """No folder of that name under ``models/``."""

    exit_code = 2


def list_models() -> list[str]:
    """Names of all models, sorted."""
    root = Path(__file__).parent
    found = (p.parent.name for p in root.glob("*/__init__.py"))
    return sorted(n for n in found if n not in _NOT_MODELS and re.fullmatch("[a-z0-9_]+", n))


def canonical_name(name: str) -> str:
    """Folder name for ``name`` (case folded, ``-`` = ``_``).

    Raises:
        UnknownModel: no such folder; the message lists those that exist.
    """
    key = str(name).casefold().replace("-", "_")
    if key not in list_models():
        listing = "\n".join(f"  {n}" for n in list_models())
        raise UnknownModel(f"Model {name} Not Found.\nAvailable models:\n{listing}")
    return key


def get_model(name: str) -> type:
    """Class ``Model`` of ``models/<name>``; imports Paddle."""
    return importlib.import_module(f"{__name__}.{canonical_name(name)}").Model
