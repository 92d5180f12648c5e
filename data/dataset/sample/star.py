# SPDX-License-Identifier: Apache-2.0
"""The sample world in the raw layout of STAR: questions with four choices about parts of videos.

`STAR_{train,val,test}.json` with question_id, video_id, start, end (seconds), question, answer
and choices. A part of type Prediction ends one second into what is asked for.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from choice_questions import Asker, Choice, Part
from facts import WITH, Facts, look
from scene import COLOURS
from tgif_qa import SPLITS

OPTIONS = 4
Span = tuple[float, float]


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    return {f"STAR_{split}.json": json.dumps(_entries(scenes, split), indent=1).encode()
            for split in SPLITS}  # fmt: skip


def asked(scenes: list[dict[str, Any]], split: str) -> list[tuple[Part, Span, Choice]]:
    """(part, its seconds, question) of a split."""
    rng = random.Random(f"{split}/star")
    found = [each for facts in map(Facts, scenes) if facts.split == split
             for each in _questions(facts, Asker(rng, OPTIONS))]  # fmt: skip
    return rng.sample(found, len(found))


def _entries(scenes: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    return [
        {"question_id": f"{choice.kind}_T1_{number}", "video_id": part.facts.name,
         "start": start, "end": end, "question": f"{choice.text[0].upper()}{choice.text[1:]}?",
         "answer": f"{choice.options[choice.answer]}.",
         "choices": [{"choice_id": k, "choice": f"{option}."}
                     for k, option in enumerate(choice.options)]}
        for number, (part, (start, end), choice) in enumerate(asked(scenes, split))
    ]  # fmt: skip


def _questions(facts: Facts, asker: Asker) -> Iterator[tuple[Part, Span, Choice]]:
    for event in facts.events:
        part = Part(facts, [event])
        yield part, tuple(event["seconds"]), asker.rng.choice([*_interaction(part, asker)])
        yield part, tuple(event["seconds"]), _feasibility(part, asker)
    for first, second in pairwise(facts.events):
        part, (start, end) = Part(facts, [first, second]), (first["seconds"][0],
                                                             second["seconds"][1])  # fmt: skip
        one, other = part.ones
        after = f"What color is the one that acted after the {look(one)} did"
        before = f"What color is the one that acted before the {look(other)} did"
        if one is not other:
            yield part, (start, end), asker.colour("Sequence", after, part, other, one)
            yield part, (start, end), asker.colour("Sequence", before, part, one, other)
            soon = (start, round(second["seconds"][0] + 1, 2))
            text = "What color is the one that will act next"
            yield part, soon, asker.colour("Prediction", text, part, other, one)


def _interaction(part: Part, asker: Asker) -> Iterator[Choice]:
    (event,), (one,) = part.events, part.ones
    verb = event["verb"]
    if verb in WITH:
        text = f"What color is the one that the {look(one)} {WITH[verb].third}"
        yield asker.colour("Interaction", text, part, part.facts.entities[event["object"]], one)
    yield asker.doing("Interaction", "What happened", part, event, "past")


def _feasibility(part: Part, asker: Asker) -> Choice:
    """Somebody who is there, while the wrong ones are not."""
    one, = part.ones
    other = asker.rng.choice([e for e in part.facts.cast if e is not one])
    what = asker.rng.choice([action.plain for action in WITH.values()])
    _, absent = asker.others(part.facts)
    text = f"What color is the one that is able to {what} the {look(one)}"
    left = [c for c in COLOURS if c not in part.facts.by_colour]
    return asker.ask("Feasibility", text, other["colour"], absent, left)
