# SPDX-License-Identifier: Apache-2.0
"""How the golden numbers of STAGE's reader are checked; the system's other checks build on it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reader.common.tvqa_plus_frames import (
    frame_grid,
    label_matrix,
    nearest_sentences,
    overlaps,
    reaches,
    time_label,
)
from reader.common.tvqa_plus_samples import attention_positives
from reader.common.tvqa_plus_store import pack
from reader.stage import Reader

if TYPE_CHECKING:
    from tools.parity import Case

SPLITS = ("train", "valid", "test")
_FILES = {
    "subtitles": "sub.json",
    "word2idx": "word2idx.json",
    "object_vocab": "eval_object_vocab.json",
    "frm_cnt": "frm_cnt.json",
    "qa_bert": "qa_bert.h5",
    "sub_bert": "sub_bert.h5",
    "vcpt": "vcpt.json",
    "vfeat": "vfeat.h5",
}
_FEATURES = ("qa_bert", "sub_bert", "vcpt", "vfeat")
_LIMITS = ("max_qa_l", "max_sub_l", "max_vid_l", "max_vcpt_l")


def package(case: Case) -> dict[str, Any]:
    """Reader options of a case's data set, for all splits; with `annotations` besides."""
    config = case.tracked("data_e2e.json")["config"]
    sizes = ("embedding_size", "vfeat_size", "num_region", "att_iou_thd", *_LIMITS)
    options = {name: str(case.file(f"raw/{file}")) for name, file in _FILES.items()}
    return options | {name: config[name] for name in sizes}


def annotations(case: Case, split: str) -> str:
    """The questions of a split."""
    return str(case.file(f"raw/{split}.json"))


def packed(case: Case, folder: str | Path) -> dict[str, Any]:
    """As ``package``, with the features in a store that is written to ``folder``."""
    options = package(case)
    pack(folder, **{name: Path(options.pop(name)) for name in _FEATURES})
    return options | {"store": str(folder)}


def data(case: Case) -> None:
    """Every sample of every split and the clipped batches, from the package and from a store."""
    limits = {name: case.tracked("data_e2e.json")["clip"][name] for name in _LIMITS}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in (("h5", package(case)), ("store", packed(case, folder))):
            for split in SPLITS:
                shared = {"annotations": annotations(case, split), **options}
                _samples(case, f"{name} {split}", split, Reader(split, **shared))
                _clipped(case, f"{name} {split}", split, shared | limits)


def _samples(case: Case, group: str, split: str, reader: Reader) -> None:
    golden = case.tracked("data_samples.json")[split]
    case.equal(f"{group} samples", len(reader), len(golden))
    for i, sample in enumerate(golden):
        where, item = f"{group} {sample['qid']}", reader[i]
        exact, close = _described(case, reader, i, item)
        for key, expected in sample.items():
            if key in exact:
                case.equal(f"{where} {key}", exact[key], expected)
            elif key in close:
                case.close(f"{where} {key}", close[key], expected, 1e-5)
            elif key == "att_labels":
                _labels(case, where, reader, i, expected)
            else:
                case.fail(f"{where} {key}", "key was not checked")


def _described(case: Case, reader: Reader, i: int, item: dict) -> tuple[dict, dict]:
    """What the golden file says of a sample: keys to be equal, and float sums."""
    question, source = reader.source.questions[i], reader.source
    grid, pieces = source.grid(question), item["pieces"]
    counts = item["region_counts"].tolist()
    labels = _region_labels(case, question.video, grid.ids, counts)
    boxes = [box.tolist() for box in source.boxes(question, grid)]
    exact = {
        "qid": int(item["id"]),
        "vid_name": question.video,
        "anno_st_idx": grid.first,
        "ts_label": list(item["label"]),
        "ts": question.moment and list(question.moment),
        "image_indices": grid.ids.tolist(),
        "boxes": None if reader.training else boxes,
        "target": item["target"],
        "q_l": len(question.words()),
        "qas": [source.ids(question.words(k)).tolist() for k in range(5)],
        "sub": [source.ids(pieces.words[s]).tolist() for s in pieces.index],
        "object_labels": labels,
        "vcpt": [source.ids([label.split()[-1] for label in of]).tolist() for of in labels],
        "sub_bert_lengths": [sum(map(len, pieces.rows[s])) for s in pieces.index],
        "vfeat_lengths": counts,
    }
    ends = np.cumsum(counts)
    rows = np.split(item["regions"], ends[:-1])
    statements = [np.concatenate([item["question"], answer]) for answer in item["answers"]]
    close = {
        "sub_bert_sums": [sum(map(_total, pieces.rows[s])) for s in pieces.index],
        "vfeat_sums": [_total(values) for values in rows],
        "qas_bert_sums": [_total(values) for values in statements],
    }
    return exact, close


def _total(rows: np.ndarray) -> float:
    return float(rows.sum(dtype=np.float64))


def _region_labels(case: Case, video: str, ids: np.ndarray, counts: list[int]) -> list[list[str]]:
    """Labels of the regions of a sample, from the raw file: the network does not read them."""
    found = json.loads(case.file("raw/vcpt.json").read_text())[video]["object"]
    return [found[i - 1][:n] for i, n in zip(ids.tolist(), counts, strict=True)]


