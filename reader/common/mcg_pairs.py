# SPDX-License-Identifier: Apache-2.0
"""Clips and pictures with captions for MCG's pre-training: data sets in folders and in shards.

An epoch is made of optimiser steps, each of samples of one data set, which is drawn uniformly.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import csv_rows, json_lines
from .errors import DataError
from .layout import find
from .shards import VIDEOS, Shards

LONGEST_CAPTION = 80  # words of a clip's caption from which on it is left out, as published
_LOOKED_AT = 20  # lines whose files must not all be missing
_WEBVID = ("videoid", "page_dir", "name")  # columns of its table


class Pair(NamedTuple):
    """A clip or picture and its captions."""

    name: str  # path, or shard and key, for messages
    captions: Sequence[str]  # of which one is taken
    is_video: bool
    data: bytes | None = None  # content of the file; None: it is at ``name``


def webvid_path(page: str | None, video: Any) -> str:
    """Where WebVid keeps a clip."""
    return f"{page}/{video}.mp4" if page else f"{video}.mp4"


class Listed:
    """A file of captions of clips or pictures in a folder.

    JSON lines ``{"video": path, "caption": text}`` or ``{"image": path, "caption": text or texts}``
    with paths in the folder, or WebVid's table (.csv). Clips whose caption has 80 words or more (or
    a ``txt_len`` of that) are left out. What is kept of a line is where it starts.

    Args:
        videos: folder of the clips.
        images: folder of the pictures.

    Raises:
        DataError: unreadable, empty, a damaged line, or no folder for it.
    """

    def __init__(self, path: str, videos: str | None, images: str | None):
        self._path = find(path)
        folders = {"video": videos, "image": images}
        self._folders = {kind: str(find(each)) for kind, each in folders.items() if each}
        self._table = path.lower().endswith(".csv")
        blocks = [self._kept(*block) for block in self._blocks()]
        self._offsets = np.concatenate(blocks or [np.zeros(0, np.int64)])
        if not len(self._offsets):
            raise DataError(f"{path}: expected captions, found none")

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, list[dict]]]:
        if self._table:
            return csv_rows.read_blocks(self._path, _WEBVID)
        return json_lines.read_blocks(self._path)

    def _kept(self, numbers: np.ndarray, offsets: np.ndarray, rows: list[dict]) -> np.ndarray:
        """Where the lines start that are not left out."""
        kept = np.ones(len(rows), bool)
        for k, row in enumerate(rows):
            try:
                pair = self._parse(row)
                length = row.get("txt_len")
                words = len(pair.captions[0].split()) if length in (None, "") else int(str(length))
            except ValueError as error:
                raise DataError(f"{self._path}:{numbers[k]}: {error}") from None
            kept[k] = not pair.is_video or words < LONGEST_CAPTION
        return offsets[kept]

    def _parse(self, row: Mapping[str, Any]) -> Pair:
        if self._table:
            path, captions = webvid_path(row["page_dir"], row["videoid"]), row["name"]
            kind = "video"
        else:
            kind = "video" if "video" in row else "image"
            path, captions = row.get(kind), row.get("caption")
        captions = captions if isinstance(captions, list) else [captions]
        if not isinstance(path, str) or not path:
            raise ValueError(f"expected a path as video or image, found {path!r:.40}")
        if not captions or not all(isinstance(text, str) for text in captions):
            raise ValueError(f"expected text as caption, found {captions!r:.40}")
        if kind not in self._folders:
            raise ValueError(f"expected the folder of {path}; set DATASET.{kind}s")
        place = os.path.join(self._folders[kind], path)
        return Pair(place, [text.strip() for text in captions], kind == "video")

    def __len__(self) -> int:
        return len(self._offsets)

    def order(self, rng: np.random.Generator, buffer: int) -> np.ndarray:
        """All pairs once, in random order."""
        return rng.permutation(len(self))

    def require_files(self) -> None:
        """Raises DataError if there is no file for any of the first lines."""
        names = [self.read(k).name for k in range(min(len(self), _LOOKED_AT))]
        if not any(map(os.path.exists, names)):
            raise DataError(
                f"{self._path}: expected files such as {names[0]}, found none of the first "
                f"{len(names)}; change DATASET.videos or DATASET.images"
            )

    def read(self, number: int, whole: bool = True) -> Pair:
        """A pair; ``whole`` is for shards."""
        read_at = csv_rows.read_at if self._table else json_lines.read_at
        (row,) = read_at(self._path, [self._offsets[number]])
        return self._parse(row)


class Sharded(Shards):
    """Clips or pictures in shards."""

    def require_files(self) -> None:
        """Nothing to do: they are there."""

    def read(self, number: int, whole: bool = True) -> Pair:
        """A pair, or only its name and captions; raises BrokenSample where it is damaged."""
        sample = super().read(number, whole)
        captions = [text.strip() for text in sample.captions]
        return Pair(sample.name, captions, sample.ending in VIDEOS, sample.data)


class Pairs:
    """Several data sets, numbered one after the other."""

    def __init__(self, sets: Sequence[Listed | Sharded]):
        self._sets = sets
        self._first = np.cumsum([0, *map(len, sets)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def require_files(self) -> None:
        """Raises DataError if there is no file for any of the first lines of a file."""
        for each in self._sets:
            each.require_files()

    def read(self, number: int, whole: bool = True) -> Pair:
        """A pair, or only its name and captions; raises BrokenSample where it is damaged."""
        part = int(np.searchsorted(self._first, number, "right")) - 1
        return self._sets[part].read(int(number - self._first[part]), whole)

    def order(self, seed: int, epoch: int, buffer: int, step: int) -> list[int]:
        """Numbers of an epoch.

        One data set gives all of its samples once. Of several, each ``step`` numbers in turn are
        of one that is drawn uniformly; each goes on where the last epoch left it, and gives all of
        its samples once before any of them again. A pure function of its arguments.
        """
        if len(self._sets) == 1:
            return self._pass(0, seed, epoch, buffer).tolist()
        steps = -(-len(self) // step)
        drawn = [
            np.random.default_rng((seed, e)).integers(len(self._sets), size=steps)
            for e in range(epoch + 1)
        ]
        order = np.empty((steps, step), np.int64)
        for part in range(len(self._sets)):
            counts = [int((each == part).sum()) * step for each in drawn]
            order[drawn[-1] == part] = self._stretch(
                part, sum(counts[:-1]), counts[-1], seed, buffer
            ).reshape(-1, step)
        return order.reshape(-1).tolist()

    def _pass(self, part: int, seed: int, number: int, buffer: int) -> np.ndarray:
        """All samples of a data set once, in an order of its own for each pass."""
        rng = np.random.default_rng((seed, part, number))
        return self._first[part] + self._sets[part].order(rng, buffer)

    def _stretch(self, part: int, first: int, count: int, seed: int, buffer: int) -> np.ndarray:
        """Places ``first`` to ``first + count`` of the endless row of a data set's passes."""
        size = len(self._sets[part])
        start, end = first // size, -(-(first + count) // size)
        passes = [self._pass(part, seed, number, buffer) for number in range(start, end)]
        found = np.concatenate([np.zeros(0, np.int64), *passes])
        return found[first - start * size :][:count]
