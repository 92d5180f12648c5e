# SPDX-License-Identifier: Apache-2.0
"""A user's own video, subtitles, question and answers as a sample of TVQA+."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .tvqa_plus import Subtitles, read_json
from .tvqa_plus_pictures import grid_length, grid_numbers
from .tvqa_plus_regions import frame_boxes, region_counts
from .tvqa_plus_samples import Pieces, cut_pieces
from .video import Video

_NO_ANSWER = 999
_FEWEST = 2  # answers
# Words that are no objects, for data without a list of object words.
_STOP_WORDS = set(re.findall(r"\S+", """
    a about after all an and any are as at be because before both but by can could did do does
    doing down during each for from had has have he her hers him his how i if in into is it its
    just me more most my n't no nor not of off on or other our out over own same she should so
    some than that the their them then there these they this those through to too under up very
    was we were what when where which while who whom whose why will with would you your 's 're
    've 'll 'd 'm
"""))  # fmt: skip


class RawClip:
    """Frames 1, 1 + interval, ... of a video's grid; all of them count as annotated.

    Raises:
        DataError: the video cannot be read.
    """

    def __init__(self, video: str, fps: int = 3, interval: int = 6, max_frames: int = 300):
        self._video, self._fps = Video(video), fps
        self.name = Path(video).stem
        self.num_frames = grid_length(self._video, fps)
        self.ids = np.arange(1, min(self.num_frames, max_frames) + 1, interval)
        self.choices: list[str] = []  # answers, split into words
        self.words: list[list[str]] = []  # of the statements, in lower case
        self.said: list[tuple[float, str]] = []  # start in seconds, text
        self.boxes: list[np.ndarray] = []  # (n, 4) of every frame

    def item(
        self,
        query: str,
        choices: Sequence[str],
        extractors: Mapping[str, Any],
        size: int,
        objects: Collection[str] | None,
        generative: bool = False,
    ) -> dict[str, Any]:
        """Question and answers, which also become ``choices``.

        Args:
            size: width of word features.
            objects: words that are objects; None: all but stop words and punctuation.
            generative: the question alone; answers, if any, are only to be ranked.
        """
        from .subtitles import tokenize

        question, answers = tokenize(query), [tokenize(choice) for choice in choices]
        if not question:
            raise DataError("--query: expected a question, found an empty one")
        if not all(answers) or (len(answers) < _FEWEST and not generative):
            expected = "answers" if generative else f"{_FEWEST} answers or more"
            raise DataError(
                f"--choices: expected {expected}, none of them empty, found {list(choices)}"
            )
        self.choices += [" ".join(answer) for answer in answers]
        seen = [] if generative else answers
        rows = _word_rows([question, *seen], extractors, size)
        words = [[word.lower() for word in (*question, *answer)] for answer in seen or [[]]]
        ids = {word: i for i, word in enumerate(dict.fromkeys(chain(*words)), 1)}
        self.words = words
        return {
            "id": f"{self.name}#{query}",
            "question": rows[0],
            "answers": rows[1:] or [rows[0][:0]],
            "frames": len(self.ids),
            "label": (0, 0),
            "target": 0 if generative else _NO_ANSWER,
            "word_ids": [np.array([ids[word] for word in w]) for w in words],
            "objects": [np.array([_is_object(word, objects) for word in w]) for w in words],
            "padding_is_object": False,
            "meta": self._meta(query, choices, ids, len(question)),
        }

    def _meta(
        self, query: str, choices: Sequence[str], ids: dict[str, int], length: int
    ) -> dict[str, Any]:
        return {
            "vid_name": self.name,
            "image_indices": self.ids.tolist(),
            "anno_st_idx": 0,
            "boxes": self.boxes,
            "q_len": length,
            "reference": {
                "vid_name": self.name,
                "question": query,
                "choices": list(choices),
                "num_frames": self.num_frames,
                "subtitles": self.said,
                "qid": 0,
                "words": {i: word for word, i in ids.items()},
            },
        }

    def pieces(self, path: str | None, extractors: Mapping[str, Any], size: int) -> Pieces:
        """Subtitles of a file, which also become ``said``."""
        from .subtitles import read_subtitles, tokenize

        if path is None:
            raise DataError(
                "--subtitles: expected a .srt, .vtt or .json file, found none; give one, or use a "
                "model with input_streams [vfeat]"
            )
        found = [(start, text, tokenize(text)) for start, _, text in read_subtitles(path)]
        found = [entry for entry in found if entry[2]]
        if not found:
            raise DataError(f"{path}: expected subtitles, found an empty file")
        self.said += [(start, text) for start, text, _ in found]
        rows = np.concatenate(_word_rows([words for *_, words in found], extractors, size))
        said = Subtitles([start for start, *_ in found], [" ".join(words) for *_, words in found])
        return cut_pieces(str(path), said, rows, self.ids / self._fps)

    def regions(
        self, path: str | None, extractors: Mapping[str, Any], size: int, limit: int
    ) -> dict[str, np.ndarray]:
        """The first ``limit`` regions of each frame; their boxes also become ``boxes``."""
        if path is None:
            raise DataError(
                '--regions: expected a JSON file {"counts": [n, ...], "boxes": [[[x1, y1, x2, y2], '
                "...], ...]} of the 3 fps frames, found none; no detector extractor exists yet: "
                "give precomputed regions or use a model with input_streams [sub]"
            )
        if "regions" not in extractors:
            raise DataError("raw input needs a regions extractor; set DATASET.extractors.regions")
        where, entry = self._entry(path)
        if len(region_counts(where, entry)) < self.ids[-1]:
            raise DataError(
                f"{where}: expected regions of {self.ids[-1]} frames (3 per second), found "
                f"{len(entry['counts'])}"
            )
        self.boxes += [frame_boxes(where, entry, i - 1)[:limit] for i in self.ids.tolist()]
        numbers = grid_numbers(self._video, self.ids, self._fps)
        wanted = np.bincount(numbers, minlength=self._video.num_frames).astype(bool)
        pictures = {}
        for number, frame in self._video.stream(wanted):
            k = int(np.searchsorted(numbers, number))
            rgb = np.ascontiguousarray(frame[..., ::-1])
            pictures[number] = extractors["regions"].features(rgb, self.boxes[k])
        rows = [_checked(pictures[n], "regions", size) for n in numbers.tolist()]
        counts = np.array([len(boxes) for boxes in self.boxes], np.int64)
        return {"region_counts": counts, "regions": np.concatenate(rows)}

    def _entry(self, path: str) -> tuple[str, Any]:
        """(place, entry): the whole file, the entry of the video's name, or the only one."""
        data = read_json(path)
        if "counts" in data:
            return str(path), data
        if self.name not in data and len(data) != 1:
            raise DataError(f"{path}: expected an entry {self.name}, found {len(data)} others")
        key = self.name if self.name in data else next(iter(data))
        return f"{path}: {key}", data[key]


def _is_object(word: str, objects: Collection[str] | None) -> bool:
    if objects is not None:
        return word in objects
    return word not in _STOP_WORDS and any(c.isalnum() for c in word)


def _word_rows(
    sentences: list[list[str]], extractors: Mapping[str, Any], size: int
) -> list[np.ndarray]:
    if "text" not in extractors:
        raise DataError("raw input needs a text extractor; set DATASET.extractors.text")
    return [_checked(rows, "text", size) for rows in extractors["text"].words(sentences)]


def _checked(rows: np.ndarray, role: str, size: int) -> np.ndarray:
    if rows.ndim != 2 or rows.shape[1] != size:
        raise DataError(
            f"{role} extractor: expected vectors of {size} numbers, found {rows.shape[-1]}"
        )
    return np.asarray(rows, np.float32)
