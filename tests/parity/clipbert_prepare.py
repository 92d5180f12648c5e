# SPDX-License-Identifier: Apache-2.0
"""How golden files of ANetQA's conversion are checked: raw JSON -> CSV and JSON lines, by bytes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.parity import clipbert_data, clipbert_metrics

if TYPE_CHECKING:
    from tools.parity import Case

_SCRIPT = Path(__file__).resolve().parents[2] / "data/dataset/anetqa/prepare.py"
_RAW = ("qa_", "q_test", "video_")


def anetqa(case: Case) -> None:
    """Conversion, then what the reader makes of the lines, then result files and their scores."""
    names = {Path(name).name: name for name in case.files}
    with tempfile.TemporaryDirectory() as folder:
        for name, ending in names.items():
            if name.startswith(_RAW):
                shutil.copyfile(case.file(ending), Path(folder) / name)
        command = [sys.executable, str(_SCRIPT), "questions", folder, "--csv"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        case.equal("questions", (done.returncode, done.stderr), (0, ""))
        for name, ending in names.items():
            if name.startswith("data_"):
                ours = Path(folder) / name
                found = ours.read_bytes() if ours.exists() else b""
                case.equal(name, found, case.file(ending).read_bytes())
    clipbert_data.check_items(case)
    clipbert_metrics.eval_res(case)


CHECKS = {"anetqa": anetqa}
