# SPDX-License-Identifier: Apache-2.0
"""data/dataset/tvqa_plus/prepare.py vocab: the words of generated answers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from reader.common.tvqa_plus import parse_question
from reader.common.tvqa_plus_answers import SPECIAL, build_vocabulary, read_vocabulary
from tests.conftest import ROOT
from tests.reader.stage_world import question, questions

SCRIPT = ROOT / "data/dataset/tvqa_plus/prepare.py"


@pytest.fixture
def training(tmp_path):
    """A file of questions."""
    path = tmp_path / "train.json"
    path.write_text(json.dumps(questions()["train"]))
    return path


def run(*args):
    """(exit code, output, last line of errors)."""
    done = subprocess.run([sys.executable, str(SCRIPT), "vocab", *map(str, args)], text=True,
                          capture_output=True, timeout=60, check=False)  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr.strip().split("\n")[-1]


def test_words_are_sorted_by_frequency_and_then_as_text():
    texts = {"a0": "b É z", "a1": "Z z 'S", "a2": "<eos> <EOS> b", "a3": "'s É", "a4": "once"}
    entry = question(1, q="b b <unk> ?", **texts)
    words = build_vocabulary([parse_question("file", 0, entry)])
    assert words == [*SPECIAL, "b", "z", "'s", "é"]
    everything = build_vocabulary([parse_question("file", 0, entry)], 1)
    assert everything == [*words, "?", "once"]
    assert build_vocabulary([parse_question("file", 0, entry)], 5) == list(SPECIAL)


def test_a_list_is_written(training, tmp_path):
    out = tmp_path / "new" / "answer_vocab.json"
    code, output, _ = run("--qa", training, "--out", out)
    assert code == 0 and output == f"{out}: {len(read_vocabulary(out))} words of 3 questions\n"
    # per question: "." five times, the and ball twice, ben twice, all others once
    expected = [".", "ball", "ben", "the", "?", "ada", "all", "at", "holds", "nobody", "who"]
    assert read_vocabulary(out) == [*SPECIAL, *expected]
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    assert run("--qa", training, "--out", out, "--min_count", 4)[0] == 3
    assert run("--qa", training, "--out", tmp_path / "b.json", "--min_count", 4)[0] == 0
    assert read_vocabulary(tmp_path / "b.json") == [*SPECIAL, ".", "ball", "ben", "the"]


def test_another_list_stays(training, tmp_path):
    out = tmp_path / "answer_vocab.json"
    out.write_text(json.dumps([*SPECIAL, "old"]))
    code, output, error = run("--qa", training, "--out", out)
    assert code == 3 and not output and "found another list" in error and "--force" in error
    assert read_vocabulary(out) == [*SPECIAL, "old"]
    assert run("--qa", training, "--out", out, "--force")[0] == 0
    written = out.read_bytes()
    assert run("--qa", training, "--out", out)[0] == 0  # the same list again
    assert out.read_bytes() == written and len(read_vocabulary(out)) > 5


def test_mistakes(training, tmp_path):
    out = tmp_path / "out.json"
    code, _, error = run("--qa", tmp_path / "gone.json", "--out", out)
    assert code == 3 and "gone.json: expected a JSON file" in error
    code, _, error = run("--qa", training, "--out", out, "--min_count", 0)
    assert code == 2 and "--min_count: expected 1 or more, found 0" in error
    code, _, error = run("--qa", training, "--out", training / "out.json")
    assert code == 3 and "cannot write" in error
    out.write_text("[")
    code, _, error = run("--qa", training, "--out", out)
    assert code == 3 and "expected JSON" in error
    assert run("--qa", training)[0] == 2
