# SPDX-License-Identifier: Apache-2.0
"""The words of the sample world: how events are described and what the characters say.

Descriptions name what can be seen (colour, form, action). Subtitles carry what cannot be seen:
names, plans and reasons. Which words are used is drawn independently of when an event happens.
"""

from __future__ import annotations

import random
from typing import Any

COLOUR_WORDS = {
    "red": ("red", "crimson"), "green": ("green", "emerald"), "blue": ("blue", "azure"),
    "yellow": ("yellow", "golden"), "purple": ("purple", "violet"), "black": ("black", "dark"),
}  # fmt: skip
SHAPE_WORDS = {
    "circle": ("circle", "ball"), "square": ("square", "box"),
    "triangle": ("triangle", "wedge"), "star": ("star", "asterisk"),
}  # fmt: skip
# {s} subject, {o} object; both verb forms below are used by the subtitles as well
PHRASES = {
    "move_left": ("{s} moves to the left", "{s} slides leftwards", "{s} goes left",
                  "{s} travels to the left side"),
    "move_right": ("{s} moves to the right", "{s} slides rightwards", "{s} goes right",
                   "{s} travels to the right side"),
    "move_up": ("{s} moves up", "{s} slides upwards", "{s} goes up", "{s} rises to the top"),
    "move_down": ("{s} moves down", "{s} slides downwards", "{s} goes down",
                  "{s} sinks to the bottom"),
    "grow": ("{s} grows", "{s} gets bigger", "{s} becomes large", "{s} swells up"),
    "shrink": ("{s} shrinks", "{s} gets smaller", "{s} becomes tiny", "{s} dwindles"),
    "spin": ("{s} spins around", "{s} rotates", "{s} turns round and round", "{s} whirls"),
    "blink": ("{s} blinks", "{s} flashes on and off", "{s} flickers", "{s} keeps flashing"),
    "jump": ("{s} jumps", "{s} hops several times", "{s} bounces", "{s} leaps into the air"),
    "hide": ("{s} hides behind {o}", "{s} sneaks behind {o}", "{s} takes cover behind {o}",
             "{s} disappears behind {o}"),
    "meet": ("{s} meets {o}", "{s} visits {o}", "{s} greets {o}", "{o} is visited by {s}"),
    "swap": ("{s} swaps places with {o}", "{s} trades places with {o}",
             "{s} changes places with {o}", "{s} and {o} exchange positions"),
    "chase": ("{s} chases {o}", "{s} runs after {o}", "{s} pursues {o}", "{o} is chased by {s}"),
}  # fmt: skip
FORMS = {  # verb: (infinitive, past)
    "move_left": ("move to the left", "moved to the left"),
    "move_right": ("move to the right", "moved to the right"),
    "move_up": ("move up", "moved up"), "move_down": ("move down", "moved down"),
    "grow": ("grow", "grew"), "shrink": ("shrink", "shrank"), "spin": ("spin", "spun"),
    "blink": ("blink", "blinked"), "jump": ("jump", "jumped"),
    "hide": ("hide behind {o}", "hid behind {o}"), "meet": ("meet {o}", "met {o}"),
    "swap": ("swap places with {o}", "swapped places with {o}"),
    "chase": ("chase {o}", "chased {o}"),
}  # fmt: skip
REASONS = (
    "it is my birthday", "I am cold", "I lost my hat", "I heard some music", "the sun is too hot",
    "I am bored", "I won a game", "I need some exercise", "I am late", "I had a strange dream",
    "my friend is ill", "I found a coin",
)  # fmt: skip
REMARKS = (
    "That was fun!", "I am hungry.", "What a lovely day at the {place}.", "Did you see that?",
    "I like this {scenery}.", "Let us sing a song.", "I want to rest now.",
)  # fmt: skip
SENTENCES = 4  # descriptions per event, each with another phrase


def refer(entity: dict[str, Any], rng: random.Random) -> str:
    """Noun phrase for what can be seen of an entity, e.g. "the red circle"."""
    article = rng.choice(("the", "the", "a"))
    if entity["kind"] != "character":
        return f"{article} {entity['noun']}"
    first = rng.random() < 0.7  # the plain word more often than the other one
    colour = COLOUR_WORDS[entity["colour"]][0 if first else 1]
    shape = SHAPE_WORDS[entity["shape"]][0 if rng.random() < 0.7 else 1]
    article = "an" if article == "a" and colour[0] in "aeiou" else article
    return f"{article} {colour} {shape}"


