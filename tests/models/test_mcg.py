# SPDX-License-Identifier: Apache-2.0
"""MCG's network: checkpoints, evaluation in parts, padding, objectives, records."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from engine import loader, weights
from engine.formats import save_state
from models.layers import kernels
from models.mcg import Model, checkpoints
from models.mcg import model as network
from models.mcg.text import smoothed_loss
from tests.conftest import ROOT

SPECS = ROOT.parent / "shared" / "specs"
WORDS = 40
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
          *(f"w{n}" for n in range(WORDS - 7)), "[DEC]", "[ENC]"]  # fmt: skip
SMALL = {
    "num_frm": 2, "crop_img_size": 32, "patch_size": 16, "hidden_size": 16, "num_layers": 2,
    "num_heads": 2, "intermediate_size": 24, "vit_depth": 2, "vit_heads": 2, "vocab_size": WORDS,
    "max_position": 12, "proj_size": 6, "dropout": 0.0, "drop_path_rate": 0.0,
}  # fmt: skip
TASKS = ["pretrain", "msvd_qa", "msrvtt_qa", "nextqa_oe"]
VIDEO = "visual_encoder.model."


def small(task: str = "msvd_qa", seed: int = 1, **options: object) -> Model:
    """A network with parameters large enough to tell its inputs apart."""
    paddle.seed(seed)
    model = Model(task, **SMALL | options)
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        if name != "temp":
            value = rng.normal(0, 0.3, parameter.shape)
            parameter.set_value((value + ("norm" in name.lower())).astype(np.float32))
    return model


def asked(counts: tuple[int, ...] = (3, 1, 4), seed: int = 0) -> dict:
    """So many questions about each of some videos."""
    rng = np.random.default_rng(seed)
    rows = sum(counts)
    lengths, answers = rng.integers(3, 9, (rows, 1)), rng.integers(3, 6, (rows, 1))
    answers[0] = 5
    mask, said = np.arange(8) < lengths, np.arange(5) < answers
    answer_ids = rng.integers(5, WORDS - 2, said.shape)
    answer_ids[:, 0] = TOKENS.index("[DEC]")
    answer_ids[np.arange(rows), answers[:, 0] - 1] = TOKENS.index("[SEP]")
    return loader.to_tensors({
        "id": [f"q{i}" for i in range(rows)], "tokens": TOKENS,
        "frames": rng.integers(0, 256, (len(counts), 2, 3, 32, 32), np.uint8),
        "video": np.repeat(np.arange(len(counts)), counts),
        "ids": rng.integers(5, WORDS, mask.shape) * mask, "mask": mask.astype(np.float32),
        "answer_ids": answer_ids * said,
    })  # fmt: skip


def captioned(rows: int = 3, seed: int = 0) -> dict:
    """Videos with captions, one hidden word in each."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 9, (rows, 1))
    mask = np.arange(8) < lengths
    ids = rng.integers(5, WORDS - 2, mask.shape) * mask
    labels = np.where(np.arange(8) == 2, ids, -100)
    kinds = np.where(np.arange(8) == lengths - 1, 3, mask * [4, 1, 1, 2, 1, 1, 2, 1])
    return loader.to_tensors({
        "id": [str(i) for i in range(rows)], "ids": ids, "mask": mask.astype(np.float32),
        "frames": rng.integers(0, 256, (rows, 2, 3, 32, 32), np.uint8),
        "mlm_ids": np.where(labels > 0, 4, ids), "mlm_labels": labels,
        "pieces": kinds.astype(np.int8),
    })  # fmt: skip


def batch_of(task: str) -> dict:
    return captioned() if task == "pretrain" else asked()


def arrays(model: Model) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


# ---- checkpoints


def as_published(model: Model) -> dict[str, np.ndarray]:
    """The state as the authors saved it: PyTorch's layout, shared parameters twice."""
    linear = {f"{n}.weight" for n, x in model.named_sublayers() if isinstance(x, paddle.nn.Linear)}
    state = {k: v.T if k in linear else v for k, v in arrays(model).items()}
    for copy, original in checkpoints._SHARED.items():
        if original in state:
            state[copy] = state[original]
    return state


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("task", ["pretrain", "msvd_qa"])
def test_own_checkpoints_pass_unchanged(task):
    model = small(task)
    assert_same(model.convert(arrays(model)), arrays(model))


