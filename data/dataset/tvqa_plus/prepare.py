# SPDX-License-Identifier: Apache-2.0
"""TVQA+'s feature package: check it, pack it into a memory-mapped store, or make its features.

    python data/dataset/tvqa_plus/prepare.py check DIR          # is everything there, does it fit?
    python data/dataset/tvqa_plus/prepare.py pack DIR STORE     # HDF5 and JSON -> store
    python data/dataset/tvqa_plus/prepare.py extract ...        # features of words and regions
    python data/dataset/tvqa_plus/prepare.py vocab --qa TRAIN.json --out answer_vocab.json

``vocab`` lists the words that generated answers are made of; networks belong to their list.

DIR holds the files under their published names, or as <option>.json and <option>.h5 (frm_cnt.json,
qa_bert.h5, ...); a flag names a file that is elsewhere. README.md beside this file describes them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE), str(ROOT)]

from engine.errors import ConfigError, guard  # noqa: E402

FEATURES = ("qa_bert", "sub_bert", "vcpt", "vfeat")
SPLITS = ("train", "valid", "test")
TEXTS = ("subtitles", "word2idx", "object_vocab", "frm_cnt")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="validate a package")
    check.add_argument("folder", type=Path, metavar="DIR")
    check.add_argument("--store", type=Path, help="packed store, instead of the feature files")
    pack = commands.add_parser("pack", help="feature files -> memory-mapped store")
    pack.add_argument("folder", type=Path, metavar="DIR")
    pack.add_argument("target", type=Path, metavar="STORE")
    pack.add_argument("--half", action="store_true", help="half precision, half the disk")
    for command, options in ((check, (*SPLITS, *TEXTS, *FEATURES)), (pack, FEATURES)):
        for option in options:
            command.add_argument(f"--{option}", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    vocab = commands.add_parser("vocab", help="words of generated answers")
    vocab.add_argument("--qa", type=Path, required=True, help="training questions (JSON)")
    vocab.add_argument("--out", type=Path, required=True, help="list to write (JSON)")
    vocab.add_argument("--min_count", type=int, default=2, help="leave out rarer words (2)")
    vocab.add_argument("--force", action="store_true", help="replace another list")
    extract = commands.add_parser("extract", help="raw text and videos -> feature files")
    if argv[:1] == ["extract"]:
        from tvqa_plus_features import add_arguments

        add_arguments(extract)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command."""
    args = parse(sys.argv[1:] if argv is None else argv)
    if args.command == "extract":
        from tvqa_plus_features import run

        run(args)
    else:
        {"check": check, "pack": pack, "vocab": vocab}[args.command](args)


def files(args: argparse.Namespace, options: Iterable[str]) -> dict[str, Path]:
    """Option -> its file, for those that are there.

    Raises:
        DataError: no folder, or a file that a flag names is not there.
    """
    from reader.common.errors import DataError
    from reader.common.tvqa_plus import PUBLISHED

    if not args.folder.is_dir():
        raise DataError(f"{args.folder}: expected a folder, found none")
    found = {}
    for option in options:
        path = getattr(args, option)
        if path is not None and not path.exists():
            raise DataError(f"--{option}: expected a file at {path}, found none")
        names = (PUBLISHED[option], option + Path(PUBLISHED[option]).suffix)
        there = [args.folder / (name + gz) for name in names for gz in ("", ".gz")]
        path = path or next((p for p in there if p.exists()), None)
        if path is not None:
            found[option] = path
    return found


def check(args: argparse.Namespace) -> None:
    """Print a line per kind of problem; fail when something cannot be used."""
    import tvqa_plus_check

    options = TEXTS if args.store else (*TEXTS, *FEATURES)
    questions, given = files(args, SPLITS), files(args, options)
    for line in tvqa_plus_check.check(questions, given, args.store, _progress):
        print(line, flush=True)


def pack(args: argparse.Namespace) -> None:
    """Write the store."""
    from reader.common.errors import DataError
    from reader.common.tvqa_plus_store import pack as write

    given = files(args, FEATURES)
    if ("vcpt" in given) != ("vfeat" in given):
        raise DataError(f"{args.folder}: expected both or neither of vcpt and vfeat, found one")
    if not given:
        raise DataError(f"{args.folder}: expected feature files, found none; see --help")
    for line in write(args.target, **given, half=args.half, progress=_progress):
        print(line)
    print(f"{args.target}: complete")


def vocab(args: argparse.Namespace) -> None:
    """Write the words of answers; never over another list, since checkpoints belong to theirs."""
    from reader.common.errors import DataError
    from reader.common.moments import write_json
    from reader.common.tvqa_plus import read_json, read_questions
    from reader.common.tvqa_plus_answers import build_vocabulary

    if args.min_count < 1:
        raise ConfigError(f"--min_count: expected 1 or more, found {args.min_count}")
    questions = read_questions(args.qa)
    words = build_vocabulary(questions, args.min_count)
    if args.out.exists() and not args.force and read_json(args.out, list) != words:
        raise DataError(
            f"{args.out}: expected the {len(words)} words of {args.qa}, found another list; "
            "networks that were trained with it need it: choose another --out, or give --force"
        )
    try:
        write_json(args.out, words)
    except OSError as error:
        raise DataError(f"{args.out}: cannot write: {error.strerror or error}") from None
    print(f"{args.out}: {len(words)} words of {len(questions)} questions")


def _progress(steps: Iterable, total: int, what: str) -> Iterable:
    from tqdm import tqdm

    return tqdm(steps, what, total, disable=None)


if __name__ == "__main__":
    guard(main)
