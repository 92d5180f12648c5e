# SPDX-License-Identifier: Apache-2.0
"""The published result file of TVQA+, and a file of generated answers.

{"ts_answer": {qid: [[start, end], answer]}, "raw_bbox": [{"0": entries of answer 0, …}, …]} with a
list element per question, an entry being {"pred": scores, "bbox": boxes, "word": word id, "qid",
"vid_name", "img_idx": frame id}. ``raw_bbox`` is empty when the network does not look at regions.
Source: inference.py of github.com/jayleicn/TVQAplus.

Boxes of a generated answer belong to the question and are written under every answer. The answers
themselves are {qid: {"answer": text, "score": log-probability, "mc_scores": mean log-likelihoods
of the candidates, "mc_answer": the likeliest of them or null, "span": [start, end]}}.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import DataError
from .evidence import ANY_ANSWER, CHOICES, Evidence, Prediction, array, box_arrays
from .files import read_json


def document(evidence: Evidence) -> dict[str, Any]:
    """Contents of the result file for all predictions."""
    answers, boxes = {}, []
    for name, reference, found in evidence.predicted():
        if found.answer is not None:
            answers[name] = [list(found.span), found.answer]
        choices = max(CHOICES, len(reference.get("choices", ())))  # a raw video's may be more
        lists: dict[str, list] = {str(k): [] for k in range(choices)}
        origin = {"qid": reference.get("qid", name), "vid_name": reference["vid_name"]}
        for answer, frame, word, corners, scores in found.lists():
            entry = {"pred": scores.tolist(), "bbox": corners.tolist(), "word": word}
            for key in lists if answer == ANY_ANSWER else (str(answer),):
                lists[key].append(entry | origin | {"img_idx": frame})
        boxes.append(lists)
    return {"ts_answer": answers, "raw_bbox": boxes if any(map(_entries, boxes)) else []}


def generated_document(evidence: Evidence) -> dict[str, Any]:
    """Contents of the file of generated answers for all predictions."""
    return {
        name: {
            "answer": found.generated.answer,
            "score": found.generated.score,
            "mc_scores": found.generated.means.tolist(),
            "mc_answer": found.answer,
            "span": list(found.span),
        }
        for name, _, found in evidence.predicted()
    }


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Records of a result file or of a file of generated answers, .json or .json.gz.

    Returns:
        a record per question: ``id``, ``answer`` (the chosen one) and ``seconds`` where it has
        them, ``entries``, ``boxes`` and ``box_scores`` as a network's records have them; with
        ``generated``, what a network's record says of a generated answer.

    Raises:
        DataError: the file is missing, is not of that form, or has a question twice.
    """
    whole = read_json(path)
    if isinstance(whole, dict) and whole and not {"ts_answer", "raw_bbox"} & whole.keys():
        return [_generated(path, name, found) for name, found in whole.items()]
    if not isinstance(whole, dict) or not {"ts_answer", "raw_bbox"} <= whole.keys():
        raise DataError(
            f"{path}: expected an object with ts_answer and raw_bbox, or one with generated "
            "answers, found neither"
        )
    records = {}
    try:
        for name, (seconds, answer) in whole["ts_answer"].items():
            records[name] = {"id": name, "answer": answer, "seconds": seconds} | no_boxes()
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{path}: expected ts_answer {{qid: [[start, end], answer]}}") from None
    seen = set()
    for number, lists in enumerate(whole["raw_bbox"]):
        try:
            name, arrays = _arrays(lists)
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path}: raw_bbox[{number}]: expected entries of one question under "
                            f"0 … {CHOICES - 1}, found: {error!r}") from None  # fmt: skip
        if name in seen:
            raise DataError(f"{path}: raw_bbox[{number}]: question {name} is there already")
        if name is not None:  # without an entry there is no telling whose list it is
            seen.add(name)
            records[name] = records.get(name, {"id": name}) | arrays
    return list(records.values())


def prediction(record: Mapping[str, Any]) -> Prediction:
    """Of a record made by ``read``.

    Raises:
        DataError: wrong shapes, numbers that are not finite, or an answer that does not exist.
    """
    arrays = box_arrays(record)
    if "answer" not in record:
        return Prediction(None, None, **arrays)
    answer = record["answer"]
    if answer not in range(CHOICES):
        raise DataError(
            f"record {record['id']}: expected an answer from 0 to {CHOICES - 1}, found {answer}"
        )
    start, end = array(record, "seconds", (2,)).tolist()
    return Prediction(int(answer), (start, end), **arrays)


def no_boxes() -> dict[str, np.ndarray]:
    """What a record says of boxes when there are none."""
    return {
        "entries": np.zeros((0, 4), np.int64),
        "boxes": np.zeros((0, 4)),
        "box_scores": np.zeros(0),
    }


def _generated(path: str | os.PathLike, name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Record of a generated answer."""
    try:
        text = {
            "id": name,
            "answer": found["answer"],
            "answer_logp": found["score"],
            "answer_scores": found["mc_scores"],
        }
        chosen = {"id": name, "answer": found["mc_answer"], "seconds": found["span"]}
    except (LookupError, TypeError) as error:
        raise DataError(
            f"{path}: question {name}: expected answer, score, mc_scores, mc_answer and span, "
            f"found: {error!r}"
        ) from None
    return chosen | {"generated": text} | no_boxes()


def _entries(lists: Mapping[str, list]) -> list[tuple[int, dict]]:
    """(answer, entry) of a question."""
    return [(k, entry) for k in range(CHOICES) for entry in lists[str(k)]]


def _arrays(lists: Mapping[str, list]) -> tuple[str | None, dict[str, np.ndarray]]:
    """Id of the question, None when it has no entry; and what a record says of boxes."""
    entries = _entries(lists)
    names = {str(entry["qid"]) for _, entry in entries}
    if len(names) > 1:
        raise ValueError(f"those of questions {', '.join(sorted(names))}")
    rows, boxes, scores = [], [], []
    for k, entry in entries:
        if len(entry["bbox"]) != len(entry["pred"]):
            raise ValueError(f"{len(entry['bbox'])} boxes and {len(entry['pred'])} scores")
        rows.append((k, entry["img_idx"], entry["word"], len(entry["bbox"])))
        boxes += entry["bbox"]
        scores += entry["pred"]
    return next(iter(names), None), {
        "entries": np.array(rows, np.int64).reshape(-1, 4),
        "boxes": np.array(boxes, np.float64).reshape(-1, 4),
        "box_scores": np.array(scores, np.float64),
    }
