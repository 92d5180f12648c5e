# SPDX-License-Identifier: Apache-2.0
"""Features of boxes: resizing, cutting out, averaging, PCA, published names, mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine import build
from engine.errors import WeightsError
from models.extractors.errors import WeightsFileError
from models.extractors.region_cnn import Extractor

SMALL = {"blocks": [1, 2, 1], "width": 2, "side": 48}
BOXES = np.array([[3, 4, 40, 30], [0, 0, 64, 48], [30.5, 10.25, 33, 47]], np.float32)


def frame(seed=0, height=48, width=64):
    """A picture that is not noise: smooth and different in every channel."""
    import cv2

    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module", params=["caffe", "detectron2"])
def extractor(request):
    return Extractor(**SMALL, variant=request.param, init_seed=1)


def test_frames_together_or_alone(extractor):
    frames = np.stack([frame(0), frame(1), frame(2)])
    boxes = [BOXES[:2], BOXES[:0], BOXES]
    found = extractor.features_of(frames, boxes)
    assert [value.shape for value in found] == [(2, 32), (0, 32), (3, 32)]
    for picture, box, value in zip(frames, boxes, found, strict=True):
        np.testing.assert_allclose(value, extractor.features(picture, box), rtol=1e-4, atol=1e-4)
        assert value.dtype == np.float32
    assert np.abs(found[0] - found[2][:2]).max() > 0.1  # other pictures give other features
    assert np.abs(found[2][0] - found[2][1]).max() > 0.1  # so do other boxes
    assert not extractor.features_of(frames, [BOXES[:0]] * 3)[0].size


def test_boxes_are_in_pixels_of_the_frame(extractor):
    """A frame of twice the size with its boxes, resized to the same side, gives about the same."""
    picture = frame()
    double = picture.repeat(2, 0).repeat(2, 1)
    found = extractor.features(double, 2 * BOXES)
    np.testing.assert_allclose(found, extractor.features(picture, BOXES), rtol=0.05, atol=0.5)


def test_preprocess():
    """BGR minus mean; the shorter side as asked for, unless the longer one would pass its limit."""
    net = Extractor(**SMALL, max_side=60, mean=[1, 2, 3], init_seed=1)
    picture = np.zeros((30, 40, 3), np.uint8) + np.array([13, 22, 31], np.uint8)
    found, scale = net.preprocess(picture[None])
    assert found.shape == (1, 3, 45, 60)
    assert scale == 1.5
    np.testing.assert_allclose(found[0, :, 7, 9], [30, 20, 10])
    found, scale = net.preprocess(np.zeros((2, 60, 48, 3), np.uint8))
    assert (found.shape, scale) == ((2, 3, 60, 48), 1)


def roi_pool(maps, box, scale):
    """Maximum over 14 x 14 parts of a box, as Caffe's layer rounds them: [C, 14, 14]."""
    left, top, right, bottom = np.floor(box * scale + 0.5).astype(int)
    height, width = max(bottom - top + 1, 1), max(right - left + 1, 1)
    result = np.zeros((len(maps), 14, 14), np.float32)
    for row in range(14):
        for column in range(14):
            y1, y2 = top + row * height // 14, top - (-(row + 1) * height // 14)
            x1, x2 = left + column * width // 14, left - (-(column + 1) * width // 14)
            part = maps[:, max(y1, 0) : y2, max(x1, 0) : x2]
            if part.size:
                result[:, row, column] = part.max((1, 2))
    return result


def test_caffe_variant_cuts_boxes_as_caffe_does():
    net = Extractor(**SMALL, variant="caffe", init_seed=1)
    assert net.stride == 8
    maps = np.random.default_rng(0).normal(size=(2, 3, 25, 30)).astype(np.float32)
    boxes = np.array([[0, 0, 239, 199], [21, 33, 170, 121], [50, 60, 55, 190]], np.float32)
    which = (0, 1, 1)
    found = net.crops(maps, boxes, np.array([1, 2], np.int32))
    for value, box, number in zip(found, boxes, which, strict=True):
        np.testing.assert_array_equal(value, roi_pool(maps[number], box, 1 / 8))


def test_detectron2_variant_interpolates():
    """On a map that is a plane, a part's value is the plane at its centre."""
    net = Extractor(**SMALL, variant="detectron2", init_seed=1)
    rows, columns = np.mgrid[:25, :30] + 0.5  # centres, in cells of the map
    maps = np.stack([columns, rows])[None].astype(np.float32)
    box = np.array([[40, 24, 168, 152]], np.float32)  # 8 pixels a cell: 5..21 by 3..19
    found = net.crops(maps, box, np.array([1], np.int32))[0]
    centres = (np.arange(14) + 0.5) * 16 / 14
    np.testing.assert_allclose(found[0], np.broadcast_to(5 + centres, (14, 14)), atol=1e-4)
    np.testing.assert_allclose(found[1], np.broadcast_to(3 + centres, (14, 14)).T, atol=1e-4)


def test_cells_lie_side_by_side(extractor):
    """Averages of the four quarters; their mean is pool5 where the map's size is even."""
    quarters = Extractor(**SMALL, variant=extractor.variant, cells=2, init_seed=1)
    found = quarters.features(frame(), BOXES).reshape(3, 32, 2, 2)
    if extractor.variant == "caffe":
        pool5 = extractor.features(frame(), BOXES)
        np.testing.assert_allclose(found.mean((2, 3)), pool5, rtol=1e-4, atol=1e-4)
    assert np.abs(found - found.mean((2, 3), keepdims=True)).max() > 0.1


