# SPDX-License-Identifier: Apache-2.0
"""TimeSformer with divided space-time attention (Bertasius et al., arXiv:2102.05095).

Inside, a video is one token for all of it, then its patches frame by frame: (B, 1 + T N, D).
Parameters carry the names of the published checkpoints; ``model.head`` is in them and never used.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ..layers import kernels
from ..layers.bert import dense, linear, normalise
from ..layers.vit import Attention, Block, PatchEmbed, recomputed, scaled

Freeze = Literal["checkpointed", "none"]
Pooling = Literal["temporal", "spatial", "none"]
Resize = Literal["flat_nearest", "bicubic"]
Scales = tuple[paddle.Tensor | None, paddle.Tensor | None, paddle.Tensor | None]

EPSILON = 1e-6  # of all norms
_CLASSES = 400  # of the unused head
_FROZEN = ("attn", "temporal_attn", "mlp")  # what the published way of recomputing leaves untrained


class FramesError(Exception):
    """Frames are not of the network's number or size; the message is one line."""

    exit_code = 2


class DividedBlock(Block):
    """Attention over time, attention over space, two projections, each beside a shortcut."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0):
        super().__init__(width, heads, drop_path=drop_path, epsilon=EPSILON)
        self.temporal_norm1 = nn.LayerNorm(width, EPSILON)
        self.temporal_attn = Attention(width, heads)
        zeros = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        self.temporal_fc = nn.Linear(width, width, weight_attr=zeros)

    def scales(self, videos: int, frames: int, patches: int) -> Scales:
        """What training leaves out at random: of time per patch, of space per frame, of the MLP."""
        shapes = [videos, 1, patches, 1], [videos, frames, 1, 1], [videos, 1, 1]
        return tuple(map(self.drop_path.scale, shapes))

    def forward(
        self, x: paddle.Tensor, frames: int, *scales: paddle.Tensor | None
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens (B, 1 + T N, D) to the same shape, and the weights of attention over space.

        Args:
            frames: T.
            scales: see the method.

        Returns:
            tokens and (B, T, heads, 1 + N, 1 + N).
        """
        over_time, over_space, over_mlp = scales
        videos, count, width = x.shape
        whole, patches = x[:, :1], x[:, 1:].reshape([videos, frames, -1, width])
        patches = patches + self._attend_time(patches, over_time)
        seen = [whole.unsqueeze(1).expand([videos, frames, 1, width]), patches]
        mixed, weights = self.attn.mix(normalise(paddle.concat(seen, 2), self.norm1))
        change = scaled(dense(mixed, self.attn.proj), over_space)
        whole = whole + change[:, :, 0].mean(1, keepdim=True)
        patches = (patches + change[:, :, 1:]).reshape([videos, count - 1, width])
        x = paddle.concat([whole, patches], 1)
        return x + scaled(self.mlp(normalise(x, self.norm2)), over_mlp), weights

    def _attend_time(self, patches: paddle.Tensor, scale: paddle.Tensor | None) -> paddle.Tensor:
        """(B, T, N, D) to the same shape.

        Nothing but a factor stands between ``temporal_attn.proj`` and ``temporal_fc``, so that they
        are one product.
        """
        mixed, _ = self.temporal_attn.mix(normalise(patches, self.temporal_norm1), 1)
        first, second = self.temporal_attn.proj, self.temporal_fc
        weight = paddle.matmul(first.weight, second.weight)
        bias = paddle.matmul(first.bias, second.weight)
        if scale is None:
            return kernels.linear(mixed, weight, bias + second.bias)
        return kernels.linear(mixed, weight, bias) * scale + second.bias


def _tokens(block: DividedBlock, *inputs: paddle.Tensor | int | None) -> paddle.Tensor:
    return block(*inputs)[0]


