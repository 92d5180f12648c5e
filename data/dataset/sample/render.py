# SPDX-License-Identifier: Apache-2.0
"""Draws a scene description into an .mp4 file, and contact sheets of finished videos."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from motion import Pose, outline, place, static_box, tracks
from scene import FPS, HEIGHT, RADIUS, WIDTH

SCALE = 2  # drawn twice as large, then averaged down: smooth edges
SHIFT = 4  # fractional bits of OpenCV's drawing coordinates

Colour = tuple[int, int, int]
PAINT: dict[str, Colour] = {  # RGB
    "red": (235, 25, 25), "green": (0, 165, 50), "blue": (25, 75, 235), "yellow": (255, 205, 0),
    "purple": (180, 20, 205), "black": (25, 25, 28),
}  # fmt: skip
GROUND: Colour = (238, 238, 234)  # the stage is the same everywhere, its sides tell the place
STRIP: dict[str, Colour] = {
    "meadow": (190, 220, 172), "beach": (236, 218, 168), "town": (196, 198, 210),
    "desert": (240, 198, 160), "snow": (206, 226, 242),
}  # fmt: skip
GLOW = 2.2  # size of the limelight, in sizes of the one who stands in it
WHITE, INK, PINK = (255, 255, 255), (70, 70, 78), (240, 110, 150)


class Canvas:
    """A large picture to draw on in frame coordinates (pixels, RGB colours)."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image  # (H * SCALE, W * SCALE, 3) uint8 BGR

    def polygon(self, points: list[tuple[float, float]], colour: Colour, edge: float = 0.0) -> None:
        """Filled when `edge` is 0, otherwise only its outline, `edge` pixels wide."""
        unit = SCALE * (1 << SHIFT)
        array = np.round(np.array(points) * unit).astype(np.int32)
        if edge:
            width = max(1, round(edge * SCALE))
            cv2.polylines(self.image, [array], True, colour[::-1], width, cv2.LINE_AA, SHIFT)
        else:
            cv2.fillPoly(self.image, [array], colour[::-1], cv2.LINE_AA, SHIFT)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Filled ellipse with half axes rx and ry."""
        unit = SCALE * (1 << SHIFT)
        centre, axes = (round(x * unit), round(y * unit)), (round(rx * unit), round(ry * unit))
        cv2.ellipse(self.image, centre, axes, 0, 0, 360, colour[::-1], -1, cv2.LINE_AA, SHIFT)

    def box(self, x1: float, y1: float, x2: float, y2: float, colour: Colour) -> None:
        """Filled rectangle."""
        self.polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], colour)

    def line(self, points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        """Open line through the points."""
        array = np.round(np.array(points) * SCALE * (1 << SHIFT)).astype(np.int32)
        thick = max(1, round(width * SCALE))
        cv2.polylines(self.image, [array], False, colour[::-1], thick, cv2.LINE_AA, SHIFT)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of a and the rest of b."""
    red, green, blue = (round(x * share + y * (1 - share)) for x, y in zip(a, b, strict=True))
    return red, green, blue


def draw_background(scene: dict[str, Any]) -> np.ndarray:
    """Ground and scenery, which do not change: (H * SCALE, W * SCALE, 3) BGR."""
    image = np.full((HEIGHT * SCALE, WIDTH * SCALE, 3), GROUND[::-1], np.uint8)
    canvas = Canvas(image)
    canvas.box(0, 0, 31, HEIGHT, STRIP[scene["place"]])
    canvas.box(WIDTH - 31, 0, WIDTH, HEIGHT, STRIP[scene["place"]])
    for entity in scene["entities"]:
        if entity["kind"] == "scenery":
            _draw_scenery(canvas, entity)
    return image


