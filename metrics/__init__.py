# SPDX-License-Identifier: Apache-2.0
"""Metric registry: the folder is the registry. ``metrics/<name>.py`` defines ``Metric``.

Nothing here imports Paddle: predictions can be scored on a machine without it.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path


class UnknownMetric(LookupError):
    """No file of that name under ``metrics/``."""

    exit_code = 2


def list_metrics() -> list[str]:
    """Names of all metrics, sorted."""
    names = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return sorted(n for n in names if not n.startswith("_") and re.fullmatch("[a-z0-9_]+", n))


def get_metrics(name: str) -> type:
    """Class ``Metric`` of ``metrics/<name>.py``; case is folded and ``-`` equals ``_``.

    Raises:
        UnknownMetric: no such file; the message lists those that exist.
    """
    key = str(name).casefold().replace("-", "_")
    if key not in list_metrics():
        listing = "\n".join(f"  {n}" for n in list_metrics())
        raise UnknownMetric(f"Metric {name} Not Found.\nAvailable metrics:\n{listing}")
    return importlib.import_module(f"{__name__}.{key}").Metric
