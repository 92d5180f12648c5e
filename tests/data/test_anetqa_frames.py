# SPDX-License-Identifier: Apache-2.0
"""data/dataset/anetqa/prepare.py frames: numbered videos become a store of the right frames."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine.errors import BUG, OK, exit_code
from reader.common.errors import DataError
from reader.common.frame_store import SETS, FrameStore, sample_sets, squeeze
from reader.common.video import Video
from tests.conftest import ROOT
from tests.reader.clips import cut, index_first, number, write_video

FOLDER = ROOT / "data/dataset/anetqa"
SCRIPT = FOLDER / "prepare.py"
TRAIN, VAL, TEST = ("v_aaaaaaaaaaa", "v_bbbbbbbbbbb"), ("v_ccccccccccc",), ("v_ddddddddddd",)
LENGTHS = dict(zip((*TRAIN, *VAL, *TEST), (60, 20, 5, 100), strict=True))
SIZE = 160  # the width of the numbered videos


@pytest.fixture
def module(monkeypatch):
    """The frame part of the script as a module, which processes of a pool find, too."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("anetqa_frames")


@pytest.fixture
def data(tmp_path):
    """Folder with lists of four videos, and the videos."""
    for split, videos in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        (tmp_path / f"video_{split}.json").write_text(json.dumps(videos))
    (tmp_path / "videos").mkdir()
    for video, frames in LENGTHS.items():
        write_video(tmp_path / "videos" / f"{video}.mp4", frames)
    return tmp_path


def arguments(data, *args):
    return ["frames", str(data), "--videos", str(data / "videos"), "--size", str(SIZE),
            "--jobs", "1", *map(str, args)]  # fmt: skip


def command(data, *args):
    return [sys.executable, str(SCRIPT), *arguments(data, *args)]


@pytest.fixture
def run(module, monkeypatch, capsys):
    """Runs the command in this process: (exit code, lines of output, error)."""
    spec = importlib.util.spec_from_file_location("anetqa_prepare", SCRIPT)
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    monkeypatch.setattr(module, "_pool", ThreadPoolExecutor)

    def run(data, *args):
        capsys.readouterr()
        try:
            prepare.main(arguments(data, *args))
        except Exception as error:
            if (code := exit_code(error)) == BUG:
                raise
            return code, capsys.readouterr().out.splitlines(), str(error)
        return OK, capsys.readouterr().out.splitlines(), ""

    return run


