# SPDX-License-Identifier: Apache-2.0
"""How the golden numbers of LLaMA-VQA's reader are checked: tokens, rows, frames, batches."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reader.common.layout import find
from reader.common.llama_frames import RATE, open_source, places
from reader.common.llama_prompts import (
    ANSWER,
    FRAME,
    OBJECTIVES,
    Asked,
    Overflow,
    Prompt,
    encode,
    make_prompt,
    published_fields,
    tidy_question,
)
from reader.common.llama_questions import WITH_DIALOGUE, Question
from reader.common.llama_tokenizer import ANCHORS, PUBLISHED, Tokenizer
from reader.llama_vqa import Reader

if TYPE_CHECKING:
    from tools.parity import Case, Tracked

FILES = {  # of train and val
    "nextqa": ("train.csv", "val.csv"),
    "star": ("STAR_train.json", "STAR_val.json"),
    "dramaqa": ("AnotherMissOhQA_train_set.json", "AnotherMissOhQA_val_set.json"),
    "vlep": ("vlep_train_release.jsonl", "vlep_dev_release.jsonl"),
    "tvqa": ("tvqa_train.jsonl", "tvqa_val.jsonl"),
}
_TYPES = {  # numbers of the published code
    "CH": 1, "CW": 2, "TN": 3, "TC": 4, "TP": 5, "DL": 6, "DC": 7, "DO": 8,
    "Interaction": 1, "Sequence": 2, "Prediction": 3, "Feasibility": 4,
}  # fmt: skip
_FRAMES = 1e-5  # of sums; the values themselves are exact
PLACE = "data/weights/llama/tokenizer.model"
VARIABLE = "VLZOO_LLAMA_TOKENIZER"  # names another one


def _packed(case: Case, ending: str) -> dict[str, Any]:
    with gzip.open(case.file(ending), "rt", encoding="utf-8") as file:
        return json.load(file)


def _prompt(text: dict[str, str], dialogue: bool) -> Prompt:
    assert text["a_text"] == ANSWER
    assert text.keys() <= {"q_text", "o_text", "a_text", "d_text"}
    return Prompt(text["q_text"], text["o_text"], text.get("d_text", "") if dialogue else None)


def _asked(item: dict[str, Any]) -> Asked:
    prompt = _prompt(item["text"], item["dataset"] in WITH_DIALOGUE)
    if item["split"] == "train":
        return Asked(prompt, [item["answer"]])
    return Asked(prompt, range(item["n_options"]), item["answer"])


# ---- tokenizer


def tokenizer(case: Case) -> None:
    """Ids of texts, rows of prompts, and rows that are padded or cut."""
    meta = _packed(case, ".json.gz")
    ours = Tokenizer(case.file(meta.pop("model")))
    case.equal("vocab_size", ours.size, meta.pop("vocab_size"))
    marks = {"bos": ours.begin, "eos": ours.end, "pad": ours._model.pad_id()}
    for name, value in marks.items():
        case.equal(name, value, meta.pop(name))
    anchors = {"Video": ours.video, "Question": ours.question, "Answer": ours.answer,
               "newline": ours.newline}  # fmt: skip
    case.equal("anchors", anchors, meta.pop("anchors"))
    case.equal("pieces", ours.pieces, meta.pop("pieces"))
    _encoded(case, ours, meta.pop("encode"))
    for k, item in enumerate(meta.pop("prompts")):
        _check_prompt(case, ours, item, f"prompts {k}")
    for k, item in enumerate(meta.pop("dialogue_padding")):
        _check_padding(case, ours, item, f"dialogue_padding {k}")
    for key in meta:
        case.fail(key, "key was not checked")


def _encoded(case: Case, ours: Tokenizer, items: list[dict[str, Any]]) -> None:
    for k, item in enumerate(items):
        (ids,) = ours.encode([item["text"]])
        ids = [ours.begin] * item["bos"] + ids + [ours.end] * item["eos"]
        case.equal(f"encode {k}", ids, item["ids"])
        case.equal(f"encode {k} decoded", ours.decode(ids), item["decoded"])
        assert item.keys() == {"text", "bos", "eos", "ids", "decoded"}


def _check_prompt(case: Case, ours: Tokenizer, item: dict[str, Any], where: str) -> None:
    """Rows of one encoder."""
    name, golden = item["fn"].removeprefix("encode_"), dict(item["out"])
    dialogue, objective = name.startswith("d"), name.removeprefix("d")
    assert dialogue == (item["dataset"] in WITH_DIALOGUE)
    found = encode(ours, _asked(item), item["max_feats"], [objective])[objective]
    case.equal(f"{where} ids", found.rows, golden.pop("ids"))
    values = {"prefix_index": found.start, "video_start": found.video_start,
              "prefix_i": found.parts[0], "prefix_main": found.parts[1]}  # fmt: skip
    for key, value in golden.items():
        case.equal(f"{where} {key}", values[key], value)
    assert item.keys() == {"dataset", "fn", "split", "max_feats", "answer", "n_options", "text",
                           "out"}  # fmt: skip


def _check_padding(case: Case, ours: Tokenizer, item: dict[str, Any], where: str) -> None:
    """Rows of a fixed length; ``error`` where the published code fails."""
    unique = item["dataset"] == "vlep" and item["split"] == "train"
    sizes = item["max_feats"], item["max_seq_len"]
    try:
        made = published_fields(ours, _asked(item), *sizes, unique)
    except Overflow:
        made = None
    case.equal(f"{where} fails", made is None, "error" in item)
    for key, golden in item.get("out", {}).items() if made else ():
        field, _, objective = key.partition("/")
        if field == "video_index_first":
            ours_value = int(made["video_index"][objective][0])
        elif field == "video_start":
            ours_value = made[field]
        else:
            ours_value = made[field][objective].tolist()
        case.equal(f"{where} {key}", ours_value, golden)
    known = {"dataset", "split", "max_seq_len", "max_feats", "answer", "n_options", "text"}
    assert item.keys() - known in ({"out"}, {"error"})


# ---- real tokens


def real_tokens(case: Case) -> None:
    """Rows of NExT-QA's validation questions by LLaMA's own tokenizer, if a user has it.

    Without it only places are checked, by the ids of the published tokenizer.
    """
    meta = _packed(case, ".json.gz")
    assert meta.keys() == {"note", "samples"} and meta["samples"]
    known = (os.environ.get(VARIABLE), find(PLACE))
    path = next((p for p in known if p and Path(p).exists()), None)
    encoder = rows = None
    if path is None or case.annotations is None:
        print(f"  texts are not encoded: no {PLACE} (or {VARIABLE}), or no --annotations")
    else:
        encoder = Tokenizer(path)
        case.equal("pieces", encoder.size, PUBLISHED)
        with gzip.open(case.annotations / "nextqa" / "val.csv.gz", "rt", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    words = {"vqa": ("Answer", 5), "vaq": ("Question", 2), "qav": ("Video", 2)}
    for sample in meta["samples"]:
        row = sample["row"]
        start = sample["vqa"].index(FRAME)
        case.equal(f"row {row} video_start", start, sample["video_start"])
        for objective, (word, more) in words.items():
            golden = sample[objective]
            start = golden.index(ANCHORS[word]) + more
            case.equal(f"row {row} {objective}_prefix", start, sample[f"{objective}_prefix"])
        if encoder is not None:
            _real_row(case, encoder, rows[row], sample)
        prefixes = {f"{objective}_prefix" for objective in OBJECTIVES}
        assert sample.keys() == {"row", "video_start", *OBJECTIVES, *prefixes}


def _real_row(case: Case, ours: Tokenizer, row: dict[str, str], sample: dict[str, Any]) -> None:
    prompt = make_prompt(tidy_question(row["question"]), [row[f"a{k}"] for k in range(5)], None)
    for objective, made in encode(ours, Asked(prompt, [int(row["answer"])]), 10).items():
        where = f"row {sample['row']} {objective}"
        case.equal(where, made.rows[0], sample[objective])
        case.equal(f"{where} start", made.start, sample[f"{objective}_prefix"])
        if objective != "qav":
            case.equal(f"{where} video", made.video_start, sample["video_start"])


# ---- data sets


def data(case: Case) -> None:
    """Every item of every data set from made-up raw files."""
    (own,) = (name for name in case.files if name.endswith(".json") and "/" not in name)
    meta = case.tracked(own)
    for name, entry in meta["datasets"].items():
        z = case.tracked(f"_{name}.npz")
        for split, texts in entry["splits"].items():
            reader = _reader(case, name.partition("_")[0], split, entry, meta)
            _check_split(case, reader, z.under(f"out/{split}/"), texts, f"{name} {split}")
            case.equal(f"{name} options", _option_counts(reader), {entry["num_options"]})


def _option_counts(reader: Reader) -> set[int]:
    return {len(question.options) for question in reader.questions}


def _reader(case: Case, dataset: str, split: str, entry: Tracked, meta: Tracked) -> Reader:
    files = {Path(name).name: name for name in case.files}
    wanted = FILES[dataset][split == "val"]
    subtitles = None
    if dataset == "vlep":
        subtitles = str(case.file(f"/{dataset}/vlep_subtitles.jsonl"))
    elif dataset == "tvqa":
        clips = [case.file(name) for name in files.values() if name.endswith(".srt")]
        subtitles = str(clips[0].parent)
    features = str(case.file(f"/{dataset}/clipvitl14.pth"))
    return Reader(
        "train" if split == "train" else "valid", dataset=dataset,
        annotations=str(case.file(f"/{dataset}/{wanted}")),
        features=features, visual_dim=open_source(features).dim,
        tokenizer=str(case.file(meta["tokenizer"])), max_seq_len=entry["max_seq_len"],
        max_feats=meta["max_feats"], sub=entry["sub"], subtitles=subtitles, on_overflow="skip",
    )  # fmt: skip


def _check_split(
    case: Case, reader: Reader, golden: dict[str, np.ndarray], texts: Tracked, where: str
) -> None:
    count, questions = texts["n"], reader.questions
    case.equal(f"{where} n", len(questions), count)
    case.equal(f"{where} vid", [question.video for question in questions], texts["vid"])
    found: dict[str, list] = {}
    for number, question in enumerate(questions):
        prompt = reader.prompt(question)
        _check_texts(case, prompt, question.options, texts["text"][number], f"{where} {number}")
        sizes = reader.max_feats, reader.max_seq_len
        unique = reader.training and reader.dataset == "vlep"
        fields = published_fields(reader.text, _wanted(reader, question), *sizes, unique)
        flat = {f"{field}/{o}": each[o] for field, each in fields.items() for o in each}
        video = reader._frames(question)
        flat |= {"answer": question.answer, "qtype": _TYPES.get(question.kind, -1), "qid": number,
                 "video_first32": video[:, :32], "video_framesum": video.sum(1),
                 "video_len": len(_places(reader, question))}  # fmt: skip
        for key, value in flat.items():
            found.setdefault(key, []).append(value)
    for key, values in golden.items():
        if key == "video_framesum":
            case.close(f"{where} {key}", np.stack(found[key]), values, _FRAMES, _FRAMES)
        elif key in found:
            ours = np.stack([np.asarray(value) for value in found[key]]).astype(values.dtype)
            case.equal(f"{where} {key}", ours, values)
        else:
            case.fail(f"{where} {key}", "key was not checked")
    _check_batches(case, reader, golden, where)


def _places(reader: Reader, question: Question) -> list:
    return places(question, RATE.get(reader.dataset, 1), reader.source, reader.max_feats)


def _check_texts(
    case: Case, prompt: Prompt, options: tuple, golden: dict[str, Any], where: str
) -> None:
    ours = {"q_text": prompt.question, "o_text": prompt.choices, "a_text": ANSWER,
            "options": list(options)}  # fmt: skip
    if prompt.dialogue is not None:
        ours["d_text"] = prompt.dialogue
    case.equal(f"{where} text", {key: ours.get(key) for key in golden}, golden)


def _wanted(reader: Reader, question: Question) -> Asked:
    prompt = reader.prompt(question)
    if reader.training:
        return Asked(prompt, [question.answer])
    return Asked(prompt, range(len(question.options)), question.answer)


def _has_room(reader: Reader, question: Question) -> bool:
    """Does nothing but dialogue have to be cut?"""
    objectives = OBJECTIVES if reader.training else ("vqa",)
    made = encode(reader.text, _wanted(reader, question), reader.max_feats, objectives).values()
    return all(len(row) - len(encoded.dialogue) <= reader.max_seq_len
               for encoded in made for row in encoded.rows)  # fmt: skip


def _check_batches(
    case: Case, reader: Reader, golden: dict[str, np.ndarray], where: str
) -> None:
    """Items in batches are the golden fields without what is padding in the whole batch."""
    numbers = {question.id: number for number, question in enumerate(reader.questions)}
    fitting = [number for number, question in enumerate(reader.questions)
               if _has_room(reader, question)]  # fmt: skip
    if not fitting:  # upstream goes on without labels; ours has no such items
        return
    items = [reader[i] for i in range(len(reader))]
    kept = [numbers[item["id"]] for item in items]
    case.equal(f"{where} rows with room", kept, fitting)
    batch = reader.collate(items)
    length = batch["vqa_ids"].shape[-1]
    objectives = OBJECTIVES if reader.training else ("vqa",)
    case.equal(f"{where} objectives", [o for o in OBJECTIVES if f"{o}_ids" in batch],
               list(objectives))  # fmt: skip
    for objective in objectives:
        nothing = -1 if objective == "qav" else 0
        for ours, field, rest in (("ids", "text_id", 0), ("labels", "label", nothing)):
            key, whole = f"{objective}_{ours}", golden[f"{field}/{objective}"][kept]
            case.equal(f"{where} {key}", batch[key], whole[..., :length])
            only = bool((whole[..., length:] == rest).all())
            case.equal(f"{where} {key}: only padding is cut", only, True)
    case.equal(f"{where} video_start", batch["video_start"], golden["video_start/vqa"][kept])
    if reader.training:
        case.equal(f"{where} qav_start", batch["qav_start"], golden["video_start/qav"][kept])
    case.equal(f"{where} answer", batch["answer"], golden["answer"][kept])
    case.equal(f"{where} video", batch["video"][..., :32], golden["video_first32"][kept])


CHECKS = {"data": data, "tokenizer": tokenizer, "real_tokens": real_tokens}
