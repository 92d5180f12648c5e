# SPDX-License-Identifier: Apache-2.0
"""How golden numbers of the TVQA+ evaluation are checked."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metrics.common.boxes import Boxes, average_precisions, box_iou
from metrics.common.files import read_json
from metrics.common.grounding import span_iou
from metrics.stage import Metric

if TYPE_CHECKING:
    from tools.parity import Case

_TOLERANCE, _AP_TOLERANCE = 1e-9, 1e-7
_STRAIGHT = str.maketrans("‘’“”", "''\"\"")


def references(questions: Path, word2idx: Path) -> dict[str, dict[str, Any]]:
    """References of an annotation file with answers."""
    words = read_json(word2idx)
    return {str(q["qid"]): _reference(q, words) for q in read_json(questions)}


def _reference(question: Mapping[str, Any], words: Mapping[str, int]) -> dict[str, Any]:
    objects: dict[int, list] = {}
    for frame, boxes in question["bbox"].items():
        objects[int(frame)] = found = []
        for box in boxes:
            label = box["label"].lower().translate(_STRAIGHT)
            left, top = box["left"], box["top"]
            corners = [left, top, left + box["width"], top + box["height"]]
            found.append((label, words.get(label, 0), corners))
    return {
        "vid_name": question["vid_name"],
        "qid": question["qid"],
        "question": question["q"],
        "choices": [question[f"a{k}"] for k in range(5)],
        "answer": int(question["answer_idx"]),
        "moment": question["ts"],
        "objects": objects,
    }


def _scored(truth: Mapping[str, dict], predictions: Path) -> Metric:
    metric = Metric()
    metric.expect(truth)
    metric.update(metric.read(predictions))
    return metric


def _numbers(case: Case, group: str, metric: Metric, golden: Mapping[str, Any]) -> None:
    """Every number of ``golden``."""
    result = metric.result()
    for key, value in golden.items():
        tolerance = _AP_TOLERANCE if key == "overall_map" else _TOLERANCE
        case.close(f"{group}{key}", result[key], value, tolerance)


def _classes(case: Case, metric: Metric, golden: Mapping[str, Mapping[str, Any]]) -> None:
    """Every number of some labels."""
    ours = metric.details()["metrics_per_class"]
    for label, values in golden.items():
        for key, value in values.items():
            if key in ("ap", "precisions", "recalls"):
                case.close(f"{label}/{key}", ours[label][key], value, _AP_TOLERANCE)
            else:
                case.equal(f"{label}/{key}", ours[label][key], value)


def evaluation(case: Case) -> None:
    """Predictions for the real validation questions."""
    golden, path = case.json, case.file(".json.gz")
    if case.annotations is None:
        case.fail("annotations", "needs --annotations DIR")
        return
    folder = case.annotations / case.entry["annotations"]
    truth = references(folder / "tvqa_plus_val.json.gz", folder / "word2idx.json.gz")
    metric, written = _scored(truth, path), read_json(path)
    for key in ("ts_answer", "raw_bbox"):
        case.equal(f"n_{key}", len(written[key]), golden[f"n_{key}"])
    case.equal("n_classes", len(metric.details()["metrics_per_class"]), golden["n_classes"])
    _classes(case, metric, golden["per_class_ap"])
    rest = {k for k in golden if not k.startswith("n_")} - {"per_class_ap"}
    _numbers(case, "", metric, {k: golden[k] for k in sorted(rest)})


def units(case: Case) -> None:
    """Overlaps and average precision: three keys of the case's file."""
    golden = case.json
    for n, item in enumerate(golden["eval_boxlist_iou"]):
        a, b = (np.array(item[k], np.float32).reshape(-1, 4) for k in "ab")
        ours = box_iou(a[:, None], b[None])
        case.close(f"eval_boxlist_iou/{n}", ours, item["iou"], _TOLERANCE)
    for n, item in enumerate(golden["eval_temporal_iou"]):
        ours = span_iou(item["pred"], item["gt"])
        case.close(f"eval_temporal_iou/{n}", ours, item["iou"], _TOLERANCE)
    for n, item in enumerate(golden["voc_ap"]):
        _voc_ap(case, f"voc_ap/{n}", item)


def _voc_ap(case: Case, group: str, item: Mapping[str, Any]) -> None:
    known = {"gt", "pred", "map", "map_11point", "ap", "n_tp", "n_fp"}
    case.equal(f"{group}/keys", set(item), known)
    truth, found = _table(item["gt"]), _table(item["pred"])
    ours = average_precisions(truth, found)
    case.equal(f"{group}/labels", {str(label) for label in ours}, set(item["ap"]))
    for key in ("ap", "n_tp", "n_fp"):
        for label, value in item[key].items():
            case.close(f"{group}/{key}/{label}", ours[int(label)][key], value, _AP_TOLERANCE)
    for key, eleven_point in (("map", False), ("map_11point", True)):
        scores = average_precisions(truth, found, eleven_point=eleven_point)
        mean = np.mean([s["ap"] for s in scores.values()])
        case.close(f"{group}/{key}", mean, item[key], _AP_TOLERANCE)


def _table(images: list[dict[str, list]]) -> Boxes:
    """Boxes of images as the golden file has them."""
    counts = [len(image["boxes"]) for image in images]
    labels, boxes, scores = (
        [value for image in images for value in image.get(key, ())]
        for key in ("labels", "boxes", "scores")
    )
    box = np.array(boxes, np.float64).reshape(-1, 4)
    image = np.repeat(np.arange(len(images)), counts)
    return Boxes(image, np.array(labels, np.int64), box, np.array(scores, np.float64))


def data_metrics(case: Case) -> None:
    """Result file and scores of the small data set."""
    truth = references(case.file("raw/valid.json"), case.file("raw/word2idx.json"))
    path = case.file("_valid_inference_predictions.json")
    metric = _scored(truth, path)
    with tempfile.TemporaryDirectory() as folder:
        written = metric.write(folder, "stage", "test")
        case.equal("file read and written", read_json(written), read_json(path))
        case.equal("its name", path.name.endswith(written.name), True)
    golden = case.tracked("_valid_metrics.json")
    labels = golden["metrics_per_class"]
    case.equal("labels", set(metric.details()["metrics_per_class"]), set(labels))
    _classes(case, metric, labels)
    rest = {k: golden[k] for k in sorted(set(golden) - {"metrics_per_class"})}
    _numbers(case, "metrics/", metric, rest)
    _numbers(case, "valid_metrics/", metric, case.tracked("_e2e.json")["valid_metrics"])
