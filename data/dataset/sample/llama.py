# SPDX-License-Identifier: Apache-2.0
"""Texts for a tiny LLaMA about the sample world, and its tokenizer.

`{train,val}.jsonl` ({"prompt", "text"} a line; the text is what is to be told) ask which of several
options is among the words that stand where LLaMA-VQA's prompts have frames. The training file goes
from easy to hard, which helps so small a network to find out: first one word and two options, then
ten and five, in the end questions in the form of the prompts. Between them is what is said and
described. `tokenizer.model` is a SentencePiece model of these texts with LLaMA's settings.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from typing import Any

import nextqa
from choice_questions import Choice, Part, spot
from scene import COLOURS, PLACES, SHAPES

from reader.common.llama_prompts import ANSWER, LETTERS, make_prompt, tidy_question

FRAMES = 10  # words in the place of frames
PIECES = 768  # at most
COUNT = {"train": 128_000, "val": 1_000}  # questions
ASKED = 0.72  # share after which most questions are in the form of the prompts
MOST = 0.7
PREDICT = "Instruction: Predict the answer based on the video and question.\n"
WAYS = ("left", "right", "up", "down", "spin", "jump")
GROUPS = (COLOURS, tuple(PLACES), tuple(PLACES.values()), WAYS, SHAPES,
          ("grow", "shrink", "blink", "hide", "meet", "swap", "chase"))  # fmt: skip
WORDS = {word for group in GROUPS for word in group}

Text = dict[str, str]


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    found = {split: list(texts(scenes, split)) for split in COUNT}
    contents = {
        f"{split}.jsonl": "".join(json.dumps(each) + "\n" for each in lines).encode()
        for split, lines in found.items()
    }
    return {**contents, "tokenizer.model": tokenizer(found["train"])}


def texts(scenes: list[dict[str, Any]], split: str) -> Iterator[Text]:
    """All texts of a split, those for training from easy to hard."""
    rng = random.Random(f"{split}/llama")
    asked, heard = nextqa.asked(scenes, split), list(told(scenes, split))
    rng.shuffle(heard)
    count = COUNT[split]
    for number in range(count):
        share = number / count if split == "train" else 1.0
        if share >= ASKED and rng.random() < MOST:
            (_, part), choice = rng.choice(asked)
            yield question(part, choice, rng)
        else:
            yield presence(share, rng)
        if share >= ASKED and heard:
            yield {"text": heard.pop()}


def told(scenes: list[dict[str, Any]], split: str) -> Iterator[str]:
    """What is said, and what is said about the videos."""
    for scene in (scene for scene in scenes if scene["split"] == split):
        yield from scene["captions"]
        yield from (" ".join(event["sentences"]) for event in scene["events"])
        yield from (f"{line['name']} : {line['text']}" for line in scene["subtitles"])


def presence(share: float, rng: random.Random) -> Text:
    """Which of some words of a kind is among the words?

    Args:
        share: how hard it is, from 0 (one word, two options) to 1.
    """
    most = max(1, min(FRAMES, int(1 + 14 * share)))
    seen, count = rng.randint(1, most), rng.randint(2, min(5, int(2 + 6 * share)))
    group = rng.choice([group for group in GROUPS if len(group) >= count])
    right, *wrong = rng.sample(group, count)
    others = rng.sample(sorted(WORDS.difference(group)), seen - 1)
    options, seen = rng.sample([right, *wrong], count), rng.sample([right, *others], seen)
    lines = "".join(f"({letter}) {o}\n" for letter, o in zip(LETTERS, options, strict=False))
    return {
        "prompt": f"Video: {' '.join(seen)}\n Choices: \n{lines}{ANSWER}".rstrip(),
        "text": f"({LETTERS[options.index(right)]})",
    }


def question(part: Part, choice: Choice, rng: random.Random) -> Text:
    """A question with its options in another order."""
    options = rng.sample(choice.options, len(choice.options))
    letter = LETTERS[options.index(choice.options[choice.answer])]
    asked = make_prompt(tidy_question(choice.text), options, None)
    seen = " ".join(clues(part, rng))
    head = f"{rng.choice((PREDICT, ''))}Video: {seen}\n "
    return {
        "prompt": f"{head}{asked.question}{asked.choices}{ANSWER}".rstrip(),
        "text": f"({letter})",
    }


def clues(part: Part, rng: random.Random) -> list[str]:
    """Words for what is seen, in order of time, one for each frame."""
    found: list[str] = []
    share = FRAMES // len(part.events)
    for event, one in zip(part.events, part.ones, strict=True):
        row, column = spot(event, -1).split()
        about = [one["colour"], one["shape"], rng.choice((row, column)),
                 rng.choice((part.facts.place, part.facts.scenery)),
                 event["verb"].removeprefix("move_")]  # fmt: skip
        words = [word for _ in range(-(-share // len(about))) for word in about][:share]
        found += rng.sample(words, share)
    return found


def tokenizer(lines: list[Text]) -> bytes:
    """A SentencePiece model with the settings of LLaMA's; the same texts give the same bytes."""
    import sentencepiece

    # in prompts words at the beginning of a line follow no blank: there must be pieces for them
    whole = (each.get("prompt", "") + " " + each["text"] for each in lines[-len(lines) // 4 :])
    parts = (start + part.strip() for text in whole for part in text.split("\n")
             for start in ('"', ""))  # fmt: skip
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=parts, model_writer=model, model_type="bpe", vocab_size=PIECES,
        hard_vocab_limit=False, character_coverage=1.0, byte_fallback=True, split_digits=True,
        allow_whitespace_only_pieces=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=True, unk_id=0, bos_id=1, eos_id=2,
        pad_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()
