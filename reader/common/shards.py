# SPDX-License-Identifier: Apache-2.0
"""Shards in WebDataset's form: tar files of samples, each a clip or picture and its caption.

Members of a sample follow one another and have one name up to the first point: ``0001.mp4`` and
``0001.txt``, or ``0001.json`` with one ``caption`` or a list of them (as video2dataset and
img2dataset write them). A shard is looked through once; where its samples are is kept in a file
beside it. After that a sample is one read at a known place, so that any order, process and position
costs the same; orders stay near the one in the file, so that a shard is read from front to end.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .errors import BrokenSample, DataError
from .layout import find

logger = logging.getLogger("vlzoo")

VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_TEXTS = (".txt", ".json")
_FORMAT = 1  # of an index
_OPEN = 8  # shards that a process keeps open
_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20  # bytes read at a time
_NOTHING = (0, -1)
_TOLD = 3  # damaged places of a shard that are named


class Sample(NamedTuple):
    """A clip or picture and its caption."""

    name: str  # shard and key, for messages
    ending: str  # of the clip or picture, such as .mp4
    data: bytes  # content of its file
    captions: list[str]


def expand(patterns: str | Sequence[str]) -> list[str]:
    """Paths of patterns such as ``train-{000000..000099}.tar`` and ``train-*.tar``.

    Raises:
        DataError: nothing is there.
    """
    paths: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = []
        for text in _numbered(pattern):
            folder, name = os.path.split(text)
            here = str(find(folder or "."))
            found += sorted(glob.glob(os.path.join(here, name))) or [os.path.join(here, name)]
        if missing := next((p for p in found if not os.path.isfile(p)), None):
            raise DataError(f"shards: expected tar files at {pattern}, found no {missing}")
        paths += found
    return paths


def _numbered(pattern: str) -> list[str]:
    """``a-{08..10}`` as a-08, a-09, a-10."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        return [pattern]
    width, first, end = len(match[1]), int(match[1]), int(match[2]) + 1
    return [f"{pattern[: match.start()]}{k:0{width}d}{rest}"
            for k in range(first, end) for rest in _numbered(pattern[match.end() :])]  # fmt: skip


# where the samples of a shard are


class _Found(NamedTuple):
    """Places are (first byte, size) in the file; a size of -1: there is none, or not all of it."""

    key: str
    ending: str  # of the clip or picture; "": there is none
    media: tuple[int, int]
    is_json: bool  # is the caption in JSON?
    text: tuple[int, int]


def scan(path: str | os.PathLike) -> tuple[list[_Found], str]:
    """Samples of a tar file in their order, and what is wrong with the file ("": nothing).

    Behind a damaged place it goes on at the next member that can be read.

    Raises:
        DataError: no tar file, or one without samples.
    """
    samples: list[_Found] = []
    key, parts, damage = "", {}, []
    for name, start, size in _members(path, damage):
        folder, base = os.path.split(name)
        stem, _, ending = base.partition(".")
        if not stem or not ending:
            continue
        stem, ending = os.path.join(folder, stem), f".{ending.lower()}"
        if stem != key or ending in parts:
            samples += _sample(key, parts)
            key, parts = stem, {}
        parts[ending] = (start, size)
    samples += _sample(key, parts)
    if not samples:
        raise DataError(
            f"{path}: expected a tar file with clips or pictures and captions, found "
            f"{damage[0] if damage else 'none'}"
        )
    return samples, "; ".join(damage[:_TOLD])


def _sample(key: str, parts: dict[str, tuple[int, int]]) -> Iterator[_Found]:
    """The sample of members that belong together, unless there is nothing of one."""
    media = next((ending for ending in (*VIDEOS, *IMAGES) if ending in parts), "")
    text = next((ending for ending in _TEXTS if ending in parts), "")
    if media or text:
        clip, caption = parts.get(media, _NOTHING), parts.get(text, _NOTHING)
        yield _Found(key, media, clip, text == ".json", caption)


