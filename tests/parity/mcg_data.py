# SPDX-License-Identifier: Apache-2.0
"""How the golden numbers of MCG's reader are checked: frames, random changes, groups, texts."""

from __future__ import annotations

import csv
import json
import random
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reader.common import augment
from reader.common.clipbert_rows import Groups
from reader.common.mcg_frames import choose_frames
from reader.common.mcg_questions import read_questions
from reader.common.mcg_text import LONGEST_ANSWER, Texts
from reader.common.wordpiece import pad_rows
from reader.mcg import Reader

if TYPE_CHECKING:
    from tools.parity import Case, Tracked

NORMALISED = 1e-5
GEOMETRIC = 1  # of 255: other builds of OpenCV round otherwise
_EXACT = ("Identity", "Contrast", "Brightness", "Sharpness", "HorizontalFlip")


def frame_sampling(case: Case) -> None:
    """Numbers of frames by strategy, or none where the video is too short."""
    for strategy, items in case.json.items():
        for k, item in enumerate(items):
            values = dict(item)
            golden, seed = values.pop("indices"), values.pop("python_random_seed", None)
            draw = random.Random(seed).sample
            try:
                ours = choose_frames(strategy, values.pop("vlen"), values.pop("num_frm"), draw)
            except ValueError:
                ours = None
            case.equal(f"{strategy} {k}", ours, golden)
            for key in values:
                case.fail(f"{strategy} {k} {key}", "key was not checked")


# pictures


def transforms(case: Case) -> None:
    """Random changes, crops, resizing; the network's normalisation."""
    z = case.npz
    case.json.note("kind", "note", "cv2", "numpy", "pillow", "torchvision")
    picture, frames = (z[f"in/{key}"].astype(np.uint8) for key in ("image", "frames"))
    for key in [key for key in z if key.startswith("out/")]:
        kind, *rest = key.split("/")[1:]
        seed = int(rest[0].removeprefix("seed")) if rest and rest[0].startswith("seed") else None
        if kind == "aug":
            level, name = rest
            ours = augment.OPS[name](picture, int(level.removeprefix("M")))
            _picture(case, key, ours, z[key], [name])
        elif kind == "temporal_aug" and rest[1] == "ops":
            case.equal(key, augment.draw_frame_ops(np.random.RandomState(seed)), z[key].tolist())
        elif kind == "temporal_aug":
            ours = augment.augment_frames(frames, np.random.RandomState(seed))
            ops = augment.draw_frame_ops(np.random.RandomState(seed))
            case.equal(f"{key} type", ours.dtype, np.dtype(np.float32))
            _picture(case, key, ours, z[key], ops)
        elif kind == "image_aug":
            ops = augment.draw_picture_ops(np.random.RandomState(seed))
            ours = augment.augment(picture, ops, augment.PICTURE_LEVEL)
            _picture(case, key, ours, z[key], ops)
        elif kind == "crop":
            case.equal(key, _crop(z["in/crop_video"], z[key].shape[-1], seed), z[key])
        elif kind == "resized_crop":
            top, left, height, width, side = z[f"in/resized_crop/{rest[0]}"].tolist()
            part = picture[top : top + height, left : left + width]
            case.equal(key, augment.resize(part, side, side).astype(z[key].dtype), z[key])
        elif kind.startswith("norm_"):
            case.close(key, _normalised(z[f"in/{kind}"]), z[key], NORMALISED, NORMALISED)


def _picture(case: Case, name: str, ours: Any, golden: np.ndarray, ops: list[str]) -> None:
    """Exactly the same, but for changes that move pixels between one another."""
    if set(ops) <= set(_EXACT):
        case.equal(name, np.asarray(ours, golden.dtype), golden)
    else:
        case.close(name, ours, golden, GEOMETRIC)


def _crop(video: np.ndarray, side: int, seed: int) -> np.ndarray:
    top, left = augment.draw_crop(*video.shape[-2:], side, random.Random(seed).randint)
    return video[..., top : top + side, left : left + side]


def _normalised(frames: np.ndarray) -> np.ndarray:
    import paddle

    from models.mcg.model import normalised

    return normalised(paddle.to_tensor(frames)).numpy()


# questions


def grouping(case: Case) -> None:
    """Groups of questions by video, also such that are filled up."""
    meta = case.json
    with tempfile.TemporaryDirectory() as folder:
        lines, table, places = (str(Path(folder) / name) for name in ("q.jsonl", "q.csv", "m.json"))
        _write_lines(lines, meta["in_jsonl"])
        with open(table, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(meta["in_csv"][0]))
            writer.writeheader()
            writer.writerows(meta["in_csv"])
        Path(places).write_text(json.dumps(meta.plain("in_map")), encoding="utf-8")
        questions = {"jsonl": read_questions([lines])}
        questions["csv"] = read_questions([table], places=places)
    for name in (name for name in meta if name.startswith("groups_")):
        form, split, *rest = name.removeprefix("groups_").split("_")
        options = dict(re.fullmatch(r"([a-z]+)(\d+)", part).groups() for part in rest)
        size, rng = int(options.pop("x", 1)), random.Random(int(options.pop("seed", 0)))
        assert not options, name
        ours = _groups(questions[form], size, rng if split == "train" else None)
        case.equal(name, ours, meta[name])


