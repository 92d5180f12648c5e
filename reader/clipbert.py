# SPDX-License-Identifier: Apache-2.0
"""ClipBERT's data: frames of a few clips of a video, and the texts that are asked about it.

An item is one video (or image) with its rows of text. In training that is one question or caption;
in evaluation all of a video, so that its frames are decoded and encoded once. Source: ClipBERT
(arXiv:2102.06183), ANetQA (CVPR 2023) and their released code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .common.clipbert_frames import Frames, Sampling
from .common.clipbert_records import FORMATS, OPTIONS, Annotations, Record, read_answers
from .common.clipbert_rows import IGNORED, Groups, hide_pieces
from .common.errors import DataError
from .common.images import fit
from .common.json_lines import stream_list
from .common.layout import find
from .common.wordpiece import MASK, WordPieces, pad_rows

_SPLITS = ("train", "valid", "test", "infer")
_MEAN = np.array([124, 116, 104], np.uint8).reshape(3, 1, 1)  # of images; what a network sees as 0
_SIDE = 224  # of frames without picture, if there is no other
_SIZES = ("num_frm", "n_clips", "max_n_example_per_group", "itm_neg_size", "frame_size")

Task = Literal[
    "anetqa", "frameqa", "msrvtt_qa", "action", "transition", "retrieval", "msrvtt_mc", "vqa",
    "pretrain",
]  # fmt: skip


@dataclass(eq=False, repr=False)
class Reader:
    """Videos with questions, questions with options, or captions.

    Raises:
        ValueError: an option out of range, or options that do not go together.
    """

    split: str  # "train", "valid", "test" or "infer"
    _: KW_ONLY
    task: Task = "anetqa"
    annotations: str | Sequence[str] | None = None  # JSON lines, one or several files
    ans2label: str | None = None  # JSON {answer: label}, for open questions
    questions: str | None = None  # ANetQA's raw questions, for evaluation: categories, answers
    filelist: str | None = None  # infer only: instead of `annotations`; needs no answers
    store: str | None = None  # anetqa: frame store; else frames are drawn from `videos`
    videos: str | None = None  # folder of video files named by id
    images: str | None = None  # vqa, pretrain: folder of pictures named by id
    vocab: str | None = None  # vocab.txt of bert-base-uncased
    max_txt_len: int = 40  # word pieces of a text at most, with [CLS] and [SEP]
    num_frm: int = 2  # frames of a clip; an image is one frame
    n_clips: int = 4
    fps: float = 1.0  # frames per second in a clip; not for anetqa
    frame_size: int = 512  # anetqa without store: height and width that frames are squeezed to
    max_img_size: int | None = 448  # of frames in batches with several sizes; None: there are none
    max_n_example_per_group: int = 1  # texts of a video in an item of training
    random_sample_clips: bool = True  # in training; else as in evaluation
    itm_neg_size: int = 1  # retrieval, training: captions of other videos for each one
    itm_neg_prob: float = 0.5  # pretrain: share of captions that are replaced by another image's
    mask_special_tokens: bool = True  # pretrain: [CLS] and [SEP] are hidden, too, as published
    data_ratio: float = 1.0  # share of the annotations to train on, drawn once
    reshuffle_each_epoch: bool = True  # else all epochs have the same order, as published
    blind: Literal["none", "video", "text"] = "none"  # input to leave out, for baselines
    seed: int = 42  # of everything that is drawn

    def __post_init__(self) -> None:
        self._check_options()
        self.training = self.split == "train"
        option = "images" if self.task == "vqa" or self.images is not None else "videos"
        if option == "images":
            self.num_frm = self.n_clips = 1
        sampling = Sampling(
            parts=self.task == "anetqa",
            training=self.training,
            num_frm=self.num_frm,
            n_clips=self.n_clips,
            fps=self.fps,
            random=self.training and self.random_sample_clips,
            middle=self.task in ("retrieval", "msrvtt_mc", "pretrain") and not self.training,
        )
        folder = getattr(self, option)
        self._frames = Frames(sampling, option, folder, self.store, self.frame_size)
        self.set_epoch(0)

    def _check_options(self) -> None:
        for name, known in (("split", _SPLITS), ("task", get_args(Task))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}"
                )
        sizes = _SIZES if self.max_img_size is None else (*_SIZES, "max_img_size")
        if bad := next((name for name in sizes if getattr(self, name) < 1), None):
            raise ValueError(f"{bad}: expected 1 or more, found {getattr(self, bad)}")
        if self.max_txt_len < 2 or self.fps <= 0 or self.seed < 0:
            raise ValueError("expected max_txt_len of 2 or more, fps above 0, seed of 0 or more")
        if not 0 <= self.itm_neg_prob <= 1 or not 0 < self.data_ratio <= 1:
            raise ValueError("itm_neg_prob, data_ratio: expected shares of 1")
        for name, tasks in (("store", ("anetqa",)), ("questions", ("anetqa",)),
                            ("images", ("vqa", "pretrain"))):  # fmt: skip
            if getattr(self, name) is not None and self.task not in tasks:
                raise ValueError(f"{name}: expected with {' or '.join(tasks)}, not {self.task}")
        if self.images is not None and self.videos is not None:
            raise ValueError("expected either images or videos, found both")

    # files, opened when first needed

    def _given(self, option: str, what: str) -> Any:
        """The value of an option that is needed."""
        value = getattr(self, option)
        if not value:
            raise DataError(f"{option}: expected {what}, found none; set DATASET.{option}")
        return value

    @cached_property
    def pieces(self) -> WordPieces:
        """The vocabulary."""
        return WordPieces(self._given("vocab", "the path of vocab.txt of bert-base-uncased"))

    @cached_property
    def labels(self) -> dict[str, int]:
        """Answer -> label, of open questions."""
        if FORMATS[self.task].answer not in ("text", "scores"):
            return {}
        return read_answers(self._given("ans2label", "the path of a JSON file {answer: label}"))

    @cached_property
    def answers(self) -> list[str]:
        """Answers by label."""
        return sorted(self.labels, key=self.labels.__getitem__)

    @cached_property
    def records(self) -> Annotations:
        """All annotations."""
        if self.split == "infer" and self.filelist is not None:
            paths = [self.filelist]
        else:
            paths = self._given("annotations", "the path of a file of JSON lines")
            paths = [paths] if isinstance(paths, str) else list(paths)
        return Annotations(self.task, paths, self.labels, self.training)

    @cached_property
    def groups(self) -> Groups:
        """Which annotations are an item."""
        video = self.records.video
        if not self.training:
            return Groups(video)
        rows = None
        if self.data_ratio < 1:
            drawn = np.random.default_rng(self.seed).permutation(len(video))
            rows = np.sort(drawn[: max(1, int(len(video) * self.data_ratio))])
        return Groups(video, self.max_n_example_per_group, rows)

    @cached_property
    def _captions(self) -> list[list[int]]:
        """Pieces of all captions; each video is compared with every one in evaluation."""
        return [self._encode(record.text) for record in self.records]

    def __len__(self) -> int:
        """Number of items; also opens all files, so that what is missing is said early."""
        if self.task == "msrvtt_mc" and self.training:
            raise DataError("task: msrvtt_mc has no training; train retrieval")
        _ = self.pieces, self.answers, self.groups
        if self.task == "pretrain":
            self.pieces.special(MASK)
        if self.task == "retrieval" and not self.training:
            _ = self._captions
        if self.blind != "video":
            self._frames.open(self.records.videos)
        return len(self.groups)

    def order(self, epoch: int) -> list[int]:
        """Items of an epoch of training."""
        generator = np.random.default_rng((self.seed, epoch if self.reshuffle_each_epoch else 0))
        return generator.permutation(len(self)).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Choose what is drawn in an epoch, counted from 0."""
        self._epoch = epoch

    def references(self) -> dict[str, dict[str, Any]]:
        """Id -> what is known: question, choices, answer, answer_type, video, taxonomy.

        vqa has labels {answer: score} instead of an answer; pretrain caption and video; retrieval,
        by clip: texts (numbers of its captions), captions, count (of all captions).
        """
        if self.task == "retrieval":
            return self._matches()
        raw = self._raw_questions() if self.questions else None
        found: dict[str, dict[str, Any]] = {}
        for row, record in enumerate(self.records):
            name = record.id or str(row)
            if name in found:
                raise DataError(f"annotations: expected every id once, found {name} twice")
            found[name] = _reference(record, self.task)
            if raw is not None:
                if name not in raw:
                    raise DataError(f"{self.questions}: expected question {name}, found none")
                found[name] = raw[name] | found[name]
        return found

    def _matches(self) -> dict[str, dict[str, Any]]:
        found = {clip: {"texts": [], "captions": []} for clip in self.records.videos}
        for row, record in enumerate(self.records):
            found[record.video]["texts"].append(row)
            found[record.video]["captions"].append(record.text)
        return {clip: {**known, "count": len(self.records)} for clip, known in found.items()}

    def _raw_questions(self) -> dict[str, dict[str, Any]]:
        """Question id -> its taxonomy and answer; equal ones are one object: there are few."""
        shared: dict[str, dict] = {}
        found: dict[str, dict] = {}
        for entry in stream_list(find(self.questions)):
            known = {k: entry[k] for k in ("taxonomy", "answer") if entry.get(k) is not None}
            found[entry.get("qa_id")] = shared.setdefault(repr(known), known)
        return found

    def seen(self, video: str) -> np.ndarray | None:
        """RGB frames (F, H, W, 3) uint8 read of a video; None if it is broken or hidden."""
        rng = np.random.default_rng(self.seed)
        return None if self.blind == "video" else self._frames.seen(video, rng)

    # items

    def __getitem__(self, i: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, self._epoch, i))
        rows = self.groups.filled(i, rng) if self.training else self.groups.rows(i)
        video = self.records.videos[self.groups.video[i]]
        frames = self._blank() if self.blind == "video" else self._frames.read(video, rng)
        return {"frames": frames, **self._texts(i, video, rows, rng)}

    def _blank(self) -> np.ndarray:
        side = self.max_img_size or _SIDE
        return np.broadcast_to(_MEAN, (self.num_frm * self.n_clips, 3, side, side))

    def _encode(self, text: str) -> list[int]:
        return self.pieces.encode("" if self.blind == "text" else text, self.max_txt_len)

    def _texts(self, i: int, video: str, rows: list[int], rng: Any) -> dict[str, Any]:
        """Ids, rows of pieces, and labels of an item."""
        if self.task == "retrieval" and not self.training:
            return {"id": [video], "rows": self._captions}
        records = self.records.read(rows)
        if self.task == "retrieval":
            return {"id": [video], **self._matching(i, records, rng)}
        ids = [record.id or str(row) for record, row in zip(records, rows, strict=True)]
        if self.task == "pretrain":
            return {"id": ids, **self._hidden(i, records, rng)}
        item = {"id": ids, "rows": [row for record in records for row in self._asked(record)]}
        if self.task == "vqa":
            item["labels"] = np.stack([self._soft(record.answer) for record in records])
        elif self.task != "msrvtt_mc":
            item["labels"] = self.records.label[rows].astype(np.int64)
        return item

    def _asked(self, record: Record) -> list[list[int]]:
        """Rows of a question: itself, with each option, or the options alone."""
        texts = [" ".join(filter(None, (record.text, option))) for option in record.options]
        return [self._encode(text) for text in texts or [record.text]]

    def _soft(self, scores: Mapping[str, float] | None) -> np.ndarray:
        """Scores of answers as labels (C,); those without a label are left out."""
        labels = np.zeros(len(self.labels), np.float32)
        for answer, value in (scores or {}).items():
            if answer in self.labels:
                labels[self.labels[answer]] = value
        return labels

    def _matching(self, i: int, records: list[Record], rng: Any) -> dict[str, Any]:
        """Every caption, followed by some of other videos."""
        rows = []
        for record in records:
            others = [self.groups.other(i, rng) for _ in range(self.itm_neg_size)]
            rows += [self._encode(r.text) for r in (record, *self.records.read(others))]
        labels = np.zeros((len(records), 1 + self.itm_neg_size), np.int64)
        labels[:, 0] = 1
        return {"rows": rows, "labels": labels.reshape(-1)}

    def _hidden(self, i: int, records: list[Record], rng: Any) -> dict[str, Any]:
        """Captions, some of them another image's, with hidden pieces."""
        item = {"rows": [], "itm_labels": [], "mlm_labels": []}
        for record in records:
            match = rng.random() >= self.itm_neg_prob
            if not match:
                (record,) = self.records.read([self.groups.other(i, rng)])
            ids = np.array(self._encode(record.text))
            may_hide = np.ones(len(ids), bool)
            may_hide[[0, -1]] = self.mask_special_tokens
            words = rng.integers(len(self.pieces), size=len(ids))
            mask = self.pieces.special(MASK)
            row, told = hide_pieces(ids, may_hide, rng.random((3, len(ids))), words, mask)
            for key, value in (("rows", row), ("itm_labels", int(match)), ("mlm_labels", told)):
                item[key].append(value)
        return item | {"itm_labels": np.array(item["itm_labels"])}

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Items as a batch: frames of all videos, rows of text padded to the longest one.

        Returns:
            task, id (list of str), frames (V, F, 3, H, W) of 0 to 255, uint8 or, fitted into
            squares, float32, num_frm (int), ids int64 and mask float32 (R, L), video int64 (R,):
            which one a row is about.
            labels int64 (R,), one of 5 rows for options (R / 5,), float32 (R, C) for vqa; none in
            evaluation of retrieval and for msrvtt_mc; for pretrain itm_labels (R,) and mlm_labels
            (R, L). In evaluation of open questions also answers, by label. Of a raw video with
            options also references, what the record is to be shown with.
        """
        rows = [row for item in items for row in item["rows"]]
        length = self.max_txt_len if self.task == "pretrain" else None
        ids, mask = pad_rows(rows, self.pieces.pad, length)
        batch = {
            "task": self.task,
            "id": [name for item in items for name in item["id"]],
            "frames": self._stack([item["frames"] for item in items]),
            "num_frm": self.num_frm,
            "ids": ids,
            "mask": mask,
            "video": np.repeat(np.arange(len(items)), [len(item["rows"]) for item in items]),
        }
        for key in ("labels", "itm_labels"):
            if key in items[0]:
                batch[key] = np.concatenate([item[key] for item in items])
        if self.task == "pretrain":
            told = [row for item in items for row in item["mlm_labels"]]
            batch["mlm_labels"], _ = pad_rows(told, IGNORED, length)
        if self.labels and not self.training:
            batch["answers"] = self.answers
        if "reference" in items[0]:
            batch["references"] = [item["reference"] for item in items]
        return batch

    def _stack(self, frames: list[np.ndarray]) -> np.ndarray:
        """Frames of one size as they are, of several sizes fitted into squares."""
        if len({each.shape for each in frames}) == 1:
            return np.stack(frames)
        if self.max_img_size is None:
            raise DataError("expected frames of one size, found several; set max_img_size")
        return np.stack([fit(each, self.max_img_size) for each in frames])

    # raw video

    @property
    def raw_inputs(self) -> tuple[str, ...]:
        """What `from_raw` takes besides the video."""
        if self.task == "pretrain":
            return ()
        words = FORMATS[self.task].answer in ("text", "scores")
        return ("query",) if words else ("query", "choices")

    def from_raw(
        self,
        video: str,
        query: str,
        extractors: Mapping[str, Any],
        *,
        choices: Sequence[str] = (),
    ) -> Iterator[dict[str, Any]]:
        """One item, as for infer, of a video file (vqa: a picture) and a question or caption.

        Args:
            extractors: not used.
            choices: options of a question; for msrvtt_mc and retrieval the captions to compare, for
                retrieval besides the query.

        Raises:
            DataError: unreadable video, empty query, choices that the task has no use for.
        """
        if not query.strip():
            raise DataError("--query: expected a question, found an empty one")
        record = self._raw_record(query, list(choices))
        name = Path(video).stem
        rng = np.random.default_rng(self.seed)
        frames = self._blank() if self.blind == "video" else self._frames.read_file(video, rng)
        item = {"id": [f"{name}#{query}"], "frames": frames, "rows": self._asked(record)}
        if self.task == "vqa":
            item["labels"] = self._soft(None)[None]
        elif self.task not in ("retrieval", "msrvtt_mc"):
            item["labels"] = np.array([-1])
        if record.options:
            item["reference"] = {"choices": list(record.options)}
        self._frames.add(name, video)
        yield item

    def _raw_record(self, query: str, choices: list[str]) -> Record:
        form = FORMATS[self.task]
        if self.task == "pretrain":
            raise DataError("--video: task pretrain answers no questions; take another one")
        if form.answer == "option" and len(choices) != OPTIONS:
            raise DataError(f"--choices: expected {OPTIONS} texts, found {len(choices)}")
        if form.answer in ("text", "scores") and choices:
            raise DataError(f"--choices: expected none with task {self.task}; leave the flag out")
        if self.task == "retrieval":
            return Record(None, "", None, [query, *choices], None, None)
        return Record(None, "", query if form.text else None, choices, None, None)


def _reference(record: Record, task: str) -> dict[str, Any]:
    """What is known of a record, under the names that metrics use."""
    form = FORMATS[task]
    known = {
        form.text: record.text,
        "choices": list(record.options) or None,
        "labels" if form.answer == "scores" else "answer": record.answer,
        "answer_type": record.kind if task in ("frameqa", "msrvtt_qa", "vqa") else None,
        "video": record.video,
    }
    return {key: value for key, value in known.items() if key and value is not None}
