# SPDX-License-Identifier: Apache-2.0
"""Downloads against a server that misbehaves in every way that real ones do."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from engine import download, weights
from engine.errors import WeightsError

DATA = np.random.default_rng(0).bytes(400_000)
OTHER = np.random.default_rng(1).bytes(410_000)
TENTHS = [len(DATA) * i // 10 for i in range(1, 10)]


class File:
    """How the server treats one path. ``cuts``: where successive answers break off."""

    def __init__(self, data: bytes = DATA, **options):
        self.data, self.cuts, self.ranges, self.status = data, [], True, []
        self.etag, self.date, self.type = '"1"', None, "application/octet-stream"
        self.length, self.delay, self.trust_if_range, self.encoding = 0, [], True, None
        vars(self).update(options)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, path = self.server, self.path.split("?")[0]
        server.requests.append((path, self.headers.get("Range")))
        file = server.files.get(path)
        status = 404 if file is None else file.status.pop(0) if file.status else 200
        if status != 200:
            self.send_error(status)
            return
        if file.delay:
            time.sleep(file.delay.pop(0))
        start = self._start(file)
        if start and start >= len(file.data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(file.data)}")
            self.end_headers()
            return
        self._send(file, start)

    def _start(self, file: File) -> int:
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        stale = file.trust_if_range and condition and condition not in (file.etag, file.date)
        return int(asked[6:-1]) if asked and file.ranges and not stale else 0

    def _send(self, file: File, start: int) -> None:
        self.send_response(206 if start else 200)
        if start:
            whole = len(file.data)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if file.length is not None:
            self.send_header("Content-Length", str(len(file.data) - start + file.length))
        names = ("ETag", "Last-Modified", "Content-Type", "Content-Encoding")
        for name, value in zip(
            names, (file.etag, file.date, file.type, file.encoding), strict=True
        ):
            if value:
                self.send_header(name, value)
        self.end_headers()
        end = file.cuts.pop(0) if file.cuts else len(file.data)
        self.wfile.write(file.data[start:end])
        self.server.sent += max(0, end - start)


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.sent = {}, [], 0
    server.handle_error = lambda *_: None  # clients that hang up are meant
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF", 0)
    monkeypatch.setattr(weights, "POLL", 0.02)


def entry(server, name="TALL.pdparams", **known):
    return {"name": name, "urls": [f"{server.url}/{name}"], **known}


def fetch(server, cache, *files, **options):
    return weights.fetch(files or [entry(server)], cache, offline=False, **options)


def left(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if p.suffix != ".lock")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fails(said: str, server, cache, *files) -> str:
    with pytest.raises(WeightsError, match=said) as caught:
        fetch(server, cache, *files)
    message = str(caught.value)
    assert caught.value.exit_code == 4 and "\n" not in message
    return message


def test_downloads_once(server, tmp_path):
    server.files["/TALL.pdparams"] = File()
    cache, said = tmp_path / "a" / "b", []
    known = entry(server, size=len(DATA), sha256=sha(DATA).upper())
    for _ in range(2):
        path = fetch(server, cache, known, log=said.append)
        assert path == cache / "TALL.pdparams" and path.read_bytes() == DATA
    assert left(cache) == ["TALL.pdparams"] and len(server.requests) == 1
    assert "created" in said[0] and f"{server.url}/TALL.pdparams to {cache}" in said[1]


def test_cut_at_every_tenth_in_one_go(server, tmp_path):
    server.files["/TALL.pdparams"] = File(cuts=list(TENTHS))
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert len(server.requests) == 10 and server.sent < len(DATA) + 10 * (16 << 10)


@pytest.mark.parametrize("cut", TENTHS)
def test_goes_on_after_a_failed_run(cut, server, tmp_path):
    file = server.files["/TALL.pdparams"] = File(
        cuts=[cut] * 4, date="Mon, 01 Jan 2024 00:00:00 GMT"
    )
    fails(r"broke off after \d+", server, tmp_path)
    assert not (tmp_path / "TALL.pdparams").exists()
    file.cuts, server.requests[:] = [], []
    assert fetch(server, tmp_path).read_bytes() == DATA and left(tmp_path) == ["TALL.pdparams"]
    ((_, asked),) = server.requests
    assert cut - (16 << 10) <= int(asked[6:-1]) <= cut


@pytest.mark.parametrize("options,ranged", [
    ({"ranges": False}, True),  # the server answers with the whole file
    ({"etag": None, "date": "Mon, 01 Jan 2024 00:00:00 GMT"}, True),
    ({"etag": 'W/"1"'}, True),
    ({"etag": None}, False),  # nothing tells whether the file is still the same
])  # fmt: skip
def test_servers_with_less(options, ranged, server, tmp_path):
    server.files["/TALL.pdparams"] = File(cuts=[TENTHS[4]], **options)
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert bool(server.requests[1][1]) is ranged


@pytest.mark.parametrize("trust_if_range", [True, False])
@pytest.mark.parametrize("etags", [('"1"', '"2"'), ('W/"1"', 'W/"2"')])
def test_a_changed_file_starts_anew(trust_if_range, etags, server, tmp_path):
    server.files["/TALL.pdparams"] = File(cuts=[TENTHS[4]] * 4, etag=etags[0])
    fails("broke off", server, tmp_path)
    server.files["/TALL.pdparams"] = File(OTHER, etag=etags[1], trust_if_range=trust_if_range,
                                          cuts=[TENTHS[7], TENTHS[1], TENTHS[2]])  # fmt: skip
    assert fetch(server, tmp_path).read_bytes() == OTHER and left(tmp_path) == ["TALL.pdparams"]


def test_a_file_that_changes_all_the_time_is_given_up(server, tmp_path):
    class Restless(File):
        @property
        def etag(self):
            return f'"{len(server.requests)}"'

        @etag.setter
        def etag(self, value):
            pass

    server.files["/TALL.pdparams"] = Restless(cuts=[TENTHS[3]] * 99, trust_if_range=False)
    fails(r"file changed on the server|broke off", server, tmp_path)
    assert len(server.requests) < 15


def test_mixed_pieces_are_caught_by_the_hash(server, tmp_path):
    server.files["/TALL.pdparams"] = File(etag=None)
    (tmp_path / "TALL.pdparams.part").write_bytes(OTHER[: TENTHS[3]])
    assert fetch(server, tmp_path, entry(server, sha256=sha(DATA))).read_bytes() == DATA
    assert [bool(asked) for _, asked in server.requests] == [True, False]


def test_nothing_is_missing_from_a_complete_part(server, tmp_path):
    server.files["/TALL.pdparams"] = File()
    (tmp_path / "TALL.pdparams.part").write_bytes(DATA)
    note = {"url": f"{server.url}/TALL.pdparams", "etag": '"1"', "date": None}
    (tmp_path / "TALL.pdparams.part.json").write_text(json.dumps(note))
    assert fetch(server, tmp_path).read_bytes() == DATA and server.sent == 0


@pytest.mark.parametrize("note", ["{", "[]", '{"url": "elsewhere"}'])
def test_parts_of_unknown_origin_are_not_used(note, server, tmp_path):
    server.files["/TALL.pdparams"] = File()
    (tmp_path / "TALL.pdparams.part").write_bytes(OTHER[: TENTHS[3]])
    (tmp_path / "TALL.pdparams.part.json").write_text(note)
    assert fetch(server, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("options,known,said", [
    ({"length": 50}, {}, "broke off after"),
    ({"length": -50}, {"size": len(DATA)}, "the server has 399950 bytes instead of 400000"),
    ({"length": -50}, {"sha256": sha(DATA)}, "sha256 .* instead of"),
    ({"length": None, "cuts": [9999] * 9}, {"size": len(DATA)}, "broke off after 9999 of 400000"),
    ({"length": None, "data": OTHER}, {"size": len(DATA)}, "410000 bytes instead of 400000"),
    ({"data": OTHER}, {"sha256": sha(DATA)}, "sha256 [0-9a-f]{12}... instead of"),
    ({"data": b""}, {}, "empty file"),
    ({"data": b"<html><body>Log in first</body></html>"}, {}, "web page"),
    ({"type": "text/html; charset=utf-8"}, {}, "web page"),
    ({"data": b"<?xml version='1.0'?><Error/>" * 9, "type": "application/xml"}, {}, "web page"),
    ({"data": b"quota exceeded", "type": "text/plain"}, {}, "text"),
    ({"status": [404]}, {}, "HTTP 404"), ({"status": [403]}, {}, "HTTP 403"),
    ({"status": [503] * 9}, {}, "HTTP 503"),
])  # fmt: skip
def test_what_is_not_the_file(options, known, said, server, tmp_path):
    server.files["/TALL.pdparams"] = File(**options)
    message = fails(said, server, tmp_path, entry(server, **known))
    assert f"{server.url}/TALL.pdparams" in message and str(tmp_path / "TALL.pdparams") in message
    assert "TALL.pdparams" not in left(tmp_path) and len(server.requests) <= 4


def test_passing_troubles_are_retried(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.15))
    server.files["/TALL.pdparams"] = File(status=[503], delay=[0.4])
    assert fetch(server, tmp_path).read_bytes() == DATA and len(server.requests) == 3


def test_compressed_transfers_are_not_resumed_at_wrong_places(server, tmp_path):
    import gzip

    packed = gzip.compress(DATA)
    server.files["/TALL.pdparams"] = File(packed, encoding="gzip", cuts=[len(packed) // 2])
    assert fetch(server, tmp_path).read_bytes() == DATA and server.requests[-1][1] is None


def test_other_mirror_and_other_name(server, tmp_path):
    server.files["/mirror/TALL.pdparams"] = File()
    first = entry(server, "TALL_final.pdparams")
    first["urls"].append(f"{server.url}/b/TALL_final.pdparams")
    second = {
        "name": "TALL.pdparams",
        "urls": [f"{server.url}/x", f"{server.url}/mirror/TALL.pdparams"],
    }
    assert fetch(server, tmp_path, first, second) == tmp_path / "TALL.pdparams"
    assert [path for path, _ in server.requests] == [
        "/TALL_final.pdparams", "/b/TALL_final.pdparams", "/x", "/mirror/TALL.pdparams",
    ]  # fmt: skip
    assert fetch(server, tmp_path, first, second) == tmp_path / "TALL.pdparams"
    (tmp_path / "TALL_final.pdparams").write_bytes(OTHER)
    assert fetch(server, tmp_path, first, second) == tmp_path / "TALL_final.pdparams"
    assert len(server.requests) == 4


def test_all_names_fail(server, tmp_path):
    noted = entry(server, "B") | {"note": "its authors send it on request"}
    message = fails("HTTP 404", server, tmp_path, entry(server, "A.pdparams"), noted)
    assert "; its authors send it on request; put the file at" in message
    assert f"{server.url}/A.pdparams (HTTP 404), {server.url}/B (HTTP 404)" in message
    assert f"put the file at {tmp_path / 'A.pdparams'} by hand" in message


def test_no_network(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    files = [{"name": n, "urls": [f"{url}/{n}"]} for n in ("A", "B")]
    with pytest.raises(WeightsError, match="no connection") as caught:
        weights.fetch(files, tmp_path, offline=False)
    message = str(caught.value)
    assert f"{url}/A (no connection), {url}/B (same server)" in message
    assert str(tmp_path / "A") in message and "--weights" in message and left(tmp_path) == []


@pytest.mark.parametrize("address", ["http://", "nonsense", "http://[::", "file:///etc/hosts"])
def test_unusable_address(address, tmp_path):
    with pytest.raises(WeightsError, match="put the file at"):
        weights.fetch([{"name": "A", "urls": [address]}], tmp_path, offline=False)


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline(value, server, tmp_path, monkeypatch):
    monkeypatch.setenv("VLZOO_OFFLINE", value)
    monkeypatch.setenv("VLZOO_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="offline mode is on") as caught:
        weights.fetch([entry(server)])
    assert str(tmp_path / "weights" / "TALL.pdparams") in str(caught.value) and not server.requests
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "TALL.pdparams").write_bytes(DATA)
    assert weights.fetch([entry(server)]) == tmp_path / "weights" / "TALL.pdparams"


def test_default_cache_and_nothing_published(tmp_path, monkeypatch):
    monkeypatch.delenv("VLZOO_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.cache_folder() == tmp_path / ".paddle" / "weights"
    with pytest.raises(WeightsError, match="no weights are published"):
        weights.fetch([])


@pytest.mark.parametrize("bad,known", [
    (DATA[:5000], {"size": len(DATA)}), (OTHER, {"sha256": sha(DATA)}), (b"", {}),
    (b"<!doctype html><html></html>", {}),
])  # fmt: skip
def test_damaged_cache_is_fetched_again(bad, known, server, tmp_path):
    server.files["/TALL.pdparams"] = File()
    (tmp_path / "TALL.pdparams").write_bytes(bad)
    said = []
    assert fetch(server, tmp_path, entry(server, **known), log=said.append).read_bytes() == DATA
    assert "TALL.pdparams is not used: " in said[0]


def test_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WeightsError, match="cannot write weights to"):
        fetch(server, tmp_path / "file" / "cache")


def test_full_disk(server, tmp_path, monkeypatch):
    server.files["/TALL.pdparams"] = File()
    monkeypatch.setattr(
        download.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space"))
    )
    fails(r"cannot write weights to .*\(No space\)", server, tmp_path)


# ---- locks

HOLDER = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
open(sys.argv[2], "wb").write(bytes([1]) * 1000)
lock.release()
"""


