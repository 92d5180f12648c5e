# SPDX-License-Identifier: Apache-2.0
"""LLaMA-VQA's comparisons give equal numbers both ways, at any size."""

from __future__ import annotations

from tools.comparisons import llama_vqa


def figures(compare, monkeypatch) -> dict:
    sizes = {"dim": 32, "num_layers": 2, "num_heads": 2, "multiple_of": 16, "vocab_size": 300}
    monkeypatch.setattr(llama_vqa, "SIZES", sizes)
    monkeypatch.setattr(llama_vqa, "_TIMES", 1)
    return compare({"MODEL": {"size": "7B", "visual_dim": 8, "tau": 3.0, "backbone": "none"}})


def test_answering(monkeypatch):
    found = figures(llama_vqa.answering, monkeypatch)
    assert found["largest difference of scores"] < 1e-5 and found["times faster"] > 0
    assert found["network"].startswith("dim 32")


def test_training(monkeypatch):
    found = figures(llama_vqa.training, monkeypatch)
    assert found["largest difference of losses"] < 1e-5
    assert 0 < found["largest relative difference of gradients"] < 1e-4
