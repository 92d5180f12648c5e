# SPDX-License-Identifier: Apache-2.0
"""A WordPiece vocabulary for ClipBERT's tasks on the sample world, one for all of them.

Whole words of the training splits, marks, and every digit and lower-case letter at the beginning
and inside of words, with which no other text is lost either.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable, Iterator
from typing import Any

import anetqa
import image_text
import msrvtt_qa
import retrieval
import tgif_qa

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """`vocab.txt` of all training texts."""
    pieces = word_pieces(_texts([scene for scene in scenes if scene["split"] == "train"]))
    return {"vocab.txt": ("\n".join(pieces) + "\n").encode()}


def word_pieces(texts: Iterable[str]) -> list[str]:
    """Special tokens, marks, single characters, words."""
    words = {word for text in texts for word in re.findall(r"\w+", text.lower())}
    letters = string.digits + string.ascii_lowercase
    inside = [f"##{letter}" for letter in letters]
    return [*SPECIAL, *string.punctuation, *letters, *inside, *sorted(words - {*letters})]


def _texts(scenes: list[dict[str, Any]]) -> Iterator[str]:
    for record in anetqa.records(scenes, "train"):
        yield record["question"]
    for layout in (tgif_qa, msrvtt_qa, retrieval, image_text):
        for name, content in layout.files(scenes).items():
            for line in content.splitlines() if name.endswith(".jsonl") else ():
                row = json.loads(line)
                yield from (row[key] for key in ("question", "caption") if key in row)
                yield from row.get("options", ())
