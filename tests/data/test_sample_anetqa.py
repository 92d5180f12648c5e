# SPDX-License-Identifier: Apache-2.0
"""The sample world's ANetQA layout: form, truth, and that neither text nor habit answers it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "dataset" / "sample"
sys.path.insert(0, str(SAMPLE))

import anetqa  # noqa: E402
import facts  # noqa: E402
import scene as plans  # noqa: E402
import world as worlds  # noqa: E402


@pytest.fixture(scope="module")
def scenes() -> dict[str, dict]:
    return {anetqa.video_id(scene["id"]): scene for scene in worlds.plan(seed=0, videos=76)}


@pytest.fixture(scope="module")
def files(scenes) -> dict[str, bytes]:
    return anetqa.files(list(scenes.values()))


@pytest.fixture(scope="module")
def parts(files) -> dict[str, list[dict]]:
    """Complete records by split."""
    names = {"train": "qa_train", "val": "qa_val", "test": "qa_test_answers"}
    return {split: json.loads(files[f"{name}.json"]) for split, name in names.items()}


@pytest.fixture(scope="module")
def records(parts) -> list[dict]:
    return [record for part in parts.values() for record in part]


# form


def test_records_have_the_published_form(parts, scenes):
    keys = ["question", "answer", "qa_id", "video_id", "frame_ids", "object_ids",
            "attribute_type", "step", "program", "taxonomy"]  # fmt: skip
    ids = Counter(record["qa_id"] for part in parts.values() for record in part)
    assert max(ids.values()) == 1
    for split, part in parts.items():
        for record in part:
            assert list(record) == keys
            video, kind, number = record["qa_id"].split("#")
            assert len(video) == 13 and video == record["video_id"] and number.isdigit()
            assert record["taxonomy"]["question_type"] == kind
            assert scenes[video]["split"] == split
            assert record["step"] == len(record["program"].split("->"))
            (frame,) = record["frame_ids"]
            assert int(frame.split("/")[2]) <= scenes[video]["num_frames"]
            assert all(name.startswith(f"{frame}/") for name in record["object_ids"])
            assert record["question"][-1] == "?" and "{" not in record["question"]


def test_test_records_hide_what_is_asked_for(files, parts):
    hidden = json.loads(files["qa_test.json"])
    assert [r["qa_id"] for r in hidden] == [r["qa_id"] for r in parts["test"]]
    for record, full in zip(hidden, parts["test"], strict=True):
        left = {"question", "qa_id", "video_id", "attribute_type", "taxonomy"}
        assert record == {key: full[key] for key in left}


def test_lists_of_videos(files, parts):
    for split, part in parts.items():
        videos = json.loads(files[f"video_{split}.json"])
        assert list(dict.fromkeys(record["video_id"] for record in part)) == videos
    assert [len({r["video_id"] for r in part}) for part in parts.values()] == [55, 8, 13]


def test_as_many_questions_as_promised(parts):
    assert [len(part) for part in parts.values()] == [5269, 753, 1222]  # README.md says so
    for part in parts.values():
        load = Counter(record["video_id"] for record in part)
        assert 60 <= min(load.values()) <= max(load.values()) <= 120
        asked = Counter((record["video_id"], record["question"]) for record in part)
        assert max(asked.values()) == 1


def test_taxonomy_is_covered(parts):
    for part in parts.values():
        found = defaultdict(Counter)
        for record in part:
            taxonomy = record["taxonomy"]
            assert list(taxonomy) == ["question_type", "question structures",
                                      "question semantics", "reasoning skills",
                                      "answer types"]  # fmt: skip
            for key in ("question structures", "question semantics", "answer types"):
                found[key][taxonomy[key]] += 1
            found["reasoning skills"].update(taxonomy["reasoning skills"])
        assert set(found["question structures"]) == {"query", "compare", "choose", "verify",
                                                     "logic"}  # fmt: skip
        assert set(found["question semantics"]) == {"object", "relationship", "attribute",
                                                    "action"}  # fmt: skip
        assert set(found["answer types"]) == {"open", "binary"}
        assert set(found["reasoning skills"]) == {
            "object-attribute", "object-relationship", "object-action", "exist", "superlative",
            "duration-comparison",
        }  # fmt: skip
        for key in ("question structures", "question semantics", "answer types"):
            assert min(found[key].values()) > 0.05 * len(part)


def test_same_world_same_bytes_whatever_the_order_of_sets():
    code = ("import anetqa, hashlib, image_text, msrvtt_qa, retrieval, tgif_qa, vocabulary, world\n"
            "few, digest = world.plan(0, 4), hashlib.sha256()\n"
            "for layout in (anetqa, image_text, msrvtt_qa, retrieval, tgif_qa, vocabulary):\n"
            "    for content in layout.files(few).values(): digest.update(content)\n"
            "print(digest.hexdigest())")  # fmt: skip
    found = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{SAMPLE}:{ROOT}"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1 and len(found.pop()) == hashlib.sha256().digest_size * 2 + 1
    assert anetqa.files(worlds.plan(1, 4)) != anetqa.files(worlds.plan(0, 4))


@pytest.mark.parametrize("videos", [3, 6])
def test_small_worlds_have_both_answers_too(videos):
    found = anetqa.files(worlds.plan(0, videos))
    for name in ("qa_train", "qa_val", "qa_test_answers"):
        part = json.loads(found[f"{name}.json"])
        answers = Counter(record["answer"] for record in part)
        assert answers["yes"] == answers["no"] >= 8
        structures = {record["taxonomy"]["question structures"] for record in part}
        assert structures >= {"query", "choose", "verify", "logic"}


# truth


def cast(scene: dict) -> list[dict]:
    return [e for e in scene["entities"] if e["kind"] == "character"]


def did(scene: dict, one: dict, verb: str) -> bool:
    ends = ("subject", "object") if verb == "swap" else ("subject",)
    return any(one["id"] in [e[end] for end in ends] for e in scene["events"] if e["verb"] == verb)


def test_attributes_are_true(records, scenes):
    seen = Counter()
    for record in records:
        ones = cast(scenes[record["video_id"]])
        if found := re.fullmatch(r"What color is the (\w+)\?", record["question"]):
            (one,) = [e for e in ones if e["shape"] == found[1]]
            assert record["answer"] == one["colour"]
            seen["colour"] += 1
        if found := re.fullmatch(r"Is the (\w+) one a (\w+)\?", record["question"]):
            (one,) = [e for e in ones if e["colour"] == found[1]]
            assert record["answer"] == ("yes" if one["shape"] == found[2] else "no")
            seen["shape"] += 1
        if found := re.fullmatch(r"Is there something (\w+) (and|or) something (\w+)\?",
                                 record["question"]):  # fmt: skip
            there = [any(e["colour"] == found[i] for e in ones) for i in (1, 3)]
            true = all(there) if found[2] == "and" else any(there)
            assert record["answer"] == ("yes" if true else "no")
            seen[found[2]] += 1
    assert min(seen[key] for key in ("colour", "shape", "and", "or")) > 50


def test_actions_are_true(records, scenes):
    plain = {words.plain: verb for verb, words in facts.ACTIONS.items()}
    third = {words.third: verb for verb, words in facts.ACTIONS.items()}
    seen = Counter()
    for record in records:
        scene = scenes[record["video_id"]]
        ones = {e["colour"]: e for e in cast(scene)}
        if (found := re.fullmatch(r"Does the (\w+) one (.+)\?", record["question"])) and (
            found[2] in plain
        ):
            true = did(scene, ones[found[1]], plain[found[2]])
            assert record["answer"] == ("yes" if true else "no")
            seen["does"] += 1
        if (found := re.fullmatch(r"What color is the one that (.+)\?", record["question"])) and (
            found[1] in third
        ):
            doers = [c for c, one in ones.items() if did(scene, one, third[found[1]])]
            assert doers == [record["answer"]]
            seen["actor"] += 1
        if found := re.fullmatch(r"Which one acts longer, the (\w+) one or the (\w+) one\?",
                                 record["question"]):  # fmt: skip
            times = Counter()
            for event in scene["events"]:
                times[event["subject"]] += event["end"] - event["start"]
            a, b = (times[ones[found[i]]["id"]] for i in (1, 2))
            assert record["answer"] == found[1 if a > b else 2]
            assert max(a, b) > 1.5 * min(a, b)
            seen["longer"] += 1
    assert min(seen[key] for key in ("does", "actor", "longer")) > 40


def test_places_are_true_most_of_the_time(records, scenes):
    axes = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}
    asked = 0
    for record in records:
        found = re.fullmatch(r"Which one is further (\w+), the (\w+) one or the (\w+) one\?",
                             record["question"])  # fmt: skip
        if found is None:
            continue
        ones = {e["colour"]: e for e in cast(scenes[record["video_id"]])}
        axis, sign = axes[found[1]]
        (other,) = {found[2], found[3]} - {record["answer"]}
        tracks = zip(ones[record["answer"]]["boxes"], ones[other]["boxes"], strict=True)
        ahead = [sign * (a[axis] + a[axis + 2] - b[axis] - b[axis + 2]) > 0
                 for a, b in tracks if a and b]  # fmt: skip
        assert np.mean(ahead) > 0.65
        asked += 1
    assert asked > 100


# what the text alone gives away


def test_both_answers_are_equally_frequent(parts):
    """In training to every wording, elsewhere to every kind of question."""
    wordings, kinds = defaultdict(Counter), defaultdict(Counter)
    for split, part in parts.items():
        for record in part:
            kind, structure = (record["taxonomy"][f"question{k}"] for k in ("_type", " structures"))
            if split == "train" and record["taxonomy"]["answer types"] == "binary":
                wordings[record["question"]][record["answer"]] += 1
            if record["answer"] in ("yes", "no"):
                kinds[split, kind, structure][record["answer"]] += 1
    assert len(wordings) > 500 and len(kinds) > 30
    assert all(len(c) == 2 and len(set(c.values())) == 1 for c in wordings.values())
    assert all(found["yes"] == found["no"] > 0 for found in kinds.values())


def test_test_answers_and_words_are_trained(parts):
    def words(part: list[dict]) -> set[str]:
        return {word for record in part for word in re.findall(r"\w+", record["question"])}

    trained = parts["train"]
    for split in ("val", "test"):
        assert {r["answer"] for r in parts[split]} <= {r["answer"] for r in trained}
        assert words(parts[split]) <= words(trained)


def habits(records: list[dict], key) -> dict:
    """The most frequent answer to each kind of question."""
    found = defaultdict(Counter)
    for record in records:
        found[key(record)][record["answer"]] += 1
    return {kind: answers.most_common(1)[0][0] for kind, answers in found.items()}


@pytest.mark.parametrize(
    ("key", "most", "most_open"),
    [
        (lambda record: None, 0.2, 0.2),
        (lambda record: record["taxonomy"]["question_type"], 0.3, 0.2),
        (lambda record: record["question"], 0.36, 0.22),
    ],
    ids=["answer", "type", "text"],
)
def test_habits_do_not_answer(parts, key, most, most_open):
    """0.36 is chance: a half for questions with two possible answers, 0.17 for the others."""
    learnt = habits(parts["train"], key)
    right = defaultdict(list)
    for record in parts["test"]:
        kind = record["taxonomy"]["answer types"]
        right[kind].append(learnt.get(key(record)) == record["answer"])
    assert np.mean(right["open"] + right["binary"]) < most
    assert np.mean(right["open"]) < most_open
    assert np.mean(right["binary"]) <= 0.5


def test_words_do_not_answer(parts):
    """Naive Bayes of words and pairs of words, learnt in training."""

    def traits(record: dict) -> list:
        words = re.findall(r"\w+", record["question"].lower())
        return [*words, *itertools.pairwise(words)]

    answers = sorted({record["answer"] for record in parts["train"]})
    counts = defaultdict(lambda: np.full(len(answers), 0.1))
    prior = np.zeros(len(answers))
    for record in parts["train"]:
        label = answers.index(record["answer"])
        prior[label] += 1
        for trait in traits(record):
            counts[trait][label] += 1
    guessed = []
    for record in parts["test"]:
        known = [counts[trait] for trait in traits(record) if trait in counts]
        score = np.log(prior) + sum(np.log(each / (prior + 1)) for each in known)
        guessed.append(answers[int(score.argmax())] == record["answer"])
    assert np.mean(guessed) < 0.4


# the videos under ANetQA's names


def test_videos_are_linked_and_links_renewed(tmp_path, monkeypatch):
    videos, folder = tmp_path / "videos", tmp_path / "anetqa" / "videos"
    videos.mkdir()
    scenes = [{"id": name, "file": f"{name}.mp4"} for name in ("s01-d01", "s12-d10")]
    for scene in scenes:
        (videos / scene["file"]).write_bytes(b"drawn")
    anetqa.link_videos(scenes, videos, folder)
    links = [folder / "v_s01-d01____.mp4", folder / "v_s12-d10____.mp4"]
    assert sorted(folder.iterdir()) == links
    (videos / "s01-d01.mp4").write_bytes(b"drawn again")
    assert links[0].read_bytes() == b"drawn again" and links[0].is_symlink()

    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    links[0].unlink()
    anetqa.link_videos(scenes, videos, folder)
    assert links[1].is_symlink() and not links[0].is_symlink()
    assert links[0].read_bytes() == b"drawn again"
    before = links[0].stat().st_mtime_ns
    anetqa.link_videos(scenes, videos, folder)
    assert links[0].stat().st_mtime_ns == before
    (videos / "s01-d01.mp4").write_bytes(b"and once more")
    anetqa.link_videos(scenes, videos, folder)
    assert links[0].read_bytes() == b"and once more"


def test_shapes_are_those_of_the_plan():
    assert set(facts.ACTIONS) == set(plans.VERBS)
