# SPDX-License-Identifier: Apache-2.0
"""Pictures at an even rate."""

from __future__ import annotations

import numpy as np
import pytest

from reader.common.errors import DataError
from reader.common.frame_rate import picture_name, pictures_at_rate, rate_indices
from tests.reader.clips import cut, index_first, number, picture, write_video


def by_hand(times, duration, fps):
    """FFmpeg's filter step by step: a frame fills what is shown until the next one's turn."""
    shown, out = [int(time * fps + 0.5) for time in times], []
    end = int(duration * fps + 0.5)
    for k, start in enumerate(shown):
        until = shown[k + 1] if k + 1 < len(shown) else end
        out += [k] * (until - max(start, len(out)))
    return out


@pytest.mark.parametrize(
    ("frames", "rate", "fps", "expected"),
    [
        (100, 25, 1, [12, 37, 62, 87]),  # the frame before half a second, not that at its beginning
        (30, 30, 1, [14]),  # at half a second exactly the next picture begins
        (40, 25, 1, [12, 37]),  # 1.6 s are two pictures
        (10, 10, 3, [1, 4, 8]),
        (9, 3, 3, [*range(9)]),
        (3, 1, 2, [0, 0, 1, 1, 2, 2]),
        (5, 25, 1, [4]),  # shorter than half a second: FFmpeg has none
        (1, 25, 1, [0]),
    ],
)
def test_which_frames(frames, rate, fps, expected):
    times = np.arange(frames) / rate
    found = rate_indices(times, frames / rate, fps)
    assert found.tolist() == expected and found.dtype == np.int64
    if frames / rate * fps >= 0.5:
        assert by_hand(times, frames / rate, fps) == expected


def test_uneven_times():
    rng = np.random.default_rng(0)
    for fps in (1, 3, 7.5):
        times = np.cumsum(rng.uniform(0.02, 0.6, 50)) - 0.02
        times -= times[0]
        found = rate_indices(times, times[-1] + 0.04, fps)
        assert found.tolist() == by_hand(times, times[-1] + 0.04, fps)
        assert np.all(np.diff(found) >= 0) and len(found) > 10


def test_a_long_video_of_an_odd_rate():
    times = np.arange(60000) * 1001 / 30000
    found = rate_indices(times, 60000 * 1001 / 30000, 1)
    assert len(found) == 2002 and np.diff(found).min() >= 29 and np.diff(found).max() <= 30
    assert np.all(times[found] < np.arange(2002) + 0.5)
    assert np.all(times[np.minimum(found + 1, 59999)][:-1] >= np.arange(2001) + 0.5 - 1e-6)


@pytest.mark.parametrize("name", ["a.mp4", "b.avi"])
@pytest.mark.parametrize("fps", [1, 3, 40])
def test_pictures_of_a_video(tmp_path, name, fps):
    video = write_video(tmp_path / name, 80, "mp4v" if name.endswith("mp4") else "MJPG")
    found = [*pictures_at_rate(video, fps)]
    expected = rate_indices(np.arange(80) / 25, 80 / 25, fps)
    assert [number(frame) for frame in found] == expected.tolist()
    assert found[0].dtype == np.uint8 and found[0].flags.c_contiguous


def test_pictures_are_rgb(tmp_path):
    import cv2

    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 2] = 255  # BGR
    (tmp_path / "shot").mkdir()
    cv2.imwrite(str(tmp_path / "shot" / "00001.png"), red)
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 1, (64, 48))
    writer.write(red)
    writer.release()
    for source in ("shot", "v.avi"):
        (frame,) = pictures_at_rate(tmp_path / source, 1)
        assert frame.shape == (48, 64, 3) and frame[20, 20, 0] > 240 and frame[20, 20, 2] < 15


def test_folders_of_pictures(tmp_path):
    import cv2

    for k in (3, 1, 2):
        cv2.imwrite(str(tmp_path / f"{k:05d}.png"), picture(k))
    (tmp_path / "notes.txt").write_text("no picture")
    assert [number(frame) for frame in pictures_at_rate(tmp_path, 3)] == [1, 2, 3]
    (tmp_path / "00002.png").write_text("no picture")
    with pytest.raises(DataError, match=r"00002\.png: expected a picture"):
        [*pictures_at_rate(tmp_path, 3)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected pictures of a video, found none"):
        [*pictures_at_rate(tmp_path / "empty", 3)]


def test_videos_that_cannot_be_read(tmp_path):
    video = write_video(tmp_path / "a.mp4", 200)
    cut(index_first(video), 0.7)
    with pytest.raises(DataError, match="cut short"):
        [*pictures_at_rate(video, 1)]
    assert 3 < len([*pictures_at_rate(video, 1, accept_truncated=True)]) < 8
    with pytest.raises(DataError, match="expected a video file"):
        [*pictures_at_rate(tmp_path / "none.mp4", 1)]


def test_faulty_calls():
    for times, fps in (([], 1), ([0.0], 0), ([0.0], float("nan"))):
        with pytest.raises(ValueError, match="expected frames and a positive rate"):
            rate_indices(np.array(times), 1, fps)


def test_names_sort_like_pictures():
    names = [picture_name("clip_1", n) for n in (0, 9, 10, 100, 12345)]
    assert names[1] == "clip_1/000009" and names == sorted(names)
