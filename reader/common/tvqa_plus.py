# SPDX-License-Identifier: Apache-2.0
"""TVQA+'s text files: questions with their boxes, subtitles, word and object lists.

Frames are counted from 1 on a grid of 3 per second. JSON files may be compressed (``.json.gz``).
Layout: TVQA+ (arXiv:1904.11574), release ``tvqa_plus_stage_features``.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from .errors import DataError
from .layout import find
from .text import read_lines

CHOICES = 5
PUBLISHED = {  # file names of the released package
    "train": "tvqa_plus_train_preprocessed.json",
    "valid": "tvqa_plus_valid_preprocessed.json",
    "test": "tvqa_plus_test_preprocessed_no_anno.json",
    "subtitles": "tvqa_plus_subtitles.json",
    "word2idx": "word2idx.json",
    "object_vocab": "eval_object_vocab.json",
    "frm_cnt": "frm_cnt_cache.json",
    "qa_bert": "bbt_qa_s_tokenized_bert_sub_qa_tuned_new_qid.h5",
    "sub_bert": "bbt_sub_s_tokenized_bert_sub_qa_tuned.h5",
    "vcpt": "tvqa_bbt_frcn_vg_hq_20_100.json",
    "vfeat": "tvqa_bbt_bottom_up_pool5_hq_20_100_pca.h5",
}
IDENTITY = "identity.json"  # what made the features beside it: {"text": {...}, "regions": {...}}
_STRAIGHT = str.maketrans("‘’“”", "''\"\"")
_BLOCK = 1 << 22  # characters read at a time
_LONGEST = 1 << 28  # characters of one entry of a streamed file


class Box(NamedTuple):
    """An annotated object of a frame."""

    label: str
    box: list[float]  # left, top, right, bottom in pixels of 640 x 360


class Question(NamedTuple):
    """One question about a clip."""

    qid: int
    video: str
    text: str
    choices: tuple[str, ...]
    answer: int | None  # None: not published
    moment: tuple[float, float] | None  # seconds
    objects: dict[int, list[Box]]  # annotated frame -> boxes, frames ascending

    def words(self, choice: int | None = None) -> list[str]:
        """Lower-case words of the question, or of the question and one of its choices."""
        text = self.text if choice is None else f"{self.text} {self.choices[choice]}"
        return text.lower().split()


class Subtitles(NamedTuple):
    """What is said in a clip."""

    times: list[float]  # start of every sentence in seconds
    sentences: list[str]


def require(path: str | os.PathLike | None, option: str, what: str) -> Path:
    """The existing file of an option.

    Raises:
        DataError: no path is configured, or nothing is there.
    """
    if path is None:
        raise DataError(f"{option}: expected the path of {what}, found none; set DATASET.{option}")
    if not find(path).exists():
        raise DataError(
            f"{option}: expected {what} at {path}, found nothing; data/dataset/tvqa_plus/README.md "
            "says where it comes from"
        )
    return find(path)


def _open_text(path: Path) -> TextIO:
    opened = gzip.open if path.suffix == ".gz" else open
    return opened(path, "rt", encoding="utf-8")


_UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error)


def read_json(path: str | os.PathLike, kind: type = dict) -> Any:
    """Contents of a ``.json`` or ``.json.gz`` file, which is a ``kind``.

    Raises:
        DataError: unreadable, not JSON, or another kind of value.
    """
    try:
        with _open_text(Path(path)) as file:
            data = json.load(file)
    except _UNREADABLE as error:
        raise DataError(f"{path}: expected a JSON file, found {_reason(error)}") from None
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, found {error}") from None
    if not isinstance(data, kind):
        raise DataError(f"{path}: expected a JSON {kind.__name__}, found {type(data).__name__}")
    return data


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or f"a damaged one ({error})"


def stream_json(path: str | os.PathLike) -> Iterator[tuple[str, Any]]:
    """(key, value) of a JSON object's entries, holding no more than one block of the file.

    The boxes of all regions are some gigabytes as Python objects.

    Raises:
        DataError: unreadable or not a JSON object.
    """
    decoder = json.JSONDecoder()
    try:
        with _open_text(Path(path)) as file:
            text, at, ended = file.read(_BLOCK).lstrip(), 1, False
            if text[:1] != "{":
                raise DataError(f"{path}: expected a JSON object, found {text[:20]!r}")
            while True:
                try:
                    key, value, at, last = _entry(decoder, text, at)
                except (ValueError, IndexError) as error:
                    more = file.read(max(_BLOCK, len(text)))
                    ended = not more or len(text) > _LONGEST
                    if ended:
                        raise DataError(f"{path}: expected JSON, found {error}") from None
                    text, at = text[at:] + more, 0
                    continue
                if key is not None:
                    yield key, value
                if last:
                    return
    except _UNREADABLE as error:
        raise DataError(f"{path}: expected a JSON file, found {_reason(error)}") from None


def _entry(decoder: json.JSONDecoder, text: str, at: int) -> tuple[str | None, Any, int, bool]:
    """Entry at a position of an object: (key, value, position after it, was it the last one?)."""
    at = _skip(text, at)
    if text[at] == "}":
        return None, None, at, True
    key, at = decoder.raw_decode(text, at)
    at = _skip(text, at)
    if not isinstance(key, str) or text[at] != ":":
        raise ValueError(f"no entry at {text[at : at + 20]!r}")
    value, at = decoder.raw_decode(text, _skip(text, at + 1))
    at = _skip(text, at)
    if text[at] not in ",}":
        raise ValueError(f"no end of an entry at {text[at : at + 20]!r}")
    return key, value, at + 1, text[at] == "}"


def _skip(text: str, at: int) -> int:
    while text[at].isspace():
        at += 1
    return at


def read_questions(path: str | os.PathLike) -> list[Question]:
    """All questions of an annotation file, in its order.

    Raises:
        DataError: see ``parse_question``; also no question, or a question id that occurs twice.
    """
    entries = read_json(path, list)
    questions = [parse_question(path, number, entry) for number, entry in enumerate(entries)]
    if not questions:
        raise DataError(f"{path}: expected questions, found none")
    seen: set[int] = set()
    for question in questions:
        if question.qid in seen:
            raise DataError(f"{path}: expected every qid once, found {question.qid} twice")
        seen.add(question.qid)
    return questions


def parse_question(path: str | os.PathLike, number: int, entry: Any) -> Question:
    """One entry of an annotation file.

    Raises:
        DataError: a key is missing or holds another kind of value; names file and question.
    """
    where = f"{path}: entry {number}"
    try:
        where = f"{path}: question {int(entry['qid'])}"
        texts = [entry["vid_name"], entry["q"], *(entry[f"a{k}"] for k in range(CHOICES))]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("vid_name, q or an answer that is no text")
        video, question, *choices = texts
        answer = entry.get("answer_idx")
        answer = None if answer is None else int(answer)
        if answer is not None and not 0 <= answer < CHOICES:
            raise ValueError(f"answer_idx {answer}, which is not 0 to {CHOICES - 1}")
        objects = {int(k): [_box(b) for b in v] for k, v in (entry.get("bbox") or {}).items()}
        if min(objects, default=1) < 1:
            raise ValueError(f"bbox of frame {min(objects)}; frames count from 1")
        moment = _moment(entry.get("ts"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{where}: expected a question of TVQA+, found {found}") from None
    qid, objects = int(entry["qid"]), dict(sorted(objects.items()))
    return Question(qid, video, question, tuple(choices), answer, moment, objects)


def _box(entry: Mapping[str, Any]) -> Box:
    left, top = entry["left"], entry["top"]
    box = [left, top, left + entry["width"], top + entry["height"]]
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in box):
        raise ValueError(f"box {box}")
    return Box(str(entry["label"]), box)


def _moment(ts: Any) -> tuple[float, float] | None:
    if ts is None:
        return None
    start, end = (float(t) for t in ts)
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ValueError(f"ts {ts}")
    return start, end


def select(questions: list[Question], path: str | os.PathLike) -> list[Question]:
    """The questions whose ids a text file names, one a line, in the order of the lines.

    Raises:
        DataError: a line is no id or no question has it.
    """
    by_id = {str(question.qid): question for question in questions}
    chosen: dict[str, Question] = {}
    for line, text in read_lines(path, "question id"):
        if text not in by_id:
            raise DataError(
                f"{path}:{line}: expected the id of one of {len(by_id)} questions such as "
                f"{questions[0].qid}, found {text[:40]!r}"
            )
        chosen[text] = by_id[text]
    return list(chosen.values())


def parse_subtitles(where: str, entry: Any) -> Subtitles:
    """Sentences of a clip; ``entry`` is {"sub_text", "sub_time"}.

    Raises:
        DataError: other data, or no sentence.
    """
    try:
        sentences = entry["sub_text"].split(" <eos> ")
        times = [float(t) for t in entry["sub_time"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: expected sub_text and sub_time, found {error!r}") from None
    if not times or not any(sentence.split() for sentence in sentences):
        raise DataError(f"{where}: expected subtitles, found none; leave out clip or stream sub")
    return Subtitles(times, sentences)


def read_words(path: str | os.PathLike) -> dict[str, int]:
    """Word -> id of ``word2idx.json``."""
    words = read_json(path)
    bad = next((w for w, i in words.items() if not isinstance(i, int) or i < 0), None)
    if bad is not None or not words:
        raise DataError(f"{path}: expected ids by word, found {words.get(bad)!r} for {bad!r}")
    return words


def straight(label: str) -> str:
    """A label as the evaluation compares it: lower case with straight quotes."""
    return label.lower().translate(_STRAIGHT)
