# SPDX-License-Identifier: Apache-2.0
"""Clips or pictures and their captions as shards, and whether samples can be used."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reader.common import shards
from reader.common.errors import BrokenSample, DataError
from reader.common.layout import find
from reader.common.mcg_frames import Frames, read_picture
from reader.common.mcg_pairs import Listed, Pair, Sharded


class Source(NamedTuple):
    """A file of lines with its folders, or shards."""

    paths: tuple[str, ...]
    videos: str | None
    images: str | None

    def open(self) -> Listed | Sharded:
        """What is there; a process opens it once.

        Raises:
            DataError: unreadable, or several files of lines.
        """
        return _opened(self)


@lru_cache(maxsize=1)
def _opened(source: Source) -> Listed | Sharded:
    if all(path.endswith(".tar") for path in source.paths):
        return Sharded(source.paths)
    if len(source.paths) > 1:
        found = ", ".join(source.paths)
        raise DataError(f"LINES: expected one file of lines, or shards (.tar), found {found}")
    return Listed(source.paths[0], source.videos, source.images)


class Shard(NamedTuple):
    """A shard to write."""

    path: str
    source: Source
    numbers: list[int]  # of the lines in it
    first: int  # number of its first sample, of all


def plan(source: Source, out: Path, samples: int, seed: int) -> list[Shard]:
    """The shards of a file of lines, which are mixed.

    Raises:
        DataError: there are shards of another file, or of other options.
    """
    lines = source.paths[0]
    order = np.random.default_rng(seed).permutation(len(source.open())).tolist()
    stat = os.stat(find(lines))
    options = [os.path.basename(lines), stat.st_size, stat.st_mtime_ns, samples, seed]
    digest = hashlib.sha256(json.dumps(options).encode()).hexdigest()
    stamp = out.with_name(f"{out.name}.stamp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if stamp.exists() and stamp.read_text(encoding="utf-8") != digest:
            raise DataError(
                f"{stamp}: expected shards of {lines} with these options, found others; choose "
                f"another --out, or remove {out}-*.tar and this file"
            )
        stamp.write_text(digest, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out}: cannot write: {error.strerror or error}") from None
    return [
        Shard(f"{out}-{k:06d}.tar", source, order[first : first + samples], first)
        for k, first in enumerate(range(0, len(order), samples))
    ]


def write(shard: Shard) -> tuple[int, list[str]]:
    """Write a shard and its index, unless they are there; its samples, and files left out.

    Raises:
        DataError: the disk does not take it, or all of its files are missing.
    """
    pairs = [shard.source.open().read(number) for number in shard.numbers]
    missing = [pair.name for pair in pairs if _is_missing(pair)]
    if len(missing) == len(pairs):
        raise DataError(f"{missing[0]}: expected files such as this, found none of a shard's "
                        f"{len(missing)}; compare --videos and --images")  # fmt: skip
    if not os.path.exists(shard.path) or shards.index(shard.path)[0]["places"][3]:  # is damaged
        part = f"{shard.path}.part"
        try:
            with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as archive:
                for number, pair in enumerate(pairs, start=shard.first):
                    if not _is_missing(pair):
                        _add(archive, f"{number:09d}", pair)
            os.replace(part, shard.path)
        except OSError as error:
            raise DataError(f"{shard.path}: cannot write: {error.strerror or error}") from None
    return len(shards.index(shard.path)) - 1, missing


def _is_missing(pair: Pair) -> bool:
    return not os.path.isfile(pair.name) or not os.path.getsize(pair.name)


def _add(archive: tarfile.TarFile, key: str, pair: Pair) -> None:
    single = len(pair.captions) == 1
    text = pair.captions[0] if single else json.dumps({"caption": pair.captions})
    member = tarfile.TarInfo(key + os.path.splitext(pair.name)[1].lower())
    member.size = os.path.getsize(pair.name)
    with open(pair.name, "rb") as file:
        archive.addfile(member, file)
    caption = tarfile.TarInfo(f"{key}.{'txt' if single else 'json'}")
    caption.size = len(text.encode())
    archive.addfile(caption, io.BytesIO(text.encode()))


def look(source: Source, decode: bool, number: int) -> str | None:
    """What is wrong with a sample; None: nothing, as far as was looked."""
    found = source.open()
    try:
        pair = found.read(number, whole=decode)
        if decode:
            _decode(pair)
        elif isinstance(found, Listed) and _is_missing(pair):
            return f"{pair.name}: expected a file, found none, or an empty one"
    except BrokenSample as error:
        return str(error)
    return None


def _decode(pair: Pair) -> None:
    """Read the first frame; raises BrokenSample."""
    if not pair.is_video:
        read_picture(pair.data, pair.name)
        return
    frames, rng = Frames("uniform", 1, 8, 8, False), np.random.default_rng(0)
    if pair.data is None:
        frames.video(pair.name, rng)
    else:
        frames.video_bytes(pair.data, pair.name, rng)
