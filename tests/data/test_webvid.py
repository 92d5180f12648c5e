# SPDX-License-Identifier: Apache-2.0
"""Preparation of WebVid and CC3M: lists, shards, what is missing or broken."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from reader.common.errors import DataError
from reader.common.shards import Shards
from tests.data.webvid_pickles import PICKLES
from tests.reader.clipbert_world import write_image
from tests.reader.clips import write_video

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "data" / "dataset" / "webvid" / "prepare.py"


@pytest.fixture(scope="module")
def prepare():
    spec = importlib.util.spec_from_file_location("prepare_webvid", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(prepare, capsys):
    def made(*arguments):
        prepare.main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with five clips, of which one is broken and one missing, and two pictures."""
    folder = tmp_path_factory.mktemp("webvid")
    (folder / "videos" / "p").mkdir(parents=True)
    for k in (1, 2, 3):
        write_video(folder / "videos" / "p" / f"{k}.mp4", 4 + k)
    (folder / "videos" / "p" / "4.mp4").write_bytes(b"no video")
    rows = [f'{k},http://x,PT00H00M05S,p,"Clip {k},\nof {k}"' for k in range(1, 6)]
    rows.insert(2, f"6,http://x,PT00H00M05S,p,{'word ' * 80}")
    (folder / "results.csv").write_text(
        "videoid,contentUrl,duration,page_dir,name\n" + "\n".join(rows) + "\n"
    )
    (folder / "images").mkdir()
    for value in (10, 20):
        write_image(folder / "images" / f"{value}.png", 8, 8, value)
    (folder / "cc3m.json").write_text(json.dumps([
        {"image": "/export/cc3m/10.png", "caption": "ten"},
        {"image": "/export/cc3m/20.png", "caption": ["twenty", "score"]},
    ]))  # fmt: skip
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# lists


def test_webvid_s_own_table(run, world, tmp_path):
    out = tmp_path / "more" / "train.jsonl"
    said = run("convert", world / "results.csv", "--out", out)
    assert "5 lines; left out: 1 captions of 80 words or more, 0 without a file" in said
    assert lines(out)[1] == {"video": "p/2.mp4", "caption": "Clip 2,\nof 2"}
    said = run("convert", world / "results.csv", "--out", out, "--videos", world / "videos")
    assert "4 lines; left out: 1 captions of 80 words or more, 1 without a file" in said
    assert [line["video"] for line in lines(out)] == [f"p/{k}.mp4" for k in (1, 2, 3, 4)]
    before = out.stat().st_mtime_ns
    run("convert", world / "results.csv", "--out", out, "--videos", world / "videos")
    assert out.stat().st_mtime_ns == before and not list(out.parent.glob(".*"))
    again = tmp_path / "again.jsonl"
    run("convert", out, "--out", again)
    assert again.read_bytes() == out.read_bytes()


def test_a_list_of_pictures(run, world, tmp_path):
    out = tmp_path / "cc3m.jsonl"
    said = run("convert", world / "cc3m.json", "--out", out, "--strip", "/export/cc3m",
               "--images", world / "images")  # fmt: skip
    assert "2 lines" in said and lines(out) == [
        {"image": "10.png", "caption": "ten"},
        {"image": "20.png", "caption": ["twenty", "score"]},
    ]


@pytest.mark.parametrize("version", PICKLES)
def test_pickled_tables(run, tmp_path, version):
    table = tmp_path / "train.pkl"
    table.write_bytes(zlib.decompress(base64.b85decode(PICKLES[version])))
    out = tmp_path / "train.jsonl"
    assert "2 lines; left out: 1" in run("convert", table, "--out", out)
    assert lines(out) == [{"video": "000001_000050/7.mp4", "caption": "A cat runs"},
                          {"video": "9.mp4", "caption": "a dög"}]  # fmt: skip


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def pickled(change):
    """The table as another pickle."""
    data = zlib.decompress(base64.b85decode(PICKLES["pandas 1.5.3, protocol 5"]))
    return change(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Evil()), "asks for 'posix.system', which can run code; not loaded"),
        (pickle.dumps({"video_id": [1]}), "expected a table of pandas 1 or 2, found another"),
        (pickle.dumps(np.zeros(3)), "expected a table of pandas 1 or 2, found another"),
        (pickle.dumps(slice), "expected a table of pandas 1 or 2, found another"),
        (pickled(lambda data: data.replace(b"txt_len", b"txt_lex")), "found no txt_len"),
        (pickled(lambda data: data[:300]), "expected a pickle, found one that breaks off"),
        (b"", "an empty file"),
    ],
)
def test_other_pickles_are_refused(run, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(DataError) as error:
        run("convert", "x.pkl", "--out", "y.jsonl")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["x.pkl"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "", "x.txt: expected a list (.csv, .pkl, .jsonl, .json), found another ending"),
        ("x.csv", "a,b\n", "expected the columns videoid, page_dir, name, found no videoid"),
        ("x.jsonl", '{"video": 3, "caption": "a"}\n', "x.jsonl:1: expected video or image"),
        ("x.json", '[{"image": "a"}]', "x.json: entry 0: expected video or image, and caption"),
        ("x.json", "{}", "x.json: expected a JSON list"),
        ("x.jsonl", "", "expected something to use, found 0 long captions, 0 without a file"),
    ],
)
def test_damaged_lists(run, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as error:
        run("convert", tmp_path / name, "--out", tmp_path / "out.jsonl")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path) == [name]


