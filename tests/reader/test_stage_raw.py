# SPDX-License-Identifier: Apache-2.0
"""STAGE's reader on raw videos."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reader.common.errors import DataError
from reader.stage import Reader
from tests.reader.clips import number, write_video
from tests.reader.stage_world import D, V

SRT = (
    "1\n00:00:00,500 --> 00:00:01,500\nAda: hi.\n\n"
    "2\n00:00:02,000 --> 00:00:03,000\nBen: it's red!\n\n"
    "3\n00:00:03,500 --> 00:00:04,000\nYes.\n"
)
QUERY, CHOICES = "Who holds the ball?", ["Ada does.", "Ben.", "a red cup"]


class Text:
    """Length of a word and its place in the sentence."""

    def words(self, sentences):
        rows = [[[len(w), k, 0, 0, 0, 1] for k, w in enumerate(s)] for s in sentences]
        return [np.array(row, np.float32).reshape(-1, D) for row in rows]


class Regions:
    """The number that a frame shows, and three corners of the box."""

    def features(self, frame, boxes):
        assert frame.dtype == np.uint8 and frame.shape == (48, 160, 3)
        return np.array([[number(frame), *box[:3]] for box in boxes], np.float32).reshape(-1, V)


@pytest.fixture
def raw(tmp_path):
    """Options of ``from_raw`` and a video of 5 s, 15 frames of the grid."""
    (tmp_path / "said.srt").write_text(SRT)
    shared = [[5, 6, 7, 8], [0, 0, 1, 1], [9, 9, 10, 10]]
    boxes = [[[k, 2, 30, 40], *shared][: k % 5] for k in range(15)]
    entry = {"counts": [len(b) for b in boxes], "boxes": boxes}
    (tmp_path / "regions.json").write_text(json.dumps({"any": entry}))
    return {
        "video": str(write_video(tmp_path / "mine.mp4", 125)),
        "query": QUERY,
        "extractors": {"text": Text(), "regions": Regions()},
        "subtitles": str(tmp_path / "said.srt"),
        "choices": CHOICES,
        "regions": str(tmp_path / "regions.json"),
    }


def reader(**changes):
    options = {"embedding_size": D, "vfeat_size": V, "num_region": 3, **changes}
    return Reader("infer", **options)


def test_a_raw_video_is_an_item_of_infer(raw):
    own = reader()
    (item,) = own.from_raw(**raw)
    batch = own.collate([item])
    (meta,) = batch["meta"]
    assert batch["id"] == ["mine#Who holds the ball?"] and batch["target"].tolist() == [999]
    assert meta["image_indices"] == [1, 7, 13] and meta["anno_st_idx"] == 0 and meta["q_len"] == 5
    names = meta["reference"]["words"]
    said = [names[i] for i in batch["qas"][0, 2] if i]
    assert said == ["who", "holds", "the", "ball", "?", "a", "red", "cup"]
    assert batch["qas_mask"].sum(2).tolist() == [[8, 7, 8]]
    assert batch["qas"][0, 1, -1] == 0  # padding
    # holds, ball, ada; ben; red, cup: no stop words, no punctuation, no padding
    assert np.flatnonzero(batch["object_mask"][0, 0]).tolist() == [1, 3, 5]
    assert np.flatnonzero(batch["object_mask"][0, 2]).tolist() == [1, 3, 6, 7]
    # frames at 1/3, 7/3 and 13/3 s
    assert batch["sub_index"].tolist() == [[0, 1, 1]]
    assert batch["sub_mask"].sum(2).tolist() == [[10, 8]]
    # their boxes are those at places 0, 6, 12 (at most 3), their pictures those of 8, 58, 108
    assert [len(boxes) for boxes in meta["boxes"]] == [0, 1, 2]
    assert batch["vid"][0, 1, 0].tolist() == [58, 6, 2, 30]
    assert batch["vid"][0, 2].tolist() == [[108, 12, 2, 30], [108, 5, 6, 7]]
    assert batch["vid_mask"].sum(2).tolist() == [[0, 1, 2]]
    assert {k: v for k, v in meta["reference"].items() if k != "words"} == {
        "vid_name": "mine", "question": QUERY, "choices": CHOICES, "num_frames": 15, "qid": 0,
        "subtitles": [(0.5, "Ada: hi."), (2.0, "Ben: it's red!"), (3.5, "Yes.")],
    }  # fmt: skip
    assert [number(p) for p in own.pictures("mine", [1, 13])] == [8, 108]


def test_object_words_come_from_the_list_where_there_is_one(raw, tmp_path):
    (tmp_path / "objects.json").write_text('["cup", "door"]')
    own = reader(object_vocab=str(tmp_path / "objects.json"))
    (item,) = own.from_raw(**raw)
    mask = own.collate([item])["object_mask"][0]
    assert np.argwhere(mask).tolist() == [[2, 7]]


def test_streams(raw):
    own = reader(input_streams=["sub"])
    (item,) = own.from_raw(**raw | {"regions": None, "extractors": {"text": Text()}})
    batch = own.collate([item])
    assert "vid" not in batch and batch["meta"][0]["boxes"] == []
    own = reader(input_streams=["vfeat"])
    (item,) = own.from_raw(**raw | {"subtitles": None})
    batch = own.collate([item])
    assert "sub_bert" not in batch and batch["meta"][0]["reference"]["subtitles"] == []


def test_regions_are_found_by_name(raw, tmp_path):
    entry = json.loads((tmp_path / "regions.json").read_text())["any"]
    own = reader()
    (expected,) = own.from_raw(**raw)
    other = {"counts": [0] * 15, "boxes": [[]] * 15}
    for content in (entry, {"other": other, "mine": entry}):
        (tmp_path / "regions.json").write_text(json.dumps(content))
        (item,) = own.from_raw(**raw)
        assert np.array_equal(item["regions"], expected["regions"])
    (tmp_path / "regions.json").write_text(json.dumps({"a": entry, "b": entry}))
    with pytest.raises(DataError, match="expected an entry mine, found 2 others"):
        list(own.from_raw(**raw))


def test_odd_raw_input(raw, tmp_path):
    (tmp_path / "empty.srt").write_text("")
    (tmp_path / "few.json").write_text('{"counts": [1], "boxes": [[[1, 2, 3, 4]]]}')
    (tmp_path / "bad.json").write_text("{")
    wide = {"words": lambda self, s: [np.zeros((len(x), 9), np.float32) for x in s]}
    for changes, message in (
        ({"query": " "}, "--query: expected a question"),
        ({"choices": ()}, "--choices: expected 2 answers or more"),
        ({"choices": ["one"]}, "--choices: expected 2 answers or more"),
        ({"choices": ["one", " "]}, "none of them empty"),
        ({"subtitles": None}, "--subtitles: expected .* or use a model with input_streams"),
        ({"subtitles": str(tmp_path / "empty.srt")}, r"empty\.srt"),
        ({"subtitles": str(tmp_path / "gone.srt")}, r"gone\.srt"),
        ({"regions": None}, "--regions: expected .* no detector extractor exists yet"),
        ({"regions": str(tmp_path / "gone.json")}, r"gone\.json"),
        ({"regions": str(tmp_path / "bad.json")}, r"bad\.json: expected JSON"),
        ({"regions": str(tmp_path / "few.json")}, "expected regions of 13 frames .* found 1"),
        ({"extractors": {"text": Text()}}, r"DATASET\.extractors\.regions"),
        ({"extractors": {"regions": Regions()}}, r"DATASET\.extractors\.text"),
        ({"extractors": {"text": type("T", (), wide)()}}, "expected vectors of 6 numbers, found 9"),
        ({"video": "nowhere.mp4"}, r"nowhere\.mp4"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            list(reader().from_raw(**raw | changes))
        assert "\n" not in str(caught.value)