@pytest.mark.parametrize("task", ["pretrain", "msvd_qa"])
def test_published_checkpoints_fit(task):
    model = small(task)
    assert_same(model.convert(as_published(model)), arrays(model))


@pytest.mark.parametrize("name, task, frames", [
    ("pretrain_4frm", "pretrain", 4), ("msvd_qa_8frm", "msvd_qa", 8),
    ("msrvtt_next_qa_16frm", "nextqa_oe", 16),
])  # fmt: skip
def test_names_and_shapes_of_published_checkpoints(name, task, frames):
    path = SPECS / "mcg_state_dict.json"
    if not path.is_file():
        pytest.skip("needs the published list of parameters")
    listed = json.loads(path.read_text())[name]
    published = {key: np.broadcast_to(np.float32(0), shape)
                 for key, shape in listed["params"].items()}  # fmt: skip
    with paddle.LazyGuard():  # shapes only
        model = Model(task, num_frm=frames)
    ours = {k: list(v.shape) for k, v in model.state_dict().items()}
    converted = {k: list(v.shape) for k, v in model.convert(published).items()}
    assert converted == ours
    assert len(published) == listed["num_tensors"]


def test_answers_can_begin_from_pretraining():
    """Of the pre-trained network the encoders are taken, of its places and times the nearest."""
    before, model = small("pretrain", 2), small(num_frm=3, crop_img_size=48)
    state = model.convert(as_published(before))
    assert not any(n.startswith(("text_encoder.cls", "temp", "vision_proj")) for n in state)
    assert {n for n in arrays(model) if n not in state} == {
        n for n in arrays(model) if n.startswith("text_decoder.")
    }
    place, time = (state[f"{VIDEO}{name}_embed"] for name in ("pos", "time"))
    old = arrays(before)
    expected = old[f"{VIDEO}pos_embed"][:, [0, 1, 1, 1, 2, 2, 3, 3, 4, 4]]  # along the row of all
    np.testing.assert_array_equal(place, expected)
    np.testing.assert_array_equal(time, old[f"{VIDEO}time_embed"][:, [0, 0, 1]])
    smooth = small(num_frm=3, crop_img_size=48, pos_embed_resize="bicubic")
    assert np.abs(smooth.convert(as_published(before))[f"{VIDEO}pos_embed"] - place).max() > 0.01


def test_files_are_taken_one_after_the_other(tmp_path):
    """What a BLIP file has replaces what was loaded before; its picture encoder is left out."""
    mcg, other, model = small("pretrain", 2), small(seed=3), small(seed=4)
    blip = {n: v for n, v in as_published(other).items() if not n.startswith(VIDEO)}
    blip |= {"visual_encoder.cls_token": np.ones((1, 1, 16)), "temp": np.float32(0.1),
             "visual_encoder_m.cls_token": np.ones((1, 1, 16)), "itm_head.bias": np.ones(2),
             "image_queue": np.ones((6, 9)), "queue_ptr": np.zeros(1),
             "text_encoder.embeddings.position_ids": np.arange(12)[None]}  # fmt: skip
    for number, state in enumerate((as_published(mcg), blip)):
        save_state(tmp_path / f"{number}.pdparams", state)
        report = weights.start_from(model, tmp_path / f"{number}.pdparams", log=print)
        assert not report.unexpected
    found = arrays(model)
    for source, begins in ((mcg, VIDEO), (other, "text_encoder."), (other, "text_decoder.")):
        part = {n: v for n, v in arrays(source).items() if n.startswith(begins)}
        assert_same({n: found[n] for n in part if n in found}, {n: v for n, v in part.items()
                                                                if n in found})  # fmt: skip
    less = small(blip_scope="decoder").convert(blip)
    assert less and all(n.startswith("text_decoder.") for n in less)


