# SPDX-License-Identifier: Apache-2.0
"""MCG's video encoder: names, what learns, recomputing, dropped paths, other sizes."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from models.mcg import timesformer
from models.mcg.timesformer import DividedBlock, FramesError, TimeSformer, pool
from tests.conftest import ROOT

SPECS = ROOT.parent / "shared" / "specs"
SMALL = {"num_frm": 3, "size": 24, "patch": 8, "width": 16, "depth": 3, "heads": 2}


def small(seed: int = 1, **options: object) -> TimeSformer:
    """A network with parameters large enough to tell its inputs apart."""
    paddle.seed(seed)
    net = TimeSformer(**SMALL | options)
    rng = np.random.default_rng(seed)
    for name, parameter in net.named_parameters():
        value = rng.normal(0, 0.3, parameter.shape) + ("norm" in name and name.endswith("weight"))
        parameter.set_value(value.astype(np.float32))
    return net


def clips(videos: int = 2, frames: int = 3, seed: int = 0) -> paddle.Tensor:
    values = np.random.default_rng(seed).normal(size=(videos, frames, 3, 24, 24))
    return paddle.to_tensor(values.astype(np.float32))


def gradients(net: TimeSformer, seed: int = 5) -> dict[str, np.ndarray | None]:
    """Of a loss that all tokens take part in, in training, with dropped paths of this seed."""
    net.train()
    paddle.seed(seed)
    y = net(clips())
    weight = np.random.default_rng(9).normal(size=y.shape).astype(np.float32)
    (y * paddle.to_tensor(weight)).sum().backward()
    return {n: None if p.grad is None else p.grad.numpy() for n, p in net.named_parameters()}


# ---- names and first values


@pytest.mark.parametrize(("case", "frames"), [("pretrain_4frm", 4), ("msrvtt_next_qa_16frm", 16)])
def test_published_names_and_shapes(case, frames):
    """At the published depth and sizes, each width a 32nd, which takes less time to fill."""
    path = SPECS / "mcg_state_dict.json"
    if not path.exists():
        pytest.skip("the list of published names is not here")
    prefix = "visual_encoder."
    published = {
        name.removeprefix(prefix): [n // 32 if n in (768, 2304, 3072) else n for n in shape]
        for name, shape in json.loads(path.read_text())[case]["params"].items()
        if name.startswith(prefix)
    }
    net = TimeSformer(num_frm=frames, width=24)
    dense = {n for n, layer in net.named_sublayers() if isinstance(layer, paddle.nn.Linear)}
    own = {
        name: value.shape[::-1] if name.removesuffix(".weight") in dense else value.shape
        for name, value in net.state_dict().items()
    }
    assert own == published and len(own) > 200


def test_at_first_time_plays_no_part():
    """Attention over time begins as zero, and so do the vectors of frames."""
    net = TimeSformer(**SMALL)
    net.eval()
    x = clips()
    np.testing.assert_allclose(net(x).numpy(), net(x[:, [2, 0, 1]]).numpy(), atol=1e-5)
    net = small()
    net.eval()
    assert np.abs(net(x).numpy() - net(x[:, [2, 0, 1]]).numpy()).max() > 1e-2


def test_a_video_is_encoded_for_itself():
    net, x = small(), clips(3)
    net.eval()
    np.testing.assert_allclose(net(x)[1:2].numpy(), net(x[1:2]).numpy(), rtol=1e-5, atol=1e-5)


# ---- what learns


def test_everything_but_the_head_learns():
    found = gradients(small())
    assert {n for n, g in found.items() if g is None} == {"model.head.weight", "model.head.bias"}
    assert all(np.abs(g).max() > 0 for g in found.values() if g is not None)


def test_freezing_leaves_the_other_gradients_as_they_are():
    full, found = gradients(small()), gradients(small(freeze="checkpointed"))
    frozen = {n for n, g in found.items() if g is None} - {"model.head.weight", "model.head.bias"}
    parts = {name.split(".")[3] for name in frozen}
    assert parts == {"attn", "temporal_attn", "mlp"} and len(frozen) == 3 * 12
    for name, gradient in found.items():
        if gradient is not None:
            scale = np.abs(full[name]).max()
            np.testing.assert_allclose(gradient, full[name], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("freeze", ["none", "checkpointed"])
def test_recomputing_changes_no_gradient(freeze, monkeypatch):
    """Dropped paths included; every block but the last runs twice."""
    expected = gradients(small(freeze=freeze, drop_path=0.5))
    calls, forward = [], DividedBlock.forward

    def counted(self, *inputs):
        calls.append(self)
        return forward(self, *inputs)

    monkeypatch.setattr(DividedBlock, "forward", counted)
    net = small(freeze=freeze, drop_path=0.5, recompute=True)
    found = gradients(net)
    *before, last = net.model.blocks
    assert [calls.count(block) for block in before] == [2, 2] and calls.count(last) == 1
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert any(np.abs(g - found[n]).max() > 1e-3
               for n, g in gradients(small(freeze=freeze, drop_path=0.5), 6).items()
               if g is not None)  # fmt: skip


def test_evaluation_drops_nothing_and_recomputes_nothing(monkeypatch):
    plain, other = small(drop_path=0.0), small(drop_path=0.9, recompute=True)
    monkeypatch.setattr(timesformer, "recomputed", None)
    plain.eval()
    other.eval()
    np.testing.assert_array_equal(plain(clips()).numpy(), other(clips()).numpy())


def test_paths_that_are_dropped():
    """A patch's attention over time, a frame's over space, a video's projections."""
    net = small(depth=1)
    block = net.model.blocks[0]
    x = net.model.embed(clips())
    whole, _ = block(x, 3, None, None, None)
    time, space, mlp = (paddle.ones(s) for s in ([2, 1, 9, 1], [2, 3, 1, 1], [2, 1, 1]))
    np.testing.assert_allclose(block(x, 3, time, space, mlp)[0].numpy(), whole.numpy(), atol=1e-5)
    none = block(x, 3, time * 0, space * 0, mlp * 0)[0] - x
    bias = block.temporal_fc.bias.numpy()  # is added behind what is dropped
    np.testing.assert_allclose(none[:, 1:].numpy(), np.broadcast_to(bias, [2, 27, 16]), atol=1e-5)
    np.testing.assert_allclose(none[:, 0].numpy(), 0, atol=1e-6)
    time[1, 0, 4] = 0.0
    drops = (time, space * 0, mlp * 0), (paddle.ones_like(time), space * 0, mlp * 0)
    changed = block(x, 3, *drops[0])[0] - block(x, 3, *drops[1])[0]
    places = np.unique(np.nonzero(np.abs(changed.numpy()).max(-1) > 1e-4)[1])
    assert places.tolist() == [1 + 4, 1 + 9 + 4, 1 + 18 + 4]
    shapes = [s.shape for s in DividedBlock(16, 2, 0.5).scales(2, 3, 9)]
    assert shapes == [time.shape, space.shape, mlp.shape]
    rates = [block.drop_path.rate for block in small(drop_path=0.2).model.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2])


