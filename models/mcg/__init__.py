# SPDX-License-Identifier: Apache-2.0
"""MCG: contrastive pre-training and generated answers about videos (arXiv:2410.09379)."""

from .model import Model

__all__ = ["Model"]
