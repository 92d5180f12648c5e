# SPDX-License-Identifier: Apache-2.0
"""Features of given boxes, as bottom-up attention makes them (Anderson et al., arXiv:1707.07998).

A ResNet's last stage runs on each box of the map before it, and its result is averaged: "pool5" of
a Faster R-CNN with C4 head. Boxes come from a detector or a person; none are proposed here.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ..layers.resnet import BATCH_NORM_EPSILON, ResNet, stage
from .errors import WeightsFileError
from .frozen import compiled

CELLS = 14  # rows and columns of a box on the map
OURS = re.compile(r"backbone\.(stem|res\d)\.|head\.")


class RegionCNN(nn.Layer):
    """ResNet that gives one vector per box.

    Args:
        blocks: bottlenecks of each stage; the last stage runs on the boxes. (3, 4, 23, 3) is
            ResNet-101; fewer stages keep more detail: with n stages a box is cut from a map that is
            2^n times smaller than the frame.
        width: of the first bottlenecks.
        variant: `caffe`, the published bottom-up attention network: first pool without padding,
            boxes by RoIPool, last stage of stride 1 with dilation 2; or `detectron2`: padded pool,
            RoIAlign, last stage of stride 2.
        side: frames are resized so that their shorter side has so many pixels,
        max_side: and the longer one at most so many.
        cells: a box is averaged in cells x cells parts, side by side in the vector; 1 is pool5.
        mean: three numbers (blue, green, red) to subtract.
        pca: `.npz` with `mean` [D] and `components` [d, D]: what is given out are the d numbers
            components (x - mean).
        init_seed: draw parameters from this seed, He-scaled.

    Raises:
        ValueError: an option of wrong length or value.
        WeightsFileError: the PCA file is missing, damaged or of another shape.
    """

    source = (  # of weights, for the error when there are none
        "take a ResNet-101 Faster R-CNN trained on Visual Genome with Detectron2's names, such as "
        "faster_rcnn_from_caffe.pkl of airsplay/py-bottom-up-attention"
    )

    def __init__(
        self,
        blocks: list[int] = (3, 4, 23, 3),
        width: int = 64,
        variant: Literal["caffe", "detectron2"] = "caffe",
        side: int = 600,
        max_side: int = 1000,
        cells: int = 1,
        mean: list[float] = (102.9801, 115.9465, 122.7717),
        pca: str | None = None,
        init_seed: int | None = None,
    ):
        super().__init__()
        _check(blocks, width, variant, side, max_side, cells, mean)
        self.variant, self.side, self.max_side, self.cells = variant, side, max_side, cells
        caffe = variant == "caffe"
        self.backbone = ResNet(blocks[:-1], width, stem_pool="ceil" if caffe else "padded")
        self.stride = 1 << len(blocks)  # of the map that boxes are cut from
        before, last = self.backbone.channels, width << len(blocks) - 1
        stride, dilation = (1, 2) if caffe else (2, 1)
        self.head = stage(before, last, 2 * before, blocks[-1], stride, dilation=dilation)
        self._mean = np.array(mean, np.float32)
        self._log: Callable[[str], None] | None = None
        self._programs: dict[tuple, Callable[[np.ndarray], np.ndarray]] = {}
        if init_seed is not None:
            _draw(self, init_seed)
        self.identity = {
            "name": "region_cnn",
            "blocks": [int(count) for count in blocks],
            "width": width,
            "variant": variant,
            "side": side,
            "max_side": max_side,
            "cells": cells,
            "mean": list(mean),
        }
        self.dim = 2 * before * cells * cells
        self._pca: tuple[np.ndarray, np.ndarray] | None = None
        if pca is not None:
            self._pca = _read_pca(pca, self.dim)
            self.identity["pca"] = _digest(self._pca)
            self.dim = len(self._pca[1])
        self.eval()

    def features(self, frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Features of the boxes of one frame; see `features_of`: float32 [n, dim]."""
        return self.features_of(frame[None], [boxes])[0]

    def features_of(self, frames: np.ndarray, boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features of the boxes of frames of one size, computed together.

        Args:
            frames: uint8 [N, H, W, 3], RGB.
            boxes: of each frame, [n, 4] as (x1, y1, x2, y2) in its pixels; n may be 0.

        Returns:
            Of each frame, float32 [n, dim].
        """
        counts = [len(part) for part in boxes]
        values = np.zeros((sum(counts), self.dim), np.float32)
        if len(values):
            flat = np.concatenate([np.asarray(b, np.float32).reshape(-1, 4) for b in boxes])
            values = self._run(frames, flat, np.array(counts, np.int32))
        return np.split(values, np.cumsum(counts)[:-1])

    @paddle.no_grad()
    def _run(self, frames: np.ndarray, boxes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        pictures, scale = self.preprocess(frames)
        maps = self._apply("backbone", pictures)
        x = self._apply("head", self.crops(maps, boxes * scale, counts))
        x = F.adaptive_avg_pool2d(paddle.to_tensor(x), self.cells).flatten(1).numpy()
        if self._pca is None:
            return x
        mean, components = self._pca
        return (x - mean) @ components.T

    def crops(self, maps: np.ndarray, boxes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """What boxes show of the backbone's maps: float32 [sum(counts), C, 14, 14].

        Args:
            maps: float32 [N, C, H / stride, W / stride].
            boxes: float32 [sum(counts), 4] in pixels of the resized frames, frame by frame.
            counts: int32 [N], boxes of each frame.
        """
        ops, scale = paddle.vision.ops, 1 / self.stride
        tensors = [paddle.to_tensor(array) for array in (maps, boxes, counts)]
        if self.variant == "caffe":
            return ops.roi_pool(*tensors, CELLS, scale).numpy()
        return ops.roi_align(*tensors, CELLS, scale, aligned=True).numpy()

    def freeze(self, log: Callable[[str], None] | None = None) -> None:
        """On CPU run both halves through compiled oneDNN programs where that works.

        The parameters must be final. A program is made when frames of a new size come; what became
        of it is told to `log` in one line.
        """
        self._log = log or (lambda line: None)

    def _apply(self, part: str, array: np.ndarray) -> np.ndarray:
        net, key = getattr(self, part), (part, array.shape[1:])

        def eager(array: np.ndarray) -> np.ndarray:
            with paddle.no_grad():
                return net(paddle.to_tensor(array)).numpy()

        if self._log is None:
            return eager(array)
        if key not in self._programs:
            self._programs[key] = compiled(net, eager, array[:1], self._log) or eager
        return self._programs[key](array)

    def preprocess(self, frames: np.ndarray) -> tuple[np.ndarray, float]:
        """Resized frames float32 [N, 3, H, W], BGR minus mean, and how much they were scaled."""
        import cv2

        height, width = frames.shape[1:3]
        scale = min(self.side / min(height, width), self.max_side / max(height, width))
        pictures = frames[..., ::-1].astype(np.float32) - self._mean
        if scale != 1:
            size = round(width * scale), round(height * scale)
            pictures = np.stack([cv2.resize(picture, size) for picture in pictures])
        return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)), scale

    @staticmethod
    def convert(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Own names from Detectron2's: `backbone.res2...` stay, `roi_heads.res5...` is the head.

        Proposals, class and attribute predictors are dropped. Files that were made of Caffe models
        may lack means and variances, which are in the weights then: those that change nothing are
        filled in. Written from Detectron2's code, not tried on a published file.
        """
        result = {}
        for name, value in state.items():
            name = re.sub(r"^(?:module\.)?roi_heads\.res\d\.", "head.", name)
            name = name.removeprefix("module.")
            if OURS.match(name):
                result[name] = value
        for name in [name for name in result if name.endswith("norm.bias")]:
            norm, zeros = name.removesuffix("bias"), np.zeros_like(result[name])
            result.setdefault(norm + "running_mean", zeros)
            result.setdefault(norm + "running_var", zeros + 1 - BATCH_NORM_EPSILON)
        return result


Extractor = RegionCNN


def _check(
    blocks: list[int],
    width: int,
    variant: str,
    side: int,
    max_side: int,
    cells: int,
    mean: list[float],
) -> None:
    if not 2 <= len(blocks) <= 4 or min(*blocks, width, cells) < 1 or cells > CELLS // 2:
        raise ValueError(
            f"region_cnn: expected 2 to 4 counts of blocks, a width from 1 and cells from 1 to "
            f"{CELLS // 2}, found {list(blocks)}, {width} and {cells}"
        )
    if side < 32 or max_side < side or len(mean) != 3:
        raise ValueError(
            f"region_cnn: expected a side from 32 to max_side and three means (blue, green, red), "
            f"found {side}, {max_side} and {list(mean)}"
        )
    if variant not in ("caffe", "detectron2"):
        raise ValueError(f"region_cnn: expected variant caffe or detectron2, found {variant!r}")


def _draw(net: nn.Layer, seed: int) -> None:
    """He-scaled normal weights; each depends on the seed and its name only."""
    for name, parameter in net.named_parameters():
        stream = np.random.RandomState([seed & 0xFFFFFFFF, zlib.crc32(name.encode())])
        scale = np.sqrt(2 / np.prod(parameter.shape[1:]))
        parameter.set_value((stream.standard_normal(parameter.shape) * scale).astype(np.float32))


def _read_pca(path: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [size] and components [d, size], float32."""
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, components = (file[n].astype(np.float32) for n in ("mean", "components"))
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsFileError(
            f"{path}: expected a PCA of regions, an .npz with mean and components: {reason}"
        ) from None
    if mean.shape != (size,) or components.ndim != 2 or components.shape[1] != size:
        raise WeightsFileError(
            f"{path}: expected a PCA of {size} numbers, found mean {mean.shape} and components "
            f"{components.shape}; fit it with this network's options"
        )
    return mean, components


def _digest(arrays: Sequence[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
