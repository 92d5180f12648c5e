# SPDX-License-Identifier: Apache-2.0
"""Pictures of a video at an even rate, and names of their features.

The rule is that of FFmpeg's filter ``fps`` with its defaults: picture n is the last frame whose
time, in pictures, is below n + 1/2, and as many pictures are taken as the rounded duration (halves
up), but one at least, where FFmpeg has none of a video of less than half a picture. Frames repeat
where the rate is above the video's. FFmpeg reckons with the container's time stamps, as we do where
they tell more than the video's own rate (``Video.times``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .errors import DataError
from .images import read_image
from .video import Video

_ROUNDING = 1e-6  # of a picture: times are sums of inexact numbers
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def rate_indices(times: np.ndarray, duration: float, fps: float) -> np.ndarray:
    """Which frames are shown at a rate: int64 [n], not decreasing.

    Args:
        times: of the frames, ascending seconds from 0.
        duration: seconds, that of the last frame included.
        fps: pictures a second.
    """
    if not len(times) or not fps > 0:
        raise ValueError(f"expected frames and a positive rate, found {len(times)} and {fps}")
    count = max(1, int(np.floor(duration * fps + 0.5 + _ROUNDING)))
    rounded = np.floor(np.asarray(times) * fps + 0.5 + _ROUNDING)
    return np.searchsorted(rounded, np.arange(count), side="right") - 1


def pictures_at_rate(
    source: str | os.PathLike, fps: float, accept_truncated: bool = False
) -> Iterator[np.ndarray]:
    """Pictures uint8 [H, W, 3], RGB, of a video, decoded one after the other.

    Args:
        source: a video file, or a folder of pictures that were taken at this rate, in order of
            their names.
        accept_truncated: of ``Video``.

    Raises:
        DataError: it cannot be read.
    """
    if os.path.isdir(source):
        yield from _folder(Path(source))
        return
    video = Video(source, accept_truncated)
    times = video.times
    duration = float(times[-1]) + 1 / video.fps
    repeats = np.bincount(rate_indices(times, duration, fps), minlength=len(times))
    for index, frame in video.stream(repeats > 0):
        for _ in range(repeats[index]):
            yield np.ascontiguousarray(frame[..., ::-1])


def _folder(folder: Path) -> Iterator[np.ndarray]:
    names = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    if not names:
        raise DataError(f"{folder}: expected pictures of a video, found none")
    for path in names:
        yield np.ascontiguousarray(read_image(path).transpose(1, 2, 0))


def picture_name(video: str, number: int) -> str:
    """Name of the feature of a video's picture, from 0; names sort like the pictures."""
    return f"{video}/{number:06d}"
