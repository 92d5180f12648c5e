# SPDX-License-Identifier: Apache-2.0
"""Where every character is in every frame: the pose tracks and boxes of a planned scene.

Pure Python, no drawing. A track is a list with one `Pose` per frame (position 0 = frame 1).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from scene import CENTRE, HEIGHT, MOVES, RADIUS, WIDTH

Point = tuple[float, float]
PROP_SIZE = 40  # width and height of the thing to hide behind; covers a shape at HIDDEN_SCALE
HIDDEN_SCALE = 0.8
SCENERY_SIZE = (26, 36)
ORBIT = (38.0, 36.0)  # half axes of the round on which one shape chases another
RELAX = 7  # frames in which a grown or shrunken shape springs back after its event


class Pose(NamedTuple):
    """State of one character in one frame; lengths in pixels, angles in radians."""

    x: float
    y: float
    scale: float = 1.0
    angle: float = 0.0
    stretch: float = 1.0  # > 1: taller and narrower
    lit: bool = True  # False: the dark phase of blinking
    behind: bool = False  # drawn behind the prop
    gaze: Point = (0.0, 0.0)
    effect: str = ""  # which decoration is drawn around it
    heading: Point = (0.0, 0.0)  # unit vector of the movement, for the streak
    phase: float = 0.0  # progress of the effect, 0..1


def tracks(scene: dict[str, Any]) -> dict[str, list[Pose]]:
    """Poses of every character: {entity id: one per frame}."""
    cast = [e for e in scene["entities"] if e["kind"] == "character"]
    place = {e["id"]: (float(e["home"][0]), float(e["home"][1])) for e in cast}
    poses: dict[str, list[Pose]] = {e["id"]: [] for e in cast}
    frame = 1
    for event in [*scene["events"], None]:
        start = event["start"] if event else scene["num_frames"] + 1
        for entity, track in poses.items():
            track += [_idle(place[entity], f, entity) for f in range(frame, start)]
            if frame > 1:
                _spring_back(track, start - frame)
        if event is None:
            return poses
        length = event["end"] - start
        for k in range(length):
            acting = _act(event, place, k, length)
            for entity, track in poses.items():
                idle = _look(_idle(place[entity], start + k, entity), place[event["subject"]])
                track.append(acting.get(entity, idle))
        _settle(event, place)
        frame = event["end"]
    raise AssertionError("unreachable")


def _idle(at: Point, frame: int, entity: str) -> Pose:
    # Breathing in whole pixels: smaller steps would triple what the video codec has to store.
    return Pose(at[0], at[1] + round(0.8 * math.sin(frame / 9 + 2.1 * int(entity[1:]))))


def _look(pose: Pose, at: Point) -> Pose:
    dx, dy = at[0] - pose.x, at[1] - pose.y
    far = math.hypot(dx, dy)
    return pose._replace(gaze=(dx / far, dy / far)) if far > 5 else pose


def _spring_back(track: list[Pose], gap: int) -> None:
    """Let the size return to normal in the first frames of the last `gap` poses of a track."""
    before = track[-gap - 1].scale if gap and len(track) > gap else 1.0
    for k in range(min(RELAX, gap) if before != 1.0 else 0):
        pose = track[k - gap]
        track[k - gap] = pose._replace(scale=before + (1.0 - before) * (k + 1) / RELAX)


def _settle(event: dict[str, Any], place: dict[str, Point]) -> None:
    path = event["path"]
    place[event["subject"]] = (float(path[-1][0]), float(path[-1][1]))
    if event["verb"] == "swap":
        place[event["object"]] = (float(path[0][0]), float(path[0][1]))


def _act(event: dict[str, Any], place: dict[str, Point], k: int, length: int) -> dict[str, Pose]:
    """Poses of the characters that take part, in frame k of an event of `length` frames."""
    verb, subject, other = event["verb"], event["subject"], event["object"]
    t = k / (length - 1)
    here = place[subject]
    way = [(float(x), float(y)) for x, y in event["path"]]
    if verb in MOVES:
        return {subject: _travel(way[0], way[-1], t / 0.9)}
    if verb == "hide":
        return {subject: _hide(way, t)}
    if verb == "meet":
        return _meet(subject, other, way, place[other], t)
    if verb == "swap":
        ways = {subject: (here, place[other]), other: (place[other], here)}
        poses = {who: _travel(*ends, t / 0.9, bend=20) for who, ends in ways.items()}
        return {who: pose._replace(effect="swap") for who, pose in poses.items()}
    if verb == "chase":
        return _chase(subject, other, here, place[other], t, max(1, round(length / 80)))
    return {subject: _perform(verb, here, t, event["count"] or 1)}


def _ease(t: float) -> float:
    t = min(1.0, max(0.0, t))
    return 0.35 * t + 0.65 * t * t * (3 - 2 * t)


def _unit(dx: float, dy: float) -> Point:
    far = math.hypot(dx, dy)
    return (dx / far, dy / far) if far > 1e-6 else (0.0, 0.0)


def _travel(a: Point, b: Point, t: float, bend: float = 0.0) -> Pose:
    """On the way a -> b, `bend` px off the straight line to the left of the direction."""
    u = _ease(t)
    ahead = _unit(b[0] - a[0], b[1] - a[1])
    side = bend * math.sin(math.pi * u)
    x = a[0] + (b[0] - a[0]) * u + ahead[1] * side
    y = a[1] + (b[1] - a[1]) * u - ahead[0] * side
    moving = 0.0 < t < 1.0
    return Pose(x, y, gaze=ahead, effect="streak" if moving else "", heading=ahead)


def _hide(way: list[Point], t: float) -> Pose:
    """Slip behind the prop, stay out of sight, come back at the very end."""
    if t < 0.38:
        pose = _travel(way[0], way[1], t / 0.38)
    elif t < 0.84:
        pose = Pose(*way[1])
    else:
        pose = _travel(way[1], way[2], (t - 0.84) / 0.16)
    covered = min(1.0, max(0.0, (t - 0.1) / 0.2)) * min(1.0, max(0.0, (1 - t) / 0.12))
    return pose._replace(behind=True, scale=1 - (1 - HIDDEN_SCALE) * covered)


def _meet(subject: str, other: str, way: list[Point], there: Point, t: float) -> dict[str, Pose]:
    """Go to the other one, then both lean together under a heart."""
    first = _travel(way[0], way[-1], t / 0.4)
    second = _look(Pose(*there), (first.x, first.y))
    if t < 0.4:
        return {subject: first, other: second}
    toward = _unit(there[0] - first.x, there[1] - first.y)
    lean = 3 * math.sin((t - 0.4) * 4 * math.pi) ** 2
    return {
        subject: first._replace(x=first.x + toward[0] * lean, gaze=toward, effect="heart",
                         heading=toward, phase=(t - 0.4) / 0.6),
        other: second._replace(x=there[0] - toward[0] * lean, gaze=(-toward[0], -toward[1])),
    }  # fmt: skip


def _chase(
    subject: str, other: str, here: Point, there: Point, t: float, laps: int
) -> dict[str, Pose]:
    """The other one flees around the stage, the subject follows a sixth of a round behind."""
    begin = math.atan2(there[1] - CENTRE[1], there[0] - CENTRE[0])
    poses = {}
    for entity, home, lag in ((other, there, 0.0), (subject, here, math.radians(68))):
        angle = begin - lag + 2 * math.pi * laps * t
        x, y = CENTRE[0] + ORBIT[0] * math.cos(angle), CENTRE[1] + ORBIT[1] * math.sin(angle)
        away = max(0.0, 1 - t / 0.12, (t - 0.88) / 0.12)  # 1 = at home, 0 = on the round
        ahead = _unit(-math.sin(angle), math.cos(angle))
        poses[entity] = Pose(x + (home[0] - x) * away, y + (home[1] - y) * away, gaze=ahead,
                             effect="streak" if away < 1 else "", heading=ahead)  # fmt: skip
    return poses


def _perform(verb: str, here: Point, t: float, count: int) -> Pose:
    """What a character does on the spot, `count` times when the verb is counted."""
    still = Pose(*here)
    turn = (t * count) % 1.0 if t < 1 else 0.0
    if verb == "grow":
        return still._replace(scale=1 + 0.65 * _ease(t / 0.7), effect="grow", phase=(5 * t) % 1)
    if verb == "shrink":
        return still._replace(scale=1 - 0.58 * _ease(t / 0.7), effect="shrink", phase=(5 * t) % 1)
    if verb == "spin":
        return still._replace(angle=2 * math.pi * turn, effect="spin", phase=turn)
    if verb == "blink":
        return still._replace(lit=turn < 0.55, effect="blink")
    hop = math.sin(math.pi * min(1.0, turn / 0.85))
    squash = 0.78 if turn > 0.85 else 1 + 0.15 * hop
    return still._replace(y=here[1] - 34 * hop, stretch=squash, effect="jump", phase=hop,
                   gaze=(0.0, -1.0))  # fmt: skip


def _ring(radii: tuple[float, ...], corners: int, begin: float, drop: float = 0.0) -> list[Point]:
    turn = [begin + 2 * math.pi * i / corners for i in range(corners)]
    size = [radii[i % len(radii)] for i in range(corners)]
    return [(r * math.cos(a), r * math.sin(a) + drop) for r, a in zip(size, turn, strict=True)]


CORNERS = {  # in units of the radius; areas are alike
    "circle": _ring((1.0,), 32, 0.0),
    "square": _ring((1.28,), 4, math.pi / 4),
    "triangle": _ring((1.28,), 3, -math.pi / 2, drop=0.18),
    "star": _ring((1.3, 0.62), 10, -math.pi / 2),
}


def outline(shape: str, pose: Pose) -> list[Point]:
    """Corner points of a shape in the frame."""
    return [place(pose, u, v) for u, v in CORNERS[shape]]


def place(pose: Pose, u: float, v: float) -> Point:
    """Frame coordinates of a point given in units of the character's radius."""
    u, v = u * RADIUS * pose.scale / pose.stretch, v * RADIUS * pose.scale * pose.stretch
    if pose.angle:
        cos, sin = math.cos(pose.angle), math.sin(pose.angle)
        u, v = u * cos - v * sin, u * sin + v * cos
    return pose.x + u, pose.y + v


