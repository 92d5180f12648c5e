# SPDX-License-Identifier: Apache-2.0
"""Pictures read and fitted into squares."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from reader.common.errors import BrokenSample
from reader.common.images import fit, is_extreme, read_image, resized


def test_sizes_are_cut_to_integers():
    assert resized(480, 640, 448) == (336, 448) and resized(640, 480, 448) == (448, 336)
    assert resized(333, 500, 768) == (511, 768) and resized(448, 448, 448) == (448, 448)
    assert resized(1, 1000, 100) == (1, 100)


def test_extreme_pictures():
    assert [is_extreme(100, w) for w in (20, 19, 500, 501)] == [False, True, False, True]


@pytest.mark.parametrize("shape", [(2, 3, 17, 39), (1, 3, 49, 21), (3, 20, 15), (1, 2, 3, 24, 16)])
def test_frames_are_resized_bilinearly_and_padded(shape):
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    height, width = resized(*shape[-2:], 28)
    found = fit(frames, 28)
    assert found.shape == (*shape[:-2], 28, 28) and found.dtype == np.float32
    assert (found[..., height:, :] == 0).all() and (found[..., width:] == 0).all()
    for place in np.ndindex(shape[:-2]):
        expected = cv2.resize(frames[place].astype(np.float64), (width, height))
        assert np.abs(found[place][:height, :width] - expected).max() < 2e-3


def test_frames_of_the_right_size_stay_as_they_are():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 24), np.uint8)
    assert np.array_equal(fit(frames, 24)[..., :16, :], frames)


def test_files_of_any_kind_give_red_green_blue(tmp_path):
    colour, grey = np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 77, np.uint8)
    colour[..., 0] = 200  # blue, as OpenCV has it
    alpha = np.dstack([colour, grey])
    blue, mean = [0, 0, 200], [77, 77, 77]
    cases = ("png", colour, blue), ("png", grey, mean), ("png", alpha, blue), ("jpg", grey, mean)
    for ending, picture, pixel in cases:
        cv2.imwrite(str(tmp_path / f"a.{ending}"), picture)
        found = read_image(tmp_path / f"a.{ending}")
        assert found.shape == (3, 4, 6) and found.dtype == np.uint8 and found.flags.c_contiguous
        assert np.abs(found[:, 1, 1].astype(int) - pixel).max() <= 1


def test_files_that_are_no_pictures(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    for name, message in (("a.png", "nothing readable"), ("b.png", "found nothing")):
        with pytest.raises(BrokenSample) as caught:
            read_image(tmp_path / name)
        assert f"{name}: expected a picture" in str(caught.value) and message in str(caught.value)
