# SPDX-License-Identifier: Apache-2.0
"""Pretraining by contrast: clips and captions that find one another, and masked words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .evidence import array
from .records import Records
from .retrieval import ranks, summary

_WORDS = ("mlm_loss", "mlm_tokens", "mlm_correct")
_FEATURES = ("video_feat", "text_feat")
_BLOCK = 1 << 24  # similarities that are computed at a time
_TINY = 1e-12  # shorter features have no direction
_VOCABULARY = 30524  # of bert-base-uncased with two more words


class Alignment(Records):
    """Retrieval among all clips and captions of the records by the cosine of their features, and
    masked words.

    A clip without a record finds nothing and cannot be found, and belongs to no mean of words.

    Args:
        strict: of ``Records``.
    """

    primary, higher_is_better = "text2video_r1", True
    columns = ("text2video_r1", "text2video_r5", "text2video_r10", "video2text_r1", "mlm_acc")

    def __init__(self, strict: bool = False):
        super().__init__(strict, words=np.zeros(len(_WORDS)))
        self._features: dict[str, tuple[np.ndarray, ...]] = {}  # id -> of the clip, of the caption

    def expect(self, references: Mapping[str, Mapping[str, Any]]) -> None:
        """Of ``Records``."""
        super().expect(references)
        self._features.clear()

    def update(self, records: Sequence[dict]) -> None:
        """Add records {id, video_feat and text_feat (size,), mlm_loss (sum over masked words),
        mlm_tokens, mlm_correct} of a clip with its caption.

        Raises:
            DataError: a key is missing, no finite number, or features of different sizes.
        """
        records, rows = self.known(records)
        words = [[array(r, key, ()) for key in _WORDS] for r in records]
        for record in records:
            size = len(next(iter(self._features.values()))[0]) if self._features else None
            video = array(record, "video_feat", (size,)).astype(np.float32)
            text = array(record, "text_feat", video.shape).astype(np.float32)
            self._features[record["id"]] = video, text
        self.put(rows, words=np.array(words).reshape(-1, len(_WORDS)))

    def scores(self) -> dict[str, float]:
        """text2video_r1, …, video2text_meanR as ``Retrieval``; ``mlm_acc``, ``mlm_loss`` a word."""
        if self.counted is None:
            self.counted = self._ranks()
        there, out = self["predicted"], {}
        for way, rank in self.counted.items():
            out |= {f"{way}_{key}": value for key, value in summary(rank, there).items()}
        loss, count, right = self["words"].sum(axis=0).tolist()
        return out | {"mlm_acc": right / max(1.0, count), "mlm_loss": loss / max(1.0, count)}

    details = published = scores

    def _ranks(self) -> dict[str, np.ndarray]:
        """Way -> rank of every row's own partner (references,), the last one without a record."""
        there = self["predicted"]
        pairs = [self._features[name] for _, name, _ in self.present()]
        out = {}
        for way, query, partner in (("text2video", 1, 0), ("video2text", 0, 1)):
            out[way] = np.full(len(there), len(there), np.int64)
            if pairs:
                queries, partners = (_directions([p[n] for p in pairs]) for n in (query, partner))
                out[way][there] = _own_ranks(queries, partners)
        return out

    def report(self) -> list[str]:
        """A line of each direction, and one of the masked words."""
        found, lines = self.scores(), []
        for way in ("text2video", "video2text"):
            recall = ", ".join(f"R@{k} {found[f'{way}_r{k}']:.2f}" for k in (1, 5, 10))
            median = found[f"{way}_medianR"]
            lines.append(f"{way.replace('2', ' to ')}: {recall}, MedR {median:.1f}")
        return [*lines, "masked words: accuracy {mlm_acc:.2%}, loss {mlm_loss:.4f}".format(**found)]

    def answers(self, topk: int | None = None) -> list[str]:
        """What was found of every clip."""
        lines, found = [], self._ranks()
        for row, name, reference in self.present():
            _, words, right = self["words"][row].tolist()
            lines.append(f"{name}: {reference.get('caption', '')}")
            lines.append(
                f"  rank of the clip {found['text2video'][row]}, of the caption "
                f"{found['video2text'][row]}; masked words: {right:.0f} of {words:.0f} right"
            )
        return lines

    @staticmethod
    def random(records: Sequence[dict], rng: np.random.Generator) -> list[dict]:
        """The records with features and words drawn by lot."""

        def guess(record: Mapping[str, Any]) -> dict[str, Any]:
            words = record["mlm_tokens"]
            return {key: rng.standard_normal(len(record[key])) for key in _FEATURES} | {
                "mlm_loss": words * math.log(_VOCABULARY),
                "mlm_correct": int(rng.binomial(words, 1 / _VOCABULARY)),
            }

        return [record | guess(record) for record in records]


def _directions(features: Sequence[np.ndarray]) -> np.ndarray:
    """Features (rows, size) of length 1."""
    rows = np.stack(features)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)


def _own_ranks(queries: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """Rank (rows,) of the partner of the same row by similarity, both (rows, size)."""
    own, step = np.arange(len(queries)), max(1, _BLOCK // len(queries))
    blocks = (own[start : start + step] for start in range(0, len(own), step))
    return np.concatenate([ranks(queries[block] @ partners.T, block) for block in blocks])
