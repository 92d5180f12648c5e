# SPDX-License-Identifier: Apache-2.0
"""BERT against NumPy, PaddleNLP, and the reference numbers of a network that contains it."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from models.layers.bert import BertModel, additive_mask, convert
from tests.conftest import ROOT

SIZES = {"vocab_size": 50, "hidden_size": 24, "num_layers": 2, "num_heads": 3}
SIZES |= {"intermediate_size": 40, "max_position": 20}


def make(seed=0, **options):
    """A network in evaluation mode with large random parameters, norms and biases included."""
    net = BertModel(**SIZES, **options)
    rng = np.random.default_rng(seed)
    for name, parameter in net.named_parameters():
        value = rng.normal(0, 0.4, parameter.shape) + name.endswith("LayerNorm.weight")
        parameter.set_value(value.astype(np.float32))
    net.eval()
    return net, {name: value.numpy() for name, value in net.state_dict().items()}


def inputs(seed=1):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, SIZES["vocab_size"], (3, 9))
    mask = np.arange(9) < np.array([[9], [4], [1]])
    return ids, mask.astype(np.float32), rng.integers(0, 2, (3, 9))


def by_numpy(state, ids, mask, types):
    """The network as the paper describes it, float64, one sentence and one head at a time."""
    p = {name: value.astype(np.float64) for name, value in state.items()}
    size = SIZES["hidden_size"] // SIZES["num_heads"]

    def dense(x, name):
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    result = []
    for words, seen, kinds in zip(ids, mask, types, strict=True):
        x = p["embeddings.word_embeddings.weight"][words]
        x = x + p["embeddings.position_embeddings.weight"][: len(words)]
        x = norm(x + p["embeddings.token_type_embeddings.weight"][kinds], "embeddings.LayerNorm")
        for number in range(SIZES["num_layers"]):
            layer = f"encoder.layer.{number}"
            q, k, v = (
                dense(x, f"{layer}.attention.self.{n}") for n in ("query", "key", "value")
            )
            heads = []
            for head in range(SIZES["num_heads"]):
                part = slice(head * size, (head + 1) * size)
                weights = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size)) * seen
                heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
            x = norm(
                x + dense(np.concatenate(heads, -1), f"{layer}.attention.output.dense"),
                f"{layer}.attention.output.LayerNorm",
            )
            y = dense(x, f"{layer}.intermediate.dense")
            y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2
            x = norm(x + dense(y, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        result.append(x)
    x = np.stack(result)
    return x, np.tanh(dense(x[:, 0], "pooler.dense"))


def run(net, ids, mask=None, types=None):
    mask = None if mask is None else paddle.to_tensor(mask)
    types = None if types is None else paddle.to_tensor(types)
    hidden = net(paddle.to_tensor(ids), mask, types)
    return hidden.numpy(), net.pooler(hidden).numpy()


def test_equals_numpy():
    net, state = make()
    ids, mask, types = inputs()
    expected = by_numpy(state, ids, mask, types)
    for found, value in zip(run(net, ids, mask, types), expected, strict=True):
        np.testing.assert_allclose(found, value, atol=1e-5)
        assert np.abs(value).max() > 0.5  # large enough to mean something


def test_defaults_are_no_padding_and_type_0():
    net, state = make()
    ids, mask, types = inputs()
    expected = by_numpy(state, ids, np.ones_like(mask), np.zeros_like(types))
    np.testing.assert_allclose(run(net, ids)[0], expected[0], atol=1e-5)


def test_padding_changes_nothing():
    net, _ = make()
    ids, mask, _ = inputs()
    alone = run(net, ids[1:2, :4])[0]
    np.testing.assert_allclose(run(net, ids, mask)[0][1:2, :4], alone, atol=1e-5)


def test_parts_take_embeddings_positions_and_any_mask():
    """As networks do that append other vectors to the words, or look back only."""
    net, _ = make(token_types=0)
    assert net.embeddings.token_type_embeddings is None
    ids = paddle.to_tensor(inputs()[0])
    positions = paddle.zeros_like(ids)
    expected = net.embeddings(ids[:, ::-1], positions=positions)[:, ::-1]
    np.testing.assert_allclose(
        net.embeddings(ids, positions=positions).numpy(), expected.numpy(), atol=1e-6
    )
    causal = paddle.to_tensor(np.triu(np.full((9, 9), -1e4, np.float32), 1))
    x = net.embeddings(ids)
    full, part = net.encoder(x, causal), net.encoder(x[:, :5], causal[:5, :5])
    np.testing.assert_allclose(full[:, :5].numpy(), part.numpy(), atol=1e-5)


def test_the_last_layer_computes_only_what_is_wanted():
    net, _ = make()
    ids, mask, _ = inputs()
    x, mask = net.embeddings(paddle.to_tensor(ids)), additive_mask(paddle.to_tensor(mask))
    whole = net.encoder(x, mask).numpy()
    for first in (1, 4):
        found = net.encoder(x, mask, first)
        np.testing.assert_allclose(found.numpy(), whole[:, :first], atol=1e-5)


def test_training_without_dropout_equals_evaluation():
    net, _ = make(dropout=0.0)
    ids, mask, types = inputs()
    expected = run(net, ids, mask, types)[0]
    net.train()
    np.testing.assert_allclose(run(net, ids, mask, types)[0], expected, atol=1e-5)


def test_dropout_is_on_in_training_only():
    net, _ = make()
    ids, *_ = inputs()
    assert (run(net, ids)[0] == run(net, ids)[0]).all()
    net.train()
    assert (run(net, ids)[0] != run(net, ids)[0]).any()


def test_additive_mask():
    mask = additive_mask(paddle.to_tensor([[1, 0]]))
    assert mask.numpy().tolist() == [[[[0.0, -10000.0]]]]


def test_every_parameter_learns():
    net, _ = make()
    net.train()
    ids = paddle.to_tensor(np.arange(8).reshape(2, 4))  # 0 is a word like any other
    net.pooler(net(ids)).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
    assert np.abs(net.embeddings.word_embeddings.weight.grad.numpy()[:8]).sum(1).min() > 0
    with pytest.raises(ValueError, match="multiple of num_heads, found 10 and 3"):
        BertModel(vocab_size=5, hidden_size=10, num_layers=1, num_heads=3)


def published(state):
    """The state under names and in the layout of an old PyTorch file."""
    result = {"bert.embeddings.position_ids": np.arange(20)[None], "cls.predictions.bias": 0}
    for name, value in state.items():
        dense = value.ndim == 2 and "embeddings" not in name
        old = name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")
        result[f"bert.{old}"] = value.T if dense else value
    return result


def test_convert():
    _, state = make()
    old = published(state)
    for source in (old, state, {f"module.{name}": value for name, value in old.items()}):
        found = convert(source)
        assert found.keys() == state.keys()
        for name, value in state.items():
            np.testing.assert_array_equal(found[name], value)


def golden(name):
    path = ROOT.parent / "shared" / "golden" / "clipbert" / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return np.load(path)


def test_reference_numbers():
    """Embeddings, each layer over words and other vectors, and pooler of a published code."""
    file = golden("qa_frameqa.npz")
    prefix = "param/transformer."
    state = convert({n[len(prefix) :]: file[n] for n in file.files if n.startswith(prefix)})
    net = BertModel(60, 32, 2, 4, 48, 32)
    own = net.state_dict()
    assert own.keys() <= state.keys()
    for name, value in own.items():
        value.set_value(state[name])
    net.eval()
    seen = {n[len("out/clip0/") :]: file[n] for n in file.files if n.startswith("out/clip0/")}
    text = net.embeddings(paddle.to_tensor(file["in/text_input_ids"]))
    np.testing.assert_allclose(text.numpy(), seen["text_embedding"], rtol=1e-5, atol=1e-5)
    x = paddle.concat([text, paddle.to_tensor(seen["visual_embedding"])], 1)
    mask = np.concatenate([file["in/text_input_mask"], np.ones((2, 4))], 1)
    for number, layer in enumerate(net.encoder.layer):
        x = layer(x, additive_mask(paddle.to_tensor(mask)))
        np.testing.assert_allclose(x.numpy(), seen[f"encoder_layer{number}"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net.pooler(x).numpy(), seen["pooled"], rtol=1e-5, atol=1e-5)


PADDLENLP = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
    "embeddings.LayerNorm": "embeddings.layer_norm",
    "encoder.layer.": "encoder.layers.",
}


def test_equals_paddlenlp():
    """The same weights in PaddleNLP's BERT, whose norms have another epsilon, give the same."""
    transformers = pytest.importorskip("paddlenlp.transformers")
    net, state = make()
    sizes = {
        "vocab_size": SIZES["vocab_size"],
        "hidden_size": SIZES["hidden_size"],
        "num_hidden_layers": SIZES["num_layers"],
        "num_attention_heads": SIZES["num_heads"],
        "intermediate_size": SIZES["intermediate_size"],
        "max_position_embeddings": SIZES["max_position"],
        "type_vocab_size": 2,
    }
    peer = transformers.BertModel(transformers.BertConfig(**sizes))
    own = peer.state_dict()
    for name, value in state.items():
        for ours, theirs in PADDLENLP.items():
            name = name.replace(ours, theirs)
        own.pop(name).set_value(value)
    assert not own
    peer.eval()
    for layer in peer.sublayers():
        if isinstance(layer, paddle.nn.LayerNorm):
            layer._epsilon = 1e-12
    ids, mask, types = inputs()
    expected = peer(*map(paddle.to_tensor, (ids, types)), attention_mask=paddle.to_tensor(mask))
    for found, value in zip(run(net, ids, mask, types), expected, strict=True):
        np.testing.assert_allclose(found, value.numpy(), atol=1e-5)
