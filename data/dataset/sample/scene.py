# SPDX-License-Identifier: Apache-2.0
"""The plan of the sample world: who is in which video and what happens there, when and where.

Everything is a pure function of (seed, number of videos); only `random.Random` is used, whose
sequences are the same on every Python version and machine. Positions are pixels, (x, y) from the
top left. Frames are numbered from 1; an event covers frames start .. end-1, which is the convention
of sliding windows (a window of length L from `start` ends at start + L).
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

FPS = 25
WIDTH, HEIGHT = 192, 144
RADIUS = 15  # a shape is about 30 px, a fifth of the frame height
# The stage is a 3 x 3 grid inside the part of the frame that C3D's centre crop keeps
# (columns 33..158, rows 9..135 of a 192 x 144 frame); scenery stands outside of it.
COLUMNS, ROWS = (58, 96, 134), (34, 72, 110)
CENTRE = (COLUMNS[1], ROWS[1])

COLOURS = ("red", "green", "blue", "yellow", "purple", "black")
SHAPES = ("circle", "square", "triangle", "star")
MOVES = {"move_left": (-1, 0), "move_right": (1, 0), "move_up": (0, -1), "move_down": (0, 1)}
SOLO_VERBS = (*MOVES, "grow", "shrink", "spin", "blink", "jump")
PAIR_VERBS = ("meet", "swap", "chase")
VERBS = (*SOLO_VERBS, "hide", *PAIR_VERBS)
COUNTED = {"jump": 27, "spin": 30, "blink": 21}  # frames per repetition, about
PLACES = {"meadow": "tree", "beach": "palm", "town": "house", "desert": "cactus", "snow": "fir"}
PROPS = ("crate", "wall", "barrel", "stone")
NAMES = ("Ada", "Ben", "Cleo", "Dino", "Ella", "Finn", "Gina", "Hugo", "Ida", "Jack", "Kira", "Leo")

LEAD_IN, LEAD_OUT = 42, 30  # frames before the first and after the last event
MIN_FRAMES, MAX_FRAMES = 500, 1000  # 20 .. 40 s
PLAN_TRIALS = 250

Cell = tuple[int, int]
Point = tuple[int, int]


class Deck:
    """Deals (colour, shape, verb) triples evenly, so that training sees every combination."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        kinds = itertools.product(COLOURS, SHAPES)
        self.counts = {(*kind, verb): 0 for kind in kinds for verb in VERBS}
        self.verbs = dict.fromkeys(VERBS, 0)

    def need(self, kind: tuple[str, str]) -> tuple[int, int]:
        """Sort key: first the colour and form that miss most verbs, then those used least."""
        counts = [self.counts[(*kind, verb)] for verb in VERBS]
        return -counts.count(0), sum(counts)

    def cast(self, size: int) -> list[tuple[str, str]]:
        """`size` (colour, shape) pairs of pairwise different colours, neediest first."""
        kinds = list(itertools.product(COLOURS, SHAPES))
        kinds.sort(key=lambda kind: (*self.need(kind), self.rng.random()))
        chosen: list[tuple[str, str]] = []
        for kind in kinds:
            if len(chosen) < size and all(kind[0] != other[0] for other in chosen):
                chosen.append(kind)
        return chosen

    def deal(self, cast: list[tuple[str, str]], actors: int, events: int) -> list[dict[str, Any]]:
        """`events` events of the first `actors` members; nothing happens twice in one video.

        Prefers rare triples, then verbs that exactly one other actor has: what a query asks for is
        then decided by subject and verb together, by neither of them alone.
        """
        dealt: list[dict[str, Any]] = []
        for _ in range(events):
            load = [sum(e["subject"] == a for e in dealt) for a in range(actors)]
            rank = [(load[a], self.need(cast[a]), self.rng.random()) for a in range(actors)]
            subject = rank.index(min(rank))
            other = self.rng.choice([i for i in range(len(cast)) if i != subject])
            choices = [
                (verb, other if verb in PAIR_VERBS else None)
                for verb in VERBS
                if _is_new(dealt, subject, verb, other if verb in PAIR_VERBS else None)
            ]
            verb, other = min(choices, key=lambda c: self._cost(cast[subject], c[0], dealt))
            self.counts[(*cast[subject], verb)] += 1
            self.verbs[verb] += 1
            dealt.append({"subject": subject, "verb": verb, "object": other})
        return dealt

    def _cost(self, kind: tuple[str, str], verb: str, dealt: list[dict[str, Any]]) -> float:
        shared = sum(e["verb"] == verb for e in dealt) == 1
        common = min(4, self.verbs[verb] - min(self.verbs.values()))
        noise = 0.1 * self.rng.random()
        return self.counts[(*kind, verb)] - 0.45 * shared + 0.1 * common + noise


