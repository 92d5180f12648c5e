# SPDX-License-Identifier: Apache-2.0
"""Answers in free text: the words that they are made of, and the words that they may copy.

A token is a lower-case word of text that is split into words already. The design is this project's
own; copying follows pointer-generator networks (arXiv:1704.04368).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .errors import DataError
from .layout import find
from .tvqa_plus import Question, read_json
from .tvqa_plus_samples import Pieces, mask_of, pad

SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")
UNK, BOS, EOS = range(1, len(SPECIAL))


def build_vocabulary(questions: Iterable[Question], min_count: int = 2) -> list[str]:
    """Tokens by id: the special ones, then those of questions and all their answers by frequency.

    Args:
        min_count: rarer tokens are left out.
    """
    texts = (text for question in questions for text in (question.text, *question.choices))
    counts = Counter(token for text in texts for token in text.lower().split())
    kept = [token for token, n in counts.items() if n >= min_count and token not in SPECIAL]
    return [*SPECIAL, *sorted(kept, key=lambda token: (-counts[token], token))]


def read_vocabulary(path: str | os.PathLike) -> list[str]:
    """A list that ``build_vocabulary`` made.

    Raises:
        DataError: unreadable, or another list.
    """
    tokens = read_json(path, list)
    if tokens[: len(SPECIAL)] != list(SPECIAL):
        found = str(tokens[: len(SPECIAL)])[:60]
        raise DataError(f"{path}: expected a list that begins {', '.join(SPECIAL)}, found {found}")
    seen: set[str] = set()
    for place, token in enumerate(tokens):
        if not isinstance(token, str):
            raise DataError(f"{path}: expected words, found {str(token)[:40]!r} at place {place}")
        if token in seen:
            raise DataError(f"{path}: expected every word once, found {token[:40]!r} twice")
        seen.add(token)
    return tokens


@dataclass(eq=False)
class Answers:
    """Answers and what they may copy as ids: of the vocabulary (V), or from V on for other words.

    Other words of a sample are numbered in the order in which question and subtitles have them.
    """

    path: str  # of the vocabulary, read when it is first needed
    max_length: int  # tokens of an answer at most, its end included
    use_copy: bool
    max_question: int  # words at most
    max_piece: int  # words of a subtitle piece at most
    max_frames: int

    @cached_property
    def vocabulary(self) -> list[str]:
        """Words by id; raises DataError without them."""
        path = find(self.path)
        if not path.exists():
            raise DataError(
                f"answer_vocab: expected the words of answers at {self.path}, found nothing; make "
                "them of the training questions: python data/dataset/tvqa_plus/prepare.py vocab "
                f"--qa QUESTIONS.json --out {self.path}"
            )
        return read_vocabulary(path)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.vocabulary)}

    # samples

    def item(
        self,
        question: Sequence[str],
        pieces: Pieces | None,
        choices: Sequence[str],
        right: int | None,
    ) -> dict[str, Any]:
        """Ids of a sample.

        Args:
            question: its lower-case words.
            pieces: subtitles that can be copied; None: none.
            choices: texts of answers. right: which of them is true, where it is known.
        """
        question, said = question[: self.max_question], []
        if pieces is not None:  # they are numbered as frames first have them
            count = pieces.index[: self.max_frames].max() + 1
            said = [words[: self.max_piece] for words in pieces.words[:count]]
        others = self._others([question, *said]) if self.use_copy else {}
        copied = {
            "oov": list(others),
            "copy_question": self._encode(question, others),
            "copy_pieces": [self._encode(words, others) for words in said],
        }
        targets = [self._target(choice, others) for choice in choices]
        return {"choice_ids": targets, "right": right, **(copied if self.use_copy else {})}

    def _others(self, texts: Iterable[Sequence[str]]) -> dict[str, int]:
        others: dict[str, int] = {}
        for token in (token for text in texts for token in text if token not in self._ids):
            others.setdefault(token, len(self._ids) + len(others))
        return others

    def _encode(self, tokens: Sequence[str], others: Mapping[str, int]) -> np.ndarray:
        ids = [self._ids.get(token, others.get(token, UNK)) for token in tokens]
        return np.array(ids, np.int64)

    def _target(self, text: str, others: Mapping[str, int]) -> np.ndarray:
        tokens = text.lower().split()[: self.max_length - 1]
        return np.append(self._encode(tokens, others), EOS)

    # batches

    def collate(
        self, items: Sequence[Mapping[str, Any]], batch: Mapping[str, Any], training: bool
    ) -> dict[str, Any]:
        """What the decoder needs of a batch, whose padded arrays are in ``batch``.

        ``dec_*`` (N, T) are the true answers and ``mc_target`` (N,) their numbers, where all are
        known; ``cand_*`` (N, choices, T) are all choices, where there are any. In evaluation
        ``vocabulary`` is the list. With copying there are ``copy_ids`` (N, Lq + Li * Ls), words of
        the question and of the frames; ``copy_size``, the vocabulary with other words; ``oov``,
        these words of every sample.
        """
        found: dict[str, Any] = {}
        right, choices = [item["right"] for item in items], [item["choice_ids"] for item in items]
        if None not in right:
            true = [ids[k] for ids, k in zip(choices, right, strict=True)]
            found |= _forced("dec", true, (len(items),))
            found["mc_target"] = np.array(right, np.int64)
        if choices[0]:
            shape = len(items), len(choices[0])
            found |= _forced("cand", [ids for of in choices for ids in of], shape)
        if not training:
            found["vocabulary"] = self.vocabulary
        return found | (self._copies(items, batch) if self.use_copy else {})

    def _copies(
        self, items: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]
    ) -> dict[str, Any]:
        copy_ids = [pad([item["copy_question"] for item in items], np.int64)]
        if "sub_index" in batch:
            pieces = np.zeros(batch["sub_mask"].shape, np.int64)  # (N, S, Ls)
            for n, item in enumerate(items):
                for s, ids in enumerate(item["copy_pieces"]):
                    pieces[n, s, : len(ids)] = ids
            words = pieces[np.arange(len(items))[:, None], batch["sub_index"]]  # (N, Li, Ls)
            words[batch["ts_label_mask"] == 0] = 0
            copy_ids.append(words.reshape(len(items), -1))
        oov = [item["oov"] for item in items]
        return {
            "copy_ids": np.concatenate(copy_ids, 1),
            "copy_size": len(self.vocabulary) + max(1, *map(len, oov)),
            "oov": oov,
        }


def _forced(
    name: str, targets: Sequence[np.ndarray], shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Padded targets ``<name>_tgt``, what comes before each ``<name>_in``, ``<name>_mask``."""
    target = pad(targets, np.int64)
    before = pad([np.append(BOS, ids[:-1]) for ids in targets], np.int64)
    mask = mask_of(np.array([len(ids) for ids in targets]), target.shape[1])
    arrays = {"in": before, "tgt": target, "mask": mask}
    return {f"{name}_{kind}": array.reshape(*shape, -1) for kind, array in arrays.items()}
