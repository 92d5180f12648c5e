# SPDX-License-Identifier: Apache-2.0
"""Accuracy of answers in words and of chosen options; what records and files may look like."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from metrics.common.answers import TypedAnswers, WordAnswers, percentage
from metrics.common.choices import Choices
from metrics.common.errors import DataError
from metrics.common.result_rows import read_rows, write_rows

TYPES = ("object", "number")


def _filled(scorer, references, records=()):
    scorer.expect(references)
    scorer.update(records)
    return scorer


def _asked(**answers):
    return {
        name: {"question": f"What is {name}?", "answer": answer, "answer_type": kind, "video": "v"}
        for name, (answer, kind) in answers.items()
    }


def _top(name, *pairs):
    return {"id": name, "label": 3, "answer": pairs[0][0], "top": [list(pair) for pair in pairs]}


def test_accuracy_overall_and_of_types():
    references = _asked(
        a=("cat", "object"), b=("dog", "object"), c=("two", "number"), d=("red", "color")
    )
    records = [{"id": n, "answer": x} for n, x in (("a", "cat"), ("b", "cat"), ("d", "red"))]
    scorer = _filled(TypedAnswers((*TYPES, "location")), references, records)
    assert scorer.scores() == {
        "overall_acc": 0.5, "object_acc": 0.5, "number_acc": 0.0, "location_acc": 0.0,
        "color_acc": 1.0,
    }  # fmt: skip
    assert scorer.details()["ratios"] == {
        "object_ratio": [0.5, 2], "number_ratio": [0.25, 1], "location_ratio": [0.0, 0],
        "color_ratio": [0.25, 1],
    }  # fmt: skip
    assert scorer.missing() == 1
    assert scorer.report()[:2] == ["accuracy 50.00", "  object: 50.00 of 2 questions (50.00 %)"]


def test_questions_without_type_or_truth():
    references = {"a": {"answer": "cat"}, "b": {"answer": None}, "c": {}, "d": {"answer": "dog"}}
    records = [{"id": n, "answer": "cat"} for n in "abcd"]
    found = _filled(TypedAnswers(TYPES), references, records).details()
    assert found["overall_acc"] == 0.5 and found["ratios"]["object_ratio"] == [0.0, 0]


def test_vqa_score():
    labels = {"cat": 1, "dog": 0.3}
    references = {n: {"labels": labels, "answer_type": t} for n, t in ("ax", "bx", "cy")}
    references |= {"d": {"labels": {}, "answer_type": "y"}, "e": {}}
    records = [{"id": n, "answer": x} for n, x in (("a", "dog"), ("b", "red"), ("d", "cat"))]
    scorer = _filled(TypedAnswers("xyz", soft=True), references, records)
    expected = {"overall_acc": 0.3 / 4, "x_acc": 0.15, "y_acc": 0.0, "z_acc": 0.0}
    assert scorer.scores() == pytest.approx(expected)
    scorer.update([{"id": "c", "answer": "cat"}])
    assert scorer.scores()["y_acc"] == 0.5


def test_percentages_are_rounded_as_published():
    assert [percentage(x) for x in (0.123456, 1 / 3, 1.0, 0.43995)] == [12.35, 33.33, 100.0, 43.99]
    references = _asked(a=("x", "object"), b=("x", "object"), c=("y", "number"))
    found = _filled(TypedAnswers(TYPES), references, [{"id": "a", "answer": "x"}]).published()
    assert found["overall_acc"] == 33.33 and found["ratios"]["number_ratio"] == [33.33, 1]


def test_the_last_record_of_an_id_counts():
    references = _asked(a=("x", "t"), b=("y", "t"))
    twice = [{"id": "a", "answer": "x"}, {"id": "b", "answer": "y"}, {"id": "a", "answer": "z"}]
    assert _filled(TypedAnswers(()), references, twice).scores()["overall_acc"] == 0.5
    one_by_one = _filled(TypedAnswers(()), references)
    for record in twice:
        one_by_one.update([record])
    assert one_by_one.scores()["overall_acc"] == 0.5


def test_missing_and_unknown_ids(log):
    references = _asked(a=("x", "t"), b=("y", "t"))
    scorer = _filled(TypedAnswers(()), references, [{"id": "b", "answer": "y"}])
    scorer.update([{"id": "q", "answer": "y"}, {"id": "r", "answer": "y"}])
    scorer.check()
    assert scorer.scores()["overall_acc"] == 0.5
    assert "1 of 2 ids have no record and count as wrong, the first is a" in log.text
    assert "2 records of unknown ids are ignored, the first is q" in log.text
    strict = _filled(TypedAnswers((), strict=True), references, [{"id": "b", "answer": "y"}])
    with pytest.raises(DataError, match="record a: expected one of each of 2 ids") as missing:
        strict.check()
    with pytest.raises(DataError, match="record q: expected one of the 2 ids"):
        strict.update([{"id": "q", "answer": "y"}])
    assert missing.value.exit_code == 3 and "\n" not in str(missing.value)


def test_nothing_to_score(log):
    _filled(TypedAnswers(()), {"a": {"question": "?"}}, [{"id": "a", "answer": "x"}]).check()
    assert "nothing to score" in log.text


def test_expect_starts_afresh():
    references = _asked(a=("x", "t"))
    scorer = _filled(TypedAnswers(()), references, [{"id": "a", "answer": "x"}])
    scorer.expect(references)
    assert (scorer.scores()["overall_acc"], scorer.missing()) == (0.0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": 3}, "record a: expected answer of type str, found 3"),
        ({"answer": None}, "record a: expected answer of type str, found None"),
        ({"label": "x"}, "record a: expected label of type int"),
        ({"top": None}, "expected top"),
        ({"top": [["x"]]}, "expected top"),
        ({"top": [["x", "y"]]}, "expected top"),
        ({"top": [[1, 0.5]]}, "expected top"),
        ({"top": [["x", float("nan")]]}, "record a: expected finite probabilities"),
    ],
)
def test_faulty_records(changes, message):
    scorer = _filled(WordAnswers(), _asked(a=("x", "t")))
    with pytest.raises(DataError, match=message) as error:
        scorer.update([{"id": "a", "answer": "x", **changes}])
    assert "\n" not in str(error.value)


def test_best_answers_for_people():
    references = _asked(a=("dog", "t"), b=("cat", "t"))
    records = [_top("a", ("cat", 0.75), ("dog", 0.25)), {"id": "b", "answer": "cat"}]
    scorer = _filled(WordAnswers(), references, records)
    assert scorer.answers() == [
        "a: What is a?", "  answer: cat (75.0%)", "b: What is b?", "  answer: cat",
    ]  # fmt: skip
    assert scorer.answers(5)[2] == "  answer: dog (25.0%)"
    first, second = scorer.pages(5)
    assert first["choices"] == [
        {"text": "cat", "score": 0.75, "predicted": True, "correct": False},
        {"text": "dog", "score": 0.25, "predicted": False, "correct": True},
    ]
    assert (first["id"], first["title"], first["video"]) == ("a", "What is a?", "v")
    assert first["note"] == "true answer: dog" and second["choices"][0]["correct"]
    assert [page["id"] for page in scorer.pages(1)] == ["a"]


def test_without_references_everything_is_taken():
    scorer = WordAnswers()
    scorer.update([_top("clip#why?", ("cat", 0.5))])
    scorer.update([_top("clip#who?", ("dog", 0.5), ("cat", 0.25))])
    assert scorer.answers() == [
        "clip#why?", "  answer: cat (50.0%)", "clip#who?", "  answer: dog (50.0%)",
    ]  # fmt: skip
    assert "note" not in next(scorer.pages())


def test_random_answers_are_uniform():
    records = [_top(str(n), ("cat", 0.5), ("dog", 0.25)) for n in range(400)]
    drawn = WordAnswers.random(records, np.random.default_rng(0))
    assert Counter(r["answer"] for r in drawn).keys() == {"cat", "dog"}
    assert 150 < sum(r["answer"] == "cat" for r in drawn) < 250
    words = [str(n) for n in range(50)]
    drawn = WordAnswers.random(records, np.random.default_rng(0), words)
    assert {r["answer"] for r in drawn} == {*words}
    assert [r["id"] for r in drawn] == [r["id"] for r in records]


def test_most_frequent_answer():
    records = [_top("a", ("cat", 1.0))]
    training = _asked(a=("x", "t"), b=("y", "t"), c=("y", "t"))
    common = WordAnswers.frequent(records, training)
    scorer = _filled(TypedAnswers(()), _asked(a=("y", "t")), common)
    assert scorer.scores()["overall_acc"] == 1.0
    soft = {"1": {"labels": {"u": 1.0, "w": 0.6}}, "2": {"labels": {"w": 0.6}}, "3": {}}
    assert WordAnswers.frequent(records, soft)[0]["answer"] == "w"
    with pytest.raises(DataError, match="most frequent answer"):
        WordAnswers.frequent(records, {"1": {}})


# ---- options


def _options(**answers):
    texts = [f"option text {k}" for k in range(5)]
    return {n: {"question": "?", "choices": texts, "answer": a} for n, a in answers.items()}


def _chosen(name, answer):
    return {"id": name, "answer": answer, "scores": np.eye(5, dtype=np.float32)[answer]}


def test_chosen_options():
    references, records = _options(a=2, b=0, c=4), [_chosen("a", 2), _chosen("b", 3)]
    assert _filled(Choices(), references, records).scores() == {"overall_acc": 1 / 3}
    assert _filled(Choices(), references, records).published() == {"overall_acc": 33.33}
    per_cent = _filled(Choices(percent=True), references, records)
    assert per_cent.scores() == {"mc_accuracy": pytest.approx(100 / 3)}
    assert per_cent.published() == {"mc_accuracy": "33.33"} and per_cent.primary == "mc_accuracy"
    assert per_cent.report() == ["accuracy 33.33"]
    assert _filled(Choices(), {"a": {}}, [_chosen("a", 2)]).scores() == {"overall_acc": 0.0}


def test_options_for_people():
    records = [_chosen("a", 2), {"id": "b", "answer": 3}]
    scorer = _filled(Choices(), _options(a=2, b=0), records)
    assert scorer.answers() == [
        "a: ?", "  answer: option text 2 (score 1.000)", "b: ?", "  answer: option text 3",
    ]  # fmt: skip
    assert len(scorer.answers(5)) == 12
    first, second = scorer.pages()
    shares = np.exp(np.eye(5)[2]) / np.exp(np.eye(5)[2]).sum()  # a page's bars are probabilities
    assert [c["score"] for c in first["choices"]] == pytest.approx(shares)
    assert [c["correct"] for c in first["choices"]] == [c["predicted"] for c in first["choices"]]
    assert second["choices"][3] == {
        "text": "option text 3", "score": None, "predicted": True, "correct": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": 5}, "expected an answer from 0 to 4, found 5"),
        ({"answer": -1}, "expected an answer from 0 to 4, found -1"),
        ({"answer": 10**30}, "expected an answer from 0 to 4"),
        ({"answer": "2"}, "expected answer of type int, found '2'"),
        ({"scores": np.zeros(4)}, "expected scores of shape"),
        ({"scores": np.full(5, np.nan)}, "expected scores to be finite"),
    ],
)
def test_faulty_choices(changes, message):
    with pytest.raises(DataError, match=f"record a: {message}"):
        _filled(Choices(), _options(a=1), [_chosen("a", 1) | changes])


def test_chance_of_options():
    records = [_chosen(str(n), 0) for n in range(500)]
    drawn = Choices.random(records, np.random.default_rng(0))
    assert all(50 < n < 150 for n in Counter(r["answer"] for r in drawn).values())
    assert all(r["answer"] == r["scores"].argmax() for r in drawn)
    (common,) = Choices.frequent(records[:1], _options(a=4, b=4, c=1))
    assert (common["id"], common["answer"]) == ("0", 4)


# ---- lists of results


@pytest.mark.parametrize("count", [0, 1, 4096, 4097])
def test_lists_are_written_in_blocks(count, tmp_path):
    rows = [{"question_id": n, "answer": "ü"} for n in range(count)]
    path = write_rows(tmp_path / "new" / "rows.json", iter(rows))
    assert read_rows(path, ("answer",)) == rows
    assert [p.name for p in path.parent.iterdir()] == ["rows.json"]


@pytest.mark.parametrize("text", ["{}", '[{"answer": 1}, {"question": 2}]', "[3]", "[", "[null]"])
def test_faulty_lists(text, tmp_path):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError, match=r"rows\.json: ") as error:
        read_rows(tmp_path / "rows.json", ("answer",))
    assert "\n" not in str(error.value)