@pytest.fixture
def holder(tmp_path):
    lock, target = tmp_path / "TALL.pdparams.lock", tmp_path / "TALL.pdparams"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock), str(target)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_dead_lock_holder(holder, server, tmp_path):
    server.files["/TALL.pdparams"] = File()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "TALL.pdparams.lock").exists()
    assert fetch(server, tmp_path).read_bytes() == DATA


def test_living_lock_holder_is_waited_for(holder, server, tmp_path):
    said = []

    def log(line):
        said.append(line)
        holder.stdin.write("\n")
        holder.stdin.flush()

    assert fetch(server, tmp_path, log=log).read_bytes() == bytes([1]) * 1000
    assert "waiting for another process" in said[0] and not server.requests


def test_hung_lock_holder(holder, server, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "STALL", 0.1)
    fails(r"TALL\.pdparams\.lock: expected the process .* no new data", server, tmp_path)


def test_together_they_download_once(server, tmp_path):
    server.files["/TALL.pdparams"] = File(delay=[0.2])
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch(server, tmp_path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [tmp_path / "TALL.pdparams"] * 4 and len(server.requests) == 1


# ---- archives


def packed(*members: tuple[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def archive_entry(server):
    return {"name": "ResNet50", "urls": [f"{server.url}/ResNet50.tar.gz?v=1"]}


@pytest.mark.parametrize("members", [
    (("ResNet50/conv1", b"a"), ("ResNet50/fc", b"b"), ("README", b"c")),
    (("pretrained/conv1", b"a"), ("pretrained/fc", b"b")), (("conv1", b"a"), ("fc", b"b")),
])  # fmt: skip
def test_archives_are_unpacked(members, server, tmp_path):
    server.files["/ResNet50.tar.gz"] = File(packed(*members))
    for _ in range(2):
        path = fetch(server, tmp_path, archive_entry(server))
        assert path == tmp_path / "ResNet50" and (path / "conv1").read_bytes() == b"a"
    assert left(tmp_path) == ["ResNet50"] and len(server.requests) == 1


@pytest.mark.parametrize("members", [
    (("../evil", b"x"),), (("/tmp/vlzoo-evil", b"x"),), (("a/../../evil", b"x"),),
    (("link", "../.."), ("link/evil", b"x")), (("ResNet50", "/etc"),),
])  # fmt: skip
def test_archives_cannot_escape(members, server, tmp_path):
    cache = tmp_path / "cache"
    server.files["/ResNet50.tar.gz"] = File(packed(*members))
    try:
        path = fetch(server, cache, archive_entry(server))
    except WeightsError as error:
        assert "archive not unpacked" in str(error) and left(cache) == []
    else:  # an absolute name becomes a relative one
        assert path.resolve().is_relative_to(cache)
    assert os.listdir(tmp_path) == ["cache"] and not Path("/tmp/vlzoo-evil").exists()


@pytest.mark.parametrize("content", [packed(("a", DATA))[:3000], b"\x1f\x8b no archive", DATA])
def test_damaged_archives(content, server, tmp_path):
    server.files["/ResNet50.tar.gz"] = File(content)
    fails("archive not unpacked", server, tmp_path, archive_entry(server))
    assert left(tmp_path) == []
