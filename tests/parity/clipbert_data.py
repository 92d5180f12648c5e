# SPDX-License-Identifier: Apache-2.0
"""How the golden numbers of ClipBERT's reader are checked."""

from __future__ import annotations

import json
import random
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.clipbert import pictures
from reader.clipbert import Reader
from reader.common import clips, images
from reader.common.clipbert_rows import Groups, hide_pieces
from reader.common.frame_store import sample_indices
from reader.common.wordpiece import WordPieces, pad_rows

if TYPE_CHECKING:
    from tools.parity import Case, Tracked

RESIZED = 1e-3  # on the scale of 0 to 255
_STRATEGIES = {"start": (0, 3), "middle": (1, 3), "end": (2, 3), "uniform": (0, 1)}
_EARLIER = 1024  # time stamps that the published decoder seeks before a clip


def sampling(case: Case) -> None:
    """Frames of ANetQA, windows of clips, and the frames that a decoder picks."""
    parts = {
        "anetqa_uniform": _uniform,
        "anetqa_uniform_shorter": _uniform,
        "anetqa_rand": _random,
        "get_start_end_idx": _window,
        "temporal_sampling": _spread,
        "decode": _decode,
    }
    for name in parts.keys() & case.json.keys():
        for k, values in enumerate(case.json[name]):
            parts[name](case, f"{name} {k}", _Once(values))


class _Once(dict):
    """A mapping all of whose keys must be taken."""

    def finish(self, case: Case, where: str) -> None:
        for key in self:
            case.fail(f"{where} {key}", "key was not checked")


def _uniform(case: Case, where: str, values: _Once) -> None:
    count, golden = values.pop("num_frames"), values.pop("idx")
    ours = sample_indices(count, values.pop("vlen"))
    case.equal(where, ours[: len(golden)], golden)
    case.equal(f"{where} repeated", ours[len(golden) :], golden[-1:] * (count - len(golden)))
    values.finish(case, where)


def _random(case: Case, where: str, values: _Once) -> None:
    count, length = values.pop("num_frames"), values.pop("vlen")
    ours = sample_indices(count, length, random.Random(values.pop("python_random_seed")))
    case.equal(where, ours, values.pop("idx"))
    edges = values.pop("interval_edges")
    inside = [a <= i < b for i, (a, b) in zip(ours, pairwise(edges), strict=True)]
    case.equal(f"{where} edges", inside, [True] * count)
    values.finish(case, where)


def _window(case: Case, where: str, values: _Once) -> None:
    size = values.pop("video_size"), values.pop("clip_size")
    ours = clips.window(*size, *_clip(values))
    case.equal(where, list(ours), [values.pop("start"), values.pop("end")])
    values.finish(case, where)


def _clip(values: _Once) -> tuple[float, int]:
    """Which clip of how many; a random one is clip u of 1."""
    clip = values.pop("clip_idx"), values.pop("num_clips")
    return clip if clip[0] >= 0 else (random.Random(values.pop("python_random_seed")).random(), 1)


def _spread(case: Case, where: str, values: _Once) -> None:
    names = ("start", "end", "num_samples", "n_frames")
    case.equal(where, clips.spread(*(values.pop(name) for name in names)), values.pop("idx"))
    values.finish(case, where)


def _decode(case: Case, where: str, values: _Once) -> None:
    """Frames of a described stream; what was sought there is where the window starts."""
    values.pop("gop")  # distance of key frames, which seeking lands on
    frames, rate = values.pop("stream_frames"), values.pop("average_rate")
    times = np.arange(frames) * values.pop("pts_step")
    duration, seeks = values.pop("stream_duration"), []
    if duration is None:
        _decode_all(case, where, values, frames, rate)
        return
    if values.pop("safeguard_duration", False):
        duration, seeks = clips.trusted_duration(duration, int(times[-1])), [0]
    case.equal(f"{where} duration", duration, values.pop("video_max_pts"))
    count = values.pop("num_frames")
    size = count / values.pop("target_fps") * rate
    strategy = values.pop("sampling_strategy", None)
    if strategy == "uniform":
        size = frames
    if strategy == "rand":
        clip = random.Random(values.pop("python_random_seed")).random(), 1
        case.equal(f"{where} start", clips.window(frames, size, *clip)[0],
                   values.pop("random_start_idx"))  # fmt: skip
    elif strategy:
        clip = _STRATEGIES[strategy]
    else:
        clip = _clip(values)
    ours = clips.clip_frames(times, duration, size, count, *clip)
    if strategy == "uniform":  # from the first to the last one of those that are there
        kept = clips.clip_frames(times, duration, frames, frames, *clip)[-1] + 1
        ours = clips.spread(0, kept - 1, count, kept)
    case.equal(where, ours, values.pop("picked_frame_index"))
    start = int(clips.window(frames, size, *clip)[0] * (duration / frames))
    case.equal(f"{where} seek", [*seeks, max(start - _EARLIER, 0)], values.pop("seek_offsets"))
    values.finish(case, where)


