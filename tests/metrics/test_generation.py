# SPDX-License-Identifier: Apache-2.0
"""Metrics of generated text: by hand, against plain loops, and against the COCO tools."""

from __future__ import annotations

import random
import sys
from collections import Counter
from math import exp, log, sqrt

import numpy as np
import pytest

from metrics.common.errors import DataError
from metrics.common.generation import (
    JavaMeteor,
    bleu,
    cider_d,
    exact_match,
    lcs_length,
    meteor_lite,
    normalise,
    per_sample,
    rouge_l,
    score,
    stem,
    token_f1,
)

NAMES = [
    "exact_match", "exact_match_no_articles", "token_f1", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4",
    "ROUGE-L", "CIDEr-D", "METEOR-lite",
]  # fmt: skip


def _words(*pairs):
    """Predictions and references as words; a reference may be several."""
    found, true = zip(*pairs, strict=True)
    several = [[t] if isinstance(t, str) else t for t in true]
    return [normalise(f) for f in found], [[normalise(t) for t in s] for s in several]


def _random(seed, samples=40, references=1):
    """Texts of few words, so that n-grams repeat; predictions have parts of a reference."""
    draw = random.Random(seed)
    words = ("the", "red", "box", "of", "boxes", "moves", "moving", "up")

    def text(most):
        return " ".join(draw.choices(words, k=draw.randint(0, most)))

    several = [[text(9) for _ in range(draw.randint(1, references))] for _ in range(samples)]
    return [(draw.choice(true)[: draw.randint(0, 50)] + text(2), true) for true in several]


def test_normalise():
    assert normalise("The “red” box ’s DOWN . -LRB- is n't it ? -RRB-") == (
        "the", '"red"', "box", "'s", "down", "is", "n't", "it",
    )  # fmt: skip
    assert normalise("`` Yes , no - no -- ... ! : ; '' '") == ("yes", "no", "no")
    assert normalise("‘ . ’") == normalise("") == ()
    assert normalise("e.g. u.s.") == ("e.g.", "u.s.")


def test_exact_match():
    pairs = ("A box .", "a box"), ("a box", "the box"), ("box a", "a box"), ("", "the"), ("up", "")
    words = _words(*pairs)
    assert exact_match(*words).tolist() == [1, 0, 0, 0, 0]
    assert exact_match(*words, articles=False).tolist() == [1, 1, 1, 1, 0]
    assert exact_match(*_words(("a", ["b", "a"]), ("a", ["b", "c"]))).tolist() == [1, 0]


def test_token_f1():
    words = _words(
        ("box box up", "the box goes up"),  # 2 common of 3 and of 3
        ("box box", "box box box"), ("", ""), ("a", "the"), ("", "box"), ("box", "an"),
        ("up", "down"), ("up left", ["down", "left up", "up"]),
    )  # fmt: skip
    expected = [2 / 3, 4 / 5, 1, 1, 0, 0, 0, 1]
    np.testing.assert_allclose(token_f1(*words), expected, atol=1e-15)


def test_bleu_clips_repeated_words():
    ours = bleu(*_words(("the the cat", "the cat sat")))
    np.testing.assert_allclose(ours[:2], [2 / 3, sqrt(1 / 3)], rtol=1e-8)
    np.testing.assert_allclose(ours[2], (1 / 3 * 1e-15) ** (1 / 3), rtol=1e-6)


def test_bleu_is_of_the_corpus():
    ours = bleu(*_words(("up", "up"), ("red box", "box moves left")))
    np.testing.assert_allclose(ours[0], 2 / 3 * exp(1 - 4 / 3), rtol=1e-8)


def test_bleu_of_several_references():
    found = "box box up"
    clipped = bleu(*_words((found, ["box", "box box moves on up there"])))
    assert clipped[0] == pytest.approx(1, rel=1e-8), "the closest length is 1, and no brevity"
    tie = bleu(*_words((found, ["box up", "box box up up"])))
    assert tie[0] == pytest.approx(1, rel=1e-8), "of equally close lengths the shorter"
    short = bleu(*_words((found, ["box up box up box", "one two three four five"])))
    assert short[0] == pytest.approx(exp(1 - 5 / 3), rel=1e-8)


