# SPDX-License-Identifier: Apache-2.0
"""The sample world in the raw layout of DramaQA: five options, about shots and scenes.

`AnotherMissOhQA_{train,val,test}_set.json` with qid, vid, que, answers, correct_idx,
shot_contained, videoType and levels. A shot is the clip of one event, a scene two shots in a row;
the video s01-d05 is Sample01_005_0000, its third shot Sample01_005_0003.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from choice_questions import Asker, Choice, Part, described, place
from facts import ACTIONS, Facts, look
from tgif_qa import SPLITS

Asked = tuple[Part, Choice]


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    return {f"AnotherMissOhQA_{split}_set.json": json.dumps(_entries(scenes, split)).encode()
            for split in SPLITS}  # fmt: skip


def shot_name(facts: Facts, shot: int) -> str:
    """Of a shot, counted from 1; of the scene for 0."""
    episode, scene = (int(part[1:]) for part in facts.name.split("-"))
    return f"Sample{episode:02d}_{scene:03d}_{shot:04d}"


def asked(scenes: list[dict[str, Any]], split: str) -> list[Asked]:
    """(part, question) of a split."""
    rng = random.Random(f"{split}/dramaqa")
    found = [each for facts in map(Facts, scenes) if facts.split == split
             for each in _questions(facts, Asker(rng))]  # fmt: skip
    return rng.sample(found, len(found))


def _entries(scenes: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    entries = []
    for qid, (part, choice) in enumerate(asked(scenes, split)):
        shots = [event["index"] + 1 for event in part.events]
        whole = len(shots) > 1
        entries.append(
            {"qid": qid, "vid": shot_name(part.facts, 0 if whole else shots[0]),
             "que": f"{choice.text[0].upper()}{choice.text[1:]}?",
             "answers": [f"{option}." for option in choice.options],
             "correct_idx": choice.answer, "shot_contained": shots,
             "videoType": "scene" if whole else "shot", "q_level_mem": 3 if whole else 2,
             "q_level_logic": 2 if whole else 1}
        )  # fmt: skip
    return entries


def _questions(facts: Facts, asker: Asker) -> Iterator[Asked]:
    for event in facts.events:
        part = Part(facts, [event])
        (one,) = part.ones
        text = f"what color is the one {ACTIONS[event['verb']].going_on}"
        yield part, asker.colour("", text, part, one)
        yield part, asker.rng.choice([*described(part, asker), place(part, asker)])
    for first, second in pairwise(facts.events):
        part = Part(facts, [first, second])
        one, other = part.ones
        if one is not other:
            text = f"what color is the one that acts after the {look(one)}"
            yield part, asker.colour("", text, part, other, one)
