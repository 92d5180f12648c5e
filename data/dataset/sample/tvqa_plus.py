# SPDX-License-Identifier: Apache-2.0
"""The sample world in the raw layout of TVQA+ (Lei, Yu, Berg, Bansal 2020; jayleicn/TVQAplus).

Questions, subtitles and file forms are those of the published package; `regions.json` takes the
place of its object detector: boxes a pixel or two off, some on nothing, in the order of a made-up
confidence. Frames are a grid of 3 per second, counted from 1; frame i shows the time i / 3 s.
`vocab.txt` is a WordPiece vocabulary for the text extractor, of the training split's words.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import tvqa_questions
from scene import HEIGHT, WIDTH
from tvqa_questions import RATE, Question, tokens

SPLITS = {"train": "train", "val": "valid", "test": "test"}  # scenes.json: TVQA+
STEP = 6  # annotated frames are 2 s apart
LOOKED_AT = 2  # frames 1, 3, 5, ... are annotated and shown to the detector
SMALLEST = 4  # px; less of a thing in sight is not annotated, nor found by the detector
CLUTTER = ("ground", "shadow", "stripe", "light")
FIRST_IDS = ("<unk>", "<pad>", "<eos>")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

Box = list[int]


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    entries: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS.values()}
    subtitles, regions, counts = {}, {}, {}
    qid = 100000
    for scene in scenes:
        rng = random.Random(f"{scene['id']}/tvqa_plus")
        for question in tvqa_questions.questions(scene, rng):
            entries[SPLITS[scene["split"]]].append(_entry(qid, question, scene, rng))
            qid += 1
        subtitles[scene["id"]] = _subtitles(scene)
        regions[scene["id"]] = _regions(scene)
        counts[scene["id"]] = frame_count(scene)
    labels = {box["label"].lower() for boxes in _annotated(entries) for box in boxes}
    contents: dict[str, Any] = {
        f"tvqa_plus_{split}_preprocessed.json": found for split, found in entries.items()
    }
    contents |= {
        "tvqa_plus_test_preprocessed_no_anno.json": [_hidden(e) for e in entries["test"]],
        "tvqa_plus_subtitles.json": subtitles,
        "regions.json": regions,
        "eval_object_vocab.json": sorted(labels),
        "frm_cnt.json": counts,
    }
    trained = [subtitles[scene["id"]] for scene in scenes if scene["split"] == "train"]
    words = _words(entries["train"], trained)
    vocabulary = "\n".join(_pieces(words)) + "\n"
    contents["word2idx.json"] = {w: i for i, w in enumerate([*FIRST_IDS, *sorted(words | labels)])}
    dumped = {name: json.dumps(c, separators=(",", ":")).encode() for name, c in contents.items()}
    return {**dumped, "vocab.txt": vocabulary.encode()}


def frame_count(scene: dict[str, Any]) -> int:
    """Frames of the 3 per second grid."""
    return int(scene["num_frames"] * RATE / scene["fps"])


def _annotated(entries: dict[str, list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    for found in entries.values():
        for entry in found:
            yield from entry["bbox"].values()


def _entry(
    qid: int, question: Question, scene: dict[str, Any], rng: random.Random
) -> dict[str, Any]:
    """One item of a question list; the right answer's place is drawn uniformly."""
    answer = rng.randrange(5)
    choices = rng.sample(question.wrong, 4)
    choices.insert(answer, question.right)
    entry: dict[str, Any] = {"qid": qid, "vid_name": scene["id"]}
    for key, text in (("q", question.text), *((f"a{i}", c) for i, c in enumerate(choices))):
        entry[key] = text
        entry[f"{key}_len"] = len(text.split())
    start, end = question.moment
    frames = [i for i in range(1, frame_count(scene) + 1, LOOKED_AT) if start <= i / RATE <= end]
    first = rng.randrange(min(len(frames), STEP // LOOKED_AT))
    located = frames[first :: STEP // LOOKED_AT]
    bbox = {str(i): list(_boxes(question, scene, i)) for i in located}
    return {**entry, "answer_idx": str(answer), "ts": [start, end], "bbox": bbox}


def _boxes(question: Question, scene: dict[str, Any], frame: int) -> Iterator[dict[str, Any]]:
    """What the question and its answer name and this frame shows.

    Names are only spoken, and who is who is seen only in the limelight: a name labels who acts.
    """
    position, acting = moment_of(frame, scene), acts_at(scene, frame / RATE)
    for entity in scene["entities"]:
        box = visible(entity, position)
        for label in (entity[key] for key in ("noun", "colour", "name") if key in entity):
            known = label != entity.get("name") or acting == entity["id"]
            if box and known and (entity["id"], label) in question.mentions:
                yield {"img_id": frame, "top": box[1], "left": box[0], "width": box[2] - box[0],
                       "height": box[3] - box[1], "label": label}  # fmt: skip


def _hidden(entry: dict[str, Any]) -> dict[str, Any]:
    """A test item as it is published: frames are given, answer, moment and boxes are not."""
    kept = {key: value for key, value in entry.items() if key not in ("answer_idx", "ts")}
    return {**kept, "bbox": {frame: [] for frame in entry["bbox"]}}


def _subtitles(scene: dict[str, Any]) -> dict[str, Any]:
    lines = tvqa_questions.lines(scene)
    spoken = [tokens(f"{line['name']} : {line['text']}") for line in lines]
    return {"sub_text": " <eos> ".join(spoken), "sub_time": [line["start"] for line in lines]}


# the detector


def moment_of(frame: int, scene: dict[str, Any]) -> int:
    """Position in the video (from 0) of a frame of the grid."""
    return min(round(frame * scene["fps"] / RATE), scene["num_frames"] - 1)


def acts_at(scene: dict[str, Any], seconds: float) -> str | None:
    """Who stands in the limelight at that time."""
    found = [e["subject"] for e in scene["events"] if e["seconds"][0] <= seconds < e["seconds"][1]]
    return found[0] if found else None


def visible(entity: dict[str, Any], position: int) -> Box | None:
    """[x1, y1, x2, y2] of what can be seen of an entity; None when that is hardly anything."""
    box = entity["boxes"][position] if "boxes" in entity else entity["box"]
    if box is None or min(box[2] - box[0], box[3] - box[1]) < SMALLEST:
        return None
    return box


def _regions(scene: dict[str, Any]) -> dict[str, Any]:
    """Found regions of every frame of the grid: how many, boxes, labels."""
    rng = random.Random(f"{scene['id']}/regions")
    boxes: list[list[Box]] = []
    labels: list[list[str]] = []
    for frame in range(1, frame_count(scene) + 1):
        position, looked_at = moment_of(frame, scene), frame % LOOKED_AT == 1
        found = [
            (_jitter(box, rng), entity["noun"])
            for entity in scene["entities"]
            if looked_at and (box := visible(entity, position)) is not None
        ]
        clutter = rng.randint(1, 3) if looked_at else 0
        found += [(_clutter(rng), rng.choice(CLUTTER)) for _ in range(clutter)]
        rng.shuffle(found)
        boxes.append([box for box, _ in found])
        labels.append([label for _, label in found])
    return {"counts": [len(found) for found in boxes], "boxes": boxes, "object": labels}


def _jitter(box: Box, rng: random.Random) -> Box:
    """The box, each side moved by up to 2 px, small boxes by up to 1; inside the frame."""
    most = 2 if min(box[2] - box[0], box[3] - box[1]) >= 20 else 1
    x1, y1, x2, y2 = (side + rng.randint(-most, most) for side in box)
    return [max(0, x1), max(0, y1), min(WIDTH, x2), min(HEIGHT, y2)]


def _clutter(rng: random.Random) -> Box:
    width, height = rng.randint(14, 44), rng.randint(14, 44)
    x, y = rng.randint(0, WIDTH - width), rng.randint(0, HEIGHT - height)
    return [x, y, x + width, y + height]


def _words(entries: list[dict[str, Any]], subtitles: list[dict[str, Any]]) -> set[str]:
    """Lower-case words of these texts."""
    texts = [entry[key] for entry in entries for key in ("q", "a0", "a1", "a2", "a3", "a4")]
    texts += [talk["sub_text"].replace("<eos>", " ") for talk in subtitles]
    return {word for text in texts for word in text.lower().split()}


def _pieces(words: set[str]) -> list[str]:
    """WordPiece vocabulary: special tokens, single characters, whole words."""
    letters = sorted({letter for word in words for letter in word})
    return [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *sorted(words - {*letters})]
