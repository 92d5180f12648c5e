# SPDX-License-Identifier: Apache-2.0
"""Questions with options about parts of videos, for the layouts that LLaMA-VQA reads.

Wrong options are of the right one's kind; one of them may be about somebody else who is there. The
words of question and options do not tell which is right.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from facts import ACTIONS, WITH, Entity, Event, Facts, look
from language import FORMS
from scene import COLOURS, COLUMNS, PLACES, ROWS, SHAPES, VERBS
from tgif_qa import even

MOST = 5  # options
NUMBERS = ("one", "two", "three", "four", "five")
WAYS = {
    "move_left": "left", "move_right": "right", "move_up": "up", "move_down": "down",
    "spin": "in circles", "jump": "by jumps",
}  # fmt: skip
SPOTS = [f"{row} {column}" for row in ("top", "middle", "bottom")
         for column in ("left", "middle", "right")]  # fmt: skip


class Part(NamedTuple):
    """A part of a video with one event or two in a row."""

    facts: Facts
    events: Sequence[Event]

    @property
    def ones(self) -> list[Entity]:
        """Who acts, by event."""
        return [self.facts.entities[event["subject"]] for event in self.events]


class Choice(NamedTuple):
    """A question."""

    kind: str
    text: str  # without question mark
    options: list[str]
    answer: int  # which of them is right


class Asker:
    """Asks about parts of videos.

    Args:
        rng: draws wrong options and the right one's place.
        count: options of a question.
    """

    def __init__(self, rng: random.Random, count: int = MOST) -> None:
        self.rng, self.count = rng, count

    def ask(self, kind: str, text: str, right: str, *groups: Iterable[str]) -> Choice:
        """With wrong options of the first group, as many as there are, then of the next one.

        Raises:
            ValueError: there are too few.
        """
        wrong: list[str] = []
        for group in groups:
            left = [w for w in dict.fromkeys(group) if w not in (right, *wrong)]
            wrong += self.rng.sample(left, min(len(left), self.count - 1 - len(wrong)))
        if len(wrong) < self.count - 1:
            raise ValueError(f"{text}: expected {self.count} options, found {1 + len(wrong)}")
        options = self.rng.sample([right, *wrong], self.count)
        return Choice(kind, text, options, options.index(right))

    def colour(self, kind: str, text: str, part: Part, one: Entity, *but: Entity) -> Choice:
        """Of whom this is true, by the colour; ``but`` cannot be meant."""
        near, absent = self.others(part.facts, one, *but)
        left = [c for c in COLOURS if c not in (b["colour"] for b in but)]
        return self.ask(kind, text, one["colour"], near, absent, left, COLOURS)

    def others(self, facts: Facts, *but: Entity) -> tuple[list[str], list[str]]:
        """The colour of one of the others who are there, or none, and colours of nobody."""
        there = [one["colour"] for one in facts.cast if one not in but]
        near = self.rng.sample(there, min(len(there), self.rng.randint(0, 1)))
        return near, [c for c in COLOURS if c not in facts.by_colour]

    def doing(self, kind: str, text: str, part: Part, event: Event, form: str) -> Choice:
        """What happens: who does what, in a form of ``ACTIONS`` or "past"."""
        one = part.facts.entities[event["subject"]]
        groups = (*self.others(part.facts, one), COLOURS)
        said = [[f"the {c} {self.rng.choice(SHAPES)} {done(self.rng.choice(VERBS), form)}"
                 for c in group if c != one["colour"]] for group in groups]  # fmt: skip
        return self.ask(kind, text, f"the {look(one)} {done(event['verb'], form)}", *said)

    def deeds(self, kind: str, text: str, part: Part, event: Event) -> Choice:
        """What the one who is called so does."""
        name = part.facts.entities[event["subject"]]["name"]
        others = [f"{name} {done(verb, 'third')}" for verb in VERBS]
        return self.ask(kind, text, f"{name} {done(event['verb'], 'third')}", others)


def done(verb: str, form: str) -> str:
    """What somebody does, in a form of ``ACTIONS`` or "past", without the one who is acted on."""
    if form != "past":
        return getattr(ACTIONS[verb], form)
    return FORMS[verb][1].removesuffix(" behind {o}").replace("{o}", "another one")


def spot(event: Event, at: int) -> str:
    """Where its subject stands at the beginning (0) or the end (-1) of an event."""
    x, y = event["path"][at]
    return SPOTS[3 * ROWS.index(y) + COLUMNS.index(x)]


# about two events in a row, in the manner of NExT-QA


def two_events(part: Part, asker: Asker) -> Iterator[Choice]:
    """Causal, temporal and descriptive questions about two events."""
    before, after = part.events
    first, second = part.ones
    what = "what color is the one that acts"
    yield asker.colour("TC", f"{what} at the beginning of the video", part, first)
    yield asker.colour("TC", f"{what} at the end of the video", part, second)
    if first is not second:  # else the question would tell who it is
        done_first = f"the {look(first)} {ACTIONS[before['verb']].third}"
        done_second = f"the {look(second)} {ACTIONS[after['verb']].third}"
        yield asker.colour("TN", f"{what} after {done_first}", part, second, first)
        yield asker.colour("TP", f"{what} before {done_second}", part, first, second)
    for event, one in zip(part.events, part.ones, strict=True):
        yield from causes(part, event, one, asker)
    yield asker.rng.choice([*described(part, asker)])
    yield place(part, asker)


def causes(part: Part, event: Event, one: Entity, asker: Asker) -> Iterator[Choice]:
    """Why and how, as far as it can be seen."""
    verb, facts = event["verb"], part.facts
    if verb in WAYS:
        yield asker.ask("CH", f"how does the {look(one)} move", WAYS[verb], WAYS.values())
    elif verb in WITH:
        other = facts.entities[event["object"]]
        groups = (*asker.others(facts, one, other), [c for c in COLOURS if c != one["colour"]])
        said = [[f"to {WITH[verb].plain} the {c} one" for c in group] for group in groups]
        right = f"to {WITH[verb].plain} the {other['colour']} one"
        yield asker.ask("CW", f"why does the {look(one)} go to another one", right, *said)


def place(part: Part, asker: Asker) -> Choice:
    """Where it happens."""
    if asker.rng.random() < 0.5:
        return asker.ask("DL", "where are the shapes", part.facts.place, PLACES)
    text = "what can be seen at the sides"
    return asker.ask("DO", text, part.facts.scenery, PLACES.values())


def described(part: Part, asker: Asker) -> Iterator[Choice]:
    """About those who act."""
    for event, one in zip(part.events, part.ones, strict=True):
        third = ACTIONS[event["verb"]].third
        yield asker.colour("DO", f"what color is the one that {third}", part, one)
    last = part.events[-1]
    there = [spot(event, at) for event in part.events for at in (0, -1)]
    yield asker.ask("DL", f"where is the {look(part.ones[-1])} at the end", spot(last, -1), there,
                    SPOTS)  # fmt: skip
    if len(part.events) > 1:
        count = len({one["id"] for one in part.ones})
        yield asker.ask("DC", "how many shapes act in the video", NUMBERS[count - 1], NUMBERS)


def balanced(rows: list[tuple[Any, Choice]], rng: random.Random) -> list[tuple[Any, Choice]]:
    """Without so many questions about numbers that each number is as often the answer."""
    found = [{"answer_type": c.kind, "question": c.text, "answer": c.options[c.answer],
              "row": (part, c)} for part, c in rows]  # fmt: skip
    return [each["row"] for each in even(found, rng, "DC")]