def _is_new(dealt: list[dict[str, Any]], subject: int, verb: str, other: int | None) -> bool:
    pair = {subject, other}
    return not any(
        e["verb"] == verb and (e["subject"] == subject or {e["subject"], e["object"]} == pair)
        for e in dealt
    )


def plan_world(seed: int, videos: int) -> list[dict[str, Any]]:
    """Scene descriptions (README.md, "scenes.json") without words and boxes, in name order.

    `videos` >= 3; about a sixth of them is for testing and a ninth for validation.
    """
    rng = random.Random(f"{seed}/world")
    tests, valids = max(1, round(videos / 6)), max(1, round(videos / 9))
    splits = ["test"] * tests + ["val"] * valids + ["train"] * (videos - tests - valids)
    rng.shuffle(splits)
    scenes: list[dict[str, Any]] = [{}] * videos
    for split in ("train", "val", "test"):
        deck = Deck(rng)
        for index in (i for i in range(videos) if splits[i] == split):
            name = f"s{index // 10 + 1:02d}-d{index % 10 + 1:02d}"
            scenes[index] = _plan_video(name, split, deck)
    return scenes


def _plan_video(name: str, split: str, deck: Deck) -> dict[str, Any]:
    rng = deck.rng
    cast = deck.cast(rng.choice((2, 3, 3, 3)))
    bystander = len(cast) == 3 and rng.random() < 0.4
    lengths = _event_lengths(rng)
    dealt = deck.deal(cast, len(cast) - bystander, len(lengths))
    cells, order = _stage(rng, len(cast), dealt)
    place = rng.choice(sorted(PLACES))
    names = rng.sample(NAMES, len(cast))
    entities = [
        {"id": f"c{i}", "kind": "character", "name": called, "colour": colour, "shape": shape,
         "noun": shape, "home": _point(cells[i])}
        for i, ((colour, shape), called) in enumerate(zip(cast, names, strict=True))
    ]  # fmt: skip
    prop = {"id": "p0", "kind": "prop", "noun": rng.choice(PROPS), "home": _point(cells[-1])}
    entities += [prop, *_scenery(rng, place)]
    events, frames = _timeline(rng, order, lengths)
    return {
        "id": name, "file": f"{name}.mp4", "split": split, "place": place, "fps": FPS,
        "num_frames": frames, "width": WIDTH, "height": HEIGHT,
        "entities": entities, "events": events,
    }  # fmt: skip


def _event_lengths(rng: random.Random) -> list[int]:
    """Frames per event: short ones fit windows of 64 frames, the long ones windows of 128."""
    while True:
        events = rng.choice((5, 6, 7, 7, 8, 8, 9, 9))
        lengths = [
            rng.randint(62, 118) if rng.random() < 0.65 else rng.randint(119, 190)
            for _ in range(events)
        ]
        total = LEAD_IN + sum(lengths) + 17 * events + LEAD_OUT
        if MIN_FRAMES <= total <= MAX_FRAMES:
            return lengths


def _scenery(rng: random.Random, place: str) -> list[dict[str, Any]]:
    """One or two things that belong to the place, in each border strip."""
    things = []
    for x in (15, WIDTH - 15):
        for y in rng.choice(((28, 80), (40, 108), (64, 116), (40,), (72,), (104,))):
            home = [x + rng.randint(-2, 2), y + rng.randint(-6, 6)]
            things.append({"id": f"s{len(things)}", "kind": "scenery", "noun": PLACES[place],
                           "home": home})  # fmt: skip
    return things


def _timeline(
    rng: random.Random, order: list[dict[str, Any]], lengths: list[int]
) -> tuple[list[dict[str, Any]], int]:
    """Give the events their frames; the last element is the number of frames of the video."""
    frame, events = LEAD_IN + 1, []
    for index, (event, length) in enumerate(zip(order, lengths, strict=True)):
        events.append(_event(index, event, frame, frame + length))
        frame += length + rng.randint(12, 22)
    return events, events[-1]["end"] + LEAD_OUT


