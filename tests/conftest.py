# SPDX-License-Identifier: Apache-2.0
"""Process settings of all tests: the same as the entry points', and no network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from engine import runtime  # noqa: E402

os.environ.setdefault("VLZOO_OFFLINE", "1")
runtime.prepare()
