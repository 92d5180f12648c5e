# SPDX-License-Identifier: Apache-2.0
"""ClipBERT's metric: every task through its records and its published result file."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import metrics
from metrics.clipbert import Metric
from metrics.common.errors import DataError
from metrics.common.files import write_json

ROOT = Path(__file__).resolve().parents[2]
ANNOTATIONS = ROOT.parent / "shared" / "annotations" / "anetqa"
WORDS = {"<UNK>": 0, "yes": 1, "no": 2, "red": 3, "blue": 4}
QUERY = {
    "question_type": "attrWhat", "question structures": "query",
    "question semantics": "attribute", "reasoning skills": ["exist"], "answer types": "open",
}  # fmt: skip


def _question(answer, **more):
    return {"question": "What ?", "video": "clip", "answer": answer, **more}


def _word(name, answer, probability=0.75):
    top = [[answer, probability], ["no", 0.125]]
    return {"id": name, "label": WORDS[answer], "answer": answer, "score": probability, "top": top}


def _option(name, answer, chances=False):
    scores = np.eye(5, dtype=np.float32)[answer] * (0.5 if chances else 4)
    return {"id": name, "scores": scores, "answer": answer}


OPTIONS = [f"choice {k}" for k in range(5)]
CLIPS = {
    f"clip{v}": {"texts": [v], "captions": [f"caption {v}"], "count": 3} for v in range(3)
}  # fmt: skip
PAIR = {"mlm_loss": 6.0, "mlm_tokens": 4, "mlm_correct": 1, "itm_loss": 0.5, "itm_correct": 1}
# task -> references, records that answer half of it right, the number that says so
CASES = {
    "anetqa": (
        {n: _question("red", taxonomy=QUERY) for n in ("v_abcdefghijk#q#1", "v_abcdefghijk#q#2")},
        [_word("v_abcdefghijk#q#1", "red"), _word("v_abcdefghijk#q#2", "blue")],
        {"overall": 0.5, "query": 0.5, "attribute": 0.5, "exist": 0.5, "open": 0.5},
    ),
    "frameqa": (
        {n: _question("red", answer_type="color") for n in "01"},
        [_word("0", "red"), _word("1", "blue")],
        {"overall_acc": 0.5, "color_acc": 0.5, "object_acc": 0.0},
    ),
    "msrvtt_qa": (
        {n: _question("red", answer_type="what") for n in "01"},
        [_word("0", "red"), _word("1", "blue")],
        {"overall_acc": 0.5, "what_acc": 0.5, "who_acc": 0.0},
    ),
    "action": (
        {n: _question(3, choices=OPTIONS) for n in "01"},
        [_option("0", 3), _option("1", 1)],
        {"overall_acc": 0.5},
    ),
    "msrvtt_mc": (
        {n: {"choices": OPTIONS, "answer": 3, "video": "clip"} for n in ("7", "9")},
        [_option("7", 3, True), _option("9", 1, True)],
        {"mc_accuracy": 50.0},
    ),
    "vqa": (
        {n: {"question": "?", "video": "im", "labels": {"red": 0.5}, "answer_type": "other"}
         for n in ("262148000", "262148001")},
        [_word("262148000", "red"), _word("262148001", "blue")],
        {"overall_acc": 0.25, "other_acc": 0.25, "yes/no_acc": 0.0},
    ),
    "retrieval": (
        CLIPS,
        [{"id": f"clip{v}", "scores": np.roll([0.5, 0.125, 0.25], v)} for v in (0, 1, 2)],
        {"text2video_r1": 100.0, "video2text_meanR": 1.0},
    ),
}  # fmt: skip
CASES["transition"] = CASES["action"]


def _metric(task, records=None, references=None, **options):
    metric = Metric(task, **options)
    metric.expect(CASES[task][0] if references is None else references)
    metric.update(CASES[task][1] if records is None else records)
    return metric


def _ans2label(folder):
    return str(write_json(folder / "ans2label.json", WORDS))


@pytest.mark.parametrize("task", CASES)
def test_numbers(task):
    metric = _metric(task)
    result = metric.result()
    assert {key: result[key] for key in CASES[task][2]} == CASES[task][2]
    assert result["missing"] == 0 and all(type(v) in (int, float) for v in result.values())
    assert metric.higher_is_better and {metric.primary, *metric.columns} <= {*result}
    assert metric.report()[0].endswith(" predicted, 0 missing") and len(metric.report()) > 1
    assert len(metric.answers(2)) > len(metric.answers()) >= 4


@pytest.mark.parametrize("task", CASES)
def test_nothing_predicted(task, log):
    metric = _metric(task, records=[])
    result = metric.result()
    assert result[metric.primary] == 0 and result["missing"] == len(CASES[task][0])
    assert log.text.count("have no record and count as wrong") == 1
    metric.result()
    assert log.text.count("have no record and count as wrong") == 1  # said once


@pytest.mark.parametrize("task", CASES)
def test_strict(task):
    with pytest.raises(DataError, match="expected one of each"):
        _metric(task, CASES[task][1][:1], strict=True).result()
    with pytest.raises(DataError, match="record elsewhere: expected one of the"):
        _metric(task, [CASES[task][1][0] | {"id": "elsewhere"}], strict=True)
    assert _metric(task, strict=True).result() == _metric(task).result()


@pytest.mark.parametrize("task", CASES)
def test_unknown_ids_are_ignored(task, log):
    metric = _metric(task)
    whole = metric.result()
    metric.update([CASES[task][1][0] | {"id": "elsewhere"}])
    assert metric.result() == whole
    assert "1 records of unknown ids are ignored, the first is elsewhere" in log.text


EXAMPLE = {"question": "What ?", "vid_id": "clip", "answer": "red", "answer_type": "color"}
FILES = {
    "anetqa": [
        {"question_id": "v_abcdefghijk#q#1", "answer": "red"},
        {"question_id": "v_abcdefghijk#q#2", "answer": "blue"},
    ],
    "frameqa": [
        {"question_id": 0, "answer": 3, "data": EXAMPLE | {"question_id": 0}},
        {"question_id": 1, "answer": 4, "data": EXAMPLE | {"question_id": 1}},
    ],
    "action": [
        {
            "question_id": n,
            "answer": option,
            "data": {"question": "What ?", "vid_id": "clip", "options": OPTIONS, "answer": 3}
            | {"question_id": n},
        }
        for n, option in ((0, 3), (1, 1))
    ],
    "msrvtt_mc": {"7": 3, "9": 1},
    "vqa": [
        {"question_id": 262148000, "answer": "red"},
        {"question_id": 262148001, "answer": "blue"},
    ],
}


@pytest.mark.parametrize("task", FILES)
def test_published_result_files(task, tmp_path):
    path = _metric(task).write(tmp_path / "new", "CLIPBERT", "infer", topk=3)
    assert path == tmp_path / "new" / "results_all.json"
    assert json.loads(path.read_text()) == FILES[task]
    assert [p.name for p in path.parent.iterdir()] == ["results_all.json"]


def test_published_retrieval_file(tmp_path):
    records = [{"id": "clip2", "scores": np.array([0.123456, 0.5, 1], np.float32)}]
    path = _metric("retrieval", records).write(tmp_path, "CLIPBERT", "test")
    assert json.loads(path.read_text()) == [
        {"vid_id": "clip2", "txt_id": 0, "score": 0.1235},
        {"vid_id": "clip2", "txt_id": 1, "score": 0.5},
        {"vid_id": "clip2", "txt_id": 2, "score": 1.0},
    ]


@pytest.mark.parametrize("task", CASES)
def test_files_are_read_and_score_the_same(task, tmp_path):
    options = {"ans2label": _ans2label(tmp_path)} if task in ("frameqa", "msrvtt_qa") else {}
    metric = _metric(task, **options)
    path = metric.write(tmp_path, "CLIPBERT", "test")
    again = _metric(task, records=[], **options)
    again.update(again.read(path))
    assert again.result() == metric.result()
    assert again.report() == metric.report()
    assert again.write(tmp_path / "again", "CLIPBERT", "test").read_text() == path.read_text()
    assert len(again.answers(1)) == len(metric.answers(1))


def test_published_scores(tmp_path):
    def scores(task):
        path = _metric(task).write(tmp_path / task, "CLIPBERT", "test")
        return json.loads(path.with_name("scores.json").read_text())

    assert scores("anetqa")["overall"] == 0.5
    frameqa = scores("frameqa")
    assert frameqa["overall_acc"] == 50.0 and frameqa["ratios"]["color_ratio"] == [100.0, 2]
    assert scores("action") == {"overall_acc": 50.0}
    assert scores("msrvtt_mc") == {"mc_accuracy": "50.00"}
    assert scores("retrieval")["text2video"]["medianR"] == 1.0
    unknown = _metric("anetqa", references={n: {"question": "?"} for n in CASES["anetqa"][0]})
    path = unknown.write(tmp_path / "test", "CLIPBERT", "test")
    assert [p.name for p in path.parent.iterdir()] == ["results_all.json"]


@pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="needs the annotations beside the project")
def test_example_of_a_submission(tmp_path):
    path = ANNOTATIONS / "example_result_format.json"
    rows = json.loads(path.read_text())
    metric = Metric("anetqa")
    metric.expect({row["question_id"]: _question(row["answer"]) for row in rows})
    metric.update(metric.read(path))
    assert metric.result() == {"overall": 1.0, "missing": 0}
    assert json.loads(metric.write(tmp_path, "CLIPBERT", "infer").read_text()) == rows


@pytest.mark.parametrize(
    ("task", "document", "message"),
    [
        ("anetqa", {"a": "b"}, "expected a list of results, found dict"),
        ("anetqa", [{"question_id": "a"}], "result 0: expected an object with answer, question_id"),
        ("frameqa", [{"question_id": 0, "answer": "red"}], "result 0: expected a label"),
        ("msrvtt_mc", [], "expected an object"),
        ("retrieval", [{"vid_id": "clip0", "txt_id": 3, "score": 1}], "txt_id from 0 to 2"),
        ("retrieval", [{"vid_id": "clip0", "txt_id": 0, "score": "1"}], "a number as score"),
    ],
)
def test_faulty_result_files(task, document, message, tmp_path):
    options = {"ans2label": _ans2label(tmp_path)} if task == "frameqa" else {}
    path = write_json(tmp_path / "results.json", document)
    with pytest.raises(DataError, match=message) as error:
        _metric(task, **options).read(path)
    assert "results.json" in str(error.value) and "\n" not in str(error.value)


def test_labels_need_the_answers(tmp_path):
    path = write_json(tmp_path / "results.json", FILES["frameqa"])
    with pytest.raises(DataError, match=r"set METRIC\.ans2label"):
        _metric("frameqa").read(path)
    write_json(tmp_path / "ans2label.json", ["red"])
    with pytest.raises(DataError, match=r"ans2label\.json: expected an object"):
        _metric("frameqa", ans2label=str(tmp_path / "ans2label.json")).read(path)
    write_json(path, [{"question_id": 0, "answer": 1539}])  # of a head wider than the answers
    metric = _metric("frameqa", records=[], ans2label=_ans2label(tmp_path))
    (record,) = metric.read(path)
    assert record == {"id": "0", "answer": "<UNK>", "label": 1539}


def test_pairs_that_a_retrieval_file_leaves_out_come_last(tmp_path):
    rows = [
        {"vid_id": "clip1", "txt_id": 1, "score": 0.01},
        {"vid_id": "clip0", "txt_id": 0, "score": 0.9},
        {"vid_id": "clip0", "txt_id": 0, "score": 0.0},  # the first one counts
        {"vid_id": "clip1", "txt_id": 0, "score": 0.5},
        {"vid_id": "clip2", "txt_id": 2, "score": 0.0},
    ]
    metric = _metric("retrieval", records=[])
    metric.update(metric.read(write_json(tmp_path / "results.json", rows)))
    result = metric.result()
    assert result["text2video_r1"] == 100.0
    assert result["video2text_meanR"] == pytest.approx(4 / 3)  # clip1: its own caption is second


# ---- pretraining


def test_pretraining_is_averaged_over_masked_words_and_pairs(tmp_path, log):
    references = {n: {"caption": f"caption {n}", "video": "v"} for n in "abc"}
    more = {"mlm_loss": 0.0, "mlm_tokens": 0, "mlm_correct": 0, "itm_loss": 1.5, "itm_correct": 0}
    records = [{"id": "a", **PAIR}, {"id": "b", **more}]
    metric = Metric("pretrain")
    metric.expect(references)
    metric.update(records)
    expected = {"mlm_acc": 0.25, "mlm_loss": 1.5, "itm_acc": 0.5, "itm_loss": 1.0, "missing": 1}
    assert metric.result() == expected and {metric.primary, *metric.columns} < {*expected}
    assert metric.answers()[:2] == ["a: caption a", "  masked words: 1 of 4 right; match: right"]
    assert "accuracy 25.00%" in metric.report()[1]
    path = metric.write(tmp_path, "CLIPBERT", "infer")
    assert path.name == "scores.json" and json.loads(path.read_text())["mlm_loss"] == 1.5
    with pytest.raises(DataError, match="no result file"):
        metric.read(path)
    assert not hasattr(metric, "pages") and not hasattr(metric, "frequent")
    metric.expect(references)
    assert metric.result()["mlm_acc"] == 0.0


def test_pretraining_by_chance():
    records = [{"id": str(n), **PAIR} for n in range(400)]
    metric = Metric("pretrain")
    metric.update(metric.random(records, np.random.default_rng(0)))
    result = metric.result()
    assert 0.4 < result["itm_acc"] < 0.6 and result["itm_loss"] == pytest.approx(math.log(2))
    assert result["mlm_acc"] < 0.01 and result["mlm_loss"] == pytest.approx(math.log(30522))


@pytest.mark.parametrize("change", [{"mlm_loss": None}, {"itm_loss": math.nan}, {"mlm_loss": "x"}])
def test_faulty_pretraining_records(change):
    with pytest.raises(DataError, match=r"a.*: expected .*numbers"):
        Metric("pretrain").update([{"id": "a", **PAIR, **change}])
    with pytest.raises(DataError, match="itm_correct"):
        Metric("pretrain").update([{"id": "a", "mlm_loss": 1.0}])


# ---- options, chance, pages, use


@pytest.mark.parametrize(
    "options",
    [
        {"task": "nothing"},
        {"task": "action", "ans2label": "x.json"},
        {"task": "anetqa", "round_scores": True},
    ],
)
def test_options_that_fit_no_task(options):
    with pytest.raises(ValueError, match="expected"):
        Metric(**options)


@pytest.mark.parametrize("task", CASES)
def test_random_and_frequent_records_are_scored(task):
    metric, records = _metric(task), CASES[task][1]
    drawn = metric.random(records, np.random.default_rng(0))
    assert [r["id"] for r in drawn] == [r["id"] for r in records]
    assert _metric(task, drawn).result()["missing"] == 0
    assert hasattr(metric, "frequent") == (task != "retrieval")
    if task != "retrieval":
        common = metric.frequent(records, CASES[task][0])
        best = {"vqa": 0.5, "msrvtt_mc": 100.0}.get(task, 1.0)
        assert _metric(task, common).result()[metric.primary] == best


def test_random_answers_of_the_whole_vocabulary(tmp_path):
    metric = _metric("anetqa", ans2label=_ans2label(tmp_path))
    drawn = metric.random([_word(str(n), "red") for n in range(200)], np.random.default_rng(0))
    assert {r["answer"] for r in drawn} == {*WORDS}


@pytest.mark.parametrize("task", CASES)
def test_pages(task):
    pages = list(_metric(task).pages(2))
    assert len(pages) == 2
    for page in pages:
        assert {"id", "title", "choices"} <= page.keys()
        assert sum(c["predicted"] for c in page["choices"]) == 1


def test_a_raw_video_needs_no_references():
    metric = Metric("action")
    metric.update([_option("clip#What ?", 3)])
    assert metric.answers(1) == ["clip#What ?", "  answer: option 3 (score 4.000)"]


def test_is_found_by_name_and_needs_no_paddle():
    assert metrics.get_metrics("ClipBERT") is Metric
    code = "import sys, metrics.clipbert; print('paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