def _decode_all(case: Case, where: str, values: _Once, frames: int, rate: float) -> None:
    """Without a stated duration: all frames are decoded, then chosen by their number."""
    values.pop("video_max_pts"), values.pop("safeguard_duration", None)
    count, strategy = values.pop("num_frames"), values.pop("sampling_strategy", None)
    size = count / values.pop("target_fps") * rate
    if strategy == "rand":
        clip = random.Random(values.pop("python_random_seed")).random(), 1
        case.equal(f"{where} start", clips.window(frames, size, *clip)[0],
                   values.pop("random_start_idx"))  # fmt: skip
    else:
        clip = _STRATEGIES[strategy] if strategy else _clip(values)
    size = frames if strategy == "uniform" else size
    ours = clips.spread(*clips.window(frames, size, *clip), count, frames)
    case.equal(where, ours, values.pop("picked_frame_index"))
    case.equal(f"{where} seek", {*values.pop("seek_offsets")} <= {0}, True)
    values.finish(case, where)


def grouping(case: Case) -> None:
    """Groups of examples by video, and which video a row is about."""
    golden = case.json
    golden.note("note")
    counts = golden.plain("input_counts")
    names = [f"{video}-{k}" for video, count in counts.items() for k in range(count)]
    for k, values in enumerate(map(_Once, golden["groups"])):
        where = f"groups {k}"
        video = np.repeat(np.arange(len(counts)), list(counts.values()))
        groups = Groups(video, values.pop("max_n_example_per_group"))
        rng, filled = random.Random(values.pop("python_random_seed")), values.pop("is_train")
        rows = [groups.filled(i, rng) if filled else groups.rows(i) for i in range(len(groups))]
        ours = [[list(counts)[groups.video[i]], [names[row] for row in each]]
                for i, each in enumerate(rows)]  # fmt: skip
        case.equal(where, ours, values.pop("groups"))
        values.finish(case, where)
    for k, values in enumerate(map(_Once, golden["repeat_tensor_rows"])):
        counts, rows = values.pop("counts"), values.pop("rows")
        ours = np.repeat(np.arange(len(counts)), counts).tolist()
        if sum(counts) == len(counts) and 0 in counts:  # not repeated there, by mistake
            case.equal(f"repeat {k} (published)", rows, list(range(len(counts))))
            rows = [i for i, n in enumerate(counts) for _ in range(n)]
        case.equal(f"repeat {k}", ours, rows)
        values.finish(case, f"repeat {k}")


def mlm_masking(case: Case) -> None:
    """Hidden pieces, with and without [CLS] and [SEP]."""
    z, meta = case.npz, case.json
    meta.note("semantics", "vocab_size")
    ids, read = z["in/input_ids"], z["in/attention_mask"].astype(bool)
    case.equal("padding", read, ids != meta["pad_token_id"])
    draws = np.stack([z[f"in/u_{name}"] for name in ("select", "replace", "random")])
    ends = np.zeros_like(read)
    ends[:, 0] = True
    ends[np.arange(len(ids)), read.sum(1) - 1] = True
    for name, may_hide in (("fast", read), ("slow", read & ~ends)):
        hidden, labels = hide_pieces(
            ids, may_hide, draws, z["in/random_words"], meta["mask_token_id"],
            meta["mlm_probability"],
        )  # fmt: skip
        case.equal(f"{name} input_ids", hidden, z[f"out/{name}/input_ids"])
        case.equal(f"{name} labels", labels, z[f"out/{name}/labels"])


def tokenizer(case: Case) -> None:
    """Pieces and ids of texts, and of questions with options."""
    golden, path = case.tracked("encode.json"), case.file("vocab.txt")
    vocabulary, names = WordPieces(path), path.read_text(encoding="utf-8").split("\n")
    for text, pieces in golden["tokens"].items():
        ours = [names[i] for i in vocabulary.encode(text, 10**6)[1:-1]]
        case.equal(f"pieces of {text[:20]!r}", ours, pieces)
    for k, values in enumerate(map(_Once, golden["encodings"])):
        values.pop("rust_tokenizer_agrees", None)  # of the published code's two tokenizers
        _rows(case, f"encodings {k}", vocabulary, values.pop("texts"), values)
    asked = _Once(golden.plain("multiple_choice"))
    texts = [f"{asked['question']} {option}" for option in asked.pop("options")]
    asked.pop("question")
    _rows(case, "multiple choice", vocabulary, texts, asked)


def _rows(case: Case, where: str, vocabulary: WordPieces, texts: list[str], values: _Once) -> None:
    length = values.pop("max_length")
    rows = [vocabulary.encode(text, length) for text in texts]
    ids, mask = pad_rows(rows, vocabulary.pad, length)
    case.equal(f"{where} ids", ids.tolist(), values.pop("input_ids"))
    case.equal(f"{where} mask", mask.tolist(), values.pop("attention_mask"))
    values.finish(case, where)