def _matrices(reader: Reader, i: int) -> list[np.ndarray] | None:
    """Attention labels of a question; None without an answer."""
    question = reader.source.questions[i]
    if question.answer is None:
        return None
    words = question.words(question.answer)
    positives = attention_positives(reader.source, question, words, reader.att_iou_thd)
    return [label_matrix(positive) for positive in positives]


def _labels(case: Case, where: str, reader: Reader, i: int, golden: list) -> None:
    ours = _matrices(reader, i)
    if ours is None:  # the original keeps zeros of an arbitrary shape for questions without answer
        case.equal(f"{where} att_labels", float(np.abs(golden).sum()), 0.0)
        return
    case.equal(f"{where} att_labels", [len(m) for m in ours], [len(m) for m in golden])
    for k, (matrix, expected) in enumerate(zip(ours, golden, strict=True)):
        case.close(f"{where} att_labels/{k}", matrix, expected, 1e-6)


def _clipped(case: Case, group: str, split: str, options: dict[str, Any]) -> None:
    """The first samples of a split as one batch."""
    z = case.tracked("data_e2e.npz")
    golden = z.under(f"clip/{split}/")
    reader, evaluated = Reader(split, **options), Reader("valid", **options)
    size = len(golden["target"])
    batch = reader.collate([reader[i] for i in range(size)])
    batch["qas"] = evaluated.collate([evaluated[i] for i in range(size)])["qas"]
    ours = batch | _by_frame(batch) | _word_ids(case, reader, size, options)
    for key, value in golden.items():
        case.equal(f"{group} clip/{key}", ours[key], value)
        case.equal(f"{group} clip/{key} type", ours[key].dtype, value.dtype)
    _label_shapes(case, group, split, reader, size)


def _by_frame(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    """Subtitle pieces repeated for every frame that they belong to."""
    rows, real = np.arange(len(batch["sub_index"]))[:, None], batch["ts_label_mask"]
    return {
        "sub_bert": batch["sub_bert"][rows, batch["sub_index"]] * real[..., None, None],
        "sub_mask": batch["sub_mask"][rows, batch["sub_index"]] * real[..., None],
    }


def _word_ids(case: Case, reader: Reader, size: int, options: dict) -> dict[str, np.ndarray]:
    """Ids of subtitle words and region labels, which are not part of our batches."""
    described = [_described(case, reader, i, reader[i])[0] for i in range(size)]
    limits = {"sub": options["max_sub_l"], "vcpt": options["max_vcpt_l"]}
    ids = {key: [sample[key] for sample in described] for key in limits}
    found = {key: _pad(ids[key], options["max_vid_l"], limit) for key, limit in limits.items()}
    ones = [[[1] * len(row) for row in sample] for sample in ids["vcpt"]]
    mask = _pad(ones, options["max_vid_l"], limits["vcpt"])
    return found | {"vcpt_mask": mask.astype(np.float32)}


def _pad(samples: list[list[list[int]]], frames: int, words: int) -> np.ndarray:
    """(N, frames, words), padded to the longest and then clipped."""
    width = max(len(row) for sample in samples for row in sample)
    out = np.zeros((len(samples), max(map(len, samples)), width), np.int64)
    for n, sample in enumerate(samples):
        for f, row in enumerate(sample):
            out[n, f, : len(row)] = row
    return out[:, :frames, :words]


def _label_shapes(case: Case, group: str, split: str, reader: Reader, size: int) -> None:
    golden = case.tracked("data_samples.json")[f"{split}_clip_att_labels_shapes"]
    for i, expected in zip(range(size), golden, strict=True):
        ours = _matrices(reader, i)
        if ours is not None:
            shapes = [[min(len(m), reader.max_qa_l), m.shape[1]] for m in ours]
            case.equal(f"{group} clip/att_labels/{i}", shapes[: reader.max_vid_l], expected)


def units(case: Case) -> None:
    """Frame ids, time labels, subtitle matching and the IoU of attention labels."""
    golden = case.tracked("units.json")
    for k, unit in enumerate(golden["get_all_img_ids"]):
        grid = frame_grid(unit["start"], unit["end"], unit["num_frames"])
        case.equal(f"get_all_img_ids/{k}", grid.ids.tolist(), unit["indices"])
        ends = (unit["start_idx"], unit["end_idx"])
        case.equal(f"get_all_img_ids/{k} ends", (grid.first, grid.last), ends)
    for k, unit in enumerate(golden["get_ts_label"]):
        label = time_label((unit["st"], unit["ed"]), unit["num_frame"], np.array(unit["indices"]))
        case.equal(f"get_ts_label/{k}", list(label), unit["label"])
    for k, unit in enumerate(golden["find_match_nearest"]):
        chosen = nearest_sentences(unit["sub_time"], np.array([unit["value"]]))[0]
        case.equal(f"find_match_nearest/{k}", chosen.tolist(), unit["nearest"])
    for k, unit in enumerate(golden["train_iou"]):
        iou = overlaps(np.array([unit["a"]]), np.array([unit["b"]]))
        case.close(f"train_iou/{k}", iou[0, 0], unit["iou"], 1e-12)
        steps = [unit["rounded"] + step for step in (-1e-6, 1e-6)]
        if unit["rounded"] > 0:
            ours = [bool(reaches(iou, step)[0, 0]) for step in steps]
            case.equal(f"train_iou/{k} rounded", ours, [True, False])
