# SPDX-License-Identifier: Apache-2.0
"""The sample world in the raw layout of TVQA: questions with five answers, subtitles.

`tvqa_{train,val,test}.jsonl` with qid, q, a0 ... a4, answer_idx, ts, vid_name and show_name,
and `tvqa_subtitles/<vid_name>.srt`. The questions are those of `tvqa_questions`.
"""

from __future__ import annotations

import random
from typing import Any

import tvqa_questions
from language import srt
from tgif_qa import SPLITS, json_lines

SHOW = "Sample World"


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    contents, qid = {}, 0
    for split in SPLITS:
        rows = []
        for scene, question, options, answer in asked(scenes, split):
            start, end = question.moment
            rows.append({f"a{k}": option for k, option in enumerate(options)}
                        | {"q": question.text, "qid": qid, "show_name": SHOW,
                           "ts": f"{start:.2f}-{end:.2f}", "vid_name": scene["id"],
                           "answer_idx": answer})  # fmt: skip
            qid += 1
        contents[f"tvqa_{split}.jsonl"] = json_lines(rows)
    for scene in scenes:
        contents[f"tvqa_subtitles/{scene['id']}.srt"] = srt(scene).encode()
    return contents


def asked(
    scenes: list[dict[str, Any]], split: str
) -> list[tuple[dict[str, Any], tvqa_questions.Question, list[str], int]]:
    """(scene, question, options, which is right) of a split."""
    rng = random.Random(f"{split}/tvqa")
    found = []
    for scene in (scene for scene in scenes if scene["split"] == split):
        for question in tvqa_questions.questions(scene, rng):
            options = rng.sample([question.right, *question.wrong], 5)
            found.append((scene, question, options, options.index(question.right)))
    return rng.sample(found, len(found))
