# SPDX-License-Identifier: Apache-2.0
"""Feature folders and packed stores: reading, writing, crashes, damage."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from reader.common import features as module
from reader.common.errors import DataError
from reader.common.features import FeatureWriter, open_features, pack, shard_folder
from tests.conftest import ROOT

STAMP = {"name": "test", "options": [1, 2]}


def vectors(names, dim=6):
    return np.stack([np.arange(dim) + 100 * i for i in range(len(names))]).astype(np.float32)


def write_folder(folder, names, dim=6):
    folder.mkdir()
    for name, vector in zip(names, vectors(names, dim), strict=True):
        np.save(folder / f"{name}.npy", vector)
    return folder


def write_store(folder, names, values=None, dim=6, identity=STAMP):
    with FeatureWriter(folder, dim, identity) as writer:
        writer.append(names, vectors(names, dim) if values is None else values)
        writer.finish()
    return folder


NAMES = ["v.avi_1001_1065", "v.avi_101_165", "a.avi_1_65"]


def test_folder_and_store_give_the_same(tmp_path):
    folder = write_folder(tmp_path / "npy", NAMES)
    (folder / "readme.txt").write_text("not a feature")
    store = write_store(tmp_path / "store", NAMES)
    for source in (open_features(folder), open_features(store)):
        assert source.names == ["a.avi_1_65", "v.avi_1001_1065", "v.avi_101_165"]
        assert (source.dim, len(source)) == (6, 3)
        rows = source.rows([2, 0, 2])
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows[:, 0], [100, 200, 100])
        assert source.rows([]).shape == (0, 6)
    assert open_features(folder).identity is None
    assert open_features(store).identity == STAMP


def test_store_is_a_plain_npy_file(tmp_path):
    store = write_store(tmp_path / "store", NAMES)
    np.testing.assert_array_equal(np.load(store / "features.npy"), vectors(NAMES))
    assert sorted(p.name for p in store.iterdir() if p.suffix) == ["features.npy", "index.json"]


def test_other_shapes_and_types_of_files(tmp_path):
    folder = write_folder(tmp_path / "npy", ["a_1_2"])
    np.save(folder / "b_1_2.npy", np.arange(6, dtype=np.float64)[None])
    assert open_features(folder).rows([1]).tolist() == [[0, 1, 2, 3, 4, 5]]


def _object_array(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


class _Planted:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: np.save(p, np.zeros(5, np.float32)), "expected 6 numbers as in a_1_2.npy"),
        (lambda p: np.save(p, np.full(6, np.nan, np.float32)), "NaN or infinity"),
        (lambda p: np.save(p, np.full(6, np.inf, np.float32)), "NaN or infinity"),
        (lambda p: p.unlink(), "No such file"),
        (lambda p: p.write_bytes(b""), "array of numbers"),
        (lambda p: p.write_bytes(p.read_bytes()[:140]), "array of numbers"),
        (_object_array, "array of numbers"),
        (lambda p: np.save(p, np.array(["a"])), "array of numbers"),
        (lambda p: p.write_bytes(pickle.dumps(_Planted())), "array of numbers"),
        (lambda p: np.savez(p.open("wb"), a=np.zeros(6)), "array of numbers"),
        (lambda p: p.write_bytes(b"PK\x03\x04"), "array of numbers"),
    ],
)
def test_bad_file_of_a_folder_is_named(tmp_path, damage, message):
    folder = write_folder(tmp_path / "npy", ["a_1_2", "b_1_2", "c_1_2"])
    source = open_features(folder)
    damage(folder / "b_1_2.npy")
    assert len(source.rows([0, 2])) == 2
    with pytest.raises(DataError, match=message) as error:
        source.rows([0, 1, 2])
    assert "b_1_2.npy" in str(error.value) and "\n" not in str(error.value)


def test_nan_in_a_store_is_named_when_it_is_read(tmp_path):
    store = write_store(tmp_path / "store", NAMES)
    rows = np.load(store / "features.npy", mmap_mode="r+")
    rows[1, 3] = np.nan
    rows.flush()
    source = open_features(store)
    assert len(source.rows([0, 1])) == 2
    with pytest.raises(DataError, match=r"store: v.avi_101_165: expected finite"):
        source.rows([1, 2])


def _rewrite_index(store, **changes):
    path = store / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: _cut(s / "features.npy"), "features.npy: expected 3 rows"),
        (lambda s: (s / "features.npy").unlink(), "features.npy: expected 3 rows"),
        (lambda s: _cut(s / "index.json"), "index.json: expected names, dim and identity"),
        (lambda s: _rewrite_index(s, names=[*NAMES, "x"]), r"expected float32 of shape \(4, 6\)"),
        (lambda s: _rewrite_index(s, dim=7), r"expected float32 of shape \(3, 7\)"),
        (lambda s: _rewrite_index(s, names=["a", "b", "a"]), "found a twice"),
        (lambda s: _rewrite_index(s, names="abc"), "expected a list of names"),
        (lambda s: np.save(s / "features.npy", np.zeros((3, 6))), "found float64"),
        (lambda s: _object_array(s / "features.npy"), "features.npy: expected 3 rows"),
        (shutil.rmtree, "expected a folder of features"),
        (lambda s: [p.unlink() for p in s.iterdir()], "found neither"),
    ],
)
def test_damaged_store(tmp_path, damage, message):
    store = write_store(tmp_path / "store", NAMES)
    damage(store)
    with pytest.raises(DataError, match=message) as error:
        open_features(store)
    assert error.value.exit_code == 3 and "\n" not in str(error.value)


def test_writer_goes_on(tmp_path):
    path, values = tmp_path / "store", vectors(NAMES)
    with FeatureWriter(path, 6, STAMP) as writer:
        writer.append(NAMES[:1], values[:1])
    with pytest.raises(DataError, match="expected a finished feature store"):
        open_features(path)
    with open(path / "features.npy", "ab") as file:  # rows whose names were never written
        file.write(b"torn row")
    with open(path / "progress.jsonl", "ab") as file:
        file.write(b'["torn li')
    with FeatureWriter(path, 6, STAMP) as writer:
        assert NAMES[0] in writer and NAMES[1] not in writer and len(writer) == 1
        writer.append(NAMES[1:], values[1:])
        writer.finish()
    np.testing.assert_array_equal(np.load(path / "features.npy"), values)
    assert len(open_features(path)) == 3


def test_adding_to_a_finished_store_keeps_it_readable(tmp_path):
    path = write_store(tmp_path / "store", NAMES[:2])
    with FeatureWriter(path, 6, STAMP) as writer:
        writer.append(NAMES[2:], np.ones((1, 6)))
        assert len(open_features(path)) == 2
    assert len(open_features(path)) == 2
    with FeatureWriter(path, 6, STAMP) as writer:
        assert len(writer) == 3
        writer.finish()
    assert open_features(path).rows([0]).tolist() == [[1.0] * 6]
    with FeatureWriter(path, 6, STAMP) as writer:
        writer.finish()
    assert len(open_features(path)) == 3


def test_writer_refuses(tmp_path):
    path = write_store(tmp_path / "store", NAMES)
    with pytest.raises(DataError, match="found a store of 6 by"):
        FeatureWriter(path, 7, STAMP)
    with pytest.raises(DataError, match="another folder or remove"):
        FeatureWriter(path, 6, {"name": "other"})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(DataError, match=r"found a\.jpg"):
        FeatureWriter(tmp_path / "photos", 6)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write here"):
        FeatureWriter(tmp_path / "file", 6)
    with FeatureWriter(path, 6, STAMP) as writer:
        with pytest.raises(DataError, match="another process"):
            FeatureWriter(path, 6, STAMP)
        with pytest.raises(DataError, match="NaN or infinity for y"):
            writer.append(["x", "y"], [[0.0] * 6, [np.nan] * 6])
        with pytest.raises(ValueError, match="must be new"):
            writer.append(NAMES[:1], np.zeros((1, 6)))
        with pytest.raises(ValueError, match=r"expected rows \(1, 6\)"):
            writer.append(["x"], np.zeros((1, 5)))
    assert len(open_features(path)) == 3


KILLED = """
import sys, numpy as np
from reader.common.features import FeatureWriter
with FeatureWriter(sys.argv[1], 64, {"name": "k"}) as writer:
    i = len(writer)
    while i < 4000:
        names = [f"n{j:05d}" for j in range(i, i + 3)]
        writer.append(names, np.repeat(np.arange(i, i + 3)[:, None], 64, 1))
        i += 3
        print(i, flush=True)
    writer.finish()
