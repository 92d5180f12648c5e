# SPDX-License-Identifier: Apache-2.0
"""The generating network as a whole: where it starts from, what ranking its choices costs."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from engine import loader, weights
from models.stage import Model
from models.stage.search import BOS, EOS

SIZES = {"hsz": 8, "bridge_hsz": 8, "embedding_size": 6, "vfeat_size": 5, "dropout": 0.0}


@pytest.fixture
def vocabulary(tmp_path) -> str:
    path = tmp_path / "answer_vocab.json"
    path.write_text(json.dumps(["<pad>", "<unk>", "<bos>", "<eos>", "one", "two", "three"]))
    return str(path)


def generating(vocabulary: str, **options: object) -> Model:
    paddle.seed(2)
    return Model(**SIZES, answer_vocab=vocabulary, dec_ffn=8, dec_heads=2, **options)


def test_starts_from_a_network_that_chooses(tmp_path, vocabulary):
    paddle.seed(1)
    chosen = Model(**SIZES)
    path = tmp_path / "STAGE.pdparams"
    paddle.save(chosen.state_dict(), str(path))
    model, said = generating(vocabulary), []
    report = weights.start_from(model, path, log=said.append)
    own = model.state_dict()
    decoder = [name for name in own if name.startswith("decoder.")]
    assert decoder and sorted(report.missing) == sorted(decoder)
    assert all(name in said[0] for name in decoder)  # every one is told, however many
    assert report.unexpected and all(n.startswith("classifier.") for n in report.unexpected)
    for name, value in chosen.state_dict().items():
        if not name.startswith("classifier."):
            assert np.array_equal(own[name].numpy(), value.numpy()), name


def with_choices(model: Model) -> dict:
    """A batch of 3 questions with 5 choices of two words; the true one is given as target."""
    batch = model.example_batch(3)
    words = np.random.default_rng(5).permuted(np.tile([4, 5, 6, 4, 5], (3, 1)), axis=1)
    target = np.stack([words, words[:, ::-1], np.full_like(words, EOS)], -1)  # (3, 5, 3)
    batch["cand_tgt"] = target
    batch["cand_in"] = np.concatenate([np.full_like(target[..., :1], BOS), target[..., :-1]], -1)
    batch["cand_mask"] = np.ones(target.shape, np.float32)
    batch["mc_target"] = right = np.array([0, 3, 1])
    for name in ("in", "tgt", "mask"):
        batch[f"dec_{name}"] = batch[f"cand_{name}"][np.arange(3), right]
    return loader.to_tensors(batch)


def test_ranking_loss_of_choices(vocabulary):
    model = generating(vocabulary, mc_weight=0.25)
    batch = with_choices(model)
    model.train()
    outputs = model(batch)
    terms = model.loss(outputs, batch)
    plain = generating(vocabulary)
    without = plain.loss(plain(batch), batch)
    assert "mc" not in without
    log_probs = model.decoder(batch["cand_in"], outputs["source"]).numpy()
    tokens = np.take_along_axis(log_probs, batch["cand_tgt"].numpy()[..., None], -1)
    means = tokens.squeeze(-1).mean(-1)
    right = means[np.arange(3), batch["mc_target"].numpy()]
    expected = (np.log(np.exp(means).sum(1)) - right).sum()
    assert float(terms["mc"]) == pytest.approx(expected, rel=1e-5)
    difference = float(terms["loss"]) - float(without["loss"])
    assert difference == pytest.approx(0.25 * expected, rel=1e-4)
    before = float(terms["mc"])
    optimizer = paddle.optimizer.Adam(5e-3, parameters=model.parameters())
    for _ in range(10):
        model.loss(model(batch), batch)["mc"].backward()
        optimizer.step()
        optimizer.clear_grad()
    assert float(model.loss(model(batch), batch)["mc"]) < 0.9 * before
