# SPDX-License-Identifier: Apache-2.0
"""The sample world's MSVD-QA, NExT-OE and WebVid layouts: clips, questions, captions, shards."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from reader import get_reader
from reader.common.video import Video

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "dataset" / "sample"
sys.path.insert(0, str(SAMPLE))

import clips  # noqa: E402
import facts  # noqa: E402
import msvd_qa  # noqa: E402
import next_oe  # noqa: E402
import render  # noqa: E402
import webvid  # noqa: E402
import world as worlds  # noqa: E402

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def scenes() -> list[dict]:
    return worlds.plan(seed=0, videos=76)


@pytest.fixture(scope="module")
def asked(scenes) -> dict[str, dict[str, list[dict]]]:
    """Layout -> split -> rows."""
    msvd, oe = msvd_qa.files(scenes), next_oe.files(scenes)
    return {
        "msvd_qa": {s: [json.loads(x) for x in msvd[f"{s}.jsonl"].splitlines()] for s in SPLITS},
        "next_oe": {s: list(csv.DictReader(io.StringIO(oe[f"{s}.csv"].decode()))) for s in SPLITS},
    }


@pytest.fixture(scope="module")
def prepare():
    spec = importlib.util.spec_from_file_location("sample_prepare_mcg", SAMPLE / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(scenes, prepare, tmp_path_factory):
    """A world of its shortest videos, one of each split, with the three layouts."""
    out = tmp_path_factory.mktemp("world")
    (out / "videos").mkdir()
    few = [min((s for s in scenes if s["split"] == split), key=lambda s: s["num_frames"])
           for split in SPLITS]  # fmt: skip
    for scene in few:
        render.render_video(scene, out / "videos" / scene["file"])
    for name in ("msvd_qa", "next_oe", "webvid"):
        prepare.LAYOUTS[name](few, out)
    return few, out


# clips


def test_clips_cover_their_events(scenes):
    single, double = clips.singles(scenes), clips.doubles(scenes)
    names = [clip.name for clip in (*single, *double)]
    assert len(set(names)) == len(names) == len(single) + len(double)
    assert len(single) == sum(len(scene["events"]) for scene in scenes)
    assert len(double) == len(single) - len(scenes)
    for clip in (*single, *double):
        frames = clip.frames
        assert frames[0] == clip.events[0]["start"] - 1 and frames[-1] < clip.events[-1]["end"] - 1
        assert len(frames) >= 20
        assert re.fullmatch(r"s\d+-d\d+_\d+_\d+", clip.name)


def test_clips_are_parts_of_the_videos(made):
    few, out = made
    scene = few[0]
    frames = [frame for _, frame in Video(out / "videos" / scene["file"]).stream()]
    for clip in (clips.singles([scene])[0], clips.doubles([scene])[-1]):
        video = Video(out / "clips" / f"{clip.name}.mp4")
        assert (video.width, video.height) == clips.SIZE and video.num_frames == len(clip.frames)
        assert video.fps == pytest.approx(25 / clip.step, rel=0.01)
        found = video.frames(range(video.num_frames)).astype(float)
        import cv2

        whole = [cv2.resize(frames[k], clips.SIZE, interpolation=cv2.INTER_AREA)
                 for k in clip.frames]  # fmt: skip
        assert np.abs(found - np.stack(whole)).mean() < 6


def test_clips_are_made_once_and_again_where_a_video_changes(made, monkeypatch):
    few, out = made
    before = {path: path.stat().st_mtime_ns for path in (out / "clips").iterdir()}
    (out / "clips" / "s99-d01_1_2.mp4").write_bytes(b"of an earlier world")
    paths = clips.make(few, out)
    assert {path: path.stat().st_mtime_ns for path in (out / "clips").iterdir()} == before
    assert set(paths.values()) == set(before)
    calls = []
    monkeypatch.setattr(clips, "cut", lambda video, parts: calls.append((video, len(parts))))
    video = out / "videos" / few[1]["file"]
    earlier = video.stat().st_mtime
    os.utime(video, (earlier + 1000, earlier + 1000))
    clips.make(few, out)
    os.utime(video, (earlier, earlier))
    assert calls == [(video, 2 * len(few[1]["events"]) - 1)]


# questions


def test_numbers_of_questions(asked):
    for layout, kinds in (
        ("msvd_qa", {"what", "who", "how", "where"}),
        ("next_oe", {"CW", "CH", "TN", "TP", "TC", "DB", "DC", "DL", "DO"}),
    ):
        key = "answer_type" if layout == "msvd_qa" else "type"
        for split, least in zip(SPLITS, (1500, 200, 300), strict=True):
            rows = asked[layout][split]
            assert len(rows) >= least and {row[key] for row in rows} == kinds
    row = asked["msvd_qa"]["train"][0]
    assert list(row) == ["answer", "question", "video_id", "answer_type"]
    assert tuple(asked["next_oe"]["train"][0]) == next_oe.COLUMNS


def test_answers_are_true(asked, scenes):
    single = {clip.name: clip for clip in clips.singles(scenes)}
    double = next_oe.videos(scenes)
    checked: Counter = Counter()
    for split in SPLITS:
        for row in asked["msvd_qa"][split]:
            clip = single[row["video_id"]]
            (event,) = clip.events
            one, action = clip.facts.entities[event["subject"]], facts.ACTIONS[event["verb"]]
            expected = {
                f"who is {action.going_on}?": one["shape"],
                f"what color is the one that {action.third}?": one["colour"],
                f"what is the {one['colour']} one doing?": action.plain,
                "where are the shapes?": clip.facts.place,
                "what is standing among the shapes?": clip.facts.prop["noun"],
                "what is standing at the sides?": clip.facts.scenery,
                "how many shapes are there?": {2: "two", 3: "three"}[len(clip.facts.cast)],
            }
            assert row["answer"] == expected[row["question"]]
            assert row["answer_type"] == row["question"].split()[0]
            assert clip.facts.split == split
        for row in asked["next_oe"][split]:
            clip = double[row["video"]]
            assert clip.facts.split == split
            ones = [clip.facts.entities[event["subject"]] for event in clip.events]
            actions = [facts.ACTIONS[event["verb"]] for event in clip.events]
            kind, text, answer = row["type"], row["question"], row["answer"]
            if kind in ("TP", "TN"):
                at = 0 if kind == "TP" else 1
                assert answer == actions[at].plain
                assert text.startswith(f"what does the {facts.look(ones[at])} do ")
            elif kind == "TC":
                assert answer == f"the {facts.look(ones['beginning' not in text])}"
            elif kind == "DB" and text.startswith("is someone"):
                done = any(action.going_on in text for action in actions)
                assert answer == ("yes" if done else "no")
            elif kind == "DB":
                there = {clip.facts.scenery, clip.facts.prop["noun"]}
                assert answer == ("yes" if text.split()[3] in there else "no")
            checked[kind] += 1
    assert min(checked[kind] for kind in ("TP", "TN", "TC", "DB")) > 100


@pytest.mark.parametrize(("layout", "most"), [("msvd_qa", 0.27), ("next_oe", 0.22)])
def test_words_do_not_tell_the_answers(asked, layout, most):
    told = defaultdict(Counter)
    for row in asked[layout]["train"]:
        told[row["question"]][row["answer"]] += 1
        told[row["question"].split()[0]][row["answer"]] += 1
    rows = asked[layout]["test"]
    guesses = [(told.get(row["question"]) or told[row["question"].split()[0]]).most_common(1)[0][0]
               for row in rows]  # fmt: skip
    right = sum(guess == row["answer"] for guess, row in zip(guesses, rows, strict=True))
    assert 0.1 < right / len(rows) < most
    for kind in ("DB", "DC"):
        found = Counter(row["answer"] for row in asked[layout]["train"] if row.get("type") == kind)
        assert len(set(found.values())) <= 1  # as many of each


def test_next_oe_has_further_answers_for_half_of_the_test_videos(asked, scenes):
    files = next_oe.files(scenes)
    seconds = json.loads(files["add_reference_answer_test.json"])
    rows = {(row["video"], row["qid"]): row for row in asked["next_oe"]["test"]}
    videos = {row["video"] for row in rows.values()}
    assert 0.3 < len(seconds) / len(videos) < 0.7 and set(seconds) < videos
    other = [(rows[video, qid]["answer"], answer)
             for video, found in seconds.items() for qid, answer in found.items()]  # fmt: skip
    assert len(other) > 100 and 0.5 < np.mean([a != b for a, b in other]) < 1
    assert ("jump", "hop") in other
    places = json.loads(files["map_vid_vidorID.json"])
    assert set(places) == set(next_oe.videos(scenes)) and len(set(places.values())) == len(places)


# captions


def test_webvid(scenes):
    files = webvid.files(scenes)
    videos = webvid.videos(scenes)
    for split in ("train", "val"):
        rows = list(csv.DictReader(io.StringIO(files[f"results_{split}.csv"].decode())))
        for row in rows:
            clip = videos[f"{row['page_dir']}/{row['videoid']}"]
            look = facts.look(clip.facts.entities[clip.events[0]["subject"]])
            assert clip.facts.split == split and f"a {look} " in row["name"].lower()
            assert facts.WHERE[clip.facts.place] in row["name"].lower()
        assert len(rows) == sum(clip.facts.split == split for clip in videos.values())
        pictures = json.loads(files[f"pictures_{split}.json"])
        assert all(len(picture["caption"]) == 2 for picture in pictures)
    assert len({row["page_dir"] for row in rows}) > 1


def test_vocabulary(scenes, asked, tmp_path):
    from reader.common.mcg_text import Texts

    content = webvid.files(scenes)["vocab.txt"]
    assert len(set(content.split(b"\n")[:-1])) == content.count(b"\n") < 400
    (tmp_path / "vocab.txt").write_bytes(content)
    texts = Texts(tmp_path / "vocab.txt")
    unknown = texts.special("[UNK]")
    for layout in asked.values():
        for row in (row for rows in layout.values() for row in rows):
            ids = texts.caption(f"{row['question']} {row['answer']}", 60)
            assert unknown not in ids and len(ids) < 40
    pieces = [texts.tokens[i] for i in texts.caption("It jumps. A star is jumping", 60)]
    assert pieces == ["[CLS]", "it", "jump", "##s", ".", "a", "star", "is", "jump", "##ing",
                      "[SEP]"]  # fmt: skip


# the layouts as MCG's reader takes them


@pytest.mark.parametrize(
    "options",
    [
        {"task": "msvd_qa", "annotations": "msvd_qa/{}.jsonl", "videos": "msvd_qa/videos"},
        {"task": "nextqa_oe", "annotations": "next_oe/{}.csv", "videos": "next_oe/videos",
         "video_paths": "next_oe/map_vid_vidorID.json",
         "second_references": "next_oe/add_reference_answer_test.json"},
        {"task": "pretrain", "annotations": "webvid/{}.jsonl", "videos": "webvid/videos"},
        {"task": "pretrain", "shards": "webvid/shards/train-*.tar"},
    ],
)  # fmt: skip
def test_reader(made, options):
    _, out = made
    paths = {key: str(out / value) for key, value in options.items() if key != "task"}
    options = paths | {"task": options["task"], "vocab": str(out / "webvid" / "vocab.txt")}
    for split, file in (("train", "train"), ("valid", "val")):
        given = {key: value.format(file) for key, value in options.items()}
        reader = get_reader("mcg")(split, **given, num_frm=16, crop_img_size=32, resize_size=40)
        batch = reader.collate([reader[i] for i in range(len(reader))])
        assert batch["frames"].shape == (len(reader), 16, 3, 32, 32)
        assert batch["frames"].std() > 10 and len(batch["ids"]) == len(batch["id"])
        if "answer_ids" in batch and split == "valid":
            assert len(batch["id"]) == len(reader.references())


def test_shards_are_packed_again_where_clips_change(made, prepare):
    few, out = made
    shards = sorted((out / "webvid" / "shards").glob("*.tar"))
    before = [path.stat().st_mtime_ns for path in shards]
    prepare.make_webvid(few, out)
    assert [path.stat().st_mtime_ns for path in shards] == before
    clip = next((out / "clips").glob("*.mp4"))
    later = max(before) / 1e9 + 100
    os.utime(clip, (later, later))
    prepare.make_webvid(few, out)
    assert [path.stat().st_mtime_ns for path in shards] != before
