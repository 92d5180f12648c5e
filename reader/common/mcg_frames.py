# SPDX-License-Identifier: Apache-2.0
"""The frames that MCG sees of a video, or the still picture that stands for one.

Frames are decoded whole and squeezed to a square by OpenCV's bicubic. The published code lets its
decoder (decord) squeeze them, by a bicubic of FFmpeg that smooths what shrinks, so values differ
where a video is much larger than the square.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from . import augment
from .errors import BrokenSample, DataError
from .images import read_image
from .video import Video

Strategy = Literal["rand", "uniform", "headtail", "nlvl_uniform"]
Draw = Callable[[range, int], Sequence[int]]  # some different ones of a range
MEAN = np.array([123, 117, 104], np.uint8).reshape(3, 1, 1)  # of pictures; what a network sees as 0


def choose_frames(strategy: Strategy, length: int, count: int, draw: Draw) -> list[int]:
    """Numbers of ``count`` frames of a video of ``length`` frames, in order.

    ``uniform`` cuts the distance off to a whole number, as published: a video of 31 frames gives
    its first 16 ones, and a video of fewer than ``count`` frames the first one, ``count`` times.
    ``nlvl_uniform`` cuts the places off instead.

    Raises:
        ValueError: the video is too short to draw from, or has no frames.
    """
    if length < 1:
        raise ValueError("expected frames, found none")
    if strategy == "uniform":
        return [k * int(length / count) for k in range(count)]
    if strategy == "nlvl_uniform":
        return np.arange(0, length, length / count)[:count].astype(int).tolist()
    half = length // 2
    parts = [(range(length), count)]
    if strategy == "headtail":
        parts = [(range(half), count // 2), (range(half, length), count // 2)]
    if any(len(places) < wanted for places, wanted in parts):
        raise ValueError(f"expected {count} frames or more to draw from, found {length}")
    return [int(k) for places, wanted in parts for k in sorted(draw(places, wanted))]


class Frames(NamedTuple):
    """How frames are read.

    Frames are uint8 (T, 3, S, S), RGB, or after random changes float32 of 0 to 255.
    """

    strategy: Strategy
    count: int  # T
    side: int  # S
    resize: int  # videos are squeezed to this size, and a square of S cut out of them
    augment: bool

    def video(self, path: str, rng: np.random.Generator) -> np.ndarray:
        """Frames of a video file.

        Raises:
            BrokenSample: missing or unreadable, or too short to draw from.
        """
        try:
            video = Video(path, accept_truncated=True)
            chosen = choose_frames(
                self.strategy, video.num_frames, self.count,
                lambda places, count: rng.choice(places, count, replace=False),
            )  # fmt: skip
            found = video.frames(chosen)
        except DataError as error:
            raise BrokenSample(str(error)) from None
        except ValueError as error:
            raise BrokenSample(f"{path}: {error}") from None
        frames = np.stack([squeeze(frame, self.resize)[:, :, ::-1] for frame in found])
        if self.resize != self.side:
            top, left = augment.draw_crop(
                self.resize, self.resize, self.side, lambda a, b: int(rng.integers(a, b + 1))
            )
            frames = frames[:, top : top + self.side, left : left + self.side]
        frames = np.ascontiguousarray(frames)
        if self.augment:
            frames = augment.augment_frames(frames, rng)
        return frames.transpose(0, 3, 1, 2)

    def video_bytes(self, data: bytes, name: str, rng: np.random.Generator) -> np.ndarray:
        """As ``video``, of the content of a file; ``name`` stands in messages."""
        with tempfile.TemporaryDirectory(prefix="vlzoo-") as folder:
            path = os.path.join(folder, "video")
            with open(path, "wb") as file:
                file.write(data)
            try:
                return self.video(path, rng)
            except BrokenSample as error:
                raise BrokenSample(str(error).replace(path, name)) from None

    def picture(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A picture uint8 (3, H, W) as T equal frames; in training a part of it, changed."""
        picture = np.ascontiguousarray(picture.transpose(1, 2, 0))
        if not self.augment:
            made = squeeze(picture, self.side)
        else:
            top, left, height, width = augment.draw_part(*picture.shape[:2], rng)
            part = picture[top : top + height, left : left + width]
            made = augment.resize(part, self.side, self.side)
            made = np.ascontiguousarray(made[:, ::-1] if rng.random() < 0.5 else made)
            ops = augment.draw_picture_ops(rng)
            made = augment.augment(made, ops, augment.PICTURE_LEVEL).astype(np.float32)
        return np.broadcast_to(made.transpose(2, 0, 1), (self.count, 3, self.side, self.side))

    def blank(self) -> np.ndarray:
        """Frames that show nothing."""
        return np.broadcast_to(MEAN, (self.count, 3, self.side, self.side))


def read_picture(data: bytes | None, name: str) -> np.ndarray:
    """A picture as uint8 (3, H, W), RGB; of the content of a file, or without it of the file.

    Raises:
        BrokenSample: missing or unreadable.
    """
    if data is None:
        return read_image(name)
    import cv2

    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if picture is None:
        raise BrokenSample(f"{name}: expected a picture, found nothing readable")
    return np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1))


def squeeze(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame uint8 (H, W, 3) as (side, side, 3), whatever its aspect ratio."""
    import cv2

    return cv2.resize(frame, (side, side), interpolation=cv2.INTER_CUBIC)
