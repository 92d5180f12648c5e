# SPDX-License-Identifier: Apache-2.0
"""Made-up data sets for LLaMA-VQA's reader; the feature of frame k of video n is 100 n + k."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from reader.common.features import FeatureWriter
from tests.engine.test_formats import tensor, torch_pickle, torch_zip

TOKENIZER = Path(__file__).resolve().parents[1] / "golden" / "llama_vqa" / "tiny_sp.model"
DIM = 4

NEXTQA = """video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4
11,300,640,480,why did the MAN laugh,2,0,CW,he is late,it rains,the dog fell,to eat,no reason
12,300,640,480, where is the cat ?,0,1,TN,here,"there, or not",None,3 times,a
11,300,640,480,who is it,4,7,DO,a,b,c,d,e
"""
STAR = [
    {"question_id": "Interaction_T1_4", "video_id": "s1", "start": 0.5, "end": 2.5,
     "question": "Which object was eaten?", "answer": "The pie.",
     "choices": [{"choice_id": k, "choice": c} for k, c in
                 [(3, "The nut."), (0, "The cake."), (2, "The pie."), (1, "The pie.")]]},
    {"question_id": "Feasibility_T1_5", "video_id": "s2", "start": 90.0, "end": 99.0,
     "question": "what now?", "answer": "b",
     "choices": [{"choice_id": k, "choice": c} for k, c in enumerate("abcd")]},
]  # fmt: skip
DRAMAQA = [
    {"vid": "Show01_001_0000", "que": "Why does he run?", "answers": [*"abcde"], "correct_idx": 2,
     "qid": 31, "shot_contained": [7, 10], "videoType": "scene"},
    {"vid": "Show01_001_0009", "que": "Who?", "answers": [*"vwxyz"], "correct_idx": 0, "qid": 32,
     "shot_contained": [9], "videoType": "shot"},
]  # fmt: skip
VLEP = [
    {"example_id": 5, "vid_name": "v1", "ts": [3.19, 6.5], "events": ["Ross leaves.", "He stays."],
     "answer": 1, "split": "train"},
    {"example_id": 6, "vid_name": "v2", "ts": [0.2, 1.2], "events": ["x", "y"], "answer": 0,
     "split": "train"},
]  # fmt: skip
VLEP_SUBTITLES = [
    {"vid_name": "v1", "sub": [
        {"text": "before", "start": 0.1, "end": 2.9}, {"text": "(Ross:)Oh-no!", "start": 2.5,
         "end": 4.5}, {"text": "- Hi", "start": 5.9, "end": 6.9}, {"text": "late", "start": 6.0,
         "end": 7.1}]},
    {"vid_name": "other", "sub": []},
]  # fmt: skip
TVQA = [
    {"qid": 3, "q": "What does Ann say?", "ts": "1.5-3.4", "vid_name": "t1", "answer_idx": 4,
     **{f"a{k}": f"Option {k}" for k in range(5)}},
    {"qid": 4, "q": "Who is it", "ts": "NaN-NaN", "vid_name": "t1", "answer_idx": 0,
     **{f"a{k}": "Ann" for k in range(5)}},
    {"qid": 5, "q": "Where?", "ts": "50.0-60.0", "vid_name": "t2", "answer_idx": 1,
     **{f"a{k}": "Home" for k in range(5)}},
]  # fmt: skip
SRT = """1
00:00:00,400 --> 00:00:01,900
(Ann:)One,
two.

2
00:00:02,000 --> 00:00:03,900
 - Three?
- Four!

3
00:00:03,100 --> 01:00:04,000
Five

4
no time
Six
"""

VIDEOS = {
    "nextqa": {"11": 5, "12": 9},
    "star": {"s1": 6, "s2": 8},
    "dramaqa": {"Show01_001_0007": 2, "Show01_001_0008": 1, "Show01_001_0010": 3,
                "Show01_001_0009": 2},
    "vlep": {"v1": 9, "v2": 3},
    "tvqa": {"t1": 30, "t2": 6},
}  # fmt: skip


def write_lines(path, rows):
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def values(dataset):
    """{video: features (frames, DIM)}, where the first number tells video and frame."""
    found = {}
    for n, (video, count) in enumerate(VIDEOS[dataset].items()):
        found[video] = np.tile(100.0 * (n + 1) + np.arange(count), (DIM, 1)).T + np.arange(DIM) / 4
    return found


def write_store(folder, features):
    """A store as tools/extract.py makes it."""
    with FeatureWriter(folder, DIM, {"name": "made up"}) as writer:
        for video, rows in features.items():
            writer.append([f"{video}/{k:06d}" for k in range(len(rows))], rows)
        writer.finish()
    return str(folder)


def write_pth(path, features, kind="Half"):
    """A file as ``torch.save`` makes it of {video: tensor}."""
    dtype = {"Half": np.float16, "Float": np.float32}.get(kind)
    tensors, storages = {}, {}
    for k, (video, rows) in enumerate(features.items()):
        if kind == "BFloat16":
            raw = (rows.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        else:
            raw = rows.astype(dtype)
        storages[str(k)] = raw.tobytes()
        tensors[video] = tensor(str(k), raw.size, raw.shape, (raw.shape[1], 1), kind=kind)
    path.write_bytes(torch_zip(torch_pickle(**tensors), storages))
    return str(path)


def make_world(folder):
    """Files of all data sets; returns {data set: reader options}."""
    (folder / "nextqa.csv").write_text(NEXTQA, encoding="utf-8")
    for name, rows in (("star", STAR), ("dramaqa", DRAMAQA)):
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    for name, rows in (("vlep", VLEP), ("tvqa", TVQA), ("said", VLEP_SUBTITLES)):
        write_lines(folder / f"{name}.jsonl", rows)
    (folder / "srt").mkdir()
    (folder / "srt" / "t1.srt").write_text(SRT, encoding="utf-8")
    made = {}
    endings = {"nextqa": "csv", "star": "json", "dramaqa": "json", "vlep": "jsonl", "tvqa": "jsonl"}
    for name, ending in endings.items():
        made[name] = {
            "dataset": name, "annotations": str(folder / f"{name}.{ending}"), "max_feats": 4,
            "features": write_store(folder / f"{name}_store", values(name)), "visual_dim": DIM,
            "tokenizer": str(TOKENIZER), "max_seq_len": 300,
        }  # fmt: skip
    made["vlep"]["subtitles"] = str(folder / "said.jsonl")
    made["tvqa"]["subtitles"] = str(folder / "srt")
    return made
