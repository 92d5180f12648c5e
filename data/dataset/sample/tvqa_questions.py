# SPDX-License-Identifier: Apache-2.0
"""Questions with five choices about the sample world, in the manner of TVQA+.

Some are answered by what is said, some by what is seen, some by what is seen while something is
said. Wrong choices are of the right one's kind: first what belongs to the same video, then what
could have been. Which of them is right cannot be told from the words of the question.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from language import FORMS, REASONS
from scene import COLOURS, NAMES, PAIR_VERBS, PLACES, PROPS, VERBS

RATE = 3  # frames of TVQA+'s grid per second
NOUNS = (*PROPS, *PLACES.values())
PAIR_PHRASES = {"meet": "meet", "swap": "swap places with", "chase": "chase"}

Entity = dict[str, Any]
Event = dict[str, Any]
Line = dict[str, Any]
Mention = tuple[str, str]  # entity id, label: its noun, colour or name


class Question(NamedTuple):
    """One question about a video; all texts are tokens between blanks."""

    text: str
    right: str
    wrong: list[str]  # four
    moment: tuple[float, float]  # seconds, where the evidence is
    mentions: set[Mention]  # what question and right answer name


class Clip:
    """One video's people, lines and events, and wrong choices to go with them."""

    def __init__(self, scene: dict[str, Any], rng: random.Random) -> None:
        self.scene, self.rng = scene, rng
        self.entities: dict[str, Entity] = {e["id"]: e for e in scene["entities"]}
        self.cast = [e for e in scene["entities"] if e["kind"] == "character"]
        self.events: list[Event] = scene["events"]
        self.lines: list[Line] = scene["subtitles"]

    def plans(self, *kinds: str) -> Iterator[tuple[Event, Line, Entity]]:
        """(event, line that tells why, subject) of the events with a cause of these kinds."""
        for event in self.events:
            if event["cause"] and event["cause"]["kind"] in kinds:
                line = self.lines[event["cause"]["subtitle"]]
                yield event, line, self.entities[event["subject"]]

    def ask(self, text: str, right: str, groups: Iterable[Iterable[str]],
            moment: Iterable[float], *mentions: Mention) -> Question:  # fmt: skip
        """Four wrong choices from the groups: as many as there are of the first one, and so on."""
        wrong: list[str] = []
        for group in groups:
            left = sorted(set(group) - {right, *wrong})
            wrong += self.rng.sample(left, min(len(left), 4 - len(wrong)))
        start, end = moment
        wrong = [answer(choice) for choice in wrong]
        return Question(tokens(f"{text} ?"), answer(right), wrong, (start, end), set(mentions))

    def names(self, *but: str) -> list[list[str]]:
        """Names to choose from: of the video, then all; without these."""
        present = [e["name"] for e in self.cast]
        return [[n for n in names if n not in but] for names in (present, NAMES)]

    def ones(self, *but: Entity) -> list[list[str]]:
        """Colours to choose from, which nobody shares: of the video, then all; without these."""
        taken = {e["colour"] for e in but}
        present = [e["colour"] for e in self.cast]
        return [[one(c) for c in colours if c not in taken] for colours in (present, COLOURS)]

    def reasons(self, subject: Entity) -> list[list[str]]:
        """Reasons to choose from: told in the video, then made up; none about the subject."""
        told = [event["cause"]["text"] for event, *_ in self.plans("reason", "event")]
        could = self.rng.sample(REASONS, 10)
        for i in range(10):
            if self.rng.random() < 0.28:  # as often as somebody else's deed is the real reason
                who = self.rng.choice([e for e in self.cast if e is not subject])
                could[i] = f"{who['name']} {self.action(who, 1)}"
        return [[r for r in told if subject["name"] not in r.split()], could]

    def actions(self, subject: Entity) -> list[list[str]]:
        """Wishes to choose from: uttered in the video, then made up; none with the subject."""
        plans = self.plans("reason", "event", "request")
        told = [self.told(event, line) for event, line, _ in plans]
        could = [self.action(subject, 0) for _ in range(20)]
        return [[a for a in told if subject["name"] not in a.split()], could]

    def heard(self, line: Line) -> tuple[float, float]:
        """From the beginning of a line to the next one's, 8 s at most."""
        end = self.scene["num_frames"] / self.scene["fps"]
        later = [other["start"] for other in lines(self.scene) if other["start"] > line["start"]]
        return line["start"], min([*later, end, line["start"] + 8.0])

    def told(self, event: Event, line: Line) -> str:
        """What is wished for, in the words of the line: "meet Ben"."""
        return self._form(event["verb"], event["object"], 0, line["speaker"])

    def action(self, subject: Entity, form: int) -> str:
        """Something that the subject could do (form 0) or have done (1)."""
        verb = self.rng.choice(VERBS)
        others = [e["id"] for e in self.cast if e is not subject]
        return self._form(verb, self.rng.choice(others) if verb in PAIR_VERBS else None, form, "")

    def _form(self, verb: str, other: str | None, form: int, speaker: str) -> str:
        if verb == "hide":
            called = f"the {self.entities[other]['noun'] if other else self.rng.choice(PROPS)}"
        else:
            called = "me" if other == speaker else self.entities[other]["name"] if other else ""
        return FORMS[verb][form].format(o=called)


