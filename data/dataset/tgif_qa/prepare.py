# SPDX-License-Identifier: Apache-2.0
"""TGIF-QA's published tables -> the JSON lines that ClipBERT reads, and the answers of frameqa.

    python data/dataset/tgif_qa/prepare.py RAW --out data/dataset/tgif_qa [--videos GIFS]

RAW holds {Train,Test}_{action,transition,frameqa}_question.csv; tasks whose files are absent are
left out. The published training questions are split into train and val by GIF: all questions about
a GIF, of all tasks, are on one side. README.md beside this file describes the files.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from engine.errors import ConfigError, guard  # noqa: E402
from reader.common.errors import DataError  # noqa: E402

TASKS = ("action", "transition", "frameqa")
TYPES = ("object", "number", "color", "location")  # of frameqa's answers, by their number
OPTIONS = ("a1", "a2", "a3", "a4", "a5")
ANSWERS, UNKNOWN = "frameqa_trainval_ans2label.json", "<UNK>"

Question = dict[str, Any]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder of the tables")
    parser.add_argument("--out", type=Path, required=True, help="where to write")
    parser.add_argument("--valid_ratio", type=float, default=0.1,
                        help="share of training GIFs for val; 0: no val (default 0.1)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=42, help="of that split (default 42)")
    parser.add_argument("--videos", type=Path, help="folder of the GIFs, to see what is missing")
    parser.add_argument("--force", action="store_true", help="replace another answer list")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert the tables of every task."""
    args = parse(sys.argv[1:] if argv is None else argv)
    if not 0 <= args.valid_ratio < 1:
        raise ConfigError(f"--valid_ratio: expected 0 or more below 1, found {args.valid_ratio}")
    tables = {(s, t): find_table(args.raw, s, t) for t in TASKS for s in ("train", "test")}
    if not any(tables.values()):
        raise DataError(f"{args.raw}: expected Train_action_question.csv and others, found none")
    splits: dict[tuple[str, str], list[Question]] = {}  # (task, split) -> questions
    for (split, task), path in tables.items():
        if path is None:
            print(f"{task}: no table of {split}, left out")
            continue
        questions = list(read_table(path, task))
        if split == "test":
            splits[task, "test"] = questions
        else:
            for part in ("train", "val"):
                splits[task, part] = [q for q in questions if part == side(q, args)]
    if tables["train", "frameqa"] is not None:
        write_answers(args, splits)
    for (task, split), questions in splits.items():
        path = args.out / f"{task}_{split}.jsonl"
        if not questions:
            path.unlink(missing_ok=True)  # of an earlier run with another --valid_ratio
            continue
        write_text(path, "".join(json.dumps(question) + "\n" for question in questions))
        gifs = {question["gif_name"] for question in questions}
        print(f"{path}: {len(questions)} questions about {len(gifs)} GIFs")
        if args.videos is not None:
            report_missing(args.videos, gifs)


def side(question: Question, args: argparse.Namespace) -> str:
    """On which side a GIF of the published training questions is, by its name and the seed only."""
    digest = hashlib.sha256(f"{args.seed}/{question['gif_name']}".encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < args.valid_ratio * 2**64 else "train"


def find_table(folder: Path, split: str, task: str) -> Path | None:
    """The table of a task; the project's page calls it .tsv, its repository .csv."""
    names = (f"{split.capitalize()}_{task}_question.{ending}" for ending in ("csv", "tsv"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_table(path: Path, task: str) -> Iterator[Question]:
    """Questions of a table: fields between tabs, which are never quoted, under a header.

    Raises:
        DataError: unreadable, a column is missing, or a line with another number of fields or an
            answer that does not exist.
    """
    convert = _frame_question if task == "frameqa" else _choice_question
    columns = ("gif_name", "question", "answer", *(("type",) if task == "frameqa" else OPTIONS))
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            header = next(lines, [])
            if absent := [name for name in columns if name not in header]:
                raise DataError(
                    f"{path}: expected the columns {', '.join(columns)} between tabs, found no "
                    f"{absent[0]}"
                )
            for fields in lines:
                where = f"{path}:{lines.line_num}"
                if len(fields) != len(header):
                    raise DataError(f"{where}: expected {len(header)} fields, found {len(fields)}")
                yield convert(where, dict(zip(header, fields, strict=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a table in UTF-8 ({error})") from None


def _choice_question(where: str, row: dict[str, str]) -> Question:
    return {
        "gif_name": row["gif_name"],
        "question": row["question"],
        "options": [row[name] for name in OPTIONS],
        "answer": _number(where, row, "answer", len(OPTIONS)),
    }


def _frame_question(where: str, row: dict[str, str]) -> Question:
    return {
        "gif_name": row["gif_name"],
        "question": row["question"],
        "answer": row["answer"],
        "answer_type": TYPES[_number(where, row, "type", len(TYPES))],
    }


def _number(where: str, row: dict[str, str], column: str, count: int) -> int:
    if row[column] not in map(str, range(count)):
        raise DataError(f"{where}: expected {column} 0 to {count - 1}, found {row[column]!r}")
    return int(row[column])


def write_answers(
    args: argparse.Namespace, splits: dict[tuple[str, str], list[Question]]
) -> None:
    """The answers of frameqa's train and val, most frequent first; never over another list.

    They do not depend on how train and val are split.
    """
    known = [splits.get(("frameqa", split), []) for split in ("train", "val", "test")]
    counts = Counter(question["answer"] for question in known[0] + known[1])
    ordered = sorted(counts, key=lambda answer: (-counts[answer], answer))
    found = {answer: label for label, answer in enumerate([UNKNOWN, *ordered])}
    path, text = args.out / ANSWERS, json.dumps(found, indent=4)
    if path.exists() and not args.force and path.read_text(encoding="utf-8") != text:
        raise DataError(
            f"{path}: expected the {len(found)} answers of {args.raw}, found another list; "
            "networks that were trained with it need it: choose another --out, or give --force"
        )
    write_text(path, text)
    unknown = sum(question["answer"] not in found for question in known[2])
    print(f"{path}: {len(found)} classes; {unknown} of {len(known[2])} test answers are not there")


def report_missing(folder: Path, gifs: set[str]) -> None:
    """Say how many GIFs have no file <name>.<any ending>."""
    try:
        there = {os.path.splitext(name)[0] for name in os.listdir(folder)}
    except OSError as error:
        raise DataError(f"--videos: expected a folder at {folder} ({error.strerror})") from None
    if absent := sorted(gifs - there):
        print(f"warning: {folder}: {len(absent)} of them are missing, such as {absent[0]}")


def write_text(path: Path, text: str) -> None:
    """Write a file in one step."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror or error}") from None


if __name__ == "__main__":
    guard(main)