def _members(path: str | os.PathLike, damage: list[str]) -> Iterator[tuple[str, int, int]]:
    """(name, first byte, size) of the files in a tar file; tells what is wrong in ``damage``."""
    end = 0  # of the last member, padding included
    try:
        length = os.path.getsize(path)
        with open(path, "rb") as file, tarfile.open(path, "r:", ignore_zeros=True) as archive:
            while member := _next(archive):
                if _is_damaged(file, end, member.offset):
                    damage.append(f"{member.offset - end} unreadable bytes from byte {end} on")
                size = member.size if member.isreg() else 0
                end = member.offset_data + -(-size // _BLOCK) * _BLOCK
                whole = member.offset_data + size <= length
                if member.isreg():
                    yield member.name, member.offset_data, size if whole else -1
                archive.members.clear()  # else it keeps them all
            if length < end + 2 * _BLOCK or _is_damaged(file, end, length):
                damage.append(f"no end of the archive behind byte {min(end, length)} of {length}")
    except tarfile.TarError as error:
        raise DataError(f"{path}: expected a tar file, found another one ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member; None at the end, also of a file that is cut short."""
    try:
        return archive.next()
    except tarfile.ReadError:
        return None


def _is_damaged(file: BinaryIO, first: int, end: int) -> bool:
    """Is there something else than zeros between two places?"""
    file.seek(first)
    while first < end:
        block = file.read(min(_CHUNK, end - first))
        if block.strip(b"\0") or not block:
            return bool(block)
        first += len(block)
    return False


# indices


def index(path: str) -> np.ndarray:
    """Where the samples of a shard are: from the file beside it, which is made where need be.

    The first row tells of the shard itself: its size, when it was changed, whether it is damaged.

    Raises:
        DataError: no tar file, or neither its folder nor the cache can be written to.
    """
    about = os.stat(path)
    stamp = [_FORMAT, about.st_size, about.st_mtime_ns]
    for place in _index_places(path):
        rows = _read_index(place)
        if rows is not None and rows[0]["places"][:3].tolist() == stamp:
            return rows
    samples, damage = scan(path)
    if damage:
        logger.warning("%s: %s; %d samples are found", path, damage, len(samples))
    keys = [sample.key.encode(errors="surrogateescape") for sample in samples]
    rows = np.zeros(1 + len(samples), _row_type(max(map(len, keys))))
    rows[0]["places"] = (*stamp, bool(damage))
    for row, key, sample in zip(rows[1:], keys, samples, strict=True):
        row["key"], row["ending"], row["is_json"] = key, sample.ending.encode(), sample.is_json
        row["places"] = (*sample.media, *sample.text)
    _write_index(path, rows)
    return rows


def _row_type(key: int) -> np.dtype:
    return np.dtype([("places", "<i8", 4), ("is_json", "?"), ("ending", "S5"), ("key", f"S{key}")])


def _index_places(path: str) -> list[Path]:
    """Beside the shard, or else in the cache."""
    base = os.environ.get("VLZOO_HOME") or Path.home() / ".paddle"
    name = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:32]
    return [Path(f"{path}.index.npy"), Path(base) / "shards" / f"{name}.npy"]


def _read_index(path: Path) -> np.ndarray | None:
    """An index, mapped from the disk; None if there is none or it is damaged."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        width = rows.dtype["key"].itemsize
        return rows if rows.ndim == 1 and len(rows) and rows.dtype == _row_type(width) else None
    except (OSError, EOFError, ValueError, KeyError):
        return None


def _write_index(path: str, rows: np.ndarray) -> None:
    problem = None
    for place in _index_places(path):
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                np.save(file, rows)
            os.replace(part, place)
            return
        except OSError as error:
            problem = error
    raise DataError(f"{part}: cannot write the index of {path}: {problem.strerror or problem}")


# samples


class Shards:
    """Samples of all shards of some patterns, numbered in their order.

    Cheap to fork and to send: what is kept of a shard is the number of its samples; files that are
    read from are opened when needed.

    Raises:
        DataError: a shard is missing or no tar file.
    """

    def __init__(self, patterns: str | Sequence[str]):
        self.paths = expand(patterns)
        rows = map(index, self.paths)
        counts, damaged = zip(*((len(r) - 1, bool(r[0]["places"][3])) for r in rows), strict=True)
        self._first = np.cumsum([0, *counts])
        if any(damaged):
            logger.warning(
                "%d of %d shards are damaged, such as %s; copy them again; the rest is used",
                sum(damaged), len(damaged), self.paths[damaged.index(True)],
            )  # fmt: skip
        self._open: OrderedDict[int, tuple[BinaryIO, np.ndarray]] = OrderedDict()

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def order(self, rng: np.random.Generator, buffer: int) -> np.ndarray:
        """All samples once, shards in random order, and samples among ``buffer`` neighbours."""
        counts = np.diff(self._first)
        shards = rng.permutation(len(counts))
        sizes = counts[shards]
        places = np.arange(len(self))
        numbers = places + np.repeat(self._first[shards] - np.cumsum(sizes) + sizes, sizes)
        return numbers[np.argsort(places // buffer + rng.random(len(self)))]

    def read(self, number: int, whole: bool = True) -> Sample:
        """A sample, or only what it is called and its caption.

        Raises:
            BrokenSample: it is damaged or incomplete.
        """
        shard = int(np.searchsorted(self._first, number, "right")) - 1
        file, rows = self._opened(shard)
        row = rows[1 + number - self._first[shard]]
        name = f"{self.paths[shard]}: {row['key'].decode(errors='replace')}"
        media, size, text, length = row["places"].tolist()
        if size < 0 or length < 0:
            what = "clip or picture" if size < 0 else "caption"
            raise BrokenSample(f"{name}: expected a whole {what}, found none")
        size *= whole
        data, caption = (os.pread(file.fileno(), *at) for at in ((size, media), (length, text)))
        if len(data) < size or len(caption) < length:
            raise DataError(f"{self.paths[shard]}: was cut short while it is in use; start again")
        texts = _captions(caption, bool(row["is_json"]), name)
        return Sample(name, row["ending"].decode(), data, texts)

    def _opened(self, shard: int) -> tuple[BinaryIO, np.ndarray]:
        """A shard's file and index; the ones that were used last are kept."""
        if shard not in self._open:
            path = self.paths[shard]
            try:
                self._open[shard] = open(path, "rb", buffering=0), np.array(index(path))  # noqa: SIM115
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        self._open.move_to_end(shard)
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)[1][0].close()
        return self._open[shard]


def _captions(data: bytes, is_json: bool, name: str) -> list[str]:
    try:
        texts = json.loads(data)["caption"] if is_json else data.decode()
        texts = texts if isinstance(texts, list) else [texts]
        if texts and all(isinstance(text, str) for text in texts):
            return texts
    except (ValueError, KeyError, TypeError):
        pass
    raise BrokenSample(f"{name}: expected a caption as text, found {data[:40]!r}")