def preprocess(case: Case) -> None:
    """Frames fitted into squares, by the reader and by the network, and normalised."""
    import paddle

    z, meta = case.npz, case.json
    mean, deviation = meta["mean"], meta["std"]
    for values in map(_Once, meta["cases"]):
        name, side = values.pop("case"), values.pop("max_img_size")
        frames, padded = z[f"in/{name}/frames"], z[f"out/{name}/padded"]
        case.equal(f"{name} shape", list(frames.shape), values.pop("shape"))
        size = list(images.resized(*frames.shape[2:], side))
        case.equal(f"{name} size", size, values.pop("resize_hw"))
        padding = [0, side - size[1], 0, side - size[0]]
        case.equal(f"{name} padding", padding, values.pop("padding_lrtb"))
        extreme = images.is_extreme(*frames.shape[2:])
        case.equal(f"{name} extreme", extreme, values.pop("extreme_aspect_ratio"))
        ours = images.fit(frames, side)
        small = pictures.resize(paddle.to_tensor(frames), side)
        case.close(f"{name} resized", ours[..., : size[0], : size[1]], z[f"out/{name}/resized"],
                   RESIZED)  # fmt: skip
        case.close(f"{name} resized, network", small.numpy(), z[f"out/{name}/resized"], RESIZED)
        case.close(f"{name} padded", ours, padded, RESIZED)
        case.close(f"{name} padded, network", pictures.pad(small, side).numpy(), padded, RESIZED)
        for where, given in (("", frames), (", from the reader", ours)):
            network = pictures.prepared(paddle.to_tensor(given), side, mean, deviation).numpy()
            case.close(f"{name} normalised{where}", network[:, ::-1], z[f"out/{name}/normalised"],
                       RESIZED)  # fmt: skip
        values.finish(case, name)
    _sizes(case, meta)
    _others(case, z, meta)


def _sizes(case: Case, meta: Tracked) -> None:
    for values in map(_Once, meta["resize_size_table"]):
        height, width, side = values.pop("h"), values.pop("w"), values.pop("max")
        golden, where = values.pop("new_hw"), f"size {height} x {width}"
        case.equal(where, list(images.resized(height, width, side)), golden)
        case.equal(f"{where}, network", list(pictures.resized(height, width, side)), golden)
        values.finish(case, where)
    for values in map(_Once, meta["aspect"]):
        height, width = values.pop("h"), values.pop("w")
        where = f"extreme {height} x {width}"
        case.equal(where, images.is_extreme(height, width), values.pop("extreme"))
        values.finish(case, where)


def _others(case: Case, z: Tracked, meta: Tracked) -> None:
    """A part of larger frames, and frames of 0 to 1."""
    import paddle

    for name in (key[3:-7] for key in list(z) if key.endswith("/frames")):
        golden = z.under(f"out/{name}/resized_sub")
        for part in golden.values():
            frames = z[f"in/{name}/frames"]
            height, width = images.resized(*frames.shape[2:], 448)
            ours = images.fit(frames, 448)[..., :height:29, :width:31]
            case.close(f"{name} resized", ours, part, RESIZED)
    unit = meta["norm01"]
    frames = z["in/norm01/x"]
    flat = paddle.to_tensor(frames.reshape(-1, *frames.shape[-3:]))
    ours = pictures.normalise(flat, unit["mean"], unit["std"]).numpy().reshape(frames.shape)
    case.close("norm01", ours, z["out/norm01/y"], 1e-5)


def check_items(case: Case) -> None:
    """What the reader makes of ANetQA's training questions, one after the other."""
    golden = case.tracked("dataset_items_train.json")
    labels, items = golden.plain("ans2label"), golden["items"]
    words = sorted({word for item in items for word in item["question"].split()})
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / name) for name in ("vocab", "ans2label")}
        texts = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])
        Path(paths["vocab"]).write_text(texts, encoding="utf-8")
        Path(paths["ans2label"]).write_text(json.dumps(labels), encoding="utf-8")
        annotations = str(case.file("data_train.jsonl"))
        reader = Reader("train", annotations=annotations, blind="video", max_img_size=8, **paths)
        case.equal("items", len(reader), len(items))
        for k, values in enumerate(map(_Once, items)):
            _item(case, f"item {k}", reader, k, values)


def _item(case: Case, where: str, reader: Reader, k: int, values: dict[str, Any]) -> None:
    item, rows = reader[k], reader.groups.rows(k)
    (record,) = reader.records.read(rows)
    case.equal(f"{where} video", record.video, values.pop("video"))
    case.equal(f"{where} question", record.text, values["question"])
    case.equal(f"{where} row", rows, [values.pop("question_id")])
    case.equal(f"{where} id", item["id"], [values.pop("qa_id")])
    case.equal(f"{where} label", item["labels"].tolist(), [values.pop("label")])
    text = reader.pieces.encode(values.pop("question"), reader.max_txt_len)
    case.equal(f"{where} pieces", item["rows"], [text])
    values.finish(case, where)


CHECKS = {
    "sampling": sampling,
    "grouping": grouping,
    "mlm_masking": mlm_masking,
    "tokenizer": tokenizer,
    "preprocess": preprocess,
}
