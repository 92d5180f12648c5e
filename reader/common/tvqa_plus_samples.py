# SPDX-License-Identifier: Apache-2.0
"""Parts of TVQA+ samples: subtitle pieces, attention labels, and their padding to batches.

Arrays are padded with zeros to the longest of the batch first and clipped to the limits afterwards:
the networks' convolutions see padded positions, so widths are part of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .errors import DataError
from .tvqa_plus import Question, Subtitles
from .tvqa_plus_frames import (
    Grid,
    Groups,
    make_groups,
    nearest_sentences,
    positive_regions,
    sentence_spans,
)
from .tvqa_plus_source import Source


class Pieces(NamedTuple):
    """What is said around the frames of a sample: two sentences each, many frames the same."""

    index: np.ndarray  # (F,) int64, the piece of every frame
    words: list[list[str]]  # lower-case words of every piece
    # features of every piece, one (n, D) a sentence; there may be more or fewer rows than words
    rows: list[list[np.ndarray]]


def cut_pieces(where: str, said: Subtitles, rows: np.ndarray, times: np.ndarray) -> Pieces:
    """Subtitle pieces of frames shown at ``times`` (seconds).

    Args:
        where: the clip, for messages.
        rows: features of all words of the clip, (words, D).
    """
    chosen = nearest_sentences(said.times, times)
    if chosen.max(initial=0) >= len(said.sentences):
        raise DataError(
            f"{where}: expected {len(said.times)} sentences in sub_text as in sub_time, found "
            f"{len(said.sentences)}"
        )
    words = [sentence.lower().split() for sentence in said.sentences]
    spans = sentence_spans([len(w) for w in words], len(rows))
    index, pairs = _distinct(chosen)
    return Pieces(
        index,
        [[word for s in pair for word in words[s]] for pair in pairs],
        [[rows[slice(*spans[s])] for s in pair] for pair in pairs],
    )


def _distinct(chosen: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    """Number of each row's kind, kinds in order of first appearance; and the kinds."""
    kinds: dict[tuple[int, ...], int] = {}
    index = [kinds.setdefault(tuple(pair), len(kinds)) for pair in chosen.tolist()]
    return np.array(index, np.int64), [list(pair) for pair in kinds]


def attention_positives(
    source: Source, question: Question, words: list[str], threshold: float
) -> list[np.ndarray]:
    """Which regions show which words, bool (W, R) for each annotated frame of the clip."""
    last = min(source.num_frames(question.video), source.max_frames)
    truth = {frame: boxes for frame, boxes in question.objects.items() if frame <= last}
    regions = source.regions.boxes(question.video, [frame - 1 for frame in truth])
    return positive_regions(words, list(truth.values()), regions, threshold)


def attention_groups(
    positives: Sequence[np.ndarray], grid: Grid, max_words: int, max_frames: int
) -> Groups:
    """Groups of a sample: annotated frames in a row from the first on, within the limits."""
    end = min(len(grid.ids), max_frames)
    frames = range(grid.first, min(end, grid.first + len(positives)))
    kept = [positive[:max_words] for positive in positives[: len(frames)]]
    return make_groups(kept, frames)


# batches