def test_bleu_without_words():
    assert bleu(*_words(("", "red box"))).tolist() == [0, 0, 0, 0]
    assert bleu(*_words(("", ""))).tolist() == [0, 0, 0, 0]
    assert (bleu(*_words(("x y", "p q"))) < 1e-6).all()
    assert (bleu(*_words(("x y", ""))) < 1e-6).all()


def test_rouge_l():
    def f(p, r):
        return 2.44 * p * r / (r + 1.44 * p)

    words = _words(
        ("red box goes up", "box up"), ("up box", "box up"), ("x", "y"), ("", "box"), ("box", ""),
        ("", ""), ("box", "box"),
        ("red box up", ["red box", "red box up there on top", "left"]),
    )  # fmt: skip
    expected = [f(2 / 4, 2 / 2), f(1 / 2, 1 / 2), 0, 0, 0, 1, 1, f(1, 1)]
    np.testing.assert_allclose(rouge_l(*words), expected, atol=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_longest_common_subsequence(seed):
    draw = random.Random(seed)
    for _ in range(30):
        a, b = (tuple(draw.choices("abc", k=draw.randint(0, 90))) for _ in range(2))
        table = [[0] * (len(b) + 1)]
        for word in a:
            row = [0]
            for j, other in enumerate(b):
                row.append(table[-1][j] + 1 if word == other else max(row[j], table[-1][j + 1]))
            table.append(row)
        assert lcs_length(a, b) == table[-1][-1]


def test_cider_d_by_hand():
    ours = cider_d(*_words(
        ("red box moves", "red box moves"),  # 1 of words, pairs and triples; there is no fourth
        ("blue disc", "blue disc grows"),
        ("ring ring", "ring"),
        ("", "star"),
    ))  # fmt: skip
    short = (2 / sqrt(2 * 3) + 1 / sqrt(1 * 2)) * 2.5 * exp(-1 / 72)
    twice = 1 / 2 * 2.5 * exp(-1 / 72)  # clipped: min(2, 1) * 1 / (2 * 1)
    np.testing.assert_allclose(ours, [7.5, short, twice, 0], rtol=1e-14)


def test_cider_d_weighs_by_document_frequency():
    common = cider_d(*_words(("the box", "the ring"), ("the", "the disc"), ("a", "the box")))
    np.testing.assert_allclose(common, 0, atol=0)  # "the" is in all; log 1 is exactly 0
    ours = cider_d(*_words(("red up", "red down"), ("x", "red"), ("x", "blue")))
    red, rare = log(3 / 2), log(3)
    expected = 2.5 * red**2 / (red**2 + rare**2)
    np.testing.assert_allclose(ours, [expected, 0, 0], rtol=1e-14)


def test_cider_d_of_several_references():
    alone = cider_d(*_words(("red box", "red box"), ("x", "blue disc")))
    ours = cider_d(*_words(("red box", ["red box", "ring", "red box"]), ("x", "blue disc")))
    np.testing.assert_allclose(ours, alone * 2 / 3, rtol=1e-14)  # "red" is in one sample, not two


def test_cider_d_of_one_sample_is_nothing():
    assert cider_d(*_words(("red box moves up", "red box moves up"))).tolist() == [0]


def test_meteor_lite():
    words = _words(
        ("red box", "red box"), ("boxes moving", "box moves"), ("up red", "red up"),
        ("x", "y"), ("", "box"), ("box", ""), ("", ""),
        ("box up box", "box up"),  # from the end: the last "box", so two chunks
        ("red boxes", "red old box"),
        ("left", ["x", "left left", "left"]),
    )  # fmt: skip
    one, two = 1 - 0.5 / 8, 1 - 0.5  # two words in one chunk, in two
    third, gap = 2 / 3 / (0.9 * 2 / 3 + 0.1), 2 / 3 / (0.9 + 0.1 * 2 / 3)
    expected = [one, one, two, 0, 0, 0, 0, third * two, gap * two, 0.5]
    np.testing.assert_allclose(meteor_lite(*words), expected, rtol=1e-15)


def test_meteor_lite_prefers_equal_words_to_stems():
    """Were "boxes" not taken first, "box" at the end would take it."""
    ours = meteor_lite(*_words(("boxes box", "box boxes")))
    np.testing.assert_allclose(ours, [0.5])
    np.testing.assert_allclose(meteor_lite(*_words(("boxes box", "boxes"))),
                               [0.5 / (0.45 + 0.1) / 2])  # fmt: skip


def test_stem():
    words = {"boxes": "box", "moving": "move", "happily": "happili", "dying": "die", "n't": "n't"}
    assert {word: stem(word) for word in words} == words


@pytest.mark.parametrize("texts", [("", "red box"), ("red box", ""), ("", ""), ("up", "up")])
def test_score_of_one_sample(texts):
    scores = score(*([text] for text in texts))
    assert list(scores) == NAMES
    assert all(isinstance(value, float) and np.isfinite(value) for value in scores.values())
    assert scores["exact_match"] == (texts[0] == texts[1])
    assert scores["BLEU-1"] == pytest.approx(float(texts == ("up", "up")), abs=1e-8)


def test_score_is_the_mean_of_samples():
    found, several = zip(*_random(0, references=3), strict=True)
    scores, samples = score(found, several), per_sample(found, several)
    assert [name for name in NAMES if not name.startswith("BLEU")] == list(samples)
    for name, values in samples.items():
        assert values.shape == (40,)
        assert scores[name] == values.mean() > 0
    words = [normalise(text) for text in found], [[*map(normalise, s)] for s in several]
    assert [scores[f"BLEU-{n}"] for n in range(1, 5)] == bleu(*words).tolist()


def test_one_reference_is_a_text_or_a_list():
    found, several = zip(*_random(1), strict=True)
    assert score(found, several) == score(found, [true for (true,) in several])


@pytest.mark.parametrize(
    "found, true, message",
    [([], [], "found 0 and 0"), (["a"], ["a", "b"], "found 1 and 2"),
     (["a", "b"], ["a", []], "reference of prediction 1")],
)  # fmt: skip
def test_faulty_data(found, true, message):
    with pytest.raises(DataError, match=message):
        score(found, true)


def _counted(words):
    return Counter(words[i : i + n] for n in range(1, 5) for i in range(len(words) - n + 1))


def _slow_cider(predictions, references):
    samples = len(references)
    documents = Counter(
        gram for several in references for gram in {g for true in several for g in _counted(true)}
    )

    def vector(words, n):
        counts = {g: c for g, c in _counted(words).items() if len(g) == n}
        return {g: c * log(samples / max(1, documents[g])) for g, c in counts.items()}

    def pair(found, true, n):
        v, w = vector(found, n), vector(true, n)
        norm = sqrt(sum(x * x for x in v.values()) * sum(x * x for x in w.values()))
        dot = sum(min(v[g], w[g]) * w[g] for g in v.keys() & w.keys())
        delta = max(0, len(found) - 1) - max(0, len(true) - 1)
        return dot / norm * exp(-delta * delta / 72) if norm else 0.0

    return [
        10 * np.mean([pair(found, true, n) for true in several for n in range(1, 5)])
        for found, several in zip(predictions, references, strict=True)
    ]


def _slow_hits(predictions, references):
    """BLEU's hits and totals, n = 1 to 4."""
    hits, totals = [0] * 4, [0] * 4
    for found, several in zip(predictions, references, strict=True):
        for gram, count in _counted(found).items():
            totals[len(gram) - 1] += count
            hits[len(gram) - 1] += min(count, max(_counted(true)[gram] for true in several))
    return np.array(hits), np.array(totals)


@pytest.mark.parametrize("references", [1, 4])
def test_tables_of_n_grams_against_loops(references):
    words = _words(*_random(2, references=references))
    np.testing.assert_allclose(cider_d(*words), _slow_cider(*words), rtol=1e-12)
    hits, totals = _slow_hits(*words)
    precision = np.exp(np.cumsum(np.log(hits / totals)) / np.arange(1, 5))
    ours = bleu(*words)
    np.testing.assert_allclose(ours / ours[0], precision / precision[0], rtol=1e-9)
    assert 0 < ours[0] <= hits[0] / totals[0] < 1


@pytest.mark.parametrize("references", [1, 5])
@pytest.mark.parametrize("seed", range(3))
def test_against_the_coco_tools(seed, references):
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    words = _words(*_random(seed, 60, references))
    found = {i: [" ".join(w)] for i, w in enumerate(words[0])}
    true = {i: [" ".join(w) for w in several] for i, several in enumerate(words[1])}
    theirs = Bleu(4).compute_score(true, found, verbose=0)[0]
    np.testing.assert_allclose(bleu(*words), theirs, rtol=1e-12)
    for ours, tool in ((rouge_l, Rouge()), (cider_d, Cider())):
        _, theirs = tool.compute_score(true, found)
        np.testing.assert_allclose(ours(*words), theirs, atol=1e-12)


FAKE_JAVA = """#!/bin/sh
"exec" "{python}" "$0" "$@"
import os, sys
from pathlib import Path
Path({log!r}).write_text(" ".join(sys.argv[1:]) + "|" + os.environ["LC_ALL"])
for line in sys.stdin:
    kind, *parts = [part.strip() for part in line.split("|||")]
    if kind == "SCORE":
        *true, found = (part.split() for part in parts)
        same = float(found in true)
        print(*[float(len(found)), float(len(true[0])), 0, 0, same * len(found),
                same * len(true[0])], *[0] * 14, 1.0, 0, 0, flush=True)
    else:
        counts = list(map(float, parts[0].split()))
        print(counts[0] / 100 + counts[20] / 1000, flush=True)
"""


def _java(tmp_path, monkeypatch, script):
    """A program in the place of java; returns the jar."""
    (tmp_path / "java").write_text(script)
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "meteor-1.5.jar").touch()
    return tmp_path / "meteor-1.5.jar"


