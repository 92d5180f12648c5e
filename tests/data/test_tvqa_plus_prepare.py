# SPDX-License-Identifier: Apache-2.0
"""data/dataset/tvqa_plus/prepare.py: check and pack."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from reader.common.errors import DataError
from reader.common.tvqa_plus import PUBLISHED
from reader.common.tvqa_plus_rows import open_part
from reader.common.tvqa_plus_store import pack
from tests.conftest import ROOT
from tests.reader.stage_world import D, features, make_package, question, questions, rows, write_h5

SCRIPT = ROOT / "data/dataset/tvqa_plus/prepare.py"


@pytest.fixture
def package(tmp_path):
    """Folder of a made-up package."""
    make_package(tmp_path)
    return tmp_path


def run(*args):
    """(exit code, lines of output, last line of errors)."""
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, args)], capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr.strip().split("\n")[-1]


def rewrite(package, option, change):
    """Change one JSON file."""
    path = package / PUBLISHED[option]
    data = json.loads(path.read_text())
    path.write_text(json.dumps(change(data)))


def replace_h5(package, option, values):
    (package / PUBLISHED[option]).unlink()
    write_h5(package / PUBLISHED[option], values)


def test_help_is_quick():
    started = time.perf_counter()
    code, lines, _ = run("--help")
    assert code == 0 and "prepare.py check DIR" in "\n".join(lines)
    assert time.perf_counter() - started < 3  # without Paddle
    assert run("check")[0] == 2


def test_a_good_package(package, tmp_path):
    code, lines, _ = run("check", package)
    assert code == 0 and lines == [
        "qa_bert: rows of 6 numbers", "sub_bert: rows of 6 numbers", "vfeat: rows of 4 numbers",
        "train: 3 questions of 2 clips", "valid: 2 questions of 2 clips",
        "test: 1 questions of 1 clips", "usable",
    ]  # fmt: skip
    assert run("pack", package, tmp_path / "store")[0] == 0
    assert run("check", package, "--store", tmp_path / "store")[:2] == (0, lines)
    for option in ("qa_bert", "sub_bert", "vcpt", "vfeat"):  # they are not needed any more
        (package / PUBLISHED[option]).unlink()
    assert run("check", package, "--store", tmp_path / "store")[:2] == (0, lines)


def broken(package):
    """Spoil a package in every way: (severity, count, beginning, part) of the expected lines."""
    odd = [
        question(10, "moon"),
        question(11, answer=7),
        question(12, bbox={"25": []}),
        question(13, bbox={"3": [], "15": []}),
        question(14, bbox={}),
        question(15, ts=(3.0, 99.0)),
        question(16, ts=(3.0, 1.0)),
        question(17, q_len=9),
        question(17),
        question(18),
    ]
    rewrite(package, "train", lambda data: data + odd)
    values = features([q for split in questions().values() for q in split] + odd)
    qa = values["qa_bert"]
    del qa["12_a1"], qa["18_q"]
    qa["13_q"] = rows("x", 2, D)
    qa["14_q"] = qa["14_q"][:, :3]
    replace_h5(package, "qa_bert", qa)
    replace_h5(package, "sub_bert", {"hall": values["sub_bert"]["hall"][:-2]})
    replace_h5(package, "vfeat", {"ball": values["vfeat"]["ball"][:-1]})
    more = {"sub_text": "a <eos> b", "sub_time": [1.0]}
    rewrite(package, "subtitles", lambda data: {"ball": more, "hall": data["hall"]})

    def short(data):
        return data | {"ball": {k: v[:10] for k, v in data["ball"].items()}}

    rewrite(package, "vcpt", short)
    (package / PUBLISHED["word2idx"]).unlink()
    return [
        ("unusable", 1, "question is damaged; the first: ", "question 11: expected"),
        ("unusable", 1, "question id occurs again; the first: ", "17"),
        ("unusable", 1, "clip without a number of frames; the first: question 10 of moon", ""),
        ("unusable", 1, "annotated frames outside of the clip; the first: question 12", "25 of 20"),
        ("unusable", 2, "words of a question without features; the first: 12_a1", ""),
        ("unusable", 1, "rows are not the number of words; the first: 13_q: 2 rows, 5 words", ""),
        ("unusable", 1, "rows of another width; the first: ", "14_q: 3 instead of 6"),
        ("unusable", 1, "subtitles without features; the first: ball", ""),
        ("unusable", 1, "not one sentence for each time; the first: ball: 2 for 1 times", ""),
        ("unusable", 1, "rows are not the number of regions; the first: ball: 49, 23", ""),
        ("unusable", 1, "regions of too few frames; the first: ball: 10 of 19", ""),
        ("unusable", 1, "regions without features; the first: hall", ""),
        ("warning ", 1, "annotated frames not 6 apart; the first: question 13", "[3, 15]"),
        ("warning ", 1, "no annotated frames, all frames are used; the first: question 14", ""),
        ("warning ", 2, "moment reversed or outside of the clip; the first: question 15", "6.67 s"),
        ("warning ", 1, "stated length is not the number of words; the first: 17", ""),
        ("warning ", 1, "subtitle rows are not the number of words", "hall: 4 rows, 6 words"),
        ("warning ", 1, "word2idx is missing; the first: word2idx.json", ""),
    ]


def test_every_kind_of_problem_is_a_line(package):
    expected = broken(package)
    code, lines, error = run("check", package)
    assert code == 3 and "12 kinds of problems make data unusable" in error
    found = lines[6:]
    for severity, count, beginning, part in expected:
        start = f"{severity}  {count:>6}  {beginning}"
        assert [line for line in found if line.startswith(start) and part in line], start
    assert len(found) == len(expected)
    assert [line[:8] for line in found] == ["unusable"] * 12 + ["warning "] * 6


def test_missing_and_damaged_files(package, tmp_path):
    assert "expected a folder" in run("check", tmp_path / "gone")[2]
    code, _, error = run("check", package, "--vcpt", tmp_path / "gone.json")
    assert code == 3 and "--vcpt: expected a file" in error
    (tmp_path / "empty").mkdir()
    code, lines, error = run("check", tmp_path / "empty")
    assert code == 3 and any("questions are missing" in line for line in lines)
    code, _, error = run("pack", tmp_path / "empty", tmp_path / "store")
    assert code == 3 and "expected feature files, found none" in error
    (package / PUBLISHED["vcpt"]).write_text('{"ball": [')
    code, _, error = run("check", package)
    assert code == 3 and "expected JSON" in error
    (package / PUBLISHED["vcpt"]).unlink()
    code, _, error = run("pack", package, tmp_path / "store")
    assert code == 3 and "both or neither of vcpt and vfeat" in error


def test_plain_names_and_compressed_files_are_found(package, tmp_path):
    import gzip

    for option in ("qa_bert", "frm_cnt"):
        old = package / PUBLISHED[option]
        old.rename(package / f"{option}{old.suffix}")
    for option in ("subtitles", "vcpt"):
        old = package / PUBLISHED[option]
        (package / f"{old.name}.gz").write_bytes(gzip.compress(old.read_bytes()))
        old.unlink()
    assert run("check", package)[0] == 0
    assert run("pack", package, tmp_path / "store", "--half")[0] == 0


def given(package):
    return {name: package / PUBLISHED[name] for name in ("qa_bert", "sub_bert", "vcpt", "vfeat")}


def test_packing_goes_on_where_it_was_stopped(package, tmp_path):
    store, done = tmp_path / "store", []

    def stopping(steps, total, what):
        done.append(what)
        for k, step in enumerate(steps):
            if what == "regions" and k == 1 and len(done) == 3:
                raise KeyboardInterrupt
            yield step

    with pytest.raises(KeyboardInterrupt):
        pack(store, **given(package), progress=stopping)
    assert sorted(json.loads((store / "index.json").read_text())["parts"]) == ["qa", "subtitles"]
    assert not (store / "regions.npy").exists()
    with pytest.raises(DataError, match="expected a store with regions"):
        open_part(store, "regions")
    pack(store, **given(package), progress=stopping)
    assert done == ["qa", "subtitles", "regions", "regions"]
    before = {p.name: p.stat().st_mtime_ns for p in store.glob("*.npy")}
    pack(store, **given(package), progress=stopping)
    assert len(done) == 4
    assert before == {p.name: p.stat().st_mtime_ns for p in store.glob("*.npy")}
    assert not list(store.glob("*.part"))


def test_a_store_is_of_one_package(package, tmp_path):
    store = tmp_path / "store"
    pack(store, **given(package))
    with pytest.raises(DataError, match="holds qa of other dtype"):
        pack(store, **given(package), half=True)
    replace_h5(package, "sub_bert", {"ball": rows("ball", 3, D)})
    with pytest.raises(DataError, match="holds subtitles of other files"):
        pack(store, **given(package))


def test_what_does_not_fit_is_said(package, tmp_path):
    values = features()
    extra = values["vfeat"] | {"zoo": rows("zoo", 3, 4)}
    replace_h5(package, "vfeat", extra)
    (line,) = pack(tmp_path / "a", **given(package))
    assert "no boxes of 1 clips, the first is zoo" in line
    replace_h5(package, "vfeat", values["vfeat"] | {"hall": rows("hall", 3, 4)})
    with pytest.raises(DataError, match=r"hall: expected .* rows as counted in .*, found 3"):
        pack(tmp_path / "b", **given(package))
    replace_h5(package, "sub_bert", {"ball": np.full((2, D), 7e4, np.float32)})
    pack(tmp_path / "c", sub_bert=given(package)["sub_bert"])
    with pytest.raises(DataError, match="expected numbers below 65504 for half precision"):
        pack(tmp_path / "d", sub_bert=given(package)["sub_bert"], half=True)
    stored = open_part(Path(tmp_path / "c"), "subtitles")
    assert stored.keys() == ["ball"] and stored.length("ball") == 2
    assert stored.length("ballroom") is None and stored.length("a") is None
