# SPDX-License-Identifier: Apache-2.0
"""Random changes of pictures for training: RandAugment (arXiv:1909.13719), crops.

Pictures are uint8 (H, W, 3), RGB. Random generators are ``numpy.random.Generator`` or
``RandomState``: ``choice`` and ``random`` are used. Source: the released code of MCG and of ALPRO
(arXiv:2112.09583), on which it is based, rounding included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

FRAME_OPS = (
    "Identity", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX",
    "TranslateY", "Rotate", "HorizontalFlip",
)  # fmt: skip
PICTURE_OPS = (
    "Identity", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate",
)  # fmt: skip
_DRAWN = 2  # changes of a picture
FRAME_LEVEL, PICTURE_LEVEL, _TOP_LEVEL = 5, 7, 10
_GREY = (128, 128, 128)  # what comes in at the border
_SHARE = 0.5  # of the drawn changes of a picture that are made


def draw_frame_ops(rng: Any) -> list[str]:
    """Changes for all frames of a video: two different ones."""
    ops = rng.choice(FRAME_OPS, _DRAWN, replace=False)
    return [str(op) for op, used in zip(ops, rng.random(_DRAWN) > 0, strict=True) if used]


def draw_picture_ops(rng: Any) -> list[str]:
    """Changes for a picture: two that may be the same, each left out half of the time."""
    return [str(op) for op in rng.choice(PICTURE_OPS, _DRAWN) if rng.random() <= _SHARE]


def augment(picture: np.ndarray, ops: Sequence[str], level: int) -> np.ndarray:
    """A picture after these changes, one after the other; ``level`` 0 to 10 is how strong."""
    for op in ops:
        picture = OPS[op](picture, level)
    return picture


def augment_frames(frames: np.ndarray, rng: Any) -> np.ndarray:
    """Frames (T, H, W, 3) with the same changes for all of them: float32, 0 to 255."""
    ops = draw_frame_ops(rng)
    return np.stack([augment(frame, ops, FRAME_LEVEL) for frame in frames]).astype(np.float32)


# changes; the direction of a movement is never drawn


def _enhancement(level: int) -> float:
    return level / _TOP_LEVEL * 1.8 + 0.1  # level 5 changes nothing


def _mapped(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Every value replaced by the one at its place in ``values`` (256,)."""
    import cv2

    return cv2.LUT(picture, values.clip(0, 255).astype(np.uint8))


def _contrast(picture: np.ndarray, level: int) -> np.ndarray:
    """Distances from the mean brightness scaled. Weights are those of BGR, as published."""
    mean = (picture.mean(axis=(0, 1)) * np.array([0.114, 0.587, 0.299])).sum()
    return _mapped(picture, (np.arange(256) - mean) * _enhancement(level) + mean)


def _brightness(picture: np.ndarray, level: int) -> np.ndarray:
    return _mapped(picture, np.arange(256, dtype=np.float32) * _enhancement(level))


def _sharpness(picture: np.ndarray, level: int) -> np.ndarray:
    """Away from a blurred picture, all but the border; values wrap around, as published."""
    import cv2

    factor = _enhancement(level)
    if factor == 1:
        return picture
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    blurred = cv2.filter2D(picture, -1, kernel / 13).astype(np.float32)[1:-1, 1:-1]
    changed = picture.copy()
    inside = blurred + np.float32(factor) * (picture[1:-1, 1:-1] - blurred)
    changed[1:-1, 1:-1] = inside.astype(np.int32).astype(np.uint8)
    return changed


def _warp(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    import cv2

    height, width = picture.shape[:2]
    return cv2.warpAffine(
        picture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=_GREY
    )


def _moved(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y]], np.float32)


def _shear(level: int) -> float:
    return level / _TOP_LEVEL * 0.3


def _shear_x(picture: np.ndarray, level: int) -> np.ndarray:
    return _warp(picture, np.array([[1, _shear(level), 0], [0, 1, 0]], np.float32))


def _shear_y(picture: np.ndarray, level: int) -> np.ndarray:
    return _warp(picture, np.array([[1, 0, 0], [_shear(level), 1, 0]], np.float32))


def _rotate(picture: np.ndarray, level: int) -> np.ndarray:
    import cv2

    height, width = picture.shape[:2]
    degrees = level / _TOP_LEVEL * 30
    return _warp(picture, cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1))


OPS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "Identity": lambda picture, level: picture,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": lambda picture, level: _warp(picture, _moved(-level, 0)),
    "TranslateY": lambda picture, level: _warp(picture, _moved(0, -level)),
    "Rotate": _rotate,
    "HorizontalFlip": lambda picture, level: np.ascontiguousarray(picture[:, ::-1]),
}


# crops


def draw_crop(
    height: int, width: int, side: int, integer: Callable[[int, int], int]
) -> tuple[int, int]:
    """Top and left of a square; ``integer(a, b)`` draws one of a to b, both included."""
    return integer(0, height - side), integer(0, width - side)


def draw_part(
    height: int,
    width: int,
    rng: Any,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Top, left, height, width of a part of a picture, of random size and shape.

    Args:
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height.

    Source: torchvision's RandomResizedCrop (a middle part where ten draws do not fit).
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, high = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < wide <= width and 0 < high <= height:
            top, left = (int(rng.random() * (room + 1)) for room in (height - high, width - wide))
            return top, left, high, wide
    wide, high = width, height
    if width / height < ratio[0]:
        high = round(width / ratio[0])
    elif width / height > ratio[1]:
        wide = round(height * ratio[1])
    return (height - high) // 2, (width - wide) // 2, high, wide


# resizing as Pillow does it; OpenCV's bicubic has another kernel and does not smooth

_BITS = 22  # behind the point of a weight


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture (H, W, C) resized, bicubic, smoothed where it shrinks; exactly Pillow's values."""
    tall, wide, depth = picture.shape
    columns = _resample(picture.transpose(1, 0, 2).reshape(wide, -1), width)
    columns = columns.reshape(width, tall, depth).transpose(1, 0, 2)
    return _resample(columns.reshape(tall, -1), height).reshape(height, width, depth)


def _resample(lines: np.ndarray, count: int) -> np.ndarray:
    """Lines uint8 (n, m) to ``count`` lines."""
    length = len(lines)
    scale = length / count
    smooth = max(scale, 1.0)
    lines = lines.astype(np.float64)  # holds whole numbers of this size exactly
    made = np.empty((count, lines.shape[1]))
    for k in range(count):
        middle = (k + 0.5) * scale
        first = max(0, int(middle - 2 * smooth + 0.5))
        end = min(length, int(middle + 2 * smooth + 0.5))
        weights = _cubic((np.arange(first, end) + 0.5 - middle) / smooth)
        weights = np.trunc(weights / weights.sum() * (1 << _BITS) + np.copysign(0.5, weights))
        np.dot(weights, lines[first:end], out=made[k])
    return np.floor(made / (1 << _BITS) + 0.5).clip(0, 255).astype(np.uint8)


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """The kernel of cubic convolution (Keys 1981)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