# shards


@pytest.fixture
def listed(run, world, tmp_path):
    run("convert", world / "results.csv", "--out", tmp_path / "train.jsonl")
    return tmp_path / "train.jsonl"


def test_shards_have_all_files_mixed(run, world, listed, tmp_path):
    options = ("--videos", world / "videos", "--out", tmp_path / "s" / "train", "--samples", 2)
    said = run("pack", listed, *options, "--jobs", 1)
    assert f"{tmp_path}/s/train: 3 shards, 4 samples" in said
    assert "warning: 1 left out, since their files are missing or empty:" in said
    assert str(world / "videos" / "p" / "5.mp4") in said
    found = Shards(str(tmp_path / "s" / "train-{000000..000002}.tar"))
    samples = {sample.captions[0]: sample for sample in map(found.read, range(4))}
    assert list(samples) != [f"Clip {k},\nof {k}" for k in range(1, 5)]
    for k in range(1, 5):
        data = samples[f"Clip {k},\nof {k}"].data
        assert data == (world / "videos" / "p" / f"{k}.mp4").read_bytes()
    names = []
    for path in found.paths:
        with tarfile.open(path) as archive:
            names += archive.getnames()
    stems = [name.partition(".")[0] for name in names[::2]]
    assert stems == sorted(stems) and set(stems) < {f"{k:09d}" for k in range(5)}
    assert names == [f"{stem}.{ending}" for stem in stems for ending in ("mp4", "txt")]


def test_packing_goes_on_where_it_stopped(run, world, listed, tmp_path):
    options = ("--videos", world / "videos", "--out", tmp_path / "train", "--samples", 2,
               "--jobs", 1)  # fmt: skip
    first = run("pack", listed, *options)
    paths = sorted(tmp_path.glob("train-*.tar"))
    contents = [path.read_bytes() for path in paths]
    paths[1].unlink()
    os.truncate(paths[2], 700)
    before = paths[0].stat().st_mtime_ns
    assert run("pack", listed, *options) == first
    assert [path.read_bytes() for path in paths] == contents
    assert paths[0].stat().st_mtime_ns == before and not list(tmp_path.glob("*.part"))
    with pytest.raises(DataError, match=r"train\.stamp: expected shards of .*, found others"):
        run("pack", listed, *options[:-3], 3)
    with pytest.raises(DataError, match="expected files such as this, found none of a shard's 2"):
        run("pack", listed, "--videos", tmp_path, "--out", tmp_path / "x", "--samples", 2,
            "--jobs", 1)  # fmt: skip


def test_pictures_with_several_captions(run, world, tmp_path):
    out = tmp_path / "cc3m.jsonl"
    run("convert", world / "cc3m.json", "--out", out, "--strip", "/export/cc3m/")
    run("pack", out, "--images", world / "images", "--out", tmp_path / "cc", "--jobs", 1)
    found = Shards(str(tmp_path / "cc-*.tar"))
    captions = sorted(found.read(k).captions for k in range(2))
    assert captions == [["ten"], ["twenty", "score"]]
    assert "2 samples, 2 can be used" in run("check", tmp_path / "cc-000000.tar", "--decode")


def test_indices_of_foreign_shards(run, world, listed, tmp_path):
    run("pack", listed, "--videos", world / "videos", "--out", tmp_path / "train", "--jobs", 1)
    index = tmp_path / "train-000000.tar.index.npy"
    index.unlink()
    assert "1 shards, 4 samples" in run("index", tmp_path / "train-*.tar")
    assert index.exists()


# what is missing or broken


def test_check(run, world, listed, tmp_path):
    report = tmp_path / "report.txt"
    options = ("check", listed, "--videos", world / "videos", "--jobs", 1)
    with pytest.raises(DataError, match=r"1 of 5 samples cannot be used.*TRAIN\.max_bad"):
        run(*options, "--report", report)
    assert report.read_text().startswith(str(world / "videos" / "p" / "5.mp4"))
    with pytest.raises(DataError, match="2 of 5 samples cannot be used"):
        run(*options, "--decode", "--report", report)
    assert len(report.read_text().splitlines()) == 2
    run("pack", listed, "--videos", world / "videos", "--out", tmp_path / "train", "--jobs", 1)
    shard = tmp_path / "train-000000.tar"
    assert "4 samples, 4 can be used" in run("check", shard, "--jobs", 1)
    with pytest.raises(DataError, match="1 of 4 samples cannot be used"):
        run("check", shard, "--decode", "--jobs", 1)


def test_several_processes_and_exit_codes(world, listed, tmp_path):
    def start(*arguments):
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = start("pack", listed, "--videos", world / "videos", "--out", tmp_path / "train",
                 "--samples", 2, "--jobs", 2)  # fmt: skip
    assert done.returncode == 0 and "3 shards, 4 samples" in done.stdout
    done = start("check", listed, listed, "--jobs", 1)
    assert done.returncode == 3 and "expected one file of lines, or shards" in done.stderr
    done = start("pack", listed, "--out", "x", "--samples", 0)
    assert done.returncode == 2 and "--samples: expected 1 or more, found 0" in done.stderr
    assert "Traceback" not in done.stderr
