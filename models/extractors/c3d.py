# SPDX-License-Identifier: Apache-2.0
"""C3D (Tran et al., arXiv:1412.0767), whose fc6 activation is the visual feature of TALL.

A window is shown as 16 frames, resized to 171x128 without regard to aspect, cropped to the centre
112x112, BGR, minus a mean. All convolutions are 3x3x3 with padding 1, all pools take the maximum.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from .caffe import read_binaryproto, read_caffemodel
from .errors import WeightsFileError

CONVS = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
DENSE = ("fc6", "fc7", "fc8")
CLIP, HEIGHT, WIDTH, TOP, LEFT, SIDE = 16, 128, 171, 8, 29, 112  # frames, pixels


class C3D(nn.Layer):
    """C3D as a frozen extractor of fc6 features (after ReLU, as the Caffe extractor writes them).

    Args:
        widths: channels of the eight convolutions, conv1a to conv5b.
        fc_dims: sizes of fc6, fc7 and fc8; the feature is fc6, the others are for comparisons.
        pool5: `ceil` as in Caffe; `padded` for weights trained with a PyTorch port (same shapes,
            other windows).
        mode: `uniform16`, 16 frames spread over the window (what TALL's authors did), or `mean16`,
            the average over its consecutive 16-frame units.
        mean: three numbers (blue, green, red), or the mean cube: `.binaryproto` or `.npy`,
            [3, 16, 128, 171].
        side: pixels of the square crop; other sizes than 112 scale resize and crop alike.
        init_seed: draw parameters from this seed: He-scaled, so that activations keep their size.

    Raises:
        ValueError: an option of wrong length or value.
        WeightsFileError: the mean file is missing, damaged or of another shape.
    """

    source = (  # of weights, for the error when there are none
        "take the Caffe model conv3d_deepnetA_sport1m_iter_1900000 of the C3D project "
        "(facebookarchive/C3D), or, with pool5: padded, the PyTorch port https://download.openmmlab"
        ".com/mmaction/recognition/c3d/c3d_sports1m_pretrain_20201016-dcc47ddc.pth"
    )

    def __init__(
        self,
        widths: list[int] = (64, 128, 256, 256, 512, 512, 512, 512),
        fc_dims: list[int] = (4096,),
        pool5: Literal["ceil", "padded"] = "ceil",
        mode: Literal["uniform16", "mean16"] = "uniform16",
        mean: list[float] | str = (104.0, 117.0, 128.0),
        side: int = SIDE,
        init_seed: int | None = None,
    ):
        super().__init__()
        _check(widths, fc_dims, pool5, mode, side)
        self.pool5, self.mode, self.side, self.dim = pool5, mode, side, int(fc_dims[0])
        for name, before, width in zip(CONVS, (3, *widths), widths, strict=False):
            self.add_sublayer(name, nn.Conv3D(before, width, 3, padding=1))
        last = -(-side // CLIP)  # rows of conv5b
        rows = (last + 1) // 2 if pool5 == "ceil" else last // 2 + 1
        sizes = (widths[-1] * rows**2, *fc_dims)
        for name, before, size in zip(DENSE, sizes, fc_dims, strict=False):
            self.add_sublayer(name, nn.Linear(before, size))
        array = _mean(mean, side)
        self.register_buffer("mean", paddle.to_tensor(array), persistable=False)
        if init_seed is not None:
            _draw(self, init_seed)
        self.identity = {
            "name": "c3d",
            "feature": "fc6",
            "widths": [int(w) for w in widths],
            "dim": self.dim,
            "pool5": pool5,
            "mode": mode,
            "side": side,
            "mean": hashlib.sha256(array.tobytes()).hexdigest() if array.size > 3 else list(mean),
        }
        self._run: Callable[[np.ndarray], np.ndarray] = self._eager
        self.eval()

    def forward(self, clips: paddle.Tensor) -> paddle.Tensor:
        """Features of cropped clips.

        Args:
            clips: uint8 or float32 [N, 16, side, side, 3], BGR, 0 to 255.

        Returns:
            float32 [N, dim], not negative.
        """
        return F.relu(self.fc6(paddle.flatten(self._pooled(clips), 1)))

    def _pooled(self, clips: paddle.Tensor, seen: dict | None = None) -> paddle.Tensor:
        """pool5 [N, C, 1, 4, 4] of clips; puts pool4 and conv5b into `seen` when given."""
        x = clips.astype("float32").transpose([0, 4, 1, 2, 3]) - self.mean  # (N, 3, T, H, W)
        x = F.max_pool3d(F.relu(self.conv1a(x)), (1, 2, 2), (1, 2, 2), ceil_mode=True)
        x = F.max_pool3d(F.relu(self.conv2a(x)), 2, 2, ceil_mode=True)
        for stage in (3, 4, 5):
            x = F.relu(getattr(self, f"conv{stage}a")(x))
            x = F.relu(getattr(self, f"conv{stage}b")(x))
            if stage < 5:
                x = F.max_pool3d(x, 2, 2, ceil_mode=True)
            if seen is not None and stage > 3:
                seen["pool4" if stage == 4 else "conv5b"] = x
        # 7 rows become 4: {0,1} {2,3} {4,5} {6} in Caffe, {0} {1,2} {3,4} {5,6} with padding
        if self.pool5 == "ceil":
            return F.max_pool3d(x, 2, 2, ceil_mode=True)
        return F.max_pool3d(x, 2, 2, padding=(0, 1, 1))

    @paddle.no_grad()
    def activations(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """Every named activation, for comparison with other implementations.

        Returns:
            pool4, conv5b, pool5 [N, C, T, H, W], fc6_pre, fc6, fc7 (after ReLU), prob; the last two
            only if the network has these layers.
        """
        seen: dict[str, paddle.Tensor] = {}
        seen["pool5"] = self._pooled(paddle.to_tensor(clips), seen)
        seen["fc6_pre"] = self.fc6(paddle.flatten(seen["pool5"], 1))
        seen["fc6"] = F.relu(seen["fc6_pre"])
        if hasattr(self, "fc7"):
            seen["fc7"] = F.relu(self.fc7(seen["fc6"]))
        if hasattr(self, "fc8"):
            seen["prob"] = F.softmax(self.fc8(seen["fc7"]))
        return {name: value.numpy() for name, value in seen.items()}

    def features(self, clips: np.ndarray) -> np.ndarray:
        """Features of cropped clips: uint8 [N, 16, side, side, 3] BGR to float32 [N, dim]."""
        return self._run(np.ascontiguousarray(clips))

    @paddle.no_grad()
    def _eager(self, clips: np.ndarray) -> np.ndarray:
        return self(paddle.to_tensor(clips)).numpy()

    def freeze(self, log: Callable[[str], None] | None = None) -> bool:
        """On CPU run `features` through a compiled oneDNN program if that works; True if it does.

        The parameters must be final. Whatever happens is told to `log` in one line; a second call
        does nothing.
        """
        from .frozen import compiled

        if self._run != self._eager:
            return True
        shape = (1, CLIP, self.side, self.side, 3)
        probe = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
        program = compiled(self, self._eager, probe, log or (lambda line: None))
        self._run = program or self._eager
        return program is not None

    def positions(self, length: int) -> np.ndarray:
        """Offsets of the frames to show of a window of `length` frames: int [clips, 16].

        A window's feature is the mean over its clips: one for `uniform16` (offsets floor(i
        length/16)), length // 16 for `mean16` (one as above if the window is shorter).
        """
        if length < 1:
            raise ValueError(f"c3d: expected a window of at least one frame, found {length}")
        if self.mode == "uniform16" or length < CLIP:
            return (np.arange(CLIP) * length // CLIP)[None]
        return np.arange(length // CLIP * CLIP).reshape(-1, CLIP)

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """A decoded frame uint8 [H, W, 3] BGR, resized and cropped: uint8 [side, side, 3].

        The resize is OpenCV's bilinear one, as in the Caffe extractor.
        """
        import cv2

        height, width, top, left = (n * self.side // SIDE for n in (HEIGHT, WIDTH, TOP, LEFT))
        resized = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
        return resized[top : top + self.side, left : left + self.side]

    @staticmethod
    def read_file(path: str | os.PathLike) -> dict[str, np.ndarray] | None:
        """State of a Caffe model (`.caffemodel` or no suffix), in Caffe's names; else None."""
        if Path(path).suffix not in ("", ".caffemodel") or not Path(path).is_file():
            return None
        kinds = ("weight", "bias")
        layers = read_caffemodel(path)
        return {f"{n}.{k}": b for n, bs in layers.items() for k, b in zip(kinds, bs, strict=False)}

    @staticmethod
    def convert(state: dict[str, np.ndarray], head: bool = False) -> dict[str, np.ndarray]:
        """Own names and layout from those of Caffe, mmaction2 or c3d-pytorch.

        Caffe: `fc6-1.weight`, with leading dimensions of 1; mmaction2: `conv1a.conv.weight`, with
        or without `backbone.`, and `cls_head.fc_cls.weight`; c3d-pytorch: `conv1.weight`. All of
        them store dense weights [out, in], ours are [in, out]; which it is shows in the biases, and
        where all weights are square they count as published. Unknown names pass unchanged.

        Args:
            head: keep fc7 and fc8, which the feature does not need.
        """
        result = {}
        for name, value in state.items():
            own = _own_name(name)
            if own.endswith(".bias"):
                value = np.reshape(value, -1)
            elif own.startswith("fc"):
                value = np.reshape(value, np.shape(value)[-2:])
            result[own] = value
        if _is_out_in(result):
            for name in DENSE:
                if f"{name}.weight" in result:
                    result[f"{name}.weight"] = np.ascontiguousarray(result[f"{name}.weight"].T)
        return {n: v for n, v in result.items() if head or not n.startswith(DENSE[1:])}


