# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind: metrics.jsonl and VisualDL scalars."""

from __future__ import annotations

import json
import sys
import types

import pytest

from engine.errors import ConfigError
from engine.log import Curves


def test_scalars_go_to_jsonl_and_visualdl(tmp_path, monkeypatch):
    written = []

    class LogWriter:
        def __init__(self, logdir):
            written.append(logdir)

        def add_scalar(self, tag, value, step):
            written.append((tag, value, step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "visualdl", types.SimpleNamespace(LogWriter=LogWriter))
    curves = Curves(tmp_path, visualdl=True)
    curves.add("train", 3, {"loss": 0.5, "lr": 0.1})
    curves.close()
    assert written[1:] == [("train/loss", 0.5, 3), ("train/lr", 0.1, 3), "closed"]
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (line["tag"], line["step"], line["loss"]) == ("train", 3, 0.5)


def test_a_missing_visualdl_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "visualdl", None)
    with pytest.raises(ConfigError, match="pip install visualdl"):
        Curves(tmp_path, visualdl=True)


def test_a_resumed_run_adds_to_the_same_file(tmp_path):
    for step in (1, 2):
        curves = Curves(tmp_path)
        curves.add("train", step, {"loss": 1.0})
        curves.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_other_processes_write_nothing(tmp_path):
    curves = Curves(tmp_path / "out", enabled=False)
    curves.add("train", 1, {"loss": 1.0})
    curves.close()
    assert not (tmp_path / "out").exists()
