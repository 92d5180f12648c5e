# SPDX-License-Identifier: Apache-2.0
"""LLaMA-VQA's network: one pass for all objectives, shared prefixes, what learns, texts."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from engine import loader
from models.llama_vqa import Model, objectives, scoring
from models.llama_vqa import model as network
from tests.conftest import ROOT
from tools.comparisons import llama_vqa as published

SPECS = ROOT.parent / "shared" / "specs"
WORDS, FRAMES, START = 50, 4, 3
SMALL = {
    "dim": 16, "num_layers": 3, "num_heads": 2, "multiple_of": 8, "vocab_size": WORDS,
    "max_feats": FRAMES, "adapter_len": 3, "visual_dim": 6, "tau": 2.0,
}  # fmt: skip
NAMES = ("vqa", "vaq", "qav")


def small(seed: int = 1, **options: object) -> Model:
    """A network with parameters large enough to tell its inputs apart, and open gates."""
    paddle.seed(seed)
    model = Model(**SMALL | options)
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        value = rng.normal(0, 0.4, parameter.shape)
        parameter.set_value((value + ("norm" in name)).astype(np.float32))
    return model


def training(rows: int = 3, length: int = 20, seed: int = 0, pad: int = 0) -> dict:
    """Rows of several lengths; ``pad`` more places behind the longest."""
    rng = np.random.default_rng(seed)
    batch = {"id": [str(i) for i in range(rows)], "answer": np.zeros(rows, np.int64),
             "video": rng.normal(size=(rows, FRAMES, 6)).astype(np.float32),
             "video_start": np.full(rows, START)}  # fmt: skip
    for shift, name in enumerate(NAMES):
        lengths = rng.integers(length - 4, length + 1 - shift, (rows, 1))
        lengths[0] = length - shift
        place = np.arange(length - shift)
        start = lengths - FRAMES - 1 if name == "qav" else np.full((rows, 1), START)
        frames = (place >= start) & (place < start + FRAMES)
        ids = rng.integers(3, WORDS, (rows, place.size)) * (place < lengths) * ~frames
        labels = np.where(place >= lengths - 4, ids, 0)
        if name == "qav":
            labels = np.where(frames, place - start, -1)
            batch["qav_start"] = start[:, 0]
        more = (0, 0), (0, pad)
        ids, labels = np.pad(ids, more), np.pad(labels, more, constant_values=-(name == "qav"))
        batch |= {f"{name}_ids": ids[:, None], f"{name}_labels": labels[:, None]}
    return loader.to_tensors(batch)


def options(
    questions: int = 3, count: int = 4, letter: tuple[int, ...] = (12, 16, 14), seed: int = 0
) -> dict:
    """Questions whose rows differ at one place, and how many words follow it: two."""
    rng = np.random.default_rng(seed)
    length = max(letter) + 3
    ids = np.repeat(rng.integers(3, WORDS, (questions, 1, length)), count, 1)
    labels = np.zeros_like(ids)
    for row, place in enumerate(letter):
        ids[row, :, place] = np.arange(10, 10 + count)
        ids[row, :, place + 3 :] = 0
        labels[row, :, place - 1 : place + 3] = ids[row, :, place - 1 : place + 3]
    ids[..., START : START + FRAMES] = 0
    return loader.to_tensors({
        "id": [f"q{i}" for i in range(questions)], "vqa_ids": ids, "vqa_labels": labels,
        "video": rng.normal(size=(questions, FRAMES, 6)).astype(np.float32),
        "video_start": np.full(questions, START), "answer": np.zeros(questions, np.int64),
    })  # fmt: skip


def texts(rows: int = 3, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, WORDS, (rows, 9)) * (np.arange(9) < rng.integers(5, 10, (rows, 1)))
    labels = ids.copy()
    labels[:, 0] = 0
    return loader.to_tensors({"id": [str(i) for i in range(rows)], "text_ids": ids,
                              "text_labels": labels})  # fmt: skip


def step(model: Model, batch: dict) -> tuple[dict, dict]:
    """Losses and gradients of a training batch."""
    model.train()
    model.clear_gradients()
    terms = model.loss(model(batch), batch)
    terms["loss"].backward()
    grads = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    return {n: float(v) for n, v in terms.items()}, grads


def assert_near(found: dict, expected: dict, rtol: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol, rtol * np.abs(value).max(), name)


# ---- training


def test_one_pass_gives_what_three_full_passes_give():
    model, batch = small(), training(pad=5)
    terms, grads = step(model, batch)
    model.clear_gradients()
    apart = published.one_by_one(model, batch)
    assert {n: terms[n] for n in NAMES} == pytest.approx(apart, rel=1e-6)
    assert terms["loss"] == pytest.approx(sum(apart.values()), rel=1e-6)
    theirs = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    assert_near(grads, theirs)
    assert all(np.abs(g).max() > 1e-6 for g in grads.values())


def test_padding_changes_nothing():
    model = small()
    for ours, theirs in zip(step(model, training()), step(model, training(pad=7)), strict=True):
        assert_near(ours, theirs)


def test_recomputing_changes_nothing():
    ours, theirs = (step(small(recompute=again), training()) for again in (True, False))
    for found, expected in zip(ours, theirs, strict=True):
        assert_near(found, expected)


@pytest.mark.parametrize("off", ["vaq", "qav"])
def test_objectives_can_be_switched_off(off):
    batch = training()
    terms, _ = step(small(**{off: False}), batch)
    whole, _ = step(small(), batch)
    rest = [n for n in NAMES if n != off]
    assert terms.keys() == {"loss", *rest}
    assert terms["loss"] == pytest.approx(sum(whole[n] for n in rest), rel=1e-6)
    with pytest.raises(network.InputError, match=f"{off}: expected rows") as error:
        small()({key: value for key, value in batch.items() if not key.startswith(off)})
    assert error.value.exit_code == 2 and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["vqa", "vaq"])
def test_an_objective_without_a_label_is_0(name):
    model, batch = small(), training()
    batch[f"{name}_labels"] = paddle.zeros_like(batch[f"{name}_labels"])
    terms, grads = step(model, batch)
    assert terms[name] == 0 and np.isfinite(terms["loss"])
    assert grads and all(np.isfinite(g).all() for g in grads.values())


def test_only_the_extras_learn():
    model = small()
    _, grads = step(model, training())
    extras = {n for n in dict(model.named_parameters()) if model.own(n)}
    assert set(grads) == extras
    gates = {f"layers.{i}.attention.gate{n}" for i in range(3) for n in (1, 2)}
    tables = {"adapter_query.weight", "visual_proj.weight", "temporal_emb.weight"}
    assert extras == gates | tables
    every = small(train_backbone=True)
    _, grads = step(every, training())
    assert set(grads) == set(dict(every.named_parameters()))
    assert every.own("layers.0.attention.wq.weight")


def test_frames_must_begin_at_one_place():
    batch = training()
    batch["video_start"][1] += 1
    with pytest.raises(AssertionError, match="video_start"):
        small()(batch)


def test_learns_by_heart():
    model, batch = small(score="mean"), options(2, 3, (9, 10))
    rows = paddle.concat([batch["vqa_ids"][i : i + 1, i + 1 : i + 2] for i in range(2)])
    labels = paddle.concat([batch["vqa_labels"][i : i + 1, i + 1 : i + 2] for i in range(2)])
    taught = batch | {"vqa_ids": rows, "vqa_labels": labels}
    model.objectives = ["vqa"]
    learning = [p for p in model.parameters() if not p.stop_gradient]
    optimizer = paddle.optimizer.AdamW(3e-2, parameters=learning)
    model.train()
    for _ in range(150):
        loss = model.loss(model(taught), taught)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    model.eval()
    assert [record["answer"] for record in model.predict(batch)] == [1, 2]


# ---- layers with and without prompts


def test_fewer_layers_with_prompts():
    """Early layers are plain, or left out as published; of the prompts none is for them."""
    batch = training()
    every = small()
    for skip in (False, True):
        model = small(adapter_layer=2, skip_early_layers=skip)
        assert model.adapter_query.weight.shape[0] == 6
        for name, parameter in model.named_parameters():
            value = dict(every.named_parameters())[name]
            parameter.set_value(value[3:] if name == "adapter_query.weight" else value)
        assert model.layers[0].attention.gate1.stop_gradient
        terms, grads = step(model, batch)
        assert "layers.0.attention.gate1" not in grads
        if skip:
            paddle.seed(9)
            short = small(num_layers=2)
            for name, parameter in short.named_parameters():
                head, _, rest = name.partition(".")
                if head == "layers":
                    name = f"layers.{int(rest[0]) + 1}{rest[1:]}"
                parameter.set_value(dict(model.named_parameters())[name])
            assert step(short, batch)[0] == pytest.approx(terms, rel=1e-6)
        else:
            first = every.layers[0].attention
            first.gate1.set_value(paddle.zeros_like(first.gate1))
            first.gate2.set_value(paddle.zeros_like(first.gate2))
            assert step(every, batch)[0] == pytest.approx(terms, rel=1e-6)


def test_surplus_prompts_have_no_use():
    _, grads = step(small(adapter_layer=5), training())
    grad = grads["adapter_query.weight"]
    assert grad.shape == (15, 16) and grad[:9].any(1).all() and not grad[9:].any()


def test_frames_count_as_much_as_gate2_says():
    """With a very low gate2 words do not see the frames before them."""
    model, batch = small(), options()
    before = model.predict(batch)[0]["scores"]
    for layer in model.layers:
        gate = layer.attention.gate2
        gate.set_value(paddle.full_like(gate, -1e4))
    blind = model.predict(batch)[0]["scores"]
    assert np.abs(blind - before).max() > 1e-3
    batch["video"] = batch["video"] * 3
    np.testing.assert_allclose(model.predict(batch)[0]["scores"], blind, 1e-5)


# ---- scores


def by_hand(model: Model, batch: dict) -> list[list[np.ndarray]]:
    """Losses of the words of every option that are asked for, from full rows read one by one."""
    model.eval()
    found = []
    with paddle.no_grad():
        for option in range(batch["vqa_ids"].shape[1]):
            states, _ = published.full_pass(model, batch, "vqa", option)
            labels = batch["vqa_labels"][:, option]
            losses = published.all_words(model, states, labels).numpy()
            chosen = labels.numpy()[:, 1:] != 0
            found.append([row[mask] for row, mask in zip(losses, chosen, strict=True)])
    return [list(question) for question in zip(*found, strict=True)]


def early(batch: dict) -> dict:
    """Options that differ in words before the letter, of which some are asked for."""
    ids, labels = (batch[f"vqa_{part}"].numpy() for part in ("ids", "labels"))
    ids[1, 2, 9], ids[2, 0, 8], ids[0, 1, 1] = 5, 6, 7
    labels[1, :, 9:13] = ids[1, :, 9:13]
    return batch | {"vqa_ids": paddle.to_tensor(ids), "vqa_labels": paddle.to_tensor(labels)}


@pytest.mark.parametrize("score", ["mean_nonzero", "mean", "letter"])
@pytest.mark.parametrize("make", [options, lambda: options(1, 5, (9,)), lambda: early(options()),
                                  lambda: options(2, 1, (8, 11))])  # fmt: skip
def test_reading_once_what_options_share_changes_no_score(score, make):
    model, batch = small(score=score), make()
    records = model.predict(batch)
    assert [record["id"] for record in records] == batch["id"]
    for record, losses in zip(records, by_hand(model, batch), strict=True):
        chosen = [x[-3] if score == "letter" else x.mean() for x in losses]
        np.testing.assert_allclose(record["scores"], chosen, 1e-5)
        assert record["scores"].dtype == np.float32
        assert record["answer"] == int(np.argmin(chosen))


def test_what_is_read():
    """Up to the letter once, then of every option the letter and the bracket."""
    batch = options(2, 5, (12, 16))
    plan = scoring.plan(*(batch[f"vqa_{part}"].numpy() for part in ("ids", "labels")))
    assert plan.shared.tolist() == [12, 16] and plan.tail == 2
    assert len(plan.targets) == 2 * 5 * 4
    letters = scoring.only_letters(batch["vqa_labels"].numpy())
    assert (letters != 0).sum() == 10
    plan = scoring.plan(batch["vqa_ids"].numpy(), letters)
    assert plan.shared.tolist() == [12, 16] and plan.tail == 0


def test_losses_of_0_do_not_count():
    """A certain word's loss is exactly 0; no loss at all is better than any."""
    logits = paddle.to_tensor([[100.0, 0.0, 0.0], [20.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    rows, words = paddle.to_tensor([0, 0, 1, 2]), paddle.to_tensor([0, 1, 0, 2])
    losses = objectives.exact_losses(logits, rows, words).numpy()
    assert losses[0] == losses[2] == 0
    np.testing.assert_allclose(losses[[1, 3]], [100, np.log(3)], 1e-6)
    cells = np.array([[0, 0, 5], [0, 0, 6], [0, 1, 5], [0, 2, 5]])
    plan = scoring.Plan(np.array([5]), 2, np.arange(4), words.numpy(), cells)
    for nonzero, expected in ((True, [100, np.nan, np.log(3)]), (False, [50, 0, np.log(3)])):
        found = scoring.scores(*scoring.totals(losses, plan, (1, 3), nonzero))
        np.testing.assert_allclose(found[0], expected, 1e-6)


def test_an_option_without_a_label_wins():
    model, batch = small(), options()
    labels = batch["vqa_labels"].numpy()
    labels[1, 2] = 0
    record = model.predict(batch | {"vqa_labels": paddle.to_tensor(labels)})[1]
    assert np.isnan(record["scores"]).tolist() == [False, False, True, False]
    assert record["answer"] == 2
    none = model.predict(batch | {"vqa_labels": paddle.zeros_like(batch["vqa_labels"])})
    assert [r["answer"] for r in none] == [0, 0, 0] and np.isnan(none[0]["scores"]).all()


def test_prompts_are_read_anew_after_training():
    model, batch = small(), options()
    model.eval()
    before = model.predict(batch)[0]["scores"]
    assert model.adapters() is not None and model._adapters is not None
    model.train()
    query = model.adapter_query.weight
    query.set_value(query * 2)
    model.eval()
    assert np.abs(model.predict(batch)[0]["scores"] - before).max() > 1e-4


# ---- texts


def test_texts_are_read_as_by_a_plain_llama():
    model, batch = small(train_backbone=True), texts()
    terms, grads = step(model, batch)
    assert not any(n.startswith(("adapter", "visual", "temporal")) or "gate" in n for n in grads)
    assert len(grads) == 3 * 9 + 3
    states = model.norm(model(batch)["hidden"])
    logits = model.output(states).numpy()[:, :-1].astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    right = batch["text_labels"].numpy()[:, 1:]
    each = -np.take_along_axis(logp, right[..., None], 2)[..., 0] * (right != 0)
    assert terms["lm"] == terms["loss"] == pytest.approx(each.sum() / (right != 0).sum(), rel=1e-5)
    model.eval()
    records = model.predict(batch)
    json.dumps(records)
    np.testing.assert_allclose([r["lm_loss"] for r in records], each.sum(1), 1e-5)
    assert [r["lm_tokens"] for r in records] == (right != 0).sum(1).tolist()
    hits = (logits.argmax(-1) == right) & (right != 0)
    assert [r["lm_correct"] for r in records] == hits.sum(1).tolist()


def test_texts_without_a_label():
    model, batch = small(train_backbone=True), texts()
    batch["text_labels"] = paddle.zeros_like(batch["text_labels"])
    assert float(model.loss(model(batch), batch)["loss"]) == 0
    assert {r["lm_tokens"] for r in model.predict(batch)} == {0}


# ---- sizes, names, options


@pytest.mark.parametrize("size, part, total, trained", [
    ("7B", "", 6_742_915_072, 4_499_456), ("13B", "13b_", 13_021_898_880, 6_034_560),
    ("33B", "33b_", 32_538_121_824, 9_178_208),
])  # fmt: skip
def test_names_and_shapes_are_those_published(size, part, total, trained):
    path = SPECS / f"llama_vqa_{part}state_dict.json"
    with paddle.LazyGuard():  # shapes only
        model = Model(size)
    own = {n: list(p.shape) for n, p in model.named_parameters()}
    counts = {n: int(np.prod(shape)) for n, shape in own.items()}
    assert sum(counts.values()) == total
    learning = {n for n, p in model.named_parameters() if not p.stop_gradient}
    assert sum(counts[n] for n in learning) == trained
    assert learning == {n for n in own if model.own(n)}
    if not path.is_file():
        pytest.skip("needs the published list of parameters")
    tables = ("tok_embeddings.weight", "adapter_query.weight", "temporal_emb.weight")
    listed = {n: shape if n in tables or len(shape) != 2 else shape[::-1]
              for n, shape in json.loads(path.read_text()).items()}  # fmt: skip
    assert own == listed


def test_initial_values():
    model = Model(**SMALL | {"dim": 64, "visual_dim": 100})
    for layer in model.layers:
        assert (layer.attention.gate1.numpy() == 0).all()
        assert (layer.attention.gate2.numpy() == -3.5).all()
    for table in (model.adapter_query, model.temporal_emb):
        assert 0.8 < table.weight.numpy().std() < 1.2
    assert 0.09 < np.abs(model.visual_proj.weight.numpy()).max() <= 0.1


@pytest.mark.parametrize("given, message", [
    ({"size": "70B"}, "size: expected one of 7B, 13B, 33B"), ({"dtype": "int8"}, "dtype: expected"),
    ({"score": "sum"}, "score: expected one of mean_nonzero, mean, letter, found 'sum'"),
    ({"num_heads": 3}, "dim: expected a multiple of 2 \\* num_heads = 6, found 16"),
    ({"adapter_layer": 0}, "adapter_layer: expected at least 1"),
    ({"adapter_len": 0}, "adapter_len: expected at least 1"),
    ({"tensor_parallel": 3}, "tensor_parallel: expected"),
])  # fmt: skip
def test_bad_options(given, message):
    with pytest.raises(ValueError, match=message) as error:
        Model(**SMALL | given)
    assert "\n" not in str(error.value)


def test_bad_batches_are_named():
    batch = training()
    with pytest.raises(network.InputError, match=r"max_feats: expected 4, .* found 5"):
        small(max_feats=5)(batch)
    for given in (batch, texts()):
        with pytest.raises(network.InputError, match=r"vocab_size: .* found 20 and the piece"):
            small(vocab_size=20)(given)
    with paddle.LazyGuard():
        model = Model(**SMALL | {"dtype": "bfloat16"})
    assert model.output.weight.dtype == paddle.bfloat16
    assert model.layers[0].attention_norm.weight.dtype == paddle.bfloat16
    assert model.visual_proj.weight.dtype == model.layers[0].attention.gate1.dtype == paddle.float32
    with pytest.raises(network.InputError, match="dtype: expected float32 on a CPU"):
        model(batch)


@pytest.mark.parametrize("train_backbone", [False, True])
def test_examples_can_be_trained_on(train_backbone):
    model = small(train_backbone=train_backbone)
    batch, one = model.example_batch(2), model.example_batch(1)
    tensors = loader.to_tensors(batch)
    terms = model.loss(model(tensors), tensors)
    assert terms.keys() == {"loss", *(["lm"] if train_backbone else NAMES)}
    assert np.isfinite(float(terms["loss"]))
    assert 1.8 < model.flops(batch) / model.flops(one) < 2.2
    assert model.flops(tensors) == model.flops(batch)