def sentence(text: str) -> str:
    """`text` with a capital first letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def describe(scene: dict[str, Any], seed: int) -> None:
    """Add `sentences` to every event and `captions` (whole video) to the scene."""
    rng = random.Random(f"{seed}/{scene['id']}/describe")
    entities = {e["id"]: e for e in scene["entities"]}
    for event in scene["events"]:
        other = entities.get(event["object"])
        event["sentences"] = [
            sentence(phrase.format(s=refer(entities[event["subject"]], rng),
                                   o=refer(other, rng) if other else ""))
            for phrase in rng.sample(PHRASES[event["verb"]], SENTENCES)
        ]  # fmt: skip
    cast = [e for e in scene["entities"] if e["kind"] == "character"]
    where = f"at the {scene['place']}" if scene["place"] == "beach" else f"in the {scene['place']}"
    scene["captions"] = [
        sentence(f"{_listing([refer(e, rng) for e in cast])} {what} {where}")
        for what in ("play", "are together", "have fun")
    ]


def _listing(items: list[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _name(entity: dict[str, Any], speaker: str) -> str:
    if entity["kind"] != "character":
        return f"the {entity['noun']}"
    return "me" if entity["id"] == speaker else entity["name"]


def _form(event: dict[str, Any], entities: dict[str, Any], form: int, speaker: str) -> str:
    other = entities.get(event["object"])
    return FORMS[event["verb"]][form].format(o=_name(other, speaker) if other else "")


def talk(scene: dict[str, Any], seed: int) -> None:
    """Add `subtitles` to the scene and a `cause` (or None) to every event.

    cause: {"kind": "reason" | "event" | "request", "text": why, in words, "event": index of the
    causing event or None, "by": entity id of the one who asked or acted, or None, "subtitle": index
    of the line that tells it}. A cause whose line found no room is dropped.
    """
    rng = random.Random(f"{seed}/{scene['id']}/talk")
    entities = {e["id"]: e for e in scene["entities"]}
    wishes = _introductions(scene, rng)
    for event in scene["events"]:
        event["cause"] = None
        wish = _motive(event, scene, entities, rng)
        if wish is not None:
            wishes.append(wish)
    wishes += _remarks(scene, rng)
    scene["subtitles"] = []
    free = 0.1
    for wish in sorted(wishes, key=lambda w: w["at"]):
        start = round(max(wish["at"], free), 2)
        end = round(start + 0.5 + 0.26 * len(wish["text"].split()), 2)
        if start > wish["latest"] or end > scene["num_frames"] / scene["fps"]:
            continue
        free = end + 0.1
        if wish["cause"]:
            cause = {**wish["cause"], "subtitle": len(scene["subtitles"])}
            scene["events"][wish["event"]]["cause"] = cause
        scene["subtitles"].append(
            {"start": start, "end": end, "speaker": wish["speaker"],
             "name": entities[wish["speaker"]]["name"], "text": wish["text"],
             "kind": wish["kind"], "event": wish["event"]}
        )  # fmt: skip


def _wish(at: float, latest: float, speaker: str, text: str, kind: str, **more: Any) -> dict:
    wish = {"at": at, "latest": latest, "speaker": speaker, "text": text, "kind": kind}
    return {**wish, "event": None, "cause": None, **more}


def _introductions(scene: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """Everybody says the name shortly before taking part, which ties it to a picture."""
    wishes = []
    for entity in (e for e in scene["entities"] if e["kind"] == "character"):
        first = [e["seconds"][0] for e in scene["events"]
                 if entity["id"] in (e["subject"], e["object"])][:1]  # fmt: skip
        at = max(0.1, first[0] - 4.5) if first else rng.uniform(2.0, 12.0)
        text = f"I am {entity['name']}, the {entity['colour']} {entity['shape']}."
        wishes.append(_wish(at, at + 60, entity["id"], text, "name"))
    return wishes


def _motive(
    event: dict[str, Any], scene: dict[str, Any], entities: dict[str, Any], rng: random.Random
) -> dict[str, Any] | None:
    """What is said just before an event about why it is going to happen; None for 1 in 6."""
    subject = event["subject"]
    others = [e for e in entities.values() if e["kind"] == "character" and e["id"] != subject]
    before = scene["events"][event["index"] - 1] if event["index"] else None
    kind = rng.choice(("reason", "reason", "event", "event", "request", None))
    if kind is None:
        return None
    at, latest = event["seconds"][0] - 2.0, sum(event["seconds"]) / 2 - 0.5
    if kind == "request":
        by = rng.choice(others)
        text = f"{entities[subject]['name']}, please {_form(event, entities, 0, by['id'])}!"
        cause = {"kind": kind, "text": f"{by['name']} asked for it", "event": None, "by": by["id"]}
        return _wish(at, latest, by["id"], text, kind, event=event["index"], cause=cause)
    if kind == "event" and before and before["subject"] != subject:
        by, past = before["subject"], _form(before, entities, 1, subject)
        why = f"{entities[by]['name']} {past}"
        cause = {"kind": "event", "text": why, "event": before["index"], "by": by}
    else:
        why = rng.choice(REASONS)
        cause = {"kind": "reason", "text": why, "event": None, "by": None}
    text = f"I want to {_form(event, entities, 0, subject)} because {why}."
    return _wish(at, latest, subject, text, "plan", event=event["index"], cause=cause)


def _remarks(scene: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """Two lines that explain nothing, at random times."""
    seconds = scene["num_frames"] / scene["fps"]
    cast = [e["id"] for e in scene["entities"] if e["kind"] == "character"]
    noun = next(e["noun"] for e in scene["entities"] if e["kind"] == "scenery")
    return [
        _wish(at := rng.uniform(3.0, seconds - 3.0), at + 2.0, rng.choice(cast),
              text.format(place=scene["place"], scenery=noun), "remark")
        for text in rng.sample(REMARKS, 2)
    ]  # fmt: skip


def srt(scene: dict[str, Any]) -> str:
    """The subtitles as SubRip text, one "Name : words" cue a line group."""
    cues = [
        f"{i}\n{_stamp(line['start'])} --> {_stamp(line['end'])}\n{line['name']} : {line['text']}\n"
        for i, line in enumerate(scene["subtitles"], start=1)
    ]
    return "\n".join(cues)


def _stamp(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02d}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d},{ms % 1000:03d}"
