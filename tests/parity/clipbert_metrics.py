# SPDX-License-Identifier: Apache-2.0
"""How golden numbers of ClipBERT's metrics are checked: result files in, published numbers out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from metrics.clipbert import Metric
from metrics.common.answers import percentage
from metrics.common.errors import DataError
from metrics.common.files import read_json, write_json
from reader.clipbert import Reader

if TYPE_CHECKING:
    from tools.parity import Case

_TOLERANCE = 1e-9


def _scored(task: str, references: Mapping[str, dict], results: Any, **options: Any) -> Metric:
    """The metric after it has read a result file, which it must be able to write again."""
    with tempfile.TemporaryDirectory() as folder:
        if labels := options.pop("labels", None):
            options["ans2label"] = str(write_json(Path(folder) / "ans2label.json", labels))
        metric, again = Metric(task, **options), Metric(task, **options)
        metric.expect(references)
        metric.update(metric.read(write_json(Path(folder) / "results.json", results)))
        again.expect(references)
        again.update(again.read(metric.write(folder, "clipbert", "test")))
        if task != "retrieval":  # whose files are rounded
            assert again.result() == metric.result()
    return metric


def _written_scores(metric: Metric) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return read_json(metric.write(folder, "clipbert", "test").with_name("scores.json"))


def _numbers(case: Case, group: str, ours: Mapping[str, Any], golden: Mapping[str, Any]) -> None:
    """All golden numbers, nested ones included."""
    for key, value in golden.items():
        if isinstance(value, Mapping):
            case.equal(f"{group}/{key} (names)", set(ours[key]), set(value))
            _numbers(case, f"{group}/{key}", ours[key], value)
        else:
            case.close(f"{group}/{key}", ours[key], value, _TOLERANCE)


# ---- ANetQA


def _anetqa(questions: Path) -> dict[str, dict[str, Any]]:
    """References of a raw file with answers."""
    return {
        q["qa_id"]: {key: q[key] for key in ("question", "answer", "taxonomy")}
        for q in read_json(questions)
    }


def eval_res(case: Case) -> None:
    """Numbers of result files; those that the original fails on are errors when strict."""
    references = _anetqa(case.file("qa_val.json"))
    for name, item in case.tracked("eval_res_cases.json").items():
        results = item["results"]
        if "raises" in item:
            _raises(case, name, references, results, item["raises"])
            continue
        for strict in (False, True):
            ours = _scored("anetqa", references, results, strict=strict).result()
            case.equal(f"{name}/missing", ours.pop("missing"), 0)
            case.equal(f"{name}/names in order", [*ours], item["printed_order"])
            case.equal(f"{name}/names", {*ours}, {*item["metrics"]})
            _numbers(case, name, ours, item.plain("metrics"))


def _raises(
    case: Case, name: str, references: Mapping[str, dict], results: Sequence[dict], error: str
) -> None:
    """Strict: an error that names the id. Otherwise missing is wrong and unknown is nothing."""
    culprit = error.removeprefix("KeyError: ").strip("'\"")
    try:
        _scored("anetqa", references, results, strict=True).result()
        case.fail(f"{name}/strict", "expected a DataError, found none")
    except DataError as found:
        case.equal(f"{name}/strict names the id", culprit in str(found), True)
    last = {row["question_id"]: row["answer"] for row in results}
    right = sum(last.get(key) == reference["answer"] for key, reference in references.items())
    ours = _scored("anetqa", references, results).result()
    case.equal(f"{name}/missing", ours["missing"], len(references.keys() - last.keys()))
    case.close(f"{name}/overall", ours["overall"], right / len(references), _TOLERANCE)


def e2e_metrics(case: Case) -> None:
    """The result file of the whole chain: read, scored, and written again."""
    path = case.file("expected_results.json")
    metric = Metric("anetqa")
    metric.expect(_anetqa(case.file("qa_val.json")))
    metric.update(metric.read(path))
    golden = case.tracked("expected_metrics.json").whole()
    case.equal("metrics/names", {*metric.result()}, {*golden, "missing"})
    _numbers(case, "metrics", metric.result(), golden)
    with tempfile.TemporaryDirectory() as folder:
        written = read_json(metric.write(folder, "clipbert", "test"))
    rows = [sorted(rows, key=json.dumps) for rows in (written, read_json(path))]
    case.equal("result file", *rows)


# ---- other tasks


def metrics(case: Case) -> None:
    """Every section of the file."""
    golden = case.json
    labels = golden.plain("frameqa")["ans2label"]
    for item in golden["retrieval"]:
        _retrieval(case, item)
    for task in ("frameqa", "msrvtt_qa", "action", "transition", "vqa"):
        if task in golden:
            _questions(case, task, golden.plain(task))
    options = golden.plain("msrvtt_mc")
    references = {str(n): {"answer": int(answer)} for n, answer in enumerate(options["gt"])}
    chosen = {str(n): answer for n, answer in enumerate(options["pred"])}
    metric = _scored("msrvtt_mc", references, chosen)
    case.equal("msrvtt_mc", _written_scores(metric), options["metrics"])
    for item in golden["rounded_percentage"]:
        case.equal(f"rounded_percentage/{item['x']}", percentage(item["x"]), item["y"])
    _targets(case, golden.plain("vqa_targets"), labels)


def _questions(case: Case, task: str, item: Mapping[str, Any]) -> None:
    """Accuracies, and the ratios of the answer types."""
    case.equal(f"{task}/keys", {*item} - {"ans2label"}, {"data", "results", "metrics"})
    references = {str(line["question_id"]): line for line in item["data"]}
    metric = _scored(task, references, item["results"], labels=item.get("ans2label"))
    ours = metric.details()
    case.equal(f"{task}/names", {*ours}, {*item["metrics"]})
    _numbers(case, task, ours, item["metrics"])


def _retrieval(case: Case, item: Mapping[str, Any]) -> None:
    """A matrix (captions, videos), or rows of a result file."""
    known = {"name", "scores", "rows", "gt", "metrics"}
    case.equal(f"{item['name']}/keys", {*item} - known, set())
    rows = item.get("rows") or [
        {"vid_id": f"v{v}", "txt_id": t, "score": score}
        for t, scores in enumerate(item["scores"])
        for v, score in enumerate(scores)
    ]
    count = 1 + max(row["txt_id"] for row in rows)
    references = {row["vid_id"]: {"texts": [], "captions": [], "count": count} for row in rows}
    for text, video in item["gt"].items():
        references[video]["texts"].append(int(text))
        references[video]["captions"].append(f"caption {text}")
    ours = _scored("retrieval", references, rows).details()
    case.equal(f"{item['name']}/names", {*ours}, {*item["metrics"]})
    _numbers(case, item["name"], ours, item["metrics"])


def _targets(case: Case, item: Mapping[str, Any], labels: Mapping[str, int]) -> None:
    """Soft labels, as the reader gives them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cv2.imwrite(str(folder / "7.png"), np.zeros((32, 32, 3), np.uint8))
        line = {"question": "?", "question_id": 1, "image_id": 7, "labels": item["labels"]}
        (folder / "questions.jsonl").write_text(json.dumps(line))
        (folder / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]")))
        write_json(folder / "ans2label.json", labels)
        reader = Reader(
            "test", task="vqa", images=name, max_img_size=32, vocab=str(folder / "vocab.txt"),
            annotations=str(folder / "questions.jsonl"), ans2label=str(folder / "ans2label.json"),
        )  # fmt: skip
        (ours,) = reader.collate([reader[0]])["labels"]
    case.equal("vqa_targets", ours.tolist(), item["target"])


CHECKS = {"metrics": metrics}
