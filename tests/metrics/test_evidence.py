# SPDX-License-Identifier: Apache-2.0
"""TVQA+ scores, spans in seconds and result files on made-up questions."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from metrics.common import evidence_files
from metrics.common.errors import DataError
from metrics.common.evidence import Evidence, Prediction, array, span_seconds
from metrics.common.files import read_json, write_json
from metrics.common.grounding import span_iou

CUP, DOOR = 5, 8  # word ids
BOX, ELSEWHERE = [0.0, 0.0, 9.0, 9.0], [50.0, 50.0, 59.0, 59.0]


def _reference(answer=2, moment=(4.0, 8.0), objects=None):
    frames = {7: [("cup", CUP, BOX)], 13: []} if objects is None else objects
    return {
        "vid_name": "clip", "question": "q ?", "choices": list("abcde"), "answer": answer,
        "moment": list(moment), "objects": frames,
    }  # fmt: skip


def _prediction(answer=2, span=(4.0, 8.0), lists=()) -> Prediction:
    """``lists``: (answer, frame, word, {score: box})."""
    entries = [(k, frame, word, len(boxes)) for k, frame, word, boxes in lists]
    flat = [pair for *_, boxes in lists for pair in boxes.items()]
    return Prediction(
        answer, span,
        entries=np.array(entries, np.int64).reshape(-1, 4),
        boxes=np.array([box for _, box in flat], float).reshape(-1, 4),
        scores=np.array([score for score, _ in flat], float),
    )  # fmt: skip


def _scores(references, predictions, protocol="published"):
    evidence = Evidence(protocol)
    evidence.expect(references)
    for name, prediction in predictions.items():
        evidence.reference({"id": name})
        evidence.add(name, prediction)
    return evidence.scores()


@pytest.mark.parametrize(
    ("first_frame", "rounded", "exact"),
    [(1, 0, 0), (2, 0, 1 / 3), (3, 1, 2 / 3), (4, 1, 1), (5, 1, 4 / 3), (6, 0, 5 / 3)],
)
def test_seconds_of_frames_by_phase(first_frame, rounded, exact):
    span = span_seconds(3, 4, first_frame)
    assert span == (6 + rounded, 10 + rounded)
    assert all(isinstance(t, int) for t in span)  # as the published file has them
    assert span_seconds(3, 4, first_frame, exact=True) == pytest.approx((6 + exact, 10 + exact))
    assert span_seconds(3, 3, first_frame)[1] - span_seconds(3, 3, first_frame)[0] == 2


def test_seconds_of_clips_beyond_300_frames_are_stretched_on_demand():
    assert span_seconds(2, 5, 3, clip_frames=450) == (7.5, 19.5)
    assert span_seconds(2, 5, 3, clip_frames=300) == span_seconds(2, 5, 3) == (5, 13)
    assert span_seconds(2, 5, 3, clip_frames=90) == (5, 13)


def test_temporal_overlap_of_odd_spans():
    spans = [[0, 5], [5, 5], [9, 4], [10, 0], [12, 10], [20, 30]]
    truth = [[0, 10], [5, 5], [4, 9], [10, 0], [5, 3], [0, 10]]
    assert span_iou(spans, truth).tolist() == [0.5, 0, 0, 0, 0, 0]
    assert span_iou([2, 6], [4, 8]) == 2 / 6


def test_answers_and_overlaps_by_hand():
    references = {str(n): _reference() for n in range(3)} | {"3": _reference(moment=(0, 10))}
    found = {
        "0": _prediction(),
        "1": _prediction(span=(4.0, 6.0)),  # right, overlap 0.5: counts
        "2": _prediction(answer=1),
        "3": _prediction(span=(0.0, 3.0)),  # overlap 0.3, the threshold is 0.30000000000000004
    }
    scores = _scores(references, found)
    assert scores["qa_acc"] == 0.75
    assert scores["miou"] == pytest.approx((1 + 0.5 + 1 + 0.3) / 4)
    assert scores["ans_span_joint_acc@.5"] == 0.5
    recalls = {k: v for k, v in scores.items() if k.startswith("R@")}
    assert list(recalls) == [f"R@0.{n}0" for n in range(1, 10)]
    assert [recalls[f"R@0.{n}0"] for n in (1, 2, 3, 5, 6, 9)] == [1, 1, 0.75, 0.75, 0.5, 0.5]


def test_missing_questions_are_left_out_or_wrong(log):
    references = {"a": _reference(), "b": _reference(moment=(0, 0)), "c": _reference()}
    published = _scores(references, {"a": _prediction()})
    assert (published["qa_acc"], published["miou"], published["ans_span_joint_acc@.5"]) == (1, 1, 1)
    assert "2 of 3 questions have no answer and are left out, the first is b" in log.text
    strict = _scores(references, {"a": _prediction()}, "strict")
    third = pytest.approx(1 / 3)
    assert (strict["qa_acc"], strict["miou"], strict["ans_span_joint_acc@.5"]) == (third,) * 3
    assert strict["R@0.10"] == third
    assert "count as wrong" in log.text
    with pytest.raises(ValueError, match="expected published or strict, found lax"):
        Evidence("lax")


@pytest.mark.parametrize("protocol", ["published", "strict"])
def test_without_any_prediction_everything_is_zero(protocol):
    scores = _scores({"a": _reference()}, {}, protocol)
    assert set(scores.pop("metrics_per_class")) == {"cup"}
    assert len(scores) == 13
    assert set(scores.values()) == {0.0}


def test_boxes_of_the_right_answer_count_whatever_was_answered():
    good, bad = (2, 7, CUP, {0.9: BOX}), (1, 7, CUP, {0.9: ELSEWHERE})
    scores = _scores({"a": _reference()}, {"a": _prediction(answer=1, lists=[good, bad])})
    assert (scores["qa_acc"], scores["overall_map"]) == (0.0, 1.0)
    assert scores["metrics_per_class"]["cup"] == {
        "ap": 1.0, "class_id": CUP, "precisions": [1.0], "recalls": [1.0], "n_tp": 1, "n_fp": 0,
        "n_positives": 1, "label": "cup",
    }  # fmt: skip


def test_words_that_are_not_annotated_in_the_frame_are_no_mistakes():
    lists = [
        (2, 7, CUP, {0.9: BOX}),
        (2, 7, DOOR, {0.9: BOX}),  # annotated in another question only
        (2, 13, CUP, {0.95: ELSEWHERE}),  # annotated in another frame only
        (2, 7, 99, {0.9: BOX}),
        (2, 7, CUP, {}),
    ]
    references = {"a": _reference(), "b": _reference(objects={7: [("door", DOOR, BOX)]})}
    scores = _scores(references, {"a": _prediction(lists=lists)})
    per_class = scores["metrics_per_class"]
    assert (per_class["cup"]["ap"], per_class["cup"]["n_fp"]) == (1.0, 0)
    assert (per_class["door"]["ap"], per_class["door"]["n_positives"]) == (0.0, 1)
    assert scores["overall_map"] == 0.5
    json.dumps(scores)  # plain numbers only


def test_unknown_words_are_removed_on_both_sides(log):
    objects = {7: [("gizmo", 0, BOX)], 13: [("gizmo", 0, BOX), ("cup", CUP, BOX)]}
    lists = [(2, 7, 0, {0.9: BOX}), (2, 13, 0, {0.9: BOX}), (2, 13, CUP, {0.9: BOX})]
    lists.append((2, 555, 0, {0.1: BOX}))
    scores = _scores({"a": _reference(objects=objects)}, {"a": _prediction(lists=lists)})
    assert set(scores["metrics_per_class"]) == {"cup"}
    assert scores["overall_map"] == 1.0
    assert "without ground truth" not in log.text


def test_frames_without_ground_truth_are_skipped_with_one_warning(log):
    lists = [(2, frame, CUP, {0.9: ELSEWHERE}) for frame in (1, 19, 25)]
    lists += [(2, 7, CUP, {0.5: BOX}), (1, 31, CUP, {0.9: BOX})]
    scores = _scores({"a": _reference()}, {"a": _prediction(lists=lists)})
    assert scores["overall_map"] == 1.0
    assert log.text.count("without ground truth") == 1
    assert "3 lists of boxes" in log.text
    assert "question a, frame 1" in log.text


def test_images_go_in_the_order_of_the_references_and_frames():
    """Of equal scores the last image leads: the order decides the precision."""
    objects = {13: [("cup", CUP, BOX)], 7: [("cup", CUP, BOX)]}  # not ascending
    right, wrong = (2, 7, CUP, {0.5: BOX}), (2, 13, CUP, {0.5: ELSEWHERE})
    for lists in ([right, wrong], [wrong, right]):
        scores = _scores({"a": _reference(objects=objects)}, {"a": _prediction(lists=lists)})
        assert scores["metrics_per_class"]["cup"]["precisions"] == [1.0, 0.5]
    references = {name: _reference() for name in "ab"}
    found = {
        "b": _prediction(lists=[(2, 7, CUP, {0.5: ELSEWHERE})]),
        "a": _prediction(lists=[(2, 7, CUP, {0.5: BOX})]),
    }
    scores = _scores(references, found)
    assert scores["metrics_per_class"]["cup"]["precisions"] == [0.0, 0.5]


def test_references_without_answers_can_be_predicted_but_not_scored(log):
    reference = {"vid_name": "clip", "question": "q ?", "choices": list("abcde")}
    scores = _scores({"a": reference}, {"a": _prediction(lists=[(2, 7, CUP, {0.5: BOX})])})
    assert scores.pop("metrics_per_class") == {}
    assert set(scores.values()) == {0.0}
    assert "nothing to score" in log.text


def test_arrays_of_records():
    record = {"id": "7", "x": [[1, 2]], "y": [[1.5, float("nan")]], "z": [[1], [2, 3]]}
    assert array(record, "x", (None, 2)).dtype == np.float64
    for key, shape, dtype, message in [
        ("w", (1,), np.float64, "record 7: expected w, found none"),
        ("x", (2, 2), np.float64, r"expected x of shape \(2, 2\), found \(1, 2\)"),
        ("x", (None,), np.float64, r"of shape \(any\), found \(1, 2\)"),
        ("x", (1, 2, 3), np.float64, r"of shape \(1, 2, 3\)"),
        ("y", (1, 2), np.float64, "expected y to be finite, found NaN"),
        ("y", (1, 2), np.int64, "float64 instead of whole numbers"),
        ("z", (2, 2), np.float64, "expected z as numbers"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            array(record, key, shape, dtype)
        assert "\n" not in str(caught.value)


def _file(tmp_path, answers, boxes, name="p.json"):
    return write_json(tmp_path / name, {"ts_answer": answers, "raw_bbox": boxes})


def _entry(qid=1, scores=(0.4,), word=CUP, frame=7):
    return {"pred": list(scores), "bbox": [BOX] * len(scores), "word": word, "qid": qid,
            "vid_name": "clip", "img_idx": frame}  # fmt: skip


def _lists(**entries):
    return {str(k): entries.get(f"a{k}", []) for k in range(5)}


def test_result_files_are_read(tmp_path):
    boxes = [_lists(a2=[_entry(), _entry(scores=())], a0=[_entry(frame=13)]), _lists(),
             _lists(a1=[_entry(qid=3)])]  # fmt: skip
    path = _file(tmp_path, {"1": [[1, 2.5], 2], "2": [[0, 4], 0]}, boxes)
    records = {record["id"]: record for record in evidence_files.read(path)}
    assert list(records) == ["1", "2", "3"]
    assert records["1"]["entries"].tolist() == [[0, 13, 5, 1], [2, 7, 5, 1], [2, 7, 5, 0]]
    assert len(records["2"]["entries"]) == 0  # nothing tells whose the empty lists are
    found = {name: evidence_files.prediction(record) for name, record in records.items()}
    assert (found["1"].answer, found["1"].span) == (2, (1.0, 2.5))
    assert (found["3"].answer, found["3"].span) == (None, None)  # boxes alone
    scores = _scores({name: _reference() for name in "123"}, found)
    assert scores["qa_acc"] == 0.5  # of two
    assert scores["metrics_per_class"]["cup"]["n_positives"] == 3
    packed = tmp_path / "p.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert str(evidence_files.read(packed)) == str(evidence_files.read(path))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([_lists(a0=[_entry(1)], a1=[_entry(2)])], r"raw_bbox\[0\].*those of questions 1, 2"),
        ([_lists(a0=[_entry(1)]), _lists(a0=[_entry(1)])], r"raw_bbox\[1\]: question 1 is there"),
        ([{"0": [_entry()]}], r"raw_bbox\[0\].*KeyError\('1'\)"),
        ([[_entry()]], r"raw_bbox\[0\]"),
        ([_lists(a0=[{"qid": 1}])], "bbox"),
        ([_lists(a0=[_entry() | {"pred": []}])], "1 boxes and 0 scores"),
        ([_lists(a0=[_entry() | {"bbox": [[1, 2, 3]]}])], r"raw_bbox\[0\]"),
        ([_lists(a0=[_entry() | {"img_idx": None}])], r"raw_bbox\[0\]"),
        ([_lists(a0=[_entry() | {"word": 10**30}])], r"raw_bbox\[0\]"),
    ],
)
def test_faulty_boxes_of_result_files(tmp_path, boxes, message):
    with pytest.raises(DataError, match=message) as caught:
        evidence_files.read(_file(tmp_path, {"1": [[1, 2], 0]}, boxes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[1, 2], 5], "record 1: expected an answer from 0 to 4, found 5"),
        ([[1, 2], "2"], "expected an answer from 0 to 4"),
        ([[1, 2], None], "expected an answer from 0 to 4"),
        ([[1], 2], r"expected seconds of shape \(2\), found \(1,\)"),
        ([[1, float("nan")], 2], "expected seconds to be finite"),
        ([["soon", 2], 2], "expected seconds as numbers"),
        (3, "expected ts_answer {qid"),
        ([[1, 2], 3, 4], "expected ts_answer {qid"),
    ],
)
def test_faulty_answers_of_result_files(tmp_path, answer, message):
    path = _file(tmp_path, {"1": answer}, [])
    with pytest.raises(DataError, match=message):
        [evidence_files.prediction(record) for record in evidence_files.read(path)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a JSON file, found"),
        (b"[1]", "an object with ts_answer and raw_bbox"),
        (b'{"ts_answer": {}}', "an object with ts_answer and raw_bbox"),
        (b'{"ts_answer": {"1": 0, "1": 1}, "raw_bbox": []}', "the key 1 twice"),
        (b'{"ts_answer": [], "raw_bbox": []}', "expected ts_answer {qid"),
        (b"\x1f\x8bbroken", "expected a JSON file, found"),
        (b"\xff\xfe", "expected a JSON file, found"),
        (b"[" * 10**5, "expected a JSON file, found"),
    ],
)
def test_files_that_are_no_result_files(tmp_path, data, message):
    path = tmp_path / "p.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        evidence_files.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"none\.json: expected a JSON file, found none"):
        read_json(tmp_path / "none.json")


def test_files_are_written_in_one_step(tmp_path):
    path = write_json(tmp_path / "new" / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
