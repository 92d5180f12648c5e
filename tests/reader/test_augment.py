# SPDX-License-Identifier: Apache-2.0
"""Random changes of pictures; their values are compared in tests/golden/mcg."""

from __future__ import annotations

import numpy as np
import pytest

from reader.common import augment


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


class Fixed:
    """A generator that draws what it is told."""

    def __init__(self, ops, values):
        self.ops, self.values = ops, list(values)

    def choice(self, names, count, replace=True):
        assert count == len(self.ops) and set(self.ops) <= set(names)
        return np.array(self.ops)

    def random(self, size=None):
        if size is None:
            return self.values.pop(0)
        return np.array([self.values.pop(0) for _ in range(size)])


def test_frames_get_the_same_changes(picture):
    frames = np.stack([picture, picture, picture[::-1]])
    changed = augment.augment_frames(frames, Fixed(["Rotate", "HorizontalFlip"], [0.1, 0.9]))
    assert changed.dtype == np.float32 and changed.shape == frames.shape
    assert np.array_equal(changed[0], changed[1]) and not np.array_equal(changed[0], changed[2])
    one = augment.augment(picture, ["Rotate", "HorizontalFlip"], 5)
    assert np.array_equal(changed[0], one)


def test_which_changes_are_made(picture):
    drawn = [augment.draw_frame_ops(np.random.default_rng(k)) for k in range(200)]
    assert all(len(set(ops)) == 2 for ops in drawn)
    assert {op for ops in drawn for op in ops} == set(augment.FRAME_OPS) == set(augment.OPS)
    drawn = [augment.draw_picture_ops(np.random.default_rng(k)) for k in range(400)]
    assert {len(ops) for ops in drawn} == {0, 1, 2}
    assert any(len(ops) == 2 and ops[0] == ops[1] for ops in drawn)
    assert {op for ops in drawn for op in ops} == set(augment.PICTURE_OPS)
    assert augment.draw_picture_ops(Fixed(["Rotate", "ShearX"], [0.5, 0.51])) == ["Rotate"]


@pytest.mark.parametrize("op", ["Identity", "Contrast", "Brightness", "Sharpness"])
def test_level_5_leaves_values_alone(picture, op):
    assert np.abs(augment.OPS[op](picture, 5).astype(int) - picture).max() <= 1
    changed = augment.OPS[op](picture, 8)
    assert changed.dtype == np.uint8 and np.array_equal(changed, picture) == (op == "Identity")


def test_movements_bring_in_grey(picture):
    moved = augment.OPS["TranslateX"](picture, 7)
    assert np.array_equal(moved[:, :-7], picture[:, 7:]) and (moved[:, -7:] == 128).all()
    moved = augment.OPS["TranslateY"](picture, 3)
    assert np.array_equal(moved[:-3], picture[3:]) and (moved[-3:] == 128).all()
    for op in ("ShearX", "ShearY", "Rotate"):
        assert (augment.OPS[op](picture, 5) == 128).all(-1).sum() > 5


def test_sharpness_wraps_around_and_keeps_the_border():
    picture = np.full((5, 5, 3), 250, np.uint8)
    picture[2, 2] = 0
    changed = augment.OPS["Sharpness"](picture, 10)
    assert (changed[0] == 250).all() and changed[2, 2, 0] > 100  # below 0: counted from 256 down
    assert (changed[1, 1] < 20).all()  # above 255: counted from 0 up


def test_crops_stay_inside():
    drawn = [augment.draw_crop(9, 11, 6, lambda a, b: b) for _ in range(2)]
    assert drawn == [(3, 5)] * 2
    calls = []
    augment.draw_crop(9, 11, 6, lambda a, b: calls.append((a, b)) or 0)
    assert calls == [(0, 3), (0, 5)]
    rng = np.random.default_rng(0)
    shares = []
    for height, width in [(200, 300)] * 200 + [(1, 1), (400, 2), (2, 400)] * 20:
        top, left, high, wide = augment.draw_part(height, width, rng)
        assert top >= 0 and left >= 0 and high > 0 and wide > 0
        assert top + high <= height and left + wide <= width
        shares.append(high * wide / (height * width))
    assert 0.19 < min(shares[:200]) < 0.3 and 0.8 < max(shares[:200]) <= 1
    assert augment.draw_part(400, 2, rng) == (198, 0, 3, 2)  # nothing fits: the middle


def test_resizing_smooths_what_shrinks(picture):
    assert np.array_equal(augment.resize(picture, 30, 40), picture)
    plain = np.full((17, 23, 3), 77, np.uint8)
    for size in ((5, 40), (40, 5), (1, 1)):
        assert (augment.resize(plain, *size) == 77).all()
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(augment.resize(stripes, 8, 8).astype(int) - 100).max() < 12


def test_resizing_equals_pillow(picture):
    image = pytest.importorskip("PIL.Image")
    for height, width in ((7, 9), (64, 50), (30, 11), (1, 80)):
        expected = image.fromarray(picture).resize((width, height), image.Resampling.BICUBIC)
        assert np.array_equal(augment.resize(picture, height, width), np.asarray(expected))