def test_alpro_gives_encoders():
    model = small("pretrain")
    published, expected = {}, arrays(model)
    for name, value in as_published(model).items():
        published[name.replace("text_encoder.", "text_encoder.bert.")] = value
    published = {n: v for n, v in published.items() if ".cls." not in n}
    published["text_encoder.bert.embeddings.token_type_embeddings.weight"] = np.ones((2, 16))
    published["prompter.visual_encoder.model.cls_token"] = np.ones((1, 1, 16))
    published["itm_head.weight"] = np.ones((2, 16))
    expected = {n: v for n, v in expected.items() if ".cls." not in n}
    assert_same(model.convert(published), expected)


def encoder_files(model: Model) -> dict[str, np.ndarray]:
    return {n.removeprefix(VIDEO): v for n, v in as_published(model).items() if VIDEO in n}


def test_timesformer_gives_the_video_encoder():
    model = small()
    published = {f"model.{n}": v for n, v in encoder_files(model).items()}
    published["model.head.weight"] = np.ones((600, 16))
    expected = {n: v for n, v in arrays(model).items() if VIDEO in n and "head" not in n}
    assert_same(model.convert(published), expected)


def test_vit_gives_the_video_encoder():
    """Attention over time begins as that over space; places only if there are as many."""
    model = small()
    published = {n: v for n, v in encoder_files(model).items() if "temporal" not in n}
    del published["time_embed"]
    published["head.weight"] = np.ones((1000, 16))
    own, found = arrays(model), model.convert(published)
    assert {n for n in own if VIDEO in n and n not in found} == {
        f"{VIDEO}{n}" for n in ("time_embed", "head.weight", "head.bias",
                                *(f"blocks.{i}.temporal_fc.{x}" for i in range(2)
                                  for x in ("weight", "bias")))
    }  # fmt: skip
    for name, value in found.items():
        spatial = name.replace("temporal_attn", "attn").replace("temporal_norm1", "norm1")
        np.testing.assert_array_equal(value, own[spatial], err_msg=name)
    larger = {"crop_img_size": 48}
    assert f"{VIDEO}pos_embed" not in small(**larger).convert(published)
    smooth = small(**larger, pos_embed_resize="bicubic").convert(published)
    assert smooth[f"{VIDEO}pos_embed"].shape == (1, 10, 16)


@pytest.mark.parametrize("task", ["pretrain", "msvd_qa"])
def test_bert_gives_the_text_encoder(task):
    """A file with the old names of norms and without the two words that MCG adds."""
    model = small(task)
    rng = np.random.default_rng(0)
    old = {}
    for name, value in as_published(small("pretrain", 5)).items():
        if not name.startswith("text_encoder."):
            continue
        name = name.removeprefix("text_encoder.").replace("Norm.weight", "Norm.gamma")
        name = name.replace("Norm.bias", "Norm.beta")
        if len(value) == WORDS:
            value = value[:-2]
        old[name if name.startswith("cls.") else f"bert.{name}"] = value
    del old["cls.predictions.decoder.weight"]  # shared
    old |= {"bert.pooler.dense.weight": rng.random((16, 16)), "bert.pooler.dense.bias": np.ones(16),
            "bert.embeddings.token_type_embeddings.weight": np.ones((2, 16)),
            "cls.seq_relationship.weight": np.ones((2, 16))}  # fmt: skip
    found, own = model.convert(old), arrays(model)
    assert found.keys() == {n for n in own if n.startswith("text_encoder.")}
    table = "embeddings.word_embeddings.weight"
    words = found[f"text_encoder.{table}"]
    np.testing.assert_array_equal(words[:-2], old[f"bert.{table}"])
    np.testing.assert_array_equal(words[-2:], own[f"text_encoder.{table}"][-2:])
    if task == "pretrain":
        head = found["text_encoder.cls.predictions.decoder.weight"]
        np.testing.assert_array_equal(head[:-2], old[f"bert.{table}"])
    deep = "encoder.layer.1.intermediate.dense.weight"
    np.testing.assert_array_equal(found[f"text_encoder.{deep}"], old[f"bert.{deep}"].T)


def test_of_what_is_stored_twice_the_head_counts():
    state = as_published(small())
    state["text_decoder.cls.predictions.decoder.weight"] = np.full((WORDS, 16), 7, np.float32)
    found = small().convert(state)["text_decoder.bert.embeddings.word_embeddings.weight"]
    assert (found == 7).all()


