# SPDX-License-Identifier: Apache-2.0
"""ANetQA's videos -> a store of frames: every video is decoded once, by several processes.

Only this process writes, in the order of the lists, so that the store does not depend on the number
of processes, and what a killed run has written is whole.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from anetqa_questions import SPLITS, read_videos, write_text

from reader.common.errors import DataError
from reader.common.frame_store import SETS, FrameWriter, sample_sets, squeeze
from reader.common.video import Video

BROKEN = "broken.json"
ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".flv", ".gif")
WAITING = 4  # videos per process that are decoded or wait to be written
CRASHED = "its process was killed: the decoder crashed or memory ran out"

Progress = Callable[[Iterable, int | None, str], Iterable]
Pictures = tuple[list[bytes], dict[str, list[int]]]  # encoded, and their positions in each set


def make(
    folder: Path, videos: Path, out: Path, options: Mapping[str, Any], jobs: int, max_bad: int,
    accept_truncated: bool, progress: Progress,
) -> Iterator[str]:  # fmt: skip
    """Write the frames of all videos on the lists in ``folder``; gives lines to print.

    Args:
        videos: folder of the video files.
        options: size, format, quality, sets, seed.

    Raises:
        DataError: no lists, a store of other options, or more than ``max_bad`` broken videos.
    """
    if not videos.is_dir():
        raise DataError(f"--videos: expected a folder, found none at {videos}")
    wanted = wanted_sets(folder, options["sets"])
    codec = f"jpeg {options['quality']}" if options["format"] == "jpeg" else options["format"]
    about = {"size": options["size"], "codec": codec}
    about |= {"seed": options["seed"], "sets": options["sets"]}
    with FrameWriter(out, about) as store:
        files = find_videos(videos, [video for video in wanted if video not in store])
        bad = {v: f"no file {v}.mp4 in {videos}" for v, path in files.items() if path is None}
        if len(bad) == len(wanted):
            raise DataError(
                f"{videos}: expected videos such as {next(iter(bad))}.mp4, found none of {len(bad)}"
            )
        tasks = {
            video: (str(path), video, wanted[video], dict(options), accept_truncated)
            for video, path in files.items()
            if path is not None
        }
        yield f"{out}: {len(store)} videos are there, {len(tasks)} to do, {len(bad)} without a file"
        for video, pictures in progress(_in_order(tasks, jobs), len(tasks), "videos"):
            if isinstance(pictures, str):
                bad[video] = pictures
            else:
                store.add(video, *pictures)
        write_text(out / BROKEN, lambda file: json.dump(bad, file, indent=1))
        for video in list(bad)[:5]:
            yield f"broken: {video}: {bad[video]}"
        if len(bad) > max_bad:
            raise DataError(
                f"{out / BROKEN}: expected at most {max_bad} videos that cannot be used, found "
                f"{len(bad)} of {len(wanted)}; replace them and run again, or accept them with "
                f"--max_bad {len(bad)}"
            )
        pictures, size = store.counts
        store.finish()
    yield f"{out}: {len(store)} videos, {pictures} pictures, {size / 2**20:,.0f} MiB"


def wanted_sets(folder: Path, choice: str) -> dict[str, tuple[str, ...]]:
    """Video -> names of its sets, for all videos on the lists, in their order."""
    wanted: dict[str, tuple[str, ...]] = {}
    for split in SPLITS:
        needed = tuple(name for name in SETS if (name != "uniform") == (split == "train"))
        for video in read_videos(folder, split) or ():
            chosen = set(needed if choice == "split" else SETS).union(wanted.get(video, ()))
            wanted[video] = tuple(name for name in SETS if name in chosen)
    if not wanted:
        raise DataError(f"{folder}: expected video_train.json and others, found no list of videos")
    return wanted


def find_videos(folder: Path, videos: Sequence[str]) -> dict[str, Path | None]:
    """Video -> its file, by name without ending, also without the ``v_`` before YouTube's id."""
    by_stem: dict[str, Path] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            stem, ending = os.path.splitext(name)
            if ending.lower() in ENDINGS:
                by_stem.setdefault(stem, Path(place, name))
    return {video: by_stem.get(video) or by_stem.get(video.removeprefix("v_")) for video in videos}


# one video


def load(
    path: str, video: str, names: Sequence[str], options: Mapping[str, Any], accept_truncated: bool
) -> Pictures | str:
    """Encoded pictures and sets of a video, or why there are none; runs in a process of its own."""
    import cv2

    try:
        return decode(Video(path, accept_truncated), video, names, options)
    except DataError as error:
        return str(error)
    except cv2.error as error:
        return f"{path}: OpenCV failed: {str(error).strip().splitlines()[-1]}"


def decode(
    source: Video, video: str, names: Sequence[str], options: Mapping[str, Any]
) -> Pictures:
    """As ``load``; frames that cannot be reached are left out by sampling again from the others."""
    length = source.num_frames
    while length:
        sets = sample_sets(video, length, options["seed"], names)
        numbers = sorted({number for chosen in sets.values() for number in chosen})
        mask = np.zeros(numbers[-1] + 1, bool)
        mask[numbers] = True
        found = {number: encode(frame, options) for number, frame in source.stream(mask)}
        if len(found) == len(numbers):
            place = {number: k for k, number in enumerate(numbers)}
            chosen = {name: [place[k] for k in each] for name, each in sets.items()}
            return [found[number] for number in numbers], chosen
        length = sum(1 for _ in source.stream())
    raise DataError(f"{source.path}: expected a video, found one without any frame")


def encode(frame: np.ndarray, options: Mapping[str, Any]) -> bytes:
    """A frame (H, W, 3) as an encoded square picture."""
    import cv2

    parameters = {
        "jpeg": [cv2.IMWRITE_JPEG_QUALITY, options["quality"]],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, 101],  # above 100 means lossless
        "png": [],
    }[options["format"]]
    ending = {"jpeg": ".jpg"}.get(options["format"], f".{options['format']}")
    return cv2.imencode(ending, squeeze(frame, options["size"]), parameters)[1].tobytes()


# many videos


def _in_order(tasks: Mapping[str, tuple], jobs: int) -> Iterator[tuple[str, Pictures | str]]:
    """(video, what ``load`` gives) in the order of the tasks.

    When a process dies, all that were under way are lost; each of them is then tried alone, so that
    the one that kills its process is known.
    """
    waiting: deque[str] = deque()
    futures: dict[str, Future] = {}
    todo, pool = iter(tasks), _pool(jobs)
    try:
        while True:
            try:
                while len(waiting) < jobs * WAITING and (video := next(todo, None)) is not None:
                    waiting.append(video)
                    futures[video] = pool.submit(load, *tasks[video])
                if not waiting:
                    return
                result = futures.pop(waiting[0]).result()
            except BrokenProcessPool:
                pool.shutdown()
                for video in waiting:
                    yield video, _alone(tasks[video])
                waiting.clear()
                pool = _pool(jobs)
            else:
                yield waiting.popleft(), result
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(task: tuple) -> Pictures | str:
    with _pool(1) as pool:
        try:
            return pool.submit(load, *task).result()
        except BrokenProcessPool:
            return f"{task[0]}: {CRASHED}"


def _pool(jobs: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # safe with OpenCV's threads
    return ProcessPoolExecutor(jobs, context, initializer=_start)


def _start() -> None:
    """Leave the keyboard to the main process, and end with it when it is killed."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=wait, daemon=True).start()
