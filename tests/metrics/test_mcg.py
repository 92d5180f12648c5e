# SPDX-License-Identifier: Apache-2.0
"""MCG's metric: every task through its records and its published result files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import metrics
from metrics.common import wups
from metrics.common.errors import DataError
from metrics.common.files import write_json
from metrics.mcg import Metric

ROOT = Path(__file__).resolve().parents[2]


def _question(answer, kind, **more):
    return {"question": "What ?", "video": "clip", "answer": answer, "answer_type": kind, **more}


LIKELY = math.log(0.75)


def _answer(name, answer, score=LIKELY):
    return {"id": name, "answer": answer, "score": score, "top": [[answer, score], ["no", -3.0]]}


DOG_CAT = 100 * 24 / 28
OPEN = {
    "11_0": _question("two", "DC", index=0),
    "11_4": _question("the dogs", "CW", index=1),
    "11_7": _question("a cat", "TP", index=2, second="the dog"),
    "22_0": _question("running", "TN", index=3),
}
# task -> references, records, what they score
CASES = {
    "msvd_qa": (
        {n: _question("man", "who") for n in "01"},
        [_answer("0", "man"), _answer("1", "Man")],
        {"overall_acc": 0.5, "who_acc": 0.5, "what_acc": 0.0},
    ),
    "nextqa_oe": (
        OPEN,
        [_answer("11_0", "two"), _answer("11_4", "a cat"), _answer("11_7", "dog"),
         _answer("22_0", "zzzqq")],
        {"overall_wups_0": (200 + DOG_CAT) / 4, "overall_wups_9": (200 + DOG_CAT / 10) / 4,
         "D_wups_9": 100.0, "DC_wups_0": 100.0, "CW_wups_0": DOG_CAT, "C_wups_9": DOG_CAT / 10,
         "TP_wups_0": 100.0, "TN_wups_0": 0.0, "T_wups_0": 50.0, "CH_wups_0": 0.0},
    ),
}  # fmt: skip
CASES["msrvtt_qa"] = CASES["msvd_qa"]


def _metric(task, records=None, references=None, **options):
    metric = Metric(task, **options)
    metric.expect(CASES[task][0] if references is None else references)
    metric.update(CASES[task][1] if records is None else records)
    return metric


def _some(result, keys):
    return {key: pytest.approx(result[key], abs=1e-9) for key in keys}


@pytest.mark.parametrize("task", CASES)
def test_numbers(task):
    metric = _metric(task)
    result = metric.result()
    assert CASES[task][2] == _some(result, CASES[task][2])
    assert result["missing"] == 0 and all(type(v) in (int, float) for v in result.values())
    assert metric.higher_is_better and {metric.primary, *metric.columns} <= {*result}
    assert metric.report()[0].endswith(" predicted, 0 missing") and len(metric.report()) > 2
    assert metric.answers(1)[1].startswith("  answer: ") and "(75.0%)" in metric.answers()[1]
    assert len(metric.answers(2)) == len(metric.answers()) * 3 / 2


@pytest.mark.parametrize("task", CASES)
def test_missing_and_unknown_records(task, log):
    metric = _metric(task, records=[CASES[task][1][0], _answer("elsewhere", "man")])
    count = len(CASES[task][0])
    result = metric.result()
    assert result["missing"] == count - 1
    assert result[metric.primary] == pytest.approx((1 if task != "nextqa_oe" else 100) / count)
    metric.result()
    assert log.text.count(f"{count - 1} of {count} ids have no record and count as wrong") == 1
    assert "1 records of unknown ids are ignored, the first is elsewhere" in log.text
    with pytest.raises(DataError, match="expected one of each"):
        _metric(task, CASES[task][1][:1], strict=True).result()
    with pytest.raises(DataError, match="record elsewhere: expected one of the"):
        _metric(task, [_answer("elsewhere", "man")], strict=True)


def test_the_last_of_two_records_counts():
    metric = _metric("msvd_qa", [*CASES["msvd_qa"][1], _answer("1", "man")])
    assert metric.result()["overall_acc"] == 1.0


# ---- protocols of WUPS


def test_of_two_right_answers_the_better_one_counts():
    assert _metric("nextqa_oe").result()["TP_wups_0"] == 100.0
    references = {"11_7": {**OPEN["11_7"], "second": None}}
    records = [_answer("11_7", "dog")]
    assert _metric("nextqa_oe", records, references).result()["TP_wups_0"] == pytest.approx(DOG_CAT)


def test_protocol_of_the_data_set_counts_previous_as_next():
    ours, theirs = (_metric("nextqa_oe", protocol=p).result() for p in ("upstream", "dataset"))
    assert theirs["TN_wups_0"] == 50.0 and ours["TN_wups_0"] == 0.0
    assert ours.keys() - theirs.keys() == {"TP_wups_0", "TP_wups_9"}
    assert theirs["T_wups_0"] == ours["T_wups_0"] == 50.0
    assert theirs["overall_wups_0"] == ours["overall_wups_0"]


def test_the_slip_of_upstream():
    """Threshold 9 for a question with one answer: 13/14 of a synonym is no longer above it."""
    references = {n: _question("domestic_dog", "CW") for n in ("1_0", "1_1")}
    references["1_1"]["second"] = "table"
    records = [_answer("1_0", "dog"), _answer("1_1", "dog")]

    def score(**options):
        return _metric("nextqa_oe", records, references, **options).result()["CW_wups_9"]

    assert score() == pytest.approx(100 * 13 / 14)
    assert score(compat_alpha9=True) == pytest.approx((10 + 100) / 2 * 13 / 14)


def test_either_similarity():
    """An adjective in front of a noun: 0 in NLTK 3.3, so that the word is left out; 1/6 later."""
    references = {"1_0": _question("dog", "CW")}
    records = [_answer("1_0", "happy dog")]
    metric = _metric("nextqa_oe", records, references)
    assert metric.result()["overall_wups_0"] == 100.0
    assert "WUPS@0 100.00" in metric.report()[1] and "nltk33" in metric.report()[1]
    assert "WUPS@0 16.67" in metric.report()[2] and "nltk38" in metric.report()[2]
    later = _metric("nextqa_oe", records, references, wup_mode="nltk38")
    assert later.result()["overall_wups_0"] == pytest.approx(100 / 6)
    assert "nltk38" in later.report()[1]


def test_yes_no_and_counts_must_be_equal():
    """Whatever their similarity, which is high for numbers, and once they are cleaned."""
    references = {"1_0": _question("two", "DC"), "1_1": _question("yes", "DB")}
    records = [_answer("1_0", "three"), _answer("1_1", "is yes")]
    result = _metric("nextqa_oe", records, references).result()
    assert (result["DC_wups_0"], result["DB_wups_0"], result["DB_wups_9"]) == (0.0, 100.0, 100.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "nothing"}, "task: expected one of pretrain, msvd_qa"),
        ({"task": "nextqa_oe", "protocol": "mine"}, "protocol: expected one of upstream, dataset"),
        ({"task": "nextqa_oe", "wup_mode": "nltk3"}, "wup_mode: expected one of nltk33, nltk38"),
        ({"task": "msvd_qa", "protocol": "dataset"}, "expected with nextqa_oe, not msvd_qa"),
        ({"task": "pretrain", "wup_mode": "nltk38"}, "expected with nextqa_oe, not pretrain"),
        ({"task": "msrvtt_qa", "compat_alpha9": True}, "expected with nextqa_oe, not msrvtt_qa"),
        (
            {"task": "nextqa_oe", "protocol": "dataset", "compat_alpha9": True},
            "compat_alpha9: expected with protocol upstream",
        ),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Metric(**options)


def test_a_chosen_folder_of_data(tmp_path):
    with pytest.raises(DataError, match="corpora/wordnet"):
        Metric("nextqa_oe", nltk_data=str(tmp_path))
    Metric("nextqa_oe", nltk_data=str(wups.data_folder()))


# ---- files


def test_published_result_files(tmp_path):
    path = _metric("msvd_qa").write(tmp_path / "new", "MCG", "infer", topk=3)
    assert path == tmp_path / "new" / "results_all.json"
    assert [p.name for p in path.parent.iterdir()] == ["results_all.json"]
    data = {"question": "What ?", "vid_id": "clip", "answer": "man", "question_id": 0}
    first = {"question_id": 0, "answer": "man", "data": data | {"answer_type": "who"}}
    rows = json.loads(path.read_text())
    assert rows[0] == first and [*rows[0]["data"]] == [*first["data"]] and len(rows) == 2
    rows = json.loads(_metric("nextqa_oe").write(tmp_path, "MCG", "infer").read_text())
    assert [row["question_id"] for row in rows] == [0, 4, 7, 0]
    assert rows[1]["data"] == {
        "question": "What ?", "vid_id": "clip", "answer": "the dogs", "question_id": 4,
        "answer_type": "CW", "index": 1,
    }  # fmt: skip


@pytest.mark.parametrize("task", CASES)
def test_files_are_read_and_score_the_same(task, tmp_path):
    references = {
        name: {**reference, "video": f"0001/{name.partition('_')[0]}"}
        for name, reference in CASES[task][0].items()
    }
    metric = _metric(task, references=references)
    path = metric.write(tmp_path, "MCG", "test")
    again = _metric(task, records=[], references=references)
    again.update(again.read(path))
    assert again.result() == metric.result() and again.report() == metric.report()
    assert again.write(tmp_path / "again", "MCG", "test").read_text() == path.read_text()
    assert again.answers()[1] == f"  answer: {CASES[task][1][0]['answer']}"


def test_predictions_by_video_are_read(tmp_path):
    answers = {"11": {"0": "two", "4": "a cat", "7": "dog"}, "22": {"0": "zzzqq"}}
    metric = _metric("nextqa_oe", records=[])
    metric.update(metric.read(write_json(tmp_path / "predictions.json", answers)))
    assert metric.result() == _metric("nextqa_oe").result()


def test_published_scores(tmp_path):
    def scores(task):
        path = _metric(task).write(tmp_path / task, "MCG", "test")
        return json.loads(path.with_name("scores.json").read_text())

    accuracy = scores("msvd_qa")
    assert accuracy["overall_acc"] == 50.0 and accuracy["ratios"]["who_ratio"] == [100.0, 2]
    found = scores("nextqa_oe")
    assert (found["overall_wups_0"], found["C_wups_9"], found["TN_wups_0"]) == (71.43, 8.57, 0.0)
    assert len(found) == 26
    unknown = {n: {"question": "What ?"} for n in OPEN}
    path = _metric("nextqa_oe", references=unknown).write(tmp_path / "unknown", "MCG", "test")
    assert [p.name for p in path.parent.iterdir()] == ["results_all.json"]


@pytest.mark.parametrize(
    ("task", "document", "message"),
    [
        ("msvd_qa", {"11": {"0": "two"}}, "expected a list of results, found dict"),
        ("msvd_qa", [{"question_id": 0}], "result 0: expected an object with answer, question_id"),
        ("nextqa_oe", [{"question_id": 0, "answer": "a"}], "result 0: expected an object with"),
        ("nextqa_oe", {"11": ["two"]}, r"11: expected \{qid: answer\}"),
        (
            "nextqa_oe",
            [{"question_id": 0, "answer": "two", "data": {}}],
            "result 0: expected data with the text vid_id",
        ),
    ],
)
def test_faulty_result_files(task, document, message, tmp_path):
    path = write_json(tmp_path / "results.json", document)
    with pytest.raises(DataError, match=message) as error:
        _metric(task).read(path)
    assert "results.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"answer": 3}, {"top": [["a"]]}, {"top": [["a", "b"]]}])
def test_faulty_records(change):
    with pytest.raises(DataError, match="record 0: expected"):
        _metric("msvd_qa", [_answer("0", "man") | change])


# ---- pretraining


def _pair(name, video, text, words=(6.0, 4, 1)):
    numbers = dict(zip(("mlm_loss", "mlm_tokens", "mlm_correct"), words, strict=True))
    features = {"video_feat": np.array(video, np.float32), "text_feat": np.array(text, np.float32)}
    return {"id": name, **features, **numbers}


CLIPS = {name: {"caption": f"caption {name}", "video": name} for name in "abc"}
PAIRS = [
    _pair("a", [1, 0], [1, 0]),
    _pair("b", [0, 1], [0.9, 0.1], (0.0, 0, 0)),  # its caption is nearer to a
    _pair("c", [-1, 0], [-1, 0], (2.0, 4, 2)),
]


def test_pretraining(tmp_path):
    metric = Metric("pretrain")
    metric.expect(CLIPS)
    metric.update(PAIRS)
    result = metric.result()
    expected = {
        "text2video_r1": 200 / 3, "text2video_r5": 100.0, "text2video_meanR": 4 / 3,
        "video2text_r1": 100.0, "mlm_acc": 3 / 8, "mlm_loss": 1.0, "missing": 0,
    }  # fmt: skip
    assert _some(result, expected) == expected
    assert {metric.primary, *metric.columns} <= {*result}
    assert metric.report()[1].startswith("text to video: R@1 66.67, R@5 100.00")
    assert "accuracy 37.50%, loss 1.0000" in metric.report()[-1]
    assert metric.answers()[2:4] == [
        "b: caption b",
        "  rank of the clip 2, of the caption 1; masked words: 0 of 0 right",
    ]
    path = metric.write(tmp_path, "MCG", "infer")
    assert path.name == "scores.json" and json.loads(path.read_text())["mlm_loss"] == 1.0
    with pytest.raises(DataError, match="no result file"):
        metric.read(path)
    assert not hasattr(metric, "pages") and not hasattr(metric, "frequent")


def test_a_clip_without_a_record_finds_nothing():
    metric = Metric("pretrain")
    metric.expect(CLIPS)
    metric.update(PAIRS[:1])
    result = metric.result()
    assert result["missing"] == 2 and result["text2video_r10"] == pytest.approx(100 / 3)
    assert result["mlm_acc"] == 0.25
    metric.expect(CLIPS)
    assert metric.result()["text2video_r10"] == 0.0


def test_pretraining_by_chance():
    rng = np.random.default_rng(0)
    same = [_pair(str(n), v, v) for n, v in enumerate(rng.standard_normal((400, 8)))]
    metric = Metric("pretrain")
    metric.update(same)
    assert metric.result()["text2video_r1"] == 100.0  # whatever the lengths of the features
    drawn = Metric("pretrain")
    drawn.update(drawn.random(same, rng))
    result = drawn.result()
    assert 0.2 < result["text2video_r10"] < 10 and result["mlm_acc"] < 0.01
    assert result["mlm_loss"] == pytest.approx(math.log(30524))


@pytest.mark.parametrize(
    "change",
    [
        {"video_feat": np.array([np.nan, 0])},
        {"text_feat": np.zeros(3)},
        {"mlm_loss": None},
        {"mlm_tokens": "four"},
    ],
)
def test_faulty_pretraining_records(change):
    (key,) = change
    with pytest.raises(DataError, match=f"record b: expected {key}"):
        Metric("pretrain").update([PAIRS[0], PAIRS[1] | change])


# ---- chance, pages, use


@pytest.mark.parametrize("task", CASES)
def test_random_and_frequent_records_are_scored(task):
    metric, records = _metric(task), CASES[task][1]
    drawn = metric.random(records, np.random.default_rng(0))
    assert [r["id"] for r in drawn] == [r["id"] for r in records]
    assert _metric(task, drawn).result()["missing"] == 0
    common = metric.frequent(records, {"x": {"answer": "man"}})
    assert {r["answer"] for r in common} == {"man"}
    assert _metric(task, common).answers()[1] == "  answer: man (100.0%)"


@pytest.mark.parametrize("task", CASES)
def test_pages(task):
    pages = list(_metric(task).pages(3))
    assert len(pages) == min(3, len(CASES[task][0]))
    for page in pages:
        assert {"id", "title", "choices", "note"} <= page.keys()
        assert [c["predicted"] for c in page["choices"]] == [True, False]
        assert all(0 < c["score"] <= 1 for c in page["choices"])
    assert pages[0]["choices"][0]["correct"]
    if task == "nextqa_oe":
        assert pages[2]["note"] == "true answers: a cat, the dog"


@pytest.mark.parametrize("task", CASES)
def test_a_raw_video_needs_no_references(task, tmp_path):
    metric = Metric(task)
    metric.update([_answer("my_clip#What ?", "man")])
    assert metric.answers() == ["my_clip#What ?", "  answer: man (75.0%)"]
    (row,) = json.loads(metric.write(tmp_path, "MCG", "infer").read_text())
    assert row == {
        "question_id": "my_clip#What ?", "answer": "man",
        "data": {"question_id": "my_clip#What ?"},
    }  # fmt: skip


def test_is_found_by_name_and_needs_no_paddle():
    assert metrics.get_metrics("MCG") is Metric
    code = "import sys, metrics.mcg; print({'paddle', 'nltk', 'reader'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
