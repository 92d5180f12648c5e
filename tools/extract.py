# SPDX-License-Identifier: Apache-2.0
"""Features of videos or sentences into a packed store.

    python tools/extract.py --extractor c3d --weights W --videos FOLDER_OR_LIST --out STORE
    python tools/extract.py --extractor clip_vit --weights W --fps 1 --videos LIST --out STORE
    python tools/extract.py --extractor skip_thoughts --weights W --sentences FILE --out STORE

Windows are named `<video file>_<start>_<end>` as TALL's are; pictures at a rate `<video>/000000`, …
by the text before a tab in the list or the file without its suffix, also where a folder of pictures
that were taken at this rate stands for a video; sentences by the text before a tab, or by their
line number. A run that was stopped goes on where it was, video by video. Several
processes share the work with `--shard 0/4` … `--shard 3/4`, or started by `python -m
paddle.distributed.launch`; their stores lie inside STORE and open together as one. Videos that
cannot be read are listed, and end the run with exit code 3 if they are more than `--max_bad`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import config, dist, log, runtime
from engine.cli import boolean
from engine.errors import ConfigError, guard
from reader.common.errors import DataError

VIDEO_SUFFIXES = {".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv"}
SENTENCES_PER_STEP = 256
SECONDS_BETWEEN_LINES = 10


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of this tool."""
    text = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser("extract.py", allow_abbrev=False, description=text[0])
    add = parser.add_argument
    add("--extractor", required=True, help="name of a file under models/extractors/")
    add("--weights", help="its published file or folder")
    add("--init_seed", type=int, help="random parameters from this seed instead of weights")
    add("-o", dest="options", action="append", default=[], metavar="key=value", help="its options")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--videos", type=Path, help="folder, or text file of one path a line")
    what.add_argument("--sentences", type=Path, help="text file: [name<tab>]sentence a line")
    add("--out", type=Path, required=True, help="folder of the store")
    add("--fps", type=float, help="pictures a second, of extractors of pictures; default: theirs")
    add("--windows", type=_lengths, default=[64, 128, 256, 512], help="lengths in frames")
    add("--batch", type=int, default=8, help="windows that are computed together")
    add("--shard", type=_shard, help="i/n: every n-th video or sentence from number i (from 0)")
    add("--max_bad", type=int, default=0, help="unreadable videos that are put up with")
    add("--accept_truncated", action="store_true", help="use what decodes of damaged videos")
    add("--use_gpu", type=boolean, help="True, False, or automatic when not given")
    return parser.parse_args(argv)


def _lengths(text: str) -> list[int]:
    lengths = [int(part) for part in text.split(",")]
    if min(lengths) < 5:
        raise argparse.ArgumentTypeError(f"expected lengths of at least 5 frames, found {text}")
    return lengths


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    shard = int(index), int(count)
    if not 0 <= shard[0] < shard[1]:
        raise argparse.ArgumentTypeError(f"expected i/n with 0 <= i < n, found {text}")
    return shard


