# SPDX-License-Identifier: Apache-2.0
"""Commands answer ``--help`` at once, and the light parts do not load Paddle."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (
    "train.py",
    "eval.py",
    "predict.py",
    "tools/baselines.py",
    "tools/benchmark.py",
    "tools/convert.py",
    "tools/doctor.py",
    "tools/export.py",
    "tools/extract.py",
    "tools/parity.py",
    "data/dataset/sample/prepare.py",
    "data/dataset/tall/prepare.py",
)


def cpu_seconds(*args: str) -> tuple[float, str]:
    """CPU time of a Python process and what it wrote."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_takes_less_than_a_second(command):
    seconds, text = cpu_seconds(command, "--help")
    assert text.startswith("usage:")
    for _ in range(2):  # the best of three: other processes may disturb one
        if seconds >= 1:
            seconds = min(seconds, cpu_seconds(command, "--help")[0])
    assert seconds < 1


def test_every_tool_is_listed():
    assert {f"tools/{p.name}" for p in ROOT.glob("tools/*.py")} <= set(COMMANDS)


@pytest.mark.parametrize("part", ["metrics", "reader"])
def test_light_parts_do_not_load_paddle(part):
    code = f"""if True:
        import importlib, pkgutil, sys, {part}
        for module in pkgutil.walk_packages({part}.__path__, "{part}."):
            importlib.import_module(module.name)
        assert "paddle" not in sys.modules
        print(sum(name.startswith("{part}.") for name in sys.modules))"""
    assert int(cpu_seconds("-c", code)[1]) > 1
