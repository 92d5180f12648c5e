# SPDX-License-Identifier: Apache-2.0
"""data/dataset/anetqa/prepare.py: questions, answers, check."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from reader.common.frame_store import FrameWriter
from tests.conftest import ROOT
from tests.data.prepare import run_script

SCRIPT = ROOT / "data/dataset/anetqa/prepare.py"
PUBLISHED = ROOT.parent / "shared" / "annotations" / "anetqa" / "anetqa_trainval_ans2label.json"
A, B, C, D = (f"v_abcdefghi_{k}" for k in "ABCD")


def record(video, number, answer="yes", **more):
    asked = f'Is "{number}", a/b, é?'
    return {"question": asked, "answer": answer, "qa_id": f"{video}#objExist#{number}",
            "video_id": video, "taxonomy": {"answer types": "binary"}} | more  # fmt: skip


def hidden(video, number):
    entry = record(video, number)
    del entry["answer"]
    return entry


@pytest.fixture
def raw(tmp_path):
    """The raw files: two training videos and one without questions, one of val, one of test."""
    write(tmp_path, "qa_train", [record(B, 1, "red"), record(A, 2, "no"), record(B, 3)])
    write(tmp_path, "qa_val", [record(C, 4), record(C, 5, "a cup")])
    write(tmp_path, "q_test", [hidden(D, 6)])
    for split, videos in (("train", [A, "v_nothing_____", B]), ("val", [C]), ("test", [D])):
        write(tmp_path, f"video_{split}", videos)
    return tmp_path


def write(folder, name, content):
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def run(*args):
    return run_script(SCRIPT, *args)


def keys(path):
    return [json.loads(line)["key"] for line in path.read_text().splitlines()]


def test_the_script_by_itself(tmp_path):
    """Help loads nothing heavy; errors are one line."""

    def start(*args):
        return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=60)

    check = (
        "import runpy, sys\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "finally: print({'numpy', 'paddle', 'cv2'} & set(sys.modules))"
    )
    done = start("-c", check, "--help")
    assert done.returncode == 0 and "prepare.py frames" in done.stdout
    assert done.stdout.endswith("set()\n")
    done = start(SCRIPT, "questions", tmp_path)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1
    assert start(SCRIPT).returncode == 2


# questions


def test_questions_follow_the_lists_of_videos(raw):
    code, said, _ = run("questions", raw, "--csv")
    assert code == 0 and said[0] == "warning: train: no question about v_nothing_____, left out"
    assert said[1].endswith("data_train.jsonl: 3 questions about 2 videos")
    numbers = [key.rpartition("#")[2] for key in keys(raw / "data_train.jsonl")]
    assert numbers == ["2", "1", "3"]
    first, second = (raw / "data_val.jsonl").read_text().splitlines()
    assert first == (
        f'{{"Unnamed: 0":0,"key":"{C}#objExist#4","question":"Is \\"4\\", a\\/b, \\u00e9?",'
        f'"answer":"yes","vid_id":"{C}","gif_name":"{C}","description":"none"}}'
    )
    assert json.loads(second)["Unnamed: 0"] == 1
    (test,) = (raw / "data_test.jsonl").read_text().splitlines()
    assert json.loads(test)["answer"] is None
    with open(raw / "data_test.csv", encoding="utf-8", newline="") as file:
        header, row = csv.reader(file)
    assert header == ["", "key", "question", "answer", "vid_id", "gif_name", "description"]
    assert row == ["0", f"{D}#objExist#6", 'Is "6", a/b, é?', "", D, D, "none"]


def test_folders_and_names_of_the_published_scripts(raw):
    for old, new in (("qa_train", "qa/qa_train"), ("qa_val", "anetqa/anetqa_val"),
                     ("q_test", "qa/qa_test"), ("video_train", "meta/video_train"),
                     ("video_val", "jsons/video_val")):  # fmt: skip
        (raw / new).parent.mkdir(exist_ok=True)
        (raw / f"{old}.json").rename(raw / f"{new}.json")
    assert run("questions", raw)[0] == 0
    assert [len(keys(raw / f"data_{s}.jsonl")) for s in ("train", "val", "test")] == [3, 2, 1]


def test_questions_belong_to_the_split_of_their_video(raw):
    """Also those from another split's file; the answers of test questions stay hidden."""
    write(raw, "qa_train", [record(A, 1), record(D, 2), record("v_elsewhere__", 3)])
    del (entry := record(C, 9))["video_id"]  # then the id's first 13 characters tell
    write(raw, "qa_val", [entry, record("v_short", 7, video_id="v_short")])
    write(raw, "video_val", [C, "v_short"])
    code, said, _ = run("questions", raw)
    assert code == 0
    assert keys(raw / "data_val.jsonl") == [f"{C}#objExist#9", "v_short#objExist#7"]
    assert keys(raw / "data_test.jsonl") == [f"{D}#objExist#2", f"{D}#objExist#6"]
    assert '"answer":"' not in (raw / "data_test.jsonl").read_text()
    assert said[-1] == "warning: 1 questions of 1 videos on no list, such as v_elsewhere__"


