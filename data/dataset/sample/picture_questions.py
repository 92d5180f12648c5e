# SPDX-License-Identifier: Apache-2.0
"""Everything that can be asked about a video of the sample world in the manner of ANetQA.

Nothing needs motion or order: a picture, or how often pictures show something, gives the answer.
Which of the questions are asked, so that their words give nothing away, is decided in anetqa.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import combinations, permutations
from typing import Any, NamedTuple

from facts import ACTIONS, SCENERY, WHERE, WITH, Entity, Facts
from scene import COLOURS, PROPS, SHAPES, VERBS

LONGER = 1.6  # times: when somebody acts longer than another one
YES_NO = ("no", "yes")
LOOKS = {"colour": "color", "shape": "shape"}  # as scenes.json and as ANetQA call them
AXES = (("left", "right"), ("up", "down"))
SIDES = (("left of", "right of"), ("above", "below"))
WAYS = (  # axis, direction, who is furthest that way, who is on that side
    (0, 1, "leftmost", "left of"), (0, -1, "rightmost", "right of"),
    (1, 1, "topmost", "above"), (1, -1, "lowest", "below"),
)  # fmt: skip


class Question(NamedTuple):
    """One question about a video."""

    kind: str
    text: str  # offers its options at {a} and {b}
    answer: str
    program: str
    about: list[str]  # entity ids
    event: dict[str, Any] | None = None  # where it is seen; None: anywhere
    options: tuple[str, str] | None = None  # the two possible answers, sorted; None: open


def candidates(facts: Facts) -> Iterator[Question]:
    """Whatever can be asked about a video."""
    for ask in ASKING:
        yield from ask(facts)


def _what(
    kind: str, key: str, who: str, one: Entity, program: str, event: dict[str, Any] | None = None
) -> Iterator[Question]:
    """What colour or shape (`key`) is this one, called `who`?"""
    what = LOOKS[key]
    for text in (f"What {what} is {who}?", f"What is the {what} of {who}?",
                 f"Which {what} does {who} have?"):  # fmt: skip
        yield Question(kind, text, one[key], f"{program}->query({what})", [one["id"]], event)


def _yes_no(kind: str, text: str, true: bool, program: str, *about: Entity) -> Question:
    return Question(kind, text, YES_NO[true], program, _ids(about), options=YES_NO)


def _either(
    kind: str, text: str, right: str, wrong: str, program: str, *about: Entity
) -> Question:
    options = (min(right, wrong), max(right, wrong))
    program = program.format(a=options[0], b=options[1])
    return Question(kind, text, right, program, _ids(about), options=options)


def _ids(about: Iterable[Entity]) -> list[str]:
    return [entity["id"] for entity in about]


def _but(words: Iterable[str], without: Collection[str]) -> list[str]:
    return [word for word in words if word not in without]


def _event(facts: Facts, verb: str) -> dict[str, Any]:
    return next(event for event in facts.events if event["verb"] == verb)


# what is it like


def _attributes(facts: Facts) -> Iterator[Question]:
    """What color is the circle? What shape is the red one?"""
    for shape, one in facts.single.items():
        yield from _what("colour", "colour", f"the {shape}", one, f"select({shape})")
    for colour, one in facts.by_colour.items():
        yield from _what("shape", "shape", f"the {colour} one", one, f"filter({colour})")


def _actors(facts: Facts) -> Iterator[Question]:
    """What color is the one that jumps? What shape is the one that acts longest?"""
    for verb, doers in facts.doers.items():
        if len(doers) == 1:
            who, program = f"the one that {ACTIONS[verb].third}", f"action({ACTIONS[verb].plain})"
            for key in LOOKS:
                yield from _what(f"actor's {key}", key, who, doers[0], f"{program}->subject()",
                                 _event(facts, verb))  # fmt: skip
    times = sorted(facts.acting.items(), key=lambda item: -item[1])
    if times[0][1] > LONGER * times[1][1]:
        for key in LOOKS:
            yield from _what("longest", key, "the one that acts longest",
                             facts.entities[times[0][0]], "action()->longest()")  # fmt: skip


def _outermost(facts: Facts) -> Iterator[Question]:
    """What color is the leftmost one? What shape is the one left of the crate?"""
    prop = facts.prop["noun"]
    for one in facts.cast:
        others = [other for other in facts.cast if other is not one]
        for axis, turn, end, side in WAYS:
            if all(facts.before(*(one, other)[::turn], axis) for other in others):
                for key in LOOKS:
                    yield from _what("outermost", key, f"the {end} one", one, f"filter({end})")
            if facts.before(*(one, facts.prop)[::turn], axis) and not any(
                facts.sometimes(*(other, facts.prop)[::turn], axis) for other in others
            ):
                for key in LOOKS:
                    yield from _what("beside", key, f"the one {side} the {prop}", one,
                                     f"relation({side},{prop})")  # fmt: skip


# what is there, where, with whom


def _things(facts: Facts) -> Iterator[Question]:
    """What stands among them? What stands at the sides? Where are they? Where is the crate?"""
    prop = facts.prop["noun"]
    for kind, answer, about, texts in (
        ("prop", prop, [facts.prop],
         ("What stands among them?", "What is in their way?", "What do they play with?")),
        ("scenery", facts.scenery, [facts.entities["s0"]],
         ("What stands at the sides?", "What is on both sides?", "What do they play between?")),
        ("place", WHERE[facts.place], [],
         ("Where are they?", "Where do they play?", "Where does it happen?")),
    ):  # fmt: skip
        for text in texts:
            yield Question(kind, text, answer, f"scene()->query({kind})", _ids(about))
    for axis, text in enumerate((f"On which side is the {prop}?", f"How high is the {prop}?")):
        yield Question("stand", text, facts.stands[axis], f"select({prop})->query(position)",
                       [facts.prop["id"]])  # fmt: skip


def _partners(facts: Facts) -> Iterator[Question]:
    """What does the red one hide behind? What does it do with the blue one? Whom does it chase?"""
    for one in facts.doers["hide"]:
        text = f"What does the {one['colour']} one hide behind?"
        program = f"filter({one['colour']})->relation(hide behind)->query(name)"
        yield Question("cover", text, facts.prop["noun"], program, _ids([one, facts.prop]),
                       _event(facts, "hide"))  # fmt: skip
    for (subject, object_), events in facts.pairs.items():
        one, other, event = facts.entities[subject], facts.entities[object_], events[0]
        verb, a, b = event["verb"], one["colour"], other["colour"]
        if len(events) == 1 and event["subject"] == subject:
            program = f"filter({a})->relation({b})->query(action)"
            yield Question("relation", f"What does the {a} one do with the {b} one?",
                           WITH[verb].plain, program, [subject, object_], event)  # fmt: skip
        if len(events) == 1 and len(facts.with_whom(verb, subject, 0)) == 1:
            who = f"the one that the {a} one {WITH[verb].third}"
            for key in LOOKS:
                yield from _what("partner", key, who, other, f"object({a},{WITH[verb].plain})",
                                 event)  # fmt: skip
        if len(events) == 1 and len(facts.with_whom(verb, object_, 1)) == 1 and verb != "swap":
            who = f"the one that {WITH[verb].third} the {b} one"
            for key in LOOKS:
                yield from _what("partner", key, who, one, f"subject({WITH[verb].plain},{b})",
                                 event)  # fmt: skip


# one of two


def _choose_look(facts: Facts) -> Iterator[Question]:
    """Is the circle red or blue? Is the red one a circle or a star?"""
    for shape, one in facts.single.items():
        for colour in _but(COLOURS, [one["colour"]]):
            yield _either("choose colour", f"Is the {shape} {{a}} or {{b}}?", one["colour"], colour,
                          f"select({shape})->choose({{a}},{{b}})", one)  # fmt: skip
    for colour, one in facts.by_colour.items():
        for shape in _but(SHAPES, [one["shape"]]):
            yield _either("choose shape", f"Is the {colour} one a {{a}} or a {{b}}?", one["shape"],
                          shape, f"filter({colour})->choose({{a}},{{b}})", one)  # fmt: skip


def _choose_thing(facts: Facts) -> Iterator[Question]:
    """What is there, a crate or a barrel? Which color is there, red or blue?"""
    for words, present, text in (
        (PROPS, [facts.prop["noun"]], "What is there, a {a} or a {b}?"),
        (SCENERY, [facts.scenery], "What is there, a {a} or a {b}?"),
        (COLOURS, facts.by_colour, "Which color is there, {a} or {b}?"),
    ):
        for right in present:
            for wrong in _but(words, present):
                yield _either("choose thing", text, right, wrong, "scene()->choose({a},{b})")


def _sides(facts: Facts) -> Iterator[Question]:
    """Is the red one left of or right of the crate? Is the red one left of the crate?"""
    prop = facts.prop["noun"]
    for colour, one in facts.by_colour.items():
        for axis, (near, far) in enumerate(SIDES):
            if facts.before(one, facts.prop, axis):
                right, wrong = near, far
            elif facts.before(facts.prop, one, axis):
                right, wrong = far, near
            else:
                continue
            program = f"filter({colour})->relation({prop})"
            yield _either("choose side", f"Is the {colour} one {{a}} or {{b}} the {prop}?", right,
                          wrong, f"{program}->choose({{a}},{{b}})", one, facts.prop)  # fmt: skip
            for word in (near, far):
                yield _yes_no("side", f"Is the {colour} one {word} the {prop}?", word == right,
                              f"{program}->verify({word})", one, facts.prop)  # fmt: skip


def _choose_action(facts: Facts) -> Iterator[Question]:
    """Does the red one jump or spin?"""
    for colour, one in facts.by_colour.items():
        done = [verb for verb in VERBS if facts.does(one, verb)]
        for verb in done:
            for other in _but(VERBS, done):
                yield _either("choose action", f"Does the {colour} one {{a}} or {{b}}?",
                              ACTIONS[verb].plain, ACTIONS[other].plain,
                              f"filter({colour})->action()->choose({{a}},{{b}})", one)  # fmt: skip


# yes or no


def _exist(facts: Facts) -> Iterator[Question]:
    """Is there a crate? Is there something red? Is there a red circle?"""
    things = {facts.prop["noun"], facts.scenery, *facts.shapes}
    for word in (*PROPS, *SCENERY, *SHAPES):
        yield _yes_no("exist", f"Is there a {word}?", word in things, f"exist({word})")
    for colour in COLOURS:
        one = facts.by_colour.get(colour)
        yield _yes_no("exist", f"Is there something {colour}?", bool(one), f"exist({colour})")
        for shape in SHAPES:
            if one or shape in facts.shapes:  # one of both is there at least
                true = bool(one) and one["shape"] == shape
                yield _yes_no("exist with", f"Is there a {colour} {shape}?", true,
                              f"filter({colour})->exist({shape})")  # fmt: skip


def _is(facts: Facts) -> Iterator[Question]:
    """Is the circle red? Is the red one a circle?"""
    for shape, one in facts.single.items():
        for colour in COLOURS:
            yield _yes_no("is", f"Is the {shape} {colour}?", one["colour"] == colour,
                          f"select({shape})->verify({colour})", one)  # fmt: skip
    for colour, one in facts.by_colour.items():
        for shape in SHAPES:
            yield _yes_no("is", f"Is the {colour} one a {shape}?", one["shape"] == shape,
                          f"filter({colour})->verify({shape})", one)  # fmt: skip


def _does(facts: Facts) -> Iterator[Question]:
    """Does someone jump? Does the red one jump? Does the red one chase the blue one?"""
    for verb, words in ACTIONS.items():
        action = f"action({words.plain})"
        yield _yes_no("does", f"Does someone {words.plain}?", bool(facts.doers[verb]),
                      f"{action}->exist()", *facts.doers[verb])  # fmt: skip
        for colour, one in facts.by_colour.items():
            yield _yes_no("does", f"Does the {colour} one {words.plain}?", facts.does(one, verb),
                          f"filter({colour})->verify({action})", one)  # fmt: skip
    for one, other in permutations(facts.cast, 2):
        found = {event["verb"] for event in facts.pairs.get((one["id"], other["id"]), ())}
        a, b = one["colour"], other["colour"]
        for verb, words in WITH.items():
            yield _yes_no("with", f"Does the {a} one {words.plain} the {b} one?", verb in found,
                          f"filter({a})->relation({words.plain})->verify({b})",
                          one, other)  # fmt: skip


# two of them


def _compare(facts: Facts) -> Iterator[Question]:
    """Which one is further left, acts longer, jumps? Have the two of them the same shape?"""
    for one, other in permutations(facts.cast, 2):
        a, b = one["colour"], other["colour"]
        for axis in (0, 1):
            if facts.before(one, other, axis):
                for word, right, wrong in zip(AXES[axis], (a, b), (b, a), strict=True):
                    yield _which("further", f"is further {word}", right, wrong, word, one, other)
        if facts.acting[one["id"]] > LONGER * facts.acting[other["id"]]:
            yield _which("longer", "acts longer", a, b, "longer", one, other)
        for verb, words in ACTIONS.items():
            if facts.does(one, verb) and not facts.does(other, verb):
                yield _which("which acts", words.third, a, b, words.plain, one, other)
        if a < b:
            text = f"Do the {a} one and the {b} one have the same shape?"
            yield _yes_no("same shape", text, one["shape"] == other["shape"],
                          f"compare({a},{b})->same(shape)", one, other)  # fmt: skip


def _which(
    kind: str, does: str, right: str, wrong: str, what: str, one: Entity, other: Entity
) -> Question:
    return _either(kind, f"Which one {does}, the {{a}} one or the {{b}} one?", right, wrong,
                   f"compare({{a}},{{b}})->choose({what})", one, other)  # fmt: skip


# and, or


def _logic(facts: Facts) -> Iterator[Question]:
    """Is there something red and something blue? Is there a crate or a tree?"""
    plain = [words.plain for words in ACTIONS.values()]
    acted = [ACTIONS[verb].plain for verb, doers in facts.doers.items() if doers]
    things = [(prop, noun) for prop in PROPS for noun in SCENERY] + [*combinations(SHAPES, 2)]
    present = {facts.prop["noun"], facts.scenery, *facts.shapes}
    colours = combinations(COLOURS, 2)
    for what, pairs, found, text in (
        ("colour", colours, facts.by_colour, "Is there something {} something {}?"),
        ("thing", things, present, "Is there a {} a {}?"),
        ("action", combinations(plain, 2), acted, "Does someone {} someone {}?"),
    ):
        for a, b in pairs:
            true = (a in found) + (b in found)
            if true:  # who only looks for one of the two is right half of the time
                yield _yes_no(f"both {what}s", text.format(f"{a} and", b), true == 2,
                              f"and(exist({a}),exist({b}))")  # fmt: skip
            if true < 2:
                yield _yes_no(f"either {what}", text.format(f"{a} or", b), true == 1,
                              f"or(exist({a}),exist({b}))")  # fmt: skip


ASKING: tuple[Callable[[Facts], Iterator[Question]], ...] = (
    _attributes, _actors, _outermost, _things, _partners, _choose_look, _choose_thing, _sides,
    _choose_action, _exist, _is, _does, _compare, _logic,
)  # fmt: skip
