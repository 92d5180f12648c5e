# SPDX-License-Identifier: Apache-2.0
"""MCG's reader on the published annotations, where they are at hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from reader.common.mcg_questions import read_questions

ANNOTATIONS = Path(__file__).resolve().parents[3] / "shared" / "annotations"

pytestmark = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="no published annotations here")


def test_msvd_qa():
    folder = ANNOTATIONS / "msvd_qa"
    for name, count in (("train", 200), ("val", 50), ("test", 50)):
        found = read_questions([str(folder / f"{name}_sample.jsonl")], answered=True)
        assert len(found) == count and [q.id for q in found] == list(map(str, range(count)))
        assert all(q.kind == q.text.split()[0] and q.answer and q.index is None for q in found)
    assert found[0].video == "pzq5fPfsPZg_51_57" and found[0].answer == "boy"


def test_next_oe():
    folder = ANNOTATIONS / "next_oe"
    places, seconds = (folder / f"{name}.json" for name in
                       ("map_vid_vidorID", "add_reference_answer_test"))  # fmt: skip
    for name, questions, videos in (("test", 9178, 1000), ("val", 5343, 570),
                                    ("train_head4000", 4000, None)):  # fmt: skip
        found = read_questions([str(folder / f"{name}.csv")], answered=True,
                               places=str(places), seconds=str(seconds))  # fmt: skip
        assert len(found) == questions and videos in (None, len({q.video for q in found}))
        assert [q.index for q in found] == list(range(questions))
        assert all(q.video.split("/")[1] == q.id.split("_")[0] for q in found)
        assert sum(q.second is not None for q in found) == (4632 if name == "test" else 0)
        if name == "test":
            assert Counter(q.kind for q in found) == {
                "CW": 3333, "TN": 1399, "CH": 1174, "TC": 1165, "DO": 672, "DB": 495, "DL": 482,
                "DC": 365, "TP": 93,
            }  # fmt: skip
