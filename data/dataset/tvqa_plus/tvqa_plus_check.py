# SPDX-License-Identifier: Apache-2.0
"""Does a TVQA+ package fit together? Compares numbers of rows, words and boxes, reads no rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reader.common.errors import DataError
from reader.common.tvqa_plus import (
    PUBLISHED,
    Question,
    parse_question,
    parse_subtitles,
    read_json,
    stream_json,
)
from reader.common.tvqa_plus_frames import Grid, frame_grid
from reader.common.tvqa_plus_regions import frame_boxes, region_counts
from reader.common.tvqa_plus_rows import H5Rows, Rows, open_part, read_index

INTERVAL, MAX_FRAMES, RATE = 6, 300, 3
PARTS = {"qa_bert": "qa", "sub_bert": "subtitles", "vfeat": "regions"}
Progress = Callable[[Iterable, int, str], Iterable]


class Problems:
    """Kinds of problems: how often, the first example, and whether data cannot be used."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[Any]] = {}

    def add(self, kind: str, example: str, unusable: bool = True) -> None:
        """Count one."""
        entry = self.kinds.setdefault(kind, [0, example, unusable])
        entry[0] += 1

    def lines(self) -> Iterator[str]:
        """One line per kind, what cannot be used first."""
        for kind, (count, example, bad) in sorted(self.kinds.items(), key=lambda k: not k[1][2]):
            yield f"{'unusable' if bad else 'warning '}  {count:>6}  {kind}; the first: {example}"

    @property
    def unusable(self) -> int:
        """Kinds that make data unusable."""
        return sum(bad for _, _, bad in self.kinds.values())


def check(
    questions: Mapping[str, Path],
    files: Mapping[str, Path],
    store: Path | None,
    progress: Progress,
) -> Iterator[str]:
    """Lines of the report.

    Args:
        questions: split -> annotation file.
        files: reader option -> file, for those that there are.
        store: packed store with the features.

    Raises:
        DataError: at the end, when something cannot be used.
    """
    problems, rows = Problems(), dict(_open(files, store))
    for option in ("frm_cnt", "subtitles", "word2idx", "object_vocab"):
        if option not in files:
            problems.add(f"{option} is missing", PUBLISHED[option], option == "frm_cnt")
    for option in PARTS:
        if option not in rows:
            problems.add(f"{option} is missing", PUBLISHED[option], option == "qa_bert")
        else:
            yield f"{option}: rows of {rows[option].dim} numbers"
    counts = read_json(files["frm_cnt"]) if "frm_cnt" in files else {}
    found = []
    for split, path in questions.items():
        parsed = list(_questions(path, problems))
        yield f"{split}: {len(parsed)} questions of {len({q.video for q in parsed})} clips"
        found += parsed
    if not found:
        problems.add("questions are missing", PUBLISHED["train"])
    for question in progress(found, len(found), "questions"):
        _check_question(question, counts, problems)
        if "qa_bert" in rows:
            _check_words(question, rows["qa_bert"], problems)
    wanted = _frames(found, counts)
    if "sub_bert" in rows and "subtitles" in files:
        _check_subtitles(files["subtitles"], wanted, rows["sub_bert"], problems)
    if "vfeat" in rows:
        _check_regions(files.get("vcpt"), rows["vfeat"], store, wanted, problems, progress)
    yield from problems.lines()
    if problems.unusable:
        raise DataError(f"{problems.unusable} kinds of problems make data unusable, see above")
    yield "usable"


def _open(files: Mapping[str, Path], store: Path | None) -> Iterator[tuple[str, Rows]]:
    stored = read_index(store)["parts"] if store else {}
    for option, part in PARTS.items():
        if store and part in stored:
            yield option, open_part(store, part)
        elif not store and option in files:
            yield option, H5Rows(files[option])


def _questions(path: Path, problems: Problems) -> Iterator[Question]:
    seen: set[int] = set()
    for number, entry in enumerate(read_json(path, list)):
        try:
            question = parse_question(path, number, entry)
        except DataError as error:
            problems.add("question is damaged", str(error))
            continue
        if question.qid in seen:
            problems.add("question id occurs again", f"{path}: {question.qid}")
        seen.add(question.qid)
        lengths = {f"{part}_len": len(text.split()) for part, text in _parts(question)}
        if any(entry.get(key, n) != n for key, n in lengths.items()):
            problems.add("stated length is not the number of words", str(question.qid), False)
        yield question


def _parts(question: Question) -> Iterator[tuple[str, str]]:
    """Parts of a question as keys name them, with their texts."""
    yield "q", question.text
    for k, choice in enumerate(question.choices):
        yield f"a{k}", choice


