# SPDX-License-Identifier: Apache-2.0
"""Raw annotations of TACoS and Charades-STA as one kind of object, checked and counted."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from reader.common.errors import DataError
from reader.common.moments import read_video_info

TACOS_CUT = 16  # the annotations say `frames - 16` for every video
SPLITS = ("train", "val", "test")


class Sentence(NamedTuple):
    """A sentence and the moment that it describes."""

    video: str
    start: float  # frames from 1, or seconds
    end: float
    text: str


@dataclass
class Annotations:
    """All splits of a data set."""

    kind: str
    unit: str  # "frames" or "seconds"
    splits: dict[str, list[Sentence]] = field(default_factory=dict)
    num_frames: dict[str, int] = field(default_factory=dict)  # where the files tell
    fps: dict[str, float] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)  # seconds, where the files tell
    repairs: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> what -> how often

    def add(self, split: str, where: str, sentence: Sentence) -> None:
        """Add one sentence, its moment put into order and cut to the video."""
        video, start, end, text = sentence
        if not text.strip():
            raise DataError(f"{where}: expected a sentence, found an empty one")
        if not (math.isfinite(start) and math.isfinite(end)) or min(start, end) < 0:
            raise DataError(f"{where}: expected a start and an end from 0, found {start} and {end}")
        count = self.repairs.setdefault(split, {"reversed": 0, "clamped": 0, "empty": 0})
        count["reversed"] += end < start
        start, end = min(start, end), max(start, end)
        limit = self.durations.get(video, math.inf)
        count["clamped"] += end > limit
        start, end = min(start, limit), min(end, limit)
        count["empty"] += start == end
        self.splits.setdefault(split, []).append(Sentence(video, start, end, text.strip()))

    def videos(self, *splits: str) -> list[str]:
        """Videos in order of first appearance."""
        return list(dict.fromkeys(s.video for k in splits for s in self.splits.get(k, [])))

    def counts(self) -> list[str]:
        """Lines with the numbers of videos and sentences."""
        lines = [f"{self.kind}: split, videos, sentences (moments in {self.unit})"]
        for split, sentences in self.splits.items():
            what = "".join(f", {n} {name}" for name, n in self.repairs[split].items() if n)
            lines.append(f"  {split:<5} {len(self.videos(split)):6} {len(sentences):7}{what}")
        return lines


def read(folder: Path, kind: str | None = None) -> Annotations:
    """Annotations in a folder; ``kind`` "tacos" or "charades", found out when not given.

    Raises:
        DataError: no such files, or one that is empty, damaged or odd; names file and key.
    """
    if not folder.is_dir():
        raise DataError(f"--annotations: expected a folder, found none at {folder}")
    if kind is None:
        kind = "charades" if any(folder.glob("charades_sta_*.txt")) else "tacos"
    found = _read_charades(folder) if kind == "charades" else _read_tacos(folder)
    if not found.splits:
        names = "charades_sta_{train,test}.txt" if kind == "charades" else "{train,val,test}.json"
        raise DataError(f"{folder}: expected {names}, found none of them")
    return found


def _json(path: Path) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected JSON, found: {error}") from None
    if not isinstance(data, dict) or not data:
        raise DataError(f"{path}: expected an object by video name, found {str(data)[:40]!r}")
    return data


def _read_tacos(folder: Path) -> Annotations:
    """``{video: {timestamps, sentences, num_frames, fps}}`` by split."""
    found = Annotations("tacos", "frames")
    for split in SPLITS:
        path = folder / f"{split}.json"
        if path.exists():
            for video, entry in _json(path).items():
                _add_tacos(found, split, f"{path}: {video}", video, entry)
    exact = folder / "video_allframes_info.pkl"
    if exact.exists():
        by_stem = read_video_info(exact)
        for video in found.videos(*SPLITS):
            if Path(video).stem in by_stem:
                found.num_frames[video] = by_stem[Path(video).stem].num_frames
    return found


def _add_tacos(found: Annotations, split: str, where: str, video: str, entry: Any) -> None:
    try:
        moments, texts, frames = entry["timestamps"], entry["sentences"], entry["num_frames"]
    except (KeyError, TypeError) as error:
        key = error.args[0] if isinstance(error, KeyError) else "timestamps"
        raise DataError(f"{where}: expected the key {key}, found none") from None
    if not (isinstance(moments, list) and isinstance(texts, list) and len(moments) == len(texts)):
        raise DataError(f"{where}: expected as many sentences as timestamps, found another number")
    if not texts:
        raise DataError(f"{where}: sentences: expected at least one, found none")
    if not isinstance(frames, int) or frames < 1:
        raise DataError(f"{where}: num_frames: expected a number from 1, found {frames!r}")
    found.num_frames[video] = frames + TACOS_CUT
    if isinstance(entry.get("fps"), int | float) and entry["fps"] > 0:
        found.fps[video] = float(entry["fps"])
    for i, (moment, text) in enumerate(zip(moments, texts, strict=True)):
        numbers = isinstance(moment, list) and len(moment) == 2
        if not numbers or not all(isinstance(t, int | float) for t in moment):
            raise DataError(f"{where}: timestamps[{i}]: expected [start, end], found {moment!r}")
        if not isinstance(text, str):
            raise DataError(f"{where}: sentences[{i}]: expected text, found {text!r}")
        found.add(split, f"{where}: {i}", Sentence(video, moment[0], moment[1], text))


def _read_charades(folder: Path) -> Annotations:
    """Lines ``<video> <start> <end>##<sentence>`` in seconds, and ``durations.json``."""
    found = Annotations("charades", "seconds")
    durations = folder / "durations.json"
    if durations.exists():
        for video, value in _json(durations).items():
            if not isinstance(value, int | float) or not value > 0:
                raise DataError(f"{durations}: {video}: expected seconds, found {value!r}")
            found.durations[video] = float(value)
    for split in SPLITS:
        path = folder / f"charades_sta_{split}.txt"
        if not path.exists():
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if not any(line.strip() for line in lines):
            raise DataError(f"{path}: expected one query a line, found an empty file")
        for number, line in enumerate(lines, 1):
            if line.strip():
                found.add(split, f"{path}:{number}", _charades_line(f"{path}:{number}", line))
    return found


def _charades_line(where: str, line: str) -> Sentence:
    head, mark, text = line.partition("##")
    try:
        video, start, end = head.split()
        if not mark:
            raise ValueError
        return Sentence(video, float(start), float(end), text)
    except ValueError:
        raise DataError(
            f"{where}: expected '<video> <start> <end>##<sentence>', found {line[:60]!r}"
        ) from None
