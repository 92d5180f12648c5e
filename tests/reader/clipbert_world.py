# SPDX-License-Identifier: Apache-2.0
"""A made-up data set for ClipBERT's reader: videos whose frames show their number, and texts."""

from __future__ import annotations

import json

import numpy as np

from reader.common.frame_store import SETS, FrameWriter, sample_sets
from tests.reader.clips import number, picture, write_video

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "what", "who", "color", "is", "the", "does",
    "cat", "dog", "man", "runs", "jumps", "sits", "eats", "red", "blue", "three", "?", "##s",
]  # fmt: skip
LENGTHS = {"ball": 100, "hall": 60, "wall": 30}  # frames of the videos
LABELS = {"<UNK>": 0, "yes": 1, "no": 2, "red": 3}
SIDE = 160  # of squeezed frames, on which numbers can still be read


def lines(path, rows):
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def question(k, video, answer="yes", **more):
    """A question of ANetQA."""
    return {"key": f"{video}#{k}", "question": f"What color is the cat {'the ' * k}?",
            "answer": answer, "vid_id": video, "gif_name": video, **more}  # fmt: skip


QUESTIONS = [question(0, "ball"), question(1, "hall", "red"), question(2, "ball", "no")]


def taxonomy(kind):
    """The categories of a question."""
    return {"question structures": kind, "question semantics": "object",
            "reasoning skills": ["exist"], "answer types": "open"}  # fmt: skip


def write_store(path):
    """A frame store of all videos but wall."""
    import cv2

    def encoded(k):
        frame = cv2.resize(picture(k), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
        return cv2.imencode(".png", frame)[1].tobytes()

    with FrameWriter(path, {"size": SIDE}) as writer:
        for video in ("ball", "hall"):
            sets = sample_sets(video, LENGTHS[video])
            taken = sorted({k for numbers in sets.values() for k in numbers})
            places = {name: [taken.index(k) for k in numbers] for name, numbers in sets.items()}
            writer.add(video, [encoded(k) for k in taken], places)
        writer.finish()
    assert set(sets) == set(SETS)
    return str(path)


def write_image(path, height, width, value):
    """A picture of one colour: value red, value + 1 green, value + 2 blue."""
    import cv2

    cv2.imwrite(str(path), np.full((height, width, 3), [value + 2, value + 1, value], np.uint8))


def make_world(folder):
    """Files of the data set; returns reader options."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "ans2label.json").write_text(json.dumps(LABELS))
    (folder / "videos" / "more").mkdir(parents=True)
    for video, frames in LENGTHS.items():
        place = folder / "videos" / ("more" if video == "hall" else "")
        write_video(place / f"{video}.{'mp4' if video != 'wall' else 'avi'}", frames,
                    "mp4v" if video != "wall" else "MJPG")  # fmt: skip
    (folder / "images").mkdir()
    for value, (height, width) in ((10, (20, 30)), (20, (20, 30)), (30, (30, 20)), (40, (20, 200))):
        write_image(folder / "images" / f"{value}.png", height, width, value)
    return {
        "vocab": str(folder / "vocab.txt"),
        "ans2label": str(folder / "ans2label.json"),
        "annotations": lines(folder / "questions.jsonl", QUESTIONS),
        "videos": str(folder / "videos"),
        "frame_size": SIDE,
    }


def numbers(frames):
    """What frames (F, 3, H, W) show."""
    return [number(frame.transpose(1, 2, 0)) for frame in frames]


def texts(rows):
    """Rows of ids as texts, without padding."""
    return [" ".join(WORDS[i] for i in row if i) for row in rows]
