# SPDX-License-Identifier: Apache-2.0
"""Frames in a store: which ones, how they are squeezed, read back, and written despite crashes."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import pickle
import random

import numpy as np
import pytest

from reader.common.errors import BrokenSample, DataError
from reader.common.frame_store import (
    SETS,
    FrameStore,
    FrameWriter,
    sample_indices,
    sample_sets,
    squeeze,
)

SIZE = 8
ABOUT = {"size": SIZE, "codec": "png"}


def picture(number):
    """A picture (H, W, 3) BGR of one colour."""
    return np.full((SIZE, SIZE, 3), (number, 100, 200), np.uint8)


def png(number):
    import cv2

    return cv2.imencode(".png", picture(number))[1].tobytes()


def add(store, video, numbers=(1, 2)):
    """A video whose set `a` is its pictures in order, and `b` the last one three times."""
    last = len(numbers) - 1
    store.add(video, [png(n) for n in numbers], {"a": range(len(numbers)), "b": [last] * 3})


def blue(frames):
    """The numbers that pictures were made of; they must be RGB (n, 3, H, W)."""
    assert frames.dtype == np.uint8 and frames.shape[1:] == (3, SIZE, SIZE)
    assert (frames[:, 0] == 200).all() and (frames[:, 1] == 100).all()
    return frames[:, 2, 0, 0].tolist()


@pytest.fixture
def folder(tmp_path):
    """A finished store of three videos, added out of order."""
    with FrameWriter(tmp_path / "store", ABOUT) as store:
        add(store, "v_b", (7, 8))
        add(store, "v_ä", (4, 5))
        add(store, "v_a", (1, 2))
        store.finish()
    return tmp_path / "store"


# which frames


@pytest.mark.parametrize(("count", "length"), [(16, 3174), (16, 29), (8, 8), (3, 11), (8, 10)])
def test_one_frame_of_every_part(count, length):
    edges = [length * k // count for k in range(count + 1)]
    middle = sample_indices(count, length)
    assert middle == [(a + b - 1) // 2 for a, b in itertools.pairwise(edges)]
    for seed in range(20):
        drawn = sample_indices(count, length, random.Random(seed))
        for number, a, b in zip(drawn, edges, edges[1:], strict=False):
            assert a <= number < max(b - 1, a + 1)


def test_short_videos_repeat_their_last_frame():
    assert sample_indices(5, 3) == [0, 1, 2, 2, 2]
    assert sample_indices(5, 1, random.Random(0)) == [0] * 5
    with pytest.raises(ValueError):
        sample_indices(5, 0)


def test_sets_depend_on_seed_and_video_only():
    sets = sample_sets("v_x", 500)
    assert {name: len(numbers) for name, numbers in sets.items()} == SETS
    assert len({tuple(numbers) for numbers in sets.values()}) == 6
    assert sample_sets("v_x", 500, names=["rand2"]) == {"rand2": sets["rand2"]}
    for other in (sample_sets("v_x", 500, seed=1), sample_sets("v_y", 500)):
        assert other["uniform"] == sets["uniform"] and other["rand1"] != sets["rand1"]


def test_squeezed_frames_are_square():
    wide = np.zeros((4, 16, 3), np.uint8)
    wide[:, 1::2] = 200  # fine stripes become grey, not stripes
    small = squeeze(wide, 8)
    assert small.shape == (8, 8, 3) and (small == 100).all()
    steps = squeeze(np.array([[[0] * 3, [240] * 3]], np.uint8), 8)[0, :, 0]
    assert (np.diff(steps.astype(int)) >= 0).all() and len(set(steps.tolist())) > 3
    same = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    assert np.array_equal(squeeze(same, 8), same)


# reading


def test_frames_come_back(folder):
    store = FrameStore(folder)
    assert store.videos == ["v_a", "v_b", "v_ä"] and len(store) == 3 and store.size == SIZE
    assert "v_ä" in store and "v_" not in store and "v_abc" not in store and "z" not in store
    assert blue(store.frames("v_a", "a")) == [1, 2]
    assert blue(store.frames("v_b", "a")) == [7, 8]
    assert blue(store.frames("v_ä", "b")) == [5, 5, 5]
    with pytest.raises(BrokenSample, match="expected frames of v_c, found none"):
        store.frames("v_c", "a")
    with pytest.raises(DataError, match="v_a: expected the set c, found a, b") as error:
        store.frames("v_a", "c")
    assert not isinstance(error.value, BrokenSample)


def test_equal_pictures_are_stored_once(tmp_path):
    with FrameWriter(tmp_path, ABOUT) as store:
        add(store, "still", (6, 6, 6, 9, 6))
        assert store.counts == (2, len(png(6)) + len(png(9)))
        store.finish()
    assert blue(FrameStore(tmp_path).frames("still", "a")) == [6, 6, 6, 9, 6]
    assert (tmp_path / "frames.bin").stat().st_size == len(png(6)) + len(png(9))


def test_videos_may_lack_a_set(tmp_path):
    with FrameWriter(tmp_path, ABOUT) as store:
        store.add("x", [png(1)], {"a": [0, 0]})
        store.add("y", [png(2)], {"b": [0]})
        store.finish()
    store = FrameStore(tmp_path)
    assert blue(store.frames("x", "a")) == [1, 1] and blue(store.frames("y", "b")) == [2]
    with pytest.raises(DataError, match="y: expected the set a, found b; make the store"):
        store.frames("y", "a")


def test_stores_are_forked_and_sent(folder):
    store = FrameStore(folder)
    sent = pickle.dumps(store)
    assert len(sent) < 500 and blue(pickle.loads(sent).frames("v_b", "a")) == [7, 8]
    ask, answer = multiprocessing.Pipe()

    def child():
        answer.send(blue(store.frames("v_a", "a")))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert ask.poll(30) and ask.recv() == [1, 2]
    process.join()


# damage


def test_missing_and_damaged_stores(folder, tmp_path):
    with pytest.raises(DataError, match="expected a frame store, found none"):
        FrameStore(tmp_path / "gone")
    data = (folder / "frames.bin").read_bytes()
    (folder / "frames.bin").write_bytes(data[:-1])
    with pytest.raises(DataError, match=f"expected {len(data)} bytes or more, found"):
        FrameStore(folder)
    (folder / "frames.bin").write_bytes(bytes(len(data)))
    with pytest.raises(BrokenSample, match=r"v_a: expected a picture of 8x8 at byte \d+"):
        FrameStore(folder).frames("v_a", "a")
    index = (folder / "index.npz").read_bytes()
    for damaged in (index[: len(index) // 2], b"", b"?" * 500):
        (folder / "index.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"expected the index of a store \(frames 1\)"):
            FrameStore(folder)


# writing


def test_a_killed_run_goes_on(tmp_path):
    """Whatever the last write left behind: all whole videos stay, nothing else does."""
    whole = tmp_path / "whole"
    videos = {"x": (1, 2), "y": (3, 3), "z": (4, 5)}
    with FrameWriter(whole, ABOUT) as store:
        for video, numbers in videos.items():
            add(store, video, numbers)
    progress, data = ((whole / name).read_bytes() for name in ("progress.jsonl", "frames.bin"))
    with pytest.raises(DataError, match="found an unfinished one"):
        FrameStore(whole)
    ends = [k + 1 for k, byte in enumerate(progress) if byte == ord("\n")]
    for cut in sorted({0, 1, *ends, *(end - 1 for end in ends), *(end + 9 for end in ends[:-1])}):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "progress.jsonl").write_bytes(progress[:cut])
        kept = max(sum(cut >= end for end in ends) - 1, 0)
        size = sum(len(png(n)) for numbers in list(videos.values())[:kept] for n in set(numbers))
        (folder / "frames.bin").write_bytes(data[: size + 5] if cut > ends[0] else b"")
        with FrameWriter(folder, ABOUT) as store:
            assert [video in store for video in videos] == [k < kept for k in range(3)]
            for video, numbers in list(videos.items())[kept:]:
                add(store, video, numbers)
            store.finish()
        assert (folder / "frames.bin").read_bytes() == data
        read = FrameStore(folder)
        assert all(blue(read.frames(v, "a")) == list(n) for v, n in videos.items())
        assert sorted(p.name for p in folder.iterdir()) == [".lock", "frames.bin", "index.npz"]


def test_a_finished_store_grows_and_stays_readable(folder):
    with FrameWriter(folder, ABOUT) as store:
        assert len(store) == 3 and "v_b" in store
        add(store, "v_c", (9, 9))
        before = FrameStore(folder)  # while another process writes
        assert "v_c" not in before and blue(before.frames("v_b", "a")) == [7, 8]
    assert len(FrameStore(folder)) == 3  # the run was stopped
    with FrameWriter(folder, ABOUT) as store:
        assert "v_c" in store
        store.finish()
    after = FrameStore(folder)
    assert blue(after.frames("v_c", "a")) == [9, 9]
    assert blue(after.frames("v_a", "b")) == [2, 2, 2]


def test_an_index_that_was_just_replaced_and_its_progress(folder):
    """A kill between the last two steps of ``finish``."""
    lines = [json.dumps({"format": "frames 1", **ABOUT})]
    (folder / "progress.jsonl").write_text("\n".join(lines) + "\n")
    with FrameWriter(folder, ABOUT) as store:
        store.finish()
    assert len(FrameStore(folder)) == 3 and not (folder / "progress.jsonl").exists()


def test_stores_of_other_pictures_and_foreign_files_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match="expected pictures with size 9, found a store with 8"):
        FrameWriter(folder, ABOUT | {"size": 9})
    with FrameWriter(folder, ABOUT), pytest.raises(DataError, match="another process is writing"):
        FrameWriter(folder, ABOUT)
    (folder / "frames.bin").write_bytes(b"")
    with pytest.raises(DataError, match="bytes or more, found 0"):
        FrameWriter(folder, ABOUT)
    other = tmp_path / "other"
    other.mkdir()
    (other / "frames.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="expected 0 bytes, found 4"):
        FrameWriter(other, ABOUT)
    assert (other / "frames.bin").read_bytes() == b"mine"
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write here"):
        FrameWriter(tmp_path / "file", ABOUT)
    with FrameWriter(tmp_path / "new", ABOUT) as store:
        with pytest.raises(DataError, match="expected at least one readable video"):
            store.finish()
        add(store, "x")
        with pytest.raises(ValueError, match="x is there already"):
            add(store, "x")
        with pytest.raises(ValueError, match="y: expected 2 frames of a"):
            add(store, "y", (1,))
