# SPDX-License-Identifier: Apache-2.0
"""The sample world in the form of NExT-QA's questions with five options.

`{train,val,test}.csv` with video, frame_count, width, height, question, answer, qid, type and
a0 ... a4. Videos are the clips of two events in a row, under the names of `next_oe`.
"""

from __future__ import annotations

import csv
import io
import random
from typing import Any

import clips
import next_oe
from choice_questions import Asker, Choice, Part, balanced, two_events
from tgif_qa import SPLITS

COLUMNS = ("video", "frame_count", "width", "height", "question", "answer", "qid", "type",
           *(f"a{k}" for k in range(5)))  # fmt: skip


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    return {f"{split}.csv": _table(scenes, split) for split in SPLITS}


def asked(scenes: list[dict[str, Any]], split: str) -> list[tuple[tuple[str, Part], Choice]]:
    """((video, part), question) of a split."""
    rng = random.Random(f"{split}/nextqa")
    asker = Asker(rng)
    found = [
        ((name, part), choice)
        for name, clip in next_oe.videos(scenes).items()
        if clip.facts.split == split
        for part in [Part(clip.facts, clip.events)]
        for choice in two_events(part, asker)
    ]
    found = balanced(found, rng)
    return rng.sample(found, len(found))


def _table(scenes: list[dict[str, Any]], split: str) -> bytes:
    text, seen = io.StringIO(newline=""), dict[str, int]()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    width, height = clips.SIZE
    lengths = {name: len(clip.frames) for name, clip in next_oe.videos(scenes).items()}
    for (name, _), choice in asked(scenes, split):
        seen[name] = qid = seen.get(name, -1) + 1
        options = {f"a{k}": option for k, option in enumerate(choice.options)}
        writer.writerow({"video": name, "frame_count": lengths[name], "width": width,
                         "height": height, "question": choice.text, "answer": choice.answer,
                         "qid": qid, "type": choice.kind, **options})  # fmt: skip
    return text.getvalue().encode()