def test_compiled_programs_give_the_same(extractor):
    lines = []
    frozen = Extractor(**SMALL, variant=extractor.variant, init_seed=1)
    frozen.freeze(lines.append)
    for picture in (frame(0), frame(1), frame(2, 64, 48)):
        expected = extractor.features(picture, BOXES)
        found = frozen.features(picture, BOXES)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert len(lines) == 3  # the head, and the backbone for two sizes of frames


def test_published_variant():
    """Strides and dilation of bottom-up attention; its vectors have 2048 numbers."""
    net = Extractor(blocks=[1, 1, 1, 1], init_seed=1)
    assert net.dim == 2048
    assert net.stride == 16
    block = net.head[0]
    assert block.conv1._stride == block.shortcut._stride == [1, 1]
    assert block.conv2._dilation == [2, 2]
    assert net.backbone.stem.pool == "ceil"
    assert net.identity["mean"] == [102.9801, 115.9465, 122.7717]
    assert Extractor(**SMALL, init_seed=1, cells=3).dim == 9 * 32


def test_random_weights_depend_on_the_seed():
    first, same, other = (Extractor(**SMALL, init_seed=seed) for seed in (1, 1, 2))
    value = first.features(frame(), BOXES)
    np.testing.assert_array_equal(value, same.features(frame(), BOXES))
    assert np.abs(value - other.features(frame(), BOXES)).max() > 0.1


def test_pca(tmp_path):
    rng = np.random.default_rng(0)
    mean, components = rng.normal(size=32), rng.normal(size=(5, 32))
    path = tmp_path / "pca.npz"
    np.savez(path, mean=mean, components=components)
    plain = Extractor(**SMALL, init_seed=1)
    net = Extractor(**SMALL, init_seed=1, pca=str(path))
    assert (net.dim, net.features(frame(), BOXES[:0]).shape) == (5, (0, 5))
    expected = (plain.features(frame(), BOXES) - mean) @ components.T
    np.testing.assert_allclose(net.features(frame(), BOXES), expected, rtol=1e-4, atol=1e-3)
    assert len(net.identity["pca"]) == 64
    np.savez(path, mean=mean, components=-components)
    assert Extractor(**SMALL, init_seed=1, pca=str(path)).identity != net.identity


def test_identity():
    changes = ({}, {"blocks": [1, 1, 1]}, {"side": 64}, {"cells": 2}, {"mean": [1, 2, 3]})
    changes += ({"width": 4}, {"variant": "detectron2"}, {"max_side": 99})
    identities = [Extractor(**{**SMALL, **c}, init_seed=1).identity for c in changes]
    assert len({json.dumps(identity) for identity in identities}) == len(changes)


def test_published_names(tmp_path):
    """Detectron2's names, with heads that are not needed, of a file without statistics."""
    net = Extractor(**SMALL, init_seed=1)
    state = {"roi_heads.box_predictor.cls_score.weight": np.zeros((3, 32), np.float32)}
    state["proposal_generator.rpn_head.conv.weight"] = np.zeros(3, np.float32)
    for name, value in net.state_dict().items():
        if "running" not in name:
            state[name.replace("head.", "roi_heads.res5.")] = value.numpy()
    path = tmp_path / "faster_rcnn.npz"
    np.savez(path, **state)
    found = build.build_extractor("region_cnn", weights=str(path), **SMALL)
    expected = net.features(frame(), BOXES)
    np.testing.assert_allclose(found.features(frame(), BOXES), expected, rtol=1e-4, atol=1e-4)
    assert Extractor.convert(net.state_dict()).keys() == net.state_dict().keys()
    with pytest.raises(WeightsError, match=r"found nothing there; .*faster_rcnn_from_caffe"):
        build.build_extractor("region_cnn", weights="nowhere/at.all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": [3]}, r"2 to 4 counts of blocks, .* found \[3\]"),
        ({"blocks": [1, 0, 1]}, "counts of blocks"),
        ({"cells": 8}, "cells from 1 to 7, found .* 8"),
        ({"side": 16}, "side from 32"),
        ({"max_side": 40}, "side from 32 to max_side .* found 48, 40"),
        ({"mean": [1, 2]}, "three means"),
        ({"variant": "resnet"}, "caffe or detectron2, found 'resnet'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Extractor(**{**SMALL, **options}, init_seed=1)


def test_wrong_pca(tmp_path):
    path = tmp_path / "pca.npz"
    with pytest.raises(WeightsFileError, match=r"pca.npz: expected a PCA .* No such file"):
        Extractor(**SMALL, init_seed=1, pca=str(path))
    np.savez(path, mean=np.zeros(32))
    with pytest.raises(WeightsFileError, match="components"):
        Extractor(**SMALL, init_seed=1, pca=str(path))
    np.savez(path, mean=np.zeros(32), components=np.zeros((3, 31)))
    with pytest.raises(WeightsFileError, match=r"PCA of 32 numbers, found .* \(3, 31\)"):
        Extractor(**SMALL, init_seed=1, pca=str(path))
    path.write_bytes(b"not an archive")
    with pytest.raises(WeightsFileError, match="expected a PCA"):
        Extractor(**SMALL, init_seed=1, pca=str(path))
