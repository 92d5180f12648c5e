# SPDX-License-Identifier: Apache-2.0
"""ANetQA: questions as JSON lines, the answer list, and the frames that ClipBERT is trained on.

    python data/dataset/anetqa/prepare.py questions DIR               # raw JSON -> data_*.jsonl
    python data/dataset/anetqa/prepare.py answers   DIR               # answers of train and val
    python data/dataset/anetqa/prepare.py frames    DIR --videos V    # videos -> DIR/frames
    python data/dataset/anetqa/prepare.py check     DIR               # does it all fit together?

DIR holds the downloaded files (qa_train.json, video_train.json, ...), in it or in its folders qa/
and meta/. Every command may be run again: what is complete is left alone. README.md beside this
file describes the files.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE), str(ROOT)]

from engine.errors import ConfigError, guard  # noqa: E402

ANSWERS = "anetqa_trainval_ans2label.json"
STORE = "frames"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    questions = commands.add_parser("questions", help="raw JSON -> data_{train,val,test}.jsonl")
    answers = commands.add_parser("answers", help="answer -> class, from train and val")
    frames = commands.add_parser("frames", help="videos -> store of frames")
    check = commands.add_parser("check", help="compare questions, videos, answers, frames")
    for command in (questions, answers, frames, check):
        command.add_argument("folder", type=Path, metavar="DIR")
    questions.add_argument("--csv", action="store_true", help="also data_*.csv, as published")
    answers.add_argument("--out", type=Path, help=f"file to write (default: DIR/{ANSWERS})")
    answers.add_argument("--force", action="store_true", help="replace another list")
    check.add_argument("--store", type=Path, help=f"store of frames (default: DIR/{STORE})")
    check.add_argument("--answers", type=Path, help=f"answer list (default: DIR/{ANSWERS})")
    _frame_options(frames)
    return parser.parse_args(argv)


def _frame_options(frames: argparse.ArgumentParser) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    frames.add_argument("--videos", type=Path, required=True, help="folder, searched in depth")
    frames.add_argument("--out", type=Path, help=f"the store (default: DIR/{STORE})")
    frames.add_argument("--size", type=int, default=512, help="height and width (default 512)")
    frames.add_argument("--format", choices=("jpeg", "webp", "png"), default="jpeg",
                        help="webp and png lose nothing (default jpeg)")  # fmt: skip
    frames.add_argument("--quality", type=int, default=95, help="of jpeg, 1 to 100 (default 95)")
    frames.add_argument("--sets", choices=("all", "split"), default="all",
                        help="split: only what a video's split needs, the random sets of training "
                        "videos, the uniform one of others (default all)")  # fmt: skip
    frames.add_argument("--seed", type=int, default=42, help="of the random sets (default 42)")
    frames.add_argument("--jobs", type=int, default=cores, help="processes (default: all cores)")
    frames.add_argument("--max_bad", type=int, default=0,
                        help="videos that may be missing or broken (default 0)")  # fmt: skip
    frames.add_argument("--accept_truncated", action="store_true",
                        help="take what can be decoded of a damaged video")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command."""
    args = parse(sys.argv[1:] if argv is None else argv)
    from reader.common.errors import DataError

    if not args.folder.is_dir():
        raise DataError(f"{args.folder}: expected a folder with ANetQA's files, found none")
    {"questions": questions, "answers": answers, "frames": frames, "check": check}[args.command](
        args
    )


def questions(args: argparse.Namespace) -> None:
    """Write the questions of every split that there is."""
    import anetqa_questions

    for line in anetqa_questions.convert(args.folder, args.csv, progress):
        print(line, flush=True)


def answers(args: argparse.Namespace) -> None:
    """Write the answer list; never over another one, since networks belong to theirs."""
    import anetqa_questions

    path = args.out or args.folder / ANSWERS
    count = anetqa_questions.write_answers(args.folder, path, args.force)
    print(f"{path}: {count} classes")


def frames(args: argparse.Namespace) -> None:
    """Write the store of frames."""
    import anetqa_frames

    limits = {"size": (16, 4096), "quality": (1, 100), "jobs": (1, 1024), "max_bad": (0, None)}
    for name, (low, high) in limits.items():
        value = getattr(args, name)
        if value < low or (high is not None and value > high):
            span = f"{low} to {high}" if high is not None else f"{low} or more"
            raise ConfigError(f"--{name}: expected {span}, found {value}")
    options = {key: getattr(args, key) for key in ("size", "format", "quality", "sets", "seed")}
    for line in anetqa_frames.make(
        args.folder, args.videos, args.out or args.folder / STORE, options, args.jobs,
        args.max_bad, args.accept_truncated, progress,
    ):  # fmt: skip
        print(line, flush=True)


def check(args: argparse.Namespace) -> None:
    """Print a line per kind of problem; fail when something cannot be used."""
    import anetqa_check

    answers, store = args.answers or args.folder / ANSWERS, args.store or args.folder / STORE
    for line in anetqa_check.check(args.folder, answers, store):
        print(line, flush=True)


def progress(steps: Iterable, total: int | None, what: str) -> Iterable:
    """Steps with a progress bar on terminals."""
    from tqdm import tqdm

    return tqdm(steps, what, total, disable=None)


if __name__ == "__main__":
    guard(main)