def test_java_meteor(tmp_path, monkeypatch):
    log = tmp_path / "arguments"
    script = FAKE_JAVA.format(python=sys.executable, log=str(log))
    jar = _java(tmp_path, monkeypatch, script)
    ours = JavaMeteor(jar).score(["Red box .", "up ||| there", ""], ["red box", ["up", "on"], "x"])
    # words 2 + 2 + 0; chunks 0 of the sample without a fault, 1 and 1 of the others
    assert ours == pytest.approx(0.04 + 0.002)
    assert log.read_text() == f"-Xmx2G -jar {jar} - - -stdio -l en -norm|C.UTF-8"


def test_java_meteor_without_jar_or_java(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"found no file .*gone\.jar"):
        JavaMeteor(tmp_path / "gone.jar")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "meteor.jar").touch()
    with pytest.raises(ValueError, match="expected the program java, found none on PATH"):
        JavaMeteor(tmp_path / "meteor.jar")


@pytest.mark.parametrize(
    "script, message",
    [
        ("echo 'Error: corrupt\njar' >&2; exit 1", "found: Error: corrupt jar"),
        ("exit 0", "found: "),
        ("while read -r line; do echo Error: what; done", "found: could not convert string"),
        ("while read -r line; do echo 0.5; done", "found: 1 of them instead of 23"),
    ],
)
def test_java_meteor_that_fails(tmp_path, monkeypatch, script, message):
    jar = _java(tmp_path, monkeypatch, f"#!/bin/sh\n{script}\n")
    with pytest.raises(DataError, match=message) as error:
        JavaMeteor(jar).score(["a box"], ["the box"])
    assert "\n" not in str(error.value)


def test_java_meteor_takes_only_pairs(tmp_path, monkeypatch):
    jar = _java(tmp_path, monkeypatch, "#!/bin/sh\n")
    with pytest.raises(DataError, match="found 1 and 0"):
        JavaMeteor(jar).score(["a"], [])
