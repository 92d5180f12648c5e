# SPDX-License-Identifier: Apache-2.0
"""MCG's reader in pre-training: clips and pictures in folders and shards, each once an epoch."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine import loader
from reader.common.errors import BrokenSample, DataError
from reader.common.mcg_pairs import Pairs
from reader.mcg import Reader
from tests.reader.clips import write_video
from tests.reader.mcg_world import (
    LENGTHS,
    SIDE,
    WORDS,
    lines,
    make_world,
    numbers,
    pairs,
    texts,
    write_shard,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Options of a reader of clips, pictures in a folder and pictures in three shards."""
    folder = tmp_path_factory.mktemp("mcg")
    options = make_world(folder) | {"task": "pretrain", "resize_size": SIDE, "max_txt_len": 8}
    pictures = [(folder / "images" / f"{value}.png").read_bytes() for value in (10, 20, 30)]
    for shard, (first, count) in enumerate(((0, 9), (9, 4), (13, 7))):
        write_shard(folder / f"cc-{shard}.tar", [
            {".png": pictures[k % 3], ".txt": b"a cat" if k % 2 else b"a dog"}
            for k in range(first, first + count)
        ])  # fmt: skip
    clips = [("video", "ball.mp4", "a cat runs"), ("video", "more/hall.mp4", "a dog"),
             ("video", "wall.avi", " the man eats ")]  # fmt: skip
    stills = [("image", "10.png", ["red", "blue"]), ("image", "20.png", "a dogs")]
    return folder, options | {
        "images": str(folder / "images"),
        "annotations": pairs(folder / "clips.jsonl", clips),
        "stills": pairs(folder / "stills.jsonl", stills),
        "tar": str(folder / "cc-{0..2}.tar"),
    }


@pytest.fixture
def read(files):
    def make(split="train", **changes):
        options = {k: v for k, v in files[1].items() if k not in ("stills", "tar")} | changes
        return Reader(split, **options)

    return make


@pytest.fixture
def shards(read, files):
    """A reader of the shards alone."""
    return lambda split="train", **changes: read(
        split, **{"annotations": None, "videos": None, "images": None, "shards": files[1]["tar"],
                  "crop_img_size": 8} | changes)  # fmt: skip


def batch_of(reader, *indices):
    return reader.collate([reader[i] for i in indices or range(len(reader))])


# items


def test_clips_of_a_folder(read):
    reader = read("valid")
    batch = batch_of(reader)
    assert batch["id"] == ["0", "1", "2"] and batch["frames"].shape == (3, 4, 3, SIDE, SIDE)
    assert batch["frames"].dtype == np.uint8 and "video" not in batch and "tokens" not in batch
    for frames, length in zip(batch["frames"], LENGTHS.values(), strict=True):
        found = numbers(frames)
        assert found == sorted(found) and found[1] < length // 2 <= found[2]
    assert texts(batch["ids"]) == ["[CLS] a cat runs [SEP]", "[CLS] a dog [SEP]",
                                   "[CLS] the man eats [SEP]"]  # fmt: skip
    assert batch["ids"].shape == batch["mlm_ids"].shape == (3, 8)
    assert batch["mask"].sum(1).tolist() == [5, 4, 5]
    assert batch["pieces"].dtype == np.int8
    assert batch["pieces"].tolist()[1] == [4, 1, 1, 3, 0, 0, 0, 0]
    again = batch_of(read("valid"))
    assert all(np.array_equal(batch[key], again[key]) for key in batch)
    references = reader.references()
    assert references["2"]["caption"] == "the man eats" and list(references) == ["0", "1", "2"]
    assert references["1"]["video"].endswith("videos/more/hall.mp4")


def test_hidden_words_change_by_epoch(read, tmp_path):
    rows = [("video", "ball.mp4", "cats runs eats jumps sits")] * 40
    reader = read("train", annotations=pairs(tmp_path / "x.jsonl", rows), blind="video")
    seen = set()
    for epoch in range(2):
        reader.set_epoch(epoch)
        batch = batch_of(reader)
        hidden = batch["mlm_labels"] >= 0
        assert (batch["mlm_labels"][hidden] == batch["ids"][hidden]).all()
        assert (batch["mlm_labels"][~hidden] == -100).all()
        assert (batch["mlm_ids"] == batch["ids"])[~hidden].all()
        assert not hidden[:, 0].any() and not hidden[:, 7].any()
        words = (batch["pieces"] == 1) | (batch["pieces"] == 2)
        assert 0.08 < hidden.sum() / words.sum() < 0.25 and not (hidden & ~words).any()
        assert 0.6 < (batch["mlm_ids"][hidden] == WORDS.index("[MASK]")).mean() < 0.95
        seen.add(hidden.tobytes())
    assert len(seen) == 2