def _draw_scenery(canvas: Canvas, entity: dict[str, Any]) -> None:
    x1, y1, x2, y2 = static_box(entity)
    x, noun = (x1 + x2) / 2, entity["noun"]
    trunk, leaf = (140, 110, 84), (120, 158, 118)
    if noun == "tree":
        canvas.box(x - 2.5, y1 + 18, x + 2.5, y2, trunk)
        canvas.disc(x, y1 + 12, 13, 12, leaf)
    elif noun == "fir":
        canvas.box(x - 2, y2 - 7, x + 2, y2, trunk)
        for top, wide in ((0, 8), (8, 11), (16, 13)):
            tip = [(x, y1 + top), (x + wide, y1 + top + 14), (x - wide, y1 + top + 14)]
            canvas.polygon(tip, (104, 140, 128))
    elif noun == "palm":
        canvas.polygon([(x - 2, y2), (x + 2, y2), (x + 3, y1 + 8), (x, y1 + 8)], trunk)
        for angle in (-2.8, -2.1, -1.0, -0.3, 0.35, 2.8):
            tip = (x + 1 + 12 * math.cos(angle), y1 + 9 + 8 * math.sin(angle))
            canvas.line([(x + 1, y1 + 8), tip], leaf, 3)
    elif noun == "house":
        canvas.box(x1 + 2, y1 + 14, x2 - 2, y2, (206, 192, 178))
        canvas.polygon([(x1, y1 + 15), (x, y1), (x2, y1 + 15)], (164, 120, 108))
        canvas.box(x - 3, y2 - 10, x + 3, y2, (120, 100, 92))
    else:
        canvas.box(x - 3, y1, x + 3, y2, leaf)
        for side, top in ((-1, 10), (1, 6)):
            arm = [(x, y1 + top + 10), (x + 9 * side, y1 + top + 10), (x + 9 * side, y1 + top)]
            canvas.line(arm, leaf, 4)


def _draw_prop(canvas: Canvas, entity: dict[str, Any], light: float = 1.0) -> None:
    x1, y1, x2, y2 = static_box(entity)
    noun = entity["noun"]
    body, dark = {
        "crate": ((196, 156, 108), (142, 108, 70)), "wall": ((190, 168, 160), (146, 124, 118)),
        "barrel": ((172, 132, 92), (116, 86, 60)), "stone": ((166, 168, 172), (124, 126, 132)),
    }[noun]  # fmt: skip
    body, dark = mix(body, GROUND, light), mix(dark, GROUND, light)
    cut = {"barrel": 5, "stone": 7}.get(noun, 0)
    points = [(x1 + cut, y1), (x2 - cut, y1), (x2, y1 + cut), (x2, y2 - cut),
              (x2 - cut, y2), (x1 + cut, y2), (x1, y2 - cut), (x1, y1 + cut)]  # fmt: skip
    canvas.polygon(points, body)
    if noun == "crate":
        canvas.line([(x1 + 2, y1 + 2), (x2 - 2, y2 - 2)], dark, 2.5)
        canvas.line([(x1 + 2, y2 - 2), (x2 - 2, y1 + 2)], dark, 2.5)
    elif noun == "wall":
        for row in range(1, 4):
            y = y1 + 10 * row
            canvas.line([(x1, y), (x2, y)], dark, 1)
        for row in range(4):
            for x in (x1 + 10, x1 + 30) if row % 2 else (x1 + 20,):
                canvas.line([(x, y1 + 10 * row), (x, y1 + 10 * row + 10)], dark, 1)
    elif noun == "barrel":
        for y in (y1 + 9, y2 - 9):
            canvas.line([(x1 + 1, y), (x2 - 1, y)], dark, 2.5)
    else:
        canvas.line([(x1 + 10, y1 + 14), (x1 + 18, y1 + 9), (x1 + 27, y1 + 12)], dark, 1.5)
        canvas.line([(x1 + 22, y2 - 12), (x1 + 31, y2 - 16)], dark, 1.5)
    canvas.polygon(points, dark, 1.5)


