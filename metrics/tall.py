# SPDX-License-Identifier: Apache-2.0
"""Recall of TALL / CTRL: R@n, IoU=m over moments after non-maximum suppression (frames).

A record holds the network's outputs for all windows of a video (or a block of them) and one query;
boundaries are window + offset, ranked by score. The suppression threshold is ``m - 0.05``, as
published, so recall need not fall as m grows. Source: arXiv:1705.02101, section 4.2.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .common.errors import DataError
from .common.grounding import nms, recall_hits

logger = logging.getLogger("vlzoo")

_NMS_MARGIN = 0.05
_PUBLISHED_IOU = 0.5
_PUBLISHED_TOPN = (5, 1)


class Metric:
    """R@n, IoU=m of temporal grounding.

    Args:
        ious: overlaps to report; 0.5 is always among them.
        topn: ranks to report; 5 and 1 are always among them.
        clamp: cut predicted boundaries to [1, number of frames]; needs ``num_frames`` in references
            or records. The published evaluation does not.
        scores: write the score of every predicted moment under ``external_data``.

    Raises:
        ValueError: an option out of range.
    """

    primary = "best_R1_IOU5"
    higher_is_better = True
    columns = ("R@1 IoU=0.3", "R@1 IoU=0.5", "R@1 IoU=0.7", "R@5 IoU=0.5")  # of a short table

    def __init__(
        self,
        ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7),
        topn: Sequence[int] = (10, 5, 1),
        clamp: bool = False,
        scores: bool = False,
    ):
        self.ious = sorted({*map(float, ious), _PUBLISHED_IOU})
        self.topn = sorted({*map(int, topn), *_PUBLISHED_TOPN}, reverse=True)
        if self.topn[-1] < 1:
            raise ValueError(f"topn: expected numbers from 1, found {self.topn[-1]}")
        self.clamp, self.scores = clamp, scores
        self._references: dict[str, dict] | None = None
        self._blocks: dict[str, dict[int, dict]] = {}
        self._hits: dict[str, tuple[int, np.ndarray]] | None = None

    def expect(self, references: Mapping[str, dict]) -> None:
        """Say what is to be answered, {query id: {video, sentence_index, moment}}; start afresh.

        ``moment`` is (start, end) in frames; without it a query can be predicted but not scored.
        """
        self._references = dict(references)
        self._blocks.clear()
        self._hits = None

    def update(self, records: Sequence[dict]) -> None:
        """Add records; one that arrives again (same id and first window) replaces the former.

        Raises:
            DataError: unknown id, missing key, wrong shape, or outputs that are not finite.
        """
        for record in records:
            name = record.get("id")
            if self._references is not None and name not in self._references:
                raise DataError(
                    f"record {name}: expected one of the {len(self._references)} queries of this "
                    "data set; score predictions with the configuration that made them"
                )
            checked = _checked(record)
            self._blocks.setdefault(name, {})[checked["first_window"]] = checked
        self._hits = None

    def result(self) -> dict[str, float]:
        """Recalls in 0…1, number of ``queries``, and how many of them are ``missing`` (wrong)."""
        hits = self._score()
        total = sum(count for count, _ in hits.values())
        if total == 0:
            logger.warning("nothing to score: expected queries with true moments, found none")
        summed = sum((h for _, h in hits.values()), self._no_hits())
        recall = summed / total if total else summed
        out = {
            f"R@{n} IoU={iou}": float(recall[i, j])
            for i, iou in enumerate(self.ious)
            for j, n in enumerate(self.topn)
        }
        for n in sorted(_PUBLISHED_TOPN):
            out[f"best_R{n}_IOU5"] = out[f"R@{n} IoU={_PUBLISHED_IOU}"]
        return out | {"queries": total, "missing": len(self._missing())}

    def report(self) -> list[str]:
        """Recalls per video and overall, in the published wording."""
        lines = []
        for k, (video, (count, hits)) in enumerate(self._score().items(), 1):
            lines.append(f"{k} / {len(self._hits)}")
            lines += self._recall_lines(video, hits / count)
        result = self.result()
        overall = [[result[f"R@{n} IoU={iou}"] for n in self.topn] for iou in self.ious]
        lines += self._recall_lines("", np.array(overall))
        for name in ("best_R1_IOU5", "best_R5_IOU5"):
            lines += [f"{name}:  {result[name]:.3f}", ""]
        return lines

    def answers(self, topk: int | None = None) -> list[str]:
        """A line per query in the published wording; ranked moments below it, when asked for."""
        lines = []
        for found in self.moments(topk):
            lines.append(_published_line(found))
            if (topk or 1) > 1 or "seconds" in found:
                lines += _ranked_lines(found)
        return lines

    def moments(self, topk: int | None = None) -> list[dict]:
        """Predicted moments, best first, of every query that has a candidate window.

        Returns:
            dicts with ``id``, ``video``, ``sentence_index``, ``moments`` [[start, end, score], ...]
            (frames; one, or up to ``topk``), ``seconds`` [[start, end], ...] where the frame rate
            is known, and ``truth`` [start, end] where the true moment is.
        """
        return list(self._moments(topk or 1))

    def write(
        self, folder: str | os.PathLike, model_name: str, mode: str, topk: int | None = None
    ) -> Path:
        """Write the published result file ``<MODEL_NAME>_<mode>_res_.json`` and return its path.

        Args:
            folder: made when absent.
            model_name: as typed.
            mode: "test" (recalls) or "infer" (one predicted moment per query, frames).
            topk: infer: also the best K moments of every query, under ``external_data``.
        """
        results, external = self._predictions(topk) if mode == "infer" else (self._published(), {})
        document = {"version": "VERSION 1.0", "results": results, "external_data": external}
        path = Path(folder) / f"{model_name.upper()}_{mode}_res_.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(document, indent=2), encoding="utf-8")
        partial.replace(path)
        return path

    @staticmethod
    def random(records: Sequence[dict], rng: np.random.Generator) -> list[dict]:
        """The same records with random scores and no offsets: windows drawn by lot."""
        drawn = []
        for record in records:
            outputs = np.zeros((len(record["windows"]), 3))
            outputs[:, 0] = rng.random(len(outputs))
            drawn.append(record | {"outputs": outputs})
        return drawn

    def _published(self) -> dict[str, float]:
        result = self.result()
        return {name: result[name] for name in ("best_R1_IOU5", "best_R5_IOU5")}

    def _predictions(self, topk: int | None) -> tuple[dict[str, list], dict[str, Any]]:
        """Results and external data, each {video: [[sentence index, ...], ...]}."""
        results: dict[str, list] = {}
        external: dict[str, dict[str, list]] = {"seconds": {}, "scores": {}, "topk": {}}

        def add(table: dict[str, list], found: dict, *values: Any) -> None:
            table.setdefault(found["video"], []).append([found["sentence_index"], *values])

        for found in self.moments(topk):
            start, end, score = found["moments"][0]
            add(results, found, start, end)
            if "seconds" in found:
                add(external["seconds"], found, *found["seconds"][0])
            if self.scores:
                add(external["scores"], found, score)
            if topk:
                add(external["topk"], found, found["moments"])
        return results, {key: table for key, table in external.items() if table}

    def _known(self) -> Mapping[str, dict]:
        """References, or the records' own ids when none were declared."""
        if self._references is not None:
            return self._references
        return {name: next(iter(blocks.values())) for name, blocks in self._blocks.items()}

    def _missing(self) -> list[str]:
        return [name for name in self._references or {} if name not in self._blocks]

    def _no_hits(self) -> np.ndarray:
        return np.zeros((len(self.ious), len(self.topn)))

    def _outputs(self, name: str) -> dict:
        """Blocks of a query joined: ``scores`` [T], ``moments`` [T, 2] float64, fps, num_frames."""
        blocks = [block for _, block in sorted(self._blocks[name].items())]
        seen = 0
        for block in blocks:
            if block["first_window"] != seen:
                raise DataError(
                    f"record {name}: expected a block that starts at window {seen}, found one at "
                    f"{block['first_window']}; part of the predictions is missing"
                )
            seen += len(block["windows"])
        windows = np.concatenate([b["windows"] for b in blocks])
        outputs = np.concatenate([b["outputs"] for b in blocks])
        known = self._known()[name]
        fps, frames = (known.get(k, blocks[0].get(k)) for k in ("fps", "num_frames"))
        moments = windows + outputs[:, 1:]  # float64: single precision would move thresholds
        if self.clamp:
            if not frames:
                raise DataError(
                    f"record {name}: clamp needs the number of frames; set movie_length_info"
                )
            moments = moments.clip(1, frames)
        return {"scores": outputs[:, 0], "moments": moments, "fps": fps}

    def _score(self) -> dict[str, tuple[int, np.ndarray]]:
        """Video -> (number of queries, hits (ious, topn)), in order of first appearance."""
        if self._hits is None:
            missing = self._missing()
            if missing:
                logger.warning(
                    "%d of %d queries have no record and count as wrong, the first is %s",
                    len(missing), len(self._references), missing[0],
                )  # fmt: skip
            videos: dict[str, list[str]] = {}
            for name, reference in self._known().items():
                if "moment" in reference:
                    videos.setdefault(reference["video"], []).append(name)
            self._hits = {v: (len(names), self._video_hits(names)) for v, names in videos.items()}
        return self._hits

    def _video_hits(self, names: list[str]) -> np.ndarray:
        """Hits of one video's queries, (ious, topn)."""
        hits = self._no_hits()
        by_size: dict[int, list[tuple[str, dict]]] = {}
        for name in names:
            if name in self._blocks:
                joined = self._outputs(name)
                by_size.setdefault(len(joined["scores"]), []).append((name, joined))
        for group in by_size.values():
            scores = np.stack([joined["scores"] for _, joined in group])  # (Q, T)
            moments = np.stack([joined["moments"] for _, joined in group])  # (Q, T, 2)
            truth = np.array([self._references[name]["moment"] for name, _ in group], np.float64)
            for i, iou in enumerate(self.ious):
                picks = nms(scores, moments, iou - _NMS_MARGIN, max(self.topn))
                hits[i] += recall_hits(moments, picks, truth, iou, self.topn).sum(1)
        return hits

    def _moments(self, topk: int) -> Iterator[dict]:
        for name, known in self._known().items():
            joined = self._outputs(name) if name in self._blocks else {"scores": ()}
            if len(joined["scores"]) == 0:
                logger.warning("query %s: no candidate window, so nothing is predicted", name)
                continue
            threshold = _PUBLISHED_IOU - _NMS_MARGIN
            picks = nms(joined["scores"][None], joined["moments"][None], threshold, topk)[0]
            moments = joined["moments"][picks]
            found = {"id": name, "video": known["video"], "sentence_index": known["sentence_index"]}
            found["moments"] = np.column_stack([moments, joined["scores"][picks]]).tolist()
            if joined["fps"]:  # frames are counted from 1
                found["seconds"] = ((moments - 1) / joined["fps"]).tolist()
            if "moment" in known:
                found["truth"] = [float(t) for t in known["moment"]]
            yield found

    def _recall_lines(self, video: str, recall: np.ndarray) -> list[str]:
        return [
            f"{video} "
            + "; ".join(
                f"IoU= {iou}, R@{n}: {value}"
                for n, value in zip(self.topn, row.tolist(), strict=True)
            )
            for iou, row in zip(self.ious, recall, strict=True)
        ]


