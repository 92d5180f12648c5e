# SPDX-License-Identifier: Apache-2.0
"""A made-up data set of two clips in TVQA+'s layout."""

from __future__ import annotations

import json

import numpy as np

from reader.common.tvqa_plus import PUBLISHED

D, V = 6, 4  # widths of word and region features
COUNTS = {"ball": 20, "hall": 310}  # frames of the clips
SUBTITLES = {
    "ball": {
        "sub_text": "Ada : hi . <eos> Ben : a red ball ! <eos> Ada : yes .",
        "sub_time": [0.5, 2.0, 5.0],
    },
    "hall": {"sub_text": "Ben : here we are .", "sub_time": [10.0]},
}
WORDS = ["<unk>", "<pad>", "<eos>", "who", "holds", "the", "ball", "?", "ada", "ben", ".", "what"]


def box(label, left, top, width, height):
    """An annotated box as in the files."""
    return {"label": label, "left": left, "top": top, "width": width, "height": height}


def question(qid, video="ball", answer=1, ts=(1.0, 3.4), bbox=None, **changes):
    """A question as in the files."""
    if bbox is None:
        bbox = {"9": [box("Ball", 50, 50, 20, 20), box("Zoe", 0, 0, 9, 9)],
                "3": [box("ball", 10, 10, 20, 20), box("Ada", 60, 60, 40, 40)]}  # fmt: skip
    entry: dict = {"qid": qid, "vid_name": video, "q": "Who holds the Ball ?", "a0": "Ben .",
             "a1": "Ada .", "a2": "The ball .", "a3": "Nobody at all .", "a4": "Ben ."}  # fmt: skip
    entry |= {"bbox": bbox, "ts": ts and list(ts), "answer_idx": str(answer), **changes}
    return {key: value for key, value in entry.items() if value is not None}


def questions():
    """Split -> questions."""
    return {
        "train": [question(1), question(2, answer=0), question(3, "hall", bbox={"9": [], "3": []})],
        "valid": [question(4), question(5, "hall", bbox={"10": [box("ben", 0, 0, 30, 30)]})],
        "test": [question(6, ts=None, answer_idx=None, bbox={"3": [], "9": []})],
    }


def regions(video):
    """Counts and boxes of a clip: frame f (from 0) has f % 4 + 1 boxes near (10 + 40 k, ...)."""
    counts = [f % 4 + 1 for f in range(min(COUNTS[video], 300))]
    boxes = [[[10.25 + 40 * k, 10.5 + 40 * k, 30 + 40 * k, 30.75 + 40 * k] for k in range(n)]
             for n in counts]  # fmt: skip
    return {"counts": counts, "boxes": boxes, "object": [["thing"] * n for n in counts]}


def rows(key, count, width):
    """Features that tell their place."""
    start = sum(map(ord, key)) % 97
    return (start + np.arange(count * width).reshape(count, width) / 7).astype(np.float32)


def features(entries=None):
    """Names of the package's HDF5 files -> {key: rows}."""
    entries = entries or [q for split in questions().values() for q in split]
    parts = ("q", "a0", "a1", "a2", "a3", "a4")
    said = {v: sum(len(s.split()) for s in e["sub_text"].split(" <eos> "))
            for v, e in SUBTITLES.items()}  # fmt: skip
    return {
        "qa_bert": {f"{q['qid']}_{p}": rows(f"{q['qid']}_{p}", len(q[p].split()), D)
                    for q in entries for p in parts},
        "sub_bert": {v: rows(v, n, D) for v, n in said.items()},
        "vfeat": {v: rows(v, sum(regions(v)["counts"]), V) for v in COUNTS},
    }  # fmt: skip


def write_h5(path, values, **options):
    """One dataset per key."""
    import h5py

    with h5py.File(path, "w") as file:
        for key, value in values.items():
            file.create_dataset(key, data=value, **options)


def make_package(folder, **h5_options):
    """Write the package; returns reader options for all splits, and split -> annotations."""
    texts = {
        "subtitles": SUBTITLES,
        "word2idx": {word: i for i, word in enumerate(WORDS)},
        "object_vocab": ["ball", "ada", "zoe"],
        "frm_cnt": COUNTS,
        "vcpt": {video: regions(video) for video in COUNTS},
        **questions(),
    }
    for name, content in texts.items():
        (folder / PUBLISHED[name]).write_text(json.dumps(content))
    for name, values in features().items():
        write_h5(folder / PUBLISHED[name], values, **h5_options)
    annotations = {split: str(folder / PUBLISHED[split]) for split in questions()}
    options = {k: str(folder / v) for k, v in PUBLISHED.items() if k not in annotations}
    return options | {"embedding_size": D, "vfeat_size": V, "num_region": 3}, annotations