def _draw_limelight(canvas: Canvas, shape: str, pose: Pose, colour: Colour, light: float) -> None:
    """The glow around the one who acts: its own form enlarged, with a tail when it moves.

    Large areas that move as the action does: even coarse features can tell who does what.
    """
    if not pose.lit:
        return

    def glow(scale: float, share: float, back: float = 0.0, up: float = 0.0) -> None:
        x, y = pose.x - back * pose.heading[0], pose.y - back * pose.heading[1] - up
        points = outline(shape, pose._replace(x=x, y=y, scale=pose.scale * scale, stretch=1.0))
        canvas.polygon(points, mix(colour, GROUND, share * light))

    if pose.effect in ("streak", "swap"):
        glow(1.2, 0.2, back=38)
        glow(1.6, 0.32, back=20)
    if pose.effect == "spin":  # a propeller
        for end in (3.3, -3.3):
            blade = [place(pose, u, v) for u, v in ((0, 0.4), (end, 0.75), (end, -0.75), (0, -0.4))]
            canvas.polygon(blade, mix(colour, GROUND, 0.7 * light))
    elif pose.effect == "blink":  # a flash
        spikes = [((3.3, 1.8)[i % 2], math.pi * i / 12) for i in range(24)]
        burst = [place(pose, r * math.cos(a), r * math.sin(a)) for r, a in spikes]
        canvas.polygon(burst, mix(colour, GROUND, 0.7 * light))
    else:
        glow(GLOW, 0.7, up=-34 * pose.phase if pose.effect == "jump" else 0.0)
    glow(1.18, 0.0)


def _draw_character(
    canvas: Canvas, entity: dict[str, Any], pose: Pose, light: float, talking: bool
) -> None:
    colour = mix(PAINT[entity["colour"]], GROUND, light)
    points = outline(entity["shape"], pose)
    if not pose.lit:
        canvas.polygon(points, mix(colour, GROUND, 0.12))
        canvas.polygon(points, mix(colour, GROUND, 0.5), 1.0)
        return
    canvas.polygon(points, mix(colour, (0, 0, 0), 0.7))  # what remains of this is the edge
    canvas.polygon(outline(entity["shape"], pose._replace(scale=0.92 * pose.scale)), colour)
    _draw_face(canvas, entity["shape"], pose, talking)
    _draw_effect(canvas, pose)


def _draw_face(canvas: Canvas, shape: str, pose: Pose, open_mouth: bool) -> None:
    size = RADIUS * pose.scale
    low = 0.22 if shape == "triangle" else 0.0
    for side in (-0.32, 0.32):
        eye = place(pose, side, low - 0.12)
        canvas.disc(*eye, 0.25 * size, 0.25 * size, WHITE)
        pupil = (eye[0] + 0.1 * size * pose.gaze[0], eye[1] + 0.1 * size * pose.gaze[1])
        canvas.disc(*pupil, 0.13 * size, 0.13 * size, (20, 20, 24))
    if open_mouth:
        canvas.disc(*place(pose, 0, low + 0.4), 0.2 * size, 0.17 * size, WHITE)
    else:
        smile = [place(pose, u, low + 0.46 - 1.2 * u * u) for u in (-0.26, 0, 0.26)]
        canvas.line(smile, WHITE, 1.0)


def _draw_effect(canvas: Canvas, pose: Pose) -> None:
    size = RADIUS * pose.scale
    around = [(math.cos(a), math.sin(a)) for a in (math.pi * i / 4 + 0.39 for i in range(8))]
    if pose.effect == "grow":
        a, b = size * 1.4 + 4 * pose.phase, size * 1.4 + 4 * pose.phase + 6
        for u, v in around:
            ray = [(pose.x + r * u, pose.y + r * v) for r in (a, b)]
            canvas.line(ray, INK, 1.5)
    elif pose.effect == "shrink":
        far = size + 15 - 6 * pose.phase
        for u, v in around[::2]:
            tip = (pose.x + (far - 6) * u, pose.y + (far - 6) * v)
            wings = [(pose.x + far * u - 4 * s * v, pose.y + far * v + 4 * s * u) for s in (-1, 1)]
            canvas.polygon([tip, *wings], INK)
    elif pose.effect == "heart":
        x, y = pose.x + 19 * pose.heading[0], pose.y - 22 - 5 * math.sin(6.3 * 2 * pose.phase)
        for side in (-1, 1):
            canvas.disc(x + 6 * side, y, 7.2, 7.2, PINK)
        canvas.polygon([(x - 12.4, y + 3.2), (x + 12.4, y + 3.2), (x, y + 18)], PINK)


