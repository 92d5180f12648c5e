# SPDX-License-Identifier: Apache-2.0
"""The sample world's TGIF-QA, MSRVTT-QA, retrieval and picture layouts, and their vocabulary."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from reader import get_reader

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "dataset" / "sample"
sys.path.insert(0, str(SAMPLE))

import facts  # noqa: E402
import image_text  # noqa: E402
import msrvtt_qa  # noqa: E402
import render  # noqa: E402
import retrieval  # noqa: E402
import tgif_qa  # noqa: E402
import vocabulary  # noqa: E402
import world as worlds  # noqa: E402

SPLITS = ("train", "val", "test")
LAYOUTS = {"tgif_qa": tgif_qa, "msrvtt_qa": msrvtt_qa, "retrieval": retrieval,
           "image_text": image_text}  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> dict[str, dict]:
    return {scene["id"]: scene for scene in worlds.plan(seed=0, videos=76)}


@pytest.fixture(scope="module")
def files(scenes) -> dict[str, bytes]:
    """All files of all layouts, by layout/name."""
    return {f"{layout}/{name}": content for layout, module in LAYOUTS.items()
            for name, content in module.files(list(scenes.values())).items()}  # fmt: skip


@pytest.fixture(scope="module")
def rows(files) -> dict[str, list[dict]]:
    return {name: [json.loads(line) for line in content.splitlines()]
            for name, content in files.items() if name.endswith(".jsonl")}  # fmt: skip


def test_files(files, rows, scenes):
    tasks = ("action", "transition", "frameqa")
    names = [f"tgif_qa/{task}_{split}.jsonl" for task in tasks for split in SPLITS]
    names += [f"{layout}/{s}.jsonl" for layout in ("msrvtt_qa", "retrieval") for s in SPLITS]
    names += [f"image_text/{what}_{s}.jsonl" for what in ("captions", "vqa") for s in SPLITS]
    names += [f"retrieval/msrvtt_mc_{s}.jsonl" for s in ("val", "test")]
    assert sorted(rows) == sorted(names)
    assert sorted(set(files) - set(rows)) == [
        "image_text/vqa_ans2label.json",
        "msrvtt_qa/train_ans2label.json",
        "tgif_qa/frameqa_trainval_ans2label.json",
    ]
    for name, found in rows.items():
        assert len(found) >= 16
        for row in found:
            of = row.get("gif_name") or row.get("video_id") or row.get("clip_name")
            of = of or (row.get("coco_id") or row["image_id"])[: len("s01-d01")]
            assert scenes[of]["split"] in name


@pytest.mark.parametrize(
    ("layout", "rows_name", "labels", "types"),
    [
        ("tgif_qa", "frameqa_{}", "frameqa_trainval_ans2label",
         ["object", "number", "color", "location"]),
        ("msrvtt_qa", "{}", "train_ans2label", ["what", "who", "how", "where", "when"]),
        ("image_text", "vqa_{}", "vqa_ans2label", ["yes/no", "number", "other"]),
    ],
)  # fmt: skip
def test_open_questions(files, rows, layout, rows_name, labels, types):
    known = json.loads(files[f"{layout}/{labels}.json"])
    assert list(known.values()) == list(range(len(known))) and known["<UNK>"] == 0
    for split in SPLITS:
        part = rows[f"{layout}/{rows_name.format(split)}.jsonl"]
        found = Counter(row["answer_type"] for row in part)
        assert set(found) == set(types)
        for row in part:
            assert set(row.get("labels", [row.get("answer")])) <= set(known)
            if layout == "msrvtt_qa":
                assert row["question"].split()[0] == row["answer_type"]
                assert row["answer"].isalpha()


def test_counted_answers_are_even(rows):
    for name, kind in (("tgif_qa/frameqa_{}.jsonl", "number"), ("msrvtt_qa/{}.jsonl", "how")):
        found = defaultdict(Counter)
        for row in rows[name.format("train")]:
            if row["answer_type"] == kind:
                found[row["question"]][row["answer"]] += 1
        assert found and all(len(set(c.values())) == 1 for c in found.values())
        assert any(len(c) > 1 for c in found.values())


def test_even_keeps_what_is_not_counted():
    def row(answer, kind="how"):
        return {"question": "q", "answer": answer, "answer_type": kind}

    given = [row("two"), row("three"), row("three"), row("red", "what")]
    kept = tgif_qa.even(given, random.Random(0), "how")
    assert Counter(each["answer"] for each in kept) == {"two": 1, "three": 1, "red": 1}


# one of five


def plain_of(scene: dict, colour: str) -> set[str]:
    """What the one of that colour does, swapping of places by another one included."""
    one = next(e["id"] for e in scene["entities"] if e.get("colour") == colour)
    return {facts.ACTIONS[e["verb"]].plain for e in scene["events"]
            if e["subject"] == one or (e["verb"] == "swap" and e["object"] == one)}  # fmt: skip


def test_action_options_are_what_is_not_done(rows, scenes):
    often = Counter()
    for split in SPLITS:
        for row in rows[f"tgif_qa/action_{split}.jsonl"]:
            colour, how = re.fullmatch(r"What does the (\w+) \w+ do (.+) \?",
                                       row["question"]).groups()  # fmt: skip
            assert len(set(row["options"])) == 5
            scene = scenes[row["gif_name"]]
            one = next(e["id"] for e in scene["entities"] if e.get("colour") == colour)
            counts = {facts.ACTIONS[e["verb"]].plain: e["count"] for e in scene["events"]
                      if e["subject"] == one}  # fmt: skip
            wrong = [o for i, o in enumerate(row["options"]) if i != row["answer"]]
            count = counts[row["options"][row["answer"]]]
            assert how == (f"{count} times" if count else "once")
            if count:
                assert all(counts.get(option) != count for option in wrong)
                assert sum(o in ("jump", "spin", "blink") for o in row["options"]) >= 2
            else:
                assert not {*wrong} & plain_of(scene, colour)
            often[how] += 1
    assert often["once"] > 500 and often["3 times"] > 40


def test_transition_options(rows, scenes):
    near = []
    for split in SPLITS:
        for row in rows[f"tgif_qa/transition_{split}.jsonl"]:
            colour, when, asked = re.fullmatch(r"What does the (\w+) \w+ do (before|after) (.+) \?",
                                               row["question"]).groups()  # fmt: skip
            scene = scenes[row["gif_name"]]
            one = next(e["id"] for e in scene["entities"] if e.get("colour") == colour)
            ends = [(e["subject"], e["object"] if e["verb"] == "swap" else None)
                    for e in scene["events"]]  # fmt: skip
            done = [e["verb"] for e, two in zip(scene["events"], ends, strict=True) if one in two]
            names = [facts.ACTIONS[verb].going_on for verb in done]
            at = names.index(asked) + (1 if when == "after" else -1)
            assert row["options"][row["answer"]] == facts.ACTIONS[done[at]].plain
            assert len(set(row["options"])) == 5
            near.append(sum(o in plain_of(scene, colour) for o in row["options"]) - 1)
    assert set(near) == {0, 1} and 0.2 < np.mean(near) < 0.5


@pytest.mark.parametrize("name, most", [("action", 0.29), ("transition", 0.29)])
def test_options_do_not_tell_the_answer(rows, name, most):
    """How often each option was right among how often it was offered, with the question's words."""
    right, offered = Counter(), Counter()

    def traits(row, option):
        return [option, *((word, option) for word in row["question"].split()[5:])]

    for row in rows[f"tgif_qa/{name}_train.jsonl"]:
        for i, option in enumerate(row["options"]):
            offered.update(traits(row, option))
            right.update(traits(row, option) if i == row["answer"] else ())

    def score(row, i):
        found = traits(row, row["options"][i])
        return np.mean([np.log((right[t] + 2) / (offered[t] / 5 + 2)) for t in found])

    unseen = [row for split in ("val", "test") for row in rows[f"tgif_qa/{name}_{split}.jsonl"]]
    guessed = [max(range(5), key=lambda i, r=row: score(r, i)) == row["answer"] for row in unseen]
    assert len(unseen) > 150 and np.mean(guessed) < most
    places = Counter(row["answer"] for row in unseen)
    assert max(places.values()) < 2 * min(places.values())


