# SPDX-License-Identifier: Apache-2.0
"""ClipBERT's network: checkpoints, evaluation in parts, rows of videos, drawn cells, records."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from engine import loader
from models.clipbert import Model, checkpoints, objectives, pictures
from tests.conftest import ROOT

SPECS = ROOT.parent / "shared" / "specs"
SMALL = {
    "num_labels": 9, "max_img_size": 70, "hidden_size": 16, "num_layers": 2, "num_heads": 2,
    "intermediate_size": 24, "vocab_size": 60, "max_position": 20, "width": 2, "grid_rows": 4,
    "grid_cols": 4, "dropout": 0.0,
}  # fmt: skip
TASKS = ["anetqa", "frameqa", "msrvtt_qa", "action", "transition", "retrieval", "msrvtt_mc", "vqa",
         "pretrain"]  # fmt: skip


def small(task: str = "anetqa", seed: int = 1, **options: object) -> Model:
    """A network with parameters large enough to tell its inputs apart."""
    paddle.seed(seed)
    loss = {"loss_type": "bce"} if task == "vqa" else {}
    model = Model(task, **SMALL | loss | options)
    rng = np.random.default_rng(seed)
    for name, parameter in model.transformer.named_parameters():
        value = rng.normal(0, 0.3, parameter.shape) + name.endswith("LayerNorm.weight")
        parameter.set_value(value.astype(np.float32))
    return model


def ragged(task: str = "anetqa", counts: tuple[int, ...] = (3, 1, 4), seed: int = 0) -> dict:
    """Two clips of two frames a video, and so many texts about each, the longest of 8 words."""
    rng = np.random.default_rng(seed)
    rows = sum(counts)
    lengths = rng.integers(3, 9, rows)
    lengths[rng.integers(rows)] = 8
    mask = np.arange(8) < lengths[:, None]
    return loader.to_tensors({
        "id": [str(i) for i in range(rows)], "num_frm": 2,
        "frames": rng.integers(0, 256, (len(counts), 4, 3, 60, 70), np.uint8),
        "ids": rng.integers(1, 60, mask.shape) * mask, "mask": mask.astype(np.float32),
        "video": np.repeat(np.arange(len(counts)), counts),
        "labels": rng.integers(0, 9, rows), "answers": [f"word {k}" for k in range(9)],
    })  # fmt: skip


def arrays(model: Model) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


# ---- checkpoints


def as_published(model: Model) -> dict[str, np.ndarray]:
    """The state as the authors saved it: PyTorch's layout, and what is never used."""
    linear = {f"{n}.weight" for n, x in model.named_sublayers() if isinstance(x, paddle.nn.Linear)}
    state = {k: v.T if k in linear else v for k, v in arrays(model).items()}
    state["cnn.feature.proposal_generator.rpn_head.conv.weight"] = np.ones((8, 8, 3, 3))
    state["cnn.feature.roi_heads.box_predictor.cls_score.bias"] = np.ones(3)
    state["transformer.bert.visual_embeddings.position_embeddings.weight"] = np.ones((20, 16))
    words = "transformer.cls.predictions."
    if words + "bias" in state:
        state[words + "decoder.bias"] = state[words + "bias"].copy()
        table = state["transformer.bert.embeddings.word_embeddings.weight"]
        state[words + "decoder.weight"] = table.copy()
    return state


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("task", ["anetqa", "action", "pretrain"])
def test_published_checkpoints_fit(task):
    model = small(task)
    assert_same(Model.convert(as_published(model)), arrays(model))


@pytest.mark.parametrize("task", ["anetqa", "pretrain"])
def test_own_checkpoints_are_not_converted(task):
    state = arrays(small(task))
    converted = Model.convert(state)
    assert converted.keys() == state.keys()
    assert all(converted[k] is v for k, v in state.items())


def test_the_detector_gives_the_backbone():
    model = small()
    prefix = "cnn.feature."
    published = {k.removeprefix(prefix): v for k, v in as_published(model).items() if prefix in k}
    published["pixel_mean"] = np.zeros((3, 1, 1))
    assert any(name.startswith("proposal_generator") for name in published)
    assert_same(Model.convert(published), {k: v for k, v in arrays(model).items() if prefix in k})


