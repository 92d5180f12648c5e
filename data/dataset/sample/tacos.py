# SPDX-License-Identifier: Apache-2.0
"""The sample world in the raw layout of TACoS (26hzhang/VSLNet, microsoft/VideoX: 2D-TAN).

`{train,val,test}.json`: {"<video>.mp4": {"timestamps": [[start, end], ...], "sentences": [...],
"fps": 25, "num_frames": N}}, timestamps in frames counted from 1, sentence i tells timestamp i.
`video_allframes_info.pkl`: {"<video>": N}, a protocol-2 pickle as jiyanggao/TALL ships it.
The video key is the file name, so that windows are called `<video>.mp4_START_END.npy`.
"""

from __future__ import annotations

import json
import pickle
from typing import Any

SENTENCES = {"train": 3, "val": 2, "test": 2}  # descriptions used per event


def files(scenes: list[dict[str, Any]]) -> dict[str, bytes]:
    """Content of every file of the layout, by file name."""
    layout = {f"{split}.json": _annotations(scenes, split) for split in SENTENCES}
    frames = {scene["id"]: scene["num_frames"] for scene in scenes}
    layout["video_allframes_info.pkl"] = pickle.dumps(frames, protocol=2)
    return layout


def _annotations(scenes: list[dict[str, Any]], split: str) -> bytes:
    videos = {}
    for scene in (s for s in scenes if s["split"] == split):
        pairs = [
            ([event["start"], event["end"]], sentence)
            for event in scene["events"]
            for sentence in event["sentences"][: SENTENCES[split]]
        ]
        videos[scene["file"]] = {
            "timestamps": [moment for moment, _ in pairs],
            "sentences": [sentence for _, sentence in pairs],
            "fps": scene["fps"],
            "num_frames": scene["num_frames"],
        }
    return json.dumps(videos).encode()
