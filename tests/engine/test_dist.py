# SPDX-License-Identifier: Apache-2.0
"""One, two and three processes train and evaluate alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).resolve().parents[1] / "dist_worker.py"


def _run(folder: Path, processes: int) -> tuple[dict, dict]:
    folder.mkdir()
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
        command += ["--backend", "gloo", "--log_dir", str(folder / "log")]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")}
    env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(WORKER), str(folder)], env=env, timeout=240, capture_output=True, text=True
    )
    logs = "".join(p.read_text() for p in folder.glob("log/workerlog*"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs[-4000:]
    return dict(np.load(folder / "parameters.npz")), json.loads(
        (folder / "result.json").read_text()
    )


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> tuple[dict, dict]:
    return _run(tmp_path_factory.mktemp("one") / "run", 1)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_do_not_change_training_and_evaluation(tmp_path, single, processes):
    """22 samples in batches of 6: neither the samples nor the last batch divide by 3 or by 4."""
    parameters, result = _run(tmp_path / "run", processes)
    for name, value in single[0].items():
        np.testing.assert_allclose(parameters[name], value, atol=2e-6, rtol=0)
    np.testing.assert_allclose(result["losses"], single[1]["losses"], atol=1e-6)
    assert result["untrained"] == single[1]["untrained"]  # to the last bit
    assert result["scores"]["missing"] == 0
    np.testing.assert_allclose(result["scores"]["mse"], single[1]["scores"]["mse"], atol=1e-6)
    steps, rest = divmod(22, processes)
    # The first batch lacks a sample of one process, the last one may: nobody waits for it.
    assert result["coupled"] == [0] + [processes] * (steps - 1) + [0] * bool(rest)
