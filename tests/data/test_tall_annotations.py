# SPDX-License-Identifier: Apache-2.0
"""Raw annotations of TACoS and Charades-STA: counts, repairs, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from reader.common.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="module")
def annotations():
    """The module that reads them."""
    path = ROOT / "data/dataset/tall/tall_annotations.py"
    spec = importlib.util.spec_from_file_location("tall_annotations_alone", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("folder", "lines"),
    [
        ("tacos", ["train     75    9790", "val       27    4436", "test      25    4001"]),
        (
            "charades_sta",
            ["train   5338   12408, 1802 clamped", "test    1334    3720, 562 clamped"],
        ),
    ],
)
def test_real_annotations(annotations, folder, lines):
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is absent")
    found = annotations.read(SHARED / "annotations" / folder)
    assert found.counts()[1:] == [f"  {line}" for line in lines]


def test_moments_are_put_into_order_and_cut(annotations, tmp_path):
    lines = ["A 1 2##x", "A 5 3##y", "A 9 99##z", "A 20 30##w"]
    (tmp_path / "charades_sta_test.txt").write_text("\n".join(lines))
    (tmp_path / "durations.json").write_text('{"A": 10.0}')
    found = annotations.read(tmp_path)
    moments = [(s.start, s.end) for s in found.splits["test"]]
    assert moments == [(1, 2), (3, 5), (9, 10), (10, 10)]
    assert found.repairs["test"] == {"reversed": 1, "clamped": 2, "empty": 1}
    assert found.unit == "seconds" and found.videos("test") == ["A"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("timestamps", [[1, 2]], "w1.avi: expected as many sentences as timestamps"),
        ("timestamps", [[1, 2], [3], [4, 5]], r"w1.avi: timestamps\[1\]: expected \[start, end\]"),
        ("timestamps", [[1, 2], [3, "x"], [4, 5]], r"timestamps\[1\]"),
        ("timestamps", [[1, 2], [-3, 4], [4, 5]], "w1.avi: 1: expected a start and an end"),
        ("timestamps", [[1, 2], [3, float("nan")], [4, 5]], "w1.avi: 1: expected a start"),
        ("sentences", ["a", 5, "c"], r"sentences\[1\]: expected text, found 5"),
        ("sentences", ["a", " ", "c"], "w1.avi: 1: expected a sentence, found an empty one"),
        ("num_frames", None, "num_frames: expected a number from 1, found None"),
    ],
)
def test_odd_annotations(annotations, tmp_path, key, value, message):
    entry = {"timestamps": [[1, 2], [3, 4], [5, 6]], "sentences": ["a", "b", "c"], "num_frames": 9}
    (tmp_path / "train.json").write_text(json.dumps({"w1.avi": entry | {key: value}}))
    with pytest.raises(DataError, match=message) as caught:
        annotations.read(tmp_path)
    assert "train.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.json", "", "train.json: expected JSON"),
        ("train.json", "{}", "train.json: expected an object by video name"),
        ("train.json", "[1]", "train.json: expected an object"),
        ("train.json", '{"v": {"timestamps": []}}', "v: expected the key sentences"),
        ("train.json", '{"v": 3}', "v: expected the key timestamps"),
        ("charades_sta_train.txt", "\n", "found an empty file"),
        (
            "charades_sta_train.txt",
            "AB 1 2 no mark\n",
            "charades_sta_train.txt:1: expected '<video>",
        ),
        ("charades_sta_train.txt", "AB 1 2##a\nAB x 2##b\n", "charades_sta_train.txt:2"),
        ("charades_sta_train.txt", "AB 1 2##\n", "charades_sta_train.txt:1: expected a sentence"),
        ("other.txt", "", "expected {train,val,test}.json, found none"),
    ],
)
def test_empty_and_damaged_files(annotations, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        annotations.read(tmp_path)
