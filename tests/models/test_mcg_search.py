# SPDX-License-Identifier: Apache-2.0
"""Beam search of MCG: rules of the published library, cached steps, texts of answers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from models.mcg import text
from models.mcg.search import Hypothesis, beam_search

START, END, WORDS = 8, 3, 9
Logp = np.ndarray


def chances(seed: int, sample: int, prefix: tuple[int, ...], ending: float) -> Logp:
    """Log-probabilities of the word after a prefix, any but always the same."""
    rng = np.random.default_rng((seed, sample, *prefix))
    scores = rng.normal(0, 1.5, WORDS)
    scores[END] += ending
    scores -= np.log(np.exp(scores).sum())
    return scores.astype(np.float32)


class Toy:
    """A step of a search that remembers whole prefixes."""

    def __init__(self, seed: int, ending: float):
        self.seed, self.ending = seed, ending
        self.prefixes: list[list[tuple[int, ...]]] | None = None
        self.samples: np.ndarray | None = None
        self.calls = 0

    def __call__(self, tokens: Logp, samples: Logp, parents: Logp) -> Logp:
        self.calls += 1
        if self.prefixes is None:
            self.prefixes, self.samples = [[()] for _ in samples], np.arange(len(samples))
        self.samples = self.samples[samples]
        self.prefixes = [
            [(*self.prefixes[old][parent], int(token)) for parent, token in zip(*row, strict=True)]
            for old, *row in zip(samples, parents, tokens, strict=True)
        ]
        return np.stack([
            [chances(self.seed, sample, prefix, self.ending) for prefix in prefixes]
            for sample, prefixes in zip(self.samples, self.prefixes, strict=True)
        ])  # fmt: skip


def as_described(
    seed: int, sample: int, ending: float, size: int, max_length: int, min_length: int,
    penalty: float,
) -> list[Hypothesis]:  # fmt: skip
    """The rules word for word, for one sample: every hypothesis from its whole prefix."""
    beams = [((START,), np.float32(0 if i == 0 else -1e9)) for i in range(size)]
    kept: list[tuple[float, tuple[int, ...]]] = []
    finished = False

    def keep(score: float, ids: tuple[int, ...]) -> None:
        if len(kept) < size or score > min(kept)[0]:
            kept.append((score, ids))
            if len(kept) > size:
                del kept[min(range(len(kept)), key=lambda i: (kept[i][0], i))]

    while not finished and len(beams[0][0]) < max_length:
        length = len(beams[0][0])
        flat = []
        for ids, score in beams:
            logp = chances(seed, sample, ids, ending)
            if length < min_length:
                logp[END] = -np.inf
            flat.append(score + logp)
        flat = np.concatenate(flat)
        best = np.argsort(-flat, kind="stable")[: 2 * size]
        following = []
        for rank, place in enumerate(best):
            (ids, _), word = beams[place // WORDS], int(place % WORDS)
            if word == END:
                if rank < size:
                    keep(float(flat[place]) / len(ids) ** penalty, ids)
                continue
            following.append(((*ids, word), flat[place]))
            if len(following) == size:
                break
        bound = float(flat[best[0]]) / length**penalty
        finished = len(kept) == size and min(kept)[0] >= bound
        beams = following
    if not finished:
        for ids, score in beams:
            keep(float(score) / len(ids) ** penalty, ids)
    order = sorted(kept, key=lambda pair: pair[0])[::-1]
    return [Hypothesis(list(ids[1:]), score, len(ids) < max_length) for score, ids in order]


@pytest.mark.parametrize("ending", [-3.0, 0.0, 2.0, 5.0])
@pytest.mark.parametrize("size, max_length, min_length, penalty", [
    (3, 10, 1, 1.0), (3, 6, 4, 1.0), (2, 5, 1, 0.0), (1, 4, 1, 2.0), (4, 2, 1, 1.0),
])  # fmt: skip
def test_the_rules_of_the_library(ending, size, max_length, min_length, penalty):
    samples, seed = 6, size
    found = beam_search(
        Toy(seed, ending), samples, start=START, end=END, size=size, max_length=max_length,
        min_length=min_length, length_penalty=penalty,
    )  # fmt: skip
    ended = 0
    for sample, hypotheses in enumerate(found):
        expected = as_described(seed, sample, ending, size, max_length, min_length, penalty)
        assert [(h.tokens, h.ended) for h in hypotheses] == [(h.tokens, h.ended) for h in expected]
        scores = [h.score for h in expected]
        assert [h.score for h in hypotheses] == pytest.approx(scores, rel=1e-6)
        ended += any(h.ended for h in hypotheses)
    assert ended or ending <= 0 or max_length == 2


def test_searches_end_at_different_times():
    """A sample's answers do not depend on those beside it, and its end saves work."""
    toy = Toy(1, 3.0)
    together = beam_search(toy, 8, start=START, end=END)
    lengths = [max(len(h.tokens) for h in found) for found in together]
    assert len(set(lengths)) > 1 and toy.calls < 9
    for sample, found in enumerate(together):
        assert found == as_described(1, sample, 3.0, 3, 10, 1, 1.0)


def test_the_latest_of_equal_answers_is_the_best():
    def step(tokens: Logp, samples: Logp, parents: Logp) -> Logp:
        logp = np.full((*tokens.shape, WORDS), -np.inf, np.float32)
        logp[..., [END, 5]] = -1.0  # every answer has the mean -1
        return logp

    ((best, second),) = beam_search(step, 1, start=START, end=END, size=2, max_length=5)
    assert best.score == second.score == -1.0
    assert (best.tokens, second.tokens) == ([5], [])  # the first two are as good as any later one


