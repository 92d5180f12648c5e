# SPDX-License-Identifier: Apache-2.0
"""Pictures as arrays (3, H, W), RGB: read, fitted into a square."""

from __future__ import annotations

import os

import numpy as np

from .errors import BrokenSample

_EXTREME = 5  # longer side / shorter side


def read_image(path: str | os.PathLike) -> np.ndarray:
    """A picture file as uint8 (3, H, W), also one in shades of grey.

    Raises:
        BrokenSample: missing or unreadable.
    """
    import cv2

    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        found = "nothing readable" if os.path.exists(path) else "nothing"
        raise BrokenSample(f"{path}: expected a picture, found {found}")
    return np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1))


def is_extreme(height: int, width: int) -> bool:
    """Is a picture so long and thin that it is not used for training?"""
    return max(height, width) / min(height, width) > _EXTREME


def resized(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width with the longer one ``side`` pixels; the other is cut to an integer >= 1."""
    if height >= width:
        return side, max(1, int(side * (width / height)))
    return max(1, int(side * (height / width))), side


def fit(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames (..., H, W) resized and padded with zeros right and below: float32 (..., S, S).

    Bilinear with half-pixel centres, without smoothing and rounding, as networks were trained with;
    OpenCV's places are less exact.
    """
    height, width = resized(*frames.shape[-2:], side)
    top, bottom, down = _neighbours(frames.shape[-2], height)
    left, right, along = _neighbours(frames.shape[-1], width)
    down = down[:, None]
    up, back = 1 - down, 1 - along
    squares = np.zeros((*frames.shape[:-2], side, side), np.float32)
    for place in np.ndindex(frames.shape[:-2]):  # planes fit into the processor's cache
        plane = frames[place]
        rows = plane[top] * up + plane[bottom] * down
        squares[place][:height, :width] = rows[:, left] * back + rows[:, right] * along
    return squares


def _neighbours(length: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper neighbour of every new pixel, and the share of the upper one, float32."""
    half = np.float32(0.5)
    places = (np.arange(target, dtype=np.float32) + half) * np.float32(length / target) - half
    places = np.maximum(places, np.float32(0))
    lower = np.minimum(places.astype(np.int64), length - 1)
    return lower, np.minimum(lower + 1, length - 1), places - lower.astype(np.float32)
