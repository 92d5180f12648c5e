# SPDX-License-Identifier: Apache-2.0
"""data/dataset/tgif_qa/prepare.py on made-up tables, and on samples of the real ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.data.prepare import run_script

SCRIPT = ROOT / "data/dataset/tgif_qa/prepare.py"
REAL = ROOT.parent / "shared" / "annotations" / "tgif_qa"
CHOICES = ["gif_name", "question", "a1", "a2", "a3", "a4", "a5", "answer", "vid_id", "key"]
FRAMES = ["gif_name", "question", "answer", "type", "vid_id", "key", "description"]


def table(path, header, rows):
    """A table as published: tabs, carriage returns, nothing quoted."""
    path.write_bytes("".join("\t".join(row) + "\r\n" for row in [header, *rows]).encode())


def choice(gif, answer="4"):
    return [gif, 'Who says "hi ?', "a", 'b "', "c", "d", "é", answer, "ACTION1", "5"]


def frame(gif, answer, kind):
    return [gif, "what ?", answer, kind, "FRAMEQA1", "7", "a sentence ."]


@pytest.fixture
def raw(tmp_path):
    """Folder of tables of 40 training GIFs and 2 test ones."""
    folder = tmp_path / "raw"
    folder.mkdir()
    gifs = [f"gif{k}" for k in range(40)]
    for task in ("action", "transition"):
        table(folder / f"Train_{task}_question.csv", CHOICES, [choice(gif) for gif in gifs])
        table(folder / f"Test_{task}_question.csv", CHOICES, [choice("t1", "0"), choice("t2")])
    answers = ["two", "dog", "two", "red"] * 10
    rows = [frame(gif, answer, "1") for gif, answer in zip(gifs, answers, strict=True)]
    table(folder / "Train_frameqa_question.tsv", FRAMES, rows)
    rows = [frame("t1", "cat", "0"), frame("t2", "red", "2"), frame("t2", "yard", "3")]
    table(folder / "Test_frameqa_question.csv", FRAMES, rows)
    return folder


def run(*args):
    return run_script(SCRIPT, *args)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_task_becomes_json_lines(raw, tmp_path):
    out = tmp_path / "out"
    code, said, _ = run(raw, "--out", out)
    assert code == 0
    assert lines(out / "action_test.jsonl") == [
        {"gif_name": gif, "question": 'Who says "hi ?', "options": ["a", 'b "', "c", "d", "é"],
         "answer": answer} for gif, answer in (("t1", 0), ("t2", 4))
    ]  # fmt: skip
    types = [(q["answer"], q["answer_type"]) for q in lines(out / "frameqa_test.jsonl")]
    assert types == [("cat", "object"), ("red", "color"), ("yard", "location")]
    answers = json.loads((out / "frameqa_trainval_ans2label.json").read_text())
    assert answers == {"<UNK>": 0, "two": 1, "dog": 2, "red": 3}
    assert any(line.endswith("4 classes; 2 of 3 test answers are not there") for line in said)


def test_train_and_val_are_split_by_gif(raw, tmp_path):
    def sides(name, *options):
        assert run(raw, "--out", tmp_path / name, *options)[0] == 0
        return {
            task: [
                {q["gif_name"] for q in lines(path)} if path.exists() else set()
                for path in (tmp_path / name / f"{task}_{s}.jsonl" for s in ("train", "val"))
            ]
            for task in ("action", "transition", "frameqa")
        }

    first = sides("a", "--valid_ratio", "0.3")
    train, val = first["action"]
    assert not train & val and len(train | val) == 40 and 4 <= len(val) <= 20
    assert first["transition"] == first["action"] == first["frameqa"]
    assert first == sides("b", "--valid_ratio", "0.3")
    other = sides("c", "--valid_ratio", "0.3", "--seed", "1")
    assert other["action"] != first["action"]
    name = "frameqa_trainval_ans2label.json"  # is of both sides
    assert (tmp_path / "a" / name).read_text() == (tmp_path / "c" / name).read_text()
    assert sides("a", "--valid_ratio", "0")["action"] == [train | val, set()]


def test_absent_tables_and_gifs_are_said(raw, tmp_path):
    for name in ("Train_action", "Train_transition", "Test_transition"):
        (raw / f"{name}_question.csv").unlink()
    (tmp_path / "gifs").mkdir()
    (tmp_path / "gifs" / "t1.gif").touch()
    code, said, _ = run(raw, "--out", tmp_path / "out", "--videos", tmp_path / "gifs")
    assert code == 0 and "transition: no table of test, left out" in said
    assert any("1 of them are missing, such as t2" in line for line in said)
    assert not list((tmp_path / "out").glob("transition*"))


def test_another_answer_list_is_kept(raw, tmp_path):
    path = tmp_path / "out" / "frameqa_trainval_ans2label.json"
    assert run(raw, "--out", tmp_path / "out")[0] == 0
    kept = path.read_text()
    table(raw / "Train_frameqa_question.tsv", FRAMES, [frame("gif1", "sun", "0")])
    code, _, error = run(raw, "--out", tmp_path / "out")
    assert code == 3 and "found another list" in error and path.read_text() == kept
    assert run(raw, "--out", tmp_path / "out", "--force")[0] == 0 and "sun" in path.read_text()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([choice("g", "5")], r"_question.csv:2: expected answer 0 to 4, found '5'"),
        ([choice("g"), choice("g")[:-1]], "_question.csv:3: expected 10 fields, found 9"),
    ],
)
def test_damaged_lines_are_named(raw, tmp_path, rows, message):
    table(raw / "Test_action_question.csv", CHOICES, rows)
    code, _, error = run(raw, "--out", tmp_path / "out")
    assert code == 3 and message in error and "\n" not in error


def test_bad_input_is_one_line(raw, tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1
    assert "expected Train_action_question.csv" in done.stderr
    assert run(raw, "--out", tmp_path / "out", "--valid_ratio", "1")[0] == 2
    table(raw / "Test_action_question.csv", CHOICES[1:], [])
    code, _, error = run(raw, "--out", tmp_path / "out")
    assert code == 3 and "found no gif_name" in error
    (raw / "Test_action_question.csv").write_bytes(b"\xff\xfe\x00")
    assert run(raw, "--out", tmp_path / "out")[0] == 3


@pytest.mark.skipif(not REAL.is_dir(), reason="no real annotations here")
def test_real_tables(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in REAL.glob("T*.csv"):
        shutil.copyfile(path, raw / f"{path.name.split('.')[0]}.csv")
    assert run(raw, "--out", tmp_path / "out")[0] == 0
    counts = {path.stem: len(lines(path)) for path in (tmp_path / "out").glob("*.jsonl")}
    trained = counts.pop("action_train"), counts.pop("action_val")
    assert counts == {"action_test": 2274, "transition_test": 2500, "frameqa_test": 4000}
    assert sum(trained) == 3000 and 200 < trained[1] < 400
    assert {len(q["options"]) for q in lines(tmp_path / "out" / "action_train.jsonl")} == {5}
