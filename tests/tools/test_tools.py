# SPDX-License-Identifier: Apache-2.0
"""benchmark, baselines and export on the sample world."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from engine import build, checkpoint, config
from engine.errors import ConfigError, DataError
from tests.conftest import ROOT
from tools import baselines, benchmark, export

CONFIG = str(ROOT / "configs" / "sample" / "tall.yaml")


def run(sample_world, name: str, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *flags]
    return subprocess.run(command, cwd=sample_world, capture_output=True, text=True, timeout=280)


def test_benchmark_reports_speed_memory_and_comparisons(sample_world, tmp_path):
    out = tmp_path / "figures.json"
    done = run(sample_world, "benchmark", "TALL", "-c", CONFIG, "--repeats", "1",
               "--samples", "64", "--json", str(out))  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    for name in (
        "matrix_gflops", "forward_samples_per_second", "train_samples_per_second",
        "train_share_of_matrix_rate", "reader_samples_per_second", "peak_memory_gb",
        "evaluation_records_per_second",
    ):  # fmt: skip
        assert figures[name] > 0 and name in done.stdout
    assert "left_out" not in figures
    step, scores = figures["training step"], figures["evaluation"]
    assert step["largest difference of 3 losses"] < 1e-5 and scores["largest difference"] < 1e-5
    assert scores["times faster"] > 10
    assert figures["matching of windows and sentences"]["first windows give the same matches"]


def test_benchmark_knows_what_fits():
    for name, first in (("tall", "tall"), ("mcg", "mcg_msrvtt")):
        assert benchmark._default_config(name).endswith(f"configs/{first}.yaml")
    path = benchmark._default_config("mcg")
    benchmark._require_memory(config.load(path, []), "cpu")
    with pytest.raises(DataError, match=r"expected at least .* GB of memory"):
        benchmark._require_memory(config.load(path, ["MODEL.vocab_size=2000000000"]), "cpu")


def test_baselines_prints_a_row_for_every_hidden_input(sample_world, tmp_path):
    flags = ("-c", CONFIG, "-o", "TRAIN.epoch=1", "--save_dir", str(tmp_path))
    done = run(sample_world, "baselines", *flags)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line[:1] == "|"]
    assert rows[2:] == ["full model", "text-blind", "video-blind", "random answers"]
    full = json.loads((tmp_path / "none" / "TALL_metrics.json").read_text())
    blind = json.loads((tmp_path / "video" / "TALL_metrics.json").read_text())
    assert full["queries"] == blind["queries"] > 0


def test_a_failing_row_passes_its_exit_code_on(sample_world, tmp_path):
    done = run(sample_world, "baselines", "-c", CONFIG, "-o", "TRAIN.optimizer=best",
               "--save_dir", str(tmp_path))  # fmt: skip
    assert done.returncode == 2 and "expected one of adam" in done.stderr
    done = run(sample_world, "baselines", "-c", CONFIG, "--pretrain", "none.pdparams",
               "--save_dir", str(tmp_path))  # fmt: skip
    assert done.returncode == 4 and "none.pdparams: expected weights" in done.stderr


def test_table():
    lines = baselines.table({"a": {"x": 0.5}, "b": {"x": 0.25}}, ["x"])
    assert lines == ["| | x |", "|---|---|", "| a | 0.500 |", "| b | 0.250 |"]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_exported_program_computes_the_same(tmp_path, batch_size):
    model = build.model(config.load(CONFIG))
    assert export.export(model, tmp_path / "out" / "TALL_model", batch_size) < 1e-6
    assert (tmp_path / "out" / "TALL_model.pdiparams").is_file()


def test_export_needs_an_exportable_model(tmp_path):
    with pytest.raises(ConfigError, match="exportable"):
        export.export(object(), tmp_path / "m")


def test_export_command(sample_world, tmp_path):
    weights = checkpoint.Checkpoints(tmp_path, "TALL").export("", build.model(config.load(CONFIG)))
    done = run(sample_world, "export", "-c", CONFIG, "--weights", str(weights),
               "--save_dir", str(tmp_path / "out"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"save inference model at {tmp_path / 'out'}" in done.stdout
