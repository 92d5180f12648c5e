# SPDX-License-Identifier: Apache-2.0
"""LLaMA-VQA's metric: every data set through its records and its result files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import metrics
from metrics.common.errors import DataError
from metrics.common.files import write_json
from metrics.llama_vqa import Metric

ROOT = Path(__file__).resolve().parents[2]
ANNOTATIONS = ROOT.parent / "shared" / "annotations"
OPTIONS = {"nextqa": 5, "star": 4, "dramaqa": 5, "vlep": 2, "tvqa": 5}


def _asked(dataset, *rows):
    """References of (id, answer, type) rows."""
    choices = [f"choice {k}" for k in range(OPTIONS[dataset])]
    return {
        name: {"question": f"What {name}?", "choices": choices, "video": "clip", "index": n}
        | {key: value for key, value in (("answer", answer), ("type", kind)) if value is not None}
        for n, (name, answer, kind) in enumerate(rows)
    }


def _option(dataset, name, answer):
    scores = np.full(OPTIONS[dataset], 2, np.float32)
    scores[answer] = 0.5
    return {"id": name, "scores": scores, "answer": answer}


# data set -> references, of which answer 1 is right twice of four times
ROWS = {
    "nextqa": [("v_0", 1, "CH"), ("v_1", 1, "CW"), ("v_2", 0, "TP"), ("w_0", 0, "DO")],
    "star": [("Sequence_T1_1", 1, "Sequence"), ("Sequence_T1_2", 1, "Sequence"),
             ("Sequence_T2_3", 0, "Sequence"), ("Prediction_T1_4", 0, "Prediction")],
    "dramaqa": [("3", 1, None), ("1", 1, None), ("2", 0, None), ("0", 0, None)],
    "vlep": [("20142", 1, None), ("20143", 1, None), ("7", 0, None), ("8", 0, None)],
    "tvqa": [("137292", 1, None), ("5", 1, None), ("6", 0, None), ("7", 0, None)],
}  # fmt: skip
NUMBERS = {
    "nextqa": {"C_acc": 1.0, "T_acc": 0.0, "D_acc": 0.0, "CW_acc": 1.0, "TN_acc": 0.0},
    "star": {"type_mean_acc": 1 / 3, "Sequence_acc": 2 / 3, "Prediction_acc": 0.0,
             "Interaction_acc": 0.0, "Feasibility_acc": 0.0},
    "dramaqa": {}, "vlep": {}, "tvqa": {},
}  # fmt: skip


def _metric(dataset, records=None, references=None, **options):
    metric = Metric(dataset, **options)
    metric.expect(_asked(dataset, *ROWS[dataset]) if references is None else references)
    given = [_option(dataset, name, 1) for name, *_ in ROWS[dataset]]
    metric.update(given if records is None else records)
    return metric


@pytest.mark.parametrize("dataset", ROWS)
def test_numbers(dataset):
    metric = _metric(dataset)
    result = metric.result()
    assert result["overall_acc"] == 0.5 and result["missing"] == 0
    assert {key: result[key] for key in NUMBERS[dataset]} == pytest.approx(NUMBERS[dataset])
    assert all(type(value) in (int, float) for value in result.values())
    assert metric.higher_is_better and {metric.primary, *metric.columns} <= {*result}
    assert metric.report()[:2] == ["4 predicted, 0 missing", "accuracy over questions 50.00"]


def test_both_averages_of_star_are_reported():
    assert "accuracy over types, their plain mean 33.33" in _metric("star").report()
    assert "  Sequence: 66.67 of 3 questions (75.0 %)" in _metric("star").report()


def test_the_mean_of_types_is_that_of_the_published_numbers():
    """What is known of STAR's validation set: counts, and four accuracies in per cent."""
    counts = {"Interaction": 2398, "Sequence": 3586, "Prediction": 624, "Feasibility": 490}
    right = {"Interaction": 66.2, "Sequence": 67.9, "Prediction": 57.2, "Feasibility": 52.7}
    rows = [(f"{t}_{n}", int(n < count * right[t] / 100), t)
            for t, count in counts.items() for n in range(count)]  # fmt: skip
    metric = _metric("star", [_option("star", n, 1) for n, *_ in rows], _asked("star", *rows))
    result = metric.result()
    assert result["type_mean_acc"] == pytest.approx(0.610, abs=5e-4)
    assert result["overall_acc"] == pytest.approx(0.6535, abs=5e-4)


