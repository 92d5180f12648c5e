# SPDX-License-Identifier: Apache-2.0
"""The image encoder of CLIP (Radford et al., arXiv:2103.00020), one vector per picture.

It prepares what LLaMA-VQA sees of a video: pictures at a rate, not scaled to length 1, as the
feature extraction of github.com/antoyang/FrozenBiLM makes them.
"""

from __future__ import annotations

import functools
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import paddle
from paddle import nn

from ..layers.vit import Block, PatchEmbed
from .frozen import compiled

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green, blue in 0...1
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
EPSILON = 1e-5  # of all norms
_LARGER, _PLAIN = 10.0, 200  # random weights: what tells pictures apart; light grey
_DIVISOR = 1e-8  # added to the deviations
_CUBIC = -0.6  # shape of the kernel, that of FFmpeg's scaler


class ClipVit(nn.Layer):
    """CLIP's vision transformer; defaults are those of ViT-L/14.

    Args:
        image_size: pixels of a picture's side, as the network sees it.
        patch_size: pixels of a patch's side.
        width, num_layers, num_heads: of the transformer.
        output_dim: length of a feature.
        fps: pictures a second that are taken of a video; all features of a network need the same.
        batch_size: pictures that are computed together.
        init_seed: draw parameters from this seed.

    Raises:
        ValueError: an option out of range.
    """

    source = (  # of weights, for the error when there are none
        "take model.safetensors or pytorch_model.bin of "
        "https://huggingface.co/openai/clip-vit-large-patch14"
    )

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 14,
        width: int = 1024,
        num_layers: int = 24,
        num_heads: int = 16,
        output_dim: int = 768,
        fps: float = 1.0,
        batch_size: int = 32,
        init_seed: int | None = None,
    ):
        super().__init__()
        sizes = {
            "image_size": image_size, "patch_size": patch_size, "width": width,
            "num_layers": num_layers, "num_heads": num_heads, "output_dim": output_dim,
        }  # fmt: skip
        if min(*sizes.values(), batch_size) < 1 or image_size % patch_size or not fps > 0:
            raise ValueError(
                "clip_vit: expected sizes, batch_size and fps above 0, and image_size a multiple "
                f"of patch_size, found {sizes}, {batch_size} and {fps}"
            )
        self.image_size, self.batch_size, self.fps, self.dim = (
            image_size, batch_size, fps, output_dim
        )  # fmt: skip
        self.identity = {"name": "clip_vit", **sizes, "fps": float(fps)}
        self.patch_embed = PatchEmbed(patch_size, width, bias=False)
        self.class_embedding = self.create_parameter([width])
        tokens = 1 + (image_size // patch_size) ** 2
        self.positional_embedding = self.create_parameter([tokens, width])
        self.ln_pre = nn.LayerNorm(width, EPSILON)
        blocks = [
            Block(width, num_heads, activation="quick_gelu", epsilon=EPSILON)
            for _ in range(num_layers)
        ]
        self.blocks = nn.LayerList(blocks)
        self.ln_post = nn.LayerNorm(width, EPSILON)
        self.proj = self.create_parameter([width, output_dim])
        if init_seed is not None:
            _draw(self, init_seed)
        self._run: Callable[[np.ndarray], np.ndarray] = self._eager
        self.eval()

    def forward(self, pictures: paddle.Tensor) -> paddle.Tensor:
        """Features of squares.

        Args:
            pictures: float32 [N, 3, S, S], as ``normalised`` makes them.

        Returns:
            float32 [N, dim].
        """
        return paddle.matmul(self.last(pictures), self.proj)

    def last(self, pictures: paddle.Tensor) -> paddle.Tensor:
        """Float32 [N, width], what ``proj`` is given."""
        x = self.embed(pictures)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x[:, 0])

    def embed(self, pictures: paddle.Tensor) -> paddle.Tensor:
        """What the first block is given: float32 [N, 1 + patches, width]."""
        patches = self.patch_embed(pictures)
        first = self.class_embedding.expand([patches.shape[0], 1, patches.shape[2]])
        return self.ln_pre(paddle.concat([first, patches], 1) + self.positional_embedding)

    def pictures(self, frames: Iterable[np.ndarray]) -> np.ndarray:
        """Features of pictures, uint8 [H, W, 3] RGB each, of any size: float32 [n, dim].

        They are taken and computed ``batch_size`` at a time.
        """
        frames, found = iter(frames), [np.zeros((0, self.dim), np.float32)]
        while chunk := [*itertools.islice(frames, self.batch_size)]:
            squares = np.stack([self.preprocess(frame) for frame in chunk])
            found.append(self._run(normalised(squares)))
        return np.concatenate(found)

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """The middle square of a picture uint8 [H, W, 3], as uint8 [S, S, 3].

        The shorter side becomes S by a cubic kernel that is as wide as what it shrinks, as in
        FFmpeg, whose own pixels differ by roundings and by its way through YUV.

        Raises:
            ValueError: no picture.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or not frame.size or frame.dtype != np.uint8:
            raise ValueError(
                f"clip_vit: expected a picture uint8 [H, W, 3], found {frame.dtype} {frame.shape}"
            )
        side, (height, width) = self.image_size, frame.shape[:2]
        if (height, width) == (side, side):
            return frame
        if width >= height:
            height, width = side, int(width * side / height)
        else:
            height, width = int(height * side / width), side
        rows, top = _cubic(frame.shape[0], height, side)
        columns, left = _cubic(frame.shape[1], width, side)
        seen = frame[top : top + rows.shape[1], left : left + columns.shape[1]]
        x = rows @ seen.reshape(len(seen), -1).astype(np.float32)
        x = x.reshape(side, -1, 3).transpose(0, 2, 1).reshape(side * 3, -1) @ columns.T
        x = np.clip(np.rint(x), 0, 255).astype(np.uint8)
        return x.reshape(side, 3, side).transpose(0, 2, 1)

    @paddle.no_grad()
    def _eager(self, pictures: np.ndarray) -> np.ndarray:
        return self(paddle.to_tensor(pictures)).numpy()

    def freeze(self, log: Callable[[str], None] | None = None) -> bool:
        """On CPU run ``pictures`` through a compiled oneDNN program if that works; True if it does.

        The parameters must be final. Whatever happens is told to `log` in one line; a second call
        does nothing.
        """
        if self._run != self._eager:
            return True
        shape = (1, self.image_size, self.image_size, 3)
        probe = normalised(np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8))
        program = compiled(self, self._eager, probe, log or (lambda line: None))
        self._run = program or self._eager
        return program is not None

    @staticmethod
    def convert(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Own names and layout from OpenAI's or Hugging Face's; a state of ours passes unchanged.

        Of a whole CLIP the text encoder is left out.
        """
        if any(name.startswith("vision_model.") for name in state):
            state = _from_hugging_face(state)
        elif any(name.startswith("visual.") for name in state):
            state = {
                name.removeprefix("visual."): value
                for name, value in state.items()
                if name.startswith("visual.")
            }
        return dict(_own(name, value) for name, value in state.items())