def questions(scene: dict[str, Any], rng: random.Random) -> list[Question]:
    """All questions about a video."""
    clip = Clip(scene, rng)
    kinds = (_reasons, _wishes, _requests, _actors, _bystanders, _partners)
    return [question for kind in kinds for question in kind(clip)]


def lines(scene: dict[str, Any]) -> list[Line]:
    """What is spoken, but for the introductions: they say in words what shall be seen."""
    return [line for line in scene["subtitles"] if line["kind"] != "name"]


# what is said


def _reasons(clip: Clip) -> Iterator[Question]:
    """Why: by name, where it is said, or by look, where it is seen to happen."""
    for event, line, subject in clip.plans("reason", "event"):
        verb, why = clip.told(event, line), event["cause"]["text"]
        if clip.rng.random() < 0.5:
            yield clip.ask(f"Why does {subject['name']} want to {verb}", why, clip.reasons(subject),
                           clip.heard(line), called(subject))  # fmt: skip
        else:
            yield clip.ask(f"Why does {look(subject)} {verb}", why, clip.reasons(subject),
                           event["seconds"], seen(subject))  # fmt: skip


def _wishes(clip: Clip) -> Iterator[Question]:
    """What somebody wants to do for a reason, or who wants it."""
    plans = list(clip.plans("reason", "event"))
    told = Counter(clip.told(event, line) for event, line, _ in plans)
    given = Counter((line["speaker"], event["cause"]["text"]) for event, line, _ in plans)
    for event, line, subject in plans:
        verb, why = clip.told(event, line), event["cause"]["text"]
        if clip.rng.random() < 0.5 and given[line["speaker"], why] == 1:
            yield clip.ask(f"What does {subject['name']} want to do because ' {why} '", verb,
                           clip.actions(subject), clip.heard(line), called(subject))  # fmt: skip
        elif told[verb] == 1:
            yield clip.ask(f"Who wants to {verb}", subject["name"], clip.names(),
                           clip.heard(line), called(subject))  # fmt: skip


def _requests(clip: Clip) -> Iterator[Question]:
    """Who asks whom for what."""
    for event, line, subject in clip.plans("request"):
        verb, by = clip.told(event, line), clip.entities[line["speaker"]]
        yield clip.ask(f"Who asks {subject['name']} to {verb}", by["name"],
                       clip.names(subject["name"]), clip.heard(line), called(subject),
                       called(by))  # fmt: skip


# what is seen


def _heard(clip: Clip) -> Iterator[tuple[Line, str]]:
    """Lines that nobody says twice, with "when Ada says ' I am late '"."""
    heard = Counter((line["speaker"], said(line)) for line in lines(clip.scene))
    for line in lines(clip.scene):
        if heard[line["speaker"], said(line)] == 1:
            yield line, f"when {line['name']} says ' {said(line)} '"


def _actors(clip: Clip) -> Iterator[Question]:
    """Who acts while something is said, where that is one and the same most of the time."""
    for line, when in _heard(clip):
        for event in clip.events:
            (begin, end), (first, last) = event["seconds"], clip.heard(line)
            spoken = min(line["end"], end) - max(line["start"], begin)
            if spoken >= 0.6 * (line["end"] - line["start"]):
                subject = clip.entities[event["subject"]]
                yield clip.ask(f"Which one acts {when}", one(subject["colour"]), clip.ones(),
                               (max(begin, first), min(end, last)), coloured(subject))  # fmt: skip


def _bystanders(clip: Clip) -> Iterator[Question]:
    """What stands around while something is said."""
    present = sorted({e["noun"] for e in clip.entities.values() if e["kind"] != "character"})
    absent = [f"the {noun}" for noun in NOUNS if noun not in present]
    for line, when in _heard(clip):
        noun = clip.rng.choice(present)
        things = [seen(e) for e in clip.entities.values() if e["noun"] == noun]
        question = f"What stands around {when}"
        yield clip.ask(question, f"the {noun}", [absent], clip.heard(line), *things)


def _partners(clip: Clip) -> Iterator[Question]:
    """With whom somebody does something."""
    for event in (event for event in clip.events if event["verb"] in PAIR_PHRASES):
        subject, other = clip.entities[event["subject"]], clip.entities[event["object"]]
        yield clip.ask(f"Which one does {look(subject)} {PAIR_PHRASES[event['verb']]}",
                       one(other["colour"]), clip.ones(subject), event["seconds"],
                       seen(subject), coloured(other))  # fmt: skip


# words


def tokens(text: str) -> str:
    """Words and marks, one blank between any two."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text))


def answer(text: str) -> str:
    """A choice as it is written: capital letter, full stop."""
    return tokens(f"{text[0].upper()}{text[1:]} .")


def look(entity: Entity) -> str:
    """What a character looks like."""
    return f"the {entity['colour']} {entity['shape']}"


def one(colour: str) -> str:
    """What a character is called where its colour tells it from the others."""
    return f"the {colour} one"


def coloured(entity: Entity) -> Mention:
    """The entity is mentioned by its colour."""
    return entity["id"], entity["colour"]


def seen(entity: Entity) -> Mention:
    """The entity is mentioned by its noun."""
    return entity["id"], entity["noun"]


def called(entity: Entity) -> Mention:
    """The entity is mentioned by its name."""
    return entity["id"], entity["name"]


def said(line: Line) -> str:
    """What tells a line from others: the reason, the request, or all of it."""
    part = re.search(r"(?:because | (?=please ))(.*)", line["text"])
    return (part[1] if part else line["text"]).rstrip(".!?")
