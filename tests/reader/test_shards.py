# SPDX-License-Identifier: Apache-2.0
"""Shards: where samples are, orders, damaged and incomplete files."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import tarfile
from itertools import pairwise

import numpy as np
import pytest

from reader.common import shards
from reader.common.errors import BrokenSample, DataError
from reader.common.shards import Shards


def write(path, members, **options):
    """A tar file of (name, content)."""
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def clip(k):
    return bytes([k % 256]) * (700 + k)


def members(first, count):
    numbers = range(first, first + count)
    pairs = [((f"{k:06d}.mp4", clip(k)), (f"{k:06d}.txt", b"caption %d" % k)) for k in numbers]
    return [member for pair in pairs for member in pair]


@pytest.fixture
def folder(tmp_path):
    """Three shards of 5, 3 and 4 samples."""
    for shard, (first, count) in enumerate(((0, 5), (5, 3), (8, 4))):
        write(tmp_path / f"train-{shard:03d}.tar", members(first, count))
    return tmp_path


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vlzoo"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records]


def spoil(path, at, value):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(value)


def place(path, name):
    """Where a member's header is, and its content."""
    with tarfile.open(path) as archive:
        return (info := archive.getmember(name)).offset, info.offset_data


def test_samples_in_order(folder):
    found = Shards(str(folder / "train-*.tar"))
    assert len(found) == 12
    for k in range(12):
        sample = found.read(k)
        assert (sample.data, sample.captions, sample.ending) == (clip(k), [f"caption {k}"], ".mp4")
        assert sample.name.endswith(f".tar: {k:06d}")
        assert found.read(k, whole=False) == sample._replace(data=b"")
    assert found.read(6).name.startswith(str(folder / "train-001.tar"))


def test_patterns(folder, monkeypatch):
    paths = [str(folder / f"train-{k:03d}.tar") for k in range(3)]
    assert shards.expand(str(folder / "train-{000..002}.tar")) == paths
    assert shards.expand(str(folder / "train-{001..002}.tar")) == paths[1:]
    assert shards.expand([paths[2], str(folder / "*-00?.tar")]) == [paths[2], *paths]
    monkeypatch.chdir(folder)
    assert shards.expand("train-{000..001}.tar") == ["./train-000.tar", "./train-001.tar"]
    for pattern in ("train-{002..003}.tar", "nothing-*.tar", "other/x.tar"):
        with pytest.raises(DataError, match=r"expected tar files at .*, found no "):
            shards.expand(pattern)


def test_other_forms_of_samples(tmp_path):
    long = "a" * 150
    path = write(tmp_path / "x.tar", [
        ("folder/.hidden.mp4", b"-"),
        ("readme", b"-"),
        ("folder/01.json", json.dumps({"caption": ["a cat", "cats"], "key": "01"}).encode()),
        ("folder/01.JPG", b"picture"),
        ("folder/02.jpg", b"other"),
        ("folder/02.left.txt", b"-"),
        ("folder/02.txt", "ein Käse".encode()),
        ("folder/02.json", b"[]"),
        ("03.mp4", b"clip"),
        ("03.txt", b"first"),
        ("03.mp4", b"again"),
        ("03.txt", b"second"),
        ("b\udcff.mp4", b"name"),
        ("b\udcff.txt", b"no text"),
        (f"{long}.webm", b"long"),
        (f"{long}.txt", b""),
    ])  # fmt: skip
    found = Shards(path)
    assert [found.read(k)[1:] for k in range(len(found))] == [
        (".jpg", b"picture", ["a cat", "cats"]), (".jpg", b"other", ["ein Käse"]),
        (".mp4", b"clip", ["first"]), (".mp4", b"again", ["second"]),
        (".mp4", b"name", ["no text"]), (".webm", b"long", [""]),
    ]  # fmt: skip
    assert found.read(5).name == f"{path}: {long}"


def test_an_index_is_made_once_and_again_when_the_shard_changes(folder, monkeypatch):
    path = str(folder / "train-000.tar")
    assert len(Shards(path)) == 5
    place = folder / "train-000.tar.index.npy"
    assert place.exists() and not list(folder.glob("*.part"))
    scans = []
    monkeypatch.setattr(shards, "scan", lambda p, scan=shards.scan: scans.append(p) or scan(p))
    assert len(Shards(path)) == 5 and not scans
    write(path, members(20, 2))
    found = Shards(path)
    assert len(found) == 2 and found.read(1).captions[0] == "caption 21" and scans == [path]
    for damage in (b"", b"no array", place.read_bytes()[:200]):
        place.write_bytes(damage)
        assert len(Shards(path)) == 2
    assert len(scans) == 4


