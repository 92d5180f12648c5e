# SPDX-License-Identifier: Apache-2.0
"""The sample world in the raw layout of VLEP: which of two events happens right after a part?

`vlep_{train,dev,test}_release.jsonl` with example_id, vid_name, ts, events, answer and split, and
`vlep_subtitles.jsonl`. In half of the examples the part ends before somebody says what is going to
happen is done, in the other half one second after it has begun, so that it can be seen who acts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from choice_questions import Asker, Choice, Part
from facts import Facts
from tgif_qa import json_lines

SPLITS = {"train": "train", "val": "dev", "test": "test"}  # scenes.json: VLEP
OPTIONS = 2
Example = tuple[Part, tuple[float, float], Choice]


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    contents, number = {}, 0
    for split, name in SPLITS.items():
        rows = []
        for part, span, choice in asked(scenes, split):
            events = [f"{option[0].upper()}{option[1:]}." for option in choice.options]
            rows.append({"example_id": number, "vid_name": part.facts.name, "ts": list(span),
                         "events": events, "answer": choice.answer, "split": name})  # fmt: skip
            number += 1
        contents[f"vlep_{name}_release.jsonl"] = json_lines(rows)
    contents["vlep_subtitles.jsonl"] = json_lines([_subtitles(scene) for scene in scenes])
    return contents


def asked(scenes: list[dict[str, Any]], split: str) -> list[Example]:
    """(part, its seconds, question) of a split."""
    rng = random.Random(f"{split}/vlep")
    found = [each for facts in map(Facts, scenes) if facts.split == split
             for each in _examples(facts, Asker(rng, OPTIONS))]  # fmt: skip
    return rng.sample(found, len(found))


def _examples(facts: Facts, asker: Asker) -> Iterator[Example]:
    for event in facts.events:
        part, begin = Part(facts, [event]), event["seconds"][0]
        told = event["cause"] and facts.scene["subtitles"][event["cause"]["subtitle"]]
        if told and told["start"] < begin:
            yield part, (max(0.0, round(begin - 4, 2)), begin), asker.deeds(
                "", "", part, event)  # fmt: skip
        yield part, (max(0.0, round(begin - 1, 2)), round(begin + 1, 2)), asker.doing(
            "", "", part, event, "third")  # fmt: skip


def _subtitles(scene: dict[str, Any]) -> dict[str, Any]:
    lines = [{"text": f"({line['name']}:){line['text']}", "start": line["start"],
              "end": line["end"]} for line in scene["subtitles"]]  # fmt: skip
    return {"vid_name": scene["id"], "sub": lines}
