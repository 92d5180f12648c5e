# SPDX-License-Identifier: Apache-2.0
"""All files of a TVQA+ split behind one object; each is opened when something first needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .layout import find
from .tvqa_plus import (
    CHOICES,
    Question,
    Subtitles,
    parse_subtitles,
    read_json,
    read_questions,
    read_words,
    require,
    select,
    straight,
)
from .tvqa_plus_frames import Grid, frame_grid
from .tvqa_plus_regions import PackageRegions, Regions, StoreRegions
from .tvqa_plus_rows import H5Rows, Rows, open_part, read_index
from .tvqa_plus_store import ROLES, read_identity

FILES = {  # option -> what the file is
    "annotations": "the questions (JSON)",
    "subtitles": "the subtitles (JSON)",
    "word2idx": "the word ids (JSON)",
    "object_vocab": "the object words (JSON)",
    "frm_cnt": "the frame counts (JSON)",
    "qa_bert": "the word features of questions and answers (HDF5)",
    "sub_bert": "the word features of subtitles (HDF5)",
    "vcpt": "the boxes of the regions (JSON)",
    "vfeat": "the features of the regions (HDF5)",
    "store": "a folder packed from the feature files",
}


class Source:
    """Files of one split, and what a sample needs of them.

    Args:
        paths: option -> path, for the options in `FILES`; `store` replaces the four feature files.
        filelist: a text file of question ids, or a JSON file instead of `annotations`.
        text_size: numbers of a word's features.
        region_size: numbers of a region's features.
        num_region: regions of a frame that are used, the first ones.
        interval: distance of the frames that are used.
        max_frames: frames after this one are not used.
        skip_unk: do not count unknown words as objects.
    """

    def __init__(
        self,
        paths: Mapping[str, str | None],
        *,
        filelist: str | None = None,
        text_size: int = 768,
        region_size: int = 300,
        num_region: int = 25,
        interval: int = 6,
        max_frames: int = 300,
        skip_unk: bool = False,
    ):
        self._paths, self._filelist = dict(paths), filelist
        self.text_size, self.region_size, self.num_region = text_size, region_size, num_region
        self.interval, self.max_frames, self.skip_unk = interval, max_frames, skip_unk

    def path(self, option: str) -> Path:
        """The file of an option; raises DataError if there is none."""
        return require(self._paths[option], option, FILES[option])

    def given(self, option: str) -> bool:
        """Is a path configured?"""
        return self._paths[option] is not None

    # annotations

    @cached_property
    def questions(self) -> list[Question]:
        """The questions of the split."""
        listed = self._filelist and find(self._filelist)
        if listed and ".json" in listed.suffixes:
            return read_questions(listed)
        questions = read_questions(self.path("annotations"))
        return select(questions, listed) if listed else questions

    @cached_property
    def word_ids(self) -> dict[str, int]:
        """Word -> id; words that are not in it have id 0."""
        return read_words(self.path("word2idx"))

    def ids(self, words: list[str]) -> np.ndarray:
        """Ids of words, (n,) int64."""
        return np.array([self.word_ids.get(word, 0) for word in words], np.int64)

    @cached_property
    def objects(self) -> set[str]:
        """Words whose boxes are predicted."""
        return set(map(str, read_json(self.path("object_vocab"), list)))

    @cached_property
    def is_object(self) -> np.ndarray:
        """Whether an id is among those of the object words, bool (largest id + 1,).

        The unknown word's id is, since some object words have no id, unless ``skip_unk``.
        """
        table = np.zeros(max(self.word_ids.values()) + 1, bool)
        table[self.ids(list(self.objects))] = True
        if self.skip_unk:
            table[0] = False
        return table

    @cached_property
    def _frame_counts(self) -> dict[str, int]:
        return read_json(self.path("frm_cnt"))

    def num_frames(self, video: str) -> int:
        """Frames of a clip at 3 per second."""
        count = self._frame_counts.get(video)
        if not isinstance(count, int) or count < 1:
            found = "nothing" if count is None else repr(count)
            raise DataError(
                f"{self.path('frm_cnt')}: {video}: expected a number of frames, found {found}"
            )
        return count

    def grid(self, question: Question) -> Grid:
        """Frames of a question, in phase with its annotation; all are its own where it has none.

        Raises:
            DataError: the annotation is outside of the clip.
        """
        count = self.num_frames(question.video)
        annotated = list(question.objects) or [1, count]
        grid = frame_grid(annotated[0], annotated[-1], count, self.interval, self.max_frames)
        if grid is None:
            raise DataError(
                f"question {question.qid}: expected boxes of frames 1 to "
                f"{min(count, self.max_frames)} of {question.video}, found frame {annotated[0]}"
            )
        return grid

    # features

    @cached_property
    def _qa(self) -> Rows:
        return self._text("qa_bert", "qa")

    @cached_property
    def _sub(self) -> Rows:
        return self._text("sub_bert", "subtitles")

    def _text(self, option: str, part: str) -> Rows:
        stored = self.given("store")
        rows = open_part(self.path("store"), part) if stored else H5Rows(self.path(option))
        return self._sized(rows, self.text_size, "embedding_size")

    def _sized(self, rows: Rows, size: int, option: str) -> Rows:
        if rows.dim != size:
            raise DataError(
                f"{rows.where}: expected rows of {size} numbers ({option}), found {rows.dim}; "
                f"change {option} under DATASET and MODEL, or use other features"
            )
        return rows

    def statement_rows(
        self, question: Question, answers: bool = True
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Word features of a question (Lq, D) and, with ``answers``, of each of its answers.

        Raises:
            DataError: missing, or not one row a word.
        """
        choices = range(CHOICES if answers else 0)
        parts = {"q": question.text} | {f"a{k}": question.choices[k] for k in choices}
        found = []
        for part, text in parts.items():
            key, words = f"{question.qid}_{part}", len(text.split())
            rows = self._qa.read(key)
            if len(rows) != words:
                raise DataError(
                    f"{self._qa.where}: {key}: expected a row for each of {words} words, found "
                    f"{len(rows)}"
                )
            found.append(rows)
        return found[0], found[1:]

    def subtitle_rows(self, video: str) -> np.ndarray:
        """Word features of all subtitles of a clip, (words, D)."""
        return self._sub.read(video)

    @cached_property
    def _subtitles(self) -> dict[str, Any]:
        return read_json(self.path("subtitles"))

    def subtitles(self, video: str) -> Subtitles:
        """Sentences of a clip.

        Raises:
            DataError: no such clip, or one without any sentence.
        """
        if video not in self._subtitles:
            raise DataError(f"{self.path('subtitles')}: expected subtitles of {video}, found none")
        return parse_subtitles(f"{self.path('subtitles')}: {video}", self._subtitles[video])

    @cached_property
    def regions(self) -> Regions:
        """Regions of the split's clips; boxes of the published files only of annotated frames."""
        if self.given("store"):
            regions: Regions = StoreRegions(self.path("store"), self.num_region)
        else:
            vcpt, vfeat = self.path("vcpt"), self.path("vfeat")
            regions = PackageRegions(vcpt, vfeat, self._annotated(), self.num_region)
        self._sized(regions.rows, self.region_size, "vfeat_size")
        return regions

    def _annotated(self) -> dict[str, set[int]]:
        wanted: dict[str, set[int]] = {}
        for question in self.questions:
            grid = self.grid(question)
            ids = {*grid.ids[grid.first : grid.last + 1].tolist(), *question.objects}
            wanted.setdefault(question.video, set()).update(i - 1 for i in ids)
        return wanted

    def boxes(self, question: Question, grid: Grid) -> list[np.ndarray]:
        """Boxes (n, 4) of the annotated frames."""
        frames = grid.ids[grid.first : grid.last + 1] - 1
        return self.regions.boxes(question.video, frames.tolist())

    def open(self, streams: Sequence[str]) -> None:
        """Open what samples with these streams need, so that what is missing is said at once."""
        self.grid(self.questions[0])
        _ = self._qa
        if "sub" in streams:
            _ = self._sub, self._subtitles
        if "vfeat" in streams:
            _ = self.regions

    def identity(self, role: str) -> dict[str, Any] | None:
        """What made the features of a role, "text" or "regions"; None if nobody knows."""
        if self.given("store"):
            parts = read_index(self.path("store"))["parts"]
            found = [entry["identity"] for part, entry in parts.items() if ROLES[part] == role]
            return next(iter(found), None)
        return read_identity(self.path("qa_bert" if role == "text" else "vfeat"), role)

    # truth

    def references(self) -> dict[str, dict[str, Any]]:
        """Question id -> truth, as metrics expect it."""
        said = self._subtitles if self.given("subtitles") else {}
        spoken = {v: self._said(v) for v in {q.video for q in self.questions} & set(said)}
        ids = self.word_ids if self.given("word2idx") else {}
        return {str(q.qid): self._reference(q, ids, spoken) for q in self.questions}

    def _said(self, video: str) -> list[tuple[float, str]]:
        try:
            return list(zip(*self.subtitles(video), strict=False))
        except DataError:  # a network without stream sub needs none
            return []

    def _reference(
        self, question: Question, ids: Mapping[str, int], spoken: Mapping[str, list]
    ) -> dict[str, Any]:
        reference = {
            "vid_name": question.video,
            "question": question.text,
            "choices": list(question.choices),
            "qid": question.qid,
            "num_frames": self.num_frames(question.video) if self.given("frm_cnt") else None,
            "subtitles": spoken.get(question.video, []),
        }
        if question.moment is not None:
            reference["moment"] = list(question.moment)
        if question.answer is not None:
            reference["answer"] = question.answer
            reference["objects"] = {
                frame: [(straight(b.label), ids.get(straight(b.label), 0), b.box) for b in boxes]
                for frame, boxes in question.objects.items()
            }
        return reference