def test_an_index_goes_to_the_cache_where_the_folder_is_not_to_be_written(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("VLZOO_HOME", str(tmp_path / "home"))
    path = str(folder / "train-000.tar")
    (folder / "train-000.tar.index.npy").mkdir()  # cannot be replaced by a file
    assert len(Shards(path)) == 5
    (cached,) = (tmp_path / "home" / "shards").glob("*.npy")
    before = cached.stat().st_mtime_ns
    assert Shards(path).read(3).captions[0] == "caption 3" and cached.stat().st_mtime_ns == before
    cached.unlink()
    cached.mkdir()
    with pytest.raises(DataError, match=r"cannot write the index of .*train-000\.tar"):
        Shards(path)


def test_orders_stay_near_the_one_in_the_files(folder):
    found = Shards(str(folder / "train-*.tar"))
    orders = [found.order(np.random.default_rng((1, k)), 2).tolist() for k in range(30)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert orders[0] == found.order(np.random.default_rng((1, 0)), 2).tolist()
    firsts = set()
    for k, order in enumerate(orders):
        plain = found.order(np.random.default_rng((1, k)), 1).tolist()
        assert sum(b != a + 1 for a, b in pairwise(plain)) <= 2  # shard after shard
        for j in range(0, 12, 2):
            assert sorted(order[j : j + 2]) == sorted(plain[j : j + 2])
        firsts.add(plain[0])
    assert firsts == {0, 5, 8}
    assert len({tuple(found.order(np.random.default_rng(k), 100)) for k in range(5)}) == 5


def test_many_shards_are_not_all_open(tmp_path):
    for k in range(20):
        write(tmp_path / f"{k:02d}.tar", members(k, 1))
    found = Shards(str(tmp_path / "*.tar"))
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    assert [found.read(k).captions[0] for k in range(20)] == [f"caption {k}" for k in range(20)]
    if before:
        assert len(os.listdir("/proc/self/fd")) - before <= 8
    again = pickle.loads(pickle.dumps(found))
    assert again.read(7).captions[0] == "caption 7"


# damage


def test_a_shard_that_is_cut_short(folder, told):
    path = str(folder / "train-000.tar")
    start = place(path, "000003.mp4")[1]
    os.truncate(path, start + 100)
    found = Shards(path)
    assert len(found) == 4 and [found.read(k).captions[0] for k in range(3)] == [
        "caption 0", "caption 1", "caption 2",
    ]  # fmt: skip
    with pytest.raises(BrokenSample, match=r"train-000\.tar: 000003: expected a whole clip"):
        found.read(3)
    scanned, summary = told()
    assert scanned.startswith(f"{path}: no end of the archive behind byte {start + 100}")
    assert scanned.endswith("; 4 samples are found")
    assert summary.startswith(f"1 of 1 shards are damaged, such as {path}; copy them again")
    Shards(path)
    assert told()[2:] == [summary]  # said again, from the index


def test_a_shard_that_is_cut_between_members(folder, told):
    path = str(folder / "train-000.tar")
    os.truncate(path, place(path, "000002.mp4")[0])
    assert len(Shards(path)) == 2 and "no end of the archive" in told()[0]


def test_a_damaged_header_costs_its_own_sample(folder, told):
    path = str(folder / "train-000.tar")
    header, data = place(path, "000001.mp4")
    spoil(path, header + 10, b"xyz")
    found = Shards(path)
    assert len(found) == 5
    with pytest.raises(BrokenSample, match="000001: expected a whole clip or picture, found none"):
        found.read(1)
    others = [found.read(k).captions[0] for k in (0, 2, 3, 4)]
    assert others == [f"caption {k}" for k in (0, 2, 3, 4)]
    size = -(-len(clip(1)) // 512) * 512
    assert f"{data + size - header} unreadable bytes from byte {header} on" in told()[0]
    path = str(folder / "train-001.tar")
    spoil(path, place(path, "000006.txt")[0], b"\0xyz")
    with pytest.raises(BrokenSample, match="000006: expected a whole caption, found none"):
        Shards(path).read(1)


def test_incomplete_and_unreadable_captions(tmp_path):
    path = write(tmp_path / "x.tar", [
        ("1.mp4", b"-"), ("2.txt", b"-"), ("3.mp4", b"-"), ("3.txt", b"\xff\xfe"),
        ("4.mp4", b"-"), ("4.json", b"{}"), ("5.mp4", b"-"), ("5.json", b"{"),
        ("6.mp4", b"-"), ("6.json", b'{"caption": null}'),
        ("7.mp4", b"-"), ("7.json", b'{"caption": []}'),
    ])  # fmt: skip
    found = Shards(path)
    for k, message in enumerate([
        "1: expected a whole caption", "2: expected a whole clip or picture", "3: expected a cap",
        "4: expected a caption as text", "5: expected a caption", "6: expected a caption as text",
        "7: expected a caption as text",
    ]):  # fmt: skip
        with pytest.raises(BrokenSample, match=message):
            found.read(k)


def test_concatenated_archives_are_one(folder):
    whole = b"".join((folder / f"train-{k:03d}.tar").read_bytes() for k in range(3))
    (folder / "all.tar").write_bytes(whole)
    samples, damage = shards.scan(folder / "all.tar")
    assert len(samples) == 12 and not damage


@pytest.mark.parametrize("content", [b"", b"no archive " * 100, b"\0" * 2048, b"x"])
def test_files_that_are_no_shards(tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tar: expected a tar file") as error:
        Shards(str(path))
    assert error.value.exit_code == 3 and "\n" not in str(error.value)
    write(path, [("readme.md", b"text")])
    with pytest.raises(DataError, match="with clips or pictures and captions, found none"):
        Shards(str(path))


def test_a_shard_that_shrinks_while_in_use(folder):
    found = Shards(str(folder / "train-000.tar"))
    found.read(0)
    os.truncate(folder / "train-000.tar", 1000)
    with pytest.raises(DataError, match="was cut short while it is in use"):
        found.read(4)