Extractor = C3D


def _check(widths: list[int], fc_dims: list[int], pool5: str, mode: str, side: int) -> None:
    if len(widths) != len(CONVS) or not 1 <= len(fc_dims) <= len(DENSE):
        raise ValueError(
            f"c3d: expected {len(CONVS)} widths and 1 to {len(DENSE)} fc_dims, "
            f"found {list(widths)} and {list(fc_dims)}"
        )
    if min(*widths, *fc_dims) < 1 or side < CLIP:
        raise ValueError(
            f"c3d: expected sizes of at least 1 and a side of at least {CLIP}, "
            f"found {list(widths)}, {list(fc_dims)} and {side}"
        )
    if pool5 not in ("ceil", "padded") or mode not in ("uniform16", "mean16"):
        raise ValueError(f"c3d: unknown pool5 {pool5!r} or mode {mode!r}")


def _own_name(name: str) -> str:
    if name.endswith(("fc_cls.weight", "fc_cls.bias")):
        return "fc8." + name.rpartition(".")[2]
    pattern = r"(?:(?:module|backbone)\.)*(conv\d[ab]?|fc[678])(?:-\d)?(?:\.conv)?\.(weight|bias)"
    match = re.fullmatch(pattern, name)
    if not match:
        return name
    layer = match[1] + "a" if match[1] in ("conv1", "conv2") else match[1]
    return f"{layer}.{match[2]}"