def test_published_weights_say_where_else_they_may_be():
    for entry in Model.published_weights + Model.initial_weights:
        assert {"name", "urls", "note"} <= entry.keys() and "\n" not in entry["note"]


# ---- the same numbers with less work


def test_evaluation_in_parts_equals_all_at_once(monkeypatch):
    model, batch = small(), asked()
    model.train()  # everything at once, without dropout
    expected = model(batch)["fused"].numpy()
    model.eval()
    found = []
    for frames, rows in ((1, 1), (5, 3), (100, 100)):
        monkeypatch.setattr(network, "_FRAMES", frames)
        monkeypatch.setattr(network, "_ROWS", rows)
        np.testing.assert_allclose(model(batch)["fused"].numpy(), expected, atol=1e-5)
        found.append(model.predict(batch))
    for records in found[1:]:
        for one, other in zip(records, found[0], strict=True):
            assert one["id"] == other["id"] and one["answer"] == other["answer"]
            assert [a for a, _ in one["top"]] == [a for a, _ in other["top"]]
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_rows_meet_their_own_video():
    model, batch = small(), asked()
    model.eval()
    fused = model(batch)["fused"].numpy()
    for row, video in enumerate(batch["video"].tolist()):
        alone = {key: batch[key][row : row + 1] for key in ("ids", "mask", "answer_ids")}
        alone |= {"frames": batch["frames"][video : video + 1], "video": paddle.zeros([1], "int64")}
        np.testing.assert_allclose(model(alone)["fused"].numpy()[0], fused[row], atol=1e-5)


def test_padding_of_answers_changes_nothing_that_of_questions_does():
    model, batch = small(), asked()
    loss = float(model.loss(model(batch), batch)["loss"])
    wide = batch | {"answer_ids": paddle.nn.functional.pad(batch["answer_ids"], [0, 0, 0, 4])}
    assert wide["answer_ids"].shape[1] == 9
    assert float(model.loss(model(wide), wide)["loss"]) == pytest.approx(loss, rel=1e-6)
    pads = {key: paddle.nn.functional.pad(batch[key], [0, 0, 0, 2]) for key in ("ids", "mask")}
    assert pads["ids"].shape[1] == 10
    longer = batch | pads
    assert float(model.loss(model(longer), longer)["loss"]) != pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("task", ["pretrain", "msvd_qa"])
def test_a_training_step_equals_the_one_of_plain_operators(task):
    model, batch = small(task, freeze="none"), batch_of(task)
    found = []
    for plain in (False, True):
        model.clear_gradients()
        if plain:
            with kernels.plain():
                loss = model.loss(model(batch), batch)["loss"]
        else:
            loss = model.loss(model(batch), batch)["loss"]
        loss.backward()
        learning = {n: p for n, p in model.named_parameters() if not p.stop_gradient}
        found.append((float(loss), {n: p.grad.numpy() for n, p in learning.items()}))
    (fast, ours), (slow, theirs) = found
    assert fast == pytest.approx(slow, rel=1e-5)
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, atol=2e-4 * np.abs(gradient).max() + 1e-5)


# ---- what learns


def test_padding_is_read_but_does_not_learn_by_it():
    model, batch = small(), asked()
    batch["ids"][0, 3] = 7
    model.loss(model(batch), batch)["loss"].backward()
    encoder, decoder = (
        part.embeddings.word_embeddings.weight
        for part in (model.text_encoder, model.text_decoder.bert)
    )
    assert not encoder.grad.numpy()[0].any() and encoder.grad.numpy()[7].any()
    assert decoder.grad.numpy()[0].any()  # as a word that might have followed
    before = model(batch)["fused"].numpy()
    changed = encoder.numpy()
    changed[0] = changed[7]
    encoder.set_value(changed)
    assert np.abs(model(batch)["fused"].numpy() - before).max() > 1e-2