def main() -> None:
    """Build the extractor and run it."""
    args = parse()
    runtime.prepare()
    log.setup()
    from engine import build

    runtime.select_device(args.use_gpu)
    needed = "encode" if args.sentences else "pictures" if args.fps else "positions"
    cls, options = build.extractor_class(args.extractor), _options(args)
    if needed == "positions" and hasattr(cls, "pictures"):
        needed = "pictures"
    if not hasattr(cls, needed):
        kinds = {"encode": "whole sentences", "pictures": "pictures at a rate"}
        kind = kinds.get(needed, "windows of videos")
        raise ConfigError(f"--extractor: {args.extractor} makes no features of {kind}")
    extractor = build.build_extractor(args.extractor, args.weights, args.init_seed, **options)
    shard = args.shard or (dist.rank(), dist.world_size())
    if args.sentences:
        encode(extractor, args.sentences, args.out, shard)
        return
    if hasattr(extractor, "freeze"):
        extractor.freeze(log.logger.info)
    given: dict[str, Any] = {"accept_truncated": args.accept_truncated, "max_bad": args.max_bad}
    if needed == "pictures":
        sample(extractor, list_clips(args.videos), args.out, shard, **given)
        return
    videos = list_videos(args.videos)
    extract(extractor, videos, args.out, args.windows, shard, batch=args.batch, **given)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of the extractor."""
    options = {} if args.fps is None else {"fps": args.fps}
    for item in args.options:
        key, sign, value = item.partition("=")
        if not sign:
            raise ConfigError(f"-o: expected key=value, found {item!r}")
        options[key] = config.literal(value)
    return options


def list_videos(source: Path) -> list[Path]:
    """Videos of a folder, sorted, or of a text file with one path a line.

    Raises:
        DataError: there is none, or two have the same file name.
    """
    from reader.common.text import read_lines

    if source.is_dir():
        videos = sorted(p for p in source.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
    else:
        videos = [Path(line) for _, line in read_lines(source, "video file")]
    if not videos:
        raise DataError(f"{source}: expected videos ({' '.join(sorted(VIDEO_SUFFIXES))})")
    _require_unique([video.name for video in videos], source, "file names")
    return videos


def list_clips(source: Path) -> list[tuple[str, Path]]:
    """(name, video file or folder of pictures) of a folder, sorted, or of a text file.

    A line of the text file is a path, or a name, a tab and a path. The name is else that of the
    file without its suffix. A folder without videos is one of folders of pictures.

    Raises:
        DataError: there is none, or two have the same name.
    """
    from reader.common.text import read_pairs

    if source.is_dir():
        found = sorted(p for p in source.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
        paths = found or sorted(p for p in source.iterdir() if p.is_dir())
        clips = [(path.stem if found else path.name, path) for path in paths]
    else:
        lines = [(name, Path(text)) for _, name, text in read_pairs(source, "video file")]
        clips = [(n or (p.name if p.is_dir() else p.stem), p) for n, p in lines]
    if not clips:
        raise DataError(
            f"{source}: expected videos ({' '.join(sorted(VIDEO_SUFFIXES))}) or folders of pictures"
        )
    _require_unique([name for name, _ in clips], source, "names of videos")
    return clips


def _require_unique(names: Sequence[str], source: Path, what: str) -> None:
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise DataError(f"{source}: expected different {what}, found {double[0]} twice")


def extract(
    extractor: Any,
    videos: Sequence[Path],
    out: Path,
    lengths: Sequence[int],
    shard: tuple[int, int] = (0, 1),
    *,
    batch: int = 8,
    accept_truncated: bool = False,
    max_bad: int = 0,
) -> list[Path]:
    """Features of all windows of a shard of the videos; a video enters the store as a whole.

    Returns:
        Videos that could not be read.

    Raises:
        DataError: more than `max_bad` could not; the store then stays unfinished, so that the same
            command goes on once they are mended.
    """

    def work(path: Path, writer: Any) -> str:
        windows = _one_video(extractor, path, writer, lengths, batch, accept_truncated)
        return f"{windows} windows"

    return _store(extractor, videos, out, shard, max_bad, work)


def sample(
    extractor: Any,
    clips: Sequence[tuple[str, Path]],
    out: Path,
    shard: tuple[int, int] = (0, 1),
    *,
    accept_truncated: bool = False,
    max_bad: int = 0,
) -> list[tuple[str, Path]]:
    """Features of pictures at the extractor's rate; otherwise as `extract`.

    Args:
        clips: (name, video file or folder of pictures).
    """
    from reader.common.frame_rate import picture_name, pictures_at_rate

    def work(clip: tuple[str, Path], writer: Any) -> str:
        name, path = clip
        if picture_name(name, 0) in writer:
            return "0 pictures"
        values = extractor.pictures(pictures_at_rate(path, extractor.fps, accept_truncated))
        writer.append([picture_name(name, number) for number in range(len(values))], values)
        return f"{len(values)} pictures"

    return _store(extractor, clips, out, shard, max_bad, work)


def _store(
    extractor: Any,
    items: Sequence[Any],
    out: Path,
    shard: tuple[int, int],
    max_bad: int,
    work: Callable[[Any, Any], str],
) -> list[Any]:
    """Let `work(item, writer)` add the features of a shard of the items; see `extract`."""
    from reader.common.features import FeatureWriter, shard_folder

    mine, bad = items[shard[0] :: shard[1]], []
    folder = shard_folder(out, *shard)
    with FeatureWriter(folder, extractor.dim, extractor.identity) as writer:
        progress = Progress("videos", len(mine))
        for item in log.progress(mine, desc=folder.name):
            try:
                progress.add(1, f", {work(item, writer)} in the last one")
            except DataError as error:
                log.logger.warning("left out: %s", error)
                bad.append(item)
        if len(bad) > max_bad:
            raise DataError(
                f"{len(bad)} of {len(mine)} videos cannot be read, {max_bad} are allowed: mend or "
                "remove those listed above, or raise --max_bad; then run this again"
            )
        writer.finish()
    log.logger.info("%s: %d features of %d numbers", folder, len(writer), extractor.dim)
    return bad


def _one_video(
    extractor: Any, path: Path, writer: Any, lengths: Sequence[int], batch: int, truncated: bool
) -> int:
    """Add a video's windows to the store unless they are there; returns their number."""
    import numpy as np

    from reader.common.video import Video
    from reader.common.windows import window_features, window_grid, window_name

    video = Video(path, accept_truncated=truncated)
    grid = window_grid(video.num_frames, lengths)
    names = [window_name(path.name, *window) for window in grid.tolist()]
    rows = [row for row, name in enumerate(names) if name not in writer]
    if not names:
        log.logger.warning("%s: %d frames hold no window", path, video.num_frames)
    values = np.empty((len(rows), extractor.dim), np.float32)
    for part, features in window_features(video, grid[rows], extractor, batch):
        values[part] = features
    if rows:
        writer.append([names[row] for row in rows], values)
    return len(rows)