# captions


def test_captions_tell_the_clips_apart(rows, scenes):
    """No caption is true of another video of its split: who is there, the place, the thing."""

    def said(text: str) -> tuple:
        looks = re.findall(r"(\w+) (circle|square|triangle|star)", text)
        return sorted(looks), *re.search(r"(\w+) near a (\w+)$", text).groups()

    for split, count in retrieval.CAPTIONS.items():
        owners = defaultdict(set)
        part = rows[f"retrieval/{split}.jsonl"]
        assert [row["sen_id"] for row in part] == list(range(len(part)))
        assert len({row["caption"] for row in part}) == len(part)
        assert set(Counter(row["clip_name"] for row in part).values()) == {count}
        for row in part:
            scene = scenes[row["clip_name"]]
            looks = [(e["colour"], e["shape"]) for e in scene["entities"] if "colour" in e]
            prop = next(e["noun"] for e in scene["entities"] if e["kind"] == "prop")
            assert said(row["caption"]) == (sorted(looks), scene["place"], prop)
            owners[str(said(row["caption"]))].add(row["clip_name"])
        assert all(len(clips) == 1 for clips in owners.values())


def test_multiple_choice_has_one_caption_of_the_clip(rows):
    told = defaultdict(set)
    for split in SPLITS:
        for row in rows[f"retrieval/{split}.jsonl"]:
            told[row["clip_name"]].add(row["caption"])
    for split in ("val", "test"):
        part = rows[f"retrieval/msrvtt_mc_{split}.jsonl"]
        assert [row["qid"] for row in part] == list(range(len(part)))
        for row in part:
            own = [option in told[row["clip_name"]] for option in row["options"]]
            assert len(set(row["options"])) == 5
            assert own == [i == row["answer"] for i in range(5)]


