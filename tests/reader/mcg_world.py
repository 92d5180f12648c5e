# SPDX-License-Identifier: Apache-2.0
"""A made-up data set for MCG's reader: videos whose frames show their number, and texts."""

from __future__ import annotations

import io
import tarfile

from tests.reader.clipbert_world import LENGTHS, SIDE, WORDS, lines, numbers, write_image
from tests.reader.clips import write_video

__all__ = ["LENGTHS", "SIDE", "WORDS", "lines", "make_world", "numbers", "pairs", "texts",
           "write_shard", "write_table"]  # fmt: skip

QUESTIONS = [
    {"video_id": "ball", "question": "what runs?", "answer": "cat", "answer_type": "what"},
    {"video_id": "hall", "question": "who is the man", "answer": "the red man",
     "answer_type": "who"},
    {"video_id": "ball", "question": "what color is the cat?", "answer": "blue",
     "answer_type": "what"},
]  # fmt: skip
TABLE = """video,frame_count,width,height,question,answer,qid,type
11,100,160,48,what does the man,runs,0,CW
22,30,160,48,is the cat red,"jumps, sits",0,DC
11,100,160,48,who is the cat,dogs,4,DL
"""


def make_world(folder):
    """Files of the data set; returns reader options of task msvd_qa, without random changes."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "videos" / "more").mkdir(parents=True)
    for video, frames in LENGTHS.items():
        place = folder / "videos" / ("more" if video == "hall" else "")
        write_video(place / f"{video}.{'mp4' if video != 'wall' else 'avi'}", frames,
                    "mp4v" if video != "wall" else "MJPG")  # fmt: skip
    (folder / "images").mkdir()
    for value in (10, 20, 30):
        write_image(folder / "images" / f"{value}.png", 40, 60, value)
    return {
        "vocab": str(folder / "vocab.txt"),
        "annotations": lines(folder / "questions.jsonl", QUESTIONS),
        "videos": str(folder / "videos"),
        "crop_img_size": SIDE,
        "num_frm": 4,
        "max_txt_len": 10,
        "augment": False,
    }


def write_table(folder):
    """NExT-QA's table, its videos, their places and second answers; returns reader options."""
    (folder / "q.csv").write_text(TABLE)
    for place, frames in (("0001/11", 100), ("0100/22", 30)):
        (folder / "vidor" / place).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / "vidor" / f"{place}.mp4", frames)
    (folder / "map.json").write_text('{"11": "0001/11", "22": "0100/22"}')
    (folder / "more.json").write_text('{"11": {"4": "a dog", "9": "x"}, "33": {}}')
    return {
        "task": "nextqa_oe", "annotations": str(folder / "q.csv"), "videos": str(folder / "vidor"),
        "video_paths": str(folder / "map.json"), "second_references": str(folder / "more.json"),
    }  # fmt: skip


def write_shard(path, samples):
    """A tar file of samples {ending: content}, called 000, 001, ..."""
    with tarfile.open(path, "w") as archive:
        for k, sample in enumerate(samples):
            for ending, content in sample.items():
                info = tarfile.TarInfo(f"{k:03d}{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return str(path)


def texts(rows, tokens=(*WORDS, "[DEC]", "[ENC]")):
    """Rows of ids as texts, without padding."""
    return [" ".join(tokens[i] for i in row if i) for row in rows]


def pairs(path, rows):
    """A file of (kind, path, caption)."""
    return lines(path, [{kind: name, "caption": text} for kind, name, text in rows])
