# SPDX-License-Identifier: Apache-2.0
"""The sample world's TVQA+ layout: forms, places, times, and that text alone answers nothing."""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "data" / "dataset" / "sample"))

import scene as plans  # noqa: E402
import tvqa_plus  # noqa: E402
import tvqa_questions  # noqa: E402
import world as worlds  # noqa: E402

SPLITS = {"train": "train", "valid": "val", "test": "test"}
CHOICES = tuple(f"a{k}" for k in range(5))


@pytest.fixture(scope="module")
def scenes() -> dict[str, dict]:
    return {scene["id"]: scene for scene in worlds.plan(seed=0, videos=76)}


@pytest.fixture(scope="module")
def files(scenes) -> dict[str, bytes]:
    return tvqa_plus.files(list(scenes.values()))


@pytest.fixture(scope="module")
def parts(files) -> dict[str, list[dict]]:
    """Questions of every split, by TVQA+'s name of it."""
    return {s: json.loads(files[f"tvqa_plus_{s}_preprocessed.json"]) for s in SPLITS}


@pytest.fixture(scope="module")
def entries(parts) -> list[dict]:
    return [entry for part in parts.values() for entry in part]


def test_file_names_and_sizes(files):
    assert sorted(files) == [
        "eval_object_vocab.json",
        "frm_cnt.json",
        "regions.json",
        "tvqa_plus_subtitles.json",
        "tvqa_plus_test_preprocessed.json",
        "tvqa_plus_test_preprocessed_no_anno.json",
        "tvqa_plus_train_preprocessed.json",
        "tvqa_plus_valid_preprocessed.json",
        "vocab.txt",
        "word2idx.json",
    ]
    assert sum(map(len, files.values())) < 5e6


def test_same_world_same_bytes(scenes, files):
    few = list(scenes.values())[:4]
    assert tvqa_plus.files(few) == tvqa_plus.files(json.loads(json.dumps(few)))
    assert tvqa_plus.files(worlds.plan(1, 4)) != tvqa_plus.files(worlds.plan(0, 4))
    assert files["frm_cnt.json"] == tvqa_plus.files(list(scenes.values()))["frm_cnt.json"]


def test_entries_have_the_published_form(parts, scenes):
    keys = {"qid", "vid_name", "q", "q_len", "answer_idx", "ts", "bbox"}
    keys |= {*CHOICES, *(f"{c}_len" for c in CHOICES)}
    qids = Counter(entry["qid"] for part in parts.values() for entry in part)
    assert max(qids.values()) == 1
    for split, part in parts.items():
        assert len(part) > 120
        for entry in part:
            assert set(entry) == keys
            assert type(entry["qid"]) is int
            assert scenes[entry["vid_name"]]["split"] == SPLITS[split]
            assert entry["answer_idx"] in {"0", "1", "2", "3", "4"}
            for key in ("q", *CHOICES):
                assert entry[f"{key}_len"] == len(entry[key].split(" "))
                assert entry[key][-1] == ("?" if key == "q" else ".")
                assert entry[key] == tvqa_questions.tokens(entry[key])
            assert len({entry[c] for c in CHOICES}) == 5


def test_published_test_items_hide_what_is_asked_for(files, parts):
    hidden = json.loads(files["tvqa_plus_test_preprocessed_no_anno.json"])
    assert [e["qid"] for e in hidden] == [e["qid"] for e in parts["test"]]
    for entry, full in zip(hidden, parts["test"], strict=True):
        assert set(full) - set(entry) == {"answer_idx", "ts"}
        assert entry["bbox"] == {frame: [] for frame in full["bbox"]}


def test_moments_are_inside_and_hold_the_annotated_frames(entries, scenes):
    for entry in entries:
        scene = scenes[entry["vid_name"]]
        start, end = entry["ts"]
        assert 0 <= start < end <= scene["num_frames"] / scene["fps"]
        located = [int(frame) for frame in entry["bbox"]]
        assert located
        assert all(b - a == 6 for a, b in itertools.pairwise(located))
        assert all(start <= frame / 3 <= end for frame in located)
        assert located[0] >= 1 and located[-1] <= tvqa_plus.frame_count(scene) <= 300
    phases = Counter(int(next(iter(e["bbox"]))) % 6 for e in entries)
    assert min(phases[r] for r in (1, 3, 5)) > 100


def test_boxes_are_the_entities_that_the_text_names(entries, scenes):
    named = Counter()
    for entry in entries:
        scene = scenes[entry["vid_name"]]
        right = entry[f"a{entry['answer_idx']}"]
        words = set(f"{entry['q']} {right}".lower().split())
        for frame, boxes in entry["bbox"].items():
            position = min(round(int(frame) * 25 / 3), scene["num_frames"] - 1)
            for box in boxes:
                assert box["img_id"] == int(frame)
                assert box["label"].lower() in words
                corners = [box["left"], box["top"], box["left"] + box["width"],
                           box["top"] + box["height"]]  # fmt: skip
                (entity,) = [
                    e
                    for e in scene["entities"]
                    if box["label"] in (e["noun"], e.get("colour"), e.get("name"))
                    and (e["boxes"][position] if "boxes" in e else e["box"]) == corners
                ]
                named[box["label"]] += 1
                if box["label"] == entity.get("name"):
                    assert tvqa_plus.acts_at(scene, int(frame) / 3) == entity["id"]
    nouns = {*tvqa_questions.NOUNS, *plans.SHAPES}
    assert set(named) == {*nouns, *plans.COLOURS, *plans.NAMES}
    assert min(named.values()) > 8