class DividedTransformer(nn.Layer):
    """Patches of frames of any number and size to normalised tokens; see ``TimeSformer``."""

    def __init__(
        self, num_frm: int, size: int, patch: int, width: int, depth: int, heads: int,
        drop_path: float, recompute: bool,
    ):  # fmt: skip
        super().__init__()
        self.recompute = recompute
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = self._table(1, width, 0.02)
        self.pos_embed = self._table(1 + (size // patch) ** 2, width, 0.02)
        self.time_embed = self._table(num_frm, width, 0.0)
        rates = np.linspace(0, drop_path, depth)
        self.blocks = nn.LayerList([DividedBlock(width, heads, float(rate)) for rate in rates])
        self.norm = nn.LayerNorm(width, EPSILON)
        self.head = linear(width, _CLASSES)
        for parameter in self.head.parameters():
            parameter.stop_gradient = True

    def _table(self, rows: int, width: int, deviation: float) -> paddle.Tensor:
        normal = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, deviation))
        return self.create_parameter([1, rows, width], attr=normal)

    def forward(self, frames: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Frames (B, T, 3, H, W) to tokens, and the last block's weights of attention over space.

        Returns:
            (B, 1 + T N, D) and (B, T, heads, 1 + N, 1 + N).
        """
        x = self.embed(frames)
        videos, count = frames.shape[:2]
        scales = [b.scales(videos, count, (x.shape[1] - 1) // count) for b in self.blocks]
        *before, last = zip(self.blocks, scales, strict=True)
        for block, scale in before:
            if self.recompute and self.training:
                x = recomputed(partial(_tokens, block), x, count, *scale)
            else:
                x, _ = block(x, count, *scale)
        block, scale = last  # its activations are wanted first, so that it is never recomputed
        x, weights = block(x, count, *scale)
        return normalise(x, self.norm), weights

    def embed(self, frames: paddle.Tensor) -> paddle.Tensor:
        """Frames (B, T, 3, H, W) to tokens (B, 1 + T N, D) with their places and times."""
        videos, count = frames.shape[:2]
        rows, columns = (side // self.patch_embed.patch for side in frames.shape[3:])
        place = places(self.pos_embed, rows, columns)
        time = times(self.time_embed, count)
        patches = self.patch_embed(frames.flatten(0, 1))
        added = place[:, 1:].unsqueeze(1) + time.unsqueeze(2)
        patches = patches.reshape([videos, count, rows * columns, -1]) + added
        whole = (self.cls_token + place[:, :1]).expand([videos, 1, -1])
        return paddle.concat([whole, patches.flatten(1, 2)], 1)


class TimeSformer(nn.Layer):
    """The video encoder; defaults are those of ViT-B/16.

    Args:
        num_frm: frames T of a video.
        size: pixels of a frame's side.
        patch: pixels of a patch's side.
        width, depth, heads: of the transformer.
        drop_path: probability of leaving out a branch of the last block; it grows linearly from 0.
        freeze: "checkpointed": attention and projections inside the blocks do not learn, as in
            published fine-tuning; "none": everything learns.
        recompute: keep only the inputs of the blocks in training and compute the rest twice.
    """

    def __init__(
        self,
        num_frm: int = 8,
        size: int = 224,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        drop_path: float = 0.1,
        freeze: Freeze = "none",
        recompute: bool = False,
    ):
        super().__init__()
        if size % patch:
            raise ValueError(
                f"patch_size: expected a divisor of crop_img_size {size}, found {patch}"
            )
        if freeze not in ("checkpointed", "none"):
            raise ValueError(f"freeze: expected checkpointed or none, found {freeze!r}")
        self.num_frm, self.size = num_frm, size
        self.model = DividedTransformer(
            num_frm, size, patch, width, depth, heads, drop_path, recompute
        )
        for block in self.model.blocks if freeze == "checkpointed" else ():
            for name in _FROZEN:
                for parameter in getattr(block, name).parameters():
                    parameter.stop_gradient = True

    def forward(self, frames: paddle.Tensor, pooling: Pooling = "temporal") -> paddle.Tensor:
        """Normalised frames (B, T, 3, S, S) to pooled tokens; see ``pool``.

        Raises:
            FramesError: frames of another number or size.
        """
        return self.attend(frames, pooling)[0]

    def attend(
        self, frames: paddle.Tensor, pooling: Pooling = "temporal"
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Pooled tokens, and the last block's attention over space (B T, heads, 1 + N, 1 + N).

        The weights, rows of sum 1, take no part in gradients.

        Raises:
            FramesError: frames of another number or size.
        """
        count, *_, height, width = frames.shape[1:]
        if (count, height, width) != (self.num_frm, self.size, self.size):
            raise FramesError(
                f"frames: expected {self.num_frm} of {self.size} x {self.size} pixels, found "
                f"{count} of {height} x {width}; give num_frm and crop_img_size of MODEL and "
                "DATASET the same values"
            )
        x, weights = self.model(frames)
        return pool(x, count, pooling), weights.detach().flatten(0, 1)


def pool(x: paddle.Tensor, frames: int, how: Pooling = "temporal") -> paddle.Tensor:
    """Means of tokens (B, 1 + T N, D) over some axis, beside the token of the video.

    Returns:
        "temporal": (B, 1 + N, D), means over the frames; "spatial": (B, 1 + T, D), means over the
        patches; "none": (B, T, 1 + N, D), the video's token beside the patches of every frame.
    """
    videos, _, width = x.shape
    whole, patches = x[:, :1], x[:, 1:].reshape([videos, frames, -1, width])
    if how == "none":
        whole = whole.unsqueeze(1).expand([videos, frames, 1, width])
        return paddle.concat([whole, patches], 2)
    return paddle.concat([whole, patches.mean(1 if how == "temporal" else 2)], 1)


# ---- embeddings for other numbers of frames and patches


def nearest(found: int, wanted: int) -> np.ndarray:
    """Which of ``found`` equal steps stands for each of ``wanted`` (wanted,).

    In single precision, as in PyTorch, which a few sizes show: of 225 that become 81, one place.
    """
    starts = np.arange(wanted, dtype=np.float32) * (np.float32(found) / np.float32(wanted))
    return np.minimum(starts.astype(np.int64), found - 1)


def places(embeddings: paddle.Tensor, rows: int, columns: int) -> paddle.Tensor:
    """(1, 1 + N, D) of a square grid -> (1, 1 + rows columns, D), nearest in two dimensions."""
    count = embeddings.shape[1] - 1
    if rows * columns == count:
        return embeddings
    side = math.isqrt(count)
    index = nearest(side, rows)[:, None] * side + nearest(side, columns)
    index = paddle.to_tensor(np.concatenate([[0], 1 + index.ravel()]))
    return paddle.index_select(embeddings, index, 1)


def times(embeddings: paddle.Tensor, frames: int) -> paddle.Tensor:
    """(1, T, D) -> (1, frames, D), nearest."""
    if frames == embeddings.shape[1]:
        return embeddings
    index = paddle.to_tensor(nearest(embeddings.shape[1], frames))
    return paddle.index_select(embeddings, index, 1)


def resize_places(values: np.ndarray, patches: int, how: Resize = "flat_nearest") -> np.ndarray:
    """Stored (1, 1 + N, D) -> (1, 1 + patches, D) for a network of other frames.

    Args:
        how: "flat_nearest": nearest along the row of all patches, as published; "bicubic": in two
            dimensions, both grids being squares.

    Raises:
        ValueError: bicubic, and a number of patches that is no square.
    """
    whole, grid = values[:, :1], values[:, 1:]
    found = grid.shape[1]
    if found == patches:
        return values
    if how == "flat_nearest":
        return np.concatenate([whole, grid[:, nearest(found, patches)]], 1)
    old, new = math.isqrt(found), math.isqrt(patches)
    if old * old != found or new * new != patches:
        raise ValueError(
            f"pos_embed: expected squares for bicubic, found {found} and {patches} patches"
        )
    pictures = paddle.to_tensor(grid.reshape([1, old, old, -1]).transpose(0, 3, 1, 2))
    resized = F.interpolate(pictures, size=[new, new], mode="bicubic", align_corners=False)
    resized = resized.numpy().transpose(0, 2, 3, 1).reshape(1, patches, -1)
    return np.concatenate([whole, resized], 1)


def resize_times(values: np.ndarray, frames: int) -> np.ndarray:
    """Stored (1, T, D) -> (1, frames, D), nearest."""
    return values[:, nearest(values.shape[1], frames)]
