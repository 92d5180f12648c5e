# SPDX-License-Identifier: Apache-2.0
"""The window grid against the published one, names, and streamed features."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reader.common import windows as module
from reader.common.errors import DataError
from reader.common.video import Video
from reader.common.windows import parse_name, window_features, window_grid, window_name
from tests.conftest import ROOT
from tests.reader.clips import cut, number, write_video


def test_grid_is_the_published_one():
    golden = json.loads((ROOT / "tests/golden/tall/sliding_windows.json").read_text())
    for key, sets in golden.items():
        video, frames = key.split("|")
        for lengths, names in sets.items():
            grid = window_grid(int(frames), [int(n) for n in lengths.split(",")])
            assert [window_name(video, *row) for row in grid.tolist()] == names


def test_grid_edges():
    assert window_grid(65, [64]).tolist() == [[1, 65]]
    assert window_grid(64, [64]).shape == (0, 2)
    assert window_grid(300, []).shape == (0, 2)
    with pytest.raises(ValueError, match="at least 5, found 4"):
        window_grid(300, [4])


def test_names_are_read_from_the_right():
    assert parse_name("s23-d34.avi_1117_1181.npy") == ("s23-d34.avi", 1117, 1181)
    assert parse_name("_a_b_1_.mp4_3_70") == ("_a_b_1_.mp4", 3, 70)
    for bad in ("clip", "clip_1", "clip_a_2", "clip_1_2.txt"):
        with pytest.raises(DataError, match="<video>_<start>_<end>"):
            parse_name(bad)


class Numbers:
    """An extractor whose feature is the numbers of the frames it is shown, averaged over clips."""

    dim = 4

    def __init__(self, clips=1):
        self.clips, self.batches = clips, []

    def positions(self, length):
        return np.arange(self.clips * 4).reshape(self.clips, 4) * length // (self.clips * 4)

    def preprocess(self, frame):
        return np.array([number(frame)], np.int64)

    def features(self, clips):
        self.batches.append(len(clips))
        return clips[:, :, 0].astype(np.float32)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", 300)


@pytest.mark.parametrize("clips", [1, 3])
def test_every_window_gets_its_own_frames(clip, clips):
    extractor = Numbers(clips)
    grid = window_grid(300, [64, 128, 256])
    values = np.full((len(grid), 4), np.nan, np.float32)
    for rows, features in window_features(clip, grid, extractor, batch=3):
        assert np.isnan(values[rows]).all(), "a row came twice"
        assert features.dtype == np.float32
        values[rows] = features
    start, length = grid[:, 0] - 1, grid[:, 1] - grid[:, 0]
    positions = [extractor.positions(n) + s for s, n in zip(start, length, strict=True)]
    np.testing.assert_array_equal(values, [p.astype(np.float32).mean(0) for p in positions])
    assert max(extractor.batches) == 3 * clips


def test_windows_in_any_order(clip):
    windows = np.array([[100, 180], [1, 65], [1, 65], [231, 301], [5, 69]])
    values = np.zeros((5, 4), np.float32)
    for rows, features in window_features(Video(clip), windows, Numbers(), batch=8):
        values[rows] = features
    offsets = [Numbers().positions(end - start) + start - 1 for start, end in windows]
    np.testing.assert_array_equal(values, np.concatenate(offsets))


def test_decodes_once_and_keeps_only_the_longest_window(clip, monkeypatch):
    streams, rings = [], []
    stream, ring = Video.stream, module._Ring.__init__
    monkeypatch.setattr(Video, "stream", lambda v, w=None: (streams.append(w), stream(v, w))[1])
    monkeypatch.setattr(module._Ring, "__init__", lambda r, n: (rings.append(n), ring(r, n))[1])
    parts = list(window_features(clip, window_grid(300, [64, 128]), Numbers(), batch=4))
    assert sum(len(features) for _, features in parts) == 20 + 7
    assert rings == [128] and len(streams) == 1
    assert 0 < streams[0].sum() < 300, "frames that no window shows must not be retrieved"


def test_no_window_and_windows_outside(clip):
    assert list(window_features(clip, np.zeros((0, 2)), Numbers())) == []
    for bad in ([0, 64], [250, 302], [9, 9]):
        with pytest.raises(DataError, match=f"a.mp4.*1 to 300, found {bad[0]} to {bad[1]}"):
            list(window_features(clip, np.array([[1, 65], bad]), Numbers()))


def test_truncated_video(tmp_path):
    path = cut(write_video(tmp_path / "a.avi", 300, "MJPG"), 0.6)
    with pytest.raises(DataError, match="expected 300 frames"):
        list(window_features(path, np.array([[1, 65]]), Numbers()))
    video = Video(path, accept_truncated=True)
    grid = window_grid(video.num_frames, [64])
    found = sum(len(f) for _, f in window_features(video, grid, Numbers()))
    assert 0 < found == len(grid) < len(window_grid(300, [64]))
