# SPDX-License-Identifier: Apache-2.0
"""Pictures of the 3 fps grid of TVQA+: frame i (from 1) is what a video shows at second i / 3."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import DataError
from .layout import find
from .video import Video

_ENDINGS = (".mp4", ".mkv", ".avi", ".webm", ".mov")


def grid_length(video: Video, fps: int = 3) -> int:
    """Number of frames of a video on the grid.

    Raises:
        DataError: the video does not tell its rate.
    """
    if not video.fps:
        raise DataError(f"{video.path}: expected a video with a frame rate, found none; convert it")
    return max(1, int(video.num_frames * fps / video.fps))


def grid_numbers(video: Video, ids: Sequence[int] | np.ndarray, fps: int = 3) -> np.ndarray:
    """Numbers (from 0) of the video's own frames that the grid's frames ``ids`` (from 1) show."""
    numbers = np.rint(np.asarray(ids) * video.fps / fps).astype(np.int64)
    return np.minimum(numbers, video.num_frames - 1)


class Pictures:
    """Frames of clips.

    Args:
        folder: holds ``<clip>.mp4`` (or another video), or ``<clip>/00001.jpg`` and so on.
    """

    def __init__(self, folder: str | os.PathLike | None, fps: int = 3):
        self._folder, self._fps = folder, fps
        self._own: dict[str, str] = {}

    def add(self, name: str, video: str) -> None:
        """Give a clip's video file."""
        self._own[name] = video

    def read(self, name: str, ids: Sequence[int]) -> list[np.ndarray] | None:
        """RGB frames (H, W, 3) uint8 by their numbers on the grid; None for an unknown clip.

        Raises:
            DataError: a damaged video, or a frame is missing.
        """
        path = Path(self._own[name]) if name in self._own else self._find(name)
        if path is None:
            return None
        if path.is_dir():
            return [_read_picture(path / f"{i:05d}.jpg") for i in ids]
        video = Video(path)
        frames = video.frames(grid_numbers(video, ids, self._fps))
        return list(np.ascontiguousarray(frames[..., ::-1]))

    def _find(self, name: str) -> Path | None:
        if self._folder is None:
            return None
        base = find(self._folder) / name
        found = (base.with_name(base.name + ending) for ending in _ENDINGS)
        return next((p for p in (base, *found) if p.exists()), None)


def _read_picture(path: Path) -> np.ndarray:
    import cv2

    picture = cv2.imread(str(path))
    if picture is None:
        raise DataError(f"{path}: expected a picture, found nothing readable")
    return np.ascontiguousarray(picture[..., ::-1])
