# SPDX-License-Identifier: Apache-2.0
"""Retrieval between videos and their captions: recall, median and mean rank.

Source: the retrieval evaluation of github.com/jayleicn/ClipBERT (arXiv:2102.06183).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from .answers import scored
from .evidence import array
from .records import Records

_RANKS = (1, 5, 10)
_BLOCK = 1 << 24  # scores that are compared at a time
_SHOWN = 5
DECIMALS = 4  # of a score in the result file
ABSENT = np.finfo(np.float32).min  # lower than every score


def ranks(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank of one candidate a row, from 1; of equal scores the first candidate goes first.

    Args:
        scores: (rows, candidates).
        truth: (rows,) which candidate.

    Returns:
        (rows,) int64.
    """
    order, out = np.arange(scores.shape[1]), np.empty(len(scores), np.int64)
    step = max(1, _BLOCK // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        block, true = scores[start : start + step], truth[start : start + step, None]
        own = np.take_along_axis(block, true, axis=1)
        before = (block > own) | ((block == own) & (order < true))
        out[start : start + step] = before.sum(axis=1) + 1
    return out


def summary(rank: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """r1, r5, r10 in per cent, medianR and meanR; zeros without a rank.

    Args:
        rank: (queries,) from 1.
        found: (queries,) False: is among the first in no case, whatever its rank.
    """
    if not len(rank):
        return dict.fromkeys((*(f"r{k}" for k in _RANKS), "medianR", "meanR"), 0.0)
    recall = {f"r{k}": 100 * float(np.mean((rank <= k) & found)) for k in _RANKS}
    return recall | {"medianR": float(np.median(rank)), "meanR": float(np.mean(rank))}


class Retrieval(Records):
    """Scores of every video with every caption, against who belongs to whom.

    A reference is a video: {texts: numbers of its captions, captions: [text], count: captions of
    the whole set}. From videos to captions, the last caption of a video is the one to be found. A
    video without a record has the last rank, in both directions. Of two records of a video the
    first one counts.

    Args:
        strict: of ``Records``.
        round_scores: rank by scores of 4 decimals, ties included, as the published results do.
    """

    primary, higher_is_better, truths = "text2video_r1", True, ("texts",)
    columns = (
        "text2video_r1", "text2video_r5", "text2video_r10", "text2video_medianR", "video2text_r1",
    )  # fmt: skip

    def __init__(self, strict: bool = False, round_scores: bool = False):
        super().__init__(strict)
        self._round = round_scores
        self._scores: dict[str, np.ndarray] = {}

    def expect(self, references: Mapping[str, Mapping[str, Any]]) -> None:
        """Of ``Records``."""
        super().expect(references)
        self._scores.clear()

    def update(self, records: Sequence[dict]) -> None:
        """Add records {id, scores (captions,)}; ``ABSENT`` where a pair was not scored.

        Raises:
            DataError: no scores, another number than there are captions, or not finite.
        """
        records, rows = self.known(records)
        for record in records:
            name = record["id"]
            count = self.references[name].get("count")
            scores = array(record, "scores", (count,)).astype(np.float32)
            self._scores.setdefault(name, scores)
        self.put(rows)

    def scores(self) -> dict[str, float]:
        """``details`` with names like text2video_r1."""
        return {
            f"{way}_{key}": value
            for way, numbers in self.details().items()
            for key, value in numbers.items()
        }

    def details(self) -> dict[str, dict[str, float]]:
        """text2video and video2text -> {r1, r5, r10 in per cent, medianR, meanR}."""
        there = self["predicted"]
        texts = [r.get("texts", ()) for r in self.references.values()]
        video = np.array([v for v, own in enumerate(texts) for _ in own], np.int64)  # of each text
        text = np.array([n for own in texts for n in own], np.int64)
        last = np.array([own[-1] if own else 0 for own in texts], np.int64)
        matrix = self._matrix()
        to_video = np.where(there[video], ranks(matrix.T[text], video), len(texts))
        to_text = np.where(there, ranks(matrix, last), matrix.shape[1])
        asked = np.array([len(own) > 0 for own in texts], bool)
        return {
            "text2video": summary(to_video, there[video]),
            "video2text": summary(to_text[asked], there[asked]),
        }

    published = details

    def _matrix(self) -> np.ndarray:
        """(videos, captions) float32; -inf where nothing was scored."""
        counts = (r.get("count", 0) for r in self.references.values())
        size = max((*counts, *map(len, self._scores.values())), default=0)
        matrix = np.full((len(self.references), size), -np.inf, np.float32)
        for row, name, _ in self.present():
            matrix[row, : len(self._scores[name])] = self._scores[name]
        return np.round(matrix.astype(np.float64), DECIMALS) if self._round else matrix

    def report(self) -> list[str]:
        """A line of each direction."""
        text = "R@1 {r1:.2f}, R@5 {r5:.2f}, R@10 {r10:.2f}, MedR {medianR:.1f}, MeanR {meanR:.2f}"
        return [
            f"{way.replace('2', ' to ')}: {text.format(**numbers)}"
            for way, numbers in self.details().items()
        ]

    def predicted(self) -> Iterator[tuple[str, Mapping[str, Any], np.ndarray]]:
        """(id, reference, scores) of every video that has some."""
        for _, name, reference in self.present():
            yield name, reference, self._scores[name]

    def _captions(self) -> dict[int, str]:
        """Number -> text of every caption of the references, or of those given with a raw video."""
        captions: dict[int, str] = {}
        for r in self.references.values():
            captions |= enumerate(r.get("choices", ()))
            captions |= zip(r.get("texts", ()), r.get("captions", ()), strict=True)
        return captions

    def answers(self, topk: int | None = None) -> list[str]:
        """The best captions of every video."""
        captions, lines = self._captions(), []
        for name, _, scores in self.predicted():
            lines.append(name)
            for n in np.argsort(-scores, kind="stable")[: topk or 1].tolist():
                lines.append(scored("caption", captions.get(n, f"number {n}"), float(scores[n])))
        return lines

    def pages(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Videos with their best captions, as engine/page.py takes them."""
        captions = self._captions()
        for name, reference, scores in islice(self.predicted(), limit):
            best = np.argsort(-scores, kind="stable")[:_SHOWN].tolist()
            choices = []
            for k, n in enumerate(best):
                text = captions.get(n, f"number {n}")
                choice = {"text": text, "score": float(scores[n]), "predicted": k == 0}
                true = {"correct": n in reference["texts"]} if "texts" in reference else {}
                choices.append(choice | true)
            page = {"id": name, "title": name, "choices": choices}
            if "captions" in reference:
                note = "true caption: " + " / ".join(reference["captions"])
                page |= {"video": name, "note": note}
            yield page

    @staticmethod
    def random(records: Sequence[dict], rng: np.random.Generator) -> list[dict]:
        """The records with scores drawn by lot."""
        return [r | {"scores": rng.random(len(r["scores"])).astype(np.float32)} for r in records]