def shown(store, video, name):
    """The numbers that the frames of a set show."""
    frames = store.frames(video, name)
    assert frames.shape == (SETS[name], 3, SIZE, SIZE)
    rows = frames[:, :, SIZE // 2 - 24 : SIZE // 2 + 24].transpose(0, 2, 3, 1)
    return [number(row) for row in rows]


def test_the_right_frames_are_stored(run, data):
    done = subprocess.run(command(data, "--jobs", "2"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].endswith("0 videos are there, 4 to do, 0 without a file")
    store = FrameStore(data / "frames")
    assert store.videos == sorted(LENGTHS) and store.size == SIZE
    assert json.loads((data / "frames" / "broken.json").read_text()) == {}
    for video, length in LENGTHS.items():
        for name, numbers in sample_sets(video, length).items():
            assert shown(store, video, name) == numbers, (video, name)
    whole = (data / "frames" / "frames.bin").read_bytes()
    code, said, _ = run(data)  # there is nothing to do
    assert code == 0 and "4 videos are there, 0 to do" in said[0]
    assert (data / "frames" / "frames.bin").read_bytes() == whole
    run(data, "--out", data / "other")  # with one process
    assert (data / "other" / "frames.bin").read_bytes() == whole
    code, _, error = run(data, "--quality", "90")
    assert code == 3 and "expected pictures with codec jpeg 90, found a store with jpeg 95" in error


def test_only_what_a_split_needs(run, data):
    assert run(data, "--sets", "split", "--seed", "7")[0] == 0
    store = FrameStore(data / "frames")
    expected = sample_sets(TRAIN[0], LENGTHS[TRAIN[0]], 7)
    assert shown(store, TRAIN[0], "rand5") == expected["rand5"]
    assert shown(store, TEST[0], "uniform") == sample_sets(TEST[0], 100)["uniform"]
    for video, name in ((TRAIN[0], "uniform"), (VAL[0], "rand1")):
        with pytest.raises(DataError, match=f"expected the set {name}"):
            store.frames(video, name)


@pytest.mark.parametrize("codec", ["webp", "png"])
def test_lossless_pictures(module, data, codec):
    source = Video(data / "videos" / f"{TRAIN[1]}.mp4")
    frame = source.frames([3])[0]
    frame[:, :, 0] = np.random.default_rng(0).integers(0, 256, frame.shape[:2])
    encoded = module.encode(frame, {"format": codec, "size": 64, "quality": 95})
    import cv2

    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded, squeeze(frame, 64))


def test_broken_videos_are_listed_and_may_be_replaced(run, data):
    videos = data / "videos"
    (videos / f"{TRAIN[0]}.mp4").unlink()
    (videos / f"{TRAIN[1]}.mp4").write_bytes(b"")
    cut(index_first(videos / f"{TEST[0]}.mp4"), 0.5)
    code, said, error = run(data)
    assert code == 3 and "found 3 of 4" in error and "--max_bad 3" in error
    reasons = json.loads((data / "frames" / "broken.json").read_text())
    assert set(reasons) == {*TRAIN, *TEST}
    assert "no file v_aaaaaaaaaaa.mp4" in reasons[TRAIN[0]]
    assert "found an empty one" in reasons[TRAIN[1]]
    assert "cut short" in reasons[TEST[0]]
    assert len([line for line in said if line.startswith("broken: ")]) == 3
    with pytest.raises(DataError, match="unfinished"):
        FrameStore(data / "frames")
    assert run(data, "--max_bad", "3")[0] == 0
    assert FrameStore(data / "frames").videos == list(VAL)
    assert run(data)[0] == 3 and run(data, "--max_bad", "3")[0] == 0  # as before
    write_video(videos / f"{TRAIN[0]}.mp4", 30)
    assert run(data, "--max_bad", "1", "--accept_truncated")[0] == 0
    store = FrameStore(data / "frames")
    assert store.videos == [TRAIN[0], *VAL, *TEST]
    assert shown(store, TRAIN[0], "rand1") == sample_sets(TRAIN[0], 30)["rand1"]
    frames = shown(store, TEST[0], "uniform")  # spread over the half that is there
    assert frames == sorted(frames) and frames[-1] < 60 and len(set(frames)) == 16


def test_a_killed_run_goes_on(run, data):
    videos = [f"v_{k:011d}" for k in range(40)]
    (data / "video_train.json").write_text(json.dumps(videos))
    source = (data / "videos" / f"{TRAIN[0]}.mp4").read_bytes()
    for video in videos:
        (data / "videos" / f"{video}.mp4").write_bytes(source)
    assert run(data, "--sets", "split", "--out", data / "whole")[0] == 0
    progress = data / "frames" / "progress.jsonl"
    process = subprocess.Popen(command(data, "--sets", "split"), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 60
    while not (progress.exists() and progress.read_bytes().count(b"\n") > 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (data / "frames" / "index.npz").exists()
    code, said, error = run(data, "--sets", "split")
    assert code == 0, error
    there = int(said[0].split(": ")[1].split()[0])
    assert 2 <= there < 42
    ours, whole = data / "frames" / "frames.bin", data / "whole" / "frames.bin"
    assert ours.read_bytes() == whole.read_bytes()
    assert len(FrameStore(data / "frames")) == 42


def test_a_video_that_kills_its_process_is_named(module, monkeypatch, tmp_path):
    text = (
        "import os\n"
        "def load(path, *rest):\n"
        "    if path == 'deadly':\n"
        "        os._exit(11)\n"
        "    return [path.encode()], {}\n"
    )
    (tmp_path / "crashing.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "load", importlib.import_module("crashing").load)
    monkeypatch.setattr(module, "WAITING", 2)  # "b" is lost with it and tried again
    names = ["a", "deadly", "b", "c"]
    found = dict(module._in_order({name: (name,) for name in names}, 1))
    assert list(found) == names
    assert found.pop("deadly") == f"deadly: {module.CRASHED}"
    assert found == {name: ([name.encode()], {}) for name in found}


def test_videos_are_found(module, tmp_path):
    for name in ("a/b/v_one.mp4", "two.MKV", "three.webm", "v_four.txt", "a/five.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    wanted = ["v_one", "v_two", "three", "v_four", "v_fiv"]
    found = module.find_videos(tmp_path, wanted)
    assert [path and path.name for path in found.values()] == [
        "v_one.mp4", "two.MKV", "three.webm", None, None
    ]  # fmt: skip


@pytest.mark.parametrize("option", ["--size=0", "--quality=0", "--jobs=0", "--max_bad=-1"])
def test_options_are_checked(run, data, option):
    code, _, error = run(data, option)
    assert code == 2 and option.split("=")[0] in error and "\n" not in error


def test_missing_lists_and_folders(run, data):
    (data / "none").mkdir()
    code, _, error = run(data, "--videos", data / "none", "--max_bad", "9")
    assert code == 3 and "expected videos such as v_aaaaaaaaaaa.mp4, found none of 4" in error
    code, _, error = run(data, "--videos", data / "gone", "--out", data / "other")
    assert code == 3 and "--videos: expected a folder" in error
    for path in data.glob("video_*.json"):
        path.unlink()
    code, _, error = run(data)
    assert code == 3 and "expected video_train.json and others" in error
    assert not (data / "other").exists()
