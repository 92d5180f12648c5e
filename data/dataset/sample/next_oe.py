# SPDX-License-Identifier: Apache-2.0
"""The sample world in the form of NExT-QA's open-ended questions (NExT-OE).

`{train,val,test}.csv` (video, frame_count, width, height, question, answer, qid, type),
`map_vid_vidorID.json` (where a video is in `videos`), and `add_reference_answer_test.json`, second
answers for every other test video. Videos are clips of two events in a row, so that what comes
before and after can be seen in a few frames.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import clips
from facts import ACTIONS, WHERE, WITH, Entity, Event, Facts, look
from language import COLOUR_WORDS, SHAPE_WORDS
from msrvtt_qa import NUMBERS
from scene import PLACES, PROPS, VERBS
from tgif_qa import SPLITS, even

COLUMNS = ("video", "frame_count", "width", "height", "question", "answer", "qid", "type")
OTHER = {  # further words for answers, and for words of answers
    "jump": "hop", "spin": "rotate", "grow": "become bigger", "shrink": "become smaller",
    "blink": "flash", "hide": "disappear", "move left": "go left", "move right": "go right",
    "move up": "go up", "move down": "go down", "to the left": "leftwards",
    "to the right": "rightwards", "up": "upwards", "down": "downwards",
}  # fmt: skip
WORDS = {"meadow": "grass", "town": "street", "bigger": "larger", "smaller": "tiny",
         **dict(COLOUR_WORDS.values()), **dict(SHAPE_WORDS.values())}  # fmt: skip
WAYS = {"move_left": "to the left", "move_right": "to the right", "move_up": "up",
        "move_down": "down"}  # fmt: skip
SIZES = {"grow": "it becomes bigger", "shrink": "it becomes smaller"}
BEFORE, AFTER = 0, 1  # events of a clip
DESCRIBING = 3  # questions of a clip that are not about its events


class Asked(NamedTuple):
    """A question."""

    kind: str  # NExT-QA's: CW why, CH how, TN next, TP before, TC meanwhile, DB yes or no, ...
    text: str
    answer: str


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    found = videos(scenes)
    contents: dict[str, bytes] = {}
    for split in SPLITS:
        rng = random.Random(f"{split}/next_oe")
        rows = [row for name, clip in found.items() if clip.facts.split == split
                for row in _rows(name, clip, rng)]  # fmt: skip
        for kind in ("DB", "DC"):
            rows = even(rows, rng, kind)
        rng.shuffle(rows)
        contents[f"{split}.csv"] = _table(rows)
    places = {name: place(name) for name in found}
    contents["map_vid_vidorID.json"] = json.dumps(places, indent=1).encode()
    seconds: dict[str, dict[str, str]] = {}
    for row in rows:  # of the test split
        if int(row["video"]) % 2 == 0:
            seconds.setdefault(row["video"], {})[str(row["qid"])] = _second(row["answer"])
    contents["add_reference_answer_test.json"] = json.dumps(seconds, indent=1).encode()
    return contents


def _rows(name: str, clip: clips.Clip, rng: random.Random) -> Iterator[dict[str, Any]]:
    width, height = clips.SIZE
    about = {"video": name, "frame_count": len(clip.frames), "width": width, "height": height}
    for qid, asked in enumerate([*_events(clip), *_facts(clip, rng)]):
        yield about | {"question": asked.text, "answer": asked.answer, "qid": qid,
                       "type": asked.kind, "answer_type": asked.kind}  # fmt: skip


def videos(scenes: list[dict[str, Any]]) -> dict[str, clips.Clip]:
    """The clips by what they are called here: ten digits, as in NExT-QA."""
    found = clips.doubles(scenes)
    return {str(2400000000 + 7919 * number): clip for number, clip in enumerate(found)}


def place(name: str) -> str:
    """Where a video is, without ending: <its last four digits>/<name>."""
    return f"{name[-4:]}/{name}"


def _table(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _second(answer: str) -> str:
    """Another right answer; the same one if there are no other words."""
    return OTHER.get(answer) or " ".join(WORDS.get(word, word) for word in answer.split())


# what happens


def _events(clip: clips.Clip) -> Iterator[Asked]:
    """Causal and temporal questions."""
    facts, pair = clip.facts, clip.events
    ones = [facts.entities[event["subject"]] for event in pair]
    before, after = (ACTIONS[event["verb"]] for event in pair)
    same = ones[BEFORE] is ones[AFTER]
    first, second = map(look, ones)
    what = after.going_on if same else f"the {second} {after.third}"
    yield Asked("TP", f"what does the {first} do before {what}", before.plain)
    what = before.going_on if same else f"the {first} {before.third}"
    yield Asked("TN", f"what does the {second} do after {what}", after.plain)
    for event, one, when in zip(pair, ones, ("beginning", "end"), strict=True):
        yield Asked("TC", f"who acts at the {when} of the video", f"the {look(one)}")
        yield from _causes(facts, event, one)


def _causes(facts: Facts, event: Event, one: Entity) -> Iterator[Asked]:
    """Why and how, as far as it can be seen."""
    verb, who = event["verb"], look(one)
    if verb in WAYS:
        yield Asked("CH", f"how does the {who} move", WAYS[verb])
    elif verb in SIZES:
        yield Asked("CH", f"how does the size of the {who} change", SIZES[verb])
    elif verb == "hide":
        answer = f"it hides behind the {facts.prop['noun']}"
        yield Asked("CW", f"why can the {who} not be seen for a while", answer)
    elif verb in WITH:
        other = look(facts.entities[event["object"]])
        answer = f"to {WITH[verb].plain} the {other}"
        yield Asked("CW", f"why does the {who} go to another one", answer)


# what is there


def _facts(clip: clips.Clip, rng: random.Random) -> list[Asked]:
    """Descriptive questions; of those with yes or no the answer is drawn."""
    facts, event = clip.facts, rng.choice(clip.events)
    one, action = facts.entities[event["subject"]], ACTIONS[event["verb"]]
    done = {each["verb"] for each in clip.events}
    asked = [
        Asked("DL", "where are the shapes", WHERE[facts.place]),
        Asked("DO", "what is standing among the shapes", facts.prop["noun"]),
        Asked("DO", f"what color is the one that {action.third}", one["colour"]),
        Asked("DC", "how many shapes are there", NUMBERS[len(facts.cast)]),
        _yes_no(rng, "is there a {} in the video", [facts.scenery], PLACES.values()),
        _yes_no(rng, "is there a {} in the video", [facts.prop["noun"]], PROPS),
        _yes_no(rng, "is someone {} in the video", [ACTIONS[v].going_on for v in done],
                [ACTIONS[v].going_on for v in VERBS]),
    ]  # fmt: skip
    return rng.sample(asked, DESCRIBING)


def _yes_no(rng: random.Random, text: str, true: Sequence[str], words: Sequence[str]) -> Asked:
    """A question about one of ``words``, which is true or not with equal chances."""
    answer = rng.choice(("yes", "no"))
    word = rng.choice([each for each in words if (each in true) == (answer == "yes")])
    return Asked("DB", text.format(word), answer)
