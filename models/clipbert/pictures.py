# SPDX-License-Identifier: Apache-2.0
"""From frames to what the CNN takes: resized, padded, normalised, blue first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F


def resized(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width with the longer one ``side`` pixels; the other is cut to an integer >= 1."""
    if height >= width:
        return side, max(1, int(side * (width / height)))
    return max(1, int(side * (height / width))), side


def resize(frames: paddle.Tensor, side: int) -> paddle.Tensor:
    """Frames (N, 3, H, W) -> float32 (N, 3, h, w): bilinear, not rounded, half-pixel centres."""
    frames, size = frames.astype("float32"), resized(*frames.shape[2:], side)
    if size == tuple(frames.shape[2:]):
        return frames
    return F.interpolate(frames, size, mode="bilinear", align_corners=False)


def pad(frames: paddle.Tensor, side: int) -> paddle.Tensor:
    """Frames (N, 3, h, w) -> (N, 3, side, side): zeros on the right and below."""
    height, width = frames.shape[2:]
    if height == width == side:
        return frames
    return F.pad(frames, [0, side - width, 0, side - height])


def normalise(
    frames: paddle.Tensor, mean: Sequence[float], deviation: Sequence[float]
) -> paddle.Tensor:
    """(frames - mean) / deviation of frames (N, 3, H, W) of 0 to 255, three numbers each.

    A mean of at most 1 is one of frames of 0 to 1, which these may be, too.
    """
    frames = frames.astype("float32")
    scale = 255.0 if max(mean) <= 1 and frames.max().item() > 1 else 1.0
    shift, rate = (np.array(x, np.float32).reshape(3, 1, 1) for x in (mean, deviation))
    shift, rate = paddle.to_tensor(shift * scale), paddle.to_tensor(1 / (rate * scale))
    return (frames - shift) * rate


def prepared(
    frames: paddle.Tensor, side: int | None, mean: Sequence[float], deviation: Sequence[float]
) -> paddle.Tensor:
    """RGB frames (N, 3, H, W) -> float32 BGR (N, 3, h, w).

    Args:
        side: of the square that uint8 frames are fitted into; None: they are taken as they are, as
            float frames always are.
    """
    if side is not None and frames.dtype == paddle.uint8:
        frames = pad(resize(frames, side), side)
    # an order of channels by gather: 100 times as fast as flip on CPU
    return paddle.gather(normalise(frames, mean, deviation), paddle.to_tensor([2, 1, 0]), axis=1)
