# SPDX-License-Identifier: Apache-2.0
"""Are the files of a data set of LLaMA-VQA complete? What its ``prepare.py`` says and checks."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .errors import DataError
from .layout import find
from .llama_dialogue import Dialogues
from .llama_frames import open_source, unknown
from .llama_prompts import Asked, encode_all, make_prompt
from .llama_questions import WITH_DIALOGUE, Question, read_questions
from .llama_tokenizer import Tokenizer

FEATURES = "clipvitl14.pth"
TOKENIZER = "data/weights/llama/tokenizer.model"
_FRAMES = 10  # of a prompt


class Layout(NamedTuple):
    """What a data set's folder holds."""

    dataset: str
    files: Mapping[str, int | None]  # file -> published number of questions; the first two needed
    length: int  # published max_seq_len
    subtitles: str | None = None


def arguments(
    doc: str, folder: str | Path, argv: Sequence[str] | None, layout: Layout
) -> argparse.Namespace:
    """The command line of a ``prepare.py``."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(folder), help="default: beside this")
    parser.add_argument("--features", help=f"file or feature store (default {FEATURES} there)")
    parser.add_argument("--tokenizer", default=TOKENIZER, help=f"default {TOKENIZER}")
    parser.add_argument("--max_seq_len", type=int, default=layout.length,
                        help=f"tokens of a prompt (default {layout.length})")  # fmt: skip
    return parser.parse_args(argv)


def check(layout: Layout, args: argparse.Namespace, say: Callable[[str], None] = print) -> None:
    """Look at all files and tell what is in them.

    Raises:
        DataError: damaged files; at the end, needed ones that are absent.
    """
    features = args.features or str(args.folder / FEATURES)
    absent = [] if find(features).exists() else [features]
    source = None if absent else open_source(features)
    tokenizer = None
    if find(args.tokenizer).exists():
        tokenizer = Tokenizer(args.tokenizer)
        say(f"{args.tokenizer}: {tokenizer.size} pieces")
    else:
        absent.append(args.tokenizer)
    subtitles = None
    if layout.subtitles is not None:
        subtitles = str(args.folder / layout.subtitles)
        if not find(subtitles).exists():
            absent, subtitles = [*absent, subtitles], None
    for number, (name, count) in enumerate(layout.files.items()):
        path = args.folder / name
        if not path.exists():
            absent += [str(path)] if number < 2 else []
            say(f"{path}: not there" + ("" if number < 2 else ", only needed for predictions"))
            continue
        questions = read_questions(layout.dataset, str(path))
        for line in _describe(questions, count):
            say(f"{path}: {line}")
        if source is not None:
            say(f"  features: {_known(unknown(source, questions), questions)}")
        if tokenizer is not None:
            said = _dialogues(layout, subtitles, questions)
            say(f"  prompts: {_lengths(tokenizer, questions, said, args.max_seq_len)}")
    if absent:
        raise DataError(
            f"{args.folder}: expected also {', '.join(absent)}; README.md beside prepare.py says "
            "where they come from"
        )
    say(f"complete: bash run.sh train LLaMA_VQA ./configs/llama_vqa_{layout.dataset}.yaml")


def _describe(questions: Sequence[Question], count: int | None) -> Iterator[str]:
    videos = {question.video for question in questions}
    answered = sum(question.answer is not None for question in questions)
    published = "" if count is None else f" (published: {count})"
    yield (f"{len(questions)} questions{published} about {len(videos)} videos, {answered} with an "
           "answer")  # fmt: skip
    kinds = Counter(question.kind for question in questions if question.kind)
    if kinds:
        yield ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))


def _known(absent: Sequence[str], questions: Sequence[Question]) -> str:
    names = {name for question in questions for name in question.features()}
    if not absent:
        return f"of all {len(names)} videos"
    return f"missing for {len(absent)} of {len(names)} videos, such as {absent[0]}"


def _dialogues(
    layout: Layout, subtitles: str | None, questions: Sequence[Question]
) -> Callable[[Question], str | None]:
    if layout.dataset not in WITH_DIALOGUE:
        return lambda question: None
    if subtitles is None:
        return lambda question: ""
    clips = list(dict.fromkeys(question.video for question in questions))
    found = Dialogues(layout.dataset, subtitles, clips)
    return lambda question: found.text(question.video, question.window)


def _lengths(
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    said: Callable[[Question], str | None],
    length: int,
) -> str:
    """How long prompts are, and how many have no room."""
    asked = (Asked(make_prompt(q.text, q.options, said(q)), [q.answer or 0]) for q in questions)
    whole, needed = [], []
    for made in encode_all(tokenizer, asked, _FRAMES, ["vqa"]):
        encoded = made["vqa"]
        needed.append(len(encoded.head) + len(encoded.tails[0]))
        whole.append(needed[-1] + len(encoded.dialogue))
    text = f"{min(whole)} to {max(whole)} tokens, {np.mean(whole):.0f} in the mean"
    if cut := sum(n > length for n in whole) - sum(n > length for n in needed):
        text += f"; {cut} lose the end of their dialogue in {length}"
    if over := sum(n > length for n in needed):
        text += f"; {over} have no room in {length} (set DATASET.max_seq_len or on_overflow: skip)"
    return text
