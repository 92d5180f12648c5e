# SPDX-License-Identifier: Apache-2.0
"""From annotations and raw videos to the files that TALL reads.

    python data/dataset/tall/prepare.py --annotations DIR --videos DIR --out DIR --config C
    python data/dataset/tall/prepare.py pack SRC DST       # folder of .npy windows -> one file
    python data/dataset/tall/prepare.py infer --sentences PKL --windows DIR --out DIR
    python data/dataset/tall/prepare.py counts --annotations DIR

Every step goes on where an interrupted run stopped, and leaves alone what is complete.
README.md beside this file describes the layout.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE), str(ROOT)]

from engine.errors import ConfigError, guard  # noqa: E402
from reader.common.errors import DataError  # noqa: E402

COMMANDS = ("make", "pack", "infer", "counts")
VIDEO_ENDINGS = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".m4v", ".mpg")
SECONDS_BETWEEN_LINES = 10
SENTENCES_PER_STEP = 64


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; ``make`` is meant when no command is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    make = commands.add_parser("make", help="all files of a data set (default)")
    for command in (make, commands.add_parser("counts", help="count videos and sentences")):
        command.add_argument("--annotations", type=Path, required=True, help="folder")
        command.add_argument("--format", choices=("tacos", "charades"), help="default: by names")
    make.add_argument("--videos", type=Path, help="folder of video files; without: sentences only")
    make.add_argument("--out", type=Path, required=True, help="output folder")
    make.add_argument("--config", required=True, help="YAML file with DATASET.extractors")
    make.add_argument("--train_lengths", type=_lengths, default=(64, 128, 256, 512), metavar="N,N",
                      help="frames of training windows (default 64,128,256,512)")  # fmt: skip
    make.add_argument("--test_lengths", type=_lengths, default=(128, 256), metavar="N,N",
                      help="frames of validation and test windows (default 128,256)")  # fmt: skip
    make.add_argument("--fps", type=float, help="frame rate, for seconds without --videos")
    make.add_argument("--batch", type=int, default=16, help="windows per step (default 16)")
    pack = commands.add_parser("pack", help="folder of .npy windows -> memory-mapped store")
    pack.add_argument("source", type=Path, metavar="SRC")
    pack.add_argument("store", type=Path, metavar="DST")
    infer = commands.add_parser("infer", help="prediction data: the first video of a test set")
    infer.add_argument("--sentences", type=Path, required=True, help="test_clip-sentvec.pkl")
    infer.add_argument("--windows", type=Path, required=True, help="folder or store of windows")
    infer.add_argument("--out", type=Path, required=True, help="folder to write, e.g. .../infer")
    argv = list(argv)
    if argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help"):
        argv.insert(0, "make")
    return parser.parse_args(argv)


def _lengths(text: str) -> tuple[int, ...]:
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        lengths = ()
    if not lengths or min(lengths) < 16:
        raise argparse.ArgumentTypeError(f"expected frames from 16 such as 64,128, found {text!r}")
    return lengths


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command."""
    args = parse(sys.argv[1:] if argv is None else argv)
    {"make": make, "pack": pack, "infer": infer, "counts": counts}[args.command](args)


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def counts(args: argparse.Namespace) -> Any:
    """Print and return the annotations' counts."""
    import tall_annotations

    found = tall_annotations.read(args.annotations, args.format)
    for line in found.counts():
        say(line)
    return found


def pack(args: argparse.Namespace) -> None:
    """Pack a folder of ``.npy`` windows."""
    from reader.common import features

    features.pack(args.source, args.store)
    store = features.open_features(args.store)
    say(f"{args.store}: {len(store.names)} windows of {store.dim} numbers")


# make


def make(args: argparse.Namespace) -> None:
    """Sentence files, window features, lengths, prediction data."""
    from engine import build, config, log, runtime

    log.setup()
    found = counts(args)
    options = config.load(args.config)["DATASET"]["extractors"]
    runtime.prepare()
    runtime.import_paddle()
    files = video_files(args.videos, found.videos(*found.splits)) if args.videos else {}
    info = video_lengths(found, files, args.fps)
    args.out.mkdir(parents=True, exist_ok=True)
    write_lengths(args.out, info)
    for role in ("text", "visual") if args.videos else ("text",):
        if role not in options:
            raise ConfigError(f"{args.config}: DATASET.extractors: expected {role}, found none")
    text = build.build_extractor(**options["text"])
    for split, sentences in found.splits.items():
        path = args.out / f"{split}_clip-sentvec.pkl"
        encode(path, names_of(found, sentences, info), [s.text for s in sentences], text)
    if not files:
        say("no --videos: window features are not made")
        return
    del text  # its tables can take gigabytes
    visual = build.build_extractor(**options["visual"])
    if hasattr(visual, "freeze"):
        visual.freeze(log.logger.info)
    for folder, videos in plan(args, found, options["visual"]["name"]).items():
        extract(folder, videos, files, info, visual, args.batch)
    tested = args.out / "test_clip-sentvec.pkl"
    if tested.exists():
        windows = store_folder(args.out, args.test_lengths, options["visual"]["name"])
        write_infer(tested, windows, args.out / "infer")


