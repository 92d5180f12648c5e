# SPDX-License-Identifier: Apache-2.0
"""STAGE's metric of generated answers: texts, candidates, evidence, files, answers, pages, rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine import page as pages
from metrics.common import generation
from metrics.common.errors import DataError
from metrics.common.files import read_json, write_json
from metrics.stage import Metric

CUP, DOOR = 5, 8  # word ids
BOX, ELSEWHERE = [1.25, 2.0, 90.5, 80.0], [100.0, 100.0, 150.0, 150.0]
CHOICES = ["On the table .", "In Monica 's hand", "By the door", "In the sink", "She broke it ."]
CHOSEN, WRITTEN = "valid_inference_predictions.json", "valid_generative_predictions.json"
TEXTS = ("exact_match", "exact_match_no_articles", "token_f1", "BLEU-1", "BLEU-2", "BLEU-3",
         "BLEU-4", "ROUGE-L", "CIDEr-D", "METEOR-lite")  # fmt: skip


def _reference(qid=17, answer=2, **more):
    objects = {7: [("cup", CUP, BOX)], 13: [("cup", CUP, BOX)], 19: []}
    return {
        "vid_name": "clip_a", "question": "Where is the cup ?", "qid": qid, "num_frames": 90,
        "choices": CHOICES, "answer": answer, "moment": [2.0, 6.0], "objects": objects,
        "subtitles": [(1.5, "Mug : hi .")], **more,
    }  # fmt: skip


def _unanswered(**changes):
    reference = _reference(**changes)
    return {k: v for k, v in reference.items() if k not in ("answer", "moment", "objects")}


def _record(name="17", text="by the door", best=2, best_sum=2, span=(1, 2), lists=None, **changes):
    """``lists``: (frame, word, {score: box})."""
    if lists is None:
        lists = [(7, CUP, {0.25: ELSEWHERE, 0.75: BOX}), (7, 0, {}), (13, CUP, {0.5: BOX})]
    pairs = [pair for *_, boxes in lists for pair in boxes.items()]
    means, sums = np.full(5, -3.0, np.float32), np.full(5, -9.0, np.float32)
    means[best], sums[best_sum] = -1, -4
    entries = [(0, frame, word, len(boxes)) for frame, word, boxes in lists]
    return {
        "id": name, "vid_name": "clip_a", "answer": text, "answer_logp": -0.5,
        "answer_scores": means, "answer_scores_sum": sums, "spans": np.array([span]),
        "image_indices": 1 + 6 * np.arange(15),
        "span_probs": np.full((1, 15, 2), 1 / 15, np.float32),
        "entries": np.array(entries, np.int64).reshape(-1, 4),
        "boxes": np.array([box for _, box in pairs], np.float64).reshape(-1, 4),
        "box_scores": np.array([score for score, _ in pairs], np.float32),
        "regions": np.array([BOX, ELSEWHERE, [0, 0, 5, 5]] * 2, np.float64),
        "region_frames": np.array([[7, 3], [13, 3]]), **changes,
    }  # fmt: skip


def _metric(records=(), references=None, **options):
    metric = Metric(**{"answers": "text"} | options)
    metric.expect({"17": _reference()} if references is None else references)
    metric.update(records)
    return metric


def _many(seed=0, count=20):
    """References and records of all kinds."""
    rng = np.random.default_rng(seed)
    references = {str(q): _reference(q, answer=q % 5) for q in range(count)}
    records = []
    for name in references:
        lists = [(frame, word, {float(np.float32(s)): [BOX, ELSEWHERE][rng.integers(2)]
                                for s in np.sort(rng.random(3))})
                 for frame in (7, 13) for word in (CUP, DOOR, 0)]  # fmt: skip
        text = CHOICES[rng.integers(5)].lower()
        best, best_sum = rng.integers(5, size=2)
        span = np.sort(rng.integers(0, 5, 2))
        records.append(_record(name, text, best, best_sum, span, lists))
    return references, records


def test_options():
    metric = Metric(answers="text")
    assert metric.primary == "CIDEr-D" and metric.higher_is_better
    assert metric.columns[:5] == ("exact_match", "CIDEr-D", "mc_acc", "miou", "overall_map")
    plain = Metric()
    assert (plain.primary, plain.columns[0]) == (Metric.primary, Metric.columns[0])
    assert (Metric.primary, hasattr(plain, "frequent")) == ("qa_acc", False)
    with pytest.raises(ValueError, match="answers: expected choice or text, found both"):
        Metric(answers="both")
    with pytest.raises(ValueError, match="meteor_jar: expected only with answers text"):
        Metric(meteor_jar="meteor-1.5.jar")
    with pytest.raises(ValueError, match=r"gone\.jar"):
        Metric(answers="text", meteor_jar="gone.jar")


def test_numbers_by_hand():
    references = {str(q): _reference(q) for q in (1, 2)}
    wrong = _record("2", "the door", best=1, best_sum=2, span=(6, 7), lists=[])
    metric = _metric([_record("1"), wrong], references)
    result = metric.result()
    assert tuple(result)[: len(metric.columns)] == metric.columns
    recalls = {f"R@0.{n}0" for n in range(1, 10)}
    assert {*result} == {*metric.columns, *recalls, *TEXTS, "mc_acc_sum", "missing"}
    assert (result["exact_match"], result["missing"]) == (0.5, 0)
    assert result["token_f1"] == pytest.approx((1 + 2 / 3) / 2)  # without articles
    assert (result["mc_acc"], result["mc_acc_sum"]) == (0.5, 1.0)
    assert (result["miou"], result["ans_span_joint_acc@.5"], result["R@0.50"]) == (0.5, 0.5, 0.5)
    assert result["overall_map"] == 0.5  # half of the cups are found


def test_texts_are_compared_with_the_correct_candidates():
    references, records = _many()
    result = _metric(records, references).result()
    truth = [CHOICES[int(name) % 5] for name in references]
    expected = generation.score([r["answer"] for r in records], truth)
    assert {name: result[name] for name in TEXTS} == expected
    assert 0 < expected["CIDEr-D"] < 10 and 0 < expected["exact_match"] < 1
    right = [r["answer_scores"].argmax() == int(r["id"]) % 5 for r in records]
    assert result["mc_acc"] == np.mean(right)


def test_the_likeliest_candidate_decides_jointly_with_the_moment():
    references = {"17": _reference()}
    good = _metric([_record(text="nonsense")], references).result()
    assert (good["exact_match"], good["ans_span_joint_acc@.5"], good["mc_acc"]) == (0, 1, 1)
    bad = _metric([_record(best=0)], references).result()
    assert (bad["exact_match"], bad["ans_span_joint_acc@.5"], bad["mc_acc_sum"]) == (1, 0, 1)
    assert bad["overall_map"] == 1.0  # boxes do not depend on the answer
    equal = np.zeros(5, np.float32)
    first = _record(answer_scores=equal, answer_scores_sum=equal)
    result = _metric([first], {"17": _reference(answer=0)}).result()
    assert (result["mc_acc"], result["mc_acc_sum"]) == (1, 1)


def test_missing_answers_are_empty_texts(log):
    references = {"17": _reference(), "18": _reference(18), "19": _unanswered(qid=19)}
    published = _metric([_record()], references).result()
    strict = _metric([_record()], references, protocol="strict").result()
    expected = generation.score(["by the door", ""], [CHOICES[2]] * 2)
    for result in (published, strict):
        assert {name: result[name] for name in TEXTS} == expected
        assert (result["exact_match"], result["missing"]) == (0.5, 2)
    assert (published["mc_acc"], published["mc_acc_sum"], published["miou"]) == (1, 1, 1)
    assert (strict["mc_acc"], strict["mc_acc_sum"], strict["miou"]) == (0.5, 0.5, 0.5)
    assert "texts of 1 of 2 questions are missing and count as empty ones, the first is 18" in (
        log.text
    )


def test_nothing_to_score(log):
    metric = _metric([_record()], {"17": _unanswered()})
    result = metric.result()
    assert {*result} == {*_metric([_record()]).result()}
    assert set(result.values()) == {0.0}
    assert "nothing to score" in log.text and "without ground truth" not in log.text
    assert _metric().result()["exact_match"] == 0.0


def test_java_meteor_is_added(monkeypatch):
    class Java:
        def __init__(self, jar):
            assert jar == "meteor-1.5.jar"

        def score(self, predictions, references):
            return len(predictions) + (references == [CHOICES[2]]) / 4

    monkeypatch.setattr("metrics.stage.JavaMeteor", Java)
    assert _metric([_record()], meteor_jar="meteor-1.5.jar").result()["METEOR 1.5"] == 1.25


def test_files(tmp_path):
    metric = _metric([_record(lists=[(7, CUP, {0.25: ELSEWHERE, 0.75: BOX}), (13, 0, {})])])
    path = metric.write(tmp_path / "new", "STAGE", "test", topk=3)
    assert path == tmp_path / "new" / WRITTEN
    assert json.loads(path.read_text()) == {"17": {
        "answer": "by the door", "score": -0.5, "mc_scores": [-3.0, -3.0, -1.0, -3.0, -3.0],
        "mc_answer": 2, "span": [2, 6],
    }}  # fmt: skip
    origin = {"qid": 17, "vid_name": "clip_a"}
    entries = [
        {"pred": [0.25, 0.75], "bbox": [ELSEWHERE, BOX], "word": CUP, **origin, "img_idx": 7},
        {"pred": [], "bbox": [], "word": 0, **origin, "img_idx": 13},
    ]
    assert json.loads((path.parent / CHOSEN).read_text()) == {
        "ts_answer": {"17": [[2, 6], 2]}, "raw_bbox": [{str(k): entries for k in range(5)}],
    }  # fmt: skip
    details = json.loads((path.parent / "valid_metrics_per_class.json").read_text())
    assert details == metric.details() and details["CIDEr-D"] == 0.0  # of a single question
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == [WRITTEN, CHOSEN, "valid_metrics_per_class.json"]


def test_files_of_questions_without_answers(tmp_path):
    metric = _metric([_record(lists=[])], {"17": _unanswered()})
    path = metric.write(tmp_path, "STAGE", "infer")
    names = ["test_generative_predictions.json", "test_inference_predictions.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names and path.name == names[0]
    assert read_json(tmp_path / names[1]) == {"ts_answer": {"17": [[2, 6], 2]}, "raw_bbox": []}


def test_scores_of_the_written_files(tmp_path):
    references, records = _many()
    metric = _metric(records[2:], references)
    whole, path = metric.result(), metric.write(tmp_path, "STAGE", "test")
    again = _metric(Metric.read(path), references)
    known = {k: v for k, v in whole.items() if k not in ("mc_acc_sum", "overall_map")}
    assert again.result() == known | {"overall_map": 0.0}  # neither sums nor boxes are in it
    assert read_json(again.write(tmp_path / "b", "STAGE", "test")) == read_json(path)
    chosen = _metric(Metric.read(tmp_path / CHOSEN), references, answers="choice").result()
    for key in ("miou", "overall_map", "ans_span_joint_acc@.5", "missing"):
        assert chosen[key] == whole[key]
    assert chosen["qa_acc"] == whole["mc_acc"] and 0 < whole["overall_map"] < 1
    assert _metric(Metric.read(path), references, answers="choice").result()["qa_acc"] == (
        whole["mc_acc"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "record 17: expected a generated text as answer, found none"),
        ({"answer": 3}, "expected a generated text as answer, found 3"),
        ({"answer_logp": None}, "expected answer_logp"),
        ({"answer_logp": float("nan")}, "expected answer_logp to be finite"),
        ({"answer_scores": np.zeros(4)}, r"expected answer_scores of shape \(5\), found \(4,\)"),
        ({"answer_scores": None}, "expected answer_scores"),
        ({"answer_scores_sum": None}, "expected answer_scores_sum"),
        ({"answer_scores_sum": np.full(5, -np.inf)}, "expected answer_scores_sum to be finite"),
        ({"spans": np.zeros((5, 2), int)}, r"expected spans of shape \(1, 2\)"),
        ({"spans": None}, "expected spans"),
        ({"span_probs": np.zeros((5, 15, 2))}, r"expected span_probs of shape \(1, 15, 2\)"),
        ({"image_indices": None}, "expected image_indices"),
        ({"entries": None}, "expected entries"),
        ({"boxes": None}, "expected boxes"),
        ({"id": "99"}, "record 99: expected one of the 1 questions"),
    ],
)
def test_faulty_records(change, message):
    faulty = {k: v for k, v in (_record() | change).items() if v is not None}
    with pytest.raises(DataError, match=message) as caught:
        _metric([faulty])
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 2}, "record 17: expected a generated text as answer, found 2"),
        ({"score": "high"}, "expected answer_logp as numbers"),
        ({"mc_scores": [0, 1]}, r"expected answer_scores of shape \(5\), found \(2,\)"),
        ({"mc_answer": 5}, "expected an answer from 0 to 4, found 5"),
        ({"mc_answer": None}, "expected an answer from 0 to 4, found None"),
        ({"span": [1]}, r"expected seconds of shape \(2\)"),
    ],
)
def test_faulty_numbers_of_generated_files(tmp_path, change, message):
    entry = {"answer": "a", "score": -1, "mc_scores": [0] * 5, "mc_answer": 1, "span": [0, 2]}
    path = write_json(tmp_path / "p.json", {"17": entry | change})
    with pytest.raises(DataError, match=message) as caught:
        _metric(Metric.read(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", [{"answer": "a"}, [], 3, None])
def test_files_that_hold_something_else(tmp_path, entry):
    path = write_json(tmp_path / "p.json", {"17": entry})
    message = r"p\.json: question 17: expected answer, score, mc_scores, mc_answer and span, found"
    with pytest.raises(DataError, match=message) as caught:
        Metric.read(path)
    assert "\n" not in str(caught.value)


def test_files_of_chosen_answers_have_no_text(tmp_path):
    _metric([_record()]).write(tmp_path, "STAGE", "test")
    with pytest.raises(DataError, match=r"found 2; chosen answers are scored with METRIC\.answers"):
        _metric(Metric.read(tmp_path / CHOSEN))
    boxes_alone = read_json(tmp_path / CHOSEN) | {"ts_answer": {}}
    with pytest.raises(DataError, match="record 17: expected answer_scores, found none"):
        _metric(Metric.read(write_json(tmp_path / "b.json", boxes_alone)))


def test_answers_for_people():
    lists = [(7, CUP, {0.25: BOX, 0.75: ELSEWHERE}), (13, DOOR, {0.4: BOX}), (7, 0, {0.9: BOX})]
    metric = _metric([_record(lists=lists)])
    assert metric.answers() == [
        "17: Where is the cup ?",
        "  answer: By the door (score -0.50)",
        "  moment: 2.00 to 6.00 s",
        "  cup: [100, 100, 150, 150] in frame 7 (2.00 s), score 0.750",
        "  word 8: [1, 2, 90, 80] in frame 13 (4.00 s), score 0.400",
        "  candidate: By the door (64.9%)",
    ]
    assert metric.answers(5)[-2:] == ["  candidate: In the sink (8.8%)",
                                      "  candidate: She broke it . (8.8%)"]  # fmt: skip
    assert _metric([_record(text="")]).answers()[1] == "  answer: (nothing) (score -0.50)"


@pytest.mark.parametrize("choices", [[], ["yes", "no"]])
def test_a_raw_video_brings_its_own_reference(tmp_path, choices):
    own = {k: v for k, v in _unanswered().items() if k != "qid"} | {"choices": choices}
    record = _record("my.mp4#0", lists=[(7, CUP, {0.5: BOX})], reference=own)
    if choices:
        record |= {key: np.array([-2.0, -1.0]) for key in ("answer_scores", "answer_scores_sum")}
    else:
        del record["answer_scores"], record["answer_scores_sum"]
    metric = Metric(answers="text")
    metric.update([record])
    assert metric.answers(5) == [
        "my.mp4#0: Where is the cup ?", "  answer: By the door (score -0.50)",
        "  moment: 2.00 to 6.00 s",
        "  word 5: [1, 2, 90, 80] in frame 7 (2.00 s), score 0.500",
        *(["  candidate: no (73.1%)", "  candidate: yes (26.9%)"] if choices else []),
    ]  # fmt: skip
    written = read_json(metric.write(tmp_path, "STAGE", "infer"))["my.mp4#0"]
    chosen = read_json(tmp_path / "test_inference_predictions.json")
    assert written["mc_answer"] == (1 if choices else None)
    assert written["mc_scores"] == ([-2.0, -1.0] if choices else [])
    assert chosen["ts_answer"] == ({"my.mp4#0": [[2, 6], 1]} if choices else {})
    assert len(chosen["raw_bbox"][0]["4"]) == 1
    (page,) = metric.pages()
    assert [c["predicted"] for c in page["choices"]] == [True] + [False] * len(choices)
    assert all("correct" not in c for c in page["choices"])
    assert [frame["index"] for frame in page["frames"]] == [7]


def test_page_of_a_question(tmp_path):
    probabilities = np.zeros((1, 15, 2), np.float32)
    probabilities[0, 1] = 0.5, 0.25
    record = _record(text="By the door .", best=0, span_probs=probabilities)
    (page,) = _metric([record]).pages()
    assert page["choices"][0] == {
        "text": "By the door .", "score": None, "predicted": True, "correct": True,
    }  # fmt: skip
    assert [c["text"] for c in page["choices"][1:3]] == [
        "candidate: On the table . (64.9%)", "candidate: In Monica 's hand (8.8%)",
    ]  # fmt: skip
    assert [c["correct"] for c in page["choices"][1:]] == [False, False, True, False, False]
    assert [c["predicted"] for c in page["choices"][1:]] == [False] * 5
    assert page["curves"][0]["values"][:2] == [0, 0.5] and len(page["moments"]) == 2
    assert [box["kind"] for box in page["frames"][0]["boxes"]] == ["predicted", "truth"]
    (wrong,) = _metric([_record(text="the door")]).pages()
    assert wrong["choices"][0]["correct"] is False
    index = pages.write(tmp_path, [page]).read_text()
    assert "By the door ." in index and "1 of 1 answered right" in index


def test_pages_of_a_file(tmp_path):
    path = _metric([_record()]).write(tmp_path, "STAGE", "test")
    metric = _metric(Metric.read(path))
    (page,) = metric.pages()
    assert page["choices"][3]["text"] == "candidate: By the door (64.9%)" and page["curves"] == []
    assert metric.answers()[1:3] == ["  answer: By the door (score -0.50)",
                                     "  moment: 2.00 to 6.00 s"]  # fmt: skip


def test_report_for_people():
    lines = _metric([_record()]).report()
    assert lines[:4] == [
        "answers: 1 predicted, 0 missing",
        "generated: exact match 100.00%, token F1 100.00%, BLEU-4 3.16%, ROUGE-L 100.00%, "
        "METEOR-lite 98.15%, CIDEr-D 0.000",
        "accuracy of the likeliest candidate 100.00%, temporal mIoU 100.00%, both (IoU >= 0.5) "
        "100.00%",
        "grounding mAP 100.00% over 1 labels",
    ]


def test_random_answers():
    references, records = _many()
    drawn, again, other = (Metric.random(records, np.random.default_rng(s)) for s in (3, 3, 4))
    assert str(drawn) == str(again) != str(other)
    assert {r["answer"] for r in drawn} <= {r["answer"] for r in records}
    assert all(r["spans"].shape == (1, 2) for r in drawn)
    result = _metric(drawn, references).result()
    assert result["missing"] == 0 and 0 < result["mc_acc_sum"] < 1
    texts = Metric.random(records, np.random.default_rng(0), ["yes", "no"])
    assert {r["answer"] for r in texts} == {"yes", "no"}
    assert records[0]["answer"] == _many()[1][0]["answer"]  # the records are as they were


def test_the_most_frequent_answer():
    references, records = _many()
    texts = ["By the door", "Yes", "by the door .", "Yes", "By the Door"]
    training = {str(n): {"choices": ["No", text], "answer": 1} for n, text in enumerate(texts)}
    training["test"] = {"choices": ["Yes"]}
    rows = _metric().frequent(records, training)
    assert {r["answer"] for r in rows} == {"by the door"}
    result = _metric(rows, references).result()
    assert (result["exact_match"], result["mc_acc"], result["mc_acc_sum"]) == (0.2, 0.2, 0.2)
    assert result["overall_map"] == 0.0 and result["miou"] == pytest.approx(4 / 30)
    assert len(records[0]["entries"]) == 6
    with pytest.raises(DataError, match="most frequent answer: expected answers to count"):
        _metric().frequent(records, {})
