# SPDX-License-Identifier: Apache-2.0
"""Which frames of a video a clip consists of.

A clip of ``count`` frames at ``fps`` per second is a window of ``count / fps`` seconds, from which
frames are taken at equal distances, first and last included: two frames at 1 fps are almost 2 s
apart. Clip i of n starts at i/n of what is left of the video beside a window, so that the last part
of a video is never seen. Source: ClipBERT (arXiv:2102.06183), its released ``decoder.py``.
"""

from __future__ import annotations

import numpy as np

_TRUSTED = 0.8  # share of the stated duration that must have frames
_MICRO = 1e6


def window(frames: int, size: float, clip: float, clips: int) -> tuple[float, float]:
    """First and last place of a clip on the axis of the frames' numbers.

    Args:
        frames: of the video.
        size: of the window, in frames.
        clip: which of the ``clips``, from 0; a random one is clip u of 1, with u in [0, 1).
    """
    start = max(frames - size, 0) * clip / clips
    return start, start + size - 1


def spread(start: float, end: float, count: int, frames: int) -> list[int]:
    """``count`` frames from ``start`` to ``end`` at equal distances, of those that there are.

    Fractions are cut off. Computed in float32 from both ends, as published.
    """
    first, last, k = np.float32(start), np.float32(end), np.arange(count, dtype=np.float32)
    step = (last - first) / np.float32(max(count - 1, 1))
    from_end = (k >= count // 2) & (count > 1)
    places = np.where(from_end, last - step * (count - 1 - k), first + step * k)
    return np.clip(places, 0, frames - 1).astype(np.int64).tolist()


def trusted_duration(stated: int, last: int) -> int:
    """The stated duration of a video, or when its last frame is shown if that is far from it."""
    return last if last < _TRUSTED * stated else stated


def clip_frames(
    times: np.ndarray, duration: int, size: float, count: int, clip: float, clips: int
) -> list[int] | None:
    """Numbers of a clip's frames; None if the window lies behind the last frame.

    Args:
        times: when each frame is shown, ascending whole numbers of any unit.
        duration: of the video, in that unit.
        size: of the window, in frames.
        count: of frames to take.
        clip: see ``window``.
    """
    scale = duration / len(times)
    start, end = (int(place * scale) for place in window(len(times), size, clip, clips))
    first = int(np.searchsorted(times, start))
    behind = int(np.searchsorted(times, end, "right"))  # is taken, too
    there = min(behind, len(times) - 1) - first + 1
    if there < 1:
        return None
    return [first + k for k in spread(0, size - 1, count, there)]


def choose_clips(
    seconds: np.ndarray, rate: float, fps: float, count: int, clips: list[float], of: int
) -> list[int]:
    """Numbers of the frames of clips, one clip after the other.

    A clip that lies behind the last frame repeats the one before, the first one the last frame.

    Args:
        seconds: when each frame is shown.
        rate: the video's frames per second.
        fps: frames of a clip per second.
        count: frames of a clip.
        clips: which clips, see ``window``; ``of`` is the number of them.
    """
    times = np.rint(seconds * _MICRO).astype(np.int64)
    duration = trusted_duration(int(len(times) / rate * _MICRO), int(times[-1]))
    chosen, found = [], [len(times) - 1] * count
    for clip in clips:
        found = clip_frames(times, duration, count / fps * rate, count, clip, of) or found
        chosen += found
    return chosen
