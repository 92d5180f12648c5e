# SPDX-License-Identifier: Apache-2.0
"""TALL / CTRL: temporal activity localisation via language query (arXiv:1705.02101)."""

from .model import Model

__all__ = ["Model"]
