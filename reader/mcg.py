# SPDX-License-Identifier: Apache-2.0
"""MCG's data: frames of a video with questions that a text answers, or with a caption.

An item is one video. In training it has one question, in evaluation all of its questions, so that
its frames are decoded and encoded once. In pre-training an item is a clip or picture and a caption.
Source: MCG (arXiv:2410.09379), ALPRO (arXiv:2112.09583) and their released code.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .common.clipbert_frames import Files
from .common.clipbert_rows import Groups
from .common.errors import BrokenSample, DataError
from .common.layout import find
from .common.mcg_frames import Frames, Strategy, read_picture
from .common.mcg_pairs import Listed, Pairs, Sharded
from .common.mcg_questions import Question, read_questions
from .common.mcg_text import Texts
from .common.shards import VIDEOS
from .common.wordpiece import pad_rows

logger = logging.getLogger("vlzoo")

Task = Literal["pretrain", "msvd_qa", "msrvtt_qa", "nextqa_oe"]
_SPLITS = ("train", "valid", "test", "infer")
_IGNORED = -100  # label of pieces that are not hidden
_SIZES = (
    "num_frm", "crop_img_size", "resize_size", "max_n_example_per_group", "shuffle_buffer",
    "samples_per_step",
)  # fmt: skip


@dataclass(eq=False, repr=False)
class Reader:
    """Videos with open questions, or clips and pictures with captions.

    Raises:
        ValueError: an option out of range, or options that do not go together.
    """

    split: str  # "train", "valid", "test" or "infer"
    _: KW_ONLY
    task: Task = "msvd_qa"
    annotations: str | Sequence[str] | None = None  # JSON lines or tables; in pretrain: data sets
    shards: str | Sequence[str] | None = None  # pretrain: data sets in tar files, a pattern each
    videos: str | None = None  # folder of video files
    images: str | None = None  # pretrain: folder of pictures
    filelist: str | None = None  # infer only: instead of `annotations`; needs no answers
    second_references: str | None = None  # nextqa_oe: JSON {video: {qid: another right answer}}
    video_paths: str | None = None  # nextqa_oe: JSON {video: path in `videos`, without ending}
    vocab: str | None = None  # vocab.txt of bert-base-uncased
    max_txt_len: int = 40  # word pieces of a question or caption, with both marks
    num_frm: int = 16
    crop_img_size: int = 224  # height and width of frames
    resize_size: int = 256  # pretrain: videos are squeezed to this, and cropped
    frame_sampling: Strategy | None = None  # None: as published for task and split
    max_n_example_per_group: int = 1  # questions of a video in an item of training
    augment: bool = True  # random changes of frames in training
    samples_per_step: int = 1  # pretrain, several data sets: TRAIN.batch_size * accumulate
    shuffle_buffer: int = 1000  # samples of shards among which the order is random
    blind: Literal["none", "video", "text"] = "none"  # input to leave out, for baselines
    seed: int = 42  # of everything that is drawn

    def __post_init__(self) -> None:
        self._check_options()
        self.training = self.split == "train"
        pretrain = self.task == "pretrain"
        published = "headtail" if pretrain else "rand" if self.training else "uniform"
        self._frames = Frames(
            strategy=self.frame_sampling or published,
            count=self.num_frm,
            side=self.crop_img_size,
            resize=self.resize_size if pretrain else self.crop_img_size,
            augment=self.augment and self.training,
        )
        if self._frames.strategy == "headtail" and self.num_frm % 2:
            raise ValueError(f"num_frm: expected an even number with headtail, not {self.num_frm}")
        self._own: dict[str, str] = {}
        self.set_epoch(0)

    def _check_options(self) -> None:
        for name, known in (("split", _SPLITS), ("task", get_args(Task))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}"
                )
        if bad := next((name for name in _SIZES if getattr(self, name) < 1), None):
            raise ValueError(f"{bad}: expected 1 or more, found {getattr(self, bad)}")
        if self.max_txt_len < 2 or self.seed < 0:
            raise ValueError("expected max_txt_len of 2 or more, seed of 0 or more")
        if self.task == "pretrain" and self.resize_size < self.crop_img_size:
            raise ValueError(f"resize_size: expected {self.crop_img_size} (crop_img_size) or more, "
                             f"found {self.resize_size}")  # fmt: skip
        for name, tasks in (("second_references", ("nextqa_oe",)), ("video_paths", ("nextqa_oe",)),
                            ("images", ("pretrain",)), ("shards", ("pretrain",))):  # fmt: skip
            if getattr(self, name) is not None and self.task not in tasks:
                raise ValueError(f"{name}: expected with {' or '.join(tasks)}, not {self.task}")

    # files, opened when first needed

    @cached_property
    def texts(self) -> Texts:
        """The vocabulary."""
        if not self.vocab:
            raise DataError(
                "vocab: expected the path of vocab.txt of bert-base-uncased, found none; set "
                "DATASET.vocab"
            )
        return Texts(self.vocab)

    def _paths(self) -> list[str]:
        """Files of annotations."""
        if self.split == "infer" and self.filelist is not None:
            return [self.filelist]
        return _listed(self.annotations)

    @cached_property
    def questions(self) -> list[Question]:
        """All questions."""
        if not self._paths():
            raise DataError(
                "annotations: expected the path of a file of questions, found none; set "
                "DATASET.annotations"
            )
        return read_questions(
            self._paths(), answered=self.training, places=self.video_paths,
            seconds=self.second_references,
        )  # fmt: skip

    @cached_property
    def groups(self) -> Groups:
        """Which questions are an item."""
        numbers: dict[str, int] = {}
        video = [numbers.setdefault(q.video, len(numbers)) for q in self.questions]
        return Groups(np.array(video), self.max_n_example_per_group if self.training else None)

    @cached_property
    def pairs(self) -> Pairs:
        """All clips and pictures of pre-training."""
        sets = [Listed(path, self.videos, self.images) for path in self._paths()]
        sets += map(Sharded, _listed(self.shards))
        if not sets:
            raise DataError(
                "annotations, shards: expected files of captions, found none; set "
                "DATASET.annotations or DATASET.shards"
            )
        return Pairs(sets)

    @cached_property
    def _files(self) -> Files:
        if not self.videos:
            raise DataError("videos: expected a folder's path, found none; set DATASET.videos")
        return Files(self.videos, "videos")

    def _file(self, video: str) -> str:
        """Path of a video; raises BrokenSample if there is none."""
        if video in self._own:
            return self._own[video]
        folder, name = os.path.split(video)
        if not folder:
            return self._files.get(name)
        place = os.path.join(find(self.videos), video)
        path = next((place + e for e in VIDEOS if os.path.exists(place + e)), None)
        if path is None:
            raise BrokenSample(f"{place}: expected a video ({', '.join(VIDEOS)}), found none")
        return path

    def __len__(self) -> int:
        """Number of items; also opens all files, so that what is missing is said early."""
        _ = self.texts
        if self.task == "pretrain":
            if self.blind != "video":
                self.pairs.require_files()
            return len(self.pairs)
        if self.blind != "video":
            names = {os.path.basename(question.video) for question in self.questions}
            self._files.require_any(sorted(names))
        return len(self.groups)

    def order(self, epoch: int) -> list[int]:
        """Items of an epoch of training."""
        if self.task == "pretrain":
            return self.pairs.order(self.seed, epoch, self.shuffle_buffer, self.samples_per_step)
        return np.random.default_rng((self.seed, epoch)).permutation(len(self)).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Choose what is drawn in an epoch, counted from 0."""
        self._epoch = epoch

    def references(self) -> dict[str, dict[str, Any]]:
        """Id -> what is known: question, answer, answer_type, video, index and second.

        pretrain: caption and video. The id of a sample there is its number.
        """
        if self.task != "pretrain":
            return {question.id: question.reference() for question in self.questions}
        found = {}
        for i in range(len(self.pairs)):
            try:
                pair = self.pairs.read(i, whole=False)
            except BrokenSample as error:
                found[str(i)] = {"caption": "", "video": str(error).partition(": expected")[0]}
                continue
            found[str(i)] = {"caption": self._caption(pair.captions, i), "video": pair.name}
        return found

    def seen(self, video: str) -> np.ndarray | None:
        """RGB frames (T, H, W, 3) uint8 read of a video; None if it is broken or hidden."""
        if self.blind == "video":
            return None
        try:
            frames = self._frames.video(self._file(video), np.random.default_rng(self.seed))
        except BrokenSample:
            return None
        return frames.transpose(0, 2, 3, 1)

    # items

    def __getitem__(self, i: int) -> dict[str, Any]:
        if self.task == "pretrain":
            return self._captioned(i)
        rng = np.random.default_rng((self.seed, self._epoch, i))
        rows = self.groups.filled(i, rng) if self.training else self.groups.rows(i)
        questions = [self.questions[row] for row in rows]
        if self.blind == "video":
            return self._asked(questions, self._frames.blank())
        return self._asked(questions, self._frames.video(self._file(questions[0].video), rng))

    def _asked(self, questions: Sequence[Question], frames: np.ndarray) -> dict[str, Any]:
        texts = ["" if self.blind == "text" else question.text for question in questions]
        item = {
            "id": [question.id for question in questions],
            "frames": frames,
            "rows": [self.texts.question(text, self.max_txt_len) for text in texts],
        }
        if all(question.answer is not None for question in questions):
            item["answers"] = [self.texts.answer(question.answer) for question in questions]
        return item

    def _captioned(self, i: int) -> dict[str, Any]:
        """A clip or picture, and a caption with hidden pieces."""
        pair = self.pairs.read(i)
        rng = np.random.default_rng((self.seed, self._epoch, i))
        if self.blind == "video":
            frames = self._frames.blank()
        elif not pair.is_video:
            frames = self._frames.picture(read_picture(pair.data, pair.name), rng)
        elif pair.data is None:
            frames = self._frames.video(pair.name, rng)
        else:
            frames = self._frames.video_bytes(pair.data, pair.name, rng)
        text = "" if self.blind == "text" else self._caption(pair.captions, i)
        ids = self.texts.caption(text, self.max_txt_len)
        words = rng.integers(len(self.texts.tokens), size=len(ids))
        hidden, labels = self.texts.hide(ids, rng.random((3, len(ids))), words)
        return {"id": [str(i)], "frames": frames, "rows": [ids], "hidden": [hidden],
                "labels": [labels], "is_video": pair.is_video}  # fmt: skip

    def _caption(self, captions: Sequence[str], i: int) -> str:
        """One of the captions."""
        if len(captions) == 1:
            return captions[0]
        rng = np.random.default_rng((self.seed, self._epoch, i, 1))
        return captions[rng.integers(len(captions))]

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Items as a batch.

        Returns:
            id (list of str), frames (V, T, 3, S, S) uint8, or float32 of 0 to 255 after random
            changes, ids int64 and mask float32 (R, L), always of ``max_txt_len``.
            Questions: video int64 (R,), which one a row is about; answer_ids int64 (R, La), if all
            answers are known; in evaluation tokens (list of str), by id.
            pretrain: mlm_ids and mlm_labels int64, pieces int8 (R, L).
        """
        rows = [row for item in items for row in item["rows"]]
        ids, mask = pad_rows(rows, self.texts.pad, self.max_txt_len)
        batch = {
            "id": [name for item in items for name in item["id"]],
            "frames": np.stack([item["frames"] for item in items]),
            "ids": ids,
            "mask": mask,
        }
        if self.task == "pretrain":
            return {**batch, **self._hidden(items, ids)}
        batch["video"] = np.repeat(np.arange(len(items)), [len(item["rows"]) for item in items])
        if all("answers" in item for item in items):
            answers = [row for item in items for row in item["answers"]]
            batch["answer_ids"], _ = pad_rows(answers, self.texts.pad)
        if not self.training:
            batch["tokens"] = self.texts.tokens
        return batch

    def _hidden(self, items: list[dict[str, Any]], ids: np.ndarray) -> dict[str, np.ndarray]:
        if self.training and len({item["is_video"] for item in items}) > 1:
            self._warn_of_mixture()
        made = {"pieces": self.texts.codes[ids]}
        for key, name, value in (("mlm_ids", "hidden", self.texts.pad),
                                 ("mlm_labels", "labels", _IGNORED)):  # fmt: skip
            found = [row for item in items for row in item[name]]
            made[key], _ = pad_rows(found, value, self.max_txt_len)
        return made

    _warned = False

    def _warn_of_mixture(self) -> None:
        if not self._warned:
            logger.warning(
                "a batch has clips and pictures, found samples_per_step %d; for batches of one "
                "data set set DATASET.samples_per_step to TRAIN.batch_size * TRAIN.accumulate",
                self.samples_per_step,
            )
        self._warned = True

    # raw video

    @property
    def raw_inputs(self) -> tuple[str, ...]:
        """What `from_raw` takes besides the video."""
        return () if self.task == "pretrain" else ("query",)

    def from_raw(
        self, video: str, query: str, extractors: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """One item, as for infer, of a video file and a question; ``extractors`` are not used.

        Raises:
            DataError: unreadable video, empty question, task pretrain.
        """
        if self.task == "pretrain":
            raise DataError("--video: task pretrain answers no questions; take another one")
        if not query.strip():
            raise DataError("--query: expected a question, found an empty one")
        name = Path(video).stem
        question = Question(f"{name}#{query}", name, query, None, "")
        blind = self.blind == "video"
        rng = np.random.default_rng(self.seed)
        frames = self._frames.blank() if blind else self._frames.video(video, rng)
        self._own[name] = video
        yield self._asked([question], frames)


def _listed(values: str | Sequence[str] | None) -> list[str]:
    """One or several texts as a list."""
    return [values] if isinstance(values, str) else list(values or ())
