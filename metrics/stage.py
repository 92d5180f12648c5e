# SPDX-License-Identifier: Apache-2.0
"""Accuracy, temporal overlap and grounding of STAGE on TVQA+, and its published result file.

A record holds the network's scores of five answers, the best span and the start and end
probabilities of each, and scored boxes of object words. Of a network that generates answers it
holds the text, one span, boxes of the question's words, and likelihoods of the five answers.
Source: arXiv:1904.11574, section 5; inference.py and eval_tvqa_plus.py of
github.com/jayleicn/TVQAplus; the generative mode is our own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .common import evidence_files, evidence_pages
from .common.errors import DataError
from .common.evidence import (
    CHOICES,
    FPS,
    Evidence,
    Prediction,
    array,
    box_arrays,
    frame_time,
    span_seconds,
)
from .common.evidence_texts import TextEvidence, frequent, with_text
from .common.files import write_json
from .common.generation import JavaMeteor

_LABELS_REPORTED = 10
_TEXT_REPORT = (
    "generated: exact match {exact_match:.2%}, token F1 {token_f1:.2%}, BLEU-4 {BLEU-4:.2%}, "
    "ROUGE-L {ROUGE-L:.2%}, METEOR-lite {METEOR-lite:.2%}, CIDEr-D {CIDEr-D:.3f}"
)


class Metric:
    """Question answering with temporal and spatial evidence.

    Args:
        protocol: "published": a question without a prediction is left out of accuracy and overlaps
            (and reported); "strict": it counts as wrong. To the metrics of generated text it always
            counts, as an empty answer.
        exact_offset: spans start where the first frame lies; the published results round its time
            to whole seconds.
        rescale_long: stretch spans of clips beyond 300 frames to the clip's length, as training
            labels are shrunk; the published results do not.
        word2idx: file {word: id} that names words which the ground truth does not name, in
            answers and pages.
        answers: "choice": one of those given; "text": generated, the likeliest of those given
            counts where a choice is meant (``mc_acc`` instead of ``qa_acc``).
        meteor_jar: meteor-1.5.jar of its authors, to score generated answers by it, too.

    Raises:
        ValueError: an option out of range.
    """

    primary = "qa_acc"
    higher_is_better = True
    columns = ("qa_acc", "miou", "overall_map", "ans_span_joint_acc@.5")  # of a short table

    def __init__(
        self,
        protocol: Literal["published", "strict"] = "published",
        exact_offset: bool = False,
        rescale_long: bool = False,
        word2idx: str | None = None,
        answers: Literal["choice", "text"] = "choice",
        meteor_jar: str | None = None,
    ):
        if answers not in ("choice", "text"):
            raise ValueError(f"answers: expected choice or text, found {answers}")
        self._generative = answers == "text"
        if self._generative:
            self.primary = "CIDEr-D"
            self.columns = ("exact_match", "CIDEr-D", "mc_acc", *self.columns[1:])
            self.frequent = frequent  # a row of tools/baselines.py that choices have not
            self._evidence = TextEvidence(protocol, JavaMeteor(meteor_jar) if meteor_jar else None)
        elif meteor_jar:
            raise ValueError("meteor_jar: expected only with answers text, found it with choice")
        else:
            self._evidence = Evidence(protocol)
        self.exact_offset, self.rescale_long = exact_offset, rescale_long
        self.word2idx = word2idx
        self._outputs: dict[str, dict[str, Any]] = {}  # what pages show besides

    def expect(self, references: Mapping[str, dict]) -> None:
        """Say what is to be answered, {question id: reference}; start afresh.

        A reference has ``vid_name``, ``question``, ``choices``, ``qid`` and, where known,
        ``num_frames``, ``answer``, ``moment`` [start, end] in seconds, ``objects`` {frame id:
        [(label, word id, box), …]} in the order of the file, ``subtitles`` [(second, text), …].
        """
        self._evidence.expect(references)
        self._outputs.clear()

    def update(self, records: Sequence[dict]) -> None:
        """Add records of the network, or those that ``read`` made.

        Raises:
            DataError: unknown or repeated id, missing key, wrong shape, numbers not finite.
        """
        for record in records:
            reference = self._evidence.reference(record)
            if "answer_scores" in record or (self._generative and "seconds" not in record):
                prediction = self._predicted(record, reference)
            else:
                prediction = evidence_files.prediction(record)
            if self._generative:
                prediction = with_text(prediction, record, _count(reference))
            self._evidence.add(record["id"], prediction)

    def result(self) -> dict[str, float]:
        """Numbers in 0…1 (CIDEr-D 0…10), and how many questions are ``missing``."""
        scores = self._evidence.scores()
        rest = [key for key in scores if key not in (*self.columns, "metrics_per_class")]
        out = {key: scores[key] for key in (*self.columns, *rest)}
        return out | {"missing": len(self._evidence.missing())}

    def details(self) -> dict[str, Any]:
        """The published result: all numbers, and ``metrics_per_class`` of every label."""
        return dict(self._evidence.scores())

    def report(self) -> list[str]:
        """Main numbers in per cent, and the average precision of the most frequent labels."""
        scores = self._evidence.scores()
        labels = sorted(scores["metrics_per_class"].values(), key=lambda c: -c["n_positives"])
        accuracy = "QA accuracy {qa_acc:.2%}"
        if self._generative:
            accuracy = "accuracy of the likeliest candidate {mc_acc:.2%}"
        lines = [
            f"answers: {len(self._evidence.predictions)} predicted, "
            f"{len(self._evidence.missing())} missing",
            f"{accuracy.format(**scores)}, temporal mIoU {scores['miou']:.2%}, both "
            f"(IoU >= 0.5) {scores['ans_span_joint_acc@.5']:.2%}",
            f"grounding mAP {scores['overall_map']:.2%} over {len(labels)} labels",
        ]
        if self._generative:
            lines.insert(1, _TEXT_REPORT.format(**scores))
        lines += [
            f"  {c['label']}: AP {c['ap']:.2%}, {c['n_positives']} true boxes, {c['n_tp']} found, "
            f"{c['n_fp']} wrong"
            for c in labels[:_LABELS_REPORTED]
        ]
        return lines

    def answers(self, topk: int | None = None) -> list[str]:
        """Per question: the best answers, the span, and the best box of every object word.

        Or the generated answer, the span, the boxes, and the likeliest candidates.
        """
        names = self._word_names()
        lines = []
        for name, reference, found in self._evidence.predicted():
            lines.append(f"{name}: {reference.get('question', '')}")
            choices = self._choices(name, found, reference)
            choices.sort(key=lambda c: (not c["predicted"], -(c["score"] or 0)))
            label = "candidate" if found.generated else "answer"
            ranked = [f"  {evidence_pages.line(label, c)}" for c in choices[: topk or 1]]
            if found.generated:
                answer = evidence_pages.sentence(found.generated.answer)
                lines.append(f"  answer: {answer} (score {found.generated.score:.2f})")
            else:
                lines += ranked
            if found.span is not None:
                lines.append("  moment: {:.2f} to {:.2f} s".format(*found.span))
            for word, frame, score, box in evidence_pages.top_boxes(found, names):
                corners = ", ".join(f"{c:.0f}" for c in box)
                lines.append(f"  {word}: [{corners}] in frame {frame} ({frame_time(frame):.2f} s), "
                             f"score {score:.3f}")  # fmt: skip
            if found.generated:
                lines += ranked
        return lines

    def write(
        self, folder: str | os.PathLike, model_name: str, mode: str, topk: int | None = None
    ) -> Path:
        """Write ``<valid or test>_inference_predictions.json`` and return its path.

        "valid" when the answers are known; then ``valid_metrics_per_class.json`` with ``details``
        is written beside it. The published names depend on neither ``model_name`` nor ``mode``,
        and the file holds one answer, whatever ``topk``. Generated answers come into
        ``<valid or test>_generative_predictions.json``, whose path is then the returned one.
        """
        split = "valid" if self._evidence.has_answers else "test"
        if self._evidence.has_answers:
            write_json(Path(folder) / f"{split}_metrics_per_class.json", self.details(), indent=1)
        path = Path(folder) / f"{split}_inference_predictions.json"
        write_json(path, evidence_files.document(self._evidence))
        if self._generative:
            path = path.with_name(f"{split}_generative_predictions.json")
            write_json(path, evidence_files.generated_document(self._evidence))
        return path

    @staticmethod
    def read(path: str | os.PathLike) -> list[dict]:
        """Records of either result file, .json or .json.gz; spans are taken as written.

        Raises:
            DataError: the file is missing, not of that form, or has a question twice.
        """
        return evidence_files.read(path)

    @staticmethod
    def random(
        records: Sequence[dict], rng: np.random.Generator, texts: Sequence[str] = ()
    ) -> list[dict]:
        """The same records with everything drawn by lot.

        Answers are uniform, so is every pair of first <= last frame; every word attends all regions
        of its frame with uniform scores (random attention).
        Generated answers are drawn from ``texts``, by default from those of the records.
        """
        texts = texts or [record["answer"] for record in records if "answer" in record]
        return [record | _drawn(record, rng, texts) for record in records]

    def pages(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Descriptions of up to ``limit`` predicted questions for a page with pictures.

        Yields:
            ``id``, ``title``, ``note``, ``choices``, ``duration`` s, ``moments``, ``curves`` (start
            and end probability of the predicted answer), ``frames`` with boxes, ``subtitles``,
            ``video``.
        """
        names = self._word_names()
        for n, (name, reference, found) in enumerate(self._evidence.predicted()):
            if limit is not None and n >= limit:
                return
            outputs = self._outputs.get(name, {})
            yield {
                "id": name,
                "title": reference.get("question", ""),
                "note": reference["vid_name"],
                "choices": self._listed(name, found, reference),
                "duration": (reference.get("num_frames") or outputs.get("frames", [0])[-1]) / FPS,
                "moments": evidence_pages.moments(found, reference),
                "curves": _curves(outputs),
                "frames": evidence_pages.frames(
                    found, reference, names, outputs.get("span_frames", [])
                ),
                "subtitles": [
                    {"start": start, "text": text} for start, text in reference.get("subtitles", [])
                ],
                "video": reference["vid_name"],
            }

    def _predicted(self, record: Mapping[str, Any], reference: Mapping[str, Any]) -> Prediction:
        """What the network says; the rest of its outputs is kept for pages."""
        count = _count(reference)
        rows = 1 if self._generative else count
        scores = array(record, "answer_scores", (count,)) if count else np.zeros(0)
        frames = array(record, "image_indices", (None,), np.int64).tolist()
        spans = array(record, "spans", (rows, 2), np.int64)
        probabilities = array(record, "span_probs", (rows, len(frames), 2))
        if not frames:
            raise DataError(f"record {record['id']}: expected image_indices, found an empty list")
        length = reference.get("num_frames") if self.rescale_long else 0
        if length is None:
            raise DataError(f"record {record['id']}: rescale_long needs num_frames; switch it off")
        answer = int(scores.argmax()) if count else None
        row = 0 if self._generative else answer
        first, last = spans[row].tolist()
        span = span_seconds(first, last, frames[0], exact=self.exact_offset, clip_frames=length)
        self._outputs[record["id"]] = {
            "choices": _shares(scores),
            "frames": frames,
            "span_frames": frames[first : last + 1],
            "curves": probabilities[row].T.tolist(),
        }
        return Prediction(answer, span, **box_arrays(record))

    def _choices(
        self, name: str, found: Prediction, reference: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """{text, score (None from a result file), predicted, correct (when known)} of each."""
        texts = reference.get("choices", [f"choice {k}" for k in range(CHOICES)])
        scores = self._outputs.get(name, {}).get("choices", [None] * len(texts))
        if found.generated:
            scores = _shares(found.generated.means)
        out = []
        for k, (text, score) in enumerate(zip(texts, scores, strict=True)):
            choice = {"text": text, "score": score, "predicted": k == found.answer}
            if "answer" in reference:
                choice["correct"] = k == reference["answer"]
            out.append(choice)
        return out

    def _listed(
        self, name: str, found: Prediction, reference: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """What a page lists under answers."""
        choices = self._choices(name, found, reference)
        if found.generated:
            return evidence_pages.generated_first(found.generated.answer, choices)
        return choices

    def _word_names(self) -> dict[int, str]:
        return evidence_pages.word_names(self._evidence.references.values(), self.word2idx)


def _count(reference: Mapping[str, Any]) -> int:
    """Number of answers to choose from."""
    return len(reference.get("choices", range(CHOICES)))


def _shares(scores: np.ndarray) -> list[float]:
    """Softmax of scores; of none there are none."""
    exponentials = np.exp(scores - scores.max(initial=-np.inf))
    return (exponentials / exponentials.sum()).tolist()


def _curves(outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Start and end probabilities over time."""
    times = [frame_time(frame) for frame in outputs.get("frames", ())]
    return [
        {"label": label, "times": times, "values": values}
        for label, values in zip(("start", "end"), outputs.get("curves", ()), strict=False)
    ]


def _drawn(
    record: Mapping[str, Any], rng: np.random.Generator, texts: Sequence[str]
) -> dict[str, Any]:
    """Parts of a record, drawn by lot."""
    choices, count = len(record["answer_scores"]), len(record["image_indices"])
    pairs = np.column_stack(np.triu_indices(count))  # first <= last
    images, counts = record["region_frames"].T
    parts = np.split(record["regions"], np.cumsum(counts)[:-1])
    regions = dict(zip(images.tolist(), parts, strict=False))
    entries, boxes = record["entries"].copy(), [np.zeros((0, 4))]
    for row in entries:
        boxes.append(rng.permutation(regions[row[1]]))
        row[3] = len(boxes[-1])
    scores = [np.sort(rng.random(count)) for count in entries[:, 3]]
    drawn = {
        "entries": entries,
        "answer_scores": rng.random(choices).astype(np.float32),
        "spans": pairs[rng.integers(len(pairs), size=len(record["spans"]))],
        "span_probs": np.full(record["span_probs"].shape, 1 / count, np.float32),
        "boxes": np.concatenate(boxes),
        "box_scores": np.concatenate([np.zeros(0), *scores]).astype(np.float32),
    }
    if "answer" in record:
        drawn["answer_scores_sum"] = rng.random(choices).astype(np.float32)
        drawn["answer"] = texts[rng.integers(len(texts))]
    return drawn