@pytest.mark.parametrize("task", TASKS)
def test_parts_that_learn(task):
    model, batch = small(task), batch_of(task)
    model.loss(model(batch), batch)["loss"].backward()
    still = {n for n, p in model.named_parameters() if p.grad is None}
    frozen = {n for n, p in model.named_parameters() if p.stop_gradient}
    assert still == frozen
    inside = {n for n in frozen if ".head." not in n}
    if task == "pretrain":
        assert not inside
    else:
        assert inside and all(n.split(".")[4] in ("attn", "temporal_attn", "mlp") for n in inside)


def test_the_loss_of_answers_by_hand():
    model, batch = small(label_smoothing=0.2), asked()
    model.eval()
    outputs = model(batch)
    scores = model.text_decoder.words(outputs["hidden"]).numpy().astype(np.float64)
    logp = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    total = 0.0
    for row, ids in zip(logp, batch["answer_ids"].numpy(), strict=True):
        for place, word in enumerate(ids[1:]):
            if word:
                total -= 0.8 * row[place, word] + 0.2 * row[place].mean()
    found = float(model.loss(outputs, batch)["loss"])
    assert found == pytest.approx(total / len(batch["id"]), rel=1e-5)


def test_scores_of_given_answers():
    """Those of every question with its own one are what the loss is made of."""
    model, batch = small(label_smoothing=0.0), asked()
    model.eval()
    outputs = model(batch)
    scores = model.candidate_scores(outputs["fused"], batch["answer_ids"]).numpy()
    assert scores.shape == (8, 8)
    loss = float(model.loss(outputs, batch)["loss"])
    assert -np.diag(scores).mean() == pytest.approx(loss, rel=1e-5)
    one = model.candidate_scores(outputs["fused"][2:3], batch["answer_ids"][5:6]).numpy()
    assert one[0, 0] == pytest.approx(scores[2, 5], abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_word_has_no_upper_end(smoothing):
    """Paddle's own ends at 64 on CPU."""
    scores = paddle.to_tensor([[0.0, -300.0], [0.0, 300.0]])
    found = smoothed_loss(scores, paddle.to_tensor([1, 1]), smoothing).numpy()
    assert found.tolist() == pytest.approx([300 - smoothing * 150, smoothing * 150])


@pytest.mark.parametrize("terms", [("mlm",), ("vtc", "mcl"), ("mlm", "vtc", "mcl")])
def test_terms_of_pretraining(terms):
    switches = {"use_mlm": "mlm" in terms, "use_itc": "vtc" in terms, "use_mcl": "mcl" in terms}
    model, batch = small("pretrain", **switches), captioned()
    found = model.loss(model(batch), batch)
    assert found.keys() == {"loss", *terms}
    total = sum(float(found[name]) for name in terms)
    assert float(found["loss"]) == pytest.approx(total, rel=1e-6)
    if "mlm" not in terms:
        assert {r["mlm_tokens"] for r in model.predict(batch)} == {0}


def test_captions_without_hidden_words():
    model, batch = small("pretrain"), captioned()
    batch["mlm_labels"] = paddle.full_like(batch["mlm_labels"], -100)
    loss = model.loss(model(batch), batch)
    assert float(loss["mlm"]) == 0 and np.isfinite(float(loss["loss"]))
    loss["loss"].backward()
    assert all(r["mlm_tokens"] == 0 for r in model.predict(batch))


def test_where_words_and_weights_are_looked_up():
    batch, losses = captioned(), []
    for options in ({}, {"text_positions": "normal"}, {"patch_weights": "per_video"}):
        model = small("pretrain", **options)
        losses.append({n: float(v) for n, v in model.loss(model(batch), batch).items()})
    published, places, own = losses
    assert places["vtc"] != published["vtc"] and places["mlm"] == published["mlm"]
    assert own["mcl"] != published["mcl"] and own["vtc"] == published["vtc"]


def test_normalised_frames():
    frames = paddle.to_tensor(np.full((1, 1, 3, 2, 2), 255, np.uint8))
    white = (1 - np.array(network._MEAN)) / network._DEVIATION
    for given in (frames, frames.astype("float32"), frames.astype("float32") / 255):
        np.testing.assert_allclose(network.normalised(given).numpy()[0, 0, :, 1, 1], white, 1e-5)
    dark = paddle.ones_like(frames)  # bytes are divided whatever is in them
    assert float(network.normalised(dark).max()) < 0


# ---- records


def test_records_of_questions():
    model, batch = small(num_beams=2), asked()
    model.eval()
    with paddle.no_grad():
        records = model.predict(batch)
    assert [r["id"] for r in records] == batch["id"]
    json.dumps(records)
    for record in records:
        assert 1 <= len(record["top"]) <= 2 and record["top"][0] == [record["answer"],
                                                                     record["score"]]  # fmt: skip
        scores = [score for _, score in record["top"]]
        assert scores == sorted(scores, reverse=True) and scores[0] < 0


def test_records_of_pairs():
    model, batch = small("pretrain"), captioned()
    model.eval()
    records, outputs = model.predict(batch), model(batch)
    terms = model.loss(outputs, batch)
    assert sum(r["mlm_tokens"] for r in records) == 3
    mean = sum(r["mlm_loss"] for r in records) / 3
    assert mean == pytest.approx(float(terms["mlm"]), rel=1e-5)
    for i, record in enumerate(records):
        assert record["video_feat"].dtype == np.float32 and record["video_feat"].shape == (6,)
        np.testing.assert_allclose(record["text_feat"], outputs["text_feat"].numpy()[i], atol=1e-6)
        assert np.linalg.norm(record["text_feat"]) == pytest.approx(1, abs=1e-5)


def test_another_vocabulary_is_refused():
    model, batch = small(), asked()
    with pytest.raises(network.VocabularyError, match=r"vocab_size: expected .* 41, found 40") as e:
        model.predict(batch | {"tokens": [*TOKENS, "more"]})
    assert e.value.exit_code == 2 and "\n" not in str(e.value)


def test_only_words_of_the_vocabulary_are_written():
    model, batch = small(), asked()
    model.eval()
    bias = model.text_decoder.cls.predictions.bias
    bias.set_value(bias + paddle.to_tensor([0.0] * 35 + [50.0] * 5))  # those after it are likely
    with paddle.no_grad():
        fused = model(batch)["fused"]
        found = model.answers(fused, [*TOKENS[:33], "[DEC]", "[ENC]"])
    assert max(token for hypotheses in found for h in hypotheses for token in h.tokens) < 35


@pytest.mark.parametrize("options, message", [
    ({"task": "tgif"}, "task: expected one of"),
    ({"patch_weights": "own"}, "patch_weights: expected one of batch_rows, per_video, found 'own'"),
    ({"use_mlm": False, "use_itc": False, "use_mcl": False}, "expected at least one"),
    ({"freeze": "all"}, "freeze: expected"), ({"patch_size": 15}, "patch_size: expected"),
    ({"num_heads": 3}, "num_heads"), ({"vit_heads": 3}, "multiple of"),
])  # fmt: skip
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message) as error:
        Model(**SMALL | options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", ["pretrain", "msvd_qa"])
def test_examples_can_be_trained_on(task):
    model = small(task, max_position=40)
    batch = model.example_batch(2)
    one = model.example_batch(1)
    tensors = loader.to_tensors(batch)
    assert np.isfinite(float(model.loss(model(tensors), tensors)["loss"]))
    assert 1.6 < model.flops(batch) / model.flops(one) < 2.4
    assert model.flops(tensors) == model.flops(batch)


def test_learns_answers_by_heart():
    """What it was taught is what a search finds."""
    model, batch = small(vit_depth=1, num_layers=1, label_smoothing=0.0), asked((2, 1))
    optimizer = paddle.optimizer.Adam(1e-2, parameters=model.parameters())
    model.train()
    for _ in range(60):
        loss = model.loss(model(batch), batch)["loss"]
        if float(loss) < 0.3:
            break
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    model.eval()
    with paddle.no_grad():
        found = [record["answer"] for record in model.predict(batch)]
    taught = [" ".join(TOKENS[i] for i in row if i > 4 and TOKENS[i] != "[DEC]")
              for row in batch["answer_ids"].tolist()]  # fmt: skip
    assert len(set(taught)) == 3 and found == taught
