# SPDX-License-Identifier: Apache-2.0
"""Do ANetQA's prepared questions, video lists, answers and frames fit together?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from anetqa_questions import SPLITS, read_lines, read_videos

from reader.common.errors import DataError
from reader.common.frame_store import FrameStore


class Problems:
    """Kinds of problems: how often, the first example, and whether data cannot be used."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.unusable: set[str] = set()

    def add(self, kind: str, example: str, unusable: bool = False, count: int = 1) -> None:
        """Count one, or some."""
        self.counts[kind] += count
        self.first.setdefault(kind, example)
        if unusable:
            self.unusable.add(kind)

    def lines(self) -> Iterator[str]:
        """One line per kind, what cannot be used first."""
        for kind in sorted(self.counts, key=lambda kind: kind not in self.unusable):
            severity = "unusable" if kind in self.unusable else "warning "
            yield f"{severity}  {self.counts[kind]:>7}  {kind}; the first: {self.first[kind]}"


def check(folder: Path, answers: Path, store: Path) -> Iterator[str]:
    """Lines of the report.

    Args:
        answers: answer list; its absence is a warning.
        store: store of frames; likewise.

    Raises:
        DataError: at the end, when something cannot be used; at once, when nothing was prepared.
    """
    found = [split for split in SPLITS if (folder / f"data_{split}.jsonl").exists()]
    if not found:
        raise DataError(f"{folder}: expected data_train.jsonl and others, found none; run "
                        "prepare.py questions")  # fmt: skip
    problems = Problems()
    labels = _read_answers(answers, problems)
    frames = _open_store(store, problems)
    if labels is not None:
        yield f"answers: {len(labels)} classes"
    if frames is not None:
        codec, size = frames.about["codec"], frames.size
        yield f"frames: {len(frames)} videos, {size}x{size}, {codec}"
    seen: set[str] = set()
    listed: dict[str, str] = {}
    for split in found:
        asked = Counter(_questions(folder, split, seen, labels, problems))
        yield f"{split}: {asked.total()} questions about {len(asked)} videos"
        _check_videos(folder, split, asked, listed, frames, problems)
    yield from problems.lines()
    if problems.unusable:
        raise DataError(
            f"{len(problems.unusable)} kinds of problems make data unusable, see above"
        )
    yield "usable"


def _read_answers(path: Path, problems: Problems) -> dict[str, int] | None:
    if not path.exists():
        problems.add("no answer list", f"{path}; make it with prepare.py answers")
        return None
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
        if sorted(labels.values()) != list(range(len(labels))):
            raise ValueError(f"classes are not 0 to {len(labels) - 1}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        problems.add("answer list is damaged", f"{path}: {error}", unusable=True)
        return None
    return labels


def _open_store(path: Path, problems: Problems) -> FrameStore | None:
    if not path.exists():
        problems.add("no frames", f"{path}; make them with prepare.py frames")
        return None
    try:
        return FrameStore(path)
    except DataError as error:
        problems.add("store of frames cannot be read", str(error), unusable=True)
        return None


def _questions(
    folder: Path, split: str, seen: set[str], labels: dict[str, int] | None, problems: Problems
) -> Iterator[str]:
    """The video of every question."""
    for entry in read_lines(folder / f"data_{split}.jsonl"):
        where = f"{split} {entry['key']}"
        if entry["key"] in seen:
            problems.add("question id occurs again", where, unusable=True)
        seen.add(entry["key"])
        answer = entry["answer"]
        if not entry["question"].strip():
            problems.add("question is empty", where)
        if split != "test" and not answer:
            problems.add("question without an answer", where, unusable=True)
        elif labels is not None and answer and answer not in labels:
            problems.add(f"{split} answer is not in the answer list", f"{answer!r} of {where}")
        yield entry["gif_name"]


def _check_videos(
    folder: Path, split: str, asked: Counter[str], listed: dict[str, str],
    frames: FrameStore | None, problems: Problems,
) -> None:  # fmt: skip
    """Videos that are asked about, against the split's list, the other lists and the frames."""
    videos = read_videos(folder, split)
    if videos is None:
        problems.add("no list of videos", f"video_{split}.json")
    for video in asked if videos is None else videos:
        if listed.setdefault(video, split) != split:
            problems.add("video of two splits", f"{video} of {listed[video]} and {split}")
        if video not in asked:
            problems.add("video without questions", f"{video} of {split}")
    for video in asked:
        if videos is not None and video not in listed:
            problems.add("video is on no list", f"{video} of {split}")
    if frames is None:
        return
    absent = [video for video in asked if video not in frames]
    for video in absent:
        kind = f"{split} question about a video without frames"
        problems.add(kind, video, unusable=len(absent) == len(asked), count=asked[video])
