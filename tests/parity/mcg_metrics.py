# SPDX-License-Identifier: Apache-2.0
"""How golden numbers of MCG's metrics are checked: result files in, published numbers out."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metrics.common.files import read_json, write_json
from metrics.common.wups import Wups, shared
from metrics.mcg import Metric

if TYPE_CHECKING:
    from tools.parity import Case

_TOLERANCE = 1e-9
_THRESHOLDS = {"wups0": 0.0, "wups9": 0.9, "wups9bug": 9.0}  # the last one by a slip
_TYPES = ("what", "who", "how", "where", "when")


def _scored(
    task: str, rows: Sequence[dict], seconds: Mapping[str, str] | None = None, **options: Any
) -> tuple[Metric, list[dict], dict[str, Any]]:
    """The metric after it has read a result file; what it writes again, and its scores.json."""
    references = {}
    for row in rows:
        data = row["data"]
        name = str(data["question_id"])
        if task == "nextqa_oe":
            name = f"{Path(data['vid_id']).name}_{name}"
        references[name] = {"video": data["vid_id"], **data, "second": (seconds or {}).get(name)}
    metric = Metric(task, **options)
    metric.expect(references)
    with tempfile.TemporaryDirectory() as folder:
        metric.update(metric.read(write_json(Path(folder) / "results.json", rows)))
        written = metric.write(folder, "mcg", "test")
        return metric, read_json(written), read_json(written.with_name("scores.json"))


# ---- accuracy


def accuracy(case: Case) -> None:
    """Every task and number of processes."""
    for item in case.json["items"]:
        label = f"{item['task']}/{item['case']}/{item['world']}"
        alone = item["world"] == 1
        name = "results" if alone else "results_per_rank"
        known = {"task", "case", "world", "data", "preds", name, "local_metrics", "scores"}
        case.equal(f"{label}/keys", {*item}, known)
        parts = [
            [item[key]] if alone else item[key] for key in (name, "preds", "local_metrics")
        ]
        found = []
        for rank, (rows, predictions, golden) in enumerate(zip(*parts, strict=True)):
            _rows(case, f"{label}/{rank}", rows, predictions, item["data"])
            metric, written, _ = _scored(item["task"], rows)
            last = {row["question_id"]: row for row in rows}
            case.equal(f"{label}/{rank}/result file", written, [*last.values()])
            found.append((len(rows), metric.details()))
            _numbers(case, f"{label}/{rank}", found[-1][1], golden)
        _numbers(case, label, _gathered(found), item["scores"])
        rows = [row for part in parts[0] for row in part]
        if len(rows) == len(item["data"]):  # no question twice: we need no processes
            _numbers(case, f"{label}/whole", _scored(item["task"], rows)[2], item["scores"])


def _rows(
    case: Case, label: str, rows: Sequence[dict], predictions: Sequence, data: Sequence[dict]
) -> None:
    """The rows of a result file are the predictions for the examples."""
    examples = {example["question_id"]: example for example in data}
    ours = [
        {"question_id": number, "answer": answer, "data": examples[number]}
        for number, _, answer in predictions
    ]
    case.equal(f"{label}/rows", ours, rows)


def _gathered(found: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """What the original makes of the numbers of its processes, each with its number of rows."""
    total = sum(count for count, _ in found)
    counts = Counter()
    right = Counter()
    for _, numbers in found:
        for kind in _TYPES:
            _, count = numbers["ratios"][f"{kind}_ratio"]
            counts[kind] += count
            right[kind] += numbers[f"{kind}_acc"] * count
    overall = sum(count * numbers["overall_acc"] for count, numbers in found) / total
    out = {f"{kind}_acc": round(100 * right[kind] / max(1, counts[kind]), 2) for kind in _TYPES}
    ratios = {
        f"{kind}_ratio": [round(100 * counts[kind] / total, 2), counts[kind]] for kind in _TYPES
    }
    return out | {"overall_acc": round(100 * overall, 2), "ratios": ratios}


def _numbers(
    case: Case, label: str, ours: Mapping[str, Any], golden: Mapping[str, Any]
) -> None:
    """All golden numbers, nested ones included, and no others."""
    case.equal(f"{label}/names", {*ours}, {*golden})
    for key, value in golden.items():
        if isinstance(value, Mapping):
            _numbers(case, f"{label}/{key}", ours[key], value)
        else:
            case.close(f"{label}/{key}", ours[key], value, _TOLERANCE)


# ---- WUPS


def wups(case: Case) -> None:
    """Cleaning, single answers, pairs of words, first senses, and means."""
    golden, wups = case.json, shared()
    modes = [key.removeprefix("pairs_") for key in golden if key.startswith("pairs_")]
    case.equal("modes", {*modes}, {"nltk33", "nltk38"})
    _answers(case, wups, golden["items"], modes)
    for word, name in golden["first_synset"].items():
        sense = wups.wordnet.first(word)
        case.equal(f"first sense/{word}", sense and wups.wordnet.name(sense), name)
    for mode in modes:
        for a, b, *similarities in golden[f"pairs_{mode}"]:
            ours = [wups.similarity(a, b, threshold, mode) for threshold in (0.0, 0.9)]
            case.close(f"{mode}/{a} {b}", ours, similarities, _TOLERANCE)
        for name, seconds in (("with", True), ("without", False)):
            _means(case, mode, f"scores_{name}_refs", seconds)


def _answers(case: Case, wups: Wups, items: Sequence[dict], modes: Sequence[str]) -> None:
    """What is made of every answer, and its score whatever the kind of question."""
    for n, item in enumerate(items):
        texts = {"prediction": item["prediction"], "answer": item["data"]["answer"]}
        texts["extra"] = item["extra_reference"]
        lemmas = {
            key: item["lemma_pred" if key == "prediction" else f"lemma_{key}"] for key in texts
        }
        ours = {key: text if text is None else wups.clean(text) for key, text in texts.items()}
        case.equal(f"items/{n}/cleaned", ours, lemmas)
        scores = {
            f"{name}{suffix}_{mode}": None if lemmas[key] is None
            else wups.score(lemmas["prediction"], lemmas[key], threshold, mode)
            for mode in modes
            for name, threshold in _THRESHOLDS.items()
            for key, suffix in (("answer", ""), ("extra", "_extra"))
            if (name, key) != ("wups9bug", "extra")
        }  # fmt: skip
        rest = {"data", "prediction", "extra_reference", "lemma_pred", "lemma_answer"}
        case.equal(f"items/{n}/keys", {*item}, {*scores, "lemma_extra"} | rest)
        for key, score in scores.items():
            if score is None or item[key] is None:
                case.equal(f"items/{n}/{key}", score, item[key])
            else:
                case.close(f"items/{n}/{key}", score, item[key], _TOLERANCE)


def _means(case: Case, mode: str, name: str, seconds: bool) -> None:
    """Of all rows, and as the original has them of the rows of two processes."""
    items = case.json["items"]
    ours = _published(items, seconds, mode)
    _numbers(case, f"{name}/{mode}", ours, case.json.plain(f"{name}_{mode}"))
    if f"{name}_2ranks_{mode}" in case.json:
        golden = case.json.plain(f"{name}_2ranks_{mode}")
        found = any(means == golden for means in _divided(items, seconds, mode))
        case.equal(f"{name}/{mode}/2ranks: one division gives all numbers", found, True)


def _published(items: Sequence[dict], seconds: bool, mode: str, digits: bool = True) -> dict:
    """scores.json, or the numbers before they are rounded."""
    rows = [
        {"question_id": item["data"]["question_id"], "answer": item["prediction"],
         "data": item["data"]}
        for item in items
    ]  # fmt: skip
    known = {
        f"{Path(item['data']['vid_id']).name}_{item['data']['question_id']}":
        item["extra_reference"]
        for item in items if seconds
    }  # fmt: skip
    metric, written, scores = _scored("nextqa_oe", rows, known, wup_mode=mode, compat_alpha9=True)
    assert written == rows
    return scores if digits else metric.details()


def _divided(items: Sequence[dict], seconds: bool, mode: str) -> Iterator[dict[str, float]]:
    """Means weighted by the rows of either process, for every division, the likeliest first.

    How the rows were divided is not in the file.
    """
    likely = len(items) // 2 + 5
    for n in sorted(range(1, len(items)), key=lambda n: abs(n - likely)):
        a, b = (_published(part, seconds, mode, False) for part in (items[:n], items[n:]))
        yield {key: round((n * a[key] + (len(items) - n) * b[key]) / len(items), 2) for key in a}


CHECKS = {"accuracy": accuracy, "wups": wups}
