# SPDX-License-Identifier: Apache-2.0
"""TALL's data: windows of a video with context, sentence vectors, and which belong together.

Works for every data set in the layout of data/dataset/tall/README.md (TACoS, Charades-STA, the
sample world) and for a raw video with sentences. Frames are counted from 1.
Source: TALL / CTRL (arXiv:1705.02101, section 4.1) and the reader of its Paddle release.
"""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .common.errors import DataError
from .common.features import FeatureSource, open_features
from .common.layout import Layout
from .common.queries import Queries, read_queries, select
from .common.video import Video
from .common.window_index import Matches, WindowIndex, group, spread
from .common.windows import window_features, window_grid, window_name

logger = logging.getLogger("vlzoo")

_SPLITS = ("train", "valid", "test", "infer")
_SHORT_LENGTH = 64  # window for videos that are too short for the configured ones
_MIN_FRAMES = 17  # for a window of 16 frames, which one feature is made of


class Reader:
    """Samples of moment localisation.

    Training: one sample per (window, sentence) that belong together. Test and infer: one item per
    video, or per block of its windows, with all its sentences; the same for validation.

    Args:
        split: "train", "valid", "test" or "infer".
        feats_dimen: length F of a window's feature.
        context_num: neighbours on each side; their mean is the context feature.
        context_size: length of a neighbour in frames.
        sent_vec_dim: sentence vectors are cut to this length E.
        semantic_size: the same for test and infer (that is what the published key does there).
        off_size: numbers of an offset; always 2.
        sliding_clip_path: folder of one ``.npy`` per window, or a packed store.
        clip_sentvec: sentence file, see ``reader/common/moments.py``.
        movie_length_info: frame counts (``.pkl``), or with rates (``.json``); optional.
        filelist: infer only: a folder with ``infer_feat/`` and ``infer_clip-sen.pkl``, or a text
            file of ``<video>`` or ``<video><tab><sentence>`` lines.
        context: "exact" neighbours only, as published, or else the "nearest" within size / 2.
        distinct_gt: no two of ``distinct_span`` consecutive training samples share their moment.
        distinct_span: see there; at least the batch size.
        max_windows: windows per item at most.
        window_lengths: windows that ``from_raw`` cuts, in frames.
        blind: zero the "text" or the "video" input, for baselines.
        seed: of the training order.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self,
        split: str,
        *,
        feats_dimen: int = 4096,
        context_num: int = 1,
        context_size: int = 128,
        sent_vec_dim: int = 4800,
        semantic_size: int | None = None,
        off_size: int = 2,
        sliding_clip_path: str | None = None,
        clip_sentvec: str | None = None,
        movie_length_info: str | None = None,
        filelist: str | None = None,
        context: Literal["exact", "nearest"] = "exact",
        distinct_gt: bool = False,
        distinct_span: int = 56,
        max_windows: int = 1024,
        window_lengths: Sequence[int] = (128, 256),
        blind: Literal["none", "text", "video"] = "none",
        seed: int = 0,
    ):
        if split not in _SPLITS:
            raise ValueError(f"split: expected one of {', '.join(_SPLITS)}, found {split!r}")
        if off_size != 2:
            raise ValueError(f"off_size: expected 2 (start and end offset), found {off_size}")
        if min(feats_dimen, context_num, context_size, sent_vec_dim, max_windows) < 1:
            raise ValueError("feats_dimen, context_*, sent_vec_dim, max_windows: expected >= 1")
        self.split, self.training, self.drop_last = split, split == "train", split == "train"
        self.items_per_batch = None if self.training else 1  # a test item is a batch of its own
        self.feats_dimen = feats_dimen
        self.context_num, self.context_size = context_num, context_size
        self.sentence_size = (split in ("test", "infer") and semantic_size) or sent_vec_dim
        self.nearest, self.blind, self.seed = context == "nearest", blind, seed
        self.distinct_span = distinct_span if distinct_gt else 0
        self.max_windows, self.window_lengths = max_windows, window_lengths
        self.extractors: Mapping[str, Any] = {}  # {"text": ...}, for sentences in a file list
        listed = filelist if split == "infer" else None
        self._files = Layout(split, sliding_clip_path, clip_sentvec, movie_length_info, listed)
        self._shuffled: tuple[int, random.Random, list[int]] | None = None

    # files, opened when first needed

    @cached_property
    def _source(self) -> FeatureSource:
        path = self._files.windows
        source = open_features(path)
        if source.dim != self.feats_dimen:
            raise DataError(
                f"{path}: expected features of {self.feats_dimen} numbers (feats_dimen), found "
                f"{source.dim} ({source.names[0]}); change feats_dimen or use other features"
            )
        return source

    @cached_property
    def windows(self) -> WindowIndex:
        return WindowIndex(self._source.names)

    @cached_property
    def queries(self) -> Queries:
        wanted, queries = self._files.wanted, None
        if wanted is None or not all(line.sentence for line in wanted):
            queries = read_queries(self._files.sentences, self.sentence_size)
        if wanted:
            queries = select(queries, wanted, self._encode_own, self._files.list_name)
        logger.info("%s:%d clip-sentence pairs are read", self.split.upper(), len(queries.names))
        logger.info("%s:%d movies.", self.split.upper(), len(set(queries.videos)))
        return queries

    @property
    def feature_identity(self) -> dict[str, dict | None] | None:
        """What made the features and the sentence vectors; None when neither bears a stamp."""
        identity = self._files.identities
        identity["visual"] = self._source.identity or identity["visual"]
        return identity if any(identity.values()) else None

    @property
    def needs_extractors(self) -> tuple[str, ...]:
        """Roles that must be in ``extractors`` before the first item: ("text",) or none."""
        return ("text",) if any(line.sentence for line in self._files.wanted or []) else ()

    def _encode_own(self, sentences: list[str]) -> np.ndarray:
        return self._encode(sentences, self.extractors)

    def _encode(self, sentences: list[str], extractors: Mapping[str, Any]) -> np.ndarray:
        """Sentences -> (n, E)."""
        text = _extractor(extractors, "text", self.sentence_size)
        return np.asarray(text.encode(sentences), np.float32)[:, : self.sentence_size]

    # training

    @cached_property
    def matches(self) -> Matches:
        queries, index = self.queries, self.windows
        matches = index.match(queries.videos, queries.moments)
        logger.info("TRAIN:%d iou clip-sentence pairs are read", len(matches.window))
        covered = len(np.unique(matches.moment))
        self._describe(f"matched with {covered} of {len(queries.names)} sentences")
        if len(matches.window) == 0:
            common = len(set(queries.videos) & set(index.rows_by_video))
            raise DataError(
                f"no training sample: expected windows such as {index.names[0]} with IoU > 0.5 and "
                f"< 15 % outside of moments such as {queries.names[0]}, found none in {common} "
                "videos that both have; compare the video names and the grid of windows"
            )
        return matches

    def _describe(self, rest: str) -> None:
        lengths = "/".join(map(str, self.windows.lengths()))
        logger.info(
            "%s: %d windows of %s frames, features of %d numbers, %s",
            self.split.upper(), len(self.windows.names), lengths, self._source.dim, rest,
        )  # fmt: skip

    @cached_property
    def _contexts(self) -> np.ndarray:
        """Feature rows of every training sample, (M, 2 * context_num + 1)."""
        windows, inverse = np.unique(self.matches.window, return_inverse=True)
        return self._context(self.windows, windows)[inverse]

    def _context(self, index: WindowIndex, windows: np.ndarray) -> np.ndarray:
        return index.context(windows, self.context_num, self.context_size, self.nearest)

    def order(self, epoch: int) -> list[int]:
        """Training order of an epoch: the samples, shuffled in place once for every epoch so far.

        With ``distinct_gt``, samples that find no place are left out.
        """
        if self._shuffled is None or self._shuffled[0] > epoch:
            self._shuffled = (-1, random.Random(self.seed), list(range(len(self))))
        done, generator, samples = self._shuffled
        for _ in range(done, epoch):
            generator.shuffle(samples)
        self._shuffled = (epoch, generator, samples)
        if not self.distinct_span:
            return list(samples)
        names, moment = self.queries.names, self.matches.moment
        kept = spread([names[moment[sample]] for sample in samples], self.distinct_span)
        if len(kept) < len(samples):
            logger.info("TRAIN: distinct_gt leaves out %d samples", len(samples) - len(kept))
        return [samples[position] for position in kept]

    # test and infer

    @cached_property
    def _blocks(self) -> list[tuple[str, int]]:
        """(video, first window) of every item."""
        sizes = {video: len(self.windows.rows(video)) for video in self._rows_by_video}
        logger.info("TEST:%d iou clip-sentence pairs are read", sum(sizes.values()))
        self._describe(f"for {len(self.queries.names)} sentences")
        empty = [video for video, size in sizes.items() if size == 0]
        if len(empty) == len(sizes):
            raise DataError(
                f"{self._files.windows}: expected windows of videos such as {empty[0]}, found only "
                f"others such as {self.windows.names[0]}; compare the video names"
            )
        if empty:
            logger.warning("no window of %d videos, the first is %s", len(empty), empty[0])
        return [(v, i) for v, size in sizes.items() for i in range(0, size, self.max_windows)]

    @cached_property
    def _rows_by_video(self) -> dict[str, np.ndarray]:
        return group(self.queries.videos)

    def references(self) -> dict[str, dict]:
        """Query id -> video, sentence_index, moment (frames), and num_frames, fps where known."""
        queries = self.queries
        return {
            name: queries.reference(row) | self._files.facts(queries.videos[row])
            for rows in self._rows_by_video.values()
            for row, name in zip(rows, queries.ids(rows), strict=True)
        }

    # items

    def __len__(self) -> int:
        return len(self.matches.window if self.training else self._blocks)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._train_item(i) if self.training else self._test_item(*self._blocks[i])

    def _train_item(self, i: int) -> dict[str, Any]:
        window, moment, offset = (part[i] for part in self.matches)
        return {
            "id": f"{self.queries.names[moment]}|{self.windows.names[window]}.npy",
            "visual": self.with_context(self._source.rows, self._contexts[i : i + 1])[0],  # (3F,)
            "sentence": self._text(self.queries.vectors[moment]),  # (E,)
            "offset": offset.astype(np.float32),  # (2,)
        }

    def _test_item(self, video: str, first: int) -> dict[str, Any]:
        windows = self.windows.rows(video)[first : first + self.max_windows]
        rows = self._rows_by_video[video]
        context = self._context(self.windows, windows)
        return {
            "id": video,
            "visual": self.with_context(self._source.rows, context),  # (T, 3F)
            "sentence": self._text(self.queries.vectors[rows]),  # (Q, E)
            "windows": self.windows.spans[windows].astype(np.float64),  # (T, 2)
            "first_window": first,
            "query_ids": self.queries.ids(rows),
            "sentence_index": self.queries.index[rows].tolist(),
            **self._files.facts(video),
        }

    def with_context(
        self, read: Callable[[np.ndarray], np.ndarray], context: np.ndarray
    ) -> np.ndarray:
        """Features of windows with context: left mean | window | right mean, (n, 3F).

        Args:
            read: row numbers -> features (rows, F).
            context: (n, 2 * context_num + 1) row numbers, see ``WindowIndex.context``.
        """
        n, k = len(context), self.context_num
        if self.blind == "video":
            return np.zeros((n, 3 * self.feats_dimen), np.float32)
        rows, inverse = np.unique(context, return_inverse=True)
        parts = read(rows)[inverse.reshape(context.shape)]  # (n, 2k + 1, F)
        if k > 1:
            left, right = parts[:, :k].mean(1), parts[:, k + 1 :].mean(1)
            parts = np.stack([left, parts[:, k], right], 1)
        return parts.reshape(n, -1)

    def _text(self, vectors: np.ndarray) -> np.ndarray:
        return np.zeros_like(vectors) if self.blind == "text" else vectors

    def collate(self, items: list[dict]) -> dict[str, Any]:
        """Training samples stacked; the one item of a test batch as it is."""
        if not self.training:
            if len(items) != 1:
                raise ValueError(f"expected one test item a batch, found {len(items)}")
            return items[0]
        keys = ("visual", "sentence", "offset")
        batch = {key: np.stack([item[key] for item in items]) for key in keys}
        return {"id": [item["id"] for item in items], **batch}

    # raw video

    def from_raw(
        self, video: str, query: str | Sequence[str], extractors: Mapping[str, Any], batch: int = 16
    ) -> Iterator[dict[str, Any]]:
        """Items of a video file and one or more sentences, as for test, with ``fps``.

        Features go through a temporary file, so memory does not grow with the video.

        Args:
            extractors: "visual" and "text".
            batch: windows per step of the visual extractor.

        Raises:
            DataError: unreadable or too short video, no sentence, extractors of other sizes.
        """
        sentences = [query] if isinstance(query, str) else list(query)
        if not all(s.strip() for s in sentences) or not sentences:
            raise DataError("--query: expected a sentence, found an empty one")
        visual = _extractor(extractors, "visual", self.feats_dimen)
        name, opened = Path(video).name, Video(video)
        windows = self._grid(name, opened.num_frames)
        index = WindowIndex([window_name(name, *span) for span in windows.tolist()])
        shared = {
            "id": name,
            "sentence": self._text(self._encode(sentences, extractors)),
            "query_ids": [f"{name}#{k}" for k in range(len(sentences))],
            "sentence_index": list(range(len(sentences))),
            "fps": opened.fps,
            "num_frames": opened.num_frames,
        }
        with tempfile.TemporaryFile() as file:
            features = np.memmap(file, np.float32, "w+", shape=(len(windows), self.feats_dimen))
            for rows, values in window_features(opened, windows, visual, batch):
                features[rows] = values
            for first in range(0, len(windows), self.max_windows):
                block = np.arange(first, min(first + self.max_windows, len(windows)))
                yield shared | {
                    "visual": self.with_context(features.__getitem__, self._context(index, block)),
                    "windows": windows[block].astype(np.float64),
                    "first_window": first,
                }

    def _grid(self, name: str, num_frames: int) -> np.ndarray:
        """Windows of a video, shorter ones when none of the configured lengths fits, (T, 2)."""
        if num_frames < _MIN_FRAMES:
            raise DataError(f"{name}: expected {_MIN_FRAMES} frames or more, found {num_frames}")
        grids = (self.window_lengths, [_SHORT_LENGTH], [num_frames - 1])
        return next(filter(len, (window_grid(num_frames, lengths) for lengths in grids)))


def _extractor(extractors: Mapping[str, Any], role: str, size: int) -> Any:
    """The extractor of a role, which gives vectors of ``size`` numbers (text: at least)."""
    if role not in extractors:
        raise DataError(f"raw input needs a {role} extractor; set DATASET.extractors.{role}")
    found = extractors[role].dim
    if found < size or (role == "visual" and found != size):
        raise DataError(f"{role} extractor: expected vectors of {size} numbers, found {found}")
    return extractors[role]
