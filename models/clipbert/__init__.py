# SPDX-License-Identifier: Apache-2.0
"""ClipBERT: video and language by sparse sampling (arXiv:2102.06183)."""

from .model import Model

__all__ = ["Model"]