def test_large_files_are_read_in_pieces(raw):
    """Longer than a block, with a record longer than one, and any white space."""
    text = "".join(f" {json.dumps(record(A, k))} ,\n" for k in range(9000))
    long = json.dumps(record(A, 9000, program="x" * (1 << 23)))
    (raw / "qa_train.json").write_text(f"\n[{text}{long}\n]\n")
    assert run("questions", raw)[0] == 0
    assert len(keys(raw / "data_train.jsonl")) == 9001


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("qa_train", '{"a": 1}', "expected a JSON list, found"),
        ("qa_train", '[{"qa_id": "x"', "qa_train.json: entry 0: not JSON"),
        ("qa_train", "[3]", "entry 0: no JSON object, but 3"),
        ("qa_train", '[{"qa_id": "x", "question": "y"}]', "(x): expected text as answer, found"),
        ("qa_train", '[{"qa_id": "x", "question": 7}]', "(x): expected text as question, found 7"),
        ("video_val", "[1]", "video_val.json: expected a JSON list of video ids"),
        ("video_val", '["a", "b", "a"]', "expected every video once, found a twice"),
        ("video_val", "[", "video_val.json: expected a JSON list of video ids"),
    ],
)
def test_damaged_files_are_named(raw, name, text, message):
    (raw / f"{name}.json").write_text(text)
    code, _, error = run("questions", raw)
    assert code == 3 and message in error and "\n" not in error
    assert not list(raw.glob("data_*"))


def test_missing_files(raw, tmp_path):
    assert "expected a folder with ANetQA's files" in run("questions", tmp_path / "gone")[2]
    (tmp_path / "empty").mkdir()
    code, _, error = run("questions", tmp_path / "empty")
    assert code == 3 and "expected qa_train.json and others, found none" in error
    (raw / "q_test.json").unlink()
    code, _, error = run("questions", raw)
    assert code == 3 and "expected qa_test.json beside video_test.json" in error
    (raw / "video_test.json").unlink()
    code, said, _ = run("questions", raw)
    assert code == 0 and "test: no qa_test.json, left out" in said
    assert not (raw / "data_test.jsonl").exists()


# answers


def test_answers_of_train_and_val(raw):
    assert "run prepare.py questions" in run("answers", raw)[2]
    run("questions", raw)
    path = raw / "anetqa_trainval_ans2label.json"
    assert run("answers", raw)[:2] == (0, [f"{path}: 5 classes"])
    text = path.read_text()
    assert text.startswith('{\n    "<UNK>": 0,\n    "no": 1,\n')
    assert json.loads(text) == {"<UNK>": 0, "no": 1, "red": 2, "yes": 3, "a cup": 4}
    assert run("answers", raw)[0] == 0
    write(raw, "qa_val", [record(C, 4, "blue")])
    run("questions", raw)
    code, _, error = run("answers", raw)
    assert code == 3 and "found another list" in error and path.read_text() == text
    assert run("answers", raw, "--force")[0] == 0 and "blue" in path.read_text()


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no real annotations here")
def test_the_published_list_has_our_form(raw):
    """Its answers, asked about once each, give the file itself."""
    text = PUBLISHED.read_text(encoding="utf-8")
    answers = list(json.loads(text))[1:]
    write(raw, "qa_train", [record(A, k, answer) for k, answer in enumerate(answers)])
    write(raw, "qa_val", [])
    run("questions", raw)
    assert run("answers", raw)[0] == 0
    assert (raw / "anetqa_trainval_ans2label.json").read_text(encoding="utf-8") == text