def test_clips_are_cropped_alike(read):
    reader = read("train", resize_size=200, crop_img_size=100)
    places = set()
    for epoch in range(4):
        reader.set_epoch(epoch)
        frames = reader[0]["frames"]
        assert frames.shape == (4, 3, 100, 100) and frames.dtype == np.uint8
        places.add(frames[0, 0, 0].tobytes())
    assert len(places) > 1
    changed = read("train", augment=True)[0]["frames"]
    assert changed.dtype == np.float32 and changed.shape == (4, 3, SIDE, SIDE)


def test_pictures_of_a_folder(read, files):
    annotations = files[1]["stills"]
    reader = read("valid", annotations=annotations, crop_img_size=16)
    frames = reader[0]["frames"]
    assert frames.shape == (4, 3, 16, 16) and frames.dtype == np.uint8
    assert frames[:, :, 3, 3].tolist() == [[10, 11, 12]] * 4
    caption = texts([reader[0]["rows"][0]])[0]
    assert caption in ("[CLS] red [SEP]", "[CLS] blue [SEP]")
    assert f"[CLS] {reader.references()['0']['caption']} [SEP]" == caption
    train = read("train", annotations=annotations, crop_img_size=16, augment=True)
    drawn, told = set(), set()
    for epoch in range(12):
        train.set_epoch(epoch)
        item = train[0]
        assert item["frames"].shape == (4, 3, 16, 16) and item["frames"].dtype == np.float32
        assert (item["frames"] == item["frames"][:1]).all()
        drawn.add(item["frames"].tobytes())
        told.add(texts(item["rows"])[0])
    assert len(drawn) > 3 and told == {"[CLS] red [SEP]", "[CLS] blue [SEP]"}
    assert batch_of(train)["frames"].shape == (2, 4, 3, 16, 16)


def test_webvid_s_table(read, files, tmp_path):
    table = tmp_path / "results.csv"
    table.write_text(
        "videoid,contentUrl,duration,page_dir,name\n"
        '7,http://x,PT00H00M05S,000001_000050,"A cat,\nruns"\n'
        "8,http://x,PT00H00M05S,,a dog\n"
        f"9,http://x,PT00H00M05S,p,{'a ' * 80}\n"
    )
    (tmp_path / "000001_000050").mkdir()
    write_video(tmp_path / "000001_000050" / "7.mp4", 8)
    write_video(tmp_path / "8.mp4", 8)
    reader = read("valid", annotations=str(table), videos=str(tmp_path))
    assert len(reader) == 2  # not the long one
    batch = batch_of(reader)
    assert texts(batch["ids"]) == ["[CLS] a cat [UNK] runs [SEP]", "[CLS] a dog [SEP]"]
    assert [sorted(numbers(f)) == numbers(f) for f in batch["frames"]] == [True, True]


def test_long_captions_of_clips_are_left_out(read, tmp_path):
    rows = [{"video": "ball.mp4", "caption": "a " * 79},
            {"video": "ball.mp4", "caption": "a " * 80},
            {"video": "ball.mp4", "caption": "a", "txt_len": 80},
            {"video": "ball.mp4", "caption": "a " * 99, "txt_len": 79},
            {"image": "10.png", "caption": "a " * 99}]  # fmt: skip
    assert len(read(annotations=lines(tmp_path / "x.jsonl", rows))) == 3


def test_samples_of_shards(shards):
    reader = shards("valid")
    assert len(reader) == 20
    batch = batch_of(reader)
    colours = batch["frames"][:, 0, :, 2, 2].tolist()
    assert colours == [[10 + 10 * (k % 3) + c for c in range(3)] for k in range(20)]
    expected = ["[CLS] a cat [SEP]" if k % 2 else "[CLS] a dog [SEP]" for k in range(20)]
    assert texts(batch["ids"]) == expected
    references = reader.references()
    assert len(references) == 20 and references["9"]["caption"] == "a cat"
    assert references["9"]["video"].endswith("cc-1.tar: 000")


