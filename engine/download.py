# SPDX-License-Identifier: Apache-2.0
"""Fetch one file over HTTP so that what arrives is whole, or nothing is left under its name.

Bytes go to ``<name>.part``; ``<name>.part.json`` remembers which version of which file they belong
to (address, ETag, Last-Modified), so that a broken transfer goes on where it stopped, and starts
anew when the file on the server is another one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from .formats import text_page

RETRIES = 3  # failures in a row without a single new byte
BACKOFF = 0.5  # seconds before the first retry, doubled each time
TIMEOUT = (10, 30)  # seconds to connect, and between two pieces of data
_CHUNK = 16 << 10  # bytes; up to so many are lost when a transfer breaks
_PAGES = ("text/html", "application/xhtml")


class DownloadError(Exception):
    """An address does not give the file; another may. ``unreachable``: its server is not there."""

    def __init__(self, why: str, unreachable: bool = False):
        super().__init__(why)
        self.unreachable = unreachable


class _BrokenOff(Exception):
    """The transfer failed in a way that may pass: try again."""

    def __init__(self, why: str, unreachable: bool = False, restart: bool = False):
        super().__init__(why)
        self.unreachable, self.restart = unreachable, restart


def download(url: str, target: Path, size: int | None, sha256: str | None) -> None:
    """Fetch ``url`` to ``target``, going on with an earlier attempt where that is possible.

    Raises:
        DownloadError: the server cannot be reached, or what it sends is not the file.
        OSError: the file cannot be written.
    """
    part = _Part(target.with_name(f"{target.name}.part"), url, bool(sha256))
    for last in (False, True):
        resumed = _insist(part, size)
        wrong = wrong_content(part.path, size, sha256)
        if not wrong:
            os.replace(part.path, target)
            part.discard()
            return
        part.discard()
        if last or not resumed:  # pieces of two versions may have met: once more from the start
            raise DownloadError(wrong)


def wrong_content(path: Path, size: int | None, sha256: str | None) -> str | None:
    """What tells that ``path`` is not the published file; None when nothing does."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"{found} bytes instead of {size}"
    with open(path, "rb") as file:
        what = text_page(file.read(512)) if found else "an empty file"
        if what:
            return f"{what} instead of weights"
        if sha256 and (digest := _digest(file)) != sha256.lower():
            return f"sha256 {digest[:12]}... instead of {sha256[:12].lower()}..."
    return None


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar archive so that ``target`` is its entry of that name, or its only entry, or all.

    Raises:
        DownloadError: damaged, larger than the disk, or an entry would land outside the folder.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        with tarfile.open(archive) as tar:
            needed = sum(member.size for member in tar)
            if needed > shutil.disk_usage(folder).free:
                raise DownloadError(f"unpacks to {needed} bytes, more than the disk has left")
            for member in tar:
                _extract(tar, member, folder)
        entries = list(folder.iterdir())
        named = folder / target.name
        os.replace(named if named.exists() else entries[0] if len(entries) == 1 else folder, target)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DownloadError(f"archive not unpacked: {str(error).splitlines()[0]}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one plain file or folder below ``folder``; nothing else belongs into weights.

    Not ``tarfile``'s own filter: Python 3.11.2, which Debian ships, does not have it.
    """
    path = folder / member.name
    name = Path(member.name)
    inside = not name.is_absolute() and ".." not in name.parts
    if not inside or not (member.isreg() or member.isdir()):
        raise DownloadError(
            f"archive not unpacked: {member.name} is a link, a device or lies outside the folder"
        )
    (path if member.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
    if member.isreg():
        with tar.extractfile(member) as source, open(path, "wb") as written:
            shutil.copyfileobj(source, written)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


class _Part:
    """The bytes that have arrived so far, and what they are a part of."""

    def __init__(self, path: Path, url: str, checked: bool):
        self.path, self.url, self.checked = path, url, checked
        self.note = path.with_name(f"{path.name}.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def remember(self, headers: Any) -> None:
        known = {"url": self.url}
        if not _encoded(headers):  # else offsets in the file are not offsets in the transfer
            known |= {"etag": headers.get("ETag"), "date": headers.get("Last-Modified")}
        self.note.write_text(json.dumps(known))

    def _known(self) -> dict[str, str | None]:
        try:
            known = json.loads(self.note.read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) and known.get("url") == self.url else {}

    def request(self) -> dict[str, str]:
        """Headers that ask for the rest, if it can be told that it is the rest of the same file."""
        headers = {"Accept-Encoding": "identity"}
        known = self._known()
        etag, date = known.get("etag"), known.get("date")
        if not self.size() or not (etag or date or self.checked):
            return headers
        headers["Range"] = f"bytes={self.size()}-"
        strong = etag if etag and not etag.startswith("W/") else None
        if strong or date:
            headers["If-Range"] = strong or date
        return headers

    def continues(self, headers: Any) -> bool:
        """Whether a partial answer is the rest of these bytes."""
        known = self._known()
        same = all(
            not known.get(key) or not headers.get(name) or known[key] == headers[name]
            for key, name in (("etag", "ETag"), ("date", "Last-Modified"))
        )
        return same and headers.get("Content-Range", "").startswith(f"bytes {self.size()}-")


def _insist(part: _Part, size: int | None) -> bool:
    """Transfer until all is there; returns whether that took more than one piece."""
    failures, restarts, most, resumed = 0, 0, part.size(), part.size() > 0
    while True:
        try:
            _transfer(part, size)
            return resumed
        except _BrokenOff as error:
            why = error
        resumed = resumed or part.size() > 0
        if why.restart:
            most, restarts = 0, restarts + 1
        elif part.size() > most:
            most, failures = part.size(), 0
        else:
            failures += 1
        if max(failures, restarts) >= RETRIES:
            raise DownloadError(str(why), why.unreachable)
        time.sleep(BACKOFF * 2**failures)


def _transfer(part: _Part, size: int | None) -> None:
    """One request: append what the server sends."""
    import requests

    answered = False
    try:
        with requests.get(part.url, headers=part.request(), stream=True, timeout=TIMEOUT) as answer:
            answered = True
            start = _start(part, answer)
            total = _total(answer, start)
            if size is not None and total not in (None, size):
                part.discard()
                raise DownloadError(f"the server has {total} bytes instead of {size}")
            if answer.status_code != 416:
                _receive(part, answer, start, total)
    except requests.exceptions.ConnectTimeout:
        raise DownloadError("no connection in time", unreachable=True) from None
    except requests.exceptions.SSLError:
        raise DownloadError("its certificate is not accepted", unreachable=True) from None
    except requests.exceptions.ReadTimeout:
        raise _BrokenOff("the server stopped answering") from None
    except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError):
        if not answered:
            raise _BrokenOff("no connection", unreachable=True) from None
        raise _BrokenOff(f"the transfer broke off after {part.size()} bytes") from None
    except requests.exceptions.RequestException as error:
        raise DownloadError(type(error).__name__) from None
    whole = size if total is None else total
    if whole is not None and part.size() < whole:
        raise _BrokenOff(f"the transfer broke off after {part.size()} of {whole} bytes")


def _start(part: _Part, answer: Any) -> int:
    """Where the answer's bytes belong: behind those that are there, or at the beginning."""
    if answer.status_code == 206:
        if part.continues(answer.headers):
            return part.size()
        part.discard()
        raise _BrokenOff("the file changed on the server", restart=True)
    if answer.status_code == 416 and part.size():
        if answer.headers.get("Content-Range") == f"bytes */{part.size()}":
            return part.size()  # nothing is missing
        part.discard()
        raise _BrokenOff("the file changed on the server", restart=True)
    if answer.status_code in (408, 429) or answer.status_code >= 500:
        raise _BrokenOff(f"HTTP {answer.status_code}")
    if answer.status_code != 200:
        raise DownloadError(f"HTTP {answer.status_code}")
    if answer.headers.get("Content-Type", "").startswith(_PAGES):
        raise DownloadError("a web page instead of weights")
    return 0


def _total(answer: Any, start: int) -> int | None:
    """Length of the whole file when the server tells it."""
    if answer.status_code == 416:
        return start
    length = answer.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() and not _encoded(answer.headers) else None


def _encoded(headers: Any) -> bool:
    return headers.get("Content-Encoding", "identity") != "identity"


def _receive(part: _Part, answer: Any, start: int, total: int | None) -> None:
    from tqdm import tqdm

    chunks = answer.iter_content(_CHUNK)
    first = next(chunks, b"")
    if start == 0:
        if what := text_page(first[:512]):
            raise DownloadError(f"{what} instead of weights")
        part.remember(answer.headers)
    with (
        open(part.path, "ab" if start else "wb") as file,
        tqdm(
            desc=part.path.stem, initial=start, total=total, unit="B", unit_scale=True,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):  # fmt: skip
        for chunk in itertools.chain([first], chunks):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