"""


def test_kill_at_any_moment_loses_nothing_that_was_said(tmp_path):
    path, said = tmp_path / "store", 0
    for _ in range(4):
        run = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for line in run.stdout:
            said = int(line)
            if said % 60 == 0:
                break
        time.sleep(0.003)
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
        with FeatureWriter(path, 64, {"name": "k"}) as writer:
            assert len(writer) >= said and len(writer) % 3 == 0
    with FeatureWriter(path, 64, {"name": "k"}) as writer:
        count = len(writer)
        writer.finish()
    source = open_features(path)
    np.testing.assert_array_equal(source.rows(range(count))[:, 5], np.arange(count))


def test_crash_while_finishing(tmp_path, monkeypatch):
    path = tmp_path / "store"
    for name in ("_header", "flush", "json.dump", "os.replace"):
        with FeatureWriter(path, 6, STAMP) as writer:
            if "n" not in writer:
                writer.append(["n"], np.ones((1, 6)))
            with monkeypatch.context() as patch:
                patch.setattr(f"reader.common.features.{name}", _fail)
                with pytest.raises(KeyboardInterrupt):
                    writer.finish()
        with pytest.raises(DataError, match="finished"):
            open_features(path)
    with FeatureWriter(path, 6, STAMP) as writer:
        writer.finish()
    assert open_features(path).rows([0]).tolist() == [[1.0] * 6]


def _fail(*args, **options):
    raise KeyboardInterrupt


def test_full_disk(tmp_path, monkeypatch):
    with FeatureWriter(tmp_path / "store", 6, STAMP) as writer:

        def full(file):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "flush", full)
        with pytest.raises(DataError, match="No space left"):
            writer.append(NAMES, vectors(NAMES))


def test_shards_open_as_one(tmp_path):
    names = [f"v{i:02d}_1_2" for i in range(7)]
    values = vectors(names)
    for shard in range(3):
        write_store(shard_folder(tmp_path, shard, 3), names[shard::3], values[shard::3])
    source = open_features(tmp_path)
    assert source.names == names and source.identity == STAMP
    np.testing.assert_array_equal(source.rows(range(6, -1, -1)), values[::-1])
    pack(tmp_path, tmp_path.parent / "merged")
    np.testing.assert_array_equal(open_features(tmp_path.parent / "merged").rows(range(7)), values)
    assert shard_folder("x", 0, 1).name == "x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: shutil.rmtree(p / "shard-1-of-2"), "missing shard-1-of-2"),
        (lambda p: (p / "shard-1-of-2" / "index.json").unlink(), "shard-1-of-2: .*finished store"),
        (lambda p: _rewrite_index(p / "shard-1-of-2", identity=None), "made by .*found 6 by None"),
        (lambda p: shutil.copytree(p / "shard-0-of-2", p / "shard-2-of-3"), "shards of one run"),
        (lambda p: _rewrite_index(p / "shard-1-of-2", names=["a"]), "found a twice"),
    ],
)
def test_bad_shards(tmp_path, change, message):
    for shard, name in enumerate("ab"):
        write_store(shard_folder(tmp_path, shard, 2), [name])
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        open_features(tmp_path)


def test_pack(tmp_path):
    folder = write_folder(tmp_path / "npy", [f"n{i}" for i in range(10)])
    steps = []
    pack(folder, tmp_path / "store", progress=lambda it: steps.extend(it) or steps, chunk=4)
    assert steps == [0, 4, 8]
    pack(folder, tmp_path / "store")
    a, b = open_features(folder), open_features(tmp_path / "store")
    assert a.names == b.names
    np.testing.assert_array_equal(a.rows(range(10)), b.rows(range(10)))
    with pytest.raises(DataError, match=r"names that .* has not"):
        pack(write_folder(tmp_path / "other", ["m"]), tmp_path / "store")


def test_empty_store(tmp_path):
    with FeatureWriter(tmp_path / "store", 6, STAMP) as writer:
        writer.finish()
    assert open_features(tmp_path / "store").names == []


def test_large_folder_opens_by_names_only(tmp_path, monkeypatch):
    folder = tmp_path / "npy"
    folder.mkdir()
    np.save(folder / "0.npy", np.zeros(6, np.float32))
    for i in range(1, 3000):
        os.link(folder / "0.npy", folder / f"{i}.npy")
    loads = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda *a, **k: (loads.append(a), load(*a, **k))[1])
    source = open_features(folder)
    assert len(source) == 3000 and len(loads) <= 1
    source.rows([7, 7, 8])
    assert len(loads) <= 3