def test_clips_in_shards(read, files, tmp_path):
    clip = (files[0] / "videos" / "wall.avi").read_bytes()
    path = write_shard(tmp_path / "x.tar", [{".avi": clip, ".json": b'{"caption": "a cat"}'},
                                            {".avi": clip[:50], ".txt": b"a"}])  # fmt: skip
    reader = read("valid", annotations=None, shards=path)
    found = numbers(reader[0]["frames"])
    assert found == sorted(found) and found[1] < 15 <= found[2]
    with pytest.raises(BrokenSample, match=r"x\.tar: 001: expected a video, found no readable"):
        reader[1]


# orders


def test_an_epoch_has_every_sample_once(read, shards):
    for reader in (read(), shards(shuffle_buffer=4)):
        orders = [reader.order(epoch) for epoch in range(5)]
        assert all(sorted(order) == list(range(len(reader))) for order in orders)
        assert len(set(map(tuple, orders))) > 1 and orders[2] == reader.order(2)
        assert all(type(k) is int for k in orders[0])
    assert shards().order(0) != shards(seed=1).order(0)


class Set:
    """A data set of so many samples."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def order(self, rng, buffer):
        return rng.permutation(self.size)


def test_steps_of_several_data_sets():
    found = Pairs([Set(30), Set(90), Set(7)])
    flat = [np.array(found.order(5, epoch, 9, 4)).reshape(-1, 4) for epoch in range(60)]
    assert all(len(steps) == 32 for steps in flat)  # of 127 samples
    steps = np.concatenate(flat)
    of = np.searchsorted([30, 120], steps, "right")
    assert (of == of[:, :1]).all()  # a step is of one data set
    shares = np.bincount(of[:, 0]) / len(of)
    assert np.abs(shares - 1 / 3).max() < 0.05
    for part, (first, size) in enumerate(((0, 30), (30, 90), (120, 7))):
        samples = steps[of == part]
        whole = len(samples) // size * size
        passes = samples[:whole].reshape(-1, size)
        assert len(passes) > 5 and (np.sort(passes) == first + np.arange(size)).all()
        assert size < 9 or len({each.tobytes() for each in passes}) == len(passes)
    assert found.order(5, 17, 9, 4) == flat[17].reshape(-1).tolist()
    assert found.order(6, 17, 9, 4) != flat[17].reshape(-1).tolist()


def test_batches_of_one_data_set_on_all_processes(read, files, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vlzoo"), "propagate", True)
    both = {"annotations": [files[1]["annotations"], files[1]["stills"]], "shards": files[1]["tar"]}
    reader = read(**both, crop_img_size=8, samples_per_step=4)
    assert len(reader) == 25
    kinds = []
    for rank in range(2):
        for epoch in range(2):
            plan = loader.plan(reader.order(epoch), 4, rank=rank, world=2)
            of = [np.searchsorted([3, 5], batch.indices, "right") for batch in plan]
            assert all(len(each) == 2 and len(set(each)) == 1 for each in of)
            kinds.append([int(each[0]) for each in of])
    assert kinds[:2] == kinds[2:] and set(kinds[0] + kinds[1]) == {0, 1, 2}
    assert batch_of(reader, 0, 1)["frames"].shape == (2, 4, 3, 8, 8)
    assert not [record for record in caplog.records if record.name == "vlzoo"]
    batch_of(reader, 0, 4)
    batch_of(reader, 0, 4)
    (message,) = {record.getMessage() for record in caplog.records if record.name == "vlzoo"}
    assert "samples_per_step 4; for batches of one data set" in message


# through the engine

SCRIPT = """
import json, os, sys
from engine import loader, runtime
runtime.prepare()
from reader.mcg import Reader
reader = Reader("train", **json.loads(sys.argv[1]))
rank, world = (int(os.environ[f"PADDLE_TRAINER{name}"]) for name in ("_ID", "S_NUM"))
plan = loader.plan(reader.order(3), 4, rank=rank, world=world)
found = loader.load(reader, [batch.indices for batch in plan], 2)
print(json.dumps([batch["id"] for batch in found]))
"""


def test_two_processes_with_two_workers_each_load_every_sample_once(shards, files):
    options = {"task": "pretrain", "vocab": files[1]["vocab"], "shards": files[1]["tar"],
               "num_frm": 2, "crop_img_size": 8, "shuffle_buffer": 6}  # fmt: skip
    running = []
    for rank in "01":
        env = os.environ | {"PADDLE_TRAINER_ID": rank, "PADDLE_TRAINERS_NUM": "2",
                            "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # fmt: skip
        command = [sys.executable, "-c", SCRIPT, json.dumps(options)]
        running.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    found = [json.loads(each.communicate(timeout=200)[0].splitlines()[-1]) for each in running]
    assert [each.returncode for each in running] == [0, 0]
    assert [len(each) for each in found] == [5, 5]
    loaded = Counter(name for rank in found for batch in rank for name in batch)
    assert loaded == Counter(map(str, range(20)))
    order = shards(shuffle_buffer=6).order(3)
    together = [name for pair in zip(*found, strict=True) for batch in pair for name in batch]
    assert together == list(map(str, order))


def test_a_killed_epoch_goes_on_without_loss_or_repetition(shards):
    batches = [batch.indices for batch in loader.plan(shards().order(1), 3)]
    stream = loader.load(shards(), batches, 2)
    before = [next(stream)["id"] for _ in range(4)]
    del stream
    after = [batch["id"] for batch in loader.load(shards(), batches[4:], 2)]
    assert Counter(name for ids in before + after for name in ids) == Counter(map(str, range(20)))
    assert [list(map(int, ids)) for ids in before + after] == batches


def test_broken_samples_are_told_once_an_epoch(tmp_path, shards):
    path = write_shard(tmp_path / "x.tar", [{".png": b"no picture", ".txt": b"a"}, {".txt": b"a"}])
    reader = shards(shards=path)
    for workers in (0, 2):
        batches = [b.indices for b in loader.plan(reader.order(0), 2)]
        (batch,) = loader.load(reader, batches, workers)
        assert batch.keys() == {loader.BROKEN}
        first, second = sorted(batch[loader.BROKEN])
        assert first.endswith("x.tar: 000: expected a picture, found nothing readable")
        assert second.endswith("x.tar: 001: expected a whole clip or picture, found none")
    assert reader.references() == {
        "0": {"caption": "a", "video": f"{path}: 000"},
        "1": {"caption": "", "video": f"{path}: 001"},
    }


# errors


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"caption": "a"}], "x.jsonl:1: expected a path as video or image, found None"),
        ([{"video": "", "caption": "a"}], "x.jsonl:1: expected a path as video or image"),
        ([{"video": "ball.mp4"}], "x.jsonl:1: expected text as caption, found [None]"),
        ([{"image": "10.png", "caption": []}], "x.jsonl:1: expected text as caption, found []"),
        ([{"video": "ball.mp4", "caption": "a", "txt_len": "x"}], "x.jsonl:1: "),
        ([], "x.jsonl: expected captions, found none"),
        ([{"video": "gone.mp4", "caption": "a"}] * 3, "gone.mp4, found none of the first 3"),
    ],
)
def test_damaged_captions(read, tmp_path, rows, message):
    with pytest.raises(DataError) as error:
        len(read(annotations=lines(tmp_path / "x.jsonl", rows)))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_files(read, shards, files):
    with pytest.raises(DataError, match="expected files of captions, found none; set"):
        len(read(annotations=None))
    with pytest.raises(DataError, match=r"expected the folder of ball\.mp4; set DATASET"):
        len(read(videos=None))
    with pytest.raises(DataError, match=r"shards: expected tar files at .*, found no ./x-00"):
        len(shards(shards="x-{00..01}.tar"))
    reader = read("valid", annotations=files[1]["stills"])
    with pytest.raises(BrokenSample, match="expected a picture, found nothing"):
        (files[0] / "images" / "20.png").rename(files[0] / "images" / "away.png")
        try:
            reader[1]
        finally:
            (files[0] / "images" / "away.png").rename(files[0] / "images" / "20.png")
