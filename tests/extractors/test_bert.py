# SPDX-License-Identifier: Apache-2.0
"""Word features: pieces, one vector per word, windows, batches, weights and vocabularies."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from engine import build
from engine.errors import WeightsError
from models.extractors.bert import Extractor
from models.extractors.errors import WeightsFileError
from models.layers.bert import BertModel
from tests.conftest import ROOT

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PLAIN = ["do", "n", "'", "t", "you", "see", "ada", "s", "cafe", "foot", "play", "很", "good", "red"]
WORDS = [*SPECIAL, *PLAIN, ".", "?", "##ball", "##ing", "##s", "##t"]
SMALL = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24}
SENTENCE = ["Do", "n't", "you", "see", "Ada", "'s", "football", "playing", "?"]
PIECES = ["do", "n ' t", "you", "see", "ada", "' s", "foot ##ball", "play ##ing", "?"]


@pytest.fixture
def vocab(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return str(path)


def ids(text):
    return [WORDS.index(piece) for piece in text.split()]


def loud(extractor):
    """The same with weights so large that context and position matter."""
    for _, parameter in extractor.named_parameters():
        if parameter.ndim > 1:
            parameter.set_value(parameter * 20)
    return extractor


@pytest.fixture
def extractor(vocab):
    return loud(Extractor(vocab, **SMALL, max_position=20, init_seed=1))


def states(extractor, text):
    """Hidden states of the pieces of a text, run alone."""
    row = paddle.to_tensor([ids(f"[CLS] {text} [SEP]")])
    return extractor(row, paddle.ones(row.shape)).numpy()[0, 1:-1]


@pytest.mark.parametrize(
    ("word", "pieces"),
    [
        ("Don't", "[UNK] ' t"),
        ("do-n't", "do [UNK] n ' t"),
        ("n't", "n ' t"),
        ("'S", "' s"),
        ("CAFÉ", "cafe"),
        ("footballs", "foot ##ball ##s"),
        ("很good", "很 good"),
        ("played", "[UNK]"),
        ("see" * 34, "[UNK]"),
        ("ball", "[UNK]"),
        (" ", "[UNK]"),
        ("\u200b", "[UNK]"),
        ("", "[UNK]"),
    ],
)
def test_pieces(extractor, word, pieces):
    assert extractor.pieces(word) == ids(pieces)
    assert extractor.words([[word]])[0].shape == (1, 16)


def test_a_word_is_the_mean_of_its_pieces(extractor):
    """Also where BERT splits without ##, in the context of the whole sentence."""
    found = extractor.words([SENTENCE])[0]
    hidden = states(extractor, " ".join(PIECES))
    assert found.shape == (9, 16)
    assert found.dtype == np.float32
    start = 0
    for row, pieces in zip(found, PIECES, strict=True):
        count = len(pieces.split())
        np.testing.assert_allclose(row, hidden[start : start + count].mean(0), atol=1e-5)
        start += count
    alone = extractor.words([[word] for word in SENTENCE])
    assert np.abs(found[1] - alone[1][0]).max() > 0.1  # context matters
    spread = hidden[1:4].std(0).max()
    assert spread > 0.1  # so does averaging


def test_batches_change_nothing(extractor):
    """Neither length, nor order, nor neighbours; empty sentences give no vectors."""
    sentences = [SENTENCE, [], ["red"], SENTENCE[:4], ["unknowable", "red"], []]
    extractor.batch_size = 2
    found = extractor.words(sentences)
    for sentence, value in zip(sentences, found, strict=True):
        np.testing.assert_allclose(value, extractor.words([sentence])[0], atol=1e-5)
    assert found[1].shape == (0, 16)
    assert extractor.words([]) == []


def test_long_sentences_are_cut_between_words(vocab):
    """17 pieces are seen together, 15 without the two at the ends: all of the first ten words."""
    extractor = loud(Extractor(vocab, **SMALL, max_position=17, init_seed=1))
    words = [*SENTENCE, "red", "n't", *SENTENCE[:3]]
    found = extractor.words([words])[0]
    first, second = " ".join([*PIECES, "red"]), " ".join(["n ' t", *PIECES[:3]])
    assert len(ids(first)) == 15
    whole = extractor.words([words[:10], words[10:]])
    np.testing.assert_allclose(found, np.concatenate(whole), atol=1e-5)
    np.testing.assert_allclose(found[9], states(extractor, first)[-1], atol=1e-5)
    np.testing.assert_allclose(found[10], states(extractor, second)[:3].mean(0), atol=1e-5)


def test_a_word_longer_than_the_network(vocab):
    extractor = loud(Extractor(vocab, **SMALL, max_position=5, init_seed=1))
    found = extractor.words([["red", "n't.n't", "red"]])[0]
    np.testing.assert_allclose(found[1], states(extractor, "n ' t").mean(0), atol=1e-5)
    np.testing.assert_allclose(found[[0, 2]], states(extractor, "red").repeat(2, 0), atol=1e-5)