def static_box(entity: dict[str, Any]) -> list[int]:
    """[x1, y1, x2, y2] of a prop or a piece of scenery."""
    x, y = entity["home"]
    w, h = (PROP_SIZE, PROP_SIZE) if entity["kind"] == "prop" else SCENERY_SIZE
    return [x - w // 2, y - h // 2, x + w // 2, y + h // 2]


def boxes(scene: dict[str, Any]) -> dict[str, list[list[int] | None]]:
    """Per character one [x1, y1, x2, y2] per frame; None while nothing of it can be seen."""
    shapes = {e["id"]: e["shape"] for e in scene["entities"] if e["kind"] == "character"}
    cover = next(static_box(e) for e in scene["entities"] if e["kind"] == "prop")
    return {
        entity: [_box(outline(shapes[entity], pose), pose.behind, cover) for pose in track]
        for entity, track in tracks(scene).items()
    }


def _box(points: list[Point], behind: bool, cover: list[int]) -> list[int] | None:
    """Box of what can be seen: inside the frame and, when `behind`, not under the cover."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x1, y1 = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
    x2, y2 = min(WIDTH, math.ceil(max(xs))), min(HEIGHT, math.ceil(max(ys)))
    if behind and y1 >= cover[1] and y2 <= cover[3]:
        x1, x2 = _uncovered(x1, x2, cover[0], cover[2])
    elif behind and x1 >= cover[0] and x2 <= cover[2]:
        y1, y2 = _uncovered(y1, y2, cover[1], cover[3])
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else None


def _uncovered(a: int, b: int, low: int, high: int) -> tuple[int, int]:
    """The part of the interval a..b outside of low..high (empty when it is all inside)."""
    if a < low:
        return a, min(b, low)
    return max(a, high), b
