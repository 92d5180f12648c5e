# SPDX-License-Identifier: Apache-2.0
"""Pictures of the sample world with captions and questions, in the forms of COCO and VQA v2.

`images/<id>.jpg`: frames of the videos, one of every pause and two of every event;
`captions_{train,val,test}.jsonl` with `coco_id` (the picture) and `caption`;
`vqa_{train,val,test}.jsonl` with `question`, `image_id`, `question_id`, `labels` and `answer_type`,
and `vqa_ans2label.json`, answer -> class.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from facts import ACTIONS, WHERE, WITH, Event, Facts, look, where
from language import COLOUR_WORDS
from retrieval import some
from scene import COLOURS, PROPS, SHAPES, VERBS
from tgif_qa import SPLITS, json_lines, labels

SYNONYM = 0.3  # score of the other word for a colour
PER_EVENT = 2
ACTING, HIDING = (0.45, 0.8), (0.15, 0.35)  # part of an event that shows it; still to be seen


class Picture(NamedTuple):
    """One frame of a video."""

    name: str
    frame: int  # from 0
    event: Event | None  # None: nobody acts, everybody can be seen


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every text file of the layout, by file name."""
    captions: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    questions: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for scene in scenes:
        facts, rng = Facts(scene), random.Random(f"{scene['id']}/image_text")
        for picture in pictures(facts):
            captions[facts.split] += [
                {"coco_id": picture.name, "caption": caption}
                for caption in _captions(facts, picture, rng)
            ]
            for text, answer in _questions(facts, picture, rng):
                questions[facts.split].append(_row(picture, f"{text}?", answer))
    known = [*questions["train"], *questions["val"]]
    answers = labels([answer for row in known for answer in row["labels"]])
    contents = {f"captions_{split}.jsonl": json_lines(rows) for split, rows in captions.items()}
    first = 0
    for split, rows in questions.items():
        for number, row in enumerate(rows, start=first):
            row["question_id"] = number
        contents[f"vqa_{split}.jsonl"] = json_lines(rows)
        first += len(rows)
    return {**contents, "vqa_ans2label.json": json.dumps(answers, indent=1).encode()}


def pictures(facts: Facts) -> list[Picture]:
    """The frames of a video that are taken."""
    rng = random.Random(f"{facts.name}/pictures")
    taken: dict[int, Event | None] = {(first + last) // 2: None for first, last in facts.idle}
    for event in facts.events:
        start, length = event["start"] - 1, event["end"] - event["start"]
        first, last = HIDING if event["verb"] == "hide" else ACTING
        subject = facts.entities[event["subject"]]
        inside = range(start + round(first * length), start + round(last * length))
        seen = [frame for frame in inside if where(subject, frame)]
        taken |= dict.fromkeys(rng.sample(seen, PER_EVENT), event)
    return [Picture(f"{facts.name}-{frame:04d}", frame, taken[frame]) for frame in sorted(taken)]


def images(video: Path, taken: list[Picture]) -> Iterator[tuple[str, bytes]]:
    """File name and content of these pictures of a video.

    Raises OSError when the video ends before.
    """
    import cv2

    names = {picture.frame: f"{picture.name}.jpg" for picture in taken}
    capture = cv2.VideoCapture(str(video))
    for frame in range(max(names) + 1):
        if not capture.grab():
            raise OSError(f"{video}: expected frame {frame}, the video ends before it; "
                          "run prepare.py again")  # fmt: skip
        if frame in names:
            yield names[frame], cv2.imencode(".jpg", capture.retrieve()[1])[1].tobytes()
    capture.release()


def _row(picture: Picture, text: str, answer: str) -> dict[str, Any]:
    kind = "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"
    scores = {answer: 1.0}
    if answer in COLOUR_WORDS:
        scores[COLOUR_WORDS[answer][1]] = SYNONYM
    return {"question": text, "image_id": picture.name, "question_id": 0, "labels": scores,
            "answer_type": kind}  # fmt: skip


def _captions(facts: Facts, picture: Picture, rng: random.Random) -> Iterator[str]:
    """Two captions of a picture."""
    thing = f"a {facts.prop['noun']}"
    if picture.event is None:
        for end in (WHERE[facts.place], f"near {thing}"):
            yield f"{some(rng.sample(facts.cast, len(facts.cast)))} {end}"
        return
    event, who = picture.event, some([facts.entities[picture.event["subject"]]])
    if event["verb"] in WITH:
        what = f"{WITH[event['verb']].third} {some([facts.entities[event['object']]])}"
    else:
        behind = f" behind {thing}" if event["verb"] == "hide" else ""
        what = f"{ACTIONS[event['verb']].third}{behind}"
    yield f"{who} {what}"
    yield f"{who} {ACTIONS[event['verb']].third} {WHERE[facts.place]}"


def _questions(
    facts: Facts, picture: Picture, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Questions and answers about a picture; of those with yes or no, one of each."""
    yield "Where is it", WHERE[facts.place]
    if picture.event is None:
        yield "How many shapes are there", str(len(facts.cast))
        yield "What stands among the shapes", facts.prop["noun"]
        for shape, one in facts.single.items():
            yield f"What color is the {shape}", one["colour"]
        groups = ((COLOURS, facts.by_colour, "something "), (SHAPES, facts.shapes, "a "),
                  (PROPS, [facts.prop["noun"]], "a "))  # fmt: skip
        for words, present, article in groups:
            for answer in ("yes", "no"):
                chosen = rng.choice([w for w in words if (w in present) == (answer == "yes")])
                yield f"Is there {article}{chosen}", answer
        return
    one, verb = facts.entities[picture.event["subject"]], picture.event["verb"]
    yield "What color is the one that acts", one["colour"]
    yield "What shape acts", one["shape"]
    yield f"What is the {look(one)} doing", ACTIONS[verb].going_on
    other = rng.choice([v for v in VERBS if v != verb])
    yield f"Is someone {ACTIONS[verb].going_on}", "yes"
    yield f"Is someone {ACTIONS[other].going_on}", "no"
