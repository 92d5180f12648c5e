# SPDX-License-Identifier: Apache-2.0
"""What a video of the sample world shows, asked for by the layouts that tell of pictures.

Words are the plain ones (no synonyms). What is said here can be seen in single pictures or in a few
of them; positions count when they hold most of the time.
"""

from __future__ import annotations

from collections import Counter
from functools import cache, cached_property
from typing import Any, NamedTuple

from scene import COLUMNS, PLACES, ROWS, VERBS

Entity = dict[str, Any]
Event = dict[str, Any]
MOSTLY, APART = 0.7, 18  # share of the frames, pixels: when somebody stands left of another one

SCENERY = tuple(PLACES.values())
WHERE = {p: f"{'at' if p == 'beach' else 'in'} the {p}" for p in PLACES}


class Words(NamedTuple):
    """An action without the one who is acted on."""

    plain: str  # "does the red one ..."
    third: str  # "the one that ..."
    going_on: str  # "is ..."


ACTIONS = {
    "move_left": Words("move left", "moves left", "moving left"),
    "move_right": Words("move right", "moves right", "moving right"),
    "move_up": Words("move up", "moves up", "moving up"),
    "move_down": Words("move down", "moves down", "moving down"),
    "grow": Words("grow", "grows", "growing"),
    "shrink": Words("shrink", "shrinks", "shrinking"),
    "spin": Words("spin", "spins", "spinning"),
    "blink": Words("blink", "blinks", "blinking"),
    "jump": Words("jump", "jumps", "jumping"),
    "hide": Words("hide", "hides", "hiding"),
    "meet": Words("visit another one", "visits another one", "visiting another one"),
    "swap": Words("swap places", "swaps places", "swapping places"),
    "chase": Words("chase another one", "chases another one", "chasing another one"),
}
WITH = {  # actions with a partner
    "meet": Words("visit", "visits", "visiting"),
    "swap": Words("swap places with", "swaps places with", "swapping places with"),
    "chase": Words("chase", "chases", "chasing"),
}
assert tuple(ACTIONS) == VERBS


class Facts:
    """One video: who is there, what they do, where they stand."""

    def __init__(self, scene: dict[str, Any]) -> None:
        self.scene = scene
        self.name: str = scene["id"]
        self.split: str = scene["split"]
        self.place: str = scene["place"]
        self.scenery: str = PLACES[scene["place"]]
        self.entities: dict[str, Entity] = {e["id"]: e for e in scene["entities"]}
        self.cast = [e for e in scene["entities"] if e["kind"] == "character"]
        self.prop = next(e for e in scene["entities"] if e["kind"] == "prop")
        self.events: list[Event] = scene["events"]
        self.by_colour: dict[str, Entity] = {e["colour"]: e for e in self.cast}
        self.shapes = Counter(e["shape"] for e in self.cast)

    @cached_property
    def single(self) -> dict[str, Entity]:
        """The one of each form, for forms that only one has."""
        return {e["shape"]: e for e in self.cast if self.shapes[e["shape"]] == 1}

    @cached_property
    def doers(self) -> dict[str, list[Entity]]:
        """Who does it, by verb; both who swap their places."""
        found: dict[str, list[Entity]] = {verb: [] for verb in VERBS}
        for event in self.events:
            for one in (event["subject"], event["object"] if event["verb"] == "swap" else None):
                if one and self.entities[one] not in found[event["verb"]]:
                    found[event["verb"]].append(self.entities[one])
        return found

    def does(self, one: Entity, verb: str) -> bool:
        """Does this character do that in the video?"""
        return one in self.doers[verb]

    @cached_property
    def pairs(self) -> dict[tuple[str, str], list[Event]]:
        """Events with a partner, by the ids of subject and object; those of a swap both ways."""
        found: dict[tuple[str, str], list[Event]] = {}
        for event in (e for e in self.events if e["verb"] in WITH):
            ends = (event["subject"], event["object"])
            for pair in {ends, ends[::-1]} if event["verb"] == "swap" else (ends,):
                found.setdefault(pair, []).append(event)
        return found

    @cached_property
    def acting(self) -> dict[str, int]:
        """Frames that each character acts in, by id."""
        frames = dict.fromkeys((e["id"] for e in self.cast), 0)
        for event in self.events:
            frames[event["subject"]] += event["end"] - event["start"]
        return frames

    def with_whom(self, verb: str, one: str, end: int) -> list[str]:
        """Ids of those with whom this one does it, as the subject (end 0) or the object (1)."""
        return [
            pair[1 - end]
            for pair, events in self.pairs.items()
            if pair[end] == one and any(event["verb"] == verb for event in events)
        ]

    def before(self, a: Entity, b: Entity, axis: int) -> bool:
        """Does a stand left of b (axis 0) or above b (axis 1) most of the time?"""
        return self._before(a["id"], b["id"], axis) > MOSTLY

    def sometimes(self, a: Entity, b: Entity, axis: int) -> bool:
        """Does a stand left of b or above b more often than almost never?"""
        return self._before(a["id"], b["id"], axis) > 1 - MOSTLY

    @cache  # noqa: B019 - as long as the video is asked about
    def _before(self, a: str, b: str, axis: int) -> float:
        """Share of the frames."""
        ends = (self.entities[a], self.entities[b])
        spots = [[where(end, i) for end in ends] for i in range(0, self.scene["num_frames"], 5)]
        seen = [q[axis] - p[axis] > APART for p, q in spots if p and q]
        return sum(seen) / max(1, len(seen))

    @cached_property
    def stands(self) -> tuple[str, str]:
        """Where the prop is: left, middle or right, and top, middle or bottom."""
        x, y = self.prop["home"]
        across = ("on the left", "in the middle", "on the right")[COLUMNS.index(x)]
        return across, ("at the top", "in the middle", "at the bottom")[ROWS.index(y)]

    @cached_property
    def idle(self) -> list[tuple[int, int]]:
        """Stretches of frames [first, last] (from 0) in which nobody acts."""
        ends = [0, *(e["end"] - 1 for e in self.events)]
        starts = [*(e["start"] - 2 for e in self.events), self.scene["num_frames"] - 1]
        return list(zip(ends, starts, strict=True))


def where(entity: Entity, position: int) -> tuple[float, float] | None:
    """Centre of what can be seen of an entity in a frame (from 0), in pixels."""
    box = entity["boxes"][position] if "boxes" in entity else entity["box"]
    return ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) if box else None


def look(entity: Entity) -> str:
    """Colour and form: "red circle"."""
    return f"{entity['colour']} {entity['shape']}"


def listing(items: list[str]) -> str:
    """One text of several: "a, b and c"."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]

