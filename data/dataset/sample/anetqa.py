# SPDX-License-Identifier: Apache-2.0
"""The sample world in the raw layout of ANetQA (Yu et al. 2023; MILVLG/anetqa-code).

`qa_{train,val,test}.json`: lists of records, test records without what gives the answer away, and
`qa_test_answers.json` with it; `video_{train,val,test}.json`: lists of video ids. Ids have 13
characters like ANetQA's, `v_s01-d05____` for the video s01-d05.

The words of a question do not tell its answer: of questions with two possible answers as many have
the one as the other, in training for each wording by itself (for each kind in smaller splits).
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from facts import Facts
from picture_questions import Question, candidates

SPLITS = ("train", "val", "test")
HIDDEN = ("answer", "frame_ids", "object_ids", "step", "program")
MANY = 30  # videos of a split in which most wordings have both answers
LOOKED_AT = 8  # pairs of questions of which the one about the least asked videos is taken

Asked = tuple[str, Question]  # about which video


class Kind(NamedTuple):
    """One kind of question: its place in ANetQA's taxonomy, and how many a video gets, about."""

    type: str
    structure: str
    semantics: str
    skills: tuple[str, ...]
    share: float


_LOOK, _THERE, _BESIDE = ("object-attribute",), ("exist",), ("object-relationship",)
_ACT, _WHAT_IS = ("object-action",), ("exist", "object-attribute")
_ACTOR, _PARTNER = ("object-attribute", "object-action"), ("object-attribute", *_BESIDE)

KINDS = {
    "colour": Kind("attrWhat", "query", "attribute", _LOOK, 5),
    "shape": Kind("attrWhat", "query", "attribute", _LOOK, 6),
    "outermost": Kind("attrWhat", "query", "attribute", (*_LOOK, "superlative"), 4),
    "beside": Kind("attrRelWhat", "query", "attribute", _PARTNER, 3),
    "actor's colour": Kind("attrRelWhat", "query", "action", _ACTOR, 4),
    "actor's shape": Kind("attrRelWhat", "query", "action", _ACTOR, 2),
    "longest": Kind("attrRelWhat", "query", "action",
                    (*_ACTOR, "superlative", "duration-comparison"), 2),
    "prop": Kind("objWhat", "query", "object", _THERE, 3),
    "scenery": Kind("objWhat", "query", "object", _THERE, 3),
    "place": Kind("objWhat", "query", "object", _THERE, 3),
    "cover": Kind("objRelWhat", "query", "relationship", _BESIDE, 1),
    "stand": Kind("relWhat", "query", "relationship", _BESIDE, 2),
    "partner": Kind("attrRelWhat", "query", "relationship", _PARTNER, 3),
    "relation": Kind("relWhat", "query", "relationship", _BESIDE, 2),
    "choose colour": Kind("attrChoose", "choose", "attribute", _LOOK, 6),
    "choose shape": Kind("attrChoose", "choose", "attribute", _LOOK, 3),
    "choose thing": Kind("objChoose", "choose", "object", _THERE, 7),
    "choose side": Kind("relChoose", "choose", "relationship", _BESIDE, 1.5),
    "choose action": Kind("actChoose", "choose", "action", _ACT, 1.5),
    "exist": Kind("objExist", "verify", "object", _THERE, 5),
    "exist with": Kind("objExist", "verify", "object", _WHAT_IS, 3),
    "is": Kind("attrVerify", "verify", "attribute", _LOOK, 3),
    "side": Kind("relVerify", "verify", "relationship", _BESIDE, 1.5),
    "does": Kind("actVerify", "verify", "action", _ACT, 2),
    "with": Kind("relVerify", "verify", "relationship", _BESIDE, 1),
    "same shape": Kind("attrCompare", "compare", "attribute", _LOOK, 2),
    "further": Kind("relCompare", "compare", "relationship", (*_BESIDE, "superlative"), 2.5),
    "which acts": Kind("actCompare", "compare", "action", _ACT, 2.5),
    "longer": Kind("actLonger", "compare", "action", (*_ACT, "duration-comparison"), 2),
    "both colours": Kind("attrAnd", "logic", "attribute", _WHAT_IS, 3),
    "either colour": Kind("attrOr", "logic", "attribute", _WHAT_IS, 4),
    "both things": Kind("objAnd", "logic", "object", _THERE, 2.5),
    "either thing": Kind("objOr", "logic", "object", _THERE, 2.5),
    "both actions": Kind("actAnd", "logic", "action", ("exist", *_ACT), 1),
    "either action": Kind("actOr", "logic", "action", ("exist", *_ACT), 1),
}  # fmt: skip


