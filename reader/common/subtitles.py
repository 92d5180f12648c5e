# SPDX-License-Identifier: Apache-2.0
"""Subtitle files, and English text split into words as the TVQA+ annotations are."""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError
from .text import read_lines

Subtitle = tuple[float, float, str]  # start and end in seconds, text
END_OF_SENTENCE = "<eos>"

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2}[.,]\d{1,3})"  # hours may be missing in WebVTT
_TIMING = re.compile(rf"{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_NOT_CUES = ("WEBVTT", "NOTE", "STYLE", "REGION")  # first words of other blocks of WebVTT
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


def read_subtitles(path: str | os.PathLike) -> list[Subtitle]:
    """(start, end, text) of every subtitle, sorted by start; tags are stripped, lines are joined.

    Takes `.srt`, `.vtt` and `.json`. JSON is a list of {"start", "end", "text"}, or TVQA's
    {"sub_text": "one <eos> two", "sub_time": [1.2, 4.0]}, where a sentence ends as the next begins.

    Raises:
        DataError: another kind of file, not UTF-8, without any text, or a damaged subtitle.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        found = list(_from_json(path))
    elif suffix in (".srt", ".vtt"):
        found = list(_from_cues(path))
    else:
        raise DataError(f"{path}: expected subtitles ending in .srt, .vtt or .json")
    found = [(start, end, text) for start, end, text in found if text]
    if not found:
        raise DataError(f"{path}: expected subtitles, found none with text")
    return sorted(found, key=lambda subtitle: subtitle[0])


def _from_cues(path: str | os.PathLike) -> Iterator[Subtitle]:
    for block in _blocks(read_lines(path, "subtitle")):
        number, head = block[0]
        if "-->" not in head and len(block) > 1 and "-->" in block[1][1]:
            block = block[1:]  # after the cue's number or name
            number, head = block[0]
        if "-->" not in head and head.split()[0] in _NOT_CUES:
            continue
        match = _TIMING.fullmatch(head)
        if not match:
            raise DataError(
                f"{path}:{number}: expected a time such as 00:01:02,500 --> 00:01:04,000 before "
                f"the text of a subtitle, found {head[:60]!r}"
            )
        start, end = _seconds(*match.groups()[:3]), _seconds(*match.groups()[3:])
        if end < start:
            raise DataError(f"{path}:{number}: expected an end after the start, found {head[:60]}")
        yield start, end, _clean(" ".join(line for _, line in block[1:]))


def _blocks(lines: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Numbered lines in groups; empty lines, of which only the numbers are missing, end a group."""
    block: list[tuple[int, str]] = []
    for number, line in lines:
        if block and number > block[-1][0] + 1:
            yield block
            block = []
        block.append((number, line))
    yield block


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    whole, _, part = seconds.replace(",", ".").partition(".")
    milliseconds = int(part.ljust(3, "0")) + 1000 * (
        int(whole) + 60 * int(minutes) + 3600 * int(hours or 0)
    )
    return milliseconds / 1000


def _clean(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", text)).split())


def _from_json(path: str | os.PathLike) -> Iterator[Subtitle]:
    content = _read_json(path)
    if isinstance(content, dict):
        yield from _from_tvqa(path, content)
        return
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of subtitles, found {type(content).__name__}")
    for number, entry in enumerate(content):
        try:
            start, end, text = float(entry["start"]), float(entry["end"]), entry["text"]
            good = math.isfinite(end) and 0 <= start <= end and isinstance(text, str)
        except (TypeError, KeyError, ValueError):
            good = False
        if not good:
            raise DataError(
                f'{path}: subtitle {number}: expected {{"start": seconds, "end": seconds, '
                f'"text": ...}}, found {str(entry)[:80]}'
            )
        yield start, end, _clean(text)


def _from_tvqa(path: str | os.PathLike, entry: dict[str, Any]) -> Iterator[Subtitle]:
    try:
        texts = entry["sub_text"].split(f" {END_OF_SENTENCE} ")
        starts = [float(time) for time in entry["sub_time"]]
    except (AttributeError, TypeError, KeyError, ValueError):
        raise DataError(
            f"{path}: expected a list of subtitles, or sub_text and sub_time of one video, found "
            f"{', '.join(map(str, list(entry)[:3])) or 'nothing'}"
        ) from None
    if len(texts) != len(starts):
        raise DataError(
            f"{path}: expected as many sub_time as sentences in sub_text ({len(texts)}), found "
            f"{len(starts)}"
        )
    for start, end, text in zip(starts, [*starts[1:], starts[-1]], texts, strict=True):
        yield start, max(start, end), _clean(text)


def _read_json(path: str | os.PathLike) -> Any:
    try:
        return json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: expected subtitles ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: expected JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON in UTF-8: {error}") from None


_STRAIGHT = str.maketrans({"‘": "'", "’": "'", "ʼ": "'", "´": "'", "`": "'", "…": "."})
_SHORTENED = r"'(?:em|til|cause|bout|course|tis|twas|\d0s|s|m|d|re|ve|ll)(?!\w)"
_WORD = re.compile(rf"{_SHORTENED}|[^\W_]+(?:'[^\W_]+)*|[.,?!:']", re.IGNORECASE)
_ENDING = re.compile(r"(.+?)(n't|'(?:s|m|d|re|ve|ll))", re.IGNORECASE)
_PAIRS = {"cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "gimme": 3, "lemme": 3}


def tokenize(text: str) -> list[str]:
    """Words of English text as TVQA+ has them: contractions in two, punctuation apart.

    "Ada's" gives Ada 's, "don't" do n't, "cannot" can not, "6:30" 6 : 30; of all other signs only
    . , ? ! : ' stay. Text that is split already stays as it is.
    """
    tokens: list[str] = []
    for word in _WORD.findall(text.translate(_STRAIGHT)):
        tokens += _split(word)
    return tokens


def _split(word: str) -> list[str]:
    if cut := _PAIRS.get(word.lower()):
        return [word[:cut], word[cut:]]
    match = _ENDING.fullmatch(word)
    return [*_split(match[1]), match[2]] if match else [word]