# check


def make_store(folder, videos):
    import cv2

    picture = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    with FrameWriter(folder, {"size": 4, "codec": "png"}) as store:
        for video in videos:
            store.add(video, [picture], {"uniform": [0]})
        store.finish()


def test_check_of_good_data(raw):
    write(raw, "video_train", [A, B])
    run("questions", raw)
    run("answers", raw)
    make_store(raw / "frames", [A, B, C, D])
    code, lines, _ = run("check", raw)
    assert code == 0 and lines == [
        "answers: 5 classes", "frames: 4 videos, 4x4, png", "train: 3 questions about 2 videos",
        "val: 2 questions about 1 videos", "test: 1 questions about 1 videos", "usable",
    ]  # fmt: skip


def test_every_kind_of_problem_is_a_line(raw):
    twice, empty = record(A, 2, "green"), record(B, 8, question=" ")
    write(raw, "qa_train", [record(A, 2, "no"), twice, empty])
    write(raw, "video_train", [A, B, "v_nothing_____", C])
    run("questions", raw)
    train = (raw / "data_train.jsonl").read_text()
    (raw / "data_train.jsonl").write_text(train.replace('"answer":"no"', '"answer":null'))
    write(raw, "answers", {"<UNK>": 0, "yes": 1})
    make_store(raw / "other", [A, C])
    write(raw, "video_test", ["v_other______"])
    code, lines, error = run("check", raw, "--answers", raw / "answers.json", "--store",
                             raw / "other")  # fmt: skip
    assert code == 3 and "3 kinds of problems make data unusable" in error
    expected = [
        ("unusable", 3, f"question id occurs again; the first: train {A}#objExist#2"),
        ("unusable", 1, f"question without an answer; the first: train {A}#objExist#2"),
        ("unusable", 1, f"test question about a video without frames; the first: {D}"),
        ("warning ", 1, f"question is empty; the first: train {B}#objExist#8"),
        ("warning ", 2, "train answer is not in the answer list; the first: 'green' of train"),
        ("warning ", 1, "val answer is not in the answer list; the first: 'a cup' of val"),
        ("warning ", 2, "video without questions; the first: v_nothing_____ of train"),
        ("warning ", 1, f"video of two splits; the first: {C} of train and val"),
        ("warning ", 1, f"video is on no list; the first: {D} of test"),
        ("warning ", 1, f"train question about a video without frames; the first: {B}"),
    ]
    found = [line for line in lines if line.startswith(("unusable", "warning"))]
    for severity, count, rest in expected:
        start = f"{severity}  {count:>7}  {rest}"
        assert [line for line in found if line.startswith(start)], (start, found)
    assert len(found) == len(expected)


def test_check_without_answers_and_frames(raw):
    code, _, error = run("check", raw)
    assert code == 3 and "run prepare.py questions" in error
    run("questions", raw)
    code, lines, _ = run("check", raw)
    assert code == 0 and lines[-1] == "usable"
    assert any("no answer list; the first: " in line for line in lines)
    assert any("no frames; the first: " in line for line in lines)
    (raw / "frames").mkdir()
    write(raw, "anetqa_trainval_ans2label", {"<UNK>": 0, "yes": 2})
    code, lines, _ = run("check", raw)
    assert code == 3 and any("expected a frame store, found none" in line for line in lines)
    assert any("classes are not 0 to 1" in line for line in lines)
    (raw / "data_val.jsonl").write_text('{"key": "x"}\n')
    code, _, error = run("check", raw)
    assert code == 3 and "data_val.jsonl:1: expected an object with key" in error