def test_object_vocabulary_covers_every_label(files, entries):
    labels = {b["label"].lower() for e in entries for boxes in e["bbox"].values() for b in boxes}
    assert json.loads(files["eval_object_vocab.json"]) == sorted(labels)


def test_a_line_lasts_until_the_next(scenes):
    for scene in scenes.values():
        clip = tvqa_questions.Clip(scene, random.Random(0))
        spoken = tvqa_questions.lines(scene)
        for line, later in itertools.pairwise(spoken):
            start, end = clip.heard(line)
            assert (start, end) == (line["start"], min(later["start"], start + 8.0))
        assert clip.heard(spoken[-1])[1] <= scene["num_frames"] / scene["fps"]


def test_subtitles(files, scenes):
    subtitles = json.loads(files["tvqa_plus_subtitles.json"])
    assert list(subtitles) == list(scenes)
    for name, talk in subtitles.items():
        lines = talk["sub_text"].split(" <eos> ")
        spoken = [line for line in scenes[name]["subtitles"] if line["kind"] != "name"]
        assert talk["sub_time"] == [line["start"] for line in spoken]
        assert [line.split()[:2] for line in lines] == [[line["name"], ":"] for line in spoken]
        shapes = {e["colour"] for e in scenes[name]["entities"] if e["kind"] == "character"}
        assert not shapes & set(talk["sub_text"].split())  # looks are seen, not heard
    assert tvqa_questions.tokens("Ada, the red circle!") == "Ada , the red circle !"


def iou(a: list[int], b: list[int]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_regions_find_what_is_there_and_more(files, scenes, entries):
    regions = json.loads(files["regions.json"])
    counts = json.loads(files["frm_cnt.json"])
    for name, scene in scenes.items():
        found = regions[name]
        assert counts[name] == len(found["counts"]) == int(scene["num_frames"] / 25 * 3)
        assert found["counts"] == [len(boxes) for boxes in found["boxes"]]
        assert found["counts"] == [len(labels) for labels in found["object"]]
        assert 4 <= min(found["counts"][::2]) <= max(found["counts"]) <= 20
        assert not any(found["counts"][1::2])  # frame 1 stands first
        boxes = np.array(list(itertools.chain.from_iterable(found["boxes"])))
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (192, 144)).all()
        assert (boxes[:, 2:] - boxes[:, :2] > 1).all()
    hits, places = [], []
    for entry in entries:
        for frame, boxes in entry["bbox"].items():
            shown = regions[entry["vid_name"]]["boxes"][int(frame) - 1]
            for box in boxes:
                truth = [box["left"], box["top"], box["left"] + box["width"],
                         box["top"] + box["height"]]  # fmt: skip
                overlaps = [iou(truth, each) for each in shown]
                hits.append(max(overlaps) >= 0.5)
                places.append(int(np.argmax(overlaps)) / len(shown))
    assert np.mean(hits) > 0.97
    assert 0.35 < np.mean(places) < 0.5  # the detector's order tells nothing


def test_text_vocabulary_is_of_the_training_split(files, parts):
    words = files["vocab.txt"].decode().split("\n")[:-1]
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(words)) == len(words)
    trained = {w.lower() for e in parts["train"] for key in ("q", *CHOICES) for w in e[key].split()}
    assert trained <= set(words)
    ids = json.loads(files["word2idx.json"])
    assert list(ids.values()) == list(range(len(ids)))
    assert [ids[w] for w in ("<unk>", "<pad>", "<eos>")] == [0, 1, 2]
    assert trained | set(json.loads(files["eval_object_vocab.json"])) <= set(ids)
    letters = {letter for word in trained for letter in word}
    assert letters <= set(words) and {f"##{letter}" for letter in letters} <= set(words)


# what the text alone gives away


def traits(entry: dict, choice: str) -> set:
    """Words, pairs of words of a choice, and its words together with the question's."""
    asked, told = entry["q"].lower().split(), entry[choice].lower().split()
    return {*told, *itertools.pairwise(told), len(told), ("shared", len({*asked} & {*told})),
            *itertools.product(asked, told, ["together"])}  # fmt: skip


def test_answers_are_evenly_placed(entries):
    places = Counter(entry["answer_idx"] for entry in entries)
    assert max(places.values()) < 1.15 * min(places.values())


def test_words_alone_do_not_tell_the_answer(parts):
    """How often each trait was right among how often it was shown, learnt in training."""
    right, shown = Counter(), Counter()
    for entry in parts["train"]:
        for choice in CHOICES:
            found = traits(entry, choice)
            shown.update(found)
            if choice[1] == entry["answer_idx"]:
                right.update(found)

    def score(entry: dict, choice: str) -> float:
        found = traits(entry, choice)
        return np.mean([math.log((right[t] + 2) / (shown[t] / 5 + 2)) for t in found])

    unseen = [*parts["valid"], *parts["test"]]
    guessed = [max(CHOICES, key=lambda c: score(e, c))[1] == e["answer_idx"] for e in unseen]
    assert np.mean(guessed) < 0.26
    seen = parts["train"]
    trained = [max(CHOICES, key=lambda c: score(e, c))[1] == e["answer_idx"] for e in seen]
    assert np.mean(trained) < 0.5


def test_both_streams_are_asked_about(entries):
    """Every opening of a question is there often enough to be learnt."""
    openings = Counter(" ".join(entry["q"].split()[:2]) for entry in entries)
    assert len(openings) >= 6
    assert min(openings.values()) > 50
    seen = sum(openings[w] for w in ("Which one", "What stands"))
    assert 0.4 < seen / len(entries) < 0.7