def test_bert_gives_the_transformer():
    """A file of BERT with the old names of norms."""
    model = small("pretrain")
    old = {}
    for name, value in as_published(model).items():
        if name.startswith("transformer.") and "visual" not in name:
            name = name.removeprefix("transformer.")
            name = name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")
            old[name] = value
    assert {"bert.embeddings.LayerNorm.gamma", "cls.predictions.decoder.weight"} <= old.keys()
    old["bert.embeddings.position_ids"] = np.arange(20)[None]
    expected = {k: v for k, v in arrays(model).items() if "transformer" in k and "visual" not in k}
    assert_same(Model.convert(old), expected)


def test_a_shared_matrix_stored_twice_must_be_the_same():
    state = as_published(small("pretrain"))
    state["transformer.cls.predictions.decoder.weight"][3, 4] += 1
    with pytest.raises(checkpoints.WeightsFileError, match="expected the same numbers") as error:
        Model.convert(state)
    assert error.value.exit_code == 4 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, task", [("clipbert", "anetqa"), ("clipbert_pretrained", "pretrain")]
)
def test_names_and_shapes_of_published_checkpoints(name, task):
    path = SPECS / f"{name}_state_dict.json"
    if not path.is_file():
        pytest.skip("needs the published list of parameters")
    shapes = json.loads(path.read_text())
    published = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    with paddle.LazyGuard():  # shapes only
        model = Model(task)
    ours = {k: list(v.shape) for k, v in model.state_dict().items()}
    converted = Model.convert(published)
    assert {k: list(v.shape) for k, v in converted.items()} == ours
    left_out = len(shapes) - len(converted)
    assert left_out == 7 + 13 + 1 + 2 * (task == "pretrain")


def test_published_weights_say_where_else_they_may_be():
    for entry in (*Model.published_weights, *Model.initial_weights):
        assert {"name", "urls", "note"} <= entry.keys() and "\n" not in entry["note"]


# ---- the same numbers with less work


