# SPDX-License-Identifier: Apache-2.0
"""TALL's reader on raw videos."""

from __future__ import annotations

import numpy as np
import pytest

from reader.common.errors import DataError
from reader.common.windows import window_grid
from reader.tall import Reader
from tests.reader.tall_world import E, F, Text, vector


class _Visual:
    """Mean blue of the first and the last frame of a window, and its length."""

    dim = F

    def positions(self, length):
        return np.array([[0, length - 1]])

    def preprocess(self, frame):
        return frame[:1, :1, :1]

    def features(self, clips):
        first, last = clips[:, 0, 0, 0, 0], clips[:, -1, 0, 0, 0]
        ones = np.ones(len(clips))
        return np.stack([first, last, ones, ones, ones, ones], 1).astype(np.float32)


def _video(path, frames):
    """A grey video whose brightness is 2 * the frame's number from 1."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 25, (16, 16))
    for k in range(frames):
        writer.write(np.full((16, 16, 3), 2 * (k + 1) % 256, np.uint8))
    writer.release()
    return str(path)


@pytest.fixture
def extractors():
    return {"visual": _Visual(), "text": Text()}


def test_raw_video_gives_the_items_of_the_same_features(tmp_path, extractors):
    path = _video(tmp_path / "my_own.avi", 120)
    args = {"feats_dimen": F, "sent_vec_dim": E, "window_lengths": (30, 60), "context_size": 30}
    queries = ["He waves.", "She sits down."]
    whole = list(Reader("infer", **args).from_raw(path, queries, extractors))
    parts = list(Reader("infer", **args, max_windows=4).from_raw(path, queries, extractors, 3))
    (item,) = whole
    windows = item["windows"].astype(int)
    assert np.array_equal(windows, window_grid(120, (30, 60)))
    own = item["visual"][:, F : 2 * F]
    assert np.abs(own[:, 0] - 2 * windows[:, 0]).max() <= 2  # the window's first frame
    assert np.abs(own[:, 1] - 2 * (windows[:, 1] - 1)).max() <= 2  # and its last
    row = {(s, e): k for k, (s, e) in enumerate(windows.tolist())}
    for (s, e), k in row.items():
        assert np.array_equal(item["visual"][k, :F], own[row.get((s - 30, s), k)])
        assert np.array_equal(item["visual"][k, 2 * F :], own[row.get((e, e + 30), k)])
    assert (item["id"], item["fps"], item["num_frames"]) == ("my_own.avi", 25.0, 120)
    assert item["query_ids"] == ["my_own.avi#0", "my_own.avi#1"]
    assert np.array_equal(item["sentence"][0], vector(len("He waves."))[0])
    for key in ("visual", "windows"):
        assert np.array_equal(np.concatenate([part[key] for part in parts]), item[key])
    assert [part["first_window"] for part in parts] == list(range(0, len(windows), 4))


def test_short_raw_videos_get_shorter_windows(tmp_path, extractors):
    args = {"feats_dimen": F, "sent_vec_dim": E}
    for frames, length in ((100, 64), (40, 39)):
        path = _video(tmp_path / f"{frames}.avi", frames)
        (item,) = Reader("infer", **args).from_raw(path, "He waves.", extractors)
        assert set((item["windows"][:, 1] - item["windows"][:, 0]).tolist()) == {length}
    path = _video(tmp_path / "10.avi", 10)
    with pytest.raises(DataError, match=r"10\.avi: expected 17 frames or more, found 10"):
        list(Reader("infer", **args).from_raw(path, "He waves.", extractors))


def test_odd_raw_input(tmp_path, extractors):
    path = _video(tmp_path / "v.avi", 40)
    r = Reader("infer", feats_dimen=F, sent_vec_dim=E)
    for query, given, message in (
        (" ", extractors, "--query"),
        ([], extractors, "--query"),
        ("a", {"text": Text()}, "DATASET.extractors.visual"),
        ("a", {"visual": _Visual()}, "DATASET.extractors.text"),
    ):
        with pytest.raises(DataError, match=message):
            list(r.from_raw(path, query, given))
    with pytest.raises(DataError, match="visual extractor: expected vectors of 7 numbers, found 6"):
        list(Reader("infer", feats_dimen=7, sent_vec_dim=E).from_raw(path, "a", extractors))
    with pytest.raises(DataError, match="text extractor: expected vectors of 6 numbers, found 5"):
        list(Reader("infer", feats_dimen=F, sent_vec_dim=6).from_raw(path, "a", extractors))
    with pytest.raises(DataError, match=r"nowhere\.mp4"):
        list(r.from_raw("nowhere.mp4", "a", extractors))
