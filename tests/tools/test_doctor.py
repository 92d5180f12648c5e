# SPDX-License-Identifier: Apache-2.0
"""The doctor finds what is wrong, names the mending and exits with the right code."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools import doctor

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/tall"
SAMPLE = "configs/sample/tall.yaml"


def examine(capsys, monkeypatch, *args: str) -> tuple[int, dict[str, dict]]:
    """Exit code and findings by topic of ``doctor.py --json``."""
    monkeypatch.setattr(sys, "argv", ["doctor.py", "--json", *args])
    with pytest.raises(SystemExit) as ended:
        doctor.main()
    report = json.loads(capsys.readouterr().out)
    assert report["exit_code"] == ended.value.code
    return ended.value.code, {f["topic"]: f for f in report["findings"]}


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """The tiny data set and its configuration of the 1.8 layout, in the working directory."""
    zipfile.ZipFile(GOLDEN / "dataset_a.zip").extractall(tmp_path)
    if not (tmp_path / "ds_a").exists():
        (tmp_path / "dataset_a").rename(tmp_path / "ds_a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLZOO_HOME", str(tmp_path / "home"))
    return str(GOLDEN / "tall_a.yaml")


def test_this_machine_is_usable(capsys, monkeypatch):
    code, findings = examine(capsys, monkeypatch)
    assert code == 0
    for topic in ("python", "packages", "paddle", "runtime"):
        assert findings[topic]["state"] in ("ok", "note")
    assert "it computes" in findings["paddle"]["text"]


def test_a_bare_python_is_told_to_set_up():
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "tools/doctor.py")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "missing: numpy" in done.stdout
    assert "-> bash run.sh setup" in done.stdout
    assert "Traceback" not in done.stderr


def test_complete_data_are_counted(capsys, monkeypatch, dataset):
    code, findings = examine(capsys, monkeypatch, "--config", dataset)
    assert code == 0
    for topic in ("config", "data train", "data valid", "data test", "data infer"):
        assert findings[topic]["state"] == "ok", findings[topic]
    assert findings["weights"]["state"] == "note"
    assert "download" in findings["weights"]["fix"]


def test_missing_data_end_in_3_and_name_the_readme(capsys, monkeypatch):
    code, findings = examine(capsys, monkeypatch, "-c", "configs/tall.yaml", "-o",
                             "TRAIN.clip_sentvec=./data/dataset/tall/none.pkl")  # fmt: skip
    assert code == 3
    assert findings["data train"]["state"] == "error"
    assert findings["data train"]["fix"] == "see data/dataset/tall/README.md"


def test_missing_sample_data_name_the_command(capsys, monkeypatch):
    code, findings = examine(capsys, monkeypatch, "-c", SAMPLE, "-o", "TRAIN.clip_sentvec=none.pkl")
    assert code == 3
    assert findings["data train"]["fix"] == "bash run.sh demo-data"


@pytest.mark.parametrize(
    "args, text",
    [
        (["-c", "configs/none.yaml"], "none.yaml"),
        (["-c", SAMPLE, "-o", "MODEL.hiden_size=1"], "hidden_size"),
        (["-c", SAMPLE, "-o", "MODEL.hidden_size=big"], "hidden_size"),
        (["-c", SAMPLE, "--model_name", "none"], "none"),
    ],
)
def test_wrong_configurations_end_in_2(capsys, monkeypatch, args, text):
    code, findings = examine(capsys, monkeypatch, *args)
    assert code == 2
    assert text in findings["config"]["text"]


def test_damaged_weights_end_in_4(capsys, monkeypatch, dataset):
    Path("bad.pdparams").write_bytes(b"<html>not found</html>")
    code, findings = examine(capsys, monkeypatch, "-c", dataset, "-o", "WEIGHTS.path=bad.pdparams")
    assert code == 4
    assert "remove bad.pdparams" in findings["weights"]["fix"]


def test_good_weights_are_read(capsys, monkeypatch, dataset):
    weights = GOLDEN / "ckpt_a/TALL.pdparams"
    code, findings = examine(capsys, monkeypatch, "-c", dataset, "-o", f"WEIGHTS.path={weights}")
    assert code == 0
    assert findings["weights"]["state"] == "ok"


def paddle_build(cuda: str | None, capability: tuple[int, int] | None) -> SimpleNamespace:
    """What the GPU check asks of Paddle: its CUDA version, and the capability of one card."""
    cards = SimpleNamespace(
        device_count=lambda: int(capability is not None), get_device_capability=lambda: capability
    )
    return SimpleNamespace(
        is_compiled_with_cuda=lambda: cuda is not None,
        version=SimpleNamespace(cuda=lambda: cuda),
        device=SimpleNamespace(cuda=cards),
    )


@pytest.mark.parametrize(
    "cards, cuda, capability, state, text",
    [
        ([], None, None, "ok", "no NVIDIA driver"),
        (["P40"], None, None, "note", "CPU build"),
        (["P40"], "11.8", None, "note", "sees none"),
        (["P40"], "11.8", (6, 1), "ok", "P40"),
        (["H100"], "11.8", (9, 0), "error", "needs CUDA 12"),
        (["H100"], "12.6", (9, 0), "ok", "H100"),
    ],
)
def test_gpu(monkeypatch, cards, cuda, capability, state, text):
    monkeypatch.setattr(doctor, "nvidia_cards", lambda: cards)
    finding = doctor.check_gpu(paddle_build(cuda, capability))
    assert finding.state == state
    assert text in finding.text


def test_every_finding_that_is_not_fine_names_its_mending(capsys, monkeypatch):
    _, findings = examine(capsys, monkeypatch, "-c", SAMPLE, "-o", "TRAIN.clip_sentvec=none.pkl")
    assert all(f["fix"] for f in findings.values() if f["state"] != "ok")