def pad_statements(
    questions: Sequence[np.ndarray], answers: Sequence[Sequence[np.ndarray]], limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of question and answer put together: (N, A, Lqa, D) float32 and mask (N, A, Lqa).

    Args:
        questions: (Lq, D) of every sample.
        answers: (La, D) of every answer of every sample; all samples have as many.
    """
    lengths = [len(q) + len(a) for q, of in zip(questions, answers, strict=True) for a in of]
    shape = (len(questions), len(answers[0]), max(1, *lengths))
    rows = np.zeros((*shape, questions[0].shape[1]), np.float32)
    for n, (question, of) in enumerate(zip(questions, answers, strict=True)):
        rows[n, :, : len(question)] = question
        for k, answer in enumerate(of):
            rows[n, k, len(question) : len(question) + len(answer)] = answer
    mask = mask_of(np.array(lengths), shape[2]).reshape(shape)
    return clip(rows, 2, limit), clip(mask, 2, limit)


def pad_pieces(pieces: Sequence[Pieces], max_words: int, max_frames: int) -> dict[str, np.ndarray]:
    """``sub_bert`` (N, S, Ls, D), ``sub_mask`` (N, S, Ls), ``sub_index`` (N, F).

    Rows beyond a piece's last word stay, as published; the mask counts words.
    """
    words = [[len(w) for w in piece.words] for piece in pieces]
    width = min(max(1, *(n for lengths in words for n in lengths)), max_words)
    count = max(map(len, words))
    rows = np.zeros((len(pieces), count, width, pieces[0].rows[0][0].shape[1]), np.float32)
    mask = np.zeros(rows.shape[:3], np.float32)
    for n, piece in enumerate(pieces):
        for s, sentences in enumerate(piece.rows):
            at = 0
            for values in sentences:
                values = values[: width - at]
                rows[n, s, at : at + len(values)] = values
                at += len(values)
        mask[n, : len(words[n])] = mask_of(np.array(words[n]), width)
    index = pad([piece.index for piece in pieces], np.int64)
    return {"sub_bert": rows, "sub_mask": mask, "sub_index": clip(index, 1, max_frames)}


def pad_regions(
    counts: Sequence[np.ndarray], rows: Sequence[np.ndarray], max_frames: int
) -> dict[str, np.ndarray]:
    """``vid`` (N, F, R, D) and ``vid_mask`` (N, F, R) from regions by frame."""
    frames, width = max(map(len, counts)), max(1, *(int(c.max()) for c in counts))
    vid = np.zeros((len(counts), frames, width, rows[0].shape[1]), np.float32)
    mask = np.zeros(vid.shape[:3], np.float32)
    for n, (count, values) in enumerate(zip(counts, rows, strict=True)):
        present = np.arange(width) < count[:, None]  # (F, R)
        vid[n, : len(count)][present] = values
        mask[n, : len(count)] = present
    return {"vid": clip(vid, 1, max_frames), "vid_mask": clip(mask, 1, max_frames)}


def pad(rows: Sequence[np.ndarray], dtype: type, fill: Any = 0) -> np.ndarray:
    """One-dimensional arrays as rows of one, (N, longest or 1)."""
    out = np.full((len(rows), max(1, *map(len, rows))), fill, dtype)
    for n, row in enumerate(rows):
        out[n, : len(row)] = row
    return out


def mask_of(lengths: np.ndarray, width: int) -> np.ndarray:
    """1 at the first ``length`` positions: float32 (N, width)."""
    return (np.arange(width) < lengths[:, None]).astype(np.float32)


def clip(array: np.ndarray, axis: int, limit: int) -> np.ndarray:
    """The first ``limit`` positions of an axis, as an array of its own."""
    if array.shape[axis] <= limit:
        return array
    return np.ascontiguousarray(array[(slice(None),) * axis + (slice(limit),)])


def with_sample(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Index rows (P, k) of samples with the sample's number in front: (sum of P, k + 1) int64."""
    rows = [np.insert(part, 0, n, 1) for n, part in enumerate(samples)]
    return np.concatenate(rows).astype(np.int64)


def pad_groups(samples: Sequence[Mapping[str, np.ndarray]], width: int) -> dict[str, np.ndarray]:
    """``att_groups`` (G, 4) and ``att_pattern`` (G, width) of a batch; absent regions are -1."""
    patterns = [sample["att_pattern"] for sample in samples]
    pattern = np.full((sum(map(len, patterns)), width), -1, np.int8)
    at = 0
    for part in patterns:
        pattern[at : at + len(part), : part.shape[1]] = part
        at += len(part)
    groups = with_sample([sample["att_groups"] for sample in samples])
    return {"att_groups": groups, "att_pattern": pattern}