Extractor = ClipVit


def normalised(squares: np.ndarray) -> np.ndarray:
    """Pictures uint8 [N, S, S, 3] as float32 [N, 3, S, S] of mean 0 and deviation 1."""
    scale = 1 / (np.array(DEVIATION) + _DIVISOR)
    shift = (-np.array(MEAN) * scale).astype(np.float32)
    pictures = squares * (scale / 255).astype(np.float32) + shift
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))


@functools.lru_cache(maxsize=8)
def _cubic(length: int, target: int, side: int) -> tuple[np.ndarray, int]:
    """How ``length`` pixels become ``target`` and these their middle ``side``.

    Source: Keys 1981; shrinking widens the kernel.

    Returns:
        Shares of n pixels in each new one, float32 [side, n], and which the first of the n is.
    """
    shrink = max(1.0, length / target)
    middle = (np.arange(target) + 0.5) * (length / target) - 0.5
    reach = int(np.ceil(2 * shrink))
    places = np.floor(middle)[:, None].astype(np.int64) + np.arange(-reach, reach + 1)
    d = np.abs(places - middle[:, None]) / shrink
    near = ((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1
    far = _CUBIC * (((d - 5) * d + 8) * d - 4)
    shares = np.where(d < 1, near, np.where(d < 2, far, 0.0))
    shares /= shares.sum(1, keepdims=True)
    weights = np.zeros((target, length), np.float32)
    rows = np.repeat(np.arange(target), places.shape[1])
    np.add.at(weights, (rows, np.clip(places, 0, length - 1).ravel()), shares.ravel())
    weights = weights[(target - side) // 2 :][:side]
    used = np.flatnonzero(weights.any(0))
    return np.ascontiguousarray(weights[:, used[0] : used[-1] + 1]), int(used[0])


# ---- published names

_LAYER = r"encoder\.layers\.(\d+)\."
_HUGGING_FACE = (  # to OpenAI's
    (r"embeddings\.patch_embedding\.weight", "conv1.weight"),
    (r"embeddings\.class_embedding", "class_embedding"),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"pre_layrnorm\.(\w+)", r"ln_pre.\1"),  # spelled so
    (r"post_layernorm\.(\w+)", r"ln_post.\1"),
    (_LAYER + r"layer_norm([12])\.(\w+)", r"transformer.resblocks.\1.ln_\2.\3"),
    (_LAYER + r"self_attn\.out_proj\.(\w+)", r"transformer.resblocks.\1.attn.out_proj.\2"),
    (_LAYER + r"mlp\.fc1\.(\w+)", r"transformer.resblocks.\1.mlp.c_fc.\2"),
    (_LAYER + r"mlp\.fc2\.(\w+)", r"transformer.resblocks.\1.mlp.c_proj.\2"),
)
_BLOCK = r"transformer\.resblocks\.(\d+)\."
_OPENAI = (  # to ours
    (r"conv1\.weight", "patch_embed.proj.weight"),
    (_BLOCK + r"ln_([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (_BLOCK + r"attn\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
    (_BLOCK + r"attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (_BLOCK + r"mlp\.c_fc\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (_BLOCK + r"mlp\.c_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
)


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, other in table:
        if match := re.fullmatch(pattern, name):
            return match.expand(other)
    return name


def _from_hugging_face(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """OpenAI's names; queries, keys and values are one there."""
    prefix, found, parts = "vision_model.", {}, {}
    for name, value in state.items():
        bare = name.removeprefix(prefix)
        if name == "visual_projection.weight":
            found["proj"] = np.ascontiguousarray(value.T)
        elif match := re.fullmatch(_LAYER + r"self_attn\.([qkv])_proj\.(\w+)", bare):
            layer, part, kind = match.groups()
            whole = f"transformer.resblocks.{layer}.attn.in_proj_{kind}"
            parts.setdefault(whole, {})[part] = value
        elif name.startswith(prefix) and not bare.endswith("position_ids"):
            found[_renamed(bare, _HUGGING_FACE)] = value
    joined = {
        name: np.concatenate([three[part] for part in "qkv"])
        for name, three in parts.items()
        if len(three) == 3
    }
    return found | joined


def _own(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """A published dense weight is [out, in], ours [in, out]."""
    own = _renamed(name, _OPENAI)
    if own != name and value.ndim == 2:
        value = np.ascontiguousarray(value.T)
    return own, value


def _draw(net: ClipVit, seed: int) -> None:
    """Normal weights that keep the size of what they are given; each depends on seed and name.

    What pictures have in common is taken away, and the rest made larger: by the last norm the
    feature of a light grey picture becomes 0.
    """
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1 and name != "class_embedding":
            continue  # biases are 0, norms 1
        inputs = {4: np.prod(parameter.shape[1:]), 2: parameter.shape[0], 1: 1}[parameter.ndim]
        scale = 1.0 if name == "positional_embedding" else 1 / np.sqrt(inputs)
        stream = np.random.RandomState([seed & 0xFFFFFFFF, zlib.crc32(name.encode())])
        value = stream.standard_normal(parameter.shape) * scale
        parameter.set_value(value.astype(np.float32))
    plain = np.full((1, net.image_size, net.image_size, 3), _PLAIN, np.uint8)
    with paddle.no_grad():
        common = net.last(paddle.to_tensor(normalised(plain)))[0]
    net.ln_post.weight.set_value(paddle.full_like(common, _LARGER))
    net.ln_post.bias.set_value(-_LARGER * common)
