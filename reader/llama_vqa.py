# SPDX-License-Identifier: Apache-2.0
"""LLaMA-VQA's data: questions with options about videos, as texts around features of frames.

An item is one question. In training it has a row of tokens for each objective (answer from video
and question, question from video and answer, video from question and answer), in evaluation one
row for every option. The data set ``text`` is texts alone, for training a language model.
Source: Flipped-VQA (arXiv:2310.15747) and its released code.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .common.errors import DataError
from .common.layout import find
from .common.llama_dialogue import Dialogues, join, read_dialogue
from .common.llama_frames import (
    RATE,
    Source,
    open_source,
    places,
    raw_features,
    raw_frames,
    read_frames,
    unknown,
)
from .common.llama_prompts import LETTERS, Asked, Overflow, Prompt, make_prompt, tidy_question
from .common.llama_questions import WITH_DIALOGUE, Question, read_questions, read_texts
from .common.llama_rows import Layout, Table, Tokens, collate_tokens, make_tokens, pad_rows
from .common.llama_tokenizer import Rows, Tokenizer

logger = logging.getLogger("vlzoo")

Dataset = Literal["nextqa", "star", "dramaqa", "vlep", "tvqa", "text"]
OnOverflow = Literal["error", "skip"]
Blind = Literal["none", "video", "text"]
_SPLITS = ("train", "valid", "test", "infer")
_MANY = 10000  # questions whose tokens take a while


@dataclass(eq=False, repr=False)
class Reader:
    """Questions with options, or texts.

    Raises:
        ValueError: an option out of range, or options that do not go together.
    """

    split: str  # "train", "valid", "test" or "infer"
    _: KW_ONLY
    dataset: Dataset = "nextqa"
    annotations: str | None = None  # the data set's own file; text: one text a line, or .jsonl
    in_order: bool = False  # text: learn from the file's beginning to its end, as from easy to hard
    features: str | None = None  # clipvitl14.pth, or a feature store
    tokenizer: str | None = None  # tokenizer.model of LLaMA
    max_seq_len: int = 128  # tokens of a row
    max_feats: int = 10  # frames of a video
    visual_dim: int = 768  # numbers of a frame's feature
    sub: bool | None = None  # with dialogue; None: as published for the data set
    subtitles: str | None = None  # vlep: vlep_subtitles.jsonl; tvqa: folder of .srt files
    vaq: bool = True  # in training: predict the question, too
    qav: bool = True  # in training: predict the video, too
    on_overflow: OnOverflow = "error"  # of a question without room in max_seq_len
    blind: Blind = "none"  # input to leave out, for baselines
    fps: float = 1.0  # frames a second of a raw video, of which max_feats are taken
    filelist: str | None = None  # infer only: instead of `annotations`; needs no answers

    def __post_init__(self) -> None:
        kinds = {"dataset": Dataset, "on_overflow": OnOverflow, "blind": Blind}
        choices = {"split": _SPLITS} | {name: get_args(kind) for name, kind in kinds.items()}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}"
                )
        if min(self.max_seq_len, self.max_feats, self.visual_dim) < 1 or not self.fps > 0:
            raise ValueError("expected max_seq_len, max_feats, visual_dim and fps above 0")
        self._dialogue = self.dataset in WITH_DIALOGUE
        if self.sub is None:
            self.sub = self._dialogue
        if self.sub and not self._dialogue:
            raise ValueError(f"sub: expected with {' or '.join(WITH_DIALOGUE)}, not {self.dataset}")
        if self.dataset == "text" and self.blind != "none":
            raise ValueError("blind: expected with questions about videos, not with texts")
        self.training = self.split == "train"
        self._own: dict[str, str] = {}  # files of videos that came by themselves
        if self.in_order and self.dataset != "text":
            raise ValueError("in_order: expected with texts, not with questions about videos")
        if self.in_order:
            self.order = self._in_order
        objectives = {"vqa": True, "vaq": self.training and self.vaq,
                      "qav": self.training and self.qav}  # fmt: skip
        self._layout = Layout(
            tuple(name for name, wanted in objectives.items() if wanted),
            self.max_feats,
            self.max_seq_len,
            unique=self.training and self.dataset == "vlep",
        )

    # files, opened when first needed

    def _given(self, name: str, what: str) -> str:
        path = getattr(self, name)
        if not path:
            raise DataError(f"{name}: expected {what}, found none; set DATASET.{name}")
        if not find(path).exists():
            page = f"data/dataset/{self.dataset}/README.md says where it comes from"
            how = f"check DATASET.{name}" if self.dataset == "text" else page
            raise DataError(f"{name}: expected {what} at {path}, found nothing; {how}")
        return path

    @cached_property
    def text(self) -> Tokenizer:
        """The tokenizer."""
        return Tokenizer(self._given("tokenizer", "LLaMA's tokenizer.model"))

    @property
    def _path(self) -> str:
        if self.split == "infer" and self.filelist is not None:
            return self.filelist
        return self._given("annotations", "texts" if self.dataset == "text" else "questions")

    @cached_property
    def questions(self) -> list[Question]:
        """All questions."""
        return read_questions(self.dataset, self._path, answered=self.training)

    @cached_property
    def texts(self) -> list[tuple[str, str]]:
        """All texts, each behind its prompt, of which nothing is to be told."""
        return read_texts(self._path)

    @cached_property
    def source(self) -> Source | None:
        """Features of frames, unless there are none to be read."""
        if self.blind == "video":
            return None
        source = open_source(self._given("features", "clipvitl14.pth or a feature store"))
        if source.dim != self.visual_dim:
            raise DataError(
                f"{self.features}: expected features of {self.visual_dim} numbers "
                f"(DATASET.visual_dim), found {source.dim}"
            )
        absent = unknown(source, self.questions)
        names = {name for question in self.questions for name in question.features()}
        if len(absent) == len(names):
            raise DataError(
                f"{self.features}: expected features of {absent[0]} and others of {self._path}, "
                "found none of any"
            )
        if absent:
            logger.warning(
                "%s: %d of %d videos have no features and become zeros, such as %s",
                self.features, len(absent), len(names), absent[0],
            )  # fmt: skip
        return source

    @property
    def feature_identity(self) -> dict[str, dict | None] | None:
        """What made the features, where it is known."""
        known = self.dataset != "text" and self.blind != "video" and self.features
        return {"clip": self.source.identity} if known else None

    @cached_property
    def _dialogues(self) -> Dialogues:
        path = self._given("subtitles", "vlep_subtitles.jsonl, or the folder of TVQA's .srt files")
        clips = dict.fromkeys(question.video for question in self.questions)
        return Dialogues(self.dataset, path, list(clips))

    # tokens, made once for all epochs and processes

    def prompt(self, question: Question) -> Prompt:
        """Texts of a question."""
        if not self._dialogue:
            dialogue = None
        elif not self.sub:
            dialogue = ""
        elif self.blind == "text":
            dialogue = join(self.dataset, [])
        else:
            dialogue = self._dialogues.text(question.video, question.window)
        return make_prompt(self._visible(question.text), question.options, dialogue)

    def _visible(self, question: str) -> str:
        return "?" if self.blind == "text" else question

    def _rows(self, prompt: Prompt, answer: int, count: int) -> Asked:
        """The right option's row in training, else one for each."""
        return Asked(prompt, [answer]) if self.training else Asked(prompt, range(count), answer)

    def _overflow(self, name: str, found: object) -> DataError:
        return DataError(
            f"{name}: expected {self.max_seq_len} tokens or fewer, found {found}; raise "
            "DATASET.max_seq_len, or leave such rows out with DATASET.on_overflow: skip"
        )

    def _make(self, rows: Iterable[Asked]) -> Iterator[Tokens | Overflow]:
        try:
            yield from make_tokens(self.text, self._layout, rows)
        except ValueError as error:
            raise DataError(str(error)) from None

    @cached_property
    def _table(self) -> tuple[Table, list[int]]:
        """Tokens, and the number of the question that each belongs to."""
        if len(self.questions) > _MANY:
            logger.info("%s: making tokens of %d questions", self._path, len(self.questions))
        table, kept, doubtful = Table(self._layout, self.text.size), [], []
        rows = (self._rows(self.prompt(q), q.answer or 0, len(q.options)) for q in self.questions)
        for number, tokens in enumerate(self._make(rows)):
            name = self.questions[number].id
            if isinstance(tokens, Overflow):
                if self.on_overflow == "error":
                    raise self._overflow(f"{self._path}: question {name}", tokens)
                continue
            table.append(tokens)
            kept.append(number)
            if tokens.ambiguous:
                doubtful.append(name)
        self._tell(len(kept), len(self.questions))
        if doubtful:
            logger.warning(
                "%s: %d questions have the word Question, Answer or Video in their texts, such as "
                "%s; labels start at the first, as published",
                self._path, len(doubtful), doubtful[0],
            )  # fmt: skip
        return table, kept

    @cached_property
    def _text_rows(self) -> tuple[Rows, list[tuple[int, int]]]:
        """Tokens of texts; the number of each text, and how many tokens are given before it."""
        rows, kept = Rows(self.text.size), []
        encoded = self.text.encode([part for pair in self.texts for part in pair])
        for number, (prompt, ids) in enumerate(zip(encoded[::2], encoded[1::2], strict=True)):
            ids = [self.text.begin, *prompt, *ids, self.text.end]
            if len(ids) > self.max_seq_len:
                if self.on_overflow == "error":
                    raise self._overflow(f"{self._path}: text {number}", f"{len(ids)} tokens")
                continue
            rows.append(ids)
            kept.append((number, 1 + len(prompt)))
        self._tell(len(kept), len(self.texts))
        return rows, kept

    def _tell(self, kept: int, of: int) -> None:
        if not kept:
            raise DataError(f"{self._path}: expected rows of {self.max_seq_len} tokens, found none")
        if kept < of:
            logger.warning(
                "%s: %d of %d rows are left out, longer than %d tokens",
                self._path, of - kept, of, self.max_seq_len,
            )  # fmt: skip

    def __len__(self) -> int:
        """Number of items; also opens all files and makes all tokens, so that errors are early."""
        if self.dataset == "text":
            return len(self._text_rows[1])
        _ = self.questions and self.source
        return len(self._table[1])

    def _in_order(self, epoch: int) -> list[int]:
        return list(range(len(self)))

    def references(self) -> dict[str, dict[str, Any]]:
        """Id -> question, choices, video, index (number of the row); where known answer and type.

        text: the number of each text -> text.
        """
        if self.dataset == "text":
            pairs = enumerate(self.texts)
            return {str(n): {"text": f"{prompt} {text}".strip()} for n, (prompt, text) in pairs}
        return {q.id: q.reference(number) for number, q in enumerate(self.questions)}

    # items

    def __getitem__(self, i: int) -> dict[str, Any]:
        if self.dataset == "text":
            rows, kept = self._text_rows
            return {"id": str(kept[i][0]), "ids": rows[i], "given": kept[i][1]}
        table, kept = self._table
        question = self.questions[kept[i]]
        return {
            "id": question.id,
            "video": self._frames(question),
            "tokens": table[i],
            "answer": -1 if question.answer is None else question.answer,
        }

    def _frames(self, question: Question) -> np.ndarray:
        if self.source is None:
            return np.zeros((self.max_feats, self.visual_dim), np.float32)
        where = places(question, RATE.get(self.dataset, 1), self.source, self.max_feats)
        return read_frames(self.source, where, self.max_feats)

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Items as a batch of B questions with R rows, 1 in training, else one for each option.

        Returns:
            id (list of str), video float32 (B, F, D), answer int64 (B,), -1 where unknown;
            vqa_ids, vqa_labels int64 (B, R, L), padded with 0, label 0 is none; in training
            vaq_ids, vaq_labels, qav_ids, qav_labels, of qav the frame's number or -1;
            video_start int64 (B,), the first frame's place in vqa and vaq; qav_start.
            A raw video: reference (list of dict). text: text_ids, text_labels int64 (B, L).
        """
        names = [item["id"] for item in items]
        if self.dataset == "text":
            rows = [item["ids"] for item in items]
            ids = pad_rows(rows, max(map(len, rows)))
            given = np.array([item["given"] for item in items])
            marked = np.where(np.arange(ids.shape[1]) < given[:, None], 0, ids)
            return {"id": names, "text_ids": ids, "text_labels": marked}
        batch = {
            "id": names,
            "video": np.stack([item["video"] for item in items]),
            "answer": np.array([item["answer"] for item in items], np.int64),
            **collate_tokens([item["tokens"] for item in items], self.max_feats),
        }
        if all("reference" in item for item in items):
            batch["reference"] = [item["reference"] for item in items]
        return batch

    # raw video

    @property
    def raw_inputs(self) -> tuple[str, ...]:
        """What `from_raw` takes besides the video."""
        if self.dataset == "text":
            return ()
        return ("query", "choices", "subtitles") if self.sub else ("query", "choices")

    def from_raw(
        self,
        video: str,
        query: str,
        extractors: Mapping[str, Any],
        *,
        choices: Sequence[str] = (),
        subtitles: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """One item, as for infer, of a video file, a question and two to five options.

        Args:
            extractors: "clip" with pictures(RGB frames (H, W, 3) uint8) -> float32 (n, D).
            subtitles: .srt, .vtt or .json file; without one nobody speaks.

        Raises:
            DataError: unreadable video or subtitles, no question, no options, no room for them.
        """
        if self.dataset == "text":
            raise DataError("--video: dataset text answers no questions; take another one")
        try:
            asked = tidy_question(query)
        except ValueError as error:
            raise DataError(f"--query: {error}") from None
        if not 2 <= len(choices) <= len(LETTERS):
            raise DataError(f"--choices: expected 2 to {len(LETTERS)}, found {len(choices)}")
        dialogue = "" if self._dialogue else None
        if self.sub:
            heard = None if self.blind == "text" else subtitles
            dialogue = read_dialogue(self.dataset, heard)
        prompt = make_prompt(self._visible(asked), choices, dialogue)
        (tokens,) = self._make([self._rows(prompt, 0, len(choices))])
        if isinstance(tokens, Overflow):
            raise self._overflow("--query", tokens)
        frames = np.zeros((self.max_feats, self.visual_dim), np.float32)
        if self.blind != "video":
            found = raw_features(video, self.fps, self.max_feats, extractors, self.visual_dim)
            frames[: len(found)] = found
        name = Path(video).stem
        self._own[name] = video
        yield {
            "id": f"{name}#{query}",
            "video": frames,
            "tokens": tokens,
            "answer": -1,
            "reference": {"question": asked, "choices": list(choices), "video": name},
        }

    def seen(self, video: str) -> list[np.ndarray] | None:
        """RGB frames (H, W, 3) uint8 of a video of `from_raw`; None of others, and if hidden.

        Of a data set's videos there are features only.
        """
        if self.blind == "video" or video not in self._own:
            return None
        return raw_frames(self._own[video], self.fps, self.max_feats)
