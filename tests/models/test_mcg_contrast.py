# SPDX-License-Identifier: Apache-2.0
"""MCG's contrastive losses against loops over words, and over two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this file is also what the two processes run

from models.layers.kernels import unit  # noqa: E402
from models.mcg import contrast  # noqa: E402

LENGTH = 8
CAPTIONS = [  # kinds of pieces
    [4, 1, 1, 2, 2, 1, 3, 0],  # [SEP] at the last position that is looked at
    [4, 1, 2, 1, 3, 0, 0, 0],
    [4, 1, 1, 1, 2, 1, 2, 2],  # fills all positions
    [4, 1, 1, 1, 1, 1, 1, 3],  # as well: its [SEP] is not looked at
    [4, 3, 0, 0, 0, 0, 0, 0],  # of no words
    [4, 1, 2, 2, 2, 2, 2, 2],  # one word, which is lost
    [4, 1, 3, 0, 0, 0, 0, 0],
]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attention_of(captions: list[list[int]], seed: int = 1) -> np.ndarray:
    """Rows of sum 1, on padding next to nothing, as softmax on CPU has it."""
    weights = np.exp(random(len(captions), LENGTH, seed=seed))
    weights = np.where(np.array(captions) > 0, weights, np.float32(1e-28))
    return weights / weights.sum(1, keepdims=True)


def found_words(captions: list[list[int]]) -> tuple[contrast.Words, np.ndarray, np.ndarray]:
    hidden, attention = random(len(captions), LENGTH, 5), attention_of(captions)
    arrays = hidden, attention, np.array(captions, np.int8)
    return contrast.words(*map(paddle.to_tensor, arrays)), hidden, attention


def words_one_by_one(
    hidden: np.ndarray, attention: np.ndarray, kinds: list[int]
) -> list[tuple[np.ndarray, float]]:
    """Embedding and weight of the words of one caption without [CLS], piece after piece."""
    done, current = [], None
    for i in range(LENGTH - 1):
        piece = hidden[i], attention[i + 1]
        if kinds[i] == 3:
            done += [current, piece]
            break
        if kinds[i] == 2:
            current = current[0] + piece[0], current[1] + piece[1]
            continue
        if current is not None:
            done.append(current)
        current = piece
    return done[1:]


# ---- words and weights


def test_words_are_sums_over_their_pieces():
    found, hidden, attention = found_words(CAPTIONS)
    counts = []
    for row, kinds in enumerate(CAPTIONS):
        expected = words_one_by_one(hidden[row], attention[row], kinds)
        counts.append(len(expected))
        embeddings, weights = np.zeros((LENGTH - 1, 5)), np.zeros(LENGTH - 1)
        for slot, (embedding, weight) in enumerate(expected):
            embeddings[slot], weights[slot] = embedding, weight
        np.testing.assert_allclose(found.embeddings[row].numpy(), embeddings, atol=1e-6)
        np.testing.assert_allclose(found.weights[row].numpy(), weights, atol=1e-6)
        assert found.shown[row].numpy().tolist() == [float(k < counts[-1]) for k in range(7)]
    assert counts == [4, 3, 3, 5, 1, 0, 2]


def test_shares_are_cut_to_quantiles_of_what_is_used():
    weights = np.abs(random(4, 9)) + 0.1
    used = np.ones((4, 9), np.float32)
    used[1, ::2] = 0
    used[2, 1:] = 0  # a single one
    used[3] = 0
    found = contrast.shares(paddle.to_tensor(weights), paddle.to_tensor(used)).numpy()
    for row in range(3):
        chosen = weights[row][used[row] > 0]
        cut = np.clip(chosen, *np.quantile(chosen.astype(np.float64), [0.1, 0.9]))
        np.testing.assert_allclose(found[row][used[row] > 0], cut / cut.sum(), rtol=1e-6)
        assert not found[row][used[row] == 0].any()
    assert not found[3].any()


def test_patch_weights():
    """As published, the first rows of the batch; otherwise the mean over a video's frames."""
    attention = np.exp(random(2 * 3, 4, 11, 11))
    rows = attention[:, :, 0, 1:].mean(1)
    for how, expected in (("batch_rows", rows[:2]), ("per_video", rows.reshape(2, 3, 10).mean(1))):
        found = contrast.patch_weights(paddle.to_tensor(attention), 2, how).numpy()
        cut = np.stack([np.clip(r, *np.quantile(r, [0.1, 0.9])) for r in expected])
        np.testing.assert_allclose(found, cut / cut.sum(1, keepdims=True), rtol=1e-5)
        assert (np.diff(found) != 0).any()