def _check_question(question: Question, counts: Mapping[str, int], problems: Problems) -> None:
    where = f"question {question.qid} of {question.video}"
    count = counts.get(question.video)
    if not isinstance(count, int) or count < 1:
        problems.add("clip without a number of frames", where)
        return
    annotated = list(question.objects)
    if not annotated:
        problems.add("no annotated frames, all frames are used", where, False)
    elif _grid(question, count) is None:
        problems.add("annotated frames outside of the clip", f"{where}: {annotated[0]} of {count}")
    elif (np.diff(annotated) != INTERVAL).any():
        problems.add(f"annotated frames not {INTERVAL} apart", f"{where}: {annotated}", False)
    if question.moment is not None:
        start, end = question.moment
        if not 0 <= start <= end <= count / RATE + 1:
            found = f"{where}: {start} to {end} s of {count / RATE:.2f} s"
            problems.add("moment reversed or outside of the clip", found, False)


def _check_words(question: Question, rows: Rows, problems: Problems) -> None:
    for part, text in _parts(question):
        key = f"{question.qid}_{part}"
        length, words = rows.length(key), len(text.split())
        if length is None:
            problems.add("words of a question without features", key)
        elif length != words:
            problems.add("rows are not the number of words", f"{key}: {length} rows, {words} words")
        else:
            _check_width(key, rows, problems)


def _check_width(key: str, rows: Rows, problems: Problems) -> None:
    if rows.width(key) != rows.dim:
        found = f"{rows.where}: {key}: {rows.width(key)} instead of {rows.dim}"
        problems.add("rows of another width", found)


def _grid(question: Question, count: int) -> Grid | None:
    annotated = list(question.objects) or [1, count]
    return frame_grid(annotated[0], annotated[-1], count, INTERVAL, MAX_FRAMES)


def _frames(questions: list[Question], counts: Mapping[str, int]) -> dict[str, int]:
    """Clip -> last frame that is used; clips whose length is unknown are left out."""
    last: dict[str, int] = {}
    for question in questions:
        count = counts.get(question.video)
        grid = _grid(question, count) if isinstance(count, int) else None
        if grid is not None:
            last[question.video] = max(last.get(question.video, 0), int(grid.ids[-1]))
    return last


def _check_subtitles(path: Path, clips: Iterable[str], rows: Rows, problems: Problems) -> None:
    said = read_json(path)
    for video in clips:
        if video not in said:
            problems.add("clip without subtitles", video)
            continue
        try:
            subtitles = parse_subtitles(f"{path}: {video}", said[video])
        except DataError as error:
            problems.add("subtitles are damaged", str(error))
            continue
        if len(subtitles.times) != len(subtitles.sentences):
            found = f"{video}: {len(subtitles.sentences)} for {len(subtitles.times)} times"
            problems.add("not one sentence for each time", found)
        length, words = rows.length(video), sum(len(s.split()) for s in subtitles.sentences)
        if length is None:
            problems.add("subtitles without features", video)
        elif length != words:
            found = f"{video}: {length} rows, {words} words"
            problems.add("subtitle rows are not the number of words, they are cut or padded", found,
                         False)  # fmt: skip
        else:
            _check_width(video, rows, problems)


def _check_regions(
    vcpt: Path | None,
    rows: Rows,
    store: Path | None,
    wanted: dict[str, int],
    problems: Problems,
    progress: Progress,
) -> None:
    left = dict(wanted)
    clips = _stored_counts(rows) if store else _read_counts(vcpt, left, problems)
    for video, counts in progress(clips, len(left), "regions"):
        frames = left.pop(video, None)
        if frames is None:
            continue
        length = rows.length(video)
        if length is None:
            problems.add("regions without features", video)
        elif length != counts.sum():
            problems.add("rows are not the number of regions", f"{video}: {length}, {counts.sum()}")
        else:
            _check_width(video, rows, problems)
        if len(counts) < frames:
            problems.add("regions of too few frames", f"{video}: {len(counts)} of {frames}")
    for video in left:
        problems.add("clip without regions", video)


def _stored_counts(rows: Any) -> Iterator[tuple[str, np.ndarray]]:
    for video, (first, end) in zip(rows.keys(), rows.array("frames").tolist(), strict=True):
        yield video, rows.array("counts")[first:end]


def _read_counts(
    vcpt: Path | None, wanted: Mapping[str, int], problems: Problems
) -> Iterator[tuple[str, np.ndarray]]:
    if vcpt is None:
        problems.add("vcpt is missing", PUBLISHED["vcpt"])
        return
    for video, entry in stream_json(vcpt):
        if video not in wanted:
            continue
        try:
            counts = region_counts(f"{vcpt}: {video}", entry)
            for frame in range(len(counts)):
                frame_boxes(f"{vcpt}: {video}", entry, frame)
            yield video, counts
        except DataError as error:
            problems.add("regions are damaged", str(error))
