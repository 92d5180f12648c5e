# SPDX-License-Identifier: Apache-2.0
"""Captions of the sample world for finding videos by text, in the form of ClipBERT's MSRVTT files.

`{train,val,test}.jsonl` with `caption`, `clip_name` and `sen_id`; `msrvtt_mc_{val,test}.jsonl` with
`qid`, `clip_name`, five `options`, of which one is a caption of the clip, and `answer`. A caption
tells who plays and where: everybody's colour and form, the place, the thing that stands there.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import permutations, product
from typing import Any

from facts import ACTIONS, WHERE, Entity, Facts, listing, look
from tgif_qa import json_lines

CAPTIONS = {"train": 6, "val": 2, "test": 2}  # per video; every other one tells of an event
WRONG = 4  # options


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    told: dict[str, list[str]] = {}  # captions by video
    for scene in scenes:
        rng = random.Random(f"{scene['id']}/retrieval")
        told[scene["id"]] = list(_captions(Facts(scene), CAPTIONS[scene["split"]], rng))
    contents: dict[str, bytes] = {}
    for split in CAPTIONS:
        videos = [scene["id"] for scene in scenes if scene["split"] == split]
        pairs = [(video, caption) for video in videos for caption in told[video]]
        contents[f"{split}.jsonl"] = json_lines(
            [{"caption": c, "clip_name": video, "sen_id": i} for i, (video, c) in enumerate(pairs)]
        )
        if split != "train":
            rng = random.Random(f"{split}/msrvtt_mc")
            contents[f"msrvtt_mc_{split}.jsonl"] = json_lines(list(_choices(pairs, told, rng)))
    return contents


def _captions(facts: Facts, count: int, rng: random.Random) -> Iterator[str]:
    where = f"{WHERE[facts.place]} near a {facts.prop['noun']}"
    orders = [*product(permutations(facts.cast), ("play", "are together"))]
    for order, what in rng.sample(orders, count - count // 2):
        yield f"{some(order)} {what} {where}"
    for event in rng.sample(facts.events, count // 2):
        actor = facts.entities[event["subject"]]
        others = [one for one in facts.cast if one is not actor]
        watch = "watch" if len(others) > 1 else "watches"
        third = ACTIONS[event["verb"]].third
        yield f"{some([actor])} {third} while {some(others)} {watch} {where}"


def some(cast: Iterable[Entity]) -> str:
    """What they look like: "a red circle and a blue star"."""
    return listing([f"a {look(one)}" for one in cast])


def _choices(
    pairs: list[tuple[str, str]], told: dict[str, list[str]], rng: random.Random
) -> Iterator[dict[str, Any]]:
    """Wrong options are captions of other videos of any split."""
    for number, (video, caption) in enumerate(pairs):
        others = [c for other, captions in told.items() if other != video for c in captions]
        options = rng.sample([caption, *rng.sample(others, WRONG)], 1 + WRONG)
        yield {"qid": number, "clip_name": video, "options": options,
               "answer": options.index(caption)}  # fmt: skip
