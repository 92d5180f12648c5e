# SPDX-License-Identifier: Apache-2.0
"""The sample world in the form of MSVD-QA: short clips, questions that a word or two answer.

`{train,val,test}.jsonl` with `video_id`, `question`, `answer` and `answer_type` (what, who, how,
where: the first word), `train_ans2label.json`, and clips of single events. Every frame shows who
acts, so a single one answers most questions; what is done takes a few of them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import clips
from facts import ACTIONS, Facts
from msrvtt_qa import NUMBERS
from tgif_qa import SPLITS, even, json_lines, labels

OTHER = 2  # questions of a clip that are not about who acts


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in SPLITS:
        rng = random.Random(f"{split}/msvd_qa")
        found = [
            {"answer": answer, "question": f"{text}?", "video_id": clip.name,
             "answer_type": text.split()[0]}
            for clip in clips.singles(scenes)
            if clip.facts.split == split
            for text, answer in _questions(clip, rng)
        ]  # fmt: skip
        rows[split] = even(found, rng, "how")
    answers = labels([row["answer"] for row in rows["train"]])
    contents = {f"{split}.jsonl": json_lines(found) for split, found in rows.items()}
    return {**contents, "train_ans2label.json": json.dumps(answers, indent=1).encode()}


def _questions(clip: clips.Clip, rng: random.Random) -> Iterator[tuple[str, str]]:
    """About who acts, then about anything else; no wording tells more than another."""
    facts, (event,) = clip.facts, clip.events
    one, action = facts.entities[event["subject"]], ACTIONS[event["verb"]]
    yield f"who is {action.going_on}", one["shape"]
    yield f"what color is the one that {action.third}", one["colour"]
    yield f"what is the {one['colour']} one doing", action.plain
    yield from rng.sample([*_others(facts)], OTHER)


def _others(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "where are the shapes", facts.place
    yield "what is standing among the shapes", facts.prop["noun"]
    yield "what is standing at the sides", facts.scenery
    yield "how many shapes are there", NUMBERS[len(facts.cast)]
