# SPDX-License-Identifier: Apache-2.0
"""Clips or pictures with captions, such as WebVid and CC3M, for MCG's pre-training.

    python data/dataset/webvid/prepare.py convert LIST --out train.jsonl  # published list -> lines
    python data/dataset/webvid/prepare.py pack train.jsonl --videos V --out shards/train
    python data/dataset/webvid/prepare.py index shards/*.tar              # made elsewhere
    python data/dataset/webvid/prepare.py check train.jsonl --videos V    # or shards/*.tar

Every command may be run again: what is complete is left alone. README.md beside this file describes
the files.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE), str(ROOT)]

from engine.errors import ConfigError, guard  # noqa: E402
from reader.common.errors import DataError  # noqa: E402

SHOWN = 5  # examples of what is missing or broken


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    convert = commands.add_parser("convert", help="published list -> lines of captions")
    convert.add_argument("table", type=Path, metavar="LIST", help="a .csv, .jsonl, .json or .pkl")
    convert.add_argument("--out", type=Path, required=True, help="file of JSON lines to write")
    convert.add_argument("--strip", default="", metavar="FOLDER",
                         help="beginning of the paths in LIST that is left out")  # fmt: skip
    pack = commands.add_parser("pack", help="lines and files -> shards")
    pack.add_argument("lines", metavar="LINES", help="what convert wrote")
    pack.add_argument("--out", type=Path, required=True, metavar="NAME",
                      help="beginning of the shards' names: NAME-000000.tar, ...")  # fmt: skip
    pack.add_argument("--samples", type=int, default=1000, help="of a shard (default 1000)")
    pack.add_argument("--seed", type=int, default=42, help="of the order (default 42)")
    index = commands.add_parser("index", help="where samples are in shards from elsewhere")
    index.add_argument("shards", nargs="+", metavar="SHARD")
    check = commands.add_parser("check", help="what is missing or broken")
    check.add_argument("lines", nargs="+", metavar="LINES", help="a file of lines, or shards")
    check.add_argument("--decode", action="store_true", help="also read a frame of each")
    check.add_argument("--report", type=Path, help="file to write all messages to")
    for command in (convert, pack, check):
        command.add_argument("--videos", help="folder of the clips")
        command.add_argument("--images", help="folder of the pictures")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for command in (pack, index, check):
        command.add_argument("--jobs", type=int, default=cores, help="processes (default: cores)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command."""
    args = parse(sys.argv[1:] if argv is None else argv)
    for name in ("samples", "jobs"):
        if getattr(args, name, 1) < 1:
            raise ConfigError(f"--{name}: expected 1 or more, found {getattr(args, name)}")
    {"convert": convert, "pack": pack, "index": index, "check": check}[args.command](args)


def convert(args: argparse.Namespace) -> None:
    """Write the lines of a published list; clips and captions that are not used are left out."""
    import webvid_lists

    folders = {"video": args.videos, "image": args.images}
    for line in webvid_lists.convert(args.table, args.out, folders, args.strip):
        print(line, flush=True)


def pack(args: argparse.Namespace) -> None:
    """Write shards; those of an earlier run of the same command are kept."""
    import webvid_shards

    source = webvid_shards.Source((args.lines,), args.videos, args.images)
    plan = webvid_shards.plan(source, args.out, args.samples, args.seed)
    missing, written = [], 0
    for count, absent in each(webvid_shards.write, plan, args.jobs, "shards"):
        written += count
        missing += absent
    print(f"{args.out}: {len(plan)} shards, {written} samples")
    report(missing, "left out, since their files are missing or empty")


def index(args: argparse.Namespace) -> None:
    """Make the indices of shards that have none."""
    from reader.common import shards

    paths = shards.expand(args.shards)
    counts = [len(rows) - 1 for rows in each(shards.index, paths, args.jobs, "shards")]
    print(f"{len(paths)} shards, {sum(counts)} samples")


def check(args: argparse.Namespace) -> None:
    """Look for every file, or every sample; end with an error if some cannot be used."""
    import webvid_shards

    source = webvid_shards.Source(tuple(args.lines), args.videos, args.images)
    count = len(source.open())
    look = partial(webvid_shards.look, source, args.decode)
    broken = [message for message in each(look, range(count), args.jobs, "samples") if message]
    print(f"{count} samples, {count - len(broken)} can be used")
    if args.report is not None:
        args.report.write_text("".join(f"{message}\n" for message in broken), encoding="utf-8")
    report(broken, "cannot be used")
    if broken:
        raise DataError(f"{len(broken)} of {count} samples cannot be used, see above; "
                        "TRAIN.max_bad says how many training leaves out")  # fmt: skip


def report(messages: list[str], what: str) -> None:
    """Say how many there are, and show some."""
    if messages:
        print(f"warning: {len(messages)} {what}:")
        print("".join(f"  {message}\n" for message in messages[:SHOWN]), end="", flush=True)


def each(function: Callable, tasks: Iterable, jobs: int, what: str) -> Iterator[Any]:
    """Results of a function in the order of the tasks, by some processes, with a progress bar."""
    from tqdm import tqdm

    tasks = list(tasks)
    if jobs == 1 or len(tasks) < 2:
        yield from tqdm(map(function, tasks), what, len(tasks), disable=None)
        return
    size = max(1, min(100, len(tasks) // (4 * jobs)))
    with ProcessPoolExecutor(min(jobs, len(tasks)), get_context("spawn")) as pool:
        results = pool.map(function, tasks, chunksize=size)
        yield from tqdm(results, what, len(tasks), disable=None)


if __name__ == "__main__":
    guard(main)
