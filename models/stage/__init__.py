# SPDX-License-Identifier: Apache-2.0
"""STAGE: spatio-temporal answerer with grounded evidence (arXiv:1904.11574)."""

from .model import Model

__all__ = ["Model"]