def video_id(name: str) -> str:
    """ANetQA's kind of id, "v_" and 11 characters, of a video of the world."""
    return f"v_{name:_<11}"


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    contents: dict[str, Any] = {}
    for split in SPLITS:
        contents[f"video_{split}.json"] = [video_id(s["id"]) for s in scenes if s["split"] == split]
        contents[f"qa_{split}.json"] = records(scenes, split)
    contents["qa_test_answers.json"] = full = contents["qa_test.json"]
    contents["qa_test.json"] = [{k: v for k, v in r.items() if k not in HIDDEN} for r in full]
    return {name: json.dumps(content).encode() for name, content in contents.items()}


def link_videos(scenes: list[dict[str, Any]], videos: Path, folder: Path) -> None:
    """Name the videos as the layout calls them: by links, or copies where there are no links."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        video, link = videos / scene["file"], folder / f"{video_id(scene['id'])}.mp4"
        if link.exists() and _seal(link) == _seal(video):
            continue
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(os.path.relpath(video, folder))
        except OSError:
            shutil.copy2(video, link)


def _seal(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, int(stat.st_mtime)


def records(scenes: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """All records of a split, complete, video by video."""
    facts = [Facts(scene) for scene in scenes if scene["split"] == split]
    rng = random.Random(f"{split}/anetqa")
    asked: dict[str, list[Question]] = {each.name: [] for each in facts}
    for video, question in _chosen(facts, rng):
        asked[video].append(question)
    for questions in asked.values():
        rng.shuffle(questions)
    return [_record(f, q, number) for f in facts for number, q in enumerate(asked[f.name])]


def _record(facts: Facts, question: Question, number: int) -> dict[str, Any]:
    video, kind = video_id(facts.name), KINDS[question.kind]
    event = question.event
    frame = (event["start"] + event["end"]) // 2 if event else sum(facts.idle[0]) // 2
    at = f"{video}/0/{frame}"
    places = {entity: i for i, entity in enumerate(facts.entities)}
    taxonomy = {
        "question_type": kind.type, "question structures": kind.structure,
        "question semantics": kind.semantics, "reasoning skills": [*kind.skills],
        "answer types": "binary" if question.options else "open",
    }  # fmt: skip
    what = next((what for what in ("color", "shape") if what in question.text), "none")
    return {
        "question": question.text, "answer": question.answer,
        "qa_id": f"{video}#{kind.type}#{number}", "video_id": video,
        "frame_ids": [at], "object_ids": [f"{at}/{places[entity]}" for entity in question.about],
        "attribute_type": what, "step": question.program.count("->") + 1,
        "program": question.program, "taxonomy": taxonomy,
    }  # fmt: skip


# which questions are asked


def _chosen(split: list[Facts], rng: random.Random) -> Iterator[Asked]:
    """Questions about the videos of a split, of each kind as many as its share says."""
    found: dict[str, list[Asked]] = {kind: [] for kind in KINDS}
    for facts in split:
        for question in candidates(facts):
            found[question.kind].append((facts.name, question))
    load: Counter[str] = Counter()  # questions by video
    for kind, asked in found.items():
        wanted = round(KINDS[kind].share * len(split))
        if asked and asked[0][1].options:
            chosen = _pairs(asked, wanted // 2, len(split) >= MANY, load, rng)
        else:
            chosen = rng.sample(asked, min(wanted, len(asked)))
        for video, question in chosen:
            load[video] += 1
            yield video, question


def _pairs(
    asked: list[Asked], wanted: int, by_text: bool, load: Counter[str], rng: random.Random
) -> Iterator[Asked]:
    """Pairs of questions of which one has the first, the other the second possible answer.

    With `by_text` both are the same words, about different videos. Videos with few questions
    so far, as `load` says, come first.
    """
    halves: dict[Any, tuple[list[Asked], list[Asked]]] = {}
    for video, question in asked:
        key = (question.text, question.options) if by_text else None
        half = halves.setdefault(key, ([], []))[question.options.index(question.answer)]
        half.append((video, question))
    pairs: list[tuple[Asked, Asked]] = []
    for first, second in halves.values():
        rng.shuffle(first)
        rng.shuffle(second)
        pairs += zip(first, second, strict=False)
    rng.shuffle(pairs)
    for _ in range(min(wanted, len(pairs))):
        loads = [sum(load[video] for video, _ in pair) for pair in pairs[:LOOKED_AT]]
        turn = rng.choice((1, -1))
        for video, question in pairs.pop(loads.index(min(loads))):
            a, b = question.options[::turn]
            yield video, question._replace(text=question.text.format(a=a, b=b))
