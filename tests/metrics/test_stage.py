# SPDX-License-Identifier: Apache-2.0
"""STAGE's metric: records, spans, result files, answers, pages, chance; and real annotations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import metrics
from metrics.common.errors import DataError
from metrics.common.files import write_json
from metrics.stage import Metric

ROOT = Path(__file__).resolve().parents[2]
ANNOTATIONS = ROOT.parent / "shared" / "annotations" / "tvqa_plus"
CUP, DOOR = 5, 8  # word ids
BOX, ELSEWHERE = [1.25, 2.0, 90.5, 80.0], [100.0, 100.0, 150.0, 150.0]
PREDICTED = "valid_inference_predictions.json"


def _reference(qid=17, answer=2, **more):
    objects = {7: [("cup", CUP, BOX), ("gizmo", 0, BOX)], 13: [("cup", CUP, BOX)], 19: []}
    return {
        "vid_name": "clip_a", "question": "Where is the cup ?", "qid": qid, "num_frames": 90,
        "choices": [f"choice number {k}" for k in range(5)], "answer": answer,
        "moment": [2.0, 6.0], "objects": objects, "subtitles": [(1.5, "Mug : hi .")], **more,
    }  # fmt: skip


def _unanswered(**changes):
    reference = _reference(**changes)
    return {k: v for k, v in reference.items() if k not in ("answer", "moment", "objects")}


def _record(name="17", answer=2, span=(1, 2), lists=None, first=1, frames=15, **changes):
    """``lists``: (answer, frame, word, {score: box})."""
    if lists is None:
        lists = [(2, 7, CUP, {0.25: ELSEWHERE, 0.75: BOX}), (2, 7, 0, {}), (2, 13, CUP, {0.5: BOX})]
    pairs = [pair for *_, boxes in lists for pair in boxes.items()]
    scores = np.zeros(5, np.float32)
    scores[answer] = 2
    spans = np.tile([[0, 0]], (5, 1))
    spans[answer] = span
    entries = [(k, frame, word, len(boxes)) for k, frame, word, boxes in lists]
    return {
        "id": name, "vid_name": "clip_a", "answer_scores": scores, "spans": spans,
        "image_indices": first + 6 * np.arange(frames),
        "span_probs": np.full((5, frames, 2), 1 / frames, np.float32),
        "entries": np.array(entries, np.int64).reshape(-1, 4),
        "boxes": np.array([box for _, box in pairs], np.float64).reshape(-1, 4),
        "box_scores": np.array([score for score, _ in pairs], np.float32),
        "regions": np.array([BOX, ELSEWHERE, [0, 0, 5, 5]] * 2, np.float64),
        "region_frames": np.array([[7, 3], [13, 3]]), **changes,
    }  # fmt: skip


def _metric(records=(), references=None, **options):
    metric = Metric(**options)
    metric.expect({"17": _reference()} if references is None else references)
    metric.update(records)
    return metric


def test_a_perfect_answer():
    result = _metric([_record()]).result()
    assert list(result)[:4] == list(Metric.columns)
    assert (result["qa_acc"], result["miou"], result["ans_span_joint_acc@.5"]) == (1, 1, 1)
    assert result["overall_map"] == 1.0  # the box elsewhere has the lowest score of all
    assert len(result) == 14 and result["missing"] == 0
    assert Metric.primary in result and Metric.higher_is_better


def test_updates_add_up_and_expect_starts_afresh():
    references = {"17": _reference(), "18": _reference(18)}
    metric = _metric([_record()], references)
    assert metric.result()["qa_acc"] == 1.0
    metric.update([_record("18", answer=0)])
    assert metric.result()["qa_acc"] == 0.5
    assert metric.details()["metrics_per_class"]["cup"]["n_tp"] == 4
    metric.expect(references)
    assert (metric.result()["qa_acc"], metric.result()["missing"]) == (0.0, 2)


def test_the_first_of_equal_scores_is_the_answer():
    metric = _metric([_record(answer_scores=np.zeros(5, np.float32))], {"17": _reference(answer=0)})
    assert metric.result()["qa_acc"] == 1.0


def test_missing_answers_by_protocol(log):
    references = {"17": _reference(), "18": _reference(18)}
    published = _metric([_record()], references).result()
    strict = _metric([_record()], references, protocol="strict").result()
    assert (published["qa_acc"], published["missing"]) == (1.0, 1)
    assert (strict["qa_acc"], strict["miou"], strict["missing"]) == (0.5, 0.5, 1)
    assert published["overall_map"] == strict["overall_map"] == 0.5  # half of the cups are found
    assert log.text.count("the first is 18") == 2


@pytest.mark.parametrize("first", range(1, 7))
def test_offset_of_the_first_frame(first, tmp_path):
    rounded = _metric([_record(first=first)])
    assert _spans(rounded, tmp_path) == [2 + first % 6 // 3, 6 + first % 6 // 3]
    exact = _metric([_record(first=first)], exact_offset=True)
    assert _spans(exact, tmp_path) == pytest.approx([2 + (first - 1) / 3, 6 + (first - 1) / 3])


def _spans(metric, folder):
    document = json.loads(metric.write(folder, "STAGE", "test").read_text())
    return document["ts_answer"]["17"][0]


def test_long_clips(tmp_path):
    long = {"17": _reference(num_frames=600)}
    assert _spans(_metric([_record()], long), tmp_path) == [2, 6]
    assert _spans(_metric([_record()], long, rescale_long=True), tmp_path) == [4, 12]
    assert _spans(_metric([_record()], rescale_long=True), tmp_path) == [2, 6]
    with pytest.raises(DataError, match="record 17: rescale_long needs num_frames"):
        _metric([_record()], {"17": _reference(num_frames=None)}, rescale_long=True)


def test_result_file_has_the_published_form(tmp_path):
    metric = _metric([_record(lists=[(2, 7, CUP, {0.25: ELSEWHERE, 0.75: BOX}), (2, 7, 0, {})])])
    path = metric.write(tmp_path / "new", "STAGE", "test", topk=3)
    assert path == tmp_path / "new" / PREDICTED
    origin = {"qid": 17, "vid_name": "clip_a", "img_idx": 7}
    lists = {str(k): [] for k in range(5)}
    lists["2"] = [
        {"pred": [0.25, 0.75], "bbox": [ELSEWHERE, BOX], "word": CUP, **origin},
        {"pred": [], "bbox": [], "word": 0, **origin},
    ]
    assert json.loads(path.read_text()) == {"ts_answer": {"17": [[2, 6], 2]}, "raw_bbox": [lists]}
    details = json.loads((path.parent / "valid_metrics_per_class.json").read_text())
    assert details == metric.details()
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == [PREDICTED, "valid_metrics_per_class.json"]


def test_result_file_of_questions_without_answers(tmp_path):
    references = {"17": _unanswered(), "18": _unanswered(qid=18)}
    metric = _metric([_record("18", lists=[]), _record(lists=[])], references)
    path = metric.write(tmp_path, "STAGE", "infer")
    assert path.name == "test_inference_predictions.json"
    assert list(tmp_path.iterdir()) == [path]
    document = json.loads(path.read_text())
    assert document["raw_bbox"] == []  # a network without regions
    assert list(document["ts_answer"]) == ["17", "18"]
    assert metric.result()["missing"] == 0
    assert metric.result()["overall_map"] == 0.0


def test_scores_of_a_written_file_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    references = {str(q): _reference(q, answer=q % 5, num_frames=600) for q in range(30)}
    records = []
    for name in references:
        lists = [
            (k, frame, word, {float(np.float32(s)): rng.permutation([BOX, ELSEWHERE])[0]
                              for s in np.sort(rng.random(3))})
            for k in range(5) for frame in (7, 13) for word in (CUP, DOOR, 0)
        ]  # fmt: skip
        span = np.sort(rng.integers(0, 5, 2))
        records.append(_record(name, int(rng.integers(5)), span, lists, int(rng.integers(1, 7))))
    options = {"exact_offset": True, "rescale_long": True}
    metric = _metric(records[3:], references, **options)
    path = metric.write(tmp_path, "STAGE", "test")
    again = _metric(Metric.read(path), references, **options)
    assert again.result() == metric.result()
    assert again.details() == metric.details()
    assert 0 < metric.result()["overall_map"] < 1
    text = path.read_text()
    assert json.loads(again.write(tmp_path, "STAGE", "test").read_text()) == json.loads(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "99"}, "record 99: expected one of the 1 questions"),
        ({"answer_scores": np.full(5, np.nan)}, "record 17: expected answer_scores to be finite"),
        ({"answer_scores": np.zeros(4)}, r"expected answer_scores of shape \(5\), found \(4,\)"),
        ({"spans": np.zeros((5, 3), int)}, r"expected spans of shape \(5, 2\)"),
        ({"spans": np.zeros((5, 2))}, "expected spans as numbers, found: float64"),
        ({"span_probs": np.zeros((5, 14, 2))}, r"expected span_probs of shape \(5, 15, 2\)"),
        ({"span_probs": np.full((5, 15, 2), np.inf)}, "expected span_probs to be finite"),
        ({"image_indices": None}, "expected image_indices as numbers"),
        ({"entries": np.zeros((1, 3), int)}, r"expected entries of shape \(any, 4\)"),
        ({"entries": np.array([[5, 7, 5, 3]])}, "expected entries of answers 0 to 4"),
        ({"entries": np.array([[2, 7, 5, -3]])}, "no negative number"),
        ({"boxes": np.zeros((2, 4))}, r"expected boxes of shape \(3, 4\)"),
        ({"boxes": np.full((3, 4), np.nan)}, "expected boxes to be finite"),
        ({"box_scores": np.zeros(2)}, r"expected box_scores of shape \(3\)"),
        ({"box_scores": np.array([0.1, np.nan, 0.2])}, "expected box_scores to be finite"),
    ],
)
def test_faulty_records(change, message):
    with pytest.raises(DataError, match=message) as caught:
        _metric([_record() | change])
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3


def test_faulty_ids_and_incomplete_records(tmp_path):
    with pytest.raises(DataError, match="record 17: expected one record of a question"):
        _metric([_record(), _record()])
    empty = {"image_indices": np.zeros(0, int), "span_probs": np.zeros((5, 0, 2))}
    with pytest.raises(DataError, match="expected image_indices, found an empty list"):
        _metric([_record() | empty])
    incomplete = _record()
    del incomplete["boxes"]
    with pytest.raises(DataError, match="record 17: expected boxes, found none"):
        _metric([incomplete])
    path = write_json(tmp_path / "p.json", {"ts_answer": {"99": [[0, 1], 0]}, "raw_bbox": []})
    metric = _metric()
    with pytest.raises(DataError, match="record 99: expected one of the 1 questions"):
        metric.update(metric.read(path))
    with pytest.raises(ValueError, match="protocol"):
        Metric(protocol="lax")


def test_random_answers_spans_and_attention():
    records = [_record(lists=[(2, 7, CUP, {0.2: BOX, 0.3: ELSEWHERE, 0.4: [0, 0, 5, 5]}),
                              (2, 7, DOOR, {}), (3, 13, CUP, {0.5: BOX})])]  # fmt: skip
    drawn, again, other = (
        Metric.random(records * 600, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert str(drawn[:5]) == str(again[:5]) != str(other[:5])
    answers = np.bincount([r["answer_scores"].argmax() for r in drawn], minlength=5)
    assert answers.min() > 50
    spans = np.concatenate([r["spans"] for r in drawn])
    assert (spans[:, 0] <= spans[:, 1]).all() and spans.min() == 0 and spans.max() == 14
    assert len(np.unique(spans, axis=0)) == 120  # every pair of 15 frames
    tops = {tuple(r["boxes"][2]) for r in drawn}
    assert tops == {tuple(BOX), tuple(ELSEWHERE), (0, 0, 5, 5)}
    for r in drawn[:20]:
        assert (np.diff(r["box_scores"][:3]) >= 0).all()
        assert r["entries"][:, 3].tolist() == [3, 3, 3]  # all regions of the frame
    metric = _metric(Metric.random([_record()], np.random.default_rng(0)))
    assert metric.result()["missing"] == 0
    assert records[0]["answer_scores"][2] == 2  # the record itself is as it was


def test_answers_for_people(tmp_path):
    lists = [(2, 7, CUP, {0.25: BOX, 0.75: ELSEWHERE}), (2, 13, CUP, {0.5: BOX}),
             (2, 13, DOOR, {0.4: BOX}), (2, 7, 0, {0.9: BOX}), (1, 7, 9, {0.9: BOX})]  # fmt: skip
    words = write_json(tmp_path / "words.json", {"<unk>": 0, "door": DOOR})
    metric = _metric([_record(lists=lists)], word2idx=str(words))
    assert metric.answers() == [
        "17: Where is the cup ?",
        "  answer: choice number 2 (64.9%)",
        "  moment: 2.00 to 6.00 s",
        "  cup: [100, 100, 150, 150] in frame 7 (2.00 s), score 0.750",
        "  door: [1, 2, 90, 80] in frame 13 (4.00 s), score 0.400",
    ]
    ranked = metric.answers(3)
    assert len(ranked) == 7
    assert ranked[2:4] == ["  answer: choice number 0 (8.8%)", "  answer: choice number 1 (8.8%)"]
    assert _metric([_record(lists=lists)]).answers()[-1].startswith("  word 8: ")
    with pytest.raises(DataError, match=r"gone\.json"):
        _metric([_record()], word2idx=str(tmp_path / "gone.json")).answers()


def test_a_raw_video_brings_its_own_reference(tmp_path):
    own = {k: v for k, v in _unanswered().items() if k != "qid"} | {"choices": ["yes", "no"]}
    few = {"answer_scores": np.array([0.0, 1.0]), "spans": np.ones((2, 2), int),
           "span_probs": np.zeros((2, 15, 2))}  # fmt: skip
    metric = Metric()
    metric.update([_record("my.mp4#0", lists=[(1, 7, CUP, {0.5: BOX})], reference=own, **few)])
    assert metric.answers()[:3] == [
        "my.mp4#0: Where is the cup ?", "  answer: no (73.1%)", "  moment: 2.00 to 4.00 s",
    ]  # fmt: skip
    document = json.loads(metric.write(tmp_path, "STAGE", "infer").read_text())
    assert document["ts_answer"] == {"my.mp4#0": [[2, 4], 1]}
    assert document["raw_bbox"][0]["1"][0]["qid"] == "my.mp4#0"
    (page,) = metric.pages()
    assert [c["text"] for c in page["choices"]] == ["yes", "no"]
    assert "correct" not in page["choices"][0]
    with pytest.raises(DataError, match="expected one record of a question"):
        metric.update([_record("my.mp4#0", reference=own, **few)])


def test_page_of_a_question():
    probabilities = np.zeros((5, 15, 2), np.float32)
    probabilities[2, 1] = 0.5, 0.25
    lists = [(2, 7, CUP, {0.25: BOX, 0.75: ELSEWHERE}), (2, 7, CUP, {0.5: BOX}), (2, 13, CUP, {}),
             (2, 19, 0, {0.9: BOX}), (0, 19, CUP, {0.9: BOX})]  # fmt: skip
    (page,) = _metric([_record(lists=lists, span_probs=probabilities)]).pages()
    json.dumps(page)
    assert (page["id"], page["title"], page["note"]) == ("17", "Where is the cup ?", "clip_a")
    assert (page["video"], page["duration"]) == ("clip_a", 30.0)
    assert [c["predicted"] for c in page["choices"]] == [c["correct"] for c in page["choices"]]
    assert page["choices"][2]["text"] == "choice number 2" and page["choices"][2]["correct"] is True
    assert sum(c["score"] for c in page["choices"]) == pytest.approx(1)
    assert page["moments"] == [
        {"label": "predicted", "start": 2.0, "end": 6.0},
        {"label": "ground truth", "start": 2.0, "end": 6.0},
    ]
    start, end = page["curves"]
    assert (start["label"], start["times"][:2], start["values"][:2]) == ("start", [0, 2], [0, 0.5])
    assert (end["label"], end["values"][1], len(end["times"])) == ("end", 0.25, 15)
    assert page["subtitles"] == [{"start": 1.5, "text": "Mug : hi ."}]
    assert [(f["index"], f["time"]) for f in page["frames"]] == [(7, 2.0), (13, 4.0)]
    assert page["frames"][0]["boxes"] == [
        {"box": ELSEWHERE, "label": "cup", "score": 0.75, "kind": "predicted"},
        {"box": BOX, "label": "cup", "score": None, "kind": "truth"},
        {"box": BOX, "label": "gizmo", "score": None, "kind": "truth"},
    ]
    assert [b["kind"] for b in page["frames"][1]["boxes"]] == ["truth"]


def _frames(record, **changes):
    (page,) = _metric([record], {"17": _reference(**changes)}).pages()
    return [frame["index"] for frame in page["frames"]]


def test_frames_of_a_page():
    many = [(2, frame, CUP, {0.5: BOX}) for frame in range(1, 91, 6)]
    assert _frames(_record(lists=many)) == [1, 7, 19, 25, 31, 37, 49, 55, 61, 67, 79, 85]
    assert _frames(_record(lists=many[:3], answer=0)) == [1, 7, 13]  # those of the right answer
    assert _frames(_record(lists=[], span=(3, 5))) == [19, 25, 31]  # those of the moment
    assert len(_frames(_record(lists=[], span=(0, 14)))) == 12


def test_pages_of_several_questions_and_of_a_result_file(tmp_path):
    references = {str(q): _reference(q) for q in (17, 18, 19)}
    metric = _metric([_record("19"), _record("18")], references)
    assert [page["id"] for page in metric.pages()] == ["18", "19"]
    assert [page["id"] for page in metric.pages(1)] == ["18"]
    again = _metric(Metric.read(metric.write(tmp_path, "STAGE", "test")), references)
    page = next(again.pages())
    assert (page["curves"], page["choices"][2]["score"]) == ([], None)
    assert [c["predicted"] for c in page["choices"]] == [False, False, True, False, False]
    assert [frame["index"] for frame in page["frames"]] == [7, 13]
    assert again.answers()[1] == "  answer: choice number 2"


def test_report_for_people():
    lines = _metric([_record(lists=[(2, 7, CUP, {0.5: BOX, 0.4: ELSEWHERE})])]).report()
    assert lines == [
        "answers: 1 predicted, 0 missing",
        "QA accuracy 100.00%, temporal mIoU 100.00%, both (IoU >= 0.5) 100.00%",
        "grounding mAP 50.00% over 1 labels",
        "  cup: AP 50.00%, 2 true boxes, 1 found, 1 wrong",
    ]


def test_scoring_needs_no_heavy_package():
    code = ("import sys, metrics; metrics.get_metrics('STAGE'); "
            "print([m for m in ('paddle', 'h5py', 'cv2') if m in sys.modules])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    assert metrics.get_metrics("stage") is Metric


@pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="needs the validation file of TVQA+")
def test_the_truth_as_prediction():
    from tests.parity.stage_evaluation import references

    truth = references(ANNOTATIONS / "tvqa_plus_val.json.gz", ANNOTATIONS / "word2idx.json.gz")
    records = []
    for name, reference in truth.items():
        boxes = [(f, w, box) for f, listed in reference["objects"].items() for _, w, box in listed]
        entries = [(reference["answer"], frame, word, 1) for frame, word, _ in boxes]
        records.append({
            "id": name, "answer": reference["answer"], "seconds": reference["moment"],
            "entries": np.array(entries, np.int64).reshape(-1, 4),
            "boxes": np.array([box for *_, box in boxes], float).reshape(-1, 4),
            "box_scores": np.ones(len(boxes)),
        })  # fmt: skip
    result = _metric(records, truth).result()
    assert (result["qa_acc"], result["missing"]) == (1.0, 0)
    assert result["miou"] == pytest.approx(0.999337089824, abs=1e-12)
    assert result["ans_span_joint_acc@.5"] == pytest.approx(0.999337089824, abs=1e-12)
    assert result["overall_map"] == pytest.approx(0.9991, abs=3e-4)