def encode(extractor: Any, source: Path, out: Path, shard: tuple[int, int] = (0, 1)) -> None:
    """Vectors of a shard of the sentences of a text file.

    Raises:
        DataError: the file, or two sentences with the same name.
    """
    from reader.common.features import FeatureWriter, shard_folder
    from reader.common.text import read_pairs

    pairs = [(name or f"{line:08d}", text) for line, name, text in read_pairs(source, "sentence")]
    _require_unique([name for name, _ in pairs], source, "names of sentences")
    folder = shard_folder(out, *shard)
    with FeatureWriter(folder, extractor.dim, extractor.identity) as writer:
        todo = [pair for pair in pairs[shard[0] :: shard[1]] if pair[0] not in writer]
        progress = Progress("sentences", len(todo))
        for first in log.progress(range(0, len(todo), SENTENCES_PER_STEP), desc=folder.name):
            names, texts = zip(*todo[first : first + SENTENCES_PER_STEP], strict=True)
            writer.append(names, extractor.encode(texts))
            progress.add(len(names))
        writer.finish()
    log.logger.info("%s: %d vectors of %d numbers", folder, len(writer), extractor.dim)


class Progress:
    """A log line every few seconds."""

    def __init__(self, what: str, total: int):
        self._what, self._total, self._done = what, total, 0
        self._started = self._said = time.monotonic()

    def add(self, count: int, note: str = "") -> None:
        """Count work as done."""
        self._done += count
        now = time.monotonic()
        if now - self._said > SECONDS_BETWEEN_LINES:
            self._said = now
            left = (now - self._started) / self._done * (self._total - self._done)
            log.logger.info(
                "%d of %d %s%s, %.0f s left", self._done, self._total, self._what, note, left
            )


if __name__ == "__main__":
    guard(main)
