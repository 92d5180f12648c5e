# SPDX-License-Identifier: Apache-2.0
"""ANetQA's questions: raw JSON -> JSON lines (and CSV), as the published scripts write them.

Source: ``aux_csv.py`` and ``aux_jsonl.py`` of the repository MILVLG/anetqa-code.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from reader.common.errors import DataError
from reader.common.json_lines import stream_list

SPLITS = ("train", "val", "test")
COLUMNS = ("key", "question", "answer", "vid_id", "gif_name", "description")
UNKNOWN = "<UNK>"
ID_LENGTH = 13  # "v_" and the 11 characters of a YouTube id
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode

Progress = Callable[[Iterable, int | None, str], Iterable]
Asked = tuple[str, str, str | None]  # question id, question, answer


def find_raw(folder: Path, kind: str, split: str) -> Path | None:
    """The downloaded file of questions (kind "qa") or videos ("video") of a split, if it is there.

    The project page, its README files and its scripts differ in the names.
    """
    places = ("", "qa", "anetqa") if kind == "qa" else ("", "meta", "jsons")
    names = [f"{kind}_{split}.json"]
    if kind == "qa":
        names += [f"anetqa_{split}.json", *(["q_test.json"] if split == "test" else [])]
    found = (folder / place / name for place in places for name in names)
    return next((path for path in found if path.is_file()), None)


def read_videos(folder: Path, split: str) -> list[str] | None:
    """Video ids of a split, in order; None when there is no such list.

    Raises:
        DataError: not a list of ids, or an id twice.
    """
    path = find_raw(folder, "video", split)
    if path is None:
        return None
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected a JSON list of video ids ({error})") from None
    if not isinstance(videos, list) or not all(isinstance(v, str) and v for v in videos):
        raise DataError(f"{path}: expected a JSON list of video ids, found something else in it")
    if len(set(videos)) < len(videos):
        double = next(v for k, v in enumerate(videos) if v in videos[:k])
        raise DataError(f"{path}: expected every video once, found {double} twice")
    return videos


def asked(path: Path, number: int, record: dict[str, Any], answered: bool) -> tuple[str, Asked]:
    """Video and question of a raw record. The id's first 13 characters are the video, as published;
    for videos of other names, what ``video_id`` says when the id starts with it.

    Raises:
        DataError: a key is missing or not text.
    """
    keys = ("qa_id", "question", "answer") if answered else ("qa_id", "question")
    for key in keys:
        if not isinstance(record.get(key), str):
            name = record.get("qa_id", "no qa_id")
            raise DataError(
                f"{path}: record {number} ({name}): expected text as {key}, found "
                f"{record.get(key, 'no such key')!r}"
            )
    qa_id, stated = record["qa_id"], record.get("video_id")
    by_id = not isinstance(stated, str) or not stated or not qa_id.startswith(stated)
    video = qa_id[:ID_LENGTH] if by_id else stated
    return video, (qa_id, record["question"], record["answer"] if answered else None)


def convert(folder: Path, with_csv: bool, progress: Progress) -> Iterator[str]:
    """Write ``data_<split>.jsonl`` (and ``.csv``) beside the raw files; gives lines to print.

    Questions of all splits are gathered by video; a split has those of the videos on its list.

    Raises:
        DataError: no split, only one of questions and videos of a split, or damaged files.
    """
    raw = {split: find_raw(folder, "qa", split) for split in SPLITS}
    videos = {split: read_videos(folder, split) for split in SPLITS}
    if not any(raw.values()):
        raise DataError(f"{folder}: expected qa_train.json and others, found none; see README.md")
    for split in SPLITS:
        if (raw[split] is None) != (videos[split] is None):
            there, absent = ("qa", "video") if raw[split] else ("video", "qa")
            raise DataError(f"{folder}: expected {absent}_{split}.json beside {there}_{split}.json")
    by_video: dict[str, list[Asked]] = {}
    for split, path in raw.items():
        if path is None:
            yield f"{split}: no qa_{split}.json, left out"
            continue
        for number, record in enumerate(progress(stream_list(path), None, path.name)):
            video, question = asked(path, number, record, split != "test")
            by_video.setdefault(video, []).append(question)
    for split in SPLITS:
        if videos[split] is not None:
            yield from _write_split(folder, split, videos[split], by_video, with_csv)
    if rest := set(by_video).difference(*filter(None, videos.values())):
        count = sum(len(by_video[video]) for video in rest)
        yield f"warning: {count} questions of {len(rest)} videos on no list, such as {min(rest)}"


def _write_split(
    folder: Path, split: str, videos: list[str], by_video: dict[str, list[Asked]], with_csv: bool
) -> Iterator[str]:
    for video in videos:
        if video not in by_video:
            yield f"warning: {split}: no question about {video}, left out"
    rows = [(video, *each) for video in videos for each in by_video.get(video, ())]
    if split == "test":
        rows = [(*row[:3], None) for row in rows]
    elif lost := [qa_id for _, qa_id, _, answer in rows if answer is None]:
        raise DataError(f"{split}: expected answers, found none of {lost[0]}, a test question")
    path = folder / f"data_{split}.jsonl"
    write_text(path, lambda file: file.writelines(map(json_line, range(len(rows)), rows)))
    yield f"{path}: {len(rows)} questions about {len({row[0] for row in rows})} videos"
    if with_csv:
        table = folder / f"data_{split}.csv"
        write_text(table, lambda file: _write_csv(file, rows))
        yield f"{table}: {len(rows)} questions"


def json_line(number: int, row: tuple[str, str, str, str | None]) -> str:
    """A line as pandas would write it, which escapes slashes and what is not ASCII."""
    video, qa_id, question, answer = row
    values = (qa_id, question, answer or None, video, video, "none")
    entry = {"Unnamed: 0": number, **dict(zip(COLUMNS, values, strict=True))}
    return _ENCODE(entry).replace("/", "\\/") + "\n"


def _write_csv(file: TextIO, rows: list[tuple[str, str, str, str | None]]) -> None:
    table = csv.writer(file, lineterminator="\n")
    table.writerow(("", *COLUMNS))
    for number, (video, qa_id, question, answer) in enumerate(rows):
        table.writerow((number, qa_id, question, answer or "", video, video, "none"))


def write_text(path: Path, write: Callable[[TextIO], object]) -> None:
    """Write a file in one step.

    Raises:
        DataError: the disk does not take it.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "w", encoding="utf-8", newline="") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror or error}") from None