def _published_line(found: dict) -> str:
    start, end, _ = found["moments"][0]
    line = (
        f"movie_name: {found['video']}, sentence_id: {found['sentence_index']}, "
        f"pred_start_time: {start}, pred_end_time: {end}"
    )
    if "truth" in found:
        line += ", gt_start_time: {}, gt_end_time: {}".format(*found["truth"])
    return line


def _ranked_lines(found: dict) -> list[str]:
    lines = []
    for rank, (start, end, score) in enumerate(found["moments"]):
        line = f"  {rank + 1:2}. score {score:8.3f}   frames {start:8.1f} to {end:8.1f}"
        if "seconds" in found:
            line += "   seconds {:7.2f} to {:7.2f}".format(*found["seconds"][rank])
        lines.append(line)
    return lines


def _checked(record: dict) -> dict:
    """The record with arrays of the right type and shape."""
    name = record.get("id")
    try:
        windows = np.asarray(record["windows"], np.float64).reshape(-1, 2)
        outputs = np.asarray(record["outputs"], np.float64).reshape(-1, 3)
        first = int(record["first_window"])
        out = {"video": record["video"], "sentence_index": int(record["sentence_index"])}
    except KeyError as error:
        raise DataError(f"record {name}: expected the key {error.args[0]}, found none") from None
    except (TypeError, ValueError) as error:
        raise DataError(
            f"record {name}: expected windows [T, 2], outputs [T, 3], two indices, found: {error}"
        ) from None
    if len(windows) != len(outputs):
        raise DataError(
            f"record {name}: expected as many outputs as windows, found {len(outputs)} "
            f"and {len(windows)}"
        )
    if not np.isfinite(outputs).all():
        raise DataError(f"record {name}: expected finite outputs, found NaN or infinity")
    known = {key: record[key] for key in ("fps", "num_frames") if record.get(key)}
    return out | {"windows": windows, "outputs": outputs, "first_window": first} | known