def _write_lines(path: str, rows: list[dict]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _groups(questions: list, size: int, rng: random.Random | None) -> list:
    numbers: dict[str, int] = {}
    video = np.array([numbers.setdefault(q.video, len(numbers)) for q in questions])
    groups, found = Groups(video, size), []
    for i in range(len(groups)):
        rows = groups.rows(i) if rng is None else groups.filled(i, rng)
        name = questions[rows[0]].video
        found.append([name, [_published(questions[row]) for row in rows]])
    return found


def _published(question: Any) -> dict[str, Any]:
    known = {
        "question": question.text, "vid_id": question.video, "answer": question.answer,
        "question_id": int(question.id.rpartition("_")[2]), "answer_type": question.kind,
    }  # fmt: skip
    return known if question.index is None else known | {"index": question.index}


# texts


def text(case: Case) -> None:
    """Pieces of texts, rows of a batch, and texts of answers' pieces."""
    from models.mcg.text import read_pieces

    meta, vocab = case.json, str(case.file(".txt"))
    texts = Texts(vocab)
    case.equal("vocabulary", len(texts.tokens), meta["vocab_size"])
    marks = [texts.tokens.index(mark) for mark in ("[DEC]", "[ENC]")]
    case.equal("marks", marks, [meta["dec_id"], meta["enc_id"]])
    for item in meta["tokenize"]:
        ids = texts.caption(item["text"], 4 + 4 * len(item["text"]))
        case.equal(f"{item['text']!r} ids", ids, item["ids"])
        tokens = [texts.tokens[i] for i in ids[1:-1]]
        case.equal(f"{item['text']!r} tokens", tokens, item["tokens"])
        assert item.keys() == {"text", "ids", "tokens"}
    for name in (name for name in meta if name.startswith("encode_L")):
        length = int(name.removeprefix("encode_L"))
        rows = [texts.caption(item["text"], length) for item in meta["tokenize"]]
        ids, mask = pad_rows(rows, texts.pad, length)
        case.equal(f"{name} ids", ids.tolist(), meta[name]["input_ids"])
        case.equal(f"{name} mask", mask.tolist(), meta[name]["attention_mask"])
        case.equal(f"{name} types", np.zeros_like(ids).tolist(), meta[name]["token_type_ids"])
    for item in meta["decode"]:
        case.equal(f"decode {item['ids']}", read_pieces(item["ids"], texts.tokens), item["text"])
        assert item.keys() == {"ids", "text"}
    for split in ("train", "eval"):
        _collated(case, meta, vocab, split)


def _collated(case: Case, meta: Tracked, vocab: str, split: str) -> None:
    """A batch of questions; in evaluation ours has answers, too, where they are known."""
    given, golden = meta["collate_in"], meta[f"collate_{split}"]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "q.jsonl")
        rows = [{"video_id": "v", "question": g["question"], "answer": g["answer"]} for g in given]
        _write_lines(path, rows)
        reader = Reader(
            "train" if split == "train" else "test", annotations=path, vocab=vocab, blind="video",
            max_txt_len=meta["collate_max_txt_len"], num_frm=1, crop_img_size=4,
        )  # fmt: skip
        batch = reader.collate([reader[i] for i in range(len(reader.groups))])
    where = f"collate_{split}"
    case.equal(f"{where} ids", batch["ids"].tolist(), golden["text_input_ids"])
    case.equal(f"{where} mask", batch["mask"].tolist(), golden["text_input_mask"])
    ids = [given[int(name)]["question_id"] for name in batch["id"]]
    case.equal(f"{where} rows", [ids, ids], [golden["question_ids"], golden["indexes"]])
    golden.note("labels")  # classes, which there are none of
    answers = [golden[f"ans_input_{key}"] for key in ("ids", "mask")] + [golden["answer_targets"]]
    if split == "eval":
        case.equal(f"{where} answers", answers, [None] * 3)
        return
    ours = batch["answer_ids"]
    more = LONGEST_ANSWER - ours.shape[1]  # padding, which upstream does not leave out
    ours = np.pad(ours, ((0, 0), (0, more)), constant_values=reader.texts.pad)
    there = ours != reader.texts.pad
    found = [ours.tolist(), there.astype(int).tolist(), np.where(there, ours, -100).tolist()]
    case.equal(f"{where} answers", found, answers)


CHECKS = {
    "frame_sampling": frame_sampling,
    "transforms": transforms,
    "grouping": grouping,
    "text": text,
}
