# SPDX-License-Identifier: Apache-2.0
"""LLaMA-VQA: a frozen LLaMA that answers questions about videos (arXiv:2310.15747)."""

from .model import Model

__all__ = ["Model"]
