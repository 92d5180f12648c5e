# SPDX-License-Identifier: Apache-2.0
"""The decoder of answers and its searches, on small random networks and hand-made distributions."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest

from models.stage import Model
from models.stage import decoder as parts
from models.stage.decoder import AnswerDecoder
from models.stage.search import BOS, EOS, UNK, Hypothesis, beam_search, greedy_search

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT.parent / "shared" / "specs" / "stage_generative_state_dict.json"
PUBLISHED_MARK = {"position_encoding.pe": np.zeros((1, 1))}  # tells states of PyTorch
V, D, LQ, LI, LS = 14, 8, 5, 4, 3
WORDS = LQ + LI * LS


def small(**options: object) -> AnswerDecoder:
    paddle.seed(3)
    options = {"vocab_size": V, "size": D, "heads": 2, "ffn": 16, "dropout": 0.0} | options
    model = AnswerDecoder(**options)
    for parameter in model.parameters():  # far from uniform, so that searches have a choice
        parameter.set_value(parameter + paddle.randn(parameter.shape) * 0.2)
    model.eval()
    return model


def found(n: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """What an encoder finds: two subtitle pieces a sample, some padding everywhere."""
    rng = np.random.default_rng(seed)

    def mask(rows: int, length: int) -> np.ndarray:
        sizes = rng.integers(2, length + 1, (rows, 1))
        return (np.arange(length) < sizes).astype(np.float32)

    frames = mask(n, LI)
    return {
        "question": rng.standard_normal((n, LQ, D), np.float32), "question_mask": mask(n, LQ),
        "frames": rng.standard_normal((n, LI, D), np.float32), "frame_mask": frames,
        "seen": frames, "in_span": rng.integers(0, 2, (n, LI)),
        "pieces": rng.standard_normal((2 * n, LS, D), np.float32), "pieces_mask": mask(2 * n, LS),
        "piece": 2 * np.arange(n)[:, None] + rng.integers(0, 2, (n, LI)),
    }  # fmt: skip


def copy_ids(n: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, V + 2, (n, WORDS))


def source(
    model: AnswerDecoder, arrays: dict | None = None, ids: np.ndarray | None = None
) -> parts.Source:
    tensors = {k: paddle.to_tensor(v) for k, v in (arrays or found()).items()}
    ids = copy_ids(len(tensors["question"])) if ids is None else ids
    return model.source(model.memory(**tensors), paddle.to_tensor(ids))


def logp(model: AnswerDecoder, ids: np.ndarray, given: parts.Source) -> np.ndarray:
    with paddle.no_grad():
        return model(paddle.to_tensor(ids), given).numpy()


def answers(*shape: int, seed: int = 0) -> np.ndarray:
    """Token ids that begin with BOS, of words within and outside the vocabulary."""
    ids = np.random.default_rng(seed).integers(4, V + 2, shape)
    ids[..., 0] = BOS
    return ids


# network


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="needs the specified list of parameters")
def test_names_and_shapes_are_those_of_the_specification():
    shapes = json.loads(PUBLISHED.read_text())
    state = Model.convert({k: np.zeros(shape, np.float32) for k, shape in shapes.items()})
    given = {k: list(v.shape) for k, v in state.items() if k.startswith("decoder.")}
    model = AnswerDecoder(vocab_size=5000, size=128)
    assert given == {f"decoder.{k}": list(v.shape) for k, v in model.state_dict().items()}


def test_only_linear_layers_are_transposed():
    names = ("embed", "type_embed", "span_embed", "copy_q", "layers.0.linear1")
    state = {f"decoder.{k}.weight": np.ones([5, 2], np.float32) for k in names}
    shapes = [v.shape for v in Model.convert(state | PUBLISHED_MARK).values()]
    assert shapes == [(5, 2)] * 3 + [(2, 5)] * 2


def test_initial_values():
    paddle.seed(0)
    model = AnswerDecoder(vocab_size=400, size=64)
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    assert state["embed.weight"].std() == pytest.approx(1 / 8, rel=0.05)
    assert state["span_embed.weight"].std() == pytest.approx(0.02, rel=0.3)
    bound = math.sqrt(6 / (64 + 512))
    assert np.abs(state["layers.1.linear1.weight"]).max() == pytest.approx(bound, rel=0.01)
    zeros = [k for k in state if k.endswith("bias")]
    assert "out_bias" in zeros and not any(state[k].any() for k in zeros)


@pytest.mark.parametrize("use_copy", [True, False])
def test_cached_steps_equal_the_full_pass(use_copy):
    model = small(use_copy=use_copy)
    given, every = source(model), np.arange(3)
    step = model.steps(given)
    ids = answers(3, 4, 5)
    full = logp(model, ids, given)  # (N, K, T, V_ext)
    first = step(np.full((3, 1), BOS), every, np.zeros((3, 1), int))
    np.testing.assert_allclose(first[:, 0], full[:, 0, 0], atol=1e-5)
    second = step(ids[:, :, 1], every, np.zeros((3, 4), int))
    np.testing.assert_allclose(second, full[:, :, 1], atol=1e-5)
    # Sample 1 ends; the others go on with some of their hypotheses in another order.
    kept, parents = np.array([0, 2]), np.array([[3, 0, 3], [1, 1, 2]])
    tokens = ids[kept[:, None], [[0, 1, 2]], 2]
    third = step(tokens, kept, parents)
    prefix = ids[kept[:, None], parents, :3].copy()
    prefix[:, :, 2] = tokens
    expected = logp(model, prefix, given.select(paddle.to_tensor(kept)))[:, :, -1]
    np.testing.assert_allclose(third, expected, atol=1e-5)


def test_several_answers_to_a_question_equal_one_at_a_time():
    model = small()
    given, ids = source(model), answers(3, 5, 6)
    together = logp(model, ids, given)
    for k in range(5):
        np.testing.assert_allclose(together[:, k], logp(model, ids[:, k], given), atol=1e-5)


def test_later_tokens_have_no_influence():
    model = small()
    given, ids = source(model), answers(3, 6)
    changed = ids.copy()
    changed[:, 4:] = 5
    before, after = (logp(model, x, given) for x in (ids, changed))
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 1e-3


def test_words_outside_the_vocabulary_are_read_as_unknown():
    model = small()
    given, ids = source(model), answers(3, 5)
    ids[:, 2] = V + 1
    unknown = np.where(ids < V, ids, UNK)
    assert (logp(model, ids, given) == logp(model, unknown, given)).all()


@pytest.mark.parametrize("use_sub_memory", [True, False])
def test_copying_keeps_the_sum_at_one(use_sub_memory):
    model = small(use_sub_memory=use_sub_memory)
    ids = copy_ids()[:, : WORDS if use_sub_memory else LQ]
    ids[ids >= V] = V + 1
    chances = np.exp(logp(model, answers(3, 5), source(model, ids=ids)))
    np.testing.assert_allclose(chances.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(chances[..., V], 1e-10, rtol=1e-3)  # in no source
    assert chances.shape[-1] == V + 2 and chances[..., V + 1].max() > 1e-3


def test_repeated_words_add_up():
    model, ids = small(), answers(3, 4)
    apart = np.tile(V + np.arange(WORDS), (3, 1))
    together = V + np.arange(WORDS) % 3
    tensors = {k: paddle.to_tensor(v) for k, v in found().items()}
    memory = model.memory(**tensors)
    alone, summed = (
        np.exp(logp(model, ids, model.source(memory, paddle.to_tensor(x))))
        for x in (apart, np.tile(together, (3, 1)))
    )
    for k in range(3):
        np.testing.assert_allclose(
            summed[..., V + k], alone[..., V:][..., k::3].sum(-1), atol=1e-6
        )
    np.testing.assert_allclose(summed[..., :V], alone[..., :V], atol=1e-6)


def test_words_of_the_vocabulary_get_both_chances():
    model, ids = small(), answers(3, 4)
    outside, inside = (logp(model, ids, source(model, ids=np.full((3, WORDS), k))) for k in (V, 7))
    expected = np.exp(outside[..., 7]) + np.exp(outside[..., V])
    np.testing.assert_allclose(np.exp(inside[..., 7]), expected, atol=1e-6)


@pytest.mark.parametrize("place", [2, LQ + 1, WORDS - 1])
def test_words_are_copied_from_the_place_of_their_id(place):
    """One word is left, which the copy head must say; frames are left, too, and say nothing."""
    model, arrays = small(), found()
    shown = np.arange(WORDS) == place
    arrays["question_mask"][:], words = shown[:LQ], shown[LQ:].reshape(LI, LS)
    arrays["frame_mask"][:] = arrays["seen"][:] = 1
    arrays["pieces"], words = np.ones((LI, LS, D), np.float32), words.astype(np.float32)
    arrays["pieces_mask"] = words
    arrays["piece"][:] = np.arange(LI)
    ids = np.tile(np.where(shown, V, V + 1), (3, 1))
    chances = np.exp(logp(model, answers(3, 2), source(model, arrays, ids)))
    assert chances[..., V].min() > 1e-4
    np.testing.assert_allclose(chances[..., V + 1], 1e-10, rtol=1e-3)


@pytest.mark.parametrize("use_copy", [True, False])
def test_padding_of_the_memory_has_no_influence(use_copy):
    model, arrays, ids = small(use_copy=use_copy), found(), copy_ids()
    expected = logp(model, answers(3, 5), source(model, arrays, ids))
    changed = {k: v.copy() for k, v in arrays.items()}
    for part in ("question", "pieces"):
        changed[part][changed[f"{part}_mask"] == 0] = 7.0
    padding = changed["frame_mask"] == 0
    assert padding.any()
    changed["frames"][padding] = -1e10
    changed["piece"][padding], changed["in_span"][padding] = 0, 1
    actual = logp(model, answers(3, 5), source(model, changed, ids))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_frame_without_regions_stays_with_its_subtitles():
    """Its vector is about -1e10: it counts as zeros."""
    model, arrays = small(), found()
    memories = []
    for value, seen in ((-1e10 * np.arange(1, D + 1), 0), (0, 1)):
        arrays["frames"][0, 0], arrays["seen"] = value, arrays["frame_mask"].copy()
        arrays["seen"][0, 0] = seen
        memories.append(model.memory(**{k: paddle.to_tensor(v) for k, v in arrays.items()}))
    unseen, zero = memories
    assert (unseen.tokens.numpy() == zero.tokens.numpy()).all()
    assert (unseen.mask.numpy() == zero.mask.numpy()).all()
    assert unseen.mask[0, LQ] == 1 and unseen.mask[0, LQ + LI] == 1


def test_moments_are_widened_and_the_last_of_equal_ones_is_chosen():
    assert parts.predicted_spans(paddle.zeros([2, 5, 2])).tolist() == [[4, 4], [4, 4]]
    flags = parts.span_flags(np.array([[1, 2], [5, 7], [0, 7]]), 2, 8)
    assert flags.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1], [1] * 8]
    model = small()
    inside, outside = (model.memory(**{
        k: paddle.to_tensor(np.full_like(v, flag) if k == "in_span" else v)
        for k, v in found().items()
    }).tokens.numpy() for flag in (1, 0))  # fmt: skip
    embedded = model.span_embed.weight.numpy()
    difference = np.broadcast_to(embedded[1] - embedded[0], (3, LI + LI * LS, D))
    np.testing.assert_allclose((inside - outside)[:, LQ:], difference, atol=1e-5)
    assert (inside[:, :LQ] == outside[:, :LQ]).all()


def test_loss_is_the_mean_of_each_answer():
    chances = np.log(np.array([[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [1, 1, 1]],
                               [[0.25, 0.5, 0.25], [1, 1, 1], [1, 1, 1]]]))  # fmt: skip
    target, mask = np.array([[0, 1, 0], [2, 0, 0]]), np.array([[1.0, 1, 0], [1, 0, 0]])
    args = [paddle.to_tensor(x) for x in (chances, target, mask)]
    assert float(parts.generation_loss(*args)) == pytest.approx(3.5 * math.log(2))
    uniform = 2 * (1 + 2 + 2) / 3 * math.log(2)
    smooth = float(parts.generation_loss(*args, smoothing=0.1))
    assert smooth == pytest.approx(0.9 * 3.5 * math.log(2) + 0.1 * uniform)
    mean, total = parts.answer_scores(parts.token_scores(*args[:2]), args[2])
    np.testing.assert_allclose(mean.numpy(), [-1.5 * math.log(2), -2 * math.log(2)])
    np.testing.assert_allclose(total.numpy(), [-3 * math.log(2), -2 * math.log(2)])


@pytest.mark.parametrize("use_copy", [True, False])
def test_every_parameter_learns_and_dropout_works(use_copy):
    model = small(use_copy=use_copy, dropout=0.3)
    model.train()
    target, mask = paddle.to_tensor(copy_ids()[:, :5] % V), paddle.ones([3, 5])
    ids = paddle.to_tensor(answers(3, 5))
    runs = [model(ids, source(model)) for _ in range(2)]
    assert np.abs(runs[0].numpy() - runs[1].numpy()).max() > 1e-3
    parts.generation_loss(runs[0], target, mask).backward()
    for name, parameter in model.named_parameters():
        assert np.isfinite(parameter.grad.numpy()).all(), name
        if not name.endswith("k_proj.bias"):  # to which a softmax is blind
            assert np.abs(parameter.grad.numpy()).max() > 0, name


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="dec_heads: expected a divisor of hsz 8, found 3"):
        small(heads=3)


# searches


def toy(rule: Callable[[int, tuple[int, ...]], np.ndarray]) -> Callable:
    """A step whose log-probabilities are ``rule(sample, tokens so far)``."""
    rows: list[tuple[int, list[tuple]]] = []

    def step(tokens: np.ndarray, samples: np.ndarray, parents: np.ndarray) -> np.ndarray:
        if not rows:
            following = [(int(s), [()]) for s in samples]
        else:
            following = [
                (rows[s][0], [(*rows[s][1][p], int(t)) for p, t in zip(ps, ts, strict=True)])
                for s, ps, ts in zip(samples, parents, tokens, strict=True)
            ]
        rows[:] = following
        return np.array([[rule(s, prefix) for prefix in prefixes] for s, prefixes in rows])

    return step


def table(seed: int, size: int) -> Callable:
    """Random log-probabilities that depend on the sample and all tokens so far."""

    def rule(sample: int, prefix: tuple[int, ...]) -> np.ndarray:
        scores = np.random.default_rng([seed, sample, *prefix]).standard_normal(size) * 2
        return (scores - np.log(np.exp(scores).sum())).astype(np.float32)

    return rule


def fixed(**chances: float) -> np.ndarray:
    """Log-probabilities of tokens t0, t1, ...; the others are nearly impossible."""
    values = np.full(8, -30.0, np.float32)
    for name, chance in chances.items():
        values[int(name[1:])] = np.log(chance)
    return values


def lively(step: Callable) -> Callable:
    """The step of a random network, which repeats itself without end, made to say other words."""
    calls = []

    def changed(tokens: np.ndarray, samples: np.ndarray, parents: np.ndarray) -> np.ndarray:
        calls.append(1)
        scores = step(tokens, samples, parents).copy()
        scores[np.arange(len(tokens))[:, None], np.arange(tokens.shape[1]), tokens] -= 5
        scores[..., EOS] += len(calls)
        return scores

    return changed


@pytest.mark.parametrize("use_copy", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_equals_a_beam_of_one(use_copy, seed):
    model = small(use_copy=use_copy)
    given = source(model, found(seed=seed))
    options = {"max_length": 6}
    single = greedy_search(lively(model.steps(given)), 3, **options)
    beams = beam_search(lively(model.steps(given)), 3, size=1, length_penalty=0.0, **options)
    for ours, (best, *_) in zip(single, beams, strict=True):
        assert ours.tokens == best.tokens
        assert ours.logp == pytest.approx(best.logp, abs=1e-5)


@pytest.mark.parametrize("use_copy", [True, False])
def test_a_batch_gives_what_its_samples_give(use_copy):
    model, options = small(use_copy=use_copy), {"max_length": 7}
    arrays, ids = found(6), copy_ids(6)
    given = source(model, arrays, ids)
    beam = {"size": 3, "length_penalty": 0.7} | options
    together = greedy_search(lively(model.steps(given)), 6, **options)
    beams = beam_search(lively(model.steps(given)), 6, **beam)
    assert len({len(h.tokens) for h in together}) > 1  # they leave the batch at different times
    for n in range(6):
        rows = {k: v[2 * n : 2 * n + 2] if "pieces" in k else v[n : n + 1]
                for k, v in arrays.items()}  # fmt: skip
        rows["piece"] = rows["piece"] - 2 * n
        alone = source(model, rows, ids[n : n + 1])
        (one,) = greedy_search(lively(model.steps(alone)), 1, **options)
        (many,) = beam_search(lively(model.steps(alone)), 1, **beam)
        for ours, theirs in zip([together[n], *beams[n]], [one, *many], strict=True):
            assert ours.tokens == theirs.tokens
            assert ours.score == pytest.approx(theirs.score, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", [0.0, 0.7, 2.0])
def test_a_wide_beam_finds_the_best_of_all(seed, penalty):
    size, limit, rule = 6, 3, table(seed, 6)

    def score(sample: int, tokens: tuple[int, ...]) -> float:
        total = sum(rule(sample, tokens[:i])[t] for i, t in enumerate(tokens))
        return total / ((5 + len(tokens)) / 6) ** penalty

    words = [EOS, 4, 5]
    whole = [t for n in range(1, limit + 1) for t in itertools.product(words, repeat=n)
             if EOS not in t[:-1] and (t[-1] == EOS or n == limit)]  # fmt: skip
    beams = beam_search(
        toy(table(seed, size)), 2, size=40, max_length=limit, length_penalty=penalty
    )
    for sample, beam in enumerate(beams):
        best = max(whole, key=lambda t: score(sample, t))
        assert beam[0].tokens == list(best)
        assert beam[0].score == pytest.approx(score(sample, best), abs=1e-5)
        assert [h.score for h in beam] == sorted((h.score for h in beam), reverse=True)


def test_a_beam_finds_what_greedy_misses():
    chances = {(): fixed(t4=0.6, t5=0.4), (4,): fixed(t4=0.3, t5=0.3, t6=0.4), (5,): fixed(t3=0.9)}

    def rule(_: int, prefix: tuple[int, ...]) -> np.ndarray:
        return chances.get(prefix, fixed(t3=0.5))

    assert greedy_search(toy(rule), 1, max_length=4)[0].tokens == [4, 6, EOS]
    ((best, *_),) = beam_search(toy(rule), 1, size=2, max_length=4, length_penalty=0.0)
    assert best.tokens == [5, EOS]
    assert best.logp == pytest.approx(math.log(0.36), abs=1e-6)


@pytest.mark.parametrize("banned", [(0, 1, 2), (0, 2)])
def test_banned_tokens_are_never_said(banned):
    def rule(_: int, prefix: tuple[int, ...]) -> np.ndarray:
        return fixed(t0=0.3, t1=0.25, t2=0.25, t4=0.19, t3=0.01 if len(prefix) < 2 else 0.9)

    (single,) = greedy_search(toy(rule), 1, max_length=4, banned=banned)
    ((best, *others),) = beam_search(
        toy(rule), 1, size=2, max_length=4, length_penalty=0.7, banned=banned
    )
    word = 4 if UNK in banned else UNK
    assert single.tokens == best.tokens == [word, word, EOS]
    assert not {t for h in others for t in h.tokens} & set(banned)


def test_an_answer_may_be_empty():
    def rule(sample: int, _: tuple[int, ...]) -> np.ndarray:
        return fixed(t3=0.9, t4=0.1) if sample == 1 else fixed(t3=0.1, t4=0.9)

    single = greedy_search(toy(rule), 2, max_length=3)
    beams = beam_search(toy(rule), 2, size=2, max_length=3, length_penalty=0.0)
    assert [h.tokens for h in single] == [h[0].tokens for h in beams] == [[4, 4, 4], [EOS]]


def test_the_length_limit_cuts_and_normalises():
    def rule(*_: object) -> np.ndarray:
        return fixed(t4=0.5, t5=0.4)

    (single,) = greedy_search(toy(rule), 1, max_length=3)
    assert single.tokens == [4, 4, 4]
    (beam,) = beam_search(toy(rule), 1, size=2, max_length=3, length_penalty=1.0)
    assert [h.tokens for h in beam] == [[4, 4, 4], [4, 4, 5]]
    for hypothesis in beam:
        assert hypothesis.score == pytest.approx(hypothesis.logp / (8 / 6))


def test_an_end_is_taken_only_among_the_best():
    """Of 2B = 4 candidates the end is the third: neither finished nor alive."""

    def rule(_: int, prefix: tuple[int, ...]) -> np.ndarray:
        return fixed(t4=0.5, t5=0.3, t3=0.15, t6=0.05) if not prefix else fixed(t3=0.9)

    (beam,) = beam_search(toy(rule), 1, size=2, max_length=5, length_penalty=0.0)
    assert [h.tokens for h in beam] == [[4, EOS], [5, EOS]]


def test_a_search_stops_when_nothing_better_can_come():
    calls = []

    def rule(sample: int, prefix: tuple[int, ...]) -> np.ndarray:
        calls.append((sample, len(prefix)))
        return fixed(t3=0.9, t4=0.1) if sample == 0 else fixed(t3=0.02, t4=0.9, t5=0.08)

    beam_search(toy(rule), 2, size=1, max_length=6, length_penalty=0.0)
    assert (0, 1) not in calls and (1, 5) in calls  # sample 0 left the batch after one token


def test_a_search_goes_on_while_a_longer_answer_may_win():
    """With a length penalty a sum that is lower already can end higher."""

    def rule(_: int, prefix: tuple[int, ...]) -> np.ndarray:
        if len(prefix) == 3:
            return fixed(t3=0.99)
        return fixed(t4=0.99) if prefix else fixed(t3=0.5, t4=0.45)

    (beam,) = beam_search(toy(rule), 1, size=1, max_length=6, length_penalty=2.0)
    assert [h.tokens for h in beam] == [[4, 4, 4, EOS], [EOS]]
    assert beam[0].score == pytest.approx(math.log(0.45 * 0.99**3) / 1.5**2, abs=1e-6)


def test_ties_go_to_the_lowest_token_and_the_earliest_finished():
    def rule(*_: object) -> np.ndarray:
        return np.full(8, np.log(0.125), np.float32)

    assert greedy_search(toy(rule), 1, max_length=2)[0].tokens == [EOS]

    def words(*_: object) -> np.ndarray:
        return fixed(t6=0.25, t5=0.25, t4=0.25, t7=0.25)

    assert greedy_search(toy(words), 1, max_length=2)[0].tokens == [4, 4]
    (beam,) = beam_search(toy(words), 1, size=3, max_length=2, length_penalty=0.7)
    assert [h.tokens for h in beam] == [[4, 4], [4, 5], [4, 6]]

    def even(_: int, prefix: tuple[int, ...]) -> np.ndarray:
        return fixed(t3=0.5, t4=0.5) if not prefix else fixed(t3=1.0)

    (beam,) = beam_search(toy(even), 1, size=2, max_length=4, length_penalty=0.0)
    assert beam[0] == Hypothesis([EOS], beam[1].score, beam[1].logp)
    assert beam[1].tokens == [4, EOS]