# pictures


def test_pictures_show_what_their_captions_say(rows, scenes):
    pictures = {p.name: (scene, p) for scene in scenes.values()
                for p in image_text.pictures(facts.Facts(scene))}  # fmt: skip
    captions = [row for split in SPLITS for row in rows[f"image_text/captions_{split}.jsonl"]]
    assert set(Counter(row["coco_id"] for row in captions).values()) == {2}
    assert {row["coco_id"] for row in captions} == set(pictures)
    for row in captions:
        scene, picture = pictures[row["coco_id"]]
        acting = [e for e in scene["events"] if e["start"] - 1 <= picture.frame < e["end"] - 1]
        assert acting == ([picture.event] if picture.event else [])
        ones = {e["id"]: e for e in scene["entities"]}
        looks = re.findall(r"a (\w+ (?:circle|square|triangle|star))", row["caption"])
        if picture.event is None:
            assert sorted(looks) == sorted(facts.look(e) for e in ones.values() if "colour" in e)
        else:
            subject = ones[picture.event["subject"]]
            assert looks[0] == facts.look(subject)
            assert subject["boxes"][picture.frame]


def test_questions_about_pictures(rows):
    ids = [row["question_id"] for split in SPLITS for row in rows[f"image_text/vqa_{split}.jsonl"]]
    assert ids == list(range(len(ids)))
    for split in SPLITS:
        shown = {row["coco_id"] for row in rows[f"image_text/captions_{split}.jsonl"]}
        answers = defaultdict(Counter)
        for row in rows[f"image_text/vqa_{split}.jsonl"]:
            assert row["image_id"] in shown
            assert max(row["labels"].values()) == 1.0
            answers[row["question"].split()[0]].update(list(row["labels"])[:1])
        assert answers["Is"]["yes"] == answers["Is"]["no"] > 100
    assert rows["image_text/vqa_train.jsonl"][0]["labels"]


def test_images_are_frames_of_the_video(scenes, tmp_path):
    scene = dict(min(scenes.values(), key=lambda s: s["num_frames"]))
    video = tmp_path / "video.mp4"
    render.render_video(scene, video)
    taken = image_text.pictures(facts.Facts(scene))
    images = dict(image_text.images(video, taken))
    assert list(images) == [f"{picture.name}.jpg" for picture in taken]
    drawn = dict(enumerate(render.frames(scene)))
    for picture, content in zip(taken, images.values(), strict=True):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(image.astype(float) - drawn[picture.frame]).mean() < 6
    late = taken[-1]._replace(frame=scene["num_frames"] + 5)
    with pytest.raises(OSError, match="the video ends before it"):
        dict(image_text.images(video, [late]))