def _is_out_in(state: dict[str, np.ndarray]) -> bool:
    """Whether the dense weights are stored [out, in]."""
    for name in DENSE:
        if {f"{name}.weight", f"{name}.bias"} <= state.keys():
            shape = state[f"{name}.weight"].shape
            if len(set(shape)) == 2:
                return shape[0] == state[f"{name}.bias"].size
    return True


def _draw(net: nn.Layer, seed: int) -> None:
    """He-scaled normal weights, zero biases; each depends on the seed and its name only."""
    for name, parameter in net.named_parameters():
        shape = parameter.shape
        value = np.zeros(shape, np.float32)
        if name.endswith("weight"):
            inputs = np.prod(shape[1:]) if len(shape) == 5 else shape[0]
            stream = np.random.RandomState([seed & 0xFFFFFFFF, zlib.crc32(name.encode())])
            value = (stream.standard_normal(shape) * np.sqrt(2 / inputs)).astype(np.float32)
        parameter.set_value(value)


def _mean(mean: list[float] | str, side: int) -> np.ndarray:
    """The mean to subtract: float32 [3, 1, 1, 1], or [3, 16, 112, 112] cropped from the cube."""
    if not isinstance(mean, str):
        if len(mean) != 3:
            raise ValueError(f"c3d: expected three means (blue, green, red), found {list(mean)}")
        return np.array(mean, np.float32).reshape(3, 1, 1, 1)
    if side != SIDE:
        raise ValueError(f"c3d: expected three means with side {side}, found the file {mean}")
    if mean.endswith(".npy"):
        try:
            cube = np.load(mean, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise WeightsFileError(f"{mean}: expected a mean cube, found: {error}") from None
    else:
        cube = read_binaryproto(mean)
    if cube.size != 3 * CLIP * HEIGHT * WIDTH:
        raise WeightsFileError(
            f"{mean}: expected a mean of shape [3, {CLIP}, {HEIGHT}, {WIDTH}], found {cube.shape}"
        )
    cube = cube.reshape(3, CLIP, HEIGHT, WIDTH).astype(np.float32)
    return cube[:, :, TOP : TOP + SIDE, LEFT : LEFT + SIDE]
