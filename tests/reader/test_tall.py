# SPDX-License-Identifier: Apache-2.0
"""TALL's reader: published numbers, and every rule on made-up data."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import reader
from reader.common.errors import DataError
from reader.common.features import pack
from reader.common.window_index import WindowIndex, spread
from reader.common.windows import window_grid
from reader.tall import Reader
from tests.reader.tall_world import MOMENTS, E, F

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / "tests" / "golden" / "tall"


def test_published_context_features_to_the_last_bit():
    with np.load(COPY / "context_window.npz") as z:
        names = sorted(key[5:] for key in z.files if key.startswith("feat/"))
        features, index = np.stack([z[f"feat/{name}"] for name in names]), WindowIndex(names)
        keys = [key.rsplit("/", 1)[0] for key in z.files if key.endswith("/left")]
        for key in keys:
            folder, window = key.split("/", 1)
            count, size = map(int, folder[3:].split("_"))
            r = Reader("train", feats_dimen=5, context_num=count, context_size=size)
            row = np.array([names.index(window.removesuffix(".npy"))])
            visual = r.with_context(features.__getitem__, index.context(row, count, size, False))
            left, own, right = np.split(visual[0], 3)
            assert np.array_equal(own, features[row[0]])
            assert np.array_equal(left, z[f"{key}/left"])
            assert np.array_equal(right, z[f"{key}/right"])


def _slow_matches(index, videos, moments):
    """The published loops, with videos compared whole."""
    found = []
    for w, name in enumerate(index.names):
        s, e = map(int, name.rsplit("_", 2)[1:])
        for m, (a, b) in enumerate(moments.tolist()):
            if videos[m] != name.rsplit("_", 2)[0]:
                continue
            inter = min(e, b) - max(s, a)
            iou = 1.0 * inter / (max(e, b) - min(s, a))
            if iou > 0.5 and 1.0 * ((e - s) - inter) / (e - s) < 0.15:
                found.append((w, m, a - s, b - e))
    return found


def test_matching_equals_the_published_loops_in_content_and_order():
    rng = np.random.default_rng(1)
    names = sorted({f"v{v}_{s}_{s + n}" for v in range(12) for n in (40, 80)
                    for s in rng.integers(1, 300, 30).tolist()})  # fmt: skip
    videos = [f"v{v}" for v in rng.integers(0, 14, 300).tolist()]
    start = rng.integers(1, 300, 300)
    moments = np.stack([start, start + rng.integers(-5, 120, 300)], 1).astype(float)
    matches = WindowIndex(names).match(videos, moments)
    ours = [(w, m, *o) for w, m, o in zip(*(part.tolist() for part in matches), strict=True)]
    assert ours == _slow_matches(WindowIndex(names), videos, moments)
    assert len(ours) > 100


def test_both_limits_are_strict():
    index = WindowIndex(["v_1_101", "v_201_301"])
    at_half = index.match(["v"], np.array([[1.0, 201.0]]))  # IoU exactly 0.5
    assert len(at_half.window) == 0
    assert len(index.match(["v"], np.array([[1.0, 200.0]])).window) == 1
    outside = index.match(["v"], np.array([[16.0, 116.0]]))  # exactly 0.15 of it lies outside
    assert len(outside.window) == 0
    assert index.match(["v"], np.array([[15.0, 116.0]])).offset.tolist() == [[14, 15]]


def test_videos_are_compared_whole_and_names_read_from_the_right(world):
    r = Reader("test", **world)
    items = {r[i]["id"]: r[i] for i in range(len(r))}
    assert list(items) == ["b.avi", "a_1.avi", "a.avi"]  # order of first appearance
    size = len(window_grid(500, (64, 128, 256)))
    assert [len(item["windows"]) for item in items.values()] == [size] * 3
    assert items["a.avi"]["query_ids"] == ["a.avi_100_240#0"]
    assert items["b.avi"]["query_ids"] == [f"b.avi_{s}_{e}#{k}" for k, (s, e) in
                                           enumerate(MOMENTS["b.avi"])]  # fmt: skip
    assert r.references()["b.avi_1_130#2"] == {
        "video": "b.avi", "sentence_index": 2, "moment": [1.0, 130.0]}  # fmt: skip
    assert set(r.references()) == {q for item in items.values() for q in item["query_ids"]}


def test_train_items(world, log):
    r = Reader("train", **world)
    assert len(r) == len(r.matches.window) > 5
    for i in range(len(r)):
        item = r[i]
        moment, file = item["id"].split("|")
        (s, e), (a, b) = (
            [*map(int, n.removesuffix(".npy").rsplit("_", 2)[1:])] for n in (file, moment)
        )
        own = np.load(Path(world["sliding_clip_path"]) / file)
        assert np.array_equal(item["visual"][F : 2 * F], own)
        assert item["offset"].tolist() == [a - s, b - e]
    batch = r.collate([r[0], r[1]])
    assert {k: v.shape for k, v in batch.items() if k != "id"} == {
        "visual": (2, 3 * F), "sentence": (2, E), "offset": (2, 2)}  # fmt: skip
    assert "TRAIN:5 clip-sentence pairs are read" in log.text
    assert "TRAIN:3 movies." in log.text
    assert f"TRAIN:{len(r)} iou clip-sentence pairs are read" in log.text
    assert "windows of 64/128/256 frames, features of 6 numbers" in log.text


def test_order_is_a_pure_function_of_the_epoch(world):
    r, expected = Reader("train", **world), []
    generator, samples = random.Random(0), list(range(len(r)))
    for _ in range(4):
        generator.shuffle(samples)
        expected.append(list(samples))
    assert [r.order(epoch) for epoch in (3, 0, 1, 2)] == [expected[i] for i in (3, 0, 1, 2)]
    assert Reader("train", **world).order(2) == expected[2]
    assert Reader("train", **world, seed=1).order(0) != expected[0]
    assert r.drop_last and not Reader("test", **world).drop_last


def test_distinct_moments_within_a_span(world, log):
    r = Reader("train", **world, distinct_gt=True, distinct_span=3)
    names = [r[i]["id"].split("|")[0] for i in r.order(0)]
    assert all(len(set(names[i : i + 3])) == 3 for i in range(len(names) - 2))
    keys = np.random.default_rng(0).integers(0, 40, 400).tolist()
    kept = spread(keys, 8)
    assert len(kept) > 390 and len(set(kept)) == len(kept)
    assert all(len({keys[p] for p in kept[i : i + 8]}) == 8 for i in range(len(kept) - 7))
    assert spread([1, 1, 1], 2) == [0]
    assert spread([1, 2, 1, 2], 1) == [0, 1, 2, 3]


def test_blocks_give_the_same_windows(world):
    whole, parts = Reader("test", **world), Reader("test", **world, max_windows=7)
    assert len(parts) > len(whole)
    for i in range(len(whole)):
        mine = [parts[k] for k in range(len(parts)) if parts[k]["id"] == whole[i]["id"]]
        assert [item["first_window"] for item in mine] == list(
            range(0, len(whole[i]["windows"]), 7)
        )
        for key in ("visual", "windows"):
            assert np.array_equal(np.concatenate([item[key] for item in mine]), whole[i][key])
        assert all(item["query_ids"] == whole[i]["query_ids"] for item in mine)
    assert parts.collate([parts[0]])["visual"].dtype == np.float32
    with pytest.raises(ValueError, match="one test item a batch"):
        parts.collate([parts[0], parts[1]])


def test_packed_store_equals_the_folder(world, tmp_path):
    pack(world["sliding_clip_path"], tmp_path / "store")
    packed = Reader("test", **world | {"sliding_clip_path": str(tmp_path / "store")})
    for a, b in zip(Reader("test", **world), packed, strict=False):
        assert np.array_equal(a["visual"], b["visual"])


def test_nearest_context():
    names = ["v_1_129", "v_31_159", "v_201_265", "v_331_459", "w_1_129"]
    index = WindowIndex(names)
    row = np.array([2])  # wants v_73_201 and v_265_393
    assert index.context(row, 1, 128, False).tolist() == [[2, 2, 2]]
    assert index.context(row, 1, 128, True).tolist() == [[1, 2, 2]]  # 42 away; not 66
    assert index.context(np.array([4]), 1, 128, True).tolist() == [[4, 4, 4]]
    assert index.context(row, 3, 128, True)[0, :3].tolist() == [1, 0, 0]  # the third falls back


def test_blind_inputs(world):
    seen = Reader("train", **world)[0]
    no_text, no_video = (Reader("train", **world, blind=kind)[0] for kind in ("text", "video"))
    assert not no_text["sentence"].any() and np.array_equal(no_text["visual"], seen["visual"])
    assert not no_video["visual"].any() and np.array_equal(no_video["sentence"], seen["sentence"])
    assert no_video["visual"].shape == seen["visual"].shape


def test_sentence_sizes(world):
    assert Reader("train", **world | {"sent_vec_dim": 3}, semantic_size=2)[0]["sentence"].shape == (
        3,
    )
    assert Reader("test", **world, semantic_size=2)[0]["sentence"].shape == (3, 2)
    with pytest.raises(DataError, match=r"s\.pkl: expected sentence vectors of 9 numbers, found 5"):
        len(Reader("test", **world, semantic_size=9))


def test_registry_folds_names_and_lists_what_exists():
    assert reader.get_reader("TALL") is reader.get_reader("tall") is Reader
    assert "tall" in reader.list_readers() and "common" not in reader.list_readers()
    for name in ("nothing", "../tall", "common"):
        with pytest.raises(reader.UnknownReader, match="tall") as caught:
            reader.get_reader(name)
        assert caught.value.exit_code == 2