# vocabulary


def test_vocabulary_covers_what_is_trained_and_loses_nothing(scenes, rows, tmp_path):
    content = vocabulary.files(list(scenes.values()))["vocab.txt"]
    pieces = content.decode().split("\n")[:-1]
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(pieces)) == len(pieces) < 400
    trained = [row for name, part in rows.items() if "train" in name for row in part]
    texts = [row.get("question") or row.get("caption") for row in trained]
    texts += [option for row in trained for option in row.get("options", ())]
    whole = {word for text in texts for word in re.findall(r"\w+", text.lower())}
    assert whole <= set(pieces) and "chases" in whole and "on" in whole
    from reader.common.wordpiece import WordPieces

    (tmp_path / "vocab.txt").write_bytes(content)
    encoder = WordPieces(tmp_path / "vocab.txt")
    unknown = pieces.index("[UNK]")
    assert unknown not in encoder.encode("Zebra x9? (never-seen) words, it's 42!", 60)


# the layouts as ClipBERT's reader and preparation take them


@pytest.mark.parametrize(
    ("task", "name", "labels"),
    [
        ("action", "tgif_qa/action_val", None),
        ("transition", "tgif_qa/transition_val", None),
        ("frameqa", "tgif_qa/frameqa_val", "tgif_qa/frameqa_trainval_ans2label"),
        ("msrvtt_qa", "msrvtt_qa/val", "msrvtt_qa/train_ans2label"),
        ("retrieval", "retrieval/val", None),
        ("msrvtt_mc", "retrieval/msrvtt_mc_val", None),
        ("vqa", "image_text/vqa_val", "image_text/vqa_ans2label"),
        ("pretrain", "image_text/captions_val", None),
    ],
)
def test_reader_takes_every_layout(files, rows, tmp_path, task, name, labels):
    for wanted in (f"{name}.jsonl", f"{labels}.json"):
        if wanted in files:
            (tmp_path / Path(wanted).name).write_bytes(files[wanted])
    given = {"ans2label": str(tmp_path / f"{Path(labels).name}.json")} if labels else {}
    source = "images" if task in ("vqa", "pretrain") else "videos"
    reader = get_reader("clipbert")(
        "valid", task=task, annotations=str(tmp_path / f"{Path(name).name}.jsonl"),
        **{source: str(tmp_path)}, vocab=str(tmp_path / "vocab.txt"), **given,
    )  # fmt: skip
    references = reader.references()
    if task == "retrieval":
        assert all(len(found["texts"]) == 2 for found in references.values())
    else:
        assert len(references) == len(rows[f"{name}.jsonl"])


def test_clipbert_layout_runs_the_real_preparation(scenes, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("sample_prepare_clips", SAMPLE / "prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    few = list(scenes.values())[:3]
    with pytest.raises(prepare.DataError, match="add anetqa to --layouts"):
        prepare.make_clipbert(few, tmp_path)
    script = tmp_path / "data" / "dataset" / "anetqa" / "prepare.py"
    script.parent.mkdir(parents=True)
    script.write_text("import sys; open('told', 'a').write(' '.join(sys.argv[1:]) + '\\n')")
    raw = tmp_path / "anetqa"
    raw.mkdir()
    prepare.make_clipbert(few, tmp_path)
    assert (tmp_path / "told").read_text().splitlines() == [
        f"questions {raw}",
        f"answers {raw} --force",
        f"frames {raw} --videos {raw / 'videos'} --out {raw / 'frames'} --size 96",
    ]
    assert (raw / "vocab.txt").read_bytes() == vocabulary.files(few)["vocab.txt"]


def test_layouts_that_a_configuration_reads():
    import prepare

    def wanted(name: str) -> list[str]:
        return prepare.read_by(f"configs/sample/{name}.yaml")

    assert wanted("tall") == ["tacos", "tall"]
    assert wanted("stage") == ["tvqa_plus", "stage"]
    assert wanted("clipbert_action") == ["anetqa", "tgif_qa", "clipbert"]
    for path in Path("configs/sample").glob("*.yaml"):
        assert wanted(path.stem), path
