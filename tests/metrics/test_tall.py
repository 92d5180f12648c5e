# SPDX-License-Identifier: Apache-2.0
"""Recall and result files of TALL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import metrics
from metrics.common.errors import DataError
from metrics.tall import Metric

ROOT = Path(__file__).resolve().parents[2]


WINDOWS = np.array([[1, 129], [101, 229], [301, 429], [301, 557]], float)


def _record(name="a_1_129#0", score=(3, 2, 1, 0), windows=WINDOWS, first=0, **more):
    outputs = np.zeros((len(windows), 3), np.float32)
    outputs[:, 0] = score[: len(windows)]
    record = {"id": name, "video": name.rsplit("_", 2)[0], "sentence_index": int(name[-1])}
    return record | {"windows": windows, "outputs": outputs, "first_window": first} | more


def _metric(references=None, **options):
    metric = Metric(**options)
    moment = {"video": "a", "sentence_index": 0, "moment": [1, 129]}
    metric.expect(references or {"a_1_129#0": moment, "a_301_557#1": _second(moment)})
    return metric


def _second(moment):
    return moment | {"sentence_index": 1, "moment": [301, 557]}


def test_recall_counts_every_query_and_missing_ones_as_wrong(log):
    metric = _metric()
    metric.update([_record()])
    result = metric.result()
    assert result["best_R1_IOU5"] == result["R@1 IoU=0.5"] == 0.5
    assert (result["queries"], result["missing"]) == (2, 1)
    assert "a_301_557#1" in log.text
    metric.update([_record("a_301_557#1")])  # its true window is ranked last
    result = metric.result()
    assert (result["R@1 IoU=0.7"], result["R@5 IoU=0.7"], result["missing"]) == (0.5, 1.0, 0)


def test_blocks_are_joined_in_any_order_and_a_lost_one_is_said():
    whole, parts = _metric(), _metric()
    whole.update([_record(), _record("a_301_557#1")])
    blocks = [_record(name, (3, 2), WINDOWS[:2], 0) for name in ("a_1_129#0", "a_301_557#1")] + [
        _record(name, (1, 0), WINDOWS[2:], 2) for name in ("a_1_129#0", "a_301_557#1")
    ]
    parts.update(blocks[::-1])
    parts.update(blocks[:1])  # again: a padded distributed run repeats records
    assert parts.result() == whole.result()
    broken = _metric()
    broken.update(blocks[2:])
    with pytest.raises(DataError, match="a_1_129#0: expected a block that starts at window 0"):
        broken.result()


def test_predictions_in_double_precision_with_the_published_schema(tmp_path):
    metric = _metric()
    outputs = np.array([[0, 0.1, 0.2], [5, 0.1, 1e-3], [1, 0, 0], [2, 0, 0]], np.float32)
    metric.update([_record() | {"outputs": outputs}])
    path = metric.write(tmp_path / "new", "tall", "infer")
    assert path.name == "TALL_infer_res_.json"
    start, end = 101 + float(np.float32(0.1)), 229 + float(np.float32(1e-3))
    expected = {"version": "VERSION 1.0", "results": {"a": [[0, start, end]]}, "external_data": {}}
    assert path.read_text() == json.dumps(expected, indent=2)
    path = metric.write(tmp_path / "new", "tall", "test")
    document = json.loads(path.read_text())
    assert document["results"] == {"best_R1_IOU5": 0.0, "best_R5_IOU5": 0.5}
    assert [p.name for p in sorted(path.parent.iterdir())] == [
        "TALL_infer_res_.json",
        "TALL_test_res_.json",
    ]


def test_seconds_scores_and_ranks_go_under_external_data(tmp_path):
    metric = Metric(scores=True)
    metric.update([_record("my.mp4#0", fps=25.0, video="my.mp4")])  # no references: a raw video
    document = json.loads(metric.write(tmp_path, "TALL", "infer", topk=2).read_text())
    assert document["results"] == {"my.mp4": [[0, 1.0, 129.0]]}
    assert document["external_data"] == {
        "seconds": {"my.mp4": [[0, 0.0, 128 / 25]]},
        "scores": {"my.mp4": [[0, 3.0]]},
        "topk": {"my.mp4": [[0, [[1.0, 129.0, 3.0], [101.0, 229.0, 2.0]]]]},
    }
    lines = metric.answers(2)
    assert len(lines) == 3
    assert "seconds    4.00 to    9.12" in lines[2]


def test_report_has_the_published_wording():
    metric = _metric(ious=(0.5,), topn=(5, 1))
    metric.update([_record(), _record("a_301_557#1")])
    assert metric.report() == [
        "1 / 1",
        "a IoU= 0.5, R@5: 1.0; IoU= 0.5, R@1: 0.5",
        " IoU= 0.5, R@5: 1.0; IoU= 0.5, R@1: 0.5",
        "best_R1_IOU5:  0.500",
        "",
        "best_R5_IOU5:  1.000",
        "",
    ]
    assert metric.answers()[0] == (
        "movie_name: a, sentence_id: 0, pred_start_time: 1.0, pred_end_time: 129.0, "
        "gt_start_time: 1.0, gt_end_time: 129.0"
    )


def test_clamp_cuts_to_the_video():
    truth = {"video": "a", "sentence_index": 0, "moment": [1, 100], "num_frames": 100}
    for clamp, expected in ((False, 0.0), (True, 1.0)):
        metric = _metric({"a_1_100#0": truth}, clamp=clamp)
        wide = np.array([[-900, 900]], float)
        metric.update([_record("a_1_100#0", windows=wide)])
        assert metric.result()["best_R1_IOU5"] == expected
    del truth["num_frames"]
    metric = _metric({"a_1_100#0": truth}, clamp=True)
    metric.update([_record("a_1_100#0", windows=wide)])
    with pytest.raises(DataError, match="movie_length_info"):
        metric.result()


def test_nothing_to_score_and_queries_without_windows(log):
    assert _metric({"x#0": {"video": "x", "sentence_index": 0}}).result()["best_R1_IOU5"] == 0.0
    assert "nothing to score" in log.text
    metric = _metric()
    metric.update([_record(windows=WINDOWS[:0]), _record("a_301_557#1")])
    assert metric.result()["best_R5_IOU5"] == 0.5
    assert [found["id"] for found in metric.moments()] == ["a_301_557#1"]
    assert "a_1_129#0: no candidate window" in log.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "b_1_2#0"}, "b_1_2#0: expected one of the 2 queries"),
        ({"outputs": np.full((4, 3), np.nan)}, "a_1_129#0: expected finite outputs"),
        ({"outputs": np.zeros((3, 3))}, "expected as many outputs as windows, found 3 and 4"),
        ({"outputs": np.zeros((4, 2))}, r"expected windows \[T, 2\]"),
        ({"first_window": None}, "two indices"),
    ],
)
def test_faulty_records(change, message):
    with pytest.raises(DataError, match=message):
        _metric().update([_record() | change])
    incomplete = _record()
    del incomplete["windows"]
    with pytest.raises(DataError, match="a_1_129#0: expected the key windows"):
        _metric().update([incomplete])


def test_options_out_of_range():
    with pytest.raises(ValueError, match="topn"):
        Metric(topn=(0, 5))


def test_registry_folds_names_and_lists_what_exists():
    assert metrics.get_metrics("TALL") is metrics.get_metrics("Tall") is Metric
    assert "tall" in metrics.list_metrics() and "common" not in metrics.list_metrics()
    for name in ("nothing", "../tall", "common"):
        with pytest.raises(metrics.UnknownMetric, match="tall") as caught:
            metrics.get_metrics(name)
        assert caught.value.exit_code == 2


def test_scoring_needs_no_paddle():
    code = "import sys, metrics; metrics.get_metrics('tall'); print('paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
