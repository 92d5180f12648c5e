# SPDX-License-Identifier: Apache-2.0
"""The sample world in the forms of WebVid and CC3M: clips and pictures with captions.

`results_{train,val}.csv` as WebVid is published (clips of single events, under
`videos/<page_dir>/<videoid>.mp4`), `pictures_{train,val}.json` as CC3M is listed for MCG (pictures
of the layout image_text), and `vocab.txt`, a WordPiece vocabulary for all of MCG's tasks.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import clips
import image_text
import msrvtt_qa
import msvd_qa
import next_oe
from facts import ACTIONS, WHERE, WITH, look
from retrieval import some
from vocabulary import word_pieces

COLUMNS = ("videoid", "contentUrl", "duration", "page_dir", "name")
SPLITS = ("train", "val")
PAGE = 100  # clips of a folder
ENDINGS = ("s", "ing")
_QUESTIONS = (msvd_qa, msrvtt_qa, next_oe)


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    contents: dict[str, bytes] = {}
    texts: list[str] = []  # of training
    for split in SPLITS:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, clip in videos(scenes).items():
            if clip.facts.split == split:
                page, _, number = name.partition("/")
                seconds = round(len(clip.frames) * clip.step / clip.facts.scene["fps"])
                caption = _caption(clip)
                writer.writerow((number, "", f"PT00H00M{seconds:02d}S", page, caption))
                texts += [caption] * (split == "train")
        contents[f"results_{split}.csv"] = text.getvalue().encode()
        pictures = list(_pictures(scenes, split))
        contents[f"pictures_{split}.json"] = json.dumps(pictures).encode()
        if split == "train":
            texts += [caption for picture in pictures for caption in picture["caption"]]
    contents["vocab.txt"] = _vocabulary([*texts, *_asked(scenes)])
    return contents


def videos(scenes: list[dict[str, Any]]) -> dict[str, clips.Clip]:
    """The clips of training and validation by <page_dir>/<videoid>."""
    found = [clip for clip in clips.singles(scenes) if clip.facts.split in SPLITS]
    return {
        f"{k // PAGE * PAGE + 1:06d}_{(k // PAGE + 1) * PAGE:06d}/{1000003 + 97 * k}": clip
        for k, clip in enumerate(found)
    }


def _vocabulary(texts: list[str]) -> bytes:
    """Words; those that are another one with an ending are two pieces."""
    words = {word for text in texts for word in re.findall(r"\w+", text.lower())}
    derived = {f"{word}{end}" for word in words if len(word) > 2 for end in ENDINGS}
    pieces = word_pieces(words - derived)
    pieces += [f"##{end}" for end in ENDINGS if f"##{end}" not in pieces]
    return ("\n".join(pieces) + "\n").encode()


def _caption(clip: clips.Clip) -> str:
    """What happens, to whom and where."""
    facts, (event,) = clip.facts, clip.events
    rng = random.Random(f"{clip.name}/webvid")
    one, where = facts.entities[event["subject"]], WHERE[facts.place]
    action = ACTIONS[event["verb"]].third
    if event["verb"] in WITH:
        action = f"{WITH[event['verb']].third} a {look(facts.entities[event['object']])}"
    elif event["verb"] == "hide":
        action = f"hides behind a {facts.prop['noun']}"
    text = rng.choice(("{who} {action} {where}, near a {thing}", "{where} {who} {action}",
                       "{who} {action} {where}"))  # fmt: skip
    thing = facts.prop["noun"] if event["verb"] != "hide" else facts.scenery
    text = text.format(who=some([one]), action=action, where=where, thing=thing)
    return f"{text[0].upper()}{text[1:]}."


def _pictures(scenes: list[dict[str, Any]], split: str) -> Iterator[dict[str, Any]]:
    """{"image", "caption"} of every picture of image_text."""
    lines = image_text.files(scenes)[f"captions_{split}.jsonl"].splitlines()
    for name, rows in groupby(map(json.loads, lines), lambda row: row["coco_id"]):
        yield {"image": f"{name}.jpg", "caption": [row["caption"] for row in rows]}


def _asked(scenes: list[dict[str, Any]]) -> Iterator[str]:
    """Questions and answers of all training splits."""
    training = [scene for scene in scenes if scene["split"] == "train"]
    for layout in _QUESTIONS:
        for name, content in layout.files(training).items():
            if name == "train.jsonl":
                rows = map(json.loads, content.splitlines())
            elif name == "train.csv":
                rows = csv.DictReader(io.StringIO(content.decode()))
            else:
                continue
            for row in rows:
                yield from (row["question"], row["answer"])
