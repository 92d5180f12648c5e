# SPDX-License-Identifier: Apache-2.0
"""A small made-up data set in TALL's layout."""

from __future__ import annotations

import numpy as np

from reader.common.moments import write_sentences
from reader.common.windows import window_grid, window_name

F, E = 6, 5  # sizes of features and sentence vectors
MOMENTS = {"b.avi": [(1, 130), (150, 410), (1, 130)], "a_1.avi": [(20, 160)], "a.avi": [(100, 240)]}


def vector(k):
    """A sentence vector."""
    return np.random.default_rng(k).standard_normal((1, E)).astype(np.float32)


def write_windows(folder, videos=MOMENTS, frames=500, lengths=(64, 128, 256)):
    """One .npy per window of every video."""
    folder.mkdir(parents=True, exist_ok=True)
    spans = window_grid(frames, lengths).tolist()
    names = [window_name(video, *span) for video in videos for span in spans]
    for k, name in enumerate(names):
        np.save(folder / f"{name}.npy", np.random.default_rng(k).random(F, np.float32))
    return sorted(names)


class Text:
    """Stands for a sentence encoder: the vector depends on the length."""

    dim = E

    def encode(self, sentences):
        """Vectors (n, E)."""
        return np.stack([vector(len(s))[0] for s in sentences])


def make_world(tmp_path):
    """Reader arguments for a data set of three videos."""
    write_windows(tmp_path / "windows")
    names = [window_name(video, *moment) for video, list_ in MOMENTS.items() for moment in list_]
    entries = [(name, vector(k)) for k, name in enumerate(names)]
    write_sentences(tmp_path / "s.pkl", entries)
    return {
        "feats_dimen": F,
        "sent_vec_dim": E,
        "sliding_clip_path": str(tmp_path / "windows"),
        "clip_sentvec": str(tmp_path / "s.pkl"),
    }
