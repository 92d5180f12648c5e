# SPDX-License-Identifier: Apache-2.0
"""Decoding by exact frame number, and one-line errors for every kind of bad file."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from reader.common import video as module
from reader.common.errors import DataError
from reader.common.video import Video
from tests.conftest import ROOT
from tests.reader.clips import boxes, cut, index_first, number, write_sound, write_video


@pytest.fixture(scope="module", params=["a.mp4", "a.avi", "x.avi", "a.mkv"])
def clip(request, tmp_path_factory):
    codec = "MJPG" if request.param == "a.avi" else "XVID" if request.param == "x.avi" else "mp4v"
    return write_video(tmp_path_factory.mktemp("clip") / request.param, 700, codec)


def test_properties_and_stream(clip):
    video = Video(clip)
    assert (video.num_frames, video.fps, video.width, video.height) == (700, 25.0, 160, 48)
    shown = [(i, number(frame)) for i, frame in video.stream()]
    assert shown == [(i, i) for i in range(700)]


def test_wanted_frames_of_a_stream(clip):
    wanted = np.zeros(700, bool)
    wanted[[0, 13, 14, 600]] = True
    assert [(i, number(f)) for i, f in Video(clip).stream(wanted)] == [
        (i, i) for i in (0, 13, 14, 600)
    ]


def test_frames_in_any_order_with_repeats(clip):
    indices = [5, 699, 0, 5, 41, 40]
    frames = Video(clip).frames(indices)
    assert frames.shape == (6, 48, 160, 3) and frames.dtype == np.uint8
    assert [number(f) for f in frames] == indices
    assert Video(clip).frames([]).shape == (0, 48, 160, 3)


def test_sparse_frames_are_sought_and_exact(clip, monkeypatch):
    seeks = []
    seek = module._Capture.seek
    monkeypatch.setattr(module._Capture, "seek", lambda c, i: (seeks.append(i), seek(c, i)))
    assert [number(f) for f in Video(clip).frames([3, 350, 690])] == [3, 350, 690]
    assert seeks == [350, 690]


def test_a_seek_that_lands_elsewhere_is_noticed(clip, monkeypatch):
    seek = module._Capture.seek
    monkeypatch.setattr(module._Capture, "seek", lambda c, i: seek(c, i - 2))
    assert [number(f) for f in Video(clip).frames([3, 350, 690])] == [3, 350, 690]


def test_times_of_frames(clip):
    """Containers round them; where that is all, they are even."""
    assert np.array_equal(Video(clip).times, np.arange(700) / 25)


@pytest.mark.parametrize("rate", [29.97, 12.5])
def test_times_at_other_rates(tmp_path, rate):
    video = Video(write_video(tmp_path / "t.mkv", 40, fps=rate))
    assert np.allclose(video.times, np.arange(40) / rate, rtol=1e-3)


def test_times_of_uneven_frames(tmp_path, monkeypatch):
    video = Video(write_video(tmp_path / "t.mp4", 4))
    packets = video._packets

    def times(milliseconds):
        video.__dict__.pop("times", None)
        video.__dict__["_packets"] = packets._replace(times=np.array(milliseconds))
        return video.times.tolist()

    assert times([10.0, 50.0, 900.0, 1000.0]) == [0.0, 0.04, 0.89, 0.99]
    even = [0.0, 0.04, 0.08, 0.12]
    assert times([0.0, 50.0, 50.0, 1000.0]) == even  # two at once cannot be right
    assert times([0.0, 900.0, 1000.0]) == even  # not one a frame
    assert times([3.0, 40.0, 83.0, 118.0]) == even  # rounded
    video.fps = 0.0
    with pytest.raises(DataError, match="expected a video with a frame rate, found none"):
        times([0.0, 40.0, 80.0, 120.0])


def test_can_be_sent_to_a_worker(clip):
    assert pickle.loads(pickle.dumps(Video(clip))).num_frames == 700


def test_index_outside_the_video(clip):
    for bad in (700, -1):
        with pytest.raises(DataError, match=f"expected frames 0 to 699, found {bad}"):
            Video(clip).frames([0, bad])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("name", ["t.mp4", "t.avi", "t.mkv"])
def test_truncated_file(tmp_path, name, share):
    path = write_video(tmp_path / name, 200, "MJPG" if name == "t.avi" else "mp4v")
    if name == "t.mp4":
        index_first(path)
        assert Video(path).num_frames == 200
    cut(path, share)
    with pytest.raises(DataError, match=rf"{name}: expected 200 frames, found \d+: .*cut short"):
        _ = Video(path).num_frames
    with pytest.raises(DataError, match="cut short"):
        list(Video(path).stream())
    with pytest.raises(DataError, match="cut short"):
        Video(path).frames([0, 199])
    video = Video(path, accept_truncated=True)
    assert 10 < video.num_frames < 200
    shown = [number(f) for _, f in video.stream()]
    assert len(shown) == video.num_frames and shown[:-1] == list(range(len(shown) - 1))


def test_mp4_cut_before_its_index(tmp_path):
    path = cut(write_video(tmp_path / "t.mp4", 50), 0.9)
    with pytest.raises(DataError, match="no readable picture stream") as error:
        Video(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_damage_in_the_middle_is_an_error_or_full_length(tmp_path):
    path = write_video(tmp_path / "t.mp4", 100)
    data = bytearray(path.read_bytes())
    start, size = boxes(data)["mdat"]
    data[start + size // 2 : start + size * 3 // 4] = bytes(size * 3 // 4 - size // 2)
    path.write_bytes(data)
    video = Video(path)
    try:
        assert len(list(video.stream())) == video.num_frames
    except DataError as error:
        assert "found" in str(error)


def _zero_frames(path):
    import cv2

    cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (160, 48)).release()


def _folder(path):
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("missing.mp4", lambda p: None, "found nothing"),
        ("folder.mp4", _folder, "found a folder"),
        ("empty.mp4", lambda p: p.write_bytes(b""), "0 bytes"),
        ("text.mp4", lambda p: p.write_text("<html>not found</html>"), "no readable picture"),
        ("sound.wav", write_sound, "audio only"),
        ("none.mp4", _zero_frames, "no readable picture|without any frame"),
    ],
)
def test_unreadable_files(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(DataError, match=message) as error:
        Video(tmp_path / name)
    assert error.value.exit_code == 3
    assert name in str(error.value) and "\n" not in str(error.value)


def test_audio_only_mp4(tmp_path):
    """A picture track that calls itself sound is what an .m4a looks like to the decoder."""
    path = write_video(tmp_path / "sound.m4a", 10)
    path.write_bytes(path.read_bytes().replace(b"vide", b"soun").replace(b"mp4v", b"mp4a"))
    with pytest.raises(DataError, match="audio only"):
        Video(path)


def test_the_decoder_is_quiet(tmp_path):
    path = index_first(write_video(tmp_path / "t.mp4", 60))
    cut(path, 0.7)
    (tmp_path / "u.mp4").write_text("x")
    code = (
        "from reader.common.video import Video\n"
        "for name in ('t.mp4', 'u.mp4'):\n"
        f"    try: list(Video({str(tmp_path)!r} + '/' + name).stream())\n"
        "    except Exception as error: assert error.exit_code == 3, error\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
