# SPDX-License-Identifier: Apache-2.0
"""Retrieval between videos and captions, beside plain sorting."""

from __future__ import annotations

import numpy as np
import pytest

from metrics.common import retrieval
from metrics.common.errors import DataError
from metrics.common.retrieval import Retrieval, ranks, summary


def _references(owners: list[int], videos: int) -> dict[str, dict]:
    """Caption n belongs to video ``owners[n]``."""
    return {
        f"v{v}": {
            "texts": (own := [n for n, owner in enumerate(owners) if owner == v]),
            "captions": [f"caption {n}" for n in own],
            "count": len(owners),
        }
        for v in range(videos)
    }


def _scored(scores, owners, **options) -> Retrieval:
    """``scores`` (videos, captions); None: no record."""
    scorer = Retrieval(**options)
    scorer.expect(_references(owners, len(scores)))
    scorer.update([
        {"id": f"v{v}", "scores": np.array(row, np.float32)}
        for v, row in enumerate(scores) if row is not None
    ])  # fmt: skip
    return scorer


def _position(row, truth) -> int:
    """Rank by Python's stable sort."""
    return sorted(range(len(row)), key=lambda n: -row[n]).index(truth) + 1


@pytest.mark.parametrize("ties", [False, True])
def test_beside_sorting(ties, monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK", 40)  # several blocks
    rng = np.random.default_rng(int(ties))
    scores = rng.integers(0, 4, (9, 23)) / 4 if ties else rng.random((9, 23)).astype(np.float32)
    owners = rng.permutation(np.r_[np.arange(9), rng.integers(0, 9, 14)]).tolist()
    found = _scored(scores, owners).details()
    texts = [_position(scores[:, n], owner) for n, owner in enumerate(owners)]
    last = [max(n for n, owner in enumerate(owners) if owner == v) for v in range(9)]
    videos = [_position(scores[v], n) for v, n in enumerate(last)]
    for numbers, positions in ((found["text2video"], texts), (found["video2text"], videos)):
        positions = np.array(positions)
        assert numbers["r5"] == pytest.approx(100 * np.mean(positions <= 5))
        assert numbers["medianR"] == np.median(positions)
        assert numbers["meanR"] == pytest.approx(positions.mean())
    assert 1 < found["text2video"]["meanR"] < found["video2text"]["meanR"] < 23


def test_of_equal_scores_the_first_goes_first():
    assert ranks(np.zeros((3, 3)), np.arange(3)).tolist() == [1, 2, 3]
    rank = np.array([1, 2, 6, 11])
    assert summary(rank, np.ones(4, bool)) == {
        "r1": 25.0, "r5": 50.0, "r10": 75.0, "medianR": 4.0, "meanR": 5.0,
    }  # fmt: skip


def test_result_names_and_report():
    scorer = _scored([[0.9, 0.1], [0.2, 0.3]], [0, 1])
    assert scorer.primary in scorer.scores() and {*scorer.columns} < {*scorer.scores()}
    assert scorer.scores()["text2video_r1"] == scorer.scores()["video2text_r10"] == 100.0
    assert scorer.report()[0] == (
        "text to video: R@1 100.00, R@5 100.00, R@10 100.00, MedR 1.0, MeanR 1.00"
    )


def test_a_video_without_record_has_the_last_rank():
    scorer = _scored([None, [0.2, 0.9, 0.3], [0.2, 0.3, 0.9]], [0, 1, 2])
    found = scorer.details()
    assert scorer.missing() == 1
    for way in ("text2video", "video2text"):
        assert [found[way][key] for key in ("r10", "meanR")] == pytest.approx([200 / 3, 5 / 3])
    nothing = _scored([None, None], [0, 1]).scores()
    assert nothing["text2video_r1"] == nothing["video2text_r10"] == 0.0
    empty = Retrieval()
    empty.expect({})
    assert set(empty.scores().values()) == {0.0}


def test_a_video_without_caption_is_only_a_candidate():
    found = _scored([[0.1, 0.2], [0.9, 0.8], [0.5, 0.6]], [0, 2]).details()
    assert found["text2video"]["meanR"] == 2.5  # ranks 3 and 2
    assert found["video2text"]["meanR"] == 1.5  # of two videos


def test_the_first_record_of_a_video_counts():
    scorer = _scored([[0.9, 0.1], [0.2, 0.3]], [0, 1])
    scorer.update([{"id": "v0", "scores": np.zeros(2)}])
    assert scorer.scores()["text2video_r1"] == 100.0


def test_rounded_scores_tie():
    scores, owners = [[0.50001, 0.1], [0.50002, 0.9]], [0, 1]
    assert _scored(scores, owners).scores()["text2video_meanR"] == 1.5
    assert _scored(scores, owners, round_scores=True).scores()["text2video_meanR"] == 1.0


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros(3), "of shape"),
        ([0.1, np.nan], "to be finite"),
        ([0.1, np.inf], "to be finite"),
        (["a", "b"], "as numbers"),
    ],
)
def test_faulty_records(scores, message):
    scorer = _scored([[0.9, 0.1], [0.2, 0.3]], [0, 1])
    with pytest.raises(DataError, match=f"record v0: expected scores {message}"):
        scorer.update([{"id": "v0", "scores": scores}])
    with pytest.raises(DataError, match="record v0: expected scores, found none"):
        scorer.update([{"id": "v0"}])


def test_captions_for_people():
    scorer = _scored([[0.75, 0.25], [0.5, 0.125]], [0, 1])
    assert scorer.answers() == [
        "v0", "  caption: caption 0 (75.0%)", "v1", "  caption: caption 0 (50.0%)",
    ]  # fmt: skip
    assert scorer.answers(2)[2] == "  caption: caption 1 (25.0%)"
    _, page = scorer.pages()
    assert page["choices"] == [
        {"text": "caption 0", "score": 0.5, "predicted": True, "correct": False},
        {"text": "caption 1", "score": 0.125, "predicted": False, "correct": True},
    ]
    assert page["note"] == "true caption: caption 1"
    raw = Retrieval()
    raw.update([{"id": "clip", "scores": [0.5]}])
    assert raw.answers() == ["clip", "  caption: number 0 (50.0%)"]


def test_random_scores_are_chance():
    records = [{"id": f"v{v}", "scores": np.zeros(100)} for v in range(100)]
    drawn = Retrieval.random(records, np.random.default_rng(0))
    found = _scored([r["scores"] for r in drawn], list(range(100))).scores()
    assert 40 < found["text2video_meanR"] < 60 and found["text2video_r10"] < 30
