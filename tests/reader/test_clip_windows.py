# SPDX-License-Identifier: Apache-2.0
"""Which frames clips of a video consist of."""

from __future__ import annotations

import random

import numpy as np
import pytest

from reader.common.clips import choose_clips, clip_frames, spread, trusted_duration, window


def test_windows_start_at_equal_parts_of_what_is_left():
    assert [window(300, 50.0, k, 4) for k in range(4)] == [
        (0.0, 49.0), (62.5, 111.5), (125.0, 174.0), (187.5, 236.5)]  # fmt: skip
    assert window(20, 50.0, 2, 4) == (0.0, 49.0)  # longer than the video
    u = random.Random(3).random()
    assert window(100, 40, u, 1)[0] == random.Random(3).uniform(0, 60)


def test_frames_are_spread_from_end_to_end():
    assert spread(0, 49, 2, 51) == [0, 49]
    assert spread(0, 49, 1, 51) == [0]
    assert spread(5.5, 60.5, 4, 100) == [5, 23, 42, 60]
    assert spread(0, 74, 3, 10) == [0, 9, 9]  # no more than there are
    for count in range(2, 40):
        assert spread(0, 7 * (count - 1), count, 999) == list(range(0, 7 * count, 7))


def test_a_clip_has_the_frames_shown_within_its_window():
    times = np.arange(300) * 512
    assert clip_frames(times, 300 * 512, 50.0, 2, 1, 4) == [63, 112]  # first one after 62.5
    assert clip_frames(times, 300 * 512, 50.0, 3, 3, 4) == [188, 212, 237]
    slow = np.arange(300) * 1024  # the window ends after half of the frames that it should have
    assert clip_frames(slow, 300 * 512, 50.0, 2, 0, 4) == [0, 25]
    assert clip_frames(times, 600 * 512, 50.0, 2, 3, 4) is None  # behind the last frame
    assert clip_frames(np.array([0, 900]), 1000, 0.5, 2, 1, 2) == [1, 1]


def test_a_duration_far_behind_the_last_frame_is_not_trusted():
    assert [trusted_duration(100, last) for last in (79, 80, 100)] == [79, 100, 100]


def test_clips_follow_one_another():
    seconds = np.arange(100) / 25
    assert choose_clips(seconds, 25.0, 1.0, 2, [0, 1], 2) == [0, 49, 25, 74]
    assert choose_clips(seconds, 25.0, 5.0, 1, [0, 0.999], 1) == [0, 95]
    # a rate twice the true one: the window has twice the frames, but lasts two seconds as it should
    assert choose_clips(seconds, 50.0, 1.0, 2, [0], 1) == [0, 50]
    assert choose_clips(np.zeros(1), 25.0, 1.0, 2, [0, 1, 2], 3) == [0, 0] * 3


def test_clips_behind_the_last_frame_repeat_the_one_before():
    seconds = np.concatenate([np.arange(99) / 100, [3.3]])  # stops for long before the last one
    rate = 25.0  # 4 seconds
    assert choose_clips(seconds[:1], rate, 1.0, 2, [0], 1) == [0, 0]
    found = choose_clips(seconds, rate, 12.5, 1, [0, 0.5, 0.99], 1)
    assert found[0] == 0 and found[1:] == [99, 99]


@pytest.mark.parametrize("rate", [23.976, 24000 / 1001, 29.97, 30000 / 1001, 59.94, 7.5])
def test_whole_numbers_of_frames_are_not_missed_by_rounding(rate):
    seconds = np.arange(1000) / rate
    for first in range(0, 1000, 7):  # windows of one frame that start exactly at a frame
        assert choose_clips(seconds, rate, rate, 1, [first], 999) == [first]
