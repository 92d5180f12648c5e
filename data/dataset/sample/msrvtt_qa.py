# SPDX-License-Identifier: Apache-2.0
"""The sample world in the form of MSRVTT-QA: questions that a word answers.

`{train,val,test}.jsonl` with `video_id`, `question`, `answer` and `answer_type` (what, who, how,
where, when: the first word); `train_ans2label.json`, answer -> class. Only "when" needs the order
of what is seen.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from facts import ACTIONS, Facts, look
from tgif_qa import SPLITS, even, json_lines, labels

NUMBERS = {2: "two", 3: "three"}
EARLY, LATE = 1 / 3, 2 / 3  # share of the video: what ends before, begins after


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in SPLITS:
        rng = random.Random(f"{split}/msrvtt_qa")
        videos = [Facts(scene) for scene in scenes if scene["split"] == split]
        found = [
            {"video_id": facts.name, "question": f"{text} ?", "answer": answer,
             "answer_type": text.split()[0]}
            for facts in videos
            for text, answer in _questions(facts)
        ]  # fmt: skip
        rows[split] = even(found, rng, "how")
    answers = labels([row["answer"] for row in rows["train"]])
    contents = {f"{split}.jsonl": json_lines(found) for split, found in rows.items()}
    return {**contents, "train_ans2label.json": json.dumps(answers, indent=1).encode()}


def _questions(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "what is standing among the shapes", facts.prop["noun"]
    yield "what is standing at the sides", facts.scenery
    yield "where are the shapes playing", facts.place
    yield "where do they meet", facts.place
    yield "how many shapes are playing", NUMBERS[len(facts.cast)]
    for shape, one in facts.single.items():
        yield f"what color is the {shape}", one["colour"]
    for colour, one in facts.by_colour.items():
        yield f"what shape is {colour}", one["shape"]
    for verb, doers in facts.doers.items():
        if len(doers) == 1:
            yield f"who is {ACTIONS[verb].going_on}", doers[0]["shape"]
            yield f"what color is the one {ACTIONS[verb].going_on}", doers[0]["colour"]
    frames = facts.scene["num_frames"]
    for event in facts.events[:: len(facts.events) - 1]:
        early, late = event["end"] < EARLY * frames, event["start"] > LATE * frames
        if early or late:
            who, what = look(facts.entities[event["subject"]]), ACTIONS[event["verb"]].going_on
            yield f"when is the {who} {what}", "start" if early else "end"
