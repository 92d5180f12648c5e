# SPDX-License-Identifier: Apache-2.0
"""CLIP's image encoder: against NumPy, published names, pictures of any size."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from engine import build
from engine.errors import ConfigError, WeightsError
from models.extractors import clip_vit
from models.extractors.clip_vit import Extractor, normalised
from tests.conftest import ROOT
from tests.parity.llama_vqa_metrics import hugging_face

SHAPES = ROOT.parent / "shared" / "specs" / "llama_vqa_clip_vit_l14_state_dict.json"
SMALL = {"image_size": 8, "patch_size": 4, "width": 12, "num_layers": 2, "num_heads": 3,
         "output_dim": 5}  # fmt: skip


@pytest.fixture
def extractor():
    return Extractor(**SMALL, batch_size=3, init_seed=1)


def openai(net, seed=0):
    """A state of random numbers for a network, as OpenAI stores it."""
    rng = np.random.default_rng(seed)
    width, patch = net.positional_embedding.shape[1], net.patch_embed.patch
    shapes = {
        "class_embedding": (width,), "positional_embedding": net.positional_embedding.shape,
        "conv1.weight": (width, 3, patch, patch), "proj": net.proj.shape,
        **{f"{n}.{k}": (width,) for n in ("ln_pre", "ln_post") for k in ("weight", "bias")},
    }  # fmt: skip
    for layer in range(len(net.blocks)):
        block = f"transformer.resblocks.{layer}"
        shapes |= {f"{block}.{n}.{k}": (width,) for n in ("ln_1", "ln_2")
                   for k in ("weight", "bias")}  # fmt: skip
        for name, outputs, inputs in (("attn.in_proj_", 3 * width, width),
                                      ("attn.out_proj.", width, width),
                                      ("mlp.c_fc.", 4 * width, width),
                                      ("mlp.c_proj.", width, 4 * width)):  # fmt: skip
            block_name = f"{block}.{name}"
            shapes |= {f"{block_name}weight": (outputs, inputs), f"{block_name}bias": (outputs,)}
    return {f"visual.{n}": rng.normal(0, 0.5, s).astype(np.float32) for n, s in shapes.items()}


def by_numpy(state, pictures, heads):
    """Features as the paper describes them, in float64, picture by picture."""
    p = {n.removeprefix("visual."): v.astype(np.float64) for n, v in state.items()}

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    found = []
    for picture in pictures.astype(np.float64):
        kernel = p["conv1.weight"]
        side, size = kernel.shape[-1], picture.shape[-1]
        patches = [
            (kernel * picture[:, y : y + side, x : x + side]).sum((1, 2, 3))
            for y in range(0, size, side) for x in range(0, size, side)
        ]  # fmt: skip
        x = norm(np.stack([p["class_embedding"], *patches]) + p["positional_embedding"], "ln_pre")
        for layer in range(sum(n.endswith("c_fc.bias") for n in p)):
            b = f"transformer.resblocks.{layer}"
            y = norm(x, f"{b}.ln_1") @ p[f"{b}.attn.in_proj_weight"].T + p[f"{b}.attn.in_proj_bias"]
            mixed = []
            for q, k, v in zip(*(np.split(part, heads, 1) for part in np.split(y, 3, 1)),
                               strict=True):  # fmt: skip
                weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
                mixed.append(weights / weights.sum(1, keepdims=True) @ v)
            y = np.concatenate(mixed, 1) @ p[f"{b}.attn.out_proj.weight"].T
            x = x + y + p[f"{b}.attn.out_proj.bias"]
            y = norm(x, f"{b}.ln_2") @ p[f"{b}.mlp.c_fc.weight"].T + p[f"{b}.mlp.c_fc.bias"]
            y = y / (1 + np.exp(-1.702 * y))
            x = x + y @ p[f"{b}.mlp.c_proj.weight"].T + p[f"{b}.mlp.c_proj.bias"]
        found.append(norm(x, "ln_post")[0] @ p["proj"])
    return np.stack(found)


def pictures(count, height=8, width=8, seed=0):
    shape = (count, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("names", ["OpenAI", "Hugging Face", "whole CLIP", "bare", "float16"])
def test_published_weights_give_what_the_paper_says(extractor, names):
    state = given = openai(extractor)
    if names == "Hugging Face":
        given = hugging_face(state)
    elif names == "whole CLIP":
        text = {"positional_embedding": np.ones((7, 4)), "logit_scale": np.ones(()),
                "transformer.resblocks.0.ln_1.weight": np.ones(4)}  # fmt: skip
        given = text | state
    elif names == "bare":
        given = {name.removeprefix("visual."): value for name, value in state.items()}
    elif names == "float16":
        state = given = {name: value.astype(np.float16) for name, value in state.items()}
    own = extractor.convert(given)
    assert {n: v.shape for n, v in own.items()} == {
        n: tuple(p.shape) for n, p in extractor.named_parameters()
    }
    for name, parameter in extractor.named_parameters():
        parameter.set_value(own[name].astype(np.float32))
    frames = pictures(4)
    expected = by_numpy(state, normalised(frames), 3)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(extractor.pictures(frames), expected, atol=1e-5 * scale)


def test_a_state_of_ours_passes_unchanged(extractor):
    state = {name: p.numpy() for name, p in extractor.named_parameters()}
    again = extractor.convert(state)
    assert again.keys() == state.keys()
    assert all(np.array_equal(again[name], state[name]) for name in state)


@pytest.mark.skipif(not SHAPES.is_file(), reason="needs the specification beside the project")
def test_all_names_of_the_large_network():
    """Names of ViT-L/14 with every size made small, in proportion."""
    small = {1024: 4, 3072: 12, 4096: 16, 768: 3, 257: 5, 14: 2, 3: 3}
    shapes = json.loads(SHAPES.read_text())
    assert sum(np.prod(shape) for shape in shapes.values()) == 303_966_208
    state = {name: np.ones([small[n] for n in shape], np.float32) for name, shape in shapes.items()}
    net = Extractor(4, 2, 4, output_dim=3, num_heads=2, init_seed=0)
    for given in (state, hugging_face(state)):
        assert net.set_state_dict(net.convert(given)) == ([], [])
    defaults = Extractor.__init__.__defaults__
    assert defaults[:6] == (224, 14, 1024, 24, 16, 768)


def test_missing_parts_are_named(extractor, tmp_path):
    state = hugging_face(openai(extractor))
    del state["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    np.savez(tmp_path / "w.npz", **state)
    with pytest.raises(WeightsError, match=r"1 missing: blocks\.1\.attn\.qkv\.weight"):
        build.build_extractor("clip_vit", str(tmp_path / "w.npz"), **SMALL)


def test_built_from_a_file(tmp_path):
    net = Extractor(**SMALL)
    np.savez(tmp_path / "w.npz", **openai(net))
    made = build.build_extractor("CLIP-ViT", str(tmp_path / "w.npz"), fps=3, **SMALL)
    assert made.fps == 3 and made.identity["fps"] == 3.0 and len(made.identity["weights"]) == 64
    assert {"name": "clip_vit", **SMALL}.items() <= made.identity.items() and made.dim == 5
    expected = by_numpy(openai(net), normalised(pictures(2)), 3)
    np.testing.assert_allclose(made.pictures(pictures(2)), expected, atol=1e-4)
    with pytest.raises(WeightsError, match="clip-vit-large-patch14"):
        build.build_extractor("clip_vit", str(tmp_path / "none.npz"), **SMALL)


def test_pictures_of_any_size_and_number(extractor):
    frames = [*pictures(4, 30, 20), *pictures(3, 8, 8), *pictures(1, 9, 40)]
    found = extractor.pictures(iter(frames))
    assert found.shape == (8, 5) and found.dtype == np.float32
    alone = np.concatenate([extractor.pictures([frame]) for frame in frames])
    np.testing.assert_allclose(found, alone, atol=1e-6)
    assert extractor.pictures([]).shape == (0, 5)
    assert len({row.tobytes() for row in found}) == 8


def test_random_weights_depend_on_the_seed_alone(extractor):
    frames = pictures(2)
    first = extractor.pictures(frames)
    paddle.seed(7)
    again = Extractor(**SMALL, init_seed=1).pictures(frames)
    other = Extractor(**SMALL, init_seed=2).pictures(frames)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1 and np.abs(first[0] - first[1]).max() > 0.01


def test_a_program_gives_the_same(extractor):
    frames, lines = pictures(4), []
    before = extractor.pictures(frames)
    extractor.freeze(lines.append)
    assert len(lines) == 1
    np.testing.assert_allclose(extractor.pictures(frames), before, atol=1e-4)
    if paddle.get_device() == "cpu":
        assert extractor.freeze() is ("oneDNN program (" in lines[0])


# ---- pixels


def test_pixels_are_normalised():
    squares = pictures(2)
    mean, deviation = np.array(clip_vit.MEAN), np.array(clip_vit.DEVIATION)
    expected = ((squares / 255 - mean) / (deviation + 1e-8)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(normalised(squares), expected, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(20, 35), (35, 20), (8, 17), (17, 8), (5, 6)])
def test_the_middle_square_is_seen(extractor, height, width):
    """A ramp along either side stays one, of the pixels that a crop of the resized picture has."""
    short, long = sorted((height, width))
    target = int(long * 8 / short)
    for axis, size in ((0, height), (1, width)):
        ramp = np.arange(size, dtype=np.float64) * 5 + 30
        frame = np.broadcast_to(np.expand_dims(ramp, [1 - axis, 2]), (height, width, 3))
        found = extractor.preprocess(np.rint(frame).astype(np.uint8)).astype(np.float64)
        after = target if size == long else 8
        first = int((after - 8) / 2)
        places = (np.arange(first, first + 8) + 0.5) * size / after - 0.5
        expected = places * 5 + 30
        inside = (places > 2 * size / after) & (places < size - 1 - 2 * size / after)
        along = found.mean(axis=(1 - axis, 2))
        np.testing.assert_allclose(along[inside], expected[inside], atol=0.6)
        assert np.ptp(found, axis=1 - axis).max() == 0


def test_enlarging_is_cubic_and_shrinking_is_smooth(monkeypatch):
    import cv2

    clip_vit._cubic.cache_clear()
    monkeypatch.setattr(clip_vit, "_CUBIC", -0.75)  # OpenCV's
    net = Extractor(64, 8, 8, num_layers=1, num_heads=1, output_dim=2)
    frame = pictures(1, 24, 24)[0]
    expected = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_CUBIC).astype(int)
    assert np.abs(net.preprocess(frame) - expected)[4:-4, 4:-4].max() <= 2
    clip_vit._cubic.cache_clear()
    grey = np.indices((256, 256)).sum(0) % 2 * 255  # the finest chessboard
    frame = np.repeat(grey[..., None], 3, 2).astype(np.uint8)
    assert np.abs(net.preprocess(frame).astype(int) - 127).max() <= 4
    clip_vit._cubic.cache_clear()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_what_is_no_picture(extractor, shape):
    with pytest.raises(ValueError, match="expected a picture"):
        extractor.pictures([np.zeros(shape, np.uint8)])
    with pytest.raises(ValueError, match="float64"):
        extractor.preprocess(np.zeros((8, 8, 3)))


@pytest.mark.parametrize("options", [{"patch_size": 3}, {"fps": 0}, {"width": 0}, {"num_heads": 5}])
def test_options_out_of_range(options):
    with pytest.raises(ConfigError, match=r"clip_vit|multiple"):
        build.build_extractor("clip_vit", init_seed=0, **{**SMALL, **options})
