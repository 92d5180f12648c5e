# SPDX-License-Identifier: Apache-2.0
"""Metrics of LLaMA-VQA's data sets, and their result files.

    data set   numbers
    nextqa     overall_acc; C_acc (CH, CW), T_acc (TN, TC, TP), D_acc (DL, DC, DO); every type
    star       overall_acc, over questions; type_mean_acc, the plain mean of the four types; types
    dramaqa, vlep, tvqa   overall_acc
    text       perplexity, token_acc, lm_loss, of tokens of texts

Accuracies are fractions, not rounded; the report and ``scores.json`` have per cent. Every question
counts once, on any number of processes.
Sources: github.com/mlvlab/Flipped-VQA (arXiv:2310.15747); the evaluations of the data sets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from .common import llama_files
from .common.errors import DataError
from .common.files import write_json
from .common.llama_choices import LossChoices
from .common.llama_text import LanguageModel
from .common.records import Records

Dataset = Literal["nextqa", "star", "dramaqa", "vlep", "tvqa", "text"]

_TYPES: dict[str, dict[str, tuple[str, ...]]] = {
    "nextqa": {"C": ("CH", "CW"), "T": ("TN", "TC", "TP"), "D": ("DL", "DC", "DO")},
    "star": {t: (t,) for t in ("Interaction", "Sequence", "Prediction", "Feasibility")},
}
_METERS = {  # what the published code calls our numbers
    "nextqa": {"C": "C_acc", "T": "T_acc", "D": "D_acc", "Total": "overall_acc"},
    "star": {"In": "Interaction_acc", "Seq": "Sequence_acc", "Pre": "Prediction_acc",
             "Feas": "Feasibility_acc", "Total": "overall_acc"},
}  # fmt: skip


class Metric:
    """Accuracy of chosen options by type of question; of texts, how well they are foretold.

    Args:
        dataset: as of the reader.
        strict: a missing or an unknown id is an error; otherwise the former is wrong (of texts: in
            no mean), the latter ignored, and both are reported.

    Raises:
        ValueError: an unknown data set.
    """

    def __init__(self, dataset: Dataset = "nextqa", strict: bool = False):
        if dataset not in get_args(Dataset):
            known = ", ".join(get_args(Dataset))
            raise ValueError(f"dataset: expected one of {known}, found {dataset}")
        self.dataset = dataset
        self._scorer: Records = (
            LanguageModel(strict)
            if dataset == "text"
            else LossChoices(_TYPES.get(dataset, {}), dataset == "star", strict)
        )
        self.primary, self.columns = self._scorer.primary, self._scorer.columns
        self.higher_is_better = self._scorer.higher_is_better
        for name in ("pages", "random", "frequent"):  # texts have none
            if hasattr(self._scorer, name):
                setattr(self, name, getattr(self._scorer, name))
        self._checked = self._expected = False

    def expect(self, references: Mapping[str, Mapping[str, Any]]) -> None:
        """Say what is to be answered, {id: reference}; start afresh.

        A reference has ``question``, ``choices``, ``video``, ``index`` (number of the row) and,
        where known, ``answer`` (number of a choice) and ``type``; of texts: ``text``.
        """
        self._scorer.expect(references)
        self._checked, self._expected = False, True

    def update(self, records: Sequence[dict]) -> None:
        """Add records of the network, or those that ``read`` made.

        Without ``expect``, those of a raw video may have their ``reference``.

        Raises:
            DataError: missing keys, wrong shapes, infinite numbers; strict: an unknown id.
        """
        if not self._expected:
            asked = {r["id"]: r["reference"] for r in records if "reference" in r}
            if asked:
                self._scorer.expect(asked)
        self._scorer.update(records)
        self._checked = False

    def result(self) -> dict[str, float]:
        """The data set's numbers, not rounded, and how many ids are ``missing``.

        Raises:
            DataError: strict, and some are.
        """
        if not self._checked:
            self._scorer.check()
            self._checked = True
        return self._scorer.scores() | {"missing": self._scorer.missing()}

    def details(self) -> dict[str, float]:
        """The numbers under the names of the published log, fractions, not rounded."""
        found = self._scorer.details()
        if self.dataset == "text":
            return found
        named = {name: found[own] for name, own in _METERS.get(self.dataset, {}).items()}
        return named | {"acc": found["overall_acc"]}

    def report(self) -> list[str]:
        """The numbers for people."""
        missing, total = self._scorer.missing(), len(self._scorer.references)
        return [f"{total - missing} predicted, {missing} missing", *self._scorer.report()]

    def answers(self, topk: int | None = None) -> list[str]:
        """Up to ``topk`` options of every question (default: the best), with their losses."""
        return self._scorer.answers(topk)

    def write(
        self, folder: str | os.PathLike, model_name: str, mode: str, topk: int | None = None
    ) -> Path:
        """Write ``results_all.jsonl`` and return its path; see ``common.llama_files``.

        Beside it comes what the data set's own evaluation takes and, for mode "test" if true
        answers are known, ``scores.json``, per cent with two decimals. Texts have scores only, not
        rounded, whose path is then the returned one.
        """
        scores = Path(folder) / "scores.json"
        if self.dataset == "text" or (mode == "test" and self._scorer.has_truth()):
            write_json(scores, self._scorer.published(), indent=1)
        if self.dataset == "text":
            return scores
        predicted = self._scorer.predicted
        llama_files.write_submission(folder, self.dataset, predicted())
        path = scores.with_name("results_all.jsonl")
        return llama_files.write_lines(path, llama_files.lines(predicted()))

    def read(self, path: str | os.PathLike) -> list[dict]:
        """Records of a result file: any of those that ``write`` makes; after ``expect``.

        Raises:
            DataError: the file is missing or not of that form.
        """
        if self.dataset == "text":
            raise DataError(f"{path}: texts have no result file; give a predictions.jsonl")
        return llama_files.read(path, self.dataset, self._scorer.references)
