# SPDX-License-Identifier: Apache-2.0
"""Generated answers with evidence: what records say of them, and scores of the texts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .errors import DataError
from .evidence import ANY_ANSWER, Evidence, Generated, Prediction, array
from .evidence_files import no_boxes
from .generation import JavaMeteor, normalise, score

logger = logging.getLogger("vlzoo")


class TextEvidence(Evidence):
    """``Evidence`` whose predictions are all ``generated``; the truth is the correct candidate.

    Instead of ``qa_acc`` there are the metrics of ``generation.score`` over all questions with a
    known answer (one without a prediction has an empty text), ``mc_acc`` of the likeliest candidate
    by the mean over its tokens and, but for result files, ``mc_acc_sum`` by the sum.

    Args:
        meteor: to add "METEOR 1.5".
    """

    def __init__(self, protocol: str = "published", meteor: JavaMeteor | None = None):
        super().__init__(protocol)
        self.meteor = meteor

    def _answers(self) -> dict[str, float]:
        means = super()._answers()
        accuracy = {"mc_acc": means.pop("qa_acc")} | self._accuracy_of_sums()
        return self._texts() | accuracy | means

    def _texts(self) -> dict[str, float]:
        known = {n: r["choices"][r["answer"]] for n, r in self.references.items() if "answer" in r}
        if not known:
            return dict.fromkeys(score([""], [""]), 0.0)
        absent = [name for name in known if name not in self.predictions]
        if absent:
            logger.warning(
                "the texts of %d of %d questions are missing and count as empty ones, the first is "
                "%s", len(absent), len(known), absent[0],
            )  # fmt: skip
        texts = {name: found.generated.answer for name, _, found in self.predicted()}
        pairs = [texts.get(name, "") for name in known], [*known.values()]
        scores = score(*pairs)
        return scores | {"METEOR 1.5": self.meteor.score(*pairs)} if self.meteor else scores

    def _accuracy_of_sums(self) -> dict[str, float]:
        right = []
        for reference, found in self.counted():
            if found is None:
                right.append(False)
            elif found.generated.sums is None:
                return {}
            else:
                right.append(found.generated.sums.argmax() == reference["answer"])
        return {"mc_acc_sum": float(np.mean(right or [0]))}


def with_text(prediction: Prediction, record: Mapping[str, Any], candidates: int) -> Prediction:
    """Add the generated answer of a network's record or of one that ``evidence_files.read`` made.

    Its boxes are those of the question, hence of any answer.

    Raises:
        DataError: no text, another number of likelihoods than ``candidates``, or not finite.
    """
    own = record.get("generated", record)
    if not isinstance(own.get("answer"), str):
        raise DataError(
            f"record {record['id']}: expected a generated text as answer, found "
            f"{own.get('answer', 'none')}; chosen answers are scored with METRIC.answers choice"
        )
    means = array(own, "answer_scores", (candidates,)) if candidates else np.zeros(0)
    sums = None
    if candidates and own is record:
        sums = array(own, "answer_scores_sum", (candidates,))
    generated = Generated(own["answer"], float(array(own, "answer_logp", ())), means, sums)
    entries = prediction.entries.copy()
    entries[:, 0] = ANY_ANSWER
    return replace(prediction, entries=entries, generated=generated)


def frequent(records: Sequence[dict], references: Mapping[str, Mapping]) -> list[dict]:
    """The same records with the commonest answer of ``references`` and nothing of the network.

    All candidates are equally likely, the moment is the whole clip, and there are no boxes.

    Raises:
        DataError: there are no answers.
    """
    answers = [r["choices"][r["answer"]] for r in references.values() if "answer" in r]
    if not answers:
        raise DataError("most frequent answer: expected answers to count, found none")
    words = Counter(map(normalise, answers)).most_common(1)[0][0]
    constant = {"answer": " ".join(words), "answer_logp": 0.0} | no_boxes()
    return [
        record
        | constant
        | {key: np.zeros_like(record[key]) for key in ("answer_scores", "answer_scores_sum")}
        | {"spans": np.array([[0, len(record["image_indices"]) - 1]])}
        for record in records
    ]