@pytest.mark.parametrize("options", [{"size": 0}, {"max_length": 1}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="num_beams, max_length: expected") as error:
        beam_search(Toy(0, 0.0), 1, start=START, end=END, **options)
    assert "\n" not in str(error.value)


# ---- steps of the network


def decoder(seed: int = 0) -> text.AnswerDecoder:
    """A small network that is far from undecided."""
    paddle.seed(seed)
    net = text.AnswerDecoder(
        vocab_size=WORDS, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24,
        max_position=12, dropout=0.1,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    for name, parameter in net.named_parameters():
        value = rng.normal(0, 0.5, parameter.shape) + name.endswith("LayerNorm.weight")
        parameter.set_value(value.astype(np.float32))
    net.eval()
    return net


class Anew:
    """A step that computes everything again for every word."""

    def __init__(self, net: text.AnswerDecoder, fused: paddle.Tensor):
        self.net, self.fused = net, fused
        self.prefixes: np.ndarray | None = None

    @paddle.no_grad()
    def __call__(self, tokens: Logp, samples: Logp, parents: Logp) -> Logp:
        if self.prefixes is None:
            self.prefixes = tokens[:, :, None]
        else:
            before = self.prefixes[samples[:, None], parents]
            self.prefixes = np.concatenate([before, tokens[:, :, None]], -1)
        self.fused = paddle.gather(self.fused, paddle.to_tensor(samples))
        hidden, _ = self.net(paddle.to_tensor(self.prefixes), self.net.memory(self.fused))
        return paddle.nn.functional.log_softmax(self.net.words(hidden[:, :, -1])).numpy()


@pytest.mark.parametrize("samples", [1, 2, 24])
def test_cached_steps_equal_those_anew(samples):
    net = decoder()
    change = np.zeros(WORDS, np.float32)
    change[0], change[END] = -50, 7  # 0 is padding where answers are given: it must not occur here
    net.cls.predictions.bias.set_value(net.cls.predictions.bias + paddle.to_tensor(change))
    fused = paddle.to_tensor(np.random.default_rng(1).normal(0, 2, (samples, 5, 16)), "float32")
    options = {"start": START, "end": END, "size": 3, "max_length": 9}
    watched, held = net.steps(fused), []

    def step(*call: Logp) -> Logp:
        logp = watched(*call)
        held.append((len(call[1]), watched.memory[0][0].shape[0]))
        return logp

    fast = beam_search(step, samples, **options)
    slow = beam_search(Anew(net, fused), samples, **options)
    for one, other in zip(fast, slow, strict=True):
        assert [h.tokens for h in one] == [h.tokens for h in other]
        assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-5)
    assert all(rows <= memory < 2 * rows or rows == memory for rows, memory in held)
    if samples == 24:  # some are idle for a while, later only what is needed is left
        assert any(rows < memory for rows, memory in held)
        assert held[-1][1] < samples


def test_padding_may_be_generated():
    """A hypothesis with word 0 in it goes on like any other."""
    net = decoder()
    memory = net.memory(paddle.ones([1, 4, 16]))
    _, past = net(paddle.to_tensor([[[START]]]), memory)
    _, past = net(paddle.to_tensor([[[0]]]), memory, past)
    third, _ = net(paddle.to_tensor([[[5]]]), memory, past)
    hidden, _ = net(paddle.to_tensor([[[START, 1, 5]]]), memory)
    assert past[0][0].shape[2] == 2
    assert not np.allclose(third.numpy()[0, 0, 0], hidden.numpy()[0, 0, 2], atol=1e-3)
    table = net.bert.embeddings.word_embeddings.weight
    table.set_value(paddle.concat([table[1:2], table[1:]]))  # 0 looks like 1
    _, past = net(paddle.to_tensor([[[START]]]), memory)
    _, past = net(paddle.to_tensor([[[0]]]), memory, past)
    third, _ = net(paddle.to_tensor([[[5]]]), memory, past)
    np.testing.assert_allclose(third.numpy()[0, 0, 0], hidden.numpy()[0, 0, 2], atol=1e-5)


def test_answers_of_a_question_do_not_see_one_another():
    net = decoder()
    memory = net.memory(paddle.to_tensor(np.random.default_rng(2).normal(size=(2, 4, 16)),
                                         "float32"))  # fmt: skip
    ids = paddle.to_tensor([[[8, 1, 2, 3], [8, 5, 3, 0]], [[8, 4, 4, 3], [8, 3, 0, 0]]])
    hidden, _ = net(ids, memory)
    for n in range(2):
        one = [(pair[0][n : n + 1], pair[1][n : n + 1]) for pair in memory]
        for k in range(2):
            length = int((ids[n, k] > 0).sum())
            alone, _ = net(ids[n : n + 1, k : k + 1, :length], one)
            found = hidden[n, k, :length].numpy()
            np.testing.assert_allclose(alone.numpy()[0, 0], found, atol=1e-5)


# ---- texts of answers


@pytest.mark.parametrize("pieces, expected", [
    ("[DEC] play ##ing the guitar [SEP] [PAD]", "playing the guitar"),
    ("a dog ' s ball , two cat ##s .", "a dog's ball, two cats."),
    ("[UNK] [MASK] do n't ! we 've ? i 'm [ENC]", "don't! we've? i'm"),
    ("##s man", "##s man"),
    ("[DEC] [SEP]", ""),
])  # fmt: skip
def test_texts_of_pieces(pieces, expected):
    tokens = sorted(set(pieces.split()))
    assert text.read_pieces([tokens.index(p) for p in pieces.split()], tokens) == expected
