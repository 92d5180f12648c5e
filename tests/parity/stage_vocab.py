# SPDX-License-Identifier: Apache-2.0
"""How golden numbers of the words of generated answers are checked."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reader.common.tvqa_plus import Question, read_questions
from reader.common.tvqa_plus_answers import Answers, build_vocabulary
from reader.common.tvqa_plus_samples import Pieces

if TYPE_CHECKING:
    from tools.parity import Case

_LIMITS = (100, 100, 1)  # words of question and subtitles, frames: no limits here
_PRESENT = (0, 3)  # answers whose words follow those of two questions in an example's source


def generative_vocab(case: Case) -> None:
    """The words of a slice of the validation questions, and ids of texts."""
    if case.annotations is None:
        case.fail("annotations", "needs --annotations DIR")
        return
    golden, folder = case.json, case.annotations / case.entry["annotations"]
    questions = read_questions(folder / "tvqa_plus_val.json.gz")
    words = build_vocabulary(questions[slice(*golden["gt_slice"])], golden["threshold"])
    case.equal("vocab_size", len(words), golden["vocab_size"])
    case.equal("vocab", words, golden["vocab"])
    with tempfile.TemporaryDirectory() as folder:
        path, length = Path(folder) / "answer_vocab.json", golden["max_answer_len"]
        path.write_text(json.dumps(words))
        readers = [Answers(str(path), length, copy, *_LIMITS) for copy in (True, False)]
        by_answers = {question.choices: question for question in questions}
        for k, example in enumerate(golden["examples"]):
            asked = by_answers[tuple(example["answers"])]
            _check(case, f"example {k}", readers, asked, questions, example)


def _check(
    case: Case, where: str, readers: list[Answers], asked: Question, questions: list[Question],
    example: dict[str, Any],
) -> None:  # fmt: skip
    """Source and targets: a question, another one, and two of the first one's answers."""
    count = len(asked.words())
    said = example["source"][count:]
    present = " ".join(asked.choices[k] for k in _PRESENT).lower().split()
    rest = [question.words() + present for question in questions]
    case.equal(f"{where} source", (example["source"][:count], said in rest), (asked.words(), True))
    pieces = Pieces(np.zeros(1, np.int64), [said], [])
    copying, plain = (reader.item(asked.words(), pieces, asked.choices, None) for reader in readers)
    ids = np.concatenate([copying["copy_question"], *copying["copy_pieces"]])
    case.equal(f"{where} source_ids", ids.tolist(), example["source_ids"])
    case.equal(f"{where} oov", copying["oov"], example["oov"])
    for item, key in ((copying, "targets_copy"), (plain, "targets_nocopy")):
        case.equal(f"{where} {key}", [t.tolist() for t in item["choice_ids"]], example[key])
    case.equal(f"{where} answers", list(asked.choices), example["answers"])
    case.equal(f"{where} keys", set(example), {"source", "source_ids", "oov", "answers",
                                              "targets_copy", "targets_nocopy"})  # fmt: skip
