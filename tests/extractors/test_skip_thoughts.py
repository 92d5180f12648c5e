# SPDX-License-Identifier: Apache-2.0
"""Skip-thoughts against the golden numbers and Paddle's GRU; its files, words and tokens."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from models.extractors.errors import WeightsFileError
from models.extractors.skip_thoughts import SkipThoughts, tokenise
from tests.conftest import ROOT

GOLDEN = ROOT / "tests/golden/tall"
SMALL = {"dim_word": 6, "uni_dim": 8, "bi_dim": 4}


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "skipthought_tiny.npz"))


@pytest.fixture(scope="module")
def meta():
    return json.loads((GOLDEN / "skipthought_tiny.json").read_text())


@pytest.fixture
def folder(tmp_path, golden, meta):
    """The published files, small; the .npz also hold what the encoder does not need."""
    (tmp_path / "dictionary.txt").write_text("\n".join(meta["vocab"]) + "\n")
    np.save(tmp_path / "utable.npy", golden["in/utable"])
    np.save(tmp_path / "btable.npy", golden["in/btable"])
    for part in ("uni", "bi"):
        prefix = f"param/{part}/"
        state = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
        np.savez(tmp_path / f"{part}_skip.npz", Wemb=np.zeros((3, 2)), **state)
    return tmp_path


def build(meta, **options):
    return SkipThoughts(meta["dim_word"], meta["uni_dim"], meta["bi_dim"], **options)


@pytest.mark.parametrize("eos", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
def test_golden_from_files(folder, golden, meta, eos, normalise):
    net = build(meta, eos=eos, normalise=normalise)
    net.load_files(folder)
    found = net.encode_tokens(meta["tokenised_sentences"])
    kind, end = "norm" if normalise else "raw", "_eos" if eos else ""
    np.testing.assert_allclose(found, golden[f"out/combine_{kind}{end}"], atol=1e-6)
    if not normalise:
        uni, bi = np.split(found, [meta["uni_dim"]], axis=1)
        np.testing.assert_allclose(uni, golden[f"out/uni_raw{end}"], atol=1e-6)
        np.testing.assert_allclose(bi, golden[f"out/bi_raw{end}"], atol=1e-6)


def test_equals_paddle_gru(folder, golden, meta):
    """The same recurrence by another implementation: gates r, z, c and no hidden bias."""
    net = build(meta, normalise=False)
    net.load_files(folder)
    w = {k.rpartition("/")[2]: v for k, v in golden.items() if k.startswith("param/uni/")}
    gru = paddle.nn.GRU(meta["dim_word"], meta["uni_dim"])
    gru.weight_ih_l0.set_value(np.concatenate([w["encoder_W"].T, w["encoder_Wx"].T]))
    gru.weight_hh_l0.set_value(np.concatenate([w["encoder_U"].T, w["encoder_Ux"].T]))
    gru.bias_ih_l0.set_value(np.concatenate([w["encoder_b"], w["encoder_bx"]]))
    gru.bias_hh_l0.set_value(np.zeros(3 * meta["uni_dim"], np.float32))
    for words in meta["tokenised_sentences"]:
        rows = [meta["vocab"].index(v if v in meta["vocab"] else "UNK") for v in words]
        last = gru(paddle.to_tensor(golden["in/utable"][rows][None]))[1].numpy()[0, 0]
        ours = net.encode_tokens([words])[0, : meta["uni_dim"]]
        np.testing.assert_allclose(ours, last, atol=1e-6)


def test_batches_and_order_do_not_matter():
    net = SkipThoughts(**SMALL, init_seed=0)
    sentences = [" ".join(f"w{j}" for j in range(1 + i * 7 % 23)) for i in range(70)]
    together = net.encode(sentences)
    assert together.shape == (70, 16) and together.dtype == np.float32
    one_by_one = np.concatenate([net.encode([s]) for s in sentences])
    np.testing.assert_allclose(together, one_by_one, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), np.sqrt(2), rtol=1e-6)


def test_unknown_and_cased_words(folder, meta):
    net = build(meta)
    net.load_files(folder)
    a, b, c = net.encode(["xyzzy", "UNK", "Xyzzy plugh"])
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert not np.allclose(a, c)
    assert not np.allclose(*net.encode(["The", "the"]))


def test_sentence_without_words():
    net = SkipThoughts(**SMALL, init_seed=0, eos=True)
    with pytest.warns(UserWarning, match="2 of 3 sentences have no word"):
        found = net.encode(["", "a", " \t"])
    assert not found[[0, 2]].any() and found[1].any()
    assert net.encode([]).shape == (0, 16)


def test_tables_are_not_read_into_memory(folder, meta):
    net = build(meta)
    net.load_files(folder)
    assert isinstance(net._tables["uni"], np.memmap)


def test_digest_depends_on_the_files(folder, meta):
    first = build(meta).load_files(folder)
    assert first == build(meta).load_files(folder) and len(first) == 64
    text = (folder / "dictionary.txt").read_text()
    (folder / "dictionary.txt").write_text(text.replace("pan", "pot"))
    assert build(meta).load_files(folder) != first


def _words(folder, words):
    (folder / "dictionary.txt").write_text("\n".join(words))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "btable.npy").unlink(), r"missing btable\.npy"),
        (lambda f: (f / "btable.npy").write_bytes(b"<html>"), r"btable\.npy: expected NumPy"),
        (lambda f: (f / "uni_skip.npz").write_bytes(b"PK\x03\x04"), r"skip\.npz: expected NumPy"),
        (lambda f: np.save(f / "utable.npy", np.zeros((3, 12))), "uni-skip word table: expected"),
        (lambda f: np.savez(f / "bi_skip.npz", x=np.zeros(2)), r"expected bi\.W of shape"),
        (lambda f: np.savez(f / "bi_skip.npz", encoder_W=np.zeros((12, 9))), r"found \(12, 9\)"),
        (lambda f: _words(f, ["a"] * 26), "expected the word 'UNK'"),
        (lambda f: (f / "dictionary.txt").write_bytes(b"a\n\xff\n"), "txt:2: .* in UTF-8"),
    ],
)
def test_bad_files(folder, meta, damage, message):
    damage(folder)
    with pytest.raises(WeightsFileError, match=message) as error:
        build(meta).load_files(folder)
    assert error.value.exit_code == 4 and "\n" not in str(error.value)


def test_no_words_yet(meta):
    with pytest.raises(WeightsFileError, match="expected weights or init_seed"):
        build(meta).encode(["a"])


def test_published_sizes():
    path = ROOT.parent / "shared/specs/tall_feature_models_state_dict.json"
    if not path.exists():
        pytest.skip(f"needs {path}")
    published = json.loads(path.read_text())
    files = {"uni": "skip_thoughts_uni_skip.npz", "bi": "skip_thoughts_bi_skip.npz"}
    shapes = {f"{p}.{n}": tuple(s) for p, f in files.items() for n, s in published[f].items()}
    converted = SkipThoughts.convert({n: np.broadcast_to(0.0, s) for n, s in shapes.items()})
    net = SkipThoughts()
    assert {n: v.shape for n, v in converted.items()} == {
        n: tuple(p.shape) for n, p in net.state_dict().items()
    }
    assert net.dim == 4800
    own = {name: np.zeros(1) for name in converted}
    assert SkipThoughts.convert(own) == own


def test_random_words_and_parameters():
    a, b, c = (SkipThoughts(**SMALL, init_seed=seed) for seed in (1, 1, 2))
    x = ["any word at all", "zyx"]
    np.testing.assert_array_equal(a.encode(x), b.encode(x))
    assert not np.allclose(a.encode(x), c.encode(x))


def test_random_encoder_remembers_every_word_and_their_order():
    net = SkipThoughts(32, 64, 32, init_seed=0)
    words = [f"w{i}" for i in range(12)]
    changed = [[*words[:i], "other", *words[i + 1 :]] for i in range(12)]
    swapped = [[*words[:i], words[i + 1], words[i], *words[i + 2 :]] for i in range(11)]
    found = net.encode_tokens([words, *changed, *swapped])
    moved = np.linalg.norm(found[1:] - found[0], axis=1)
    assert moved[:12].min() > 0.1 and moved[12:].min() > 0.02


def test_tokens_of_own_sentences():
    for sentence, tokens in (
        ('He says "stop" (twice).', "He says `` stop '' ( twice ) ."),
        ("She doesn't; it's Ann's!", "She does n't ; it 's Ann 's !"),
        ("Cut it. Then mix 1/2 cup, maybe.", "Cut it . Then mix 1/2 cup , maybe ."),
        ("into quarters.(1/4)", "into quarters. ( 1/4 )"),
        ("No end", "No end"),
        (" \n", ""),
    ):
        assert " ".join(tokenise(sentence)) == tokens


def test_golden_tokens():
    path = ROOT.parent / "shared/golden/tall/tokenise.json"
    if not path.exists():
        pytest.skip(f"needs {path}")
    golden = json.loads(path.read_text())
    assert len(golden) == 160
    assert [tokenise(sentence) for sentence, _ in golden] == [words for _, words in golden]