def video_files(folder: Path, videos: Sequence[str]) -> dict[str, Path]:
    """Video -> its file, by name or by name and another ending."""
    if not folder.is_dir():
        raise DataError(f"--videos: expected a folder, found none at {folder}")
    by_name: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in VIDEO_ENDINGS:
            by_name.setdefault(path.stem, path)
            by_name[path.name] = path
    files = {video: by_name.get(video) or by_name.get(stem(video)) for video in videos}
    absent = [video for video, path in files.items() if path is None]
    if absent:
        raise DataError(
            f"{folder}: expected {len(videos)} videos, found all but {len(absent)}, the first is "
            f"{absent[0]}; fetch them or take them out of the annotations"
        )
    return files


def stem(video: str) -> str:
    """Video name without the ending of a video file."""
    path = Path(video)
    return path.stem if path.suffix.lower() in VIDEO_ENDINGS else video


def video_lengths(found: Any, files: dict[str, Path], fps: float | None) -> dict[str, Any]:
    """Video -> frames and rate: from the files, else from the annotations."""
    from reader.common.moments import VideoInfo
    from reader.common.video import Video

    info = {}
    ends: dict[str, float] = {}
    for video, _, end, _ in itertools.chain.from_iterable(found.splits.values()):
        ends[video] = max(end, ends.get(video, end))
    for video, last in ends.items():
        told = found.num_frames.get(video)
        if video in files:
            opened = Video(files[video])
            info[video] = VideoInfo(opened.num_frames, opened.fps)
            if told and abs(told - opened.num_frames) > max(32, 0.01 * told):
                say(f"warning: {files[video]} has {opened.num_frames} frames, the annotations say "
                    f"{told}: moments will be off if the video was re-encoded")  # fmt: skip
        elif found.unit == "frames":
            info[video] = VideoInfo(told, fps or found.fps.get(video))
        elif fps is None:
            raise ConfigError("moments in seconds: expected --videos or --fps, found neither")
        else:
            info[video] = VideoInfo(round(found.durations.get(video, last) * fps), fps)
    return info


def write_lengths(out: Path, info: dict[str, Any]) -> None:
    """``video_allframes_info.pkl`` (names without ending) and ``video_info.json`` (with rates)."""
    from reader.common.moments import write_json, write_python2_pickle

    frames = {stem(video): entry.num_frames for video, entry in info.items()}
    write_python2_pickle(out / "video_allframes_info.pkl", frames)
    write_json(out / "video_info.json", {video: entry._asdict() for video, entry in info.items()})


def names_of(found: Any, sentences: Sequence[Any], info: dict[str, Any]) -> list[str]:
    """``<video>_<start>_<end>`` of every sentence; frame 1 is at second 0."""
    from reader.common.windows import window_name

    names = []
    for video, start, end, _ in sentences:
        if found.unit == "seconds":
            entry = info[video]
            start, end = (min(1 + t * entry.fps, entry.num_frames) for t in (start, end))
        names.append(window_name(video, round(start), round(end)))
    return names


def encode(path: Path, names: Sequence[str], texts: Sequence[str], extractor: Any) -> None:
    """Write a sentence file; one entry per sentence, in the order of the annotations."""
    from reader.common.features import FeatureWriter, open_features
    from reader.common.moments import same_stamp, write_sentences

    digest = hashlib.sha256("\n".join([*names, *texts]).encode()).hexdigest()
    stamp = {"identity": extractor.identity, "made_from": digest}
    if path.exists() and same_stamp(path, stamp):
        say(f"{path}: complete")
        return
    keys = {text: hashlib.sha256(text.encode()).hexdigest() for text in texts}
    part = path.with_name(f".{path.name}.{_short(extractor.identity)}")
    with FeatureWriter(part, extractor.dim, extractor.identity) as writer:
        todo = [text for text, key in keys.items() if key not in writer]
        progress = Progress(path.name, "sentences", len(todo))
        for i in range(0, len(todo), SENTENCES_PER_STEP):
            step = todo[i : i + SENTENCES_PER_STEP]
            writer.append([keys[text] for text in step], extractor.encode(step))
            progress.add(len(step))
        writer.finish()
    source = open_features(part)
    row = {key: i for i, key in enumerate(source.names)}
    vectors = source.rows([row[keys[text]] for text in texts])
    write_sentences(path, list(zip(names, vectors[:, None], strict=True)), stamp)
    shutil.rmtree(part)
    say(f"{path}: {len(names)} sentences of {len(set(names))} moments")