def test_evaluation_in_parts_equals_all_at_once():
    """Texts sorted by length, a few at a time without padding, frames a few at a time."""
    model, batch = small(), ragged()
    model.train()  # without dropout
    expected = model(batch)["clip_scores"].numpy()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    model.eval()
    for model.encode_rows, model.encode_frames in ((1, 1), (6, 5), (100, 100)):
        found = model(batch)
        np.testing.assert_allclose(found["clip_scores"].numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(found["scores"].numpy(), expected.mean(0), atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_rows_meet_their_own_video(training):
    model, batch = small(), ragged()
    model.train() if training else model.eval()
    scores = model(batch)["scores"].numpy()
    for row, video in enumerate(batch["video"].numpy()):
        words = int(batch["mask"][row].sum())
        alone = {
            "frames": batch["frames"][int(video) : int(video) + 1].astype("float32"), "num_frm": 2,
            "ids": batch["ids"][row : row + 1, :words], "video": paddle.zeros([1], "int64"),
            "mask": paddle.ones([1, words]),
        }  # fmt: skip
        alone["frames"] = fitted(alone["frames"], 70)
        np.testing.assert_allclose(model(alone)["scores"].numpy()[0], scores[row], atol=1e-5)


def fitted(frames: paddle.Tensor, side: int) -> paddle.Tensor:
    """Float frames (V, F, 3, S, S) as a reader gives them."""
    flat = pictures.pad(pictures.resize(frames.flatten(0, 1), side), side)
    return flat.reshape([*frames.shape[:2], 3, side, side])


def test_order_counts_neither_inside_a_clip_nor_among_clips():
    model, batch = small(), ragged()
    model.eval()
    expected = model(batch)["scores"].numpy()
    for order, same in (((1, 0, 3, 2), True), ((2, 3, 0, 1), True), ((0, 2, 1, 3), False)):
        frames = paddle.index_select(batch["frames"].astype("int32"), paddle.to_tensor(order), 1)
        found = model(batch | {"frames": frames.astype("uint8")})["scores"].numpy()
        assert np.allclose(found, expected, atol=1e-5) == same


def test_a_training_step_equals_the_one_of_plain_operators():
    model, batch = small(score_agg_func="lse"), ragged()
    found = []
    for plain in (False, True):
        model.clear_gradients()
        if plain:
            with model.plain_operators():
                loss = model.loss(model(batch), batch)["loss"]
        else:
            loss = model.loss(model(batch), batch)["loss"]
        loss.backward()
        learning = {n: p for n, p in model.named_parameters() if not p.stop_gradient}
        found.append((float(loss), {n: p.grad.numpy() for n, p in learning.items()}))
    (fast, ours), (slow, theirs) = found
    assert fast == pytest.approx(slow, rel=1e-5)
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, atol=1e-4 * np.abs(gradient).max() + 1e-6)


# ---- what learns


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_all_but_the_frozen_stages(task):
    model = small(task)
    batch = loader.to_tensors(model.example_batch(2))
    terms = model.loss(model(batch), batch)
    terms["loss"].backward()
    assert float(terms["loss"]) > 0 and model.flops(batch) > 0
    for name, parameter in model.named_parameters():
        frozen = ".stem." in name or ".res2." in name
        assert parameter.stop_gradient == frozen, name
        assert frozen or np.isfinite(parameter.grad.numpy()).all(), name
    if task == "pretrain":
        assert float(terms["loss"]) == pytest.approx(float(terms["mlm"] + terms["itm"]), rel=1e-6)


def test_a_frozen_cnn_trains_its_last_convolution_only():
    model = small(freeze_cnn=True)
    assert [n for n, p in model.cnn.named_parameters() if not p.stop_gradient] == [
        "grid_encoder.0.weight"
    ]
    batch = ragged()
    model.loss(model(batch), batch)["loss"].backward()
    assert np.abs(model.cnn.grid_encoder[0].weight.grad.numpy()).max() > 0


def test_a_batch_without_masked_words():
    model = small("pretrain")
    batch = loader.to_tensors(model.example_batch(2))
    batch["mlm_labels"] = paddle.full_like(batch["mlm_labels"], -100)
    terms = model.loss(model(batch), batch)
    terms["loss"].backward()
    assert float(terms["mlm"]) == 0 < float(terms["itm"])
    records = model.predict(batch | {"id": ["a", "b"]})
    assert [(r["mlm_tokens"], r["mlm_loss"]) for r in records] == [(0, 0.0)] * 2


def test_drawn_cells():
    """As many as asked for, different ones at every step, a function of the seed; all otherwise."""
    model = small("pretrain", pixel_random_sampling_size=5)
    draws = []
    for seed in (1, 1, 2):
        paddle.seed(seed)
        draws.append(model.draw_cells(12).numpy().tolist())
    assert draws[0] == draws[1] != draws[2]
    assert all(len(set(x)) == 5 and sorted(x) == x and max(x) < 12 for x in draws)
    assert model.draw_cells(5) is None is small("pretrain").draw_cells(12)
    grid = paddle.rand([2, 1, 3, 4, 16])
    model.draw_cells = lambda count: paddle.to_tensor([0, 7, 11])
    drawn = model.embed(grid).numpy()
    model.eval()
    np.testing.assert_allclose(drawn, model.embed(grid).numpy()[:, :, [0, 7, 11]], atol=1e-6)


# ---- scores and losses


def test_lse_is_the_published_loss():
    clips = np.random.default_rng(0).normal(0, 3, (3, 4, 5)).astype(np.float32)
    labels = np.array([1, 0, 4, 2])
    scores = objectives.pool(paddle.to_tensor(clips), "lse")
    found = objectives.cross_entropy(scores, paddle.to_tensor(labels)).numpy()
    wanted = clips[:, np.arange(4), labels]
    expected = np.log(np.exp(clips).sum((0, 2))) - np.log(np.exp(wanted).sum(0))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pooling_by_mean_and_max():
    clips = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    for how, expected in (("mean", clips.mean(0)), ("max", clips.max(0))):
        found = objectives.pool(paddle.to_tensor(clips), how).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_only_the_first_of_equal_clips_learns():
    clips = np.array([[[1, 2]], [[1, 3]], [[0, 3]]], np.float32)
    clips = paddle.to_tensor(clips, stop_gradient=False)
    objectives.pool(clips, "max").sum().backward()
    assert clips.grad[:, 0].tolist() == [[1, 0], [0, 1], [0, 0]]


def test_losses_have_no_upper_limit():
    scores = np.array([[0, 500], [0, 90], [3, -200], [1, 1]], np.float32)
    scores = paddle.to_tensor(scores, stop_gradient=False)
    rows = objectives.cross_entropy(scores, paddle.to_tensor([0, 0, 1, -100]))
    assert rows.tolist() == [500, 90, 203, 0]
    rows.sum().backward()
    assert scores.grad.tolist() == [[-1, 1], [-1, 1], [1, -1], [0, 0]]


def test_ranking_loss():
    scores = paddle.to_tensor([[2.0], [0.0], [3.0], [-1.0], [-1.0], [-4.0]])
    found = objectives.ranking(scores, 2, 0.2).numpy()
    chances = 1 / (1 + np.exp(-np.array([[2, 0, 3], [-1, -1, -4]])))
    expected = np.maximum(0, 0.2 + chances[:, 1:] - chances[:, :1])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[0, 0] == 0 < found[0, 1]


# ---- records


def test_records_of_answers():
    batch, model = ragged(), small()
    model.eval()
    records = model.predict(batch)
    scores = model(batch)["scores"].numpy()
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert [r["id"] for r in records] == batch["id"]
    for record, row in zip(records, chances, strict=True):
        best = np.argsort(-row)[:5]
        assert record["label"] == best[0] and record["answer"] == f"word {best[0]}"
        assert [answer for answer, _ in record["top"]] == [f"word {k}" for k in best]
        assert [chance for _, chance in record["top"]] == pytest.approx(row[best].tolist())
        assert record["score"] == record["top"][0][1]
    json.dumps(records)


def test_labels_without_an_answer_are_never_given():
    batch, model = ragged() | {"answers": ["yes", "no", "red"]}, small()
    model.eval()
    model.transformer.classifier[2].bias.set_value(np.arange(9, dtype=np.float32))
    records = model.predict(batch)
    assert {r["answer"] for r in records} <= {"yes", "no", "red"}
    assert all(len(r["top"]) == 3 and r["score"] < 0.1 for r in records)


def test_the_first_of_equal_answers_wins():
    model = small()
    model.eval()
    for parameter in model.transformer.classifier.parameters():
        parameter.set_value(paddle.zeros_like(parameter))
    model.transformer.classifier[2].bias.set_value(np.float32([0, 1, 0, 1, 0, 0, 0, 1, 0]))
    (record, *_) = model.predict(ragged())
    assert [answer for answer, _ in record["top"]][:4] == ["word 1", "word 3", "word 7", "word 0"]


def test_records_of_options():
    model, batch = small("action"), ragged(counts=(5, 10)) | {"id": ["a", "b", "c"]}
    model.eval()
    records = model.predict(batch)
    flat = model(batch)["scores"].numpy()
    assert flat.shape == (3, 5) and [r["id"] for r in records] == ["a", "b", "c"]
    for record, row in zip(records, flat, strict=True):
        np.testing.assert_array_equal(record["scores"], row)
        assert record["answer"] == row.argmax() and record["scores"].dtype == np.float32


@pytest.mark.parametrize("loss_type", ["ce", "rank"])
def test_records_of_matches(loss_type):
    """Retrieval: every caption for every video; multiple choice: five for each."""
    batch = ragged(counts=(5, 5))
    found = {}
    for task in ("retrieval", "msrvtt_mc"):
        model = small(task, loss_type=loss_type)
        model.eval()
        found[task] = model.predict(batch | {"id": ["a", "b"]})
    scores = model(batch)["scores"].numpy()
    logit = scores[:, 0] if loss_type == "rank" else scores[:, 1] - scores[:, 0]
    chances = (1 / (1 + np.exp(-logit))).reshape(2, 5)
    for task, records in found.items():
        assert [r["id"] for r in records] == ["a", "b"], task
        for record, row in zip(records, chances, strict=True):
            np.testing.assert_allclose(record["scores"], row, atol=1e-6)
    assert [r["answer"] for r in found["msrvtt_mc"]] == chances.argmax(1).tolist()


def test_records_of_pretraining_add_up_to_the_loss():
    model = small("pretrain")
    model.eval()
    batch = loader.to_tensors(model.example_batch(3))
    terms = model.loss(model(batch), batch)
    records = model.predict(batch | {"id": ["a", "b", "c"]})
    assert sum(r["mlm_tokens"] for r in records) == int((batch["mlm_labels"] >= 0).sum()) > 0
    total = sum(r["mlm_loss"] for r in records) / batch["mlm_labels"].size
    assert total == pytest.approx(float(terms["mlm"]), rel=1e-5)
    assert np.mean([r["itm_loss"] for r in records]) == pytest.approx(float(terms["itm"]), rel=1e-5)


def test_probabilities_of_soft_labels_stand_alone():
    model, batch = small("vqa"), ragged("vqa")
    model.eval()
    (record, *_) = model.predict(batch)
    best = model(batch)["scores"].numpy()[0].max()
    assert record["score"] == pytest.approx(1 / (1 + np.exp(-best)), abs=1e-6)


# ---- options and sizes


@pytest.mark.parametrize(
    "options",
    [
        {"task": "tvqa"},
        {"score_agg_func": "sum"},
        {"loss_type": "bce"},
        {"task": "vqa", "loss_type": "ce"},
        {"task": "retrieval", "loss_type": "rank", "score_agg_func": "lse"},
        {"max_img_size": 32},
        {"max_img_size": 448, "grid_rows": 6},
        {"num_heads": 3},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="expected") as error:
        Model(**SMALL | options)
    assert "\n" not in str(error.value)


def test_published_sizes():
    """Cells of the published frames, and the multiplications that the method is said to need."""
    with paddle.LazyGuard():
        model = Model()
    assert [model.cnn.side(x) for x in (448, 768, 100)] == [7, 12, 2]
    assert model.cnn.products(448, 448) == pytest.approx(18.2e9, rel=0.01)
    assert model.transformer.products(89, 89) == pytest.approx(7.7e9, rel=0.01)
    counted = sum(np.prod(v.shape) for v in model.state_dict().values())
    assert counted == pytest.approx(168.4e6, rel=1e-3)


def test_wide_and_tall_frames_fill_their_square_from_the_corner():
    for shape, shown in (((20, 40), (4, 8)), ((40, 20), (8, 4)), ((1, 100), (1, 8))):
        frames = paddle.full([1, 3, *shape], 200, "float32").astype("uint8")
        found = pictures.prepared(frames, 8, (100.0, 50.0, 0.0), (1.0, 2.0, 4.0)).numpy()[0]
        for plane, inside, outside in zip(found, (50, 75, 100), (0, -25, -100), strict=True):
            np.testing.assert_allclose(plane[: shown[0], : shown[1]], inside)
            assert (plane[shown[0] :] == outside).all() and (plane[:, shown[1] :] == outside).all()


@pytest.mark.parametrize("scale", [1, 255])
def test_a_mean_of_at_most_1_is_one_of_frames_of_0_to_1(scale):
    frames = paddle.rand([2, 3, 4, 5])
    found = pictures.normalise(frames * scale, (0.5, 0.25, 0.0), (1.0, 0.5, 0.2)).numpy()
    for k, (mean, deviation) in enumerate(((0.5, 1.0), (0.25, 0.5), (0.0, 0.2))):
        assert np.allclose(found[:, k], (frames.numpy()[:, k] - mean) / deviation, atol=1e-6)


def test_more_answers_than_classes_are_refused():
    model = small()
    batch = ragged()
    batch["labels"][2] = 9
    with pytest.raises(objectives.LabelError, match=r"num_labels: expected more .* 9, found 9"):
        model.loss(model(batch), batch)