# what was written


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Entries of a ``data_<split>.jsonl``.

    Raises:
        DataError: unreadable, or a line without a question id, question, answer or video.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                entry = _entry(line)
                if entry is None:
                    raise DataError(
                        f"{path}:{number}: expected an object with key, question, answer and "
                        f"gif_name, found {line.strip()[:60]!r}; run prepare.py questions again"
                    )
                yield entry
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a file of JSON lines ({error})") from None


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("answer", 0), str | None):
        return None
    texts = (entry.get(key) for key in ("key", "question", "gif_name"))
    return entry if all(isinstance(text, str) for text in texts) else None


def write_answers(folder: Path, path: Path, force: bool) -> int:
    """Write the answers of train and val in order of first appearance, after ``<UNK>``.

    Returns:
        their number.

    Raises:
        DataError: no questions, a training or validation question without an answer, or a
            different list is there and ``force`` is not given.
    """
    found = {UNKNOWN: 0}
    for split in ("train", "val"):
        source = folder / f"data_{split}.jsonl"
        if not source.exists():
            raise DataError(f"{source}: expected questions, found none; run prepare.py questions")
        for entry in read_lines(source):
            if not entry["answer"]:
                raise DataError(f"{source}: expected answers, found none of {entry['key']}")
            found.setdefault(entry["answer"], len(found))
    text = json.dumps(found, indent=4, ensure_ascii=False)
    if path.exists() and not force and path.read_text(encoding="utf-8").strip() != text:
        raise DataError(
            f"{path}: expected the {len(found)} answers of {folder}, found another list; networks "
            "that were trained with it need it: choose another --out, or give --force"
        )
    write_text(path, lambda file: file.write(text))
    return len(found)