def frames(scene: dict[str, Any]) -> Iterator[np.ndarray]:
    """The frames one by one, (H, W, 3) uint8 BGR each."""
    bare = draw_background(scene)
    cast = {e["id"]: e for e in scene["entities"] if e["kind"] == "character"}
    prop = next(e for e in scene["entities"] if e["kind"] == "prop")
    furnished = bare.copy()
    _draw_prop(Canvas(furnished), prop, 0.45)
    canvas, poses, active = Canvas(bare.copy()), tracks(scene), _active(scene)
    for index in range(scene["num_frames"]):
        hiding = any(track[index].behind for track in poses.values())
        np.copyto(canvas.image, bare if hiding else furnished)
        now = index / FPS
        voices = {s["speaker"] for s in scene["subtitles"] if s["start"] <= now < s["end"]}
        strength, actors = active[index]
        if strength:
            star, ends = cast[actors[0]], [poses[a][index] for a in actors if a in cast]
            if all(pose.effect == "swap" for pose in ends):
                band = mix(INK, GROUND, 0.45 * strength)
                canvas.line([(pose.x, pose.y) for pose in ends], band, 9)
            _draw_limelight(canvas, star["shape"], poses[actors[0]][index],
                            PAINT[star["colour"]], strength)  # fmt: skip
        for behind in (True, False):
            for entity in (c for c in sorted(cast, key=lambda c: c in actors)
                           if poses[c][index].behind == behind):  # fmt: skip
                shade = 0.0 if entity in actors[:1] else 0.4 if entity in actors else 0.85
                light = 1.0 - shade * strength
                talking = entity in voices and index % 8 < 5
                _draw_character(canvas, cast[entity], poses[entity][index], light, talking)
            if behind and hiding:
                _draw_prop(canvas, prop)
        small = cv2.resize(canvas.image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        yield cv2.GaussianBlur(small, (3, 3), 0.6)  # as soft as a lens: a third smaller files


def _active(scene: dict[str, Any]) -> list[tuple[float, tuple[str, ...]]]:
    """Per frame: strength of the limelight (0..1) and who stands in it, the subject first."""
    active: list[tuple[float, tuple[str, ...]]] = [(0.0, ())] * scene["num_frames"]
    for event in scene["events"]:
        for frame in range(event["start"] - 1, event["end"] - 1):
            fade = min(frame - event["start"] + 2, event["end"] - 1 - frame)
            active[frame] = (min(1.0, fade / 5), (event["subject"], event["object"]))
    return active


def render_video(scene: dict[str, Any], path: Path) -> None:
    """Write the video; `path` appears only when it is complete (written aside, then renamed).

    Raises OSError when the file cannot be written or does not hold all frames.
    """
    cv2.setNumThreads(1)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    writer = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise OSError(f"cannot write {path}: expected a writable folder and OpenCV with its mp4v "
                      "encoder; check the folder or reinstall opencv-python-headless")  # fmt: skip
    for frame in frames(scene):
        writer.write(frame)
    writer.release()
    capture = cv2.VideoCapture(str(part))
    found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    if found != scene["num_frames"]:
        raise OSError(f"{path}: expected {scene['num_frames']} frames, wrote {found}; "
                      "is the disk full?")  # fmt: skip
    os.replace(part, path)
