# SPDX-License-Identifier: Apache-2.0
"""Sentences with their moments, as one table, and lists of what to predict on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .errors import DataError
from .moments import read_sentences
from .window_index import group
from .windows import parse_name


class Queries(NamedTuple):
    """Every sentence vector with its moment, in file order."""

    names: list[str]  # moment's name, or the video's where the moment is unknown
    videos: list[str]
    index: np.ndarray  # (P,) position among the sentences of its video
    moments: np.ndarray  # (P, 2) frames; NaN where unknown
    vectors: np.ndarray  # (P, E) float32

    def ids(self, rows: Iterable[int]) -> list[str]:
        """``<moment>#<position>`` of each row."""
        return [f"{self.names[row]}#{self.index[row]}" for row in rows]

    def reference(self, row: int) -> dict:
        """Ground truth of one row."""
        truth = {"video": self.videos[row], "sentence_index": int(self.index[row])}
        if not np.isnan(self.moments[row, 0]):
            truth["moment"] = self.moments[row].tolist()
        return truth


def read_queries(path: str | os.PathLike, size: int) -> Queries:
    """Table of a sentence file; vectors are cut to ``size`` numbers.

    Raises:
        DataError: see ``read_sentences``; vectors shorter than ``size``; no vector at all.
    """
    names: list[str] = []
    parts = [np.zeros((0, size), np.float32)]
    for name, vectors in read_sentences(path):
        if len(vectors) and vectors.shape[1] < size:
            raise DataError(
                f"{path}: expected sentence vectors of {size} numbers, found {vectors.shape[1]} "
                f"({name}); change sent_vec_dim or make the file again"
            )
        names += [name] * len(vectors)
        if len(vectors):
            parts.append(vectors[:, :size])
    if not names:
        raise DataError(f"{path}: expected sentence vectors, found moments without any")
    parsed = [parse_name(name) for name in names]
    videos = [video for video, _, _ in parsed]
    moments = np.array([(start, end) for _, start, end in parsed], np.float64)
    return Queries(names, videos, _positions(videos), moments, np.concatenate(parts))


def _positions(videos: Sequence[str]) -> np.ndarray:
    """Position of each row among the rows of its video."""
    index = np.zeros(len(videos), np.int64)
    for rows in group(videos).values():
        index[rows] = np.arange(len(rows))
    return index


class Wanted(NamedTuple):
    """A line of a file list: a video with all its known sentences, or with one of its own."""

    video: str
    sentence: str | None


def read_filelist(path: str | os.PathLike) -> list[Wanted]:
    """Lines ``<video>`` or ``<video><tab><sentence>`` of a text file; empty ones are skipped.

    Raises:
        DataError: not UTF-8 text, or no line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected UTF-8 text, found something else") from None
    parts = [line.split("\t", 1) for line in lines if line.strip()]
    if not parts:
        raise DataError(f"{path}: expected one video a line, found no line")
    return [Wanted(p[0].strip(), p[1].strip() if len(p) > 1 else None) for p in parts]


def select(
    queries: Queries | None,
    wanted: Sequence[Wanted],
    encode: Callable[[list[str]], np.ndarray],
    source: str,
) -> Queries:
    """The sentences that a list names; those of its own have no moment.

    Args:
        queries: known sentences; may be None when every line brings its own.
        encode: sentences -> (n, E) float32.
        source: name of the list for messages.

    Raises:
        DataError: a line without sentence names a video that has none.
    """
    rows_by_video = group(queries.videos) if queries else {}
    names, videos, moments, vectors = [], [], [], []
    own = [line.sentence for line in wanted if line.sentence]
    encoded = iter(encode(own) if own else ())
    for video, sentence in wanted:
        if sentence:
            names.append(video)
            moments.append(np.full(2, np.nan))
            vectors.append(next(encoded))
        elif video not in rows_by_video:
            raise DataError(
                f"{source}: expected a video with known sentences, found {video}; "
                "write a sentence behind it after a tab, or use --video and --query for a raw video"
            )
        else:
            rows = rows_by_video[video]
            names += [queries.names[row] for row in rows]
            moments += list(queries.moments[rows])
            vectors += list(queries.vectors[rows])
        videos += [video] * (len(names) - len(videos))
    return Queries(names, videos, _positions(videos), np.stack(moments), np.stack(vectors))