# ---- attention, poolings, sizes


def test_attention_is_that_of_the_last_block():
    net = small()
    net.eval()
    tokens, weights = net.attend(clips())
    assert weights.shape == [2 * 3, 2, 10, 10] and weights.stop_gradient
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(tokens.numpy(), net(clips()).numpy())
    one = net.attend(clips()[1:])[1]  # frames of a video stay together
    np.testing.assert_allclose(weights[3:].numpy(), one.numpy(), atol=1e-5)


def test_poolings():
    x = paddle.to_tensor(np.arange(2 * 7 * 2, dtype=np.float32).reshape(2, 7, 2))  # T 2, N 3
    whole, patches = x.numpy()[:, :1], x.numpy()[:, 1:].reshape(2, 2, 3, 2)
    for how, expected in (
        ("temporal", np.concatenate([whole, patches.mean(1)], 1)),
        ("spatial", np.concatenate([whole, patches.mean(2)], 1)),
        ("none", np.concatenate([np.stack([whole, whole], 1), patches], 2)),
    ):
        np.testing.assert_allclose(pool(x, 2, how).numpy(), expected)


def test_frames_of_another_number_or_size_are_refused():
    with pytest.raises(FramesError, match="expected 3 of 24 x 24 pixels, found 2 of 24 x 24"):
        small()(clips(frames=2))
    with pytest.raises(FramesError, match="found 3 of 24 x 16"):
        small()(clips()[..., :16])
    assert FramesError.exit_code == 2


def test_options_out_of_range():
    with pytest.raises(ValueError, match="patch_size: expected a divisor of crop_img_size 24"):
        small(patch=7)
    with pytest.raises(ValueError, match="freeze: expected checkpointed or none, found 'all'"):
        small(freeze="all")


def test_places_and_times_of_other_sizes():
    grid = paddle.arange(5, dtype="float32").reshape([1, 5, 1])  # of the video, then 2 x 2
    found = timesformer.places(grid, 3, 4).numpy().ravel()
    assert found.tolist() == [0, 1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4]
    found = timesformer.times(grid, 7).numpy().ravel()
    assert found.tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert timesformer.times(grid, 2).numpy().ravel().tolist() == [0, 2]
    assert timesformer.places(grid, 2, 2) is grid and timesformer.times(grid, 5) is grid


def test_stored_places_and_times_of_other_sizes():
    stored = np.arange(5, dtype=np.float32).reshape(1, 5, 1)
    found = timesformer.resize_places(stored, 9).ravel()
    assert found.tolist() == [0, 1, 1, 1, 2, 2, 3, 3, 4, 4]  # along the row of all patches
    assert timesformer.resize_places(stored, 4) is stored
    assert timesformer.resize_times(stored, 10).ravel().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert timesformer.nearest(225, 81)[44:47].tolist() == [122, 124, 127]  # 125 without rounding
    found = timesformer.resize_places(stored, 16, "bicubic")[0, 1:, 0].reshape(4, 4)
    assert (np.diff(found, axis=0) > 0).all() and (np.diff(found, axis=1) > 0).all()
    assert found.mean() == pytest.approx(2.5, abs=1e-5)
    with pytest.raises(ValueError, match="pos_embed: expected squares for bicubic, found 4 and 6"):
        timesformer.resize_places(stored, 6, "bicubic")