def _short(identity: dict[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:12]


def store_folder(out: Path, lengths: Sequence[int], extractor: str) -> Path:
    """Folder of windows of these lengths, named as the published ones."""
    feature = {"c3d": "c3d_fc6"}.get(extractor, extractor)
    return out / f"Interval{'_'.join(map(str, lengths))}_overlap0.8_{feature}"


def plan(
    args: argparse.Namespace, found: Any, extractor: str
) -> dict[Path, dict[str, tuple[int, ...]]]:
    """Folder -> {video: window lengths}: training windows, and those of the other splits."""
    folders: dict[Path, dict[str, tuple[int, ...]]] = {}
    for split in found.splits:
        lengths = args.train_lengths if split == "train" else args.test_lengths
        videos = dict.fromkeys(found.videos(split), lengths)
        folders.setdefault(store_folder(args.out, lengths, extractor), {}).update(videos)
    return folders


def extract(
    folder: Path,
    videos: dict[str, tuple[int, ...]],
    files: dict[str, Path],
    info: dict[str, Any],
    extractor: Any,
    batch: int,
) -> None:
    """Write the features of all windows of these videos into one store."""
    import numpy as np

    from reader.common.features import FeatureWriter
    from reader.common.video import Video
    from reader.common.windows import window_features, window_grid, window_name

    with FeatureWriter(folder, extractor.dim, extractor.identity) as writer:
        todo = {}
        for video, lengths in videos.items():
            grid = window_grid(info[video].num_frames, lengths)
            named = [(window_name(video, *span), span) for span in grid.tolist()]
            todo[video] = [(name, span) for name, span in named if name not in writer]
            if not named:
                say(f"warning: {video} is shorter than {min(lengths) + 1} frames: no window")
        progress = Progress(folder.name, "windows", sum(map(len, todo.values())))
        for video, windows in todo.items():
            names = [name for name, _ in windows]
            spans = np.array([span for _, span in windows], np.int64).reshape(-1, 2)
            for rows, values in window_features(Video(files[video]), spans, extractor, batch):
                writer.append(names[rows], values)
                progress.add(len(values))
        writer.finish()
    say(f"{folder}: complete, {len(writer)} windows of {len(videos)} videos")


class Progress:
    """A line every few seconds."""

    def __init__(self, what: str, unit: str, total: int):
        self.what, self.unit, self.total, self.done = what, unit, total, 0
        self.started = self.said = time.monotonic()

    def add(self, count: int) -> None:
        """Count work as done."""
        self.done += count
        now = time.monotonic()
        if now - self.said >= SECONDS_BETWEEN_LINES:
            self.said, rate = now, self.done / (now - self.started)
            left = f"{(self.total - self.done) / rate:.0f} s left"
            say(f"{self.what}: {self.done} of {self.total} {self.unit}, {rate:.1f}/s, {left}")


# infer


def infer(args: argparse.Namespace) -> None:
    """Command ``infer``."""
    write_infer(args.sentences, args.windows, args.out)


def write_infer(sentences: Path, windows: Path, out: Path) -> None:
    """Prediction data: the first test video, the first sentence of each entry, its windows."""
    import numpy as np

    from reader.common.features import open_features
    from reader.common.moments import (
        read_sentences,
        read_stamp,
        stamp_path,
        write_json,
        write_sentences,
    )
    from reader.common.windows import parse_name

    entries = read_sentences(sentences)
    video = parse_name(entries[0][0])[0]
    chosen = [(name, v[:1]) for name, v in entries if parse_name(name)[0] == video and len(v)]
    source = open_features(windows)
    rows = [i for i, name in enumerate(source.names) if parse_name(name)[0] == video]
    if not rows:
        raise DataError(f"{windows}: expected windows of {video}, found none")
    folder, part = out / "infer_feat", out / ".infer_feat"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for row, vector in zip(rows, source.rows(rows), strict=True):
        np.save(part / f"{source.names[row]}.npy", vector)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    stamp_path(folder).unlink(missing_ok=True)
    if source.identity:
        write_json(stamp_path(folder), {"identity": source.identity})
    write_sentences(out / "infer_clip-sen.pkl", chosen, read_stamp(sentences))
    say(f"{out}: {video}, {len(chosen)} sentences, {len(rows)} windows")


if __name__ == "__main__":
    guard(main)
