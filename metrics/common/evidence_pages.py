# SPDX-License-Identifier: Apache-2.0
"""Evidence as people read it: boxes of words by name, frames of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import generation
from .evidence import ANY_ANSWER, UNKNOWN_WORD, Prediction, frame_time
from .files import read_json

_FRAMES_SHOWN = 12


def word_names(references: Iterable[Mapping[str, Any]], word2idx: str | None) -> dict[int, str]:
    """Word id -> text, from a {word: id} file, labels of true boxes and own ``words``.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    names = {i: word for word, i in read_json(word2idx).items()} if word2idx else {}
    for reference in references:
        names |= reference.get("words", {})
        for objects in reference.get("objects", {}).values():
            names |= {word: label for label, word, _ in objects}
    return names


def best_boxes(prediction: Prediction, answer: int | None) -> dict[int, dict[int, tuple]]:
    """Frame id -> word id -> (score, box) of the best box of every word of an answer but <unk>.

    A frame whose entries hold no box is there, too.
    """
    out: dict[int, dict[int, tuple]] = {}
    for k, frame, word, boxes, scores in prediction.lists():
        if k not in (answer, ANY_ANSWER) or word == UNKNOWN_WORD:
            continue
        best = out.setdefault(frame, {})
        if len(scores) and (word not in best or scores.max() > best[word][0]):
            best[word] = (float(scores.max()), boxes[scores.argmax()].tolist())
    return out


def frames(
    prediction: Prediction,
    reference: Mapping[str, Any],
    names: Mapping[int, str],
    otherwise: Iterable[int] = (),
) -> list[dict[str, Any]]:
    """Frames of a page with their boxes, at most 12 spread evenly.

    Those with entries of the predicted answer, else of the right one, else those of ``otherwise``.
    """
    best = best_boxes(prediction, prediction.answer)
    best = best or best_boxes(prediction, reference.get("answer"))
    ids = sorted(best) or list(otherwise)
    if len(ids) > _FRAMES_SHOWN:
        ids = [ids[i] for i in np.linspace(0, len(ids) - 1, _FRAMES_SHOWN).round().astype(int)]
    out = []
    for frame in ids:
        boxes = [
            {"box": box, "label": name_of(word, names), "score": score, "kind": "predicted"}
            for word, (score, box) in best.get(frame, {}).items()
        ]
        for label, _, box in reference.get("objects", {}).get(frame, ()):
            boxes.append({"box": list(box), "label": label, "score": None, "kind": "truth"})
        out.append({"index": frame, "time": frame_time(frame), "boxes": boxes})
    return out


def name_of(word: int, names: Mapping[int, str]) -> str:
    """Text of a word id."""
    return names.get(word, f"word {word}")


def top_boxes(
    prediction: Prediction, names: Mapping[int, str]
) -> list[tuple[str, int, float, list[float]]]:
    """(word, frame id, score, box) of the best box of every word of the predicted answer."""
    top: dict[int, tuple[float, int, list[float]]] = {}
    for frame, words in best_boxes(prediction, prediction.answer).items():
        for word, (score, box) in words.items():
            if word not in top or score > top[word][0]:
                top[word] = (score, frame, box)
    return [(name_of(w, names), frame, score, box) for w, (score, frame, box) in top.items()]


def line(label: str, choice: Mapping[str, Any]) -> str:
    """A choice with its score, where it has one."""
    score = "" if choice["score"] is None else f" ({choice['score']:.1%})"
    return f"{label}: {choice['text']}{score}"


def sentence(answer: str) -> str:
    """A generated answer as people read it."""
    return answer[:1].upper() + answer[1:] or "(nothing)"


def generated_first(answer: str, candidates: Sequence[Mapping]) -> list[dict[str, Any]]:
    """Choices of a page: the generated answer as the predicted one, then the candidates.

    It is correct when it equals the correct candidate but for case and punctuation.
    """
    first = {"text": sentence(answer), "score": None, "predicted": True}
    for candidate in candidates:
        if candidate.get("correct"):
            same = map(generation.normalise, (answer, candidate["text"]))
            first["correct"] = len({*same}) == 1
    rest = {"score": None, "predicted": False}  # of a generated one there is no share to compare
    return [first, *({**c, "text": line("candidate", c), **rest} for c in candidates)]


def moments(prediction: Prediction, reference: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Predicted and true span of a page, seconds."""
    spans = {"predicted": prediction.span, "ground truth": reference.get("moment")}
    return [
        {"label": label, "start": float(span[0]), "end": float(span[1])}
        for label, span in spans.items() if span is not None
    ]  # fmt: skip