def test_types_that_are_not_published_follow():
    rows = [("0", 1, "scene"), ("1", 0, "shot"), ("2", 1, None), ("3", None, "scene")]
    metric = _metric("dramaqa", [_option("dramaqa", n, 1) for n, *_ in rows],
                     _asked("dramaqa", *rows))  # fmt: skip
    result = metric.result()
    expected = {"overall_acc": 2 / 3, "scene_acc": 1.0, "shot_acc": 0.0, "missing": 0}
    assert result == pytest.approx(expected)


@pytest.mark.parametrize("dataset", ROWS)
def test_nothing_predicted(dataset, log):
    metric = _metric(dataset, records=[])
    assert metric.result()["overall_acc"] == 0 and metric.result()["missing"] == 4
    assert log.text.count("4 of 4 ids have no record and count as wrong") == 1  # said once
    with pytest.raises(DataError, match="expected one of each"):
        _metric(dataset, records=[], strict=True).result()


def test_a_question_counts_once(log):
    metric = _metric("tvqa")
    whole = metric.result()
    metric.update([_option("tvqa", "5", 1), _option("tvqa", "elsewhere", 1)])
    assert metric.result() == whole and "1 records of unknown ids are ignored" in log.text
    with pytest.raises(DataError, match="record elsewhere: expected one of the"):
        _metric("tvqa", [_option("tvqa", "elsewhere", 1)], strict=True)


def test_unknown_answers_are_not_scored(tmp_path):
    references = _asked("vlep", *[(name, None, None) for name, *_ in ROWS["vlep"]])
    metric = _metric("vlep", references=references)
    assert metric.result()["overall_acc"] == 0
    metric.write(tmp_path, "LLAMA_VQA", "test")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "results_all.jsonl", "vlep_test_submission.jsonl", "vlep_test_submission.zip",
    ]  # fmt: skip


# ---- records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 5}, "record v_0: expected an answer from 0 to 4, found 5"),
        ({"answer": -1}, "expected an answer from 0 to 4"),
        ({"answer": "1"}, "expected answer of type int"),
        ({"scores": [1, 2, 3]}, r"expected scores of 5 options, found shape \(3,\)"),
        ({"scores": [1, 2, 3, 4, math.inf]}, "that are finite, found infinity"),
        ({"scores": ["a"]}, "expected scores as numbers"),
    ],
)
def test_faulty_records(change, message):
    with pytest.raises(DataError, match=message) as error:
        _metric("nextqa", [_option("nextqa", "v_0", 1) | change])
    assert "\n" not in str(error.value)


def test_an_option_without_any_loss_has_none():
    """A mean over nothing is no number; it is the least, and stays one that can be read."""
    record = {"id": "v_0", "scores": np.array([1, np.nan, 0, 2, 3], np.float32), "answer": 1}
    metric = _metric("nextqa", [record])
    assert metric.result()["C_acc"] == 0.5
    assert metric.answers(2)[1:] == [
        "  answer: (B) choice 1 (loss 0.000)", "  answer: (C) choice 2 (loss 0.000)",
    ]  # fmt: skip
    (page,) = metric.pages()
    scores = [choice["score"] for choice in page["choices"]]
    assert scores[1] == scores[2] == max(scores) and sum(scores) == pytest.approx(1)


def test_random_and_frequent_records():
    metric, references = _metric("nextqa"), _asked("nextqa", *ROWS["nextqa"])
    records = [_option("nextqa", str(n), 0) for n in range(600)]
    drawn = metric.random(records, np.random.default_rng(0))
    counts = np.bincount([r["answer"] for r in drawn], minlength=5)
    assert counts.min() > 80 and all(r["scores"].argmin() == r["answer"] for r in drawn)
    common = metric.frequent(records, references)  # 0 and 1 are equally frequent
    assert {r["answer"] for r in common} == {1} and common[0]["scores"].argmin() == 1
    with pytest.raises(DataError, match="found none"):
        metric.frequent(records, {"a": {}})


def test_answers_and_pages():
    metric = _metric("star")
    assert metric.answers()[:2] == ["Sequence_T1_1: What Sequence_T1_1?",
                                    "  answer: (B) choice 1 (loss 0.500)"]  # fmt: skip
    page = next(metric.pages(1))
    assert (page["title"], page["video"], page["note"]) == (
        "What Sequence_T1_1?", "clip", "Sequence",
    )  # fmt: skip
    assert [c["predicted"] for c in page["choices"]] == [False, True, False, False]
    assert [c["correct"] for c in page["choices"]] == [False, True, False, False]