def test_without_vocabulary_words_are_spelled():
    extractor = Extractor(**SMALL, init_seed=3)
    assert len(extractor.pieces("Ada's")) == 5
    assert extractor.pieces("Ada") == extractor.pieces("ada") != extractor.pieces("aad")
    assert extractor.pieces("好") == [1]
    cased = Extractor(**SMALL, init_seed=3, lower_case=False)
    assert cased.pieces("Ada") != cased.pieces("ada")
    same = Extractor(**SMALL, init_seed=3).words([SENTENCE])[0]
    np.testing.assert_array_equal(extractor.words([SENTENCE])[0], same)
    other = Extractor(**SMALL, init_seed=4).words([SENTENCE])[0]
    assert np.abs(same - other).max() > 0.1


def test_identity(vocab):
    names = ({}, {"vocab": vocab}, {"lower_case": False}, {"num_layers": 1}, {"max_position": 64})
    identities = [Extractor(**{**SMALL, "init_seed": 1, **options}).identity for options in names]
    assert len({json.dumps(identity) for identity in identities}) == len(names)
    assert Extractor(**SMALL, init_seed=1, batch_size=3).identity == identities[0]


def test_published_weights(vocab, tmp_path):
    """Names with prefix, heads and pooler; the features are those of the network they belong to."""
    net = BertModel(len(WORDS), 16, 2, 2, 24, 512)
    net.eval()
    state = {"cls.predictions.bias": np.zeros(3), "bert.embeddings.position_ids": np.arange(4)}
    for name, value in net.state_dict().items():
        dense = value.ndim == 2 and "embeddings" not in name
        state[f"bert.{name}"] = value.numpy().T if dense else value.numpy()
    path = tmp_path / "model.npz"
    np.savez(path, **state)
    extractor = build.build_extractor("bert", weights=str(path), vocab=vocab, **SMALL)
    assert len(extractor.identity["weights"]) == 64
    row = paddle.to_tensor([ids("[CLS] n ' t see [SEP]")])
    hidden = net(row).numpy()[0]
    found = extractor.words([["n't", "see"]])[0]
    np.testing.assert_allclose(found, [hidden[1:4].mean(0), hidden[4]], atol=1e-5)
    with pytest.raises(WeightsError, match=r"missing: .*layer\.2"):
        build.build_extractor("bert", weights=str(path), vocab=vocab, **{**SMALL, "num_layers": 3})


def test_mistakes(tmp_path, vocab):
    with pytest.raises(WeightsFileError, match="expected the option vocab"):
        Extractor(**SMALL)
    with pytest.raises(WeightsFileError, match=r"none.txt: .*\(No such file"):
        Extractor(str(tmp_path / "none.txt"), **SMALL, init_seed=1)
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(WeightsFileError, match=r"bad.txt: .*\(not UTF-8"):
        Extractor(str(bad), **SMALL, init_seed=1)
    bad.write_text("[PAD]\n[CLS]\n[SEP]\n")
    with pytest.raises(WeightsFileError, match=r"bad.txt: .* 3 lines without \[UNK\]"):
        Extractor(str(bad), **SMALL, init_seed=1)
    with pytest.raises(ValueError, match="max_position of at least 3"):
        Extractor(vocab, **SMALL, max_position=2, init_seed=1)
    with pytest.raises(WeightsError, match=r"found nothing there; .*huggingface.co/bert"):
        build.build_extractor("bert", weights="nowhere/at.all", vocab=vocab)


TEXTS = [
    "Does Ada's café play football? Don't you see!",
    "很good [x] naïve-see … do\u00a0n't\ttabs\u0000",
    "s" * 120 + " ##ing ÀÉ red.",
]


def test_pieces_equal_reference():
    """Of published tokenizers, over a small vocabulary."""
    folder = ROOT.parent / "shared" / "golden" / "clipbert" / "tokenizer"
    if not folder.exists():
        pytest.skip("the reference tokens are not here")
    expected = json.loads((folder / "encode.json").read_text())["tokens"]
    extractor = Extractor(str(folder / "vocab.txt"), **SMALL, init_seed=1)
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert len(expected) > 5
    for text, tokens in expected.items():
        found = [number for word in text.split() for number in extractor.pieces(word)]
        assert [pieces[number] for number in found] == tokens


def test_pieces_equal_paddlenlp(vocab):
    transformers = pytest.importorskip("paddlenlp.transformers")
    peer = transformers.BertTokenizer(vocab, do_lower_case=True)
    extractor = Extractor(vocab, **SMALL, init_seed=1)
    for text in [*TEXTS, " ".join(SENTENCE)]:
        found = [number for word in text.split() for number in extractor.pieces(word)]
        expected = peer(text, add_special_tokens=False)["input_ids"]
        assert found == expected
