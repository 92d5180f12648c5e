# SPDX-License-Identifier: Apache-2.0
"""The frames that ClipBERT sees of a video: from a video file, a frame store, or a single image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .clips import choose_clips
from .errors import BrokenSample, DataError
from .frame_store import FrameStore, sample_indices, squeeze
from .images import is_extreme, read_image
from .layout import find
from .video import Video

_KINDS = {  # what a folder holds, and its files' endings; the first one that is there wins
    "videos": ("videos", (".mp4", ".mkv", ".avi", ".webm", ".mov", ".gif")),
    "images": ("pictures", (".jpg", ".jpeg", ".png", ".bmp", ".webp")),
}
_RANDOM_SETS = 5  # of a frame store


class Files:
    """Files of a folder and of the folders in it, by their names without ending.

    Args:
        option: "videos" or "images".

    Raises:
        DataError: no such folder.
    """

    def __init__(self, folder: str, option: str):
        self._folder, self._option = find(folder), option
        self._what, self._endings = _KINDS[option]
        if not self._folder.is_dir():
            raise DataError(
                f"{option}: expected a folder of {self._what} at {folder}, found none; change "
                f"DATASET.{option}"
            )

    @cached_property
    def _paths(self) -> dict[str, str]:
        rank = {ending: k for k, ending in enumerate(self._endings)}
        found: dict[str, tuple[int, str]] = {}
        for place, _, names in os.walk(self._folder, followlinks=True):
            for name in names:
                stem, ending = os.path.splitext(name)
                if (order := rank.get(ending.lower())) is not None:
                    entry = order, os.path.join(place, name)
                    found[stem] = min(found.get(stem, entry), entry)
        return {stem: path for stem, (_, path) in found.items()}

    def require_any(self, names: Sequence[str]) -> None:
        """Raises DataError if there is nothing for any of these names."""
        if not any(name in self._paths for name in names):
            raise DataError(
                f"{self._folder}: expected {self._what} such as {names[0]}, found none of "
                f"{len(names)}; compare the names, or change DATASET.{self._option}"
            )

    def get(self, name: str) -> str:
        """Path of a name's file; raises BrokenSample if there is none."""
        if name not in self._paths:
            endings = ", ".join(self._endings)
            raise BrokenSample(f"{self._folder}: expected {name} ({endings}), found none")
        return self._paths[name]


class Sampling(NamedTuple):
    """How frames of a video are chosen."""

    parts: bool  # one frame of each of equal parts of the video (ANetQA), else clips
    training: bool
    num_frm: int  # frames of a clip
    n_clips: int
    fps: float  # frames per second in a clip
    random: bool  # clips, or frames within parts
    middle: bool  # if there is one clip that is not random: is it the second third's or the first?

    def indices(self, video: Video, rng: Any) -> list[int]:
        """Numbers of a video's frames, one clip after the other."""
        if self.parts:
            count = self.num_frm * self.n_clips
            return sample_indices(count, video.num_frames, rng if self.random else None)
        clips, of = list(range(self.n_clips)), self.n_clips
        if self.random:
            clips, of = [rng.random() for _ in clips], 1
        elif self.middle and of == 1:
            clips, of = [1], 3
        return choose_clips(video.times, video.fps, self.fps, self.num_frm, clips, of)


class Frames:
    """Frames of videos or images.

    Args:
        option: what ``folder`` is, "videos" or "images"; a video frame is chosen by ``sampling``.
        store: frame store instead of ``folder``, for ``sampling.parts``.
        size: height and width that frames are squeezed to as in a store, without one.
    """

    def __init__(
        self, sampling: Sampling, option: str, folder: str | None, store: str | None, size: int
    ):
        self._sampling, self._option, self._size = sampling, option, size
        self._folder, self._path = folder, store
        self._own: dict[str, str] = {}

    @cached_property
    def _store(self) -> FrameStore | None:
        return None if self._path is None else FrameStore(find(self._path))

    @cached_property
    def _files(self) -> Files | None:
        return None if self._folder is None else Files(self._folder, self._option)

    def open(self, names: Sequence[str]) -> None:
        """Open what frames are read from.

        Raises:
            DataError: there is nothing, or nothing for any of these names.
        """
        if self._store is None and self._files is None:
            option = self._option
            raise DataError(f"{option}: expected a folder's path, found none; set DATASET.{option}")
        if self._store is None:
            self._files.require_any(names)
        elif not any(name in self._store for name in names):
            raise DataError(
                f"{self._path}: expected frames of videos such as {names[0]}, found none of "
                f"{len(names)}; compare the names, or change DATASET.store"
            )

    def read(self, name: str, rng: Any) -> np.ndarray:
        """Frames of a video or image by its name: uint8 (F, 3, H, W), RGB, clip after clip.

        Raises:
            BrokenSample: missing or unreadable, or, in training, extremely long and thin.
        """
        if self._store is not None:
            return self._read_store(name, rng)
        return self.read_file(self._files.get(name), rng)

    def _read_store(self, name: str, rng: Any) -> np.ndarray:
        count = self._sampling.num_frm * self._sampling.n_clips
        random = rng if self._sampling.random else None
        kind = f"rand{rng.integers(_RANDOM_SETS) + 1}" if random else "uniform"
        frames = self._store.frames(name, kind)
        if len(frames) < count:
            raise DataError(
                f"{self._path}: expected {count} frames (n_clips x num_frm), found "
                f"{len(frames)} in the set {kind}; change n_clips or num_frm"
            )
        return frames[sample_indices(count, len(frames), random)]

    def read_file(self, path: str, rng: Any) -> np.ndarray:
        """As ``read``, of a file."""
        if self._option == "images":
            return self._checked(path, read_image(path)[None])
        try:
            video = Video(path, accept_truncated=True)
            frames = video.frames(self._sampling.indices(video, rng))  # (F, H, W, 3) BGR
        except DataError as error:
            raise BrokenSample(str(error)) from None
        if self._sampling.parts:
            frames = np.stack([squeeze(frame, self._side) for frame in frames])
        return self._checked(path, np.ascontiguousarray(frames[..., ::-1].transpose(0, 3, 1, 2)))

    @property
    def _side(self) -> int:
        given = self._path is not None and find(self._path).exists()
        return self._store.size if given else self._size

    def _checked(self, path: str, frames: np.ndarray) -> np.ndarray:
        height, width = frames.shape[2:]
        if self._sampling.training and is_extreme(height, width):
            raise BrokenSample(
                f"{path}: expected a picture whose longer side is at most 5 times the other, for "
                f"training, found {width} x {height}"
            )
        return frames

    def add(self, name: str, path: str) -> None:
        """Give the file of a video's pictures."""
        self._own[name] = path

    def seen(self, name: str, rng: Any) -> np.ndarray | None:
        """What is read of a video or picture, (F, H, W, 3) RGB; None if it is broken."""
        path = self._own.get(name)
        try:
            frames = self.read_file(path, rng) if path else self.read(name, rng)
        except BrokenSample:
            return None
        return frames.transpose(0, 2, 3, 1)