def test_a_video_of_ones_own():
    metric = Metric("nextqa")
    record = {"id": "my#why?", "scores": np.array([2, 1, 3], np.float32), "answer": 1}
    metric.update([record])
    assert metric.answers() == ["my#why?", "  answer: (B) option 1 (loss 1.000)"]
    metric = Metric("nextqa")
    metric.update([record | {"reference": {"question": "why?", "choices": ["a", "b", "c"]}}])
    assert metric.answers(2) == ["my#why?: why?", "  answer: (B) b (loss 1.000)",
                                 "  answer: (A) a (loss 2.000)"]  # fmt: skip


# ---- result files


def test_our_lines(tmp_path):
    path = _metric("nextqa").write(tmp_path / "new", "LLAMA_VQA", "infer", topk=3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name == "results_all.jsonl" and not (path.parent / "scores.json").exists()
    assert rows[2] == {
        "qid": 2, "vid": "clip", "pred": 1, "pred_letter": "B", "scores": [2, 0.5, 2, 2, 2],
        "answer": 0, "qtype": "TP",
    }  # fmt: skip
    lone = Metric("vlep")
    lone.update([{"id": "a", "scores": np.array([1, np.nan], np.float32), "answer": 1}])
    (line,) = lone.write(tmp_path, "LLAMA_VQA", "infer").read_text().splitlines()
    assert json.loads(line) == {
        "qid": 0, "vid": "a", "pred": 1, "pred_letter": "B", "scores": [1.0, None], "answer": None,
        "qtype": None,
    }  # fmt: skip


SUBMISSIONS = {
    "nextqa": {name: {"prediction": 1, "answer": answer} for name, answer, _ in ROWS["nextqa"]},
    "star": {
        "Sequence": [{"question_id": n, "answer": 1} for n, *_ in ROWS["star"][:3]],
        "Prediction": [{"question_id": "Prediction_T1_4", "answer": 1}],
    },
    "tvqa": {name: 1 for name, *_ in ROWS["tvqa"]},
}


@pytest.mark.parametrize("dataset", SUBMISSIONS)
def test_what_the_evaluations_take(dataset, tmp_path):
    path = _metric(dataset).write(tmp_path, "LLAMA_VQA", "infer").with_name("submission.json")
    assert json.loads(path.read_text()) == SUBMISSIONS[dataset]


def test_what_vleps_evaluation_takes(tmp_path):
    _metric("vlep").write(tmp_path, "LLAMA_VQA", "infer")
    text = (tmp_path / "vlep_dev_submission.jsonl").read_text()
    assert text.splitlines()[0] == '{"example_id": 20142, "pred_ans": 1}'
    archive = (tmp_path / "vlep_dev_submission.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        assert file.namelist() == ["vlep_dev_submission.jsonl"]  # in no folder
        assert file.read("vlep_dev_submission.jsonl").decode() == text
    _metric("vlep").write(tmp_path, "LLAMA_VQA", "infer")
    assert (tmp_path / "vlep_dev_submission.zip").read_bytes() == archive


def test_dramaqa_has_our_lines_alone(tmp_path):
    _metric("dramaqa").write(tmp_path, "LLAMA_VQA", "test")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results_all.jsonl", "scores.json"]
    assert json.loads((tmp_path / "scores.json").read_text()) == {"overall_acc": 50.0}


@pytest.mark.parametrize("dataset", ROWS)
def test_files_are_read_and_score_the_same(dataset, tmp_path):
    metric = _metric(dataset)
    path = metric.write(tmp_path, "LLAMA_VQA", "infer")
    files = [p for p in tmp_path.iterdir() if p != path]
    assert len(files) == {"vlep": 2, "dramaqa": 0}.get(dataset, 1)
    for file in (path, *files):
        again = _metric(dataset, records=[])
        again.update(again.read(file))
        assert again.result() == metric.result(), file.name
        assert len(again.answers()) == len(list(again.pages())) * 2 == 8
    packed = tmp_path / "results.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    again.update(again.read(packed))
    assert again.answers() == metric.answers()


@pytest.mark.parametrize(
    ("dataset", "name", "text", "message"),
    [
        ("nextqa", "a.json", "[]", "expected an object, found list"),
        ("nextqa", "a.json", '{"v_0": 1}', r"v_0: expected \{prediction"),
        ("star", "a.json", '{"Sequence": 1}', "expected {type: "),
        ("star", "a.json", '{"Sequence": [1]}', "expected {question_id, answer}"),
        ("tvqa", "a.jsonl", '{"qid": 0, "pred": 1}\nnothing', "jsonl:2: expected a JSON object"),
        ("tvqa", "a.jsonl", '{"qid": 0}', "jsonl:1: expected an object with qid and pred"),
        ("vlep", "a.zip", "nothing", "a.zip: expected a result file"),
        ("vlep", "a.jsonl.gz", "nothing", "expected a result file"),
    ],
)
def test_faulty_result_files(dataset, name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as error:
        _metric(dataset, records=[]).read(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="found none"):
        _metric(dataset, records=[]).read(tmp_path / f"missing-{name}")


def test_answers_of_files_are_checked(tmp_path):
    metric = _metric("tvqa", records=[])
    with pytest.raises(DataError, match="record 5: expected an answer from 0 to 4, found 7"):
        metric.update(metric.read(write_json(tmp_path / "a.json", {"5": 7})))


# ---- texts


def _foretold(name, tokens, loss, correct=1):
    return {"id": name, "lm_loss": loss, "lm_tokens": tokens, "lm_correct": correct}


def test_texts(tmp_path, log):
    metric = Metric("text")
    metric.expect({n: {"text": f"text {n}"} for n in "abc"})
    metric.update([_foretold("a", 3, 6.0), _foretold("b", 1, 2.0, 0)])
    result = metric.result()
    expected = {"perplexity": math.exp(2), "token_acc": 0.25, "lm_loss": 2.0, "missing": 1}
    assert result == pytest.approx(expected) and "1 of 3 ids" in log.text
    assert not metric.higher_is_better and {metric.primary, *metric.columns} < {*result}
    assert metric.answers()[:2] == ["a: text a", "  1 of 3 tokens right, perplexity 7.389"]
    assert "perplexity 7.3891, accuracy 25.00%" in metric.report()[1]
    path = metric.write(tmp_path, "LLAMA_VQA", "infer")
    assert path.name == "scores.json" and json.loads(path.read_text())["lm_loss"] == 2.0
    with pytest.raises(DataError, match="no result file"):
        metric.read(path)
    assert not any(hasattr(metric, name) for name in ("pages", "frequent", "random"))


def test_texts_without_tokens_are_the_worst():
    metric = Metric("text")
    metric.update([_foretold("a", 0, 0.0, 0)])
    assert metric.result() == {
        "perplexity": math.inf, "token_acc": 0.0, "lm_loss": 0.0, "missing": 0,
    }  # fmt: skip
    metric.update([_foretold("a", 1, 1e6, 0)])
    assert math.isfinite(metric.result()["perplexity"])


@pytest.mark.parametrize("change", [{"lm_loss": None}, {"lm_loss": math.nan}, {"lm_tokens": "x"}])
def test_faulty_records_of_texts(change):
    with pytest.raises(DataError, match=r"a.*: expected .*numbers"):
        Metric("text").update([_foretold("a", 1, 1.0) | change])


# ---- real data, use


@pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="needs the annotations beside the project")
def test_types_of_nextqa(tmp_path):
    """Perfect answers to the real validation set: counts of its description, and a perfect file."""
    with gzip.open(ANNOTATIONS / "nextqa" / "val.csv.gz", "rt") as file:
        rows = [(f"{r['video']}_{r['qid']}", int(r["answer"]), r["type"])
                for r in csv.DictReader(file)]  # fmt: skip
    metric = _metric("nextqa", [_option("nextqa", n, a) for n, a, _ in rows],
                     _asked("nextqa", *rows))  # fmt: skip
    assert {*metric.result().values()} == {1.0, 0}
    report = "\n".join(metric.report())
    for kind, count in (("C", 2607), ("T", 1612), ("D", 777), ("CW", 1924), ("TP", 54)):
        assert f"  {kind}: 100.00 of {count} questions" in report
    metric.write(tmp_path, "LLAMA_VQA", "test")
    document = json.loads((tmp_path / "submission.json").read_text())
    assert len(document) == 4996 and document["4010069381_6"] == {"prediction": 0, "answer": 0}


def test_an_unknown_data_set():
    with pytest.raises(ValueError, match="expected one of nextqa, star"):
        Metric("msvd")


def test_is_found_by_name_and_needs_no_paddle():
    assert metrics.get_metrics("LLaMA-VQA") is Metric
    code = "import sys, metrics.llama_vqa; print('paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
