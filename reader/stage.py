# SPDX-License-Identifier: Apache-2.0
"""STAGE's data: questions of TVQA+ with word features, subtitle pieces and regions of frames.

Works for the released feature package, a store packed from it, every data set in that layout, and
a raw video with subtitles. Source: TVQA+ (arXiv:1904.11574) and its released code.

With ``answer_vocab`` the network reads the question alone, so the axis of answers has size 1, and
answers are targets of a decoder. That part is this project's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np

from .common.errors import DataError
from .common.tvqa_plus import Question
from .common.tvqa_plus_answers import Answers
from .common.tvqa_plus_frames import Grid, draw_pairs, time_label
from .common.tvqa_plus_pictures import Pictures
from .common.tvqa_plus_raw import RawClip
from .common.tvqa_plus_samples import (
    attention_groups,
    attention_positives,
    clip,
    cut_pieces,
    mask_of,
    pad,
    pad_groups,
    pad_pieces,
    pad_regions,
    pad_statements,
    with_sample,
)
from .common.tvqa_plus_source import FILES, Source

_SPLITS = ("train", "valid", "test", "infer")
_STREAMS = ("sub", "vfeat")
_NO_ANSWER = 999
_SIZES = ("embedding_size", "vfeat_size", "num_region", "max_qa_l", "max_sub_l", "max_vid_l",
          "frame_interval", "fps", "max_frames", "num_negatives", "max_q_l",
          "max_answer_len")  # fmt: skip


@dataclass(eq=False, repr=False)
class Reader:
    """Samples of question answering with temporal and spatial evidence.

    Frames of a sample are ``frame_interval`` apart on the grid of ``fps`` per second and in phase
    with the question's annotated frames, in every split.

    Raises:
        ValueError: an option out of range.
    """

    split: str  # "train", "valid", "test" or "infer"
    _: KW_ONLY
    # files; JSON may be compressed (.json.gz)
    annotations: str | None = None  # questions
    subtitles: str | None = None  # sentences by clip
    word2idx: str | None = None  # ids of words
    object_vocab: str | None = None  # words whose boxes are predicted
    frm_cnt: str | None = None  # number of frames by clip
    qa_bert: str | None = None  # HDF5, word features of questions and answers
    sub_bert: str | None = None  # HDF5, word features of subtitles by clip
    vcpt: str | None = None  # JSON, boxes of the regions by clip
    vfeat: str | None = None  # HDF5, features of the regions by clip
    store: str | None = None  # folder packed from the last four, instead of them
    videos: str | None = None  # folder of video files or of folders of frames, for pictures
    # infer only: text file with a question id a line, or JSON that replaces `annotations`
    filelist: str | None = None
    # "sub", "vfeat" or both; a file that only the other one needs may be absent
    input_streams: Sequence[str] = _STREAMS
    embedding_size: int = 768  # expected width of word features
    vfeat_size: int = 300  # expected width of region features
    num_region: int = 25  # regions of a frame at most
    att_iou_thd: float = 0.5  # IoU from which on a region shows an annotated object
    answer_vocab: str | None = None  # words of generated answers (JSON); None: multiple choice
    max_answer_len: int = 16  # words of a generated answer at most, its end included
    use_copy: bool = True  # generated answers may have words of question and subtitles
    max_q_l: int = 30  # words of a question at most, with `answer_vocab`
    max_qa_l: int = 40  # words of question and answer at most, without
    max_sub_l: int = 50  # words of a subtitle piece at most
    max_vid_l: int = 300  # frames of a batch at most
    max_vcpt_l: int = 300  # published setting without effect: region labels are not read
    frame_interval: int = 6
    fps: int = 3
    max_frames: int = 300  # later frames of a clip are not used
    use_sup_att: bool = True  # give training pairs of positive and negative regions
    num_negatives: int = 2  # for every positive
    hard_negative_start: int = 100  # from this epoch (from 0) on the network chooses the negatives
    skip_unk: bool = False  # predict no boxes for unknown words and padding
    blind: Literal["none", "subtitles", "video"] = "none"  # input to zero, for baselines
    seed: int = 2018  # of the negatives

    def __post_init__(self) -> None:
        if self.split not in _SPLITS:
            raise ValueError(f"split: expected one of {', '.join(_SPLITS)}, found {self.split!r}")
        if not self.input_streams or not set(self.input_streams) <= set(_STREAMS):
            raise ValueError(
                f"input_streams: expected sub, vfeat or both, found {list(self.input_streams)}"
            )
        if bad := next((name for name in _SIZES if getattr(self, name) < 1), None):
            raise ValueError(f"{bad}: expected 1 or more, found {getattr(self, bad)}")
        self.training = self.split == "train"
        self.sub, self.vision = ("sub" in self.input_streams, "vfeat" in self.input_streams)
        self.supervised = self.training and self.use_sup_att and self.vision
        self.source = Source(
            {name: getattr(self, name) for name in FILES},
            filelist=self.filelist if self.split == "infer" else None,
            text_size=self.embedding_size,
            region_size=self.vfeat_size,
            num_region=self.num_region,
            interval=self.frame_interval,
            max_frames=self.max_frames,
            skip_unk=self.skip_unk,
        )
        self.answers, self._max_words = None, self.max_qa_l
        if self.answer_vocab is not None:
            self._max_words, limits = self.max_q_l, (self.max_q_l, self.max_sub_l, self.max_vid_l)
            self.answers = Answers(self.answer_vocab, self.max_answer_len, self.use_copy, *limits)
        self._pictures = Pictures(self.videos, self.fps)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the negatives of an epoch, counted from 0."""
        self._epoch, self._hard = epoch, epoch + 1 > self.hard_negative_start

    def __len__(self) -> int:
        """Number of questions; also opens all files, so that what is missing is said early."""
        self.source.open(self.input_streams)
        _ = self.answers and self.answers.vocabulary
        return len(self.source.questions)

    @property
    def feature_identity(self) -> dict[str, dict | None]:
        """What made the features of words and regions, where it is known."""
        roles = ("text", "regions") if self.vision else ("text",)
        return {role: self.source.identity(role) for role in roles}

    def references(self) -> dict[str, dict[str, Any]]:
        """Question id -> vid_name, question, choices, qid, num_frames and subtitles; where they are
        published also answer, moment (seconds) and objects {frame: [(label, word id, box)]}.
        """
        return self.source.references()

    def pictures(self, vid_name: str, image_indices: Sequence[int]) -> list[np.ndarray] | None:
        """RGB frames (H, W, 3) uint8 of a clip by their numbers; None without the clip's video."""
        return self._pictures.read(vid_name, image_indices)

    # items

    def __getitem__(self, i: int) -> dict[str, Any]:
        question = self.source.questions[i]
        grid = self.source.grid(question)
        rows, answers = self.source.statement_rows(question, answers=not self.answers)
        count = self.source.num_frames(question.video)
        item = {
            "id": str(question.qid),
            "question": rows,  # (Lq, D)
            "answers": answers or [rows[:0]],  # 5 or 1 x (La, D)
            "frames": len(grid.ids),
            "label": time_label(question.moment, count, grid.ids - 1, self.fps, self.max_frames),
            "target": self._target(question),
        }
        if self.training and question.answer is None:
            raise DataError(
                f"question {question.qid}: expected an answer_idx for training, found none"
            )
        if self.sub:
            said = self.source.subtitles(question.video)
            features = self.source.subtitle_rows(question.video)
            item["pieces"] = cut_pieces(question.video, said, features, grid.ids / self.fps)
        if self.vision:
            regions = self.source.regions.features(question.video, grid.ids - 1)
            item["region_counts"], item["regions"] = regions  # (F,), (sum, Dv)
        if self.supervised:
            item |= self._attention(question, grid, i)
        if not self.training:
            item |= self._evaluation(question, grid)
        if self.answers:
            words, choices = question.words(), question.choices
            item |= self._generation(item, words, choices, question.answer)
        return item

    def _generation(
        self, item: dict, words: list[str], choices: Sequence[str], answer: int | None
    ) -> dict[str, Any]:
        pieces = None if self.blind == "subtitles" else item.get("pieces")  # what can be copied
        return self.answers.item(words, pieces, choices, answer)

    def _target(self, question: Question) -> int:
        """Index of the answer among ``_statements``."""
        if self.answers:
            return 0
        return _NO_ANSWER if question.answer is None else question.answer

    def _statements(self, question: Question) -> list[list[str]]:
        """Lower-case words that the network reads: the question with every answer, or alone."""
        choices = [None] if self.answers else range(len(question.choices))
        return [question.words(k) for k in choices]

    def _attention(self, question: Question, grid: Grid, i: int) -> dict[str, np.ndarray]:
        """Pairs (answer, frame, word, region), or groups (answer, frame, word) with patterns."""
        answer = self._target(question)
        words = self._statements(question)[answer]
        positives = attention_positives(self.source, question, words, self.att_iou_thd)
        groups = attention_groups(positives, grid, self._max_words, self.max_vid_l)
        if self._hard:
            index = np.stack([groups.frames, groups.words], 1)
            return {"att_groups": np.insert(index, 0, answer, 1), "att_pattern": groups.pattern}
        generator = np.random.default_rng((self.seed, self._epoch, i))
        positive, negative = draw_pairs(groups, self.num_negatives, generator)
        return {
            "pos_container": np.insert(positive, 0, answer, 1),
            "neg_container": np.insert(negative, 0, answer, 1),
        }

    def _evaluation(self, question: Question, grid: Grid) -> dict[str, Any]:
        """Word ids, which of them are objects, and what the result file names."""
        source = self.source
        known = source.given("word2idx") or self.vision
        words = self._statements(question)
        ids = [source.ids(w) if known else np.zeros(len(w), np.int64) for w in words]
        extra = {}
        if self.vision:
            table = source.is_object
            extra = {"objects": [table[i] for i in ids], "padding_is_object": bool(table[0])}
        meta = {
            "vid_name": question.video,
            "image_indices": grid.ids.tolist(),
            "anno_st_idx": grid.first,
            "boxes": source.boxes(question, grid) if self.vision else [],
            "q_len": len(question.words()),
        }
        return {"word_ids": ids, "meta": meta, **extra}

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Items padded to a batch; frames, words and regions to the longest of the batch."""
        statements = [item["question"] for item in items], [item["answers"] for item in items]
        qas_bert, qas_mask = pad_statements(*statements, self._max_words)
        frames = np.array([item["frames"] for item in items])
        labels = np.array([item["label"] for item in items], np.int64)
        batch = {
            "id": [item["id"] for item in items],
            "qas_bert": qas_bert,
            "qas_mask": qas_mask,
            "ts_label_mask": mask_of(frames, min(frames.max(), self.max_vid_l)),
            "ts_label_st": np.ascontiguousarray(labels[:, 0]),
            "ts_label_ed": np.ascontiguousarray(labels[:, 1]),
            "target": np.array([item["target"] for item in items], np.int64),
        }
        if self.sub:
            pieces = [item["pieces"] for item in items]
            batch |= pad_pieces(pieces, self.max_sub_l, self.max_vid_l)
        if self.vision:
            counts = [item["region_counts"] for item in items]
            batch |= pad_regions(counts, [item["regions"] for item in items], self.max_vid_l)
        hidden = {"subtitles": "sub_bert", "video": "vid"}.get(self.blind)
        if hidden in batch:
            batch[hidden][:] = 0
        if self.supervised:
            batch |= self._collate_attention(items, batch["vid"].shape[2])
        if not self.training:
            batch |= self._collate_evaluation(items)
        if self.answers:
            batch |= self.answers.collate(items, batch, self.training)
            batch["greedy"] = self.split == "valid"  # a beam is for the final numbers
        return batch

    def _collate_attention(self, items: list[dict], width: int) -> dict[str, np.ndarray]:
        if self._hard:
            return pad_groups(items, width)
        keys = ("pos_container", "neg_container")
        return {key: with_sample([item[key] for item in items]) for key in keys}

    def _collate_evaluation(self, items: list[dict]) -> dict[str, Any]:
        shape = (len(items), len(items[0]["answers"]), -1)
        words = [row for item in items for row in item["word_ids"]]
        batch = {
            "meta": [item["meta"] for item in items],
            "qas": clip(pad(words, np.int64).reshape(shape), 2, self._max_words),
        }
        if self.vision:
            flags = [row for item in items for row in item["objects"]]
            mask = pad(flags, bool, items[0]["padding_is_object"]).reshape(shape)
            batch["object_mask"] = clip(mask, 2, self._max_words)
        return batch

    # raw video

    def from_raw(
        self,
        video: str,
        query: str,
        extractors: Mapping[str, Any],
        *,
        subtitles: str | None = None,
        choices: Sequence[str] = (),
        regions: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """One item, as for infer, of a video file and a question.

        All frames count as annotated. ``meta["reference"]`` says what ``references`` would
        say, and which ``words`` the ids in ``qas`` stand for: words are numbered for the item.

        Args:
            extractors: "text" with words(list of word lists) -> list of (n, D), and, for stream
                vfeat, "regions" with features(RGB frame (H, W, 3) uint8, boxes (n, 4)) -> (n, Dv).
            subtitles: .srt, .vtt or .json file; for stream sub.
            choices: two answers or more to choose from; with ``answer_vocab``, any to be ranked.
            regions: JSON with boxes of the 3 fps frames in pixels of the video; for stream vfeat.

        Raises:
            DataError: unreadable or missing input, extractors of other sizes.
        """
        raw = RawClip(video, self.fps, self.frame_interval, self.max_frames)
        objects = self.source.objects if self.source.given("object_vocab") else None
        generative = self.answers is not None
        item = raw.item(query, choices, extractors, self.embedding_size, objects, generative)
        if self.sub:
            item["pieces"] = raw.pieces(subtitles, extractors, self.embedding_size)
        if self.vision:
            item |= raw.regions(regions, extractors, self.vfeat_size, self.num_region)
        if self.answers:
            item |= self._generation(item, raw.words[0], raw.choices, None)
        self._pictures.add(raw.name, video)
        yield item
