# SPDX-License-Identifier: Apache-2.0
"""Video decoding for the whole toolkit, by OpenCV: frames by their exact number, in decoding order.

Every frame up to the last wanted one is decoded (`grab`), only wanted ones become pictures
(`retrieve`). Seeking replaces that when few frames of a long video are wanted and the time stamps
prove where it lands. Containers may lie about their number of frames: the packets are counted,
which takes no decoding, and the frames themselves where the two disagree.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .errors import DataError

SEEK_GAP = 300  # frames between two wanted ones from which on seeking is cheaper


class _Packets(NamedTuple):
    """What a pass over the file without decoding tells."""

    count: int
    stated: int  # the container's own number of frames, 0 if it has none
    times: np.ndarray  # milliseconds of every packet, in order of presentation


class Video:
    """A video file.

    Args:
        path: the file.
        accept_truncated: take what can be decoded of a file that was cut short or damaged, instead
            of raising an error.

    Raises:
        DataError: missing, empty, unreadable or without any frame; later, from the members, a file
            that holds fewer frames than it says.
    """

    def __init__(self, path: str | os.PathLike, accept_truncated: bool = False):
        self.path = str(path)
        self.accept_truncated = accept_truncated
        if not os.path.isfile(self.path):
            kind = "a folder" if os.path.isdir(self.path) else "nothing"
            raise DataError(f"{self.path}: expected a video file, found {kind}")
        if not os.path.getsize(self.path):
            raise DataError(f"{self.path}: expected a video file, found an empty one (0 bytes)")
        with _Capture(self.path) as capture:
            if not capture.grab():
                raise DataError(f"{self.path}: expected a video, found one without any frame")
            frame = capture.retrieve(self.path, 0)
            self.fps = capture.fps()
        self.height, self.width = frame.shape[:2]

    @functools.cached_property
    def num_frames(self) -> int:
        """Number of frames that decode. Raises DataError for a file that was cut short."""
        packets = self._packets
        edited = not packets.count or packets.times[0] < -0.5  # leading frames are not shown
        if packets.count == packets.stated and not edited:
            return packets.count
        with _Capture(self.path) as capture:
            found = 0
            while capture.grab():
                found += 1
        if self._ends_early() and not self.accept_truncated:
            raise self._cut_short(packets.stated, found)
        return found

    @functools.cached_property
    def times(self) -> np.ndarray:
        """When each frame is shown, ascending seconds from the first one: float64 [num_frames].

        Even distances where the time stamps are as good as that, which are rounded in many
        containers, and where they do not tell.

        Raises:
            DataError: the video does not tell its rate.
        """
        if not self.fps:
            raise DataError(
                f"{self.path}: expected a video with a frame rate, found none; convert it"
            )
        even, found = np.arange(self.num_frames) / self.fps, self._packets.times / 1000
        if len(found) != len(even) or not np.all(np.diff(found) > 0):
            return even
        found = found - found[0]
        return found if np.abs(found - even).max() > 0.5 / self.fps else even

    def stream(self, wanted: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(index, frame uint8 [H, W, 3] BGR) in order, decoding once from the start.

        Args:
            wanted: bool [num_frames or fewer], which frames to give; all of them by default.

        Raises:
            DataError: the video ends before its last (wanted) frame, unless accept_truncated.
        """
        if wanted is None:
            total = self.num_frames
        else:
            total = int(np.flatnonzero(wanted).max(initial=-1)) + 1
        with _Capture(self.path) as capture:
            for index in range(total):
                if not capture.grab():
                    if self.accept_truncated:
                        return
                    raise self._cut_short(max(self.num_frames, total), index)
                if wanted is None or wanted[index]:
                    yield index, capture.retrieve(self.path, index)

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Chosen frames in the order of `indices`, which may repeat: uint8 [n, H, W, 3] BGR.

        Raises:
            DataError: an index outside the video, or the video ends before it.
        """
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        if not indices.size:
            return np.zeros((0, self.height, self.width, 3), np.uint8)
        if indices.min() < 0 or indices.max() >= self.num_frames:
            bad = indices[(indices < 0) | (indices >= self.num_frames)][0]
            raise DataError(f"{self.path}: expected frames 0 to {self.num_frames - 1}, found {bad}")
        unique, places = np.unique(indices, return_inverse=True)
        gaps = np.diff(unique, prepend=-1)
        found = self._seek(unique) if gaps.max() > SEEK_GAP else None
        if found is None:
            wanted = np.zeros(unique[-1] + 1, bool)
            wanted[unique] = True
            found = [frame for _, frame in self.stream(wanted)]
        if len(found) < len(unique):
            raise self._cut_short(int(unique[-1]) + 1, int(unique[len(found)]))
        return np.stack(found)[places.reshape(-1)]

    def _seek(self, unique: np.ndarray) -> list[np.ndarray] | None:
        """The frames of increasing `unique`, jumping over gaps; None if a landing is in doubt.

        A frame is known by its time stamp, hence only where all of them are known and differ.
        """
        times = self._packets.times
        if len(times) != self.num_frames or not np.all(np.diff(times) > 0.5):
            return None
        found, position = [], 0
        with _Capture(self.path) as capture:
            for index in unique:
                if index - position > SEEK_GAP:
                    capture.seek(int(index))
                    position = int(index)
                for _ in range(int(index) - position + 1):
                    if not capture.grab():
                        return None
                position = int(index) + 1
                if abs(capture.time() - times[index]) > 0.5:
                    return None
                found.append(capture.retrieve(self.path, int(index)))
        return found

    @functools.cached_property
    def _packets(self) -> _Packets:
        with _Capture(self.path, packets=True) as capture:
            stated, times = capture.stated_frames(), []
            while capture.grab():
                times.append(capture.time())
        return _Packets(len(times), stated, np.sort(np.array(times)))

    def _ends_early(self) -> bool:
        """Whether packets are missing at the end.

        MP4 and AVI count their frames. Others state a duration, from which OpenCV makes a number
        of frames, and which sound may stretch: there the last picture must be much too early.
        """
        packets = self._packets
        with open(self.path, "rb") as file:
            head = file.read(12)
        if head[4:8] == b"ftyp" or (head[:4], head[8:]) == (b"RIFF", b"AVI "):
            return packets.count < packets.stated
        duration = packets.stated / (self.fps or np.inf)
        last = packets.times[-1] / 1000 if packets.count else 0.0
        return last < duration - max(1.0, 0.03 * duration)

    def _cut_short(self, expected: int, found: int) -> DataError:
        return DataError(
            f"{self.path}: expected {expected} frames, found {found}: the file is cut short or "
            "damaged; copy it again, or accept what is there with accept_truncated"
        )


class _Capture:
    """cv2.VideoCapture as a context, quiet; `packets` reads them without decoding."""

    def __init__(self, path: str, packets: bool = False):
        cv2 = _cv2()
        # an absolute path, so that FFmpeg takes no part of it for a protocol
        self._capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise DataError(
                f"{path}: expected a video, found no readable picture stream (audio only, "
                "cut short, damaged, or another kind of file)"
            )
        if packets:
            self._capture.set(cv2.CAP_PROP_FORMAT, -1)
        self.grab = self._capture.grab

    def retrieve(self, path: str, index: int) -> np.ndarray:
        ok, frame = self._capture.retrieve()
        if not ok:
            raise DataError(f"{path}: frame {index} cannot be decoded; convert the file again")
        return frame

    def fps(self) -> float:
        rate = float(self._capture.get(_cv2().CAP_PROP_FPS))
        return rate if np.isfinite(rate) and rate > 0 else 0.0

    def stated_frames(self) -> int:
        count = self._capture.get(_cv2().CAP_PROP_FRAME_COUNT)
        return int(count) if np.isfinite(count) and 0 < count < 1 << 31 else 0

    def time(self) -> float:
        return float(self._capture.get(_cv2().CAP_PROP_POS_MSEC))

    def seek(self, index: int) -> None:
        self._capture.set(_cv2().CAP_PROP_POS_FRAMES, index)

    def __enter__(self) -> _Capture:
        return self

    def __exit__(self, *_: Any) -> None:
        self._capture.release()


@functools.lru_cache(maxsize=1)
def _cv2() -> Any:
    """OpenCV without the decoder's own messages on stderr; ours name the file and the reason."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
