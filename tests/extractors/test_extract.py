# SPDX-License-Identifier: Apache-2.0
"""tools/extract.py: stores, shards, kills, bad videos, exit codes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from reader.common.errors import DataError
from reader.common.features import open_features
from reader.common.windows import window_grid, window_name
from tests.conftest import ROOT
from tests.reader.clips import cut, number, picture, write_video
from tools import extract as tool

LENGTHS = [64, 128]


class Sizes:
    """An extractor that needs no network: the mean of each of a window's four frames."""

    dim, identity = 4, {"name": "sizes"}

    def positions(self, length):
        return (np.arange(4) * length // 4)[None]

    def preprocess(self, frame):
        return frame.mean(keepdims=True)

    def features(self, clips):
        return clips.reshape(len(clips), 4).astype(np.float32)

    def encode(self, sentences):
        return np.array([[len(s)] * 4 for s in sentences], np.float32)


class Numbers:
    """An extractor of pictures that needs no network: what the numbered frames show."""

    dim, identity, fps = 2, {"name": "numbers"}, 3

    def pictures(self, frames):
        return np.array([[number(frame), frame.shape[0]] for frame in frames], np.float32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, frames in (("a_1.mp4", 150), ("b.avi", 90), ("c.mp4", 200), ("short.mp4", 20)):
        write_video(folder / name, frames, "mp4v" if name.endswith("mp4") else "MJPG")
    (folder / "notes.txt").write_text("not a video")
    return folder


def expected(videos):
    frames = {"a_1.mp4": 150, "b.avi": 90, "c.mp4": 200}
    return sorted(window_name(v, *w) for v, n in frames.items() for w in window_grid(n, LENGTHS))


def test_store(videos, tmp_path):
    found = tool.list_videos(videos)
    assert [v.name for v in found] == ["a_1.mp4", "b.avi", "c.mp4", "short.mp4"]
    assert tool.extract(Sizes(), found, tmp_path / "store", LENGTHS) == []
    source = open_features(tmp_path / "store")
    assert source.names == expected(videos) and source.identity == {"name": "sizes"}
    stamp = (tmp_path / "store" / "features.npy").stat().st_mtime_ns
    tool.extract(Sizes(), found, tmp_path / "store", LENGTHS)
    assert (tmp_path / "store" / "features.npy").stat().st_mtime_ns == stamp


def test_shards_are_the_whole(videos, tmp_path):
    found = tool.list_videos(videos)
    tool.extract(Sizes(), found, tmp_path / "one", LENGTHS)
    for shard in range(3):
        tool.extract(Sizes(), found, tmp_path / "three", LENGTHS, (shard, 3), batch=2)
    one, three = open_features(tmp_path / "one"), open_features(tmp_path / "three")
    assert one.names == three.names
    rows = range(len(one))
    np.testing.assert_array_equal(one.rows(rows), three.rows(rows))


def test_bad_videos(videos, tmp_path, caplog):
    mixed = tmp_path / "videos"
    shutil.copytree(videos, mixed)
    cut(mixed / "b.avi", 0.7)
    (mixed / "d.mp4").write_bytes(b"")
    found = tool.list_videos(mixed)
    for allowed in (0, 1):
        with pytest.raises(DataError, match=f"2 of 5 videos cannot be read, {allowed} are allowed"):
            tool.extract(Sizes(), found, tmp_path / "store", LENGTHS, max_bad=allowed)
        with pytest.raises(DataError, match="finished"):
            open_features(tmp_path / "store")
    bad = tool.extract(Sizes(), found, tmp_path / "store", LENGTHS, max_bad=2)
    assert [v.name for v in bad] == ["b.avi", "d.mp4"]
    assert {n[:5] for n in open_features(tmp_path / "store").names} == {"a_1.m", "c.mp4"}
    shutil.copy(videos / "b.avi", mixed / "b.avi")
    (mixed / "d.mp4").unlink()
    tool.extract(Sizes(), tool.list_videos(mixed), tmp_path / "store", LENGTHS)
    assert open_features(tmp_path / "store").names == expected(videos)


def test_truncated_videos_can_be_accepted(videos, tmp_path):
    shutil.copy(videos / "c.mp4", tmp_path / "c.mp4")
    from tests.reader.clips import index_first

    cut(index_first(tmp_path / "c.mp4"), 0.7)
    tool.extract(Sizes(), [tmp_path / "c.mp4"], tmp_path / "s", LENGTHS, accept_truncated=True)
    assert 0 < len(open_features(tmp_path / "s")) < len(window_grid(200, LENGTHS))


def test_a_killed_run_goes_on(videos, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from tools import extract as tool\n"
        "from tests.extractors.test_extract import Sizes\n"
        "class Slow(Sizes):\n"
        "    def features(self, clips): time.sleep(0.02); return super().features(clips)\n"
        "found = tool.list_videos(Path(sys.argv[1]))\n"
        "tool.extract(Slow(), found, Path(sys.argv[2]), [64, 128], batch=1)\n"
    )
    store = tmp_path / "store"
    command = [sys.executable, "-c", code, str(videos), str(store)]
    run = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (store / "progress.jsonl").exists() or not (store / "progress.jsonl").stat().st_size:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    with pytest.raises(DataError, match="finished"):
        open_features(store)
    seen = []

    class Counting(Sizes):
        def features(self, clips):
            seen.append(len(clips))
            return super().features(clips)

    tool.extract(Counting(), tool.list_videos(videos), store, LENGTHS)
    assert open_features(store).names == expected(videos)
    assert sum(seen) < len(expected(videos)), "finished videos must not be computed again"


def test_sentences(tmp_path):
    file = tmp_path / "s.txt"
    file.write_text("v_1_2\tHe cuts.\n\nShe runs away.\n")
    tool.encode(Sizes(), file, tmp_path / "store")
    source = open_features(tmp_path / "store")
    assert source.names == ["00000003", "v_1_2"]
    assert source.rows([0, 1])[:, 0].tolist() == [14, 8]
    file.write_text("a\tx\na\ty\n")
    with pytest.raises(DataError, match=r"s\.txt: expected different names of sentences, found a"):
        tool.encode(Sizes(), file, tmp_path / "other")


def test_pictures_at_a_rate(videos, tmp_path):
    clips = tool.list_clips(videos)
    assert [name for name, _ in clips] == ["a_1", "b", "c", "short"]
    for shard in (0, 1):
        assert tool.sample(Numbers(), clips, tmp_path / "store", (shard, 2)) == []
    source = open_features(tmp_path / "store")
    counts = {"a_1": 18, "b": 11, "c": 24, "short": 2}
    expected = {f"{v}/{n:06d}" for v, count in counts.items() for n in range(count)}
    assert {*source.names} == expected and source.identity == {"name": "numbers"}
    rows = [k for k, name in enumerate(source.names) if name.startswith("c/")]
    shown = source.rows(rows)[:, 0]
    assert shown[0] == 4 and np.all(np.diff(shown) >= 8) and np.all(np.diff(shown) <= 9)

    class Twice(Numbers):
        def pictures(self, frames):
            raise AssertionError("finished videos must not be computed again")

    tool.sample(Twice(), clips, tmp_path / "store", (0, 2))


def test_pictures_of_bad_videos(videos, tmp_path, caplog):
    shutil.copy(videos / "b.avi", tmp_path / "b.avi")
    (tmp_path / "d.mp4").write_bytes(b"")
    clips = tool.list_clips(tmp_path)
    with pytest.raises(DataError, match="1 of 2 videos cannot be read, 0 are allowed"):
        tool.sample(Numbers(), clips, tmp_path / "store")
    assert tool.sample(Numbers(), clips, tmp_path / "store", max_bad=1) == clips[1:]
    assert {name[:2] for name in open_features(tmp_path / "store").names} == {"b/"}


def test_lists_of_clips(videos, tmp_path):
    import cv2

    shots = tmp_path / "shots"
    for name in ("0078", "0079"):
        (shots / name).mkdir(parents=True)
        cv2.imwrite(str(shots / name / "1.png"), picture(int(name)))
    assert tool.list_clips(shots) == [("0078", shots / "0078"), ("0079", shots / "0079")]
    (tmp_path / "list.txt").write_text(f"s01_0078\t{shots}/0078\n{shots}/0079\n{videos}/a_1.mp4\n")
    clips = tool.list_clips(tmp_path / "list.txt")
    assert [name for name, _ in clips] == ["s01_0078", "0079", "a_1"]
    tool.sample(Numbers(), clips[:2], tmp_path / "store")
    source = open_features(tmp_path / "store")
    assert source.names == ["0079/000000", "s01_0078/000000"]
    assert source.rows([0, 1])[:, 0].tolist() == [79, 78]
    (tmp_path / "list.txt").write_text("x/c.mp4\ny/c.avi\n")
    with pytest.raises(DataError, match="expected different names of videos, found c twice"):
        tool.list_clips(tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"expected videos .* or folders of pictures"):
        tool.list_clips(shots / "0078")


def test_lists(tmp_path, videos):
    (tmp_path / "list.txt").write_text(f"{videos}/c.mp4\n{videos}/a_1.mp4\n")
    assert [v.name for v in tool.list_videos(tmp_path / "list.txt")] == ["c.mp4", "a_1.mp4"]
    (tmp_path / "list.txt").write_text("x/c.mp4\ny/c.mp4\n")
    with pytest.raises(DataError, match=r"found c\.mp4 twice"):
        tool.list_videos(tmp_path / "list.txt")
    with pytest.raises(DataError, match="expected videos"):
        (tmp_path / "empty").mkdir()
        tool.list_videos(tmp_path / "empty")


def command(*flags):
    run = [sys.executable, "tools/extract.py", *map(str, flags)]
    return subprocess.run(run, cwd=ROOT, capture_output=True, text=True)


def test_command(videos, tmp_path):
    """From raw video to a store with a small random C3D, and the exit code of a bad video."""
    (tmp_path / "v").mkdir()
    shutil.copy(videos / "b.avi", tmp_path / "v")
    flags = ["--extractor", "c3d", "--init_seed", 1, "--videos", tmp_path / "v"]
    flags += ["--use_gpu", "False"]
    flags += ["-o", "widths=[2,2,2,2,2,2,2,2]", "-o", "fc_dims=[5]", "-o", "side=32"]
    flags += ["--windows", "64", "--out", tmp_path / "store"]
    run = command(*flags)
    assert run.returncode == 0, run.stderr + run.stdout
    source = open_features(tmp_path / "store")
    assert source.names == sorted(window_name("b.avi", *w) for w in window_grid(90, [64]))
    assert source.dim == 5 and source.identity["weights"] == "random, seed 1"
    (tmp_path / "v" / "d.mp4").write_text("no video")
    run = command(*flags)
    assert run.returncode == 3
    assert "d.mp4: expected a video" in run.stdout and "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: 1 of 2 videos cannot be read")


def test_command_at_a_rate(videos, tmp_path):
    """From raw videos to features of a small random CLIP, three a second."""
    (tmp_path / "list.txt").write_text(f"clip\t{videos}/b.avi\n")
    flags = ["--extractor", "clip_vit", "--init_seed", 1, "--videos", tmp_path / "list.txt"]
    flags += ["--use_gpu", "False", "-o", "image_size=8", "-o", "patch_size=4", "-o", "width=8"]
    flags += ["-o", "num_layers=1", "-o", "num_heads=2", "-o", "output_dim=5"]
    run = command(*flags, "--fps", 3, "--out", tmp_path / "store")
    assert run.returncode == 0, run.stderr + run.stdout
    source = open_features(tmp_path / "store")
    assert source.names == [f"clip/{n:06d}" for n in range(11)] and source.dim == 5
    assert source.identity["fps"] == 3.0 and source.identity["weights"] == "random, seed 1"
    run = command(*flags, "--out", tmp_path / "store")  # once a second, into the same store
    assert run.returncode == 3 and "expected 5 numbers" not in run.stdout
    assert "'fps': 3.0" in run.stderr and "choose another folder" in run.stderr
    flags[1] = "c3d"
    run = command(*flags, "--fps", 3, "--out", tmp_path / "other")
    assert run.returncode == 2 and "c3d makes no features of pictures at a rate" in run.stderr


def test_flags():
    start = time.monotonic()
    assert "--shard" in command("--help").stdout
    assert time.monotonic() - start < 6  # without Paddle
    common = ["--extractor", "c3d", "--videos", "v", "--out", "o"]
    assert tool.parse([*common, "--shard", "1/3", "--windows", "64,128"]).shard == (1, 3)
    for bad in (["--shard", "3/3"], ["--shard", "x"], ["--windows", "2"], ["--sentences", "s"]):
        with pytest.raises(SystemExit) as error:
            tool.parse([*common, *bad])
        assert error.value.code == 2