# ---- patches and words


def normed(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def losses_one_by_one(
    shown: np.ndarray, weights: np.ndarray, word: np.ndarray, patch: np.ndarray, shares: np.ndarray
) -> tuple[float, float, float, float]:
    """The four parts for one caption with words, in float64."""
    patches_of_words = normed(softmax(word @ patch.T / 0.1) @ patch)
    words_of_patches = softmax(patch @ word[shown].T / 0.1) @ word[shown]
    used = weights > 1e-20
    weights = weights.astype(np.float64)
    weights[used] = np.clip(weights[used], *np.quantile(weights[used], [0.1, 0.9]))
    found = []
    for first, second, factor in ((word, patches_of_words, weights / weights.sum()),
                                  (patch, words_of_patches, shares)):  # fmt: skip
        scores = first @ second.T / 0.1
        for x in (scores, scores.T):
            found.append(-(factor * np.log(np.diag(softmax(x)))).sum())
    return tuple(found)


def token_contrast(captions: list[list[int]]) -> tuple[dict, list[np.ndarray], list]:
    """The losses, what they were computed from, and the leaves that have gradients."""
    found, _, _ = found_words(captions)
    count = len(captions)
    leaves = [paddle.to_tensor(random(count, n, 6, seed=n), stop_gradient=False) for n in (7, 4)]
    shares = softmax(random(count, 4, seed=3)).astype(np.float32)
    word, patch = map(unit, leaves)
    terms = contrast.mcl(found, word, patch, paddle.to_tensor(shares))
    arrays = [x.numpy() for x in (found.shown, found.weights, word, patch)] + [shares]
    return terms, arrays, leaves


def test_token_contrast_equals_loops():
    captions = CAPTIONS[:4] + CAPTIONS[6:]
    terms, arrays, leaves = token_contrast(captions)
    rows = [losses_one_by_one(row[0] > 0, *row[1:]) for row in zip(*arrays, strict=True)]
    parts = np.mean(rows, 0)
    for name, value in zip(
        ("mcl_word_1", "mcl_word_2", "mcl_patch_1", "mcl_patch_2"), parts, strict=True
    ):
        assert float(terms[name]) == pytest.approx(value, rel=1e-5), name
    assert float(terms["mcl"]) == pytest.approx(parts.sum() / 2, rel=1e-5)
    terms["mcl"].backward()
    assert all(np.abs(leaf.grad.numpy()).max() > 1e-3 for leaf in leaves)


def test_captions_without_words_count_nothing():
    """[CLS][SEP] has no weights, and a lost word leaves nothing for patches to choose from."""
    terms, _, leaves = token_contrast([CAPTIONS[4], CAPTIONS[5]])
    assert float(terms["mcl_word"]) == 0
    terms["mcl"].backward()
    word, patch = (leaf.grad.numpy() for leaf in leaves)
    assert np.isfinite(word).all() and np.isfinite(patch).all()
    assert not patch[1].any() and not word[1].any()
    assert patch[0].any()  # its patches have [SEP] to choose


def test_weights_take_no_part_in_gradients():
    arrays = random(7, LENGTH, 5), attention_of(CAPTIONS)
    hidden, attention = (paddle.to_tensor(x, stop_gradient=False) for x in arrays)
    found = contrast.words(hidden, attention, paddle.to_tensor(np.array(CAPTIONS, np.int8)))
    assert found.weights.stop_gradient and not found.embeddings.stop_gradient
    space = paddle.to_tensor(np.exp(random(6, 2, 5, 5)), stop_gradient=False)
    assert contrast.patch_weights(space, 2).stop_gradient


# ---- videos and captions


def test_temperature_is_put_back_into_its_range():
    layer = paddle.nn.Layer()
    for before, after in ((0.9, 0.5), (-1.0, 0.001), (0.07, 0.07)):
        value = paddle.nn.initializer.Constant(before)
        temperature = layer.create_parameter([], default_initializer=value)
        contrast.clamp_temperature(temperature)
        assert float(temperature) == pytest.approx(after) and not temperature.stop_gradient


ROWS = 5  # of all processes


def pairs() -> tuple[np.ndarray, np.ndarray]:
    return normed(random(ROWS, 6, seed=4)), normed(random(ROWS, 6, seed=5))


def contrasted(own: slice, weight: float) -> dict[str, np.ndarray]:
    """Loss of some rows times ``weight``, and its gradients, as the engine has it of a process."""
    video, text = (paddle.to_tensor(x[own], stop_gradient=False) for x in pairs())
    temperature = paddle.to_tensor(0.2, stop_gradient=False)
    terms = contrast.vtc(video, text, temperature)
    (terms["vtc"] * weight).backward()
    found = {name: np.asarray(float(value) * weight) for name, value in terms.items()}
    return found | {"video": video.grad.numpy(), "text": text.grad.numpy(),
                    "temperature": temperature.grad.numpy()}  # fmt: skip


def test_instance_contrast_equals_a_loop():
    video, text = pairs()
    found = contrasted(slice(None), 1.0)
    scores = video @ text.T / 0.2
    expected = [
        np.mean([-np.log(softmax(x[i])[i]) for i in range(ROWS)]) for x in (scores, scores.T)
    ]
    assert float(found["vtc_v2t"]) == pytest.approx(expected[0], rel=1e-5)
    assert float(found["vtc_t2v"]) == pytest.approx(expected[1], rel=1e-5)
    assert float(found["vtc"]) == pytest.approx(np.mean(expected), rel=1e-5)


def test_instance_contrast_has_no_upper_end():
    """At the lowest temperature scores differ by thousands."""
    video = paddle.to_tensor([[1.0, 0.0], [0.0, 1.0]])
    found = contrast.vtc(video, -video, paddle.to_tensor(contrast.LOWEST))
    assert float(found["vtc"]) == pytest.approx(1 / contrast.LOWEST, rel=1e-5)


def test_two_processes_contrast_with_one_another(tmp_path):
    """With 2 and 3 rows: sums over the processes are what one process finds of all rows."""
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2",
               "--backend", "gloo", "--log_dir", str(tmp_path / "log"),
               str(Path(__file__).resolve()), str(tmp_path)]  # fmt: skip
    env = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")}
    env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, timeout=200, capture_output=True, text=True)
    logs = "".join(p.read_text() for p in tmp_path.glob("log/workerlog*"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs[-4000:]
    parts = [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2)]
    alone = contrasted(slice(None), 1.0)
    for name, expected in alone.items():
        join = np.concatenate if name in ("video", "text") else sum
        found = join([p[name] for p in parts])
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
    local = contrasted(slice(0, 2), 0.4)
    assert abs(parts[0]["vtc"] - local["vtc"]) > 0.1  # what it would be by itself


def worker(folder: Path) -> None:
    """One of the two processes."""
    import paddle.distributed as dist

    dist.init_parallel_env()
    own = slice(0, 2) if dist.get_rank() == 0 else slice(2, ROWS)
    found = contrasted(own, len(range(*own.indices(ROWS))) / ROWS)
    np.savez(folder / f"{dist.get_rank()}.npz", **found)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