def _event(index: int, event: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    verb, other = event["verb"], event["object"]
    count = max(2, round((end - start) / COUNTED[verb])) if verb in COUNTED else None
    target = "p0" if verb == "hide" else None if other is None else f"c{other}"
    return {
        "index": index, "start": start, "end": end,
        "seconds": [round((start - 1) / FPS, 2), round((end - 1) / FPS, 2)],
        "subject": f"c{event['subject']}", "verb": verb, "object": target, "count": count,
        "path": [_point(cell) for cell in event["path"]],
    }  # fmt: skip


def _point(cell: Cell) -> list[int]:
    return [COLUMNS[cell[0]], ROWS[cell[1]]]


def _stage(
    rng: random.Random, size: int, dealt: list[dict[str, Any]]
) -> tuple[list[Cell], list[dict[str, Any]]]:
    """Starting cells (characters, then the prop) and an order in which all events can take place.

    Draws random orders and cells and keeps the one with the fewest shapes in each other's way.
    """
    grid = list(itertools.product(range(3), range(3)))
    best: tuple[float, list[Cell], list[dict[str, Any]]] | None = None
    for trial in itertools.count():
        if best is not None and (trial >= PLAN_TRIALS or best[0] == 0):
            return best[1], best[2]
        cells = rng.sample(grid, size + 1)
        order = rng.sample(dealt, len(dealt))
        limit = best[0] if best else math.inf
        staged = _act_out(rng, list(cells), order, limit)
        if staged is not None:
            best = (staged[0], cells, staged[1])
    raise AssertionError("unreachable")


def _act_out(
    rng: random.Random, cells: list[Cell], order: list[dict[str, Any]], limit: float
) -> tuple[float, list[dict[str, Any]]] | None:
    """Play the events from these cells; None when one is impossible or the cost reaches `limit`."""
    cost, staged = 0.0, []
    for event in order:
        path = _path(rng, cells, event)
        if path is None:
            return None
        cost += _cost(cells, event, path)
        if cost >= limit:
            return None
        cells[event["subject"]] = path[-1]
        if event["verb"] == "swap":
            cells[event["object"]] = path[0]
        staged.append({**event, "path": path})
    return cost, staged


def _path(rng: random.Random, cells: list[Cell], event: dict[str, Any]) -> list[Cell] | None:
    """Cells that the subject starts from, passes and ends at; None when there is no room."""
    here, verb = cells[event["subject"]], event["verb"]
    if verb in MOVES:
        dx, dy = MOVES[verb]
        ahead = [(here[0] + k * dx, here[1] + k * dy) for k in (2, 1)]
        free = [c for c in ahead if c not in cells and min(c) >= 0 and max(c) <= 2]
        return [here, free[0]] if free else None
    if verb == "jump":
        return [here, here] if here[1] > 0 else None  # needs room above
    if verb == "hide":
        return [here, cells[-1], here]
    if verb == "swap":
        there = cells[event["object"]]
        return [here, there] if _steps(here, there) > 1 else None
    if verb == "meet":
        there = cells[event["object"]]
        beside = [(there[0] + d, there[1]) for d in (-1, 1) if 0 <= there[0] + d <= 2]
        beside = [c for c in beside if c not in cells]
        if _steps(here, there) < 2 or not beside:
            return None
        return [here, min(beside, key=lambda c: (_steps(here, c), rng.random()))]
    return [here, here]


def _steps(a: Cell, b: Cell) -> int:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _cost(cells: list[Cell], event: dict[str, Any], path: list[Cell]) -> float:
    """How much other shapes are in the way (0 = clear view), and a little for short ways."""
    verb = event["verb"]
    away = [cell for i, cell in enumerate(cells) if i not in (event["subject"], event["object"])]
    if verb == "hide":
        away = away[:-1]
    if verb == "chase":  # around the centre
        return 0.5 * sum(cell != (1, 1) for cell in away)
    if verb == "grow":
        return 0.7 * sum(_steps(path[0], cell) == 1 for cell in away)
    if verb == "jump":
        return float((path[0][0], path[0][1] - 1) in away)
    blocked = sum(_distance(cell, path[0], path[1]) < 0.8 for cell in away if cell != path[0])
    short = path[0] != path[1] and _steps(path[0], path[1]) < 2
    return blocked + 0.3 * short


def _distance(cell: Cell, a: Cell, b: Cell) -> float:
    """Distance of a cell from the straight way a -> b, in cells."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = (cell[0] - a[0]) * dx + (cell[1] - a[1]) * dy
    t = min(1.0, max(0.0, along / (dx * dx + dy * dy))) if dx or dy else 0.0
    return math.hypot(cell[0] - a[0] - t * dx, cell[1] - a[1] - t * dy)
