# SPDX-License-Identifier: Apache-2.0
"""Frames of videos that were drawn before training, as compressed pictures in one mapped file.

A store is a folder with ``frames.bin`` (the pictures, one after the other), ``index.npz`` (where
those of each video are, and which of them each set consists of) and, while it is written,
``progress.jsonl``. It is readable once there is an index, also while videos are added: the data
file only grows, a line of progress follows the data that it names, the index is replaced last.

A video has the set ``uniform`` of 16 frames and the sets ``rand1`` to ``rand5`` of 8, each frame
squeezed to a square: what ANetQA's ClipBERT is trained on (repository MILVLG/anetqa-code).
"""

from __future__ import annotations

import itertools
import json
import os
import random
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BrokenSample, DataError
from .journal import PROGRESS, Journal, flush

SETS = {"uniform": 16} | {f"rand{k}": 8 for k in range(1, 6)}  # name -> frames
FRAMES, INDEX = "frames.bin", "index.npz"
FORMAT = "frames 1"
_ARRAYS = ("videos", "at", "first", "sizes")  # names, their bytes' start, their pictures, lengths


# which frames


def sample_indices(
    count: int, length: int, rng: random.Random | np.random.Generator | None = None
) -> list[int]:
    """One frame of each of ``count`` equal parts of a video, in order.

    Args:
        length: frames of the video. A shorter one than ``count`` gives all, the last one repeated.
        rng: draws within a part, never its last frame unless that is the only one; without it, the
            middle frame is taken.

    Source: ``sample_frames`` of the published preparation; parts of one frame are an error there.
    """
    if length < 1:
        raise ValueError(f"expected a video of 1 frame or more, found {length}")
    edges = np.linspace(0, length, min(count, length) + 1).astype(int).tolist()
    chosen = []
    for first, end in itertools.pairwise(edges):
        drawn_from = range(first, max(end - 1, first + 1))
        chosen.append((first + end - 1) // 2 if rng is None else int(rng.choice(drawn_from)))
    return chosen + chosen[-1:] * (count - len(chosen))


def sample_sets(
    video: str, length: int, seed: int = 42, names: Sequence[str] = tuple(SETS)
) -> dict[str, list[int]]:
    """Set -> frame numbers of a video; draws depend on the seed, the video and the set only."""
    drawn = {name: random.Random(f"{seed}/{video}/{name}") for name in names if name != "uniform"}
    return {name: sample_indices(SETS[name], length, drawn.get(name)) for name in names}


def squeeze(frame: np.ndarray, size: int) -> np.ndarray:
    """A frame uint8 (H, W, 3) as (size, size, 3), whatever its aspect ratio.

    A longer side is averaged, a shorter one interpolated.
    """
    import cv2

    height, width = frame.shape[:2]
    small = (min(width, size), min(height, size))
    frame = cv2.resize(frame, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR)


# reading


class FrameStore:
    """A store that was written by ``FrameWriter``; cheap to open, to fork and to send.

    Raises:
        DataError: no finished store, or a damaged one.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.about, arrays, self._sets = _read_index(self.path)
        self._videos, self._at, self._first, self._sizes = (arrays[name] for name in _ARRAYS)
        self._data = self._map()

    def _map(self) -> np.ndarray:
        path = self.path / FRAMES
        end = int((self._at + np.add.reduceat(self._sizes, self._first[:-1])).max())
        found = path.stat().st_size if path.exists() else 0
        if found < end:
            raise DataError(
                f"{path}: expected {end} bytes or more, found {found}; copy the store again, or "
                "remove the folder and make it again"
            )
        return np.asarray(np.memmap(path, np.uint8, "r"))

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return type(self), (self.path,)  # mapped files are opened again, not sent

    @property
    def size(self) -> int:
        """Height and width of all pictures."""
        return self.about["size"]

    @property
    def videos(self) -> list[str]:
        """All videos, sorted."""
        return [name.decode() for name in self._videos.tolist()]

    def __len__(self) -> int:
        return len(self._videos)

    def _row(self, video: str) -> int | None:
        name = video.encode()
        row = int(np.searchsorted(self._videos, np.array(name)))
        return row if row < len(self) and self._videos[row] == name else None

    def __contains__(self, video: str) -> bool:
        return self._row(video) is not None

    def frames(self, video: str, name: str = "uniform") -> np.ndarray:
        """A set of frames of a video, in temporal order: uint8 (n, 3, H, W), RGB.

        Args:
            name: of the set.

        Raises:
            BrokenSample: the video is not in the store, or a picture cannot be decoded.
            DataError: the store was made without this set for this video.
        """
        row = self._row(video)
        if row is None:
            raise BrokenSample(f"{self.path}: expected frames of {video}, found none")
        sets = {each: numbers[row].tolist() for each, numbers in self._sets.items()}
        there = [each for each, numbers in sets.items() if numbers[0] >= 0]
        if name not in there:
            raise DataError(
                f"{self.path}: {video}: expected the set {name}, found {', '.join(there)}; make "
                "the store with these frames (prepare.py frames --sets all)"
            )
        pictures = {number: self._picture(row, number, video) for number in set(sets[name])}
        return np.stack([pictures[number] for number in sets[name]])

    def _picture(self, row: int, number: int, video: str) -> np.ndarray:
        """One picture (3, H, W)."""
        import cv2

        sizes = self._sizes[self._first[row] : self._first[row + 1]]
        start = int(self._at[row] + sizes[:number].sum())
        data = self._data[start : start + int(sizes[number])]
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if picture is None or picture.shape != (self.size, self.size, 3):
            raise BrokenSample(
                f"{self.path / FRAMES}: {video}: expected a picture of {self.size}x{self.size} at "
                f"byte {start}, found damaged data; copy the store again"
            )
        return picture[:, :, ::-1].transpose(2, 0, 1)


def _read_index(
    folder: Path,
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """How the pictures of a store were made, its arrays, and for each set (videos, frames)."""
    path = folder / INDEX
    if not path.exists():
        found = "an unfinished one" if (folder / PROGRESS).exists() else "none"
        raise DataError(f"{folder}: expected a frame store, found {found}; run prepare.py frames")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        about = json.loads(str(arrays.pop("about")))
        sets = {name[4:]: arrays.pop(name) for name in list(arrays) if name.startswith("set_")}
        if about["format"] != FORMAT or set(arrays) != set(_ARRAYS):
            raise ValueError(f"found {about['format']}")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: expected the index of a store ({FORMAT}): {error}; make the store again"
        ) from None
    return about, arrays, sets


# writing


class FrameWriter:
    """Writes a store; goes on after a crash, and adds to a finished store. One process at a time.

    Args:
        path: folder of the store; created if need be.
        about: how pictures are made (``size``, ...); must equal that of those already there.

    Raises:
        DataError: the folder holds something else, pictures made otherwise, or is being written to.
    """

    def __init__(self, path: str | os.PathLike, about: Mapping[str, Any]):
        self.path = Path(path)
        self.about = {"format": FORMAT, **json.loads(json.dumps(about))}
        self._journal = Journal(self.path)
        try:
            self._resume()
        except BaseException:
            self._journal.close()
            raise

    def _resume(self) -> None:
        """Read what is there, drop what was cut in the middle, open both files at their ends."""
        self._entries: dict[str, dict[str, Any]] = {}
        if (self.path / INDEX).exists():
            about, arrays, sets = _read_index(self.path)
            self._require(about)
            self._entries = _entries(arrays, sets)
        self._indexed = len(self._entries)
        lines = self._journal.open("make it again")
        if lines:
            self._require(lines[0])
            self._entries.update((line["video"], line) for line in lines[1:])
        known = self._entries.values()
        self._lengths = {name: len(each) for entry in known for name, each in entry["sets"].items()}
        size = max((entry["at"] + sum(entry["sizes"]) for entry in known), default=0)
        path = self.path / FRAMES
        found = path.stat().st_size if path.exists() else 0
        if found < size or (found and not self._entries and not lines):
            raise DataError(
                f"{path}: expected {size} bytes{' or more' if size else ''}, found {found}; choose "
                "another folder, or remove it and make the store again"
            )
        if found:
            os.truncate(path, size)
        self._data = open(path, "ab")  # noqa: SIM115
        if not lines:
            self._journal.line(self.about)

    def _require(self, found: dict[str, Any]) -> None:
        for key in self.about:
            if found.get(key) != self.about[key]:
                raise DataError(
                    f"{self.path}: expected pictures with {key} {self.about[key]}, found a store "
                    f"with {found.get(key)}; choose another folder or remove it"
                )

    def __contains__(self, video: str) -> bool:
        return video in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def counts(self) -> tuple[int, int]:
        """Pictures and bytes in the store."""
        sizes = [entry["sizes"] for entry in self._entries.values()]
        return sum(map(len, sizes)), sum(map(sum, sizes))

    def add(self, video: str, pictures: Sequence[bytes], sets: Mapping[str, Sequence[int]]) -> None:
        """Add a new video; on return it is on disk.

        Args:
            pictures: encoded; equal ones are stored once.
            sets: set -> positions in ``pictures``; a set is of one length for all videos.

        Raises:
            DataError: the disk does not take it.
        """
        if video in self._entries:
            raise ValueError(f"{video} is there already")
        for name, numbers in sets.items():
            if self._lengths.setdefault(name, len(numbers)) != len(numbers):
                raise ValueError(f"{video}: expected {self._lengths[name]} frames of {name}")
        unique = list(dict.fromkeys(pictures))
        place = {picture: k for k, picture in enumerate(unique)}
        chosen = {name: [place[pictures[k]] for k in numbers] for name, numbers in sets.items()}
        entry = {"video": video, "at": self._data.tell(), "sizes": [len(p) for p in unique]}
        try:
            self._data.write(b"".join(unique))
            flush(self._data)
            self._journal.line(entry | {"sets": chosen})
        except OSError as error:
            raise DataError(f"{self.path}: cannot write: {error.strerror or error}") from None
        self._entries[video] = entry | {"sets": chosen}

    def finish(self) -> None:
        """Make what was added readable; nothing can be added afterwards.

        Raises:
            DataError: there is no video.
        """
        if not self._entries:
            raise DataError(f"{self.path}: expected at least one readable video, found none")
        if len(self._entries) > self._indexed:
            _write_index(self.path, self.about, self._entries, self._lengths)
        self._data.close()
        self._journal.remove()

    def close(self) -> None:
        """Let go of the files; what was added stays for the next writer."""
        self._data.close()
        self._journal.close()

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _entries(
    arrays: dict[str, np.ndarray], sets: dict[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """An index as lines of progress."""
    first, entries = arrays["first"], {}
    for row, name in enumerate(arrays["videos"].tolist()):
        chosen = {each: numbers[row].tolist() for each, numbers in sets.items()}
        entries[name.decode()] = {
            "video": name.decode(),
            "at": int(arrays["at"][row]),
            "sizes": arrays["sizes"][first[row] : first[row + 1]].tolist(),
            "sets": {each: numbers for each, numbers in chosen.items() if numbers[0] >= 0},
        }
    return entries


def _write_index(
    folder: Path, about: dict[str, Any], entries: Mapping[str, dict[str, Any]],
    lengths: Mapping[str, int],
) -> None:  # fmt: skip
    """Replace the index by one of these entries; videos without a set get -1 there."""
    rows = [entries[name] for name in sorted(entries, key=str.encode)]
    sets = {
        f"set_{name}": np.array([row["sets"].get(name, [-1] * n) for row in rows], np.int16)
        for name, n in lengths.items()
    }
    part = folder / f"{INDEX}.part"
    with open(part, "wb") as file:
        np.savez(
            file,
            about=np.array(json.dumps(about)),
            videos=np.array([row["video"].encode() for row in rows]),
            at=np.array([row["at"] for row in rows], np.int64),
            first=np.cumsum([0, *(len(row["sizes"]) for row in rows)]),
            sizes=np.array([size for row in rows for size in row["sizes"]], np.int64),
            **sets,
        )
        flush(file)
    os.replace(part, folder / INDEX)
