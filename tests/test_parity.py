# SPDX-License-Identifier: Apache-2.0
"""Every golden folder passes, and the tool that says so can fail."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tools import parity

ROOT = Path(__file__).resolve().parent.parent
COPIES = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared"  # the full set of golden numbers, where it is at hand
SYSTEMS = sorted(p.parent.name for p in COPIES.glob("*/manifest.json"))


def cases() -> list:
    found = []
    for system in SYSTEMS:
        for folder in (COPIES / system, SHARED / "golden" / system):
            if folder.is_dir():
                where = "copy" if COPIES in folder.parents else "full"
                found += [
                    pytest.param(system, folder, entry, id=f"{system}-{where}-{entry['name']}")
                    for entry in parity.load_manifest(folder)
                ]
    return found


@pytest.mark.parametrize(("system", "folder", "entry"), cases())
def test_golden(system, folder, entry):
    case = parity.Case(folder, entry, SHARED / "annotations")
    lines = parity.run_case(case, parity.checks_of(system))
    assert not [str(line) for line in lines if not line.passed]


def _run(folder: Path, *args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "parity.py"), "TALL", str(folder), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def golden(tmp_path) -> Path:
    """A folder with one case of two files."""
    for name in ("net_a.json", "net_a.npz"):
        shutil.copy(COPIES / "tall" / name, tmp_path)
    _manifest(tmp_path, [{"kind": "net", "name": "net_a", "files": ["net_a.json", "net_a.npz"]}])
    return tmp_path


def _manifest(folder: Path, entries: list[dict]) -> None:
    (folder / "manifest.json").write_text(json.dumps({"model": "tall", "cases": entries}))


def _lines(folder: Path) -> list[parity.Line]:
    checks, lines = parity.checks_of("tall"), []
    for entry in parity.load_manifest(folder):
        lines += parity.run_case(parity.Case(folder, entry), checks, catch=True)
    return lines


def _change(path: Path, **changes: np.ndarray) -> None:
    with np.load(path) as archive:
        values = dict(archive) | changes
    np.savez(path, **values)


def test_a_wrong_number_fails(golden):
    path = golden / "net_a.npz"
    _change(path, **{"loss/reg": np.load(path)["loss/reg"] + 1e-3})
    assert [x.group for x in _lines(golden) if not x.passed] == ["loss/reg"]


def test_a_key_that_nobody_checks_fails(golden):
    _change(golden / "net_a.npz", **{"out/unheard_of": np.zeros(2)})
    (line,) = [x for x in _lines(golden) if not x.passed]
    assert "unheard_of" in line.group and line.tolerance == "key was not checked"


def test_a_file_a_kind_and_a_missing_file_fail(golden):
    (golden / "extra.txt").write_text("?")
    files = ["net_a.json", "net_a.npz", "extra.txt"]
    _manifest(golden, [
        {"kind": "net", "name": "net_a", "files": files},
        {"kind": "unheard_of", "name": "b", "files": []},
        {"kind": "net_tf", "name": "c", "files": ["gone.npz"]},
    ])  # fmt: skip
    failed = {x.group for x in _lines(golden) if not x.passed}
    assert failed == {"extra.txt", "unheard_of", "c"}


def test_command_line_exit_codes(golden):
    done = _run(golden)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("all PASS")
    assert "PASS  out/sim_reg_mat" in done.stdout
    path = golden / "net_a.npz"
    _change(path, **{"loss/total": np.load(path)["loss/total"] + 1})
    done = _run(golden)
    assert done.returncode == 1 and "FAIL" in done.stdout and "Traceback" not in done.stderr
    assert _run(golden, "--kind", "nothing").returncode == 3
