# SPDX-License-Identifier: Apache-2.0
"""Process settings of all tests: the same as the entry points', and no network."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from engine import runtime  # noqa: E402

os.environ.setdefault("VLZOO_OFFLINE", "1")
runtime.prepare()


@pytest.fixture(scope="session")
def sample_world(tmp_path_factory) -> Path:
    """A folder with ``data/dataset/sample`` as the real preparation makes it, of a few videos."""
    root = tmp_path_factory.mktemp("sample world")
    script = ROOT / "data" / "dataset" / "sample" / "prepare.py"
    out = root / "data" / "dataset" / "sample"
    command = [sys.executable, str(script), "--out", str(out), "--videos", "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    texts = out / "llama" / "train.jsonl"  # a few are enough
    texts.write_text("".join(texts.read_text().splitlines(keepends=True)[::400]))
    return root


@pytest.fixture
def log(caplog, monkeypatch):
    """Captured log, whatever other tests did to the logger."""
    monkeypatch.setattr(logging.getLogger("vlzoo"), "propagate", True)
    caplog.set_level(logging.INFO, "vlzoo")
    return caplog
