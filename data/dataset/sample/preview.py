# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: a picture of one finished video with its events, boxes and subtitles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scene import WIDTH

PER_EVENT = 7  # frames shown of every event
GAP = 4  # between the frames, pixels
LINE = 16  # height of a line of text
INK, PALE, PAPER = (40, 36, 36), (130, 110, 100), 252  # BGR, BGR, grey


def contact_sheet(scene: dict[str, Any], video: Path, picture: Path) -> None:
    """Write `picture` (.png): per event its frames with boxes, its sentences and what is said.

    Raises OSError when the video cannot be read or the picture cannot be written.
    """
    wanted = [_spread(event["start"], event["end"]) for event in scene["events"]]
    frames = _read(video, {frame for row in wanted for frame in row})
    cast = [e for e in scene["entities"] if e["kind"] == "character"]
    names = ", ".join(f"{e['name']} = {e['colour']} {e['shape']}" for e in cast)
    facts = [scene["id"], scene["split"], scene["place"], f"{scene['num_frames']} frames", names]
    rows = [_text(["   ".join(facts)], INK)]
    for event, row in zip(scene["events"], wanted, strict=True):
        strip = [_framed(cast, frames[frame], frame) for frame in row]
        rows += [_text([_title(event)], INK), _text(_spoken(scene, event), PALE), np.hstack(strip)]
    if not cv2.imwrite(str(picture), np.vstack(rows)):
        raise OSError(f"cannot write the picture {picture}: check that the folder is writable")


def _spread(start: int, end: int) -> list[int]:
    return [start + (end - 1 - start) * i // (PER_EVENT - 1) for i in range(PER_EVENT)]


def _read(video: Path, wanted: set[int]) -> dict[int, np.ndarray]:
    capture, frames = cv2.VideoCapture(str(video)), {}
    for number in range(1, max(wanted) + 1):
        if not capture.grab():
            raise OSError(f"{video}: expected frame {number}, the video ends before it; "
                          "run prepare.py again")  # fmt: skip
        if number in wanted:
            frames[number] = capture.retrieve()[1]
    capture.release()
    return frames


def _framed(cast: list[dict[str, Any]], frame: np.ndarray, number: int) -> np.ndarray:
    """The frame with thin boxes and its number, on a margin."""
    for entity in cast:
        box = entity["boxes"][number - 1]
        if box:
            cv2.rectangle(frame, box[:2], box[2:], (150, 150, 150), 1)
    cv2.putText(frame, str(number), (3, 10), cv2.FONT_HERSHEY_PLAIN, 0.7, INK, 1, cv2.LINE_AA)
    return cv2.copyMakeBorder(frame, GAP, GAP, GAP, GAP, cv2.BORDER_CONSTANT, value=[PAPER] * 3)


def _text(lines: list[str], colour: tuple[int, int, int]) -> np.ndarray:
    image = np.full((LINE * len(lines) + 2, PER_EVENT * (WIDTH + 2 * GAP), 3), PAPER, np.uint8)
    for i, line in enumerate(lines):
        at = (GAP, LINE * (i + 1) - 3)
        cv2.putText(image, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return image


def _title(event: dict[str, Any]) -> str:
    count = f" x{event['count']}" if event["count"] else ""
    head = f"[{event['start']}-{event['end']}] {event['verb']}{count}: "
    return head + " ".join(event["sentences"])


def _spoken(scene: dict[str, Any], event: dict[str, Any]) -> list[str]:
    """The subtitles that begin between the previous event's middle and this event's middle."""
    until = [sum(e["seconds"]) / 2 for e in scene["events"]]
    first = until[event["index"] - 1] if event["index"] else 0.0
    last = until[event["index"]] if event["index"] + 1 < len(until) else float("inf")
    lines = [s for s in scene["subtitles"] if first <= s["start"] < last]
    return [f"    {s['start']:.1f}-{s['end']:.1f} s  {s['name']}: {s['text']}" for s in lines]
