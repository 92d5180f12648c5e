# SPDX-License-Identifier: Apache-2.0
"""STAGE's network: checkpoints, inputs in both forms, streams, records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from engine import loader
from models.layers import kernels
from models.stage import Model
from models.stage.model import attended_boxes

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT.parent / "shared" / "specs" / "stage_state_dict.json"
SMALL = {"hsz": 16, "bridge_hsz": 12, "embedding_size": 10, "vfeat_size": 8, "dropout": 0.0}


def small(**options: object) -> Model:
    paddle.seed(1)
    return Model(**SMALL | options)


def tiled(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with one subtitle piece per frame."""
    index = batch["sub_index"]
    plain = {k: v for k, v in batch.items() if k != "sub_index"}
    rows = np.arange(len(index))[:, None]
    return plain | {k: batch[k][rows, index] for k in ("sub_bert", "sub_mask")}


def as_published(model: Model) -> dict[str, np.ndarray]:
    """The state as PyTorch saves it from several GPUs."""
    linear = {f"{n}.weight" for n, x in model.named_sublayers() if isinstance(x, paddle.nn.Linear)}
    state = {
        f"module.{k}": v.numpy().T if k in linear else v.numpy()
        for k, v in model.state_dict().items()
    }
    tables = ("input_encoder", "cls_encoder")
    name = "module.{}.stacked_encoderBlocks.0.position_encoding.pe"
    return state | {name.format(t): np.zeros((500, 16), np.float32) for t in tables}


def test_published_checkpoints_fit():
    model, other = small(), small()
    for parameter in other.parameters():
        parameter.set_value(parameter + 1.0)
    missing, unexpected = other.set_state_dict(Model.convert(as_published(model)))
    assert not missing and not unexpected
    batch = loader.to_tensors(model.example_batch(2))
    for x in (model, other):
        x.eval()
    assert (model(batch)["answer_scores"] == other(batch)["answer_scores"]).all()


def test_own_checkpoints_are_not_converted():
    state = {k: v.numpy() for k, v in small().state_dict().items()}
    converted = Model.convert(state)
    assert converted.keys() == state.keys()
    assert all(converted[k] is v for k, v in state.items())


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="needs the published list of parameters")
def test_names_and_shapes_of_the_published_checkpoint():
    shapes = json.loads(PUBLISHED.read_text())
    published = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    ours = {k: list(v.shape) for k, v in Model().state_dict().items()}
    assert {k: list(v.shape) for k, v in Model.convert(published).items()} == ours
    assert sum(p.size for p in Model().parameters()) == 552_947


def test_shared_subtitles_equal_one_piece_per_frame():
    model = small()
    batch = model.example_batch(3)
    model.eval()
    with paddle.no_grad():
        shared, single = (model(loader.to_tensors(b)) for b in (batch, tiled(batch)))
    for key in ("answer_scores", "temporal_scores"):
        np.testing.assert_allclose(shared[key].numpy(), single[key].numpy(), atol=2e-6)


def test_a_training_step_equals_the_one_of_plain_operators():
    model = small()
    batch = loader.to_tensors(model.example_batch(3))
    found = []
    for plain in (False, True):
        for parameter in model.parameters():
            parameter.clear_gradient(set_to_zero=False)
        if plain:
            with kernels.plain():
                terms = model.loss(model(batch), batch)
        else:
            terms = model.loss(model(batch), batch)
        terms["loss"].backward()
        gradients = {n: p.grad.numpy() for n, p in model.named_parameters()}
        found.append((float(terms["loss"]), gradients))
    (fast, ours), (slow, theirs) = found
    assert fast == pytest.approx(slow, rel=1e-5)
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, atol=1e-4 * np.abs(gradient).max() + 1e-5)


def test_padded_frames_change_nothing():
    model = small()
    model.eval()
    batch = model.example_batch(2)
    batch["ts_label_mask"][0, 20:] = 0
    scores = []
    for value in (0.0, 5.0):
        batch["vid"][0, 20:] = value
        batch["sub_index"][0, 20:] = 0
        with paddle.no_grad():
            scores.append(model(loader.to_tensors(batch))["answer_scores"].numpy())
    assert (scores[0] == scores[1]).all()


@pytest.mark.parametrize("streams", [["sub"], ["vfeat"], ["sub", "vfeat"]])
@pytest.mark.parametrize("add_local", [True, False])
def test_streams_train_and_give_finite_gradients(streams, add_local):
    model = small(input_streams=streams, add_local=add_local)
    batch = model.example_batch(2)
    assert ("vid" in batch) == ("vfeat" in streams)
    tensors = loader.to_tensors(batch)
    terms = model.loss(model(tensors), tensors)
    assert set(terms) == {"loss", "cls", "att", "ts"}
    assert (float(terms["att"]) > 0) == ("vfeat" in streams)
    terms["loss"].backward()
    assert all(np.isfinite(p.grad.numpy()).all() for p in model.parameters())


@pytest.mark.parametrize(
    "option",
    [
        {"input_streams": ["vcpt"]},
        {"att_loss_type": "mse"},
        {"input_encoder_n_heads": 3},
        {"cls_encoder_kernel_size": 4},
        {"label_smoothing": 0.1},
        {"answer_vocab": "nowhere.json"},
    ],
)
def test_options_out_of_range(option):
    with pytest.raises(ValueError, match="expected"):
        small(**option)


def test_a_batch_without_labelled_regions_has_no_attention_loss():
    model = small()
    batch = model.example_batch(2)
    batch["pos_container"] = batch["neg_container"] = np.zeros((0, 5), np.int64)
    tensors = loader.to_tensors(batch)
    assert float(model.loss(model(tensors), tensors)["att"]) == 0


def test_boxes_are_those_attended_above_the_threshold():
    scores = np.array([[[[0.3, 0.1, 0.9], [0.1, 0.1, 0.1]]]], np.float32)  # 1 frame, 1 answer
    meta = {"boxes": [[[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]]], "image_indices": [4, 10],
            "anno_st_idx": 1}  # fmt: skip
    found = attended_boxes(scores, np.array([[7, 8]]), np.array([[True, True]]), meta)
    assert found["entries"].tolist() == [[0, 10, 7, 2], [0, 10, 8, 0]]
    assert found["boxes"].tolist() == [[0, 0, 1, 1], [0, 0, 3, 3]]
    np.testing.assert_allclose(found["box_scores"], [0.3, 0.9])
    assert found["region_frames"].tolist() == [[10, 3]] and found["regions"].shape == (3, 4)
