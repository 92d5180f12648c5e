# SPDX-License-Identifier: Apache-2.0
"""What is said in a part of a clip, as VLEP and TVQA give it to LLaMA-VQA."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from . import json_lines
from .errors import DataError
from .layout import find
from .subtitles import read_subtitles

logger = logging.getLogger("vlzoo")

_TIME = re.compile(r"\s*(\d+):(\d+):(\d+)[.,](\d+)\s*")
_ARROW = "-->"


class Cue(NamedTuple):
    """A subtitle; whole seconds, fractions are cut off."""

    start: int
    end: int
    text: str


def said(cues: Iterable[Cue], window: tuple[int, int]) -> list[str]:
    """Texts of the cues that end within the window, and start or last into it."""
    start, end = window
    inside = (cue for cue in cues if cue.end <= end)
    return [cue.text for cue in inside if cue.start >= start or cue.start <= start <= cue.end]


def join(dataset: str, texts: Sequence[str]) -> str:
    """The dialogue as it stands in a prompt."""
    if dataset == "vlep":
        return f"Dialogue: {''.join(texts)}\n"
    return f"Dialogue: {''.join(f' {text}' for text in texts)}\n" if texts else ""


def tidy(dataset: str, text: str) -> str:
    """A cue's text as it stands in a dialogue: in a line, VLEP's without hyphens."""
    return text.replace("-", "") if dataset == "vlep" else text.replace("\n", " ")


def read_dialogue(dataset: str, path: str | None) -> str:
    """All that is said in a subtitle file (.srt, .vtt or .json), or nothing, as in a prompt."""
    subtitles = read_subtitles(path) if path else []
    return join(dataset, [tidy(dataset, text) for _, _, text in subtitles])


class Dialogues:
    """Subtitles of clips.

    Args:
        dataset: vlep, with ``path`` its file of JSON lines, or tvqa, a folder of .srt files.
        clips: which are needed.

    Raises:
        DataError: unreadable, or there are none of any clip.
    """

    def __init__(self, dataset: str, path: str, clips: Collection[str]):
        self._dataset, self._path, self._folder = dataset, path, find(path)
        if dataset == "vlep":
            self._found = _read_lines(path, set(clips))
            absent = [clip for clip in clips if clip not in self._found]
        else:
            self._read = lru_cache(maxsize=64)(self._read_clip)  # questions come clip by clip
            absent = [clip for clip in clips if not self._file(clip).is_file()]
        if absent and len(absent) == len(clips):
            raise DataError(f"{path}: expected subtitles of {absent[0]} and others, found none")
        if absent:
            logger.warning(
                "%s: %d of %d clips have no subtitles, such as %s", path, len(absent), len(clips),
                absent[0],
            )  # fmt: skip

    def text(self, clip: str, window: tuple[int, int]) -> str:
        """The dialogue of a part of a clip, as it stands in a prompt."""
        cues = self._found.get(clip, []) if self._dataset == "vlep" else self._read(clip)
        return join(self._dataset, said(cues, window))

    def _file(self, clip: str) -> Path:
        return self._folder / f"{os.path.basename(clip)}.srt"

    def _read_clip(self, clip: str) -> list[Cue]:
        path = self._file(clip)
        return read_srt(path) if path.is_file() else []


def read_srt(path: str | os.PathLike) -> list[Cue]:
    """Cues of a .srt file, in its order; hours are ignored, blocks without a time left out.

    Raises:
        DataError: unreadable, or no such file.
    """
    try:
        raw = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"{path}: expected subtitles ({error.strerror})") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # as some of TVQA's are
    text = re.sub(r"\r\n?", "\n", text).strip("\n")
    blocks = re.split(r"\n[ \t]*(?:\n[ \t]*)+", text)
    return [cue for block in blocks if (cue := _cue(block))]


def _cue(block: str) -> Cue | None:
    lines = [line.rstrip() for line in block.split("\n")]
    if _ARROW not in lines[0]:
        lines = lines[1:]  # its number
    if not lines or _ARROW not in lines[0]:
        return None
    start, _, end = lines[0].partition(_ARROW)
    times = _TIME.fullmatch(start), _TIME.match(end)
    if not all(times):
        return None
    return Cue(*(_second(match) for match in times), tidy("tvqa", "\n".join(lines[1:])))


def _second(match: re.Match) -> int:
    """Of the hour; a thousand milliseconds are a second more."""
    _, minutes, seconds, milliseconds = map(int, match.groups())
    return (minutes * 60 + seconds + milliseconds // 1000) % 3600


def _read_lines(path: str, wanted: set[str]) -> dict[str, list[Cue]]:
    """Cues by clip of a file of JSON lines {"vid_name", "sub": [{"text", "start", "end"}]}."""
    found: dict[str, list[Cue]] = {}
    for numbers, _, rows in json_lines.read_blocks(find(path)):
        for line, row in zip(numbers.tolist(), rows, strict=True):
            if row.get("vid_name") in wanted and row["vid_name"] not in found:
                try:
                    found[row["vid_name"]] = [_entry(each) for each in row["sub"]]
                except (TypeError, KeyError, ValueError, OverflowError):
                    raise DataError(
                        f'{path}:{line}: expected sub: [{{"text", "start", "end"}}, ...], found '
                        f"{row.get('sub')!r:.60}"
                    ) from None
    return found


def _entry(each: Any) -> Cue:
    text = each["text"].encode("utf-8", "replace").decode()
    return Cue(int(each["start"]), int(each["end"]), tidy("vlep", text))
