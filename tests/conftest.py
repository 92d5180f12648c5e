# SPDX-License-Identifier: Apache-2.0
"""Process settings of all tests: the same as the entry points', and no network."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from engine import runtime  # noqa: E402

os.environ.setdefault("VLZOO_OFFLINE", "1")
runtime.prepare()


@pytest.fixture(scope="session")
def sample_world(tmp_path_factory) -> Path:
    """A folder with ``data/dataset/sample`` as the real preparation makes it, of a few videos.

    Processes that share the tests share it, too: write into ``tmp_path``.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sample world"
    with FileLock(f"{root}.lock"):
        if not (root / "ready").exists():
            _make_world(root)
            (root / "ready").touch()
    return root


def _make_world(root: Path) -> None:
    script = ROOT / "data" / "dataset" / "sample" / "prepare.py"
    out = root / "data" / "dataset" / "sample"
    command = [sys.executable, str(script), "--out", str(out), "--videos", "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    texts = out / "llama" / "train.jsonl"  # a few are enough
    texts.write_text("".join(texts.read_text().splitlines(keepends=True)[::400]))


@pytest.fixture
def log(caplog, monkeypatch):
    """Captured log, whatever other tests did to the logger."""
    monkeypatch.setattr(logging.getLogger("vlzoo"), "propagate", True)
    caplog.set_level(logging.INFO, "vlzoo")
    return caplog
