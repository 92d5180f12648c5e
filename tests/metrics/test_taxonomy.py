# SPDX-License-Identifier: Apache-2.0
"""Accuracy of every category of questions, beside counting one by one."""

from __future__ import annotations

import random

import numpy as np
import pytest

from metrics.common.errors import DataError
from metrics.common.taxonomy import TaxonomyAnswers, categories

FIELDS = ("question structures", "question semantics", "reasoning skills", "answer types")


def _taxonomy(structure="query", semantics="object", skills=("exist",), types="open"):
    values = (structure, semantics, list(skills), types)
    return {"question_type": "objExist", **dict(zip(FIELDS, values, strict=True))}


def _scored(references, **answers):
    scorer = TaxonomyAnswers()
    scorer.expect(references)
    scorer.update([{"id": name, "answer": answer} for name, answer in answers.items()])
    return scorer


def test_beside_counting_one_by_one():
    rng = random.Random(3)
    references, answers = {}, {}
    for n in range(300):
        skills = rng.sample(["exist", "superlative", "sequencing"], rng.randint(0, 3))
        taxonomy = _taxonomy(
            rng.choice(["query", "compare"]), rng.choice(["object", "action"]), skills,
            rng.choice(["open", "binary"]),
        )  # fmt: skip
        references[f"q{n}"] = {"answer": rng.choice(["yes", "no"]), "taxonomy": taxonomy}
        answers[f"q{n}"] = rng.choice(["yes", "no", "No"])
    totals: dict[str, list[int]] = {}
    for field in FIELDS:
        for name, reference in references.items():
            value = reference["taxonomy"][field]
            for category in value if isinstance(value, list) else [value]:
                count = totals.setdefault(category, [0, 0])
                count[0] += answers[name] == reference["answer"]
                count[1] += 1
    right = sum(answers[name] == r["answer"] for name, r in references.items())
    expected = {name: a / b for name, (a, b) in totals.items()} | {"overall": right / 300}
    ours = _scored(references, **answers).scores()
    assert [*ours] == [*expected]  # in order of first appearance
    assert ours == pytest.approx(expected, abs=1e-12)


def test_missing_answers_are_wrong_everywhere():
    references = {n: {"answer": "yes", "taxonomy": _taxonomy()} for n in "abcd"}
    assert set(_scored(references, a="yes").scores().values()) == {0.25}


def test_questions_without_truth_or_taxonomy():
    references = {
        "a": {"answer": "yes", "taxonomy": _taxonomy(structure="logic")},
        "b": {"taxonomy": _taxonomy(structure="verify")},
        "c": {"answer": "no"},
        "d": {"answer": "no", "taxonomy": {"question structures": "logic"}},
    }
    found = _scored(references, a="yes", b="yes", c="no", d="yes").scores()
    expected = {"logic": 0.5, "object": 1, "exist": 1, "open": 1, "overall": 2 / 3}
    assert found == pytest.approx(expected)


def test_table_for_people():
    references = {
        "a": {"answer": "yes", "taxonomy": _taxonomy(skills=["exist", "superlative"])},
        "b": {"answer": "yes", "taxonomy": _taxonomy(structure="verify")},
    }
    assert _scored(references, a="yes").report() == [
        "question structures",
        "  query        100.00 % of 1 questions",
        "  verify         0.00 % of 1 questions",
        "question semantics",
        "  object        50.00 % of 2 questions",
        "reasoning skills",
        "  exist         50.00 % of 2 questions",
        "  superlative  100.00 % of 1 questions",
        "answer types",
        "  open          50.00 % of 2 questions",
        "overall         50.00 % of 2 questions",
    ]


def test_counts_follow_new_records():
    references = {n: {"answer": "yes", "taxonomy": _taxonomy()} for n in "ab"}
    scorer = _scored(references, a="yes")
    assert scorer.scores()["open"] == 0.5
    scorer.update([{"id": "b", "answer": "yes"}])
    assert scorer.scores()["open"] == 1.0
    scorer.expect(references)
    assert scorer.scores()["open"] == 0.0


@pytest.mark.parametrize("taxonomy", ["query", {"reasoning skills": 3}, {"answer types": ["open"]}])
def test_a_faulty_taxonomy(taxonomy):
    with pytest.raises(DataError, match="question a: expected a taxonomy"):
        categories({"a": {"taxonomy": taxonomy}}, np.ones(1), np.ones(1, bool))
