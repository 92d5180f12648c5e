# SPDX-License-Identifier: Apache-2.0
"""Which frames and subtitles of a TVQA+ clip form a sample, and which boxes answer its words.

Source: ``tvqa_dataset.py`` of the released code of TVQA+ (arXiv:1904.11574); integer rules are its.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .tvqa_plus import Box


class Grid(NamedTuple):
    """Frames of a sample."""

    ids: np.ndarray  # (F,) int64, from 1, `interval` apart
    first: int  # position of the first annotated frame
    last: int  # position of the last one, the last frame if that is not in ids


def frame_grid(
    first: int, last: int, num_frames: int, interval: int = 6, max_frames: int = 300
) -> Grid | None:
    """The frames in phase with the annotated frames ``first`` to ``last``; None if they lack first.

    Args:
        num_frames: frames of the clip.
        max_frames: later frames are left out.
    """
    ids = np.arange((first - 1) % interval + 1, min(num_frames, max_frames) + 1, interval)
    if not len(ids) or first > ids[-1]:
        return None
    reached = last <= ids[-1] and (last - first) % interval == 0
    start = (first - ids[0]) // interval
    end = (last - ids[0]) // interval if reached else len(ids) - 1
    return Grid(ids, int(start), int(end))


def time_label(
    moment: Sequence[float] | None,
    num_frames: int,
    indices: np.ndarray,
    fps: int = 3,
    max_frames: int = 300,
) -> tuple[int, int]:
    """Positions of the first and the last frame of a moment; (0, 0) without a moment.

    The last frame of all is the end only of moments of one frame, as published.

    Args:
        moment: start and end in seconds.
        indices: (F,) frames from 0.
    """
    if moment is None:
        return 0, 0
    scale = max_frames / num_frames * fps if num_frames > max_frames else fps
    i, j = (
        min(int(np.searchsorted(indices, scale * t, side)), len(indices) - 1)
        for t, side in zip(moment, ("left", "right"), strict=True)
    )
    return (i, i) if i == j else (i, j - 1)


def nearest_sentences(starts: Sequence[float], times: np.ndarray) -> np.ndarray:
    """The two sentences that start nearest to each time, in their order: (T, 2 or 1)."""
    distance = np.abs(np.asarray(starts, np.float64)[None] - np.asarray(times)[:, None])
    return np.sort(np.argsort(distance, 1, kind="stable")[:, :2], 1)


def sentence_spans(lengths: Sequence[int], rows: int) -> list[tuple[int, int]]:
    """Rows (first, stop) of each sentence in the clip's features.

    Where there are fewer or more rows than words (seven clips of the release), a sentence without
    any row takes those of the one before it; the first one then takes the last one's.
    """
    stops = np.cumsum(lengths, dtype=np.int64)
    spans = [(min(b - n, rows), min(b, rows)) for b, n in zip(stops.tolist(), lengths, strict=True)]
    if rows != sum(lengths):
        for i, (start, stop) in enumerate(spans):
            if start == stop:
                spans[i] = spans[i - 1]
    return spans


def overlaps(truth: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """IoU (G, R) of boxes (G, 4) and (R, 4); intersections, but no areas, are a pixel larger."""
    a, b = truth[:, None], regions[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    overlapping = (low < high).all(-1)
    inner = np.where(overlapping, np.prod(high - low + 1, -1), 0.0)
    areas = [np.prod(x[..., 2:] - x[..., :2], -1) for x in (a, b)]
    union = areas[0] + areas[1] - inner
    return np.divide(inner, union, out=np.zeros_like(inner), where=overlapping & (union != 0))


def reaches(iou: np.ndarray, threshold: float) -> np.ndarray:
    """Is an IoU, written with four decimals, at least ``threshold``?"""
    result = iou >= threshold
    for at in zip(*np.nonzero(np.abs(iou - threshold) < 1e-4), strict=True):
        result[at] = float(f"{iou[at]:.4f}") >= threshold
    return result


def positive_regions(
    words: Sequence[str],
    truth: Sequence[Sequence[Box]],
    regions: Sequence[np.ndarray],
    threshold: float,
) -> list[np.ndarray]:
    """Which regions of each frame show which words: bool (W, R) by frame.

    A region shows a word if it overlaps with any annotated box of that label.

    Args:
        truth: annotated boxes by frame.
        regions: (R, 4) by frame.
    """
    counts = [len(boxes) for boxes in regions]
    shown = np.zeros((len(words), sum(counts)), bool)
    objects = [(f, box) for f, boxes in enumerate(truth) for box in boxes]
    if objects and shown.size:  # all frames at once
        boxes = np.array([box for _, (_, box) in objects], np.float64)  # (G, 4)
        hit = reaches(overlaps(boxes, np.concatenate(regions)), threshold)
        hit &= np.array([f for f, _ in objects])[:, None] == np.repeat(range(len(counts)), counts)
        labels = np.array([label.lower() for _, (label, _) in objects])
        named = np.array(words)[:, None] == labels  # (W, G)
        shown = named.astype(np.float32) @ hit.astype(np.float32) > 0
    return np.split(shown, np.cumsum(counts), axis=1)[: len(counts)]


def label_matrix(positive: np.ndarray) -> np.ndarray:
    """Positive regions (W, R) as published, (W + 1, R): rows that sum to 1 or 0, then one of 0."""
    matrix = np.zeros((len(positive) + 1, positive.shape[1]))
    matrix[:-1] = positive / np.maximum(positive.sum(1, keepdims=True), 1)
    return matrix


class Groups(NamedTuple):
    """Words of frames with regions that show them and regions that do not."""

    frames: np.ndarray  # (G,) int64 positions in the sample, ascending
    words: np.ndarray  # (G,) int64, ascending within a frame
    pattern: np.ndarray  # (G, R) int8: 1 positive, 0 negative, -1 no region


def make_groups(positives: Sequence[np.ndarray], frames: Sequence[int]) -> Groups:
    """Groups of the frames at positions ``frames``, whose ``positive_regions`` are given."""
    width = max((p.shape[1] for p in positives), default=0)
    found = []
    for frame, positive in zip(frames, positives, strict=True):
        words = np.flatnonzero(positive.any(1) & ~positive.all(1))
        pattern = np.full((len(words), width), -1, np.int8)
        pattern[:, : positive.shape[1]] = positive[words]
        found.append((np.full(len(words), frame, np.int64), words, pattern))
    if not found:
        return Groups(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 0), np.int8))
    return Groups(*(np.concatenate(part) for part in zip(*found, strict=True)))


def draw_pairs(
    groups: Groups, repeats: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (frame, word, region) of positives and of as many drawn negatives, (P, 3) each.

    Order: group, repetition of the group's whole list of positives, region. Negatives are drawn
    uniformly with replacement from the group's own.
    """
    group, region = np.nonzero(groups.pattern == 1)
    order = np.argsort(np.tile(group, repeats), kind="stable")
    group, region = np.tile(group, repeats)[order], np.tile(region, repeats)[order]
    owner, candidate = np.nonzero(groups.pattern == 0)
    count = np.bincount(owner, minlength=len(groups.frames))
    drawn = (np.cumsum(count) - count)[group] + generator.integers(0, count[group])
    shared = groups.frames[group], groups.words[group]
    return np.stack([*shared, region], 1), np.stack([*shared, candidate[drawn]], 1)
