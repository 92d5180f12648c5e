# SPDX-License-Identifier: Apache-2.0
"""Short clips of the sample world's videos: of single events, and of two events in a row.

They are smaller and have fewer frames per second than the videos; every clip has 20 frames or more.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from facts import Event, Facts

from engine.errors import DataError

SIZE = (96, 72)  # width, height
SINGLE, DOUBLE = 3, 6  # every how many-th frame of the video is taken


class Clip(NamedTuple):
    """A part of a video."""

    name: str
    facts: Facts  # of the video
    events: list[Event]  # in the clip
    step: int

    @property
    def frames(self) -> range:
        """Its frames' numbers in the video, from 0."""
        return range(self.events[0]["start"] - 1, self.events[-1]["end"] - 1, self.step)


def singles(scenes: Iterable[dict[str, Any]]) -> list[Clip]:
    """A clip of every event, called after its video and its first and last second."""
    return [
        Clip(_name(facts, [event]), facts, [event], SINGLE)
        for facts in map(Facts, scenes)
        for event in facts.events
    ]


def doubles(scenes: Iterable[dict[str, Any]]) -> list[Clip]:
    """A clip of every two events in a row."""
    return [
        Clip(_name(facts, pair), facts, pair, DOUBLE)
        for facts in map(Facts, scenes)
        for pair in zip(facts.events, facts.events[1:], strict=False)
    ]


def _name(facts: Facts, events: Iterable[Event]) -> str:
    """As MSVD's clips are called: <video>_<first second>_<last second>."""
    first, *_, last = [second for event in events for second in event["seconds"]]
    return f"{facts.name}_{int(first)}_{int(last) + 1}"


def make(scenes: list[dict[str, Any]], out: Path) -> dict[str, Path]:
    """Write what is missing in `out`/clips; name -> path of every clip.

    A clip that is older than its video or than this script is made again.
    """
    folder = out / "clips"
    folder.mkdir(exist_ok=True)
    by_video: dict[str, list[Clip]] = {}
    for clip in [*singles(scenes), *doubles(scenes)]:
        by_video.setdefault(clip.facts.name, []).append(clip)
    paths = {c.name: folder / f"{c.name}.mp4" for clips in by_video.values() for c in clips}
    for path in set(folder.glob("*.mp4")) - set(paths.values()):
        path.unlink()  # of an earlier world
    for clips in by_video.values():
        video = out / "videos" / clips[0].facts.scene["file"]
        changed = max(video.stat().st_mtime, Path(__file__).stat().st_mtime)
        stale = [c for c in clips if not _is_newer(paths[c.name], changed)]
        if stale:
            cut(video, {paths[clip.name]: clip.frames for clip in stale})
    return paths


def _is_newer(path: Path, time: float) -> bool:
    return path.exists() and path.stat().st_mtime >= time


def cut(video: Path, parts: dict[Path, range]) -> None:
    """Write parts of a video, each from a range of its frames, in one pass over it."""
    import cv2
    import numpy as np

    from reader.common.video import Video

    source = Video(video)
    wanted = np.zeros(source.num_frames, bool)
    for frames in parts.values():
        wanted[frames] = True
    found = {
        k: cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA)
        for k, frame in source.stream(wanted)
    }
    for path, frames in parts.items():
        part = path.with_name(f".part-{os.getpid()}-{path.name}")
        rate = source.fps / frames.step
        writer = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*"mp4v"), rate, SIZE)
        if not writer.isOpened():
            raise DataError(f"{part}: cannot be written, or OpenCV has no MPEG-4 encoder")
        for k in frames:
            writer.write(found[k])
        writer.release()
        os.replace(part, path)


def link(pairs: Iterable[tuple[Path, Path]]) -> None:
    """Give (file, other name) files other names: by links, or copies where there are no links."""
    for file, name in pairs:
        if name.exists() and name.samefile(file):
            continue
        name.unlink(missing_ok=True)
        name.parent.mkdir(parents=True, exist_ok=True)
        try:
            name.symlink_to(os.path.relpath(file, name.parent))
        except OSError:
            shutil.copy2(file, name)
