# SPDX-License-Identifier: Apache-2.0
"""The sample world in the form of TGIF-QA's tasks action, transition and frameqa.

`{action,transition,frameqa}_{train,val,test}.jsonl` are what `data/dataset/tgif_qa/prepare.py`
makes of the published tables; `gif_name` is the video's id. Wrong options are what the one who is
asked about does not do at all, but for some that are done another number of times (action) or at
another time (transition).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from facts import ACTIONS, Entity, Event, Facts, look
from scene import COUNTED, VERBS

SPLITS = ("train", "val", "test")
ANSWERS = "frameqa_trainval_ans2label.json"
PLURALS = {"cactus": "cacti"}
WRONG = 4  # options

Row = dict[str, Any]


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    tasks: dict[str, Callable[[Facts, random.Random], Iterator[Row]]] = {
        "action": _action, "transition": _transition, "frameqa": lambda facts, _: _frame(facts),
    }  # fmt: skip
    contents: dict[str, bytes] = {}
    answers: list[str] = []
    for split in SPLITS:
        videos = [Facts(scene) for scene in scenes if scene["split"] == split]
        for task, ask in tasks.items():
            rng = random.Random(f"{split}/{task}")
            rows = [{"gif_name": f.name, **row} for f in videos for row in ask(f, rng)]
            if task == "frameqa":
                rows = even(rows, rng, "number")
                answers += [row["answer"] for row in rows if split != "test"]
            contents[f"{task}_{split}.jsonl"] = json_lines(rows)
    contents[ANSWERS] = json.dumps(labels(answers), indent=1).encode()
    return contents


def json_lines(rows: list[Row]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def labels(answers: list[str]) -> dict[str, int]:
    """Answer -> class, most frequent first, after the one for all others."""
    counts = Counter(answers)
    ordered = sorted(counts, key=lambda answer: (-counts[answer], answer))
    return {answer: label for label, answer in enumerate(["<UNK>", *ordered])}


def even(rows: list[Row], rng: random.Random, kind: str) -> list[Row]:
    """Without so many rows of this answer type that its wordings have each answer equally often."""
    groups: dict[str, dict[str, list[int]]] = {}
    for i, row in enumerate(rows):
        if row["answer_type"] == kind:
            groups.setdefault(row["question"], {}).setdefault(row["answer"], []).append(i)
    dropped: set[int] = set()
    for found in groups.values():
        fewest = min(map(len, found.values()))
        for places in found.values():
            dropped.update(rng.sample(places, len(places) - fewest))
    return [row for i, row in enumerate(rows) if i not in dropped]


# one of five


def _action(facts: Facts, rng: random.Random) -> Iterator[Row]:
    """What does the red circle do 3 times?"""
    for event in facts.events:
        one, verb = facts.entities[event["subject"]], event["verb"]
        others = [v for v in VERBS if v not in COUNTED and not facts.does(one, v)]
        often, counted = "once", []
        if event["count"]:  # the text tells that it is one of the verbs that are counted: offer all
            often = f"{event['count']} times"
            same = [e["verb"] for e in facts.events
                    if e["subject"] == one["id"] and e["count"] == event["count"]]  # fmt: skip
            counted = [v for v in COUNTED if v not in same]
        for who in (look(one), f"{one['colour']} one"):
            wrong = counted + rng.sample(others, WRONG - len(counted))
            yield _choice(f"What does the {who} do {often} ?", verb, wrong, rng)


def _transition(facts: Facts, rng: random.Random) -> Iterator[Row]:
    """What does the red circle do before jumping?"""
    for one in facts.cast:
        done = [event["verb"] for event in facts.events if _acts(one, event)]
        for verb, later in pairwise(done):
            for when, asked, right in (("before", later, verb), ("after", verb, later)):
                if done.count(asked) > 1:
                    continue
                others = [v for v in VERBS if v not in done]
                elsewhere = [v for v in done if v not in (asked, right)]
                near = rng.sample(elsewhere, min(len(elsewhere), rng.randint(0, 1)))
                wrong = near + rng.sample(others, WRONG - len(near))
                yield _choice(f"What does the {look(one)} do {when} {ACTIONS[asked].going_on} ?",
                              right, wrong, rng)  # fmt: skip


def _acts(one: Entity, event: Event) -> bool:
    ends = ("subject", "object") if event["verb"] == "swap" else ("subject",)
    return one["id"] in [event[end] for end in ends]


def _choice(text: str, right: str, wrong: list[str], rng: random.Random) -> Row:
    options = rng.sample([right, *wrong], 1 + WRONG)
    return {"question": text, "options": [ACTIONS[verb].plain for verb in options],
            "answer": options.index(right)}  # fmt: skip


# in a word


def _frame(facts: Facts) -> Iterator[Row]:
    """What color is the circle? How many trees are there?"""
    noun, prop = facts.scenery, facts.prop["noun"]
    trees = sum(e["kind"] == "scenery" for e in facts.entities.values())
    plural = PLURALS.get(noun, f"{noun}s")
    asked = [
        ("what is standing among them ?", prop, "object"),
        ("what is on both sides ?", noun, "object"),
        ("where are they ?", facts.place, "location"),
        ("where does it happen ?", facts.place, "location"),
        ("how many are playing ?", str(len(facts.cast)), "number"),
        (f"how many {plural} are there ?", str(trees), "number"),
    ]
    for shape, one in facts.single.items():
        asked.append((f"what color is the {shape} ?", one["colour"], "color"))
    for colour, one in facts.by_colour.items():
        asked.append((f"what is the {colour} thing ?", one["shape"], "object"))
    for verb, doers in facts.doers.items():
        if len(doers) == 1:
            doing = ACTIONS[verb].going_on
            asked += [(f"what color is the one {doing} ?", doers[0]["colour"], "color"),
                      (f"what is {doing} ?", doers[0]["shape"], "object")]  # fmt: skip
    for text, answer, kind in asked:
        yield {"question": text, "answer": answer, "answer_type": kind}
