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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from .common import llama_files
from .common.errors import DataError
from .common.facade import Facade
from .common.llama_choices import LossChoices
from .common.llama_text import LanguageModel

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


class Metric(Facade):
    """Accuracy of chosen options by type of question; of texts, how well they are foretold.

    Args:
        dataset: as of the reader.
        strict: a missing or an unknown id is an error; otherwise the former is wrong (of texts: in
            no mean), the latter ignored, and both are reported.

    Raises:
        ValueError: an unknown data set.
    """

    reads_lines = True  # result files in JSON lines

    def __init__(self, dataset: Dataset = "nextqa", strict: bool = False):
        if dataset not in get_args(Dataset):
            known = ", ".join(get_args(Dataset))
            raise ValueError(f"dataset: expected one of {known}, found {dataset}")
        self.dataset = dataset
        if dataset == "text":
            super().__init__(LanguageModel(strict))
        else:
            types = _TYPES.get(dataset, {})
            super().__init__(LossChoices(types, dataset == "star", strict))

    def expect(self, references: Mapping[str, Mapping[str, Any]]) -> None:
        """Say what is to be answered, {id: reference}; start afresh.

        A reference has ``question``, ``choices``, ``video``, ``index`` (number of the row) and,
        where known, ``answer`` (number of a choice) and ``type``; of texts: ``text``.
        """
        super().expect(references)

    def details(self) -> dict[str, float]:
        """The numbers under the names of the published log, fractions, not rounded."""
        found = self._scorer.details()
        if self.dataset == "text":
            return found
        named = {name: found[own] for name, own in _METERS.get(self.dataset, {}).items()}
        return named | {"acc": found["overall_acc"]}

    def write(
        self, folder: str | os.PathLike, model_name: str, mode: str, topk: int | None = None
    ) -> Path:
        """Write ``results_all.jsonl`` and return its path; see ``common.llama_files``.

        Beside it comes what the data set's own evaluation takes and, for mode "test" if true
        answers are known, ``scores.json``, per cent with two decimals. Texts have scores only, not
        rounded, whose path is then the returned one.
        """
        scores = self._write_scores(folder, mode, always=self.dataset == "text")
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
