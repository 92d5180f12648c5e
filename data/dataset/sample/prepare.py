# SPDX-License-Identifier: Apache-2.0
"""Render the sample world and write its annotations in the raw layouts of the real data sets.

    python data/dataset/sample/prepare.py [--out DIR] [--seed 0] [--layouts tacos,tall] [--jobs 2]

Same seed, same annotations byte for byte. What is complete is not made again; after an interruption
the next run goes on with the missing videos. README.md beside this file describes the output.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE), str(ROOT)]

from engine.errors import ConfigError, DataError, guard  # noqa: E402

SOURCES = ("scene.py", "motion.py", "language.py", "render.py", "prepare.py")
STAMP, LOCK, SCENES = "stamp.json", ".lock", "scenes.json"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; every default makes the standard world."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="output folder (default: beside me)")
    parser.add_argument("--seed", type=int, default=0, help="which world (default 0)")
    parser.add_argument("--videos", type=int, default=76, help="how many, at least 3 (default 76)")
    parser.add_argument("--layouts", default="tacos,tall", metavar="A,B",
                        help=f"of {','.join(LAYOUTS)}; tall runs the real preparation and feature "
                        "extraction on the tacos layout (default tacos,tall)")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=cores, help="processes (default: all cores)")
    parser.add_argument(
        "--preview",
        nargs="?",
        const="",
        metavar="VIDEO",
        help="also write the contact sheet preview/VIDEO.png (default: the first)",
    )
    args = parser.parse_args(argv)
    args.layouts = [name for name in args.layouts.split(",") if name]
    for name in args.layouts:
        if name not in LAYOUTS:
            raise ConfigError(f"--layouts: expected some of {', '.join(LAYOUTS)}, found {name!r}")
    if args.videos < 3:
        raise ConfigError(f"--videos: expected at least 3 (one per split), found {args.videos}")
    if args.jobs < 1:
        raise ConfigError(f"--jobs: expected at least 1, found {args.jobs}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Make what is missing: the world, then every layout asked for."""
    args = parse(argv)
    from filelock import FileLock, Timeout

    try:
        (args.out / "videos").mkdir(parents=True, exist_ok=True)
        lock = FileLock(args.out / LOCK)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            print(f"sample world: waiting for another run that works in {args.out}", flush=True)
            lock.acquire()
        with lock:
            for part in [*args.out.glob(".part-*"), *args.out.glob("*/.part-*")]:
                part.unlink()  # of runs that were killed
            scenes = make_world(args.out, args.seed, args.videos, args.jobs)
            for name in args.layouts:
                LAYOUTS[name](scenes, args.out)
            if args.preview is not None:
                make_preview(scenes, args.out, args.preview)
    except OSError as error:
        raise DataError(f"cannot prepare the sample world: {error}") from error


def make_world(out: Path, seed: int, videos: int, jobs: int) -> list[dict[str, Any]]:
    """Videos, scenes.json and subtitles in `out`; returns the scene descriptions.

    The stamp holds the digest of everything that decides the content, and the size of every file
    once all are there. Videos of another digest are removed before the stamp changes, so a video
    that exists under a matching stamp is one that was finished.
    """
    identity = {"seed": seed, "videos": videos, "sources": _sources()}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    stamp = _read_stamp(out)
    sizes = stamp["files"] if stamp["digest"] == digest else {}
    if sizes and all(_size(out / name) == size for name, size in sizes.items()):
        print(f"sample world: complete in {out} ({videos} videos), nothing to render")
        return json.loads((out / SCENES).read_text("utf-8"))["videos"]
    if stamp["digest"] != digest:
        _clear(out, stamp["digest"])
        _write(out / STAMP, json.dumps({"digest": digest, "files": {}}).encode())
    scenes = plan(seed, videos)
    names = [f"videos/{scene['file']}" for scene in scenes]
    found = {name: _size(out / name) for name in names}
    whole = {name for name in names if found[name] and found[name] == sizes.get(name, found[name])}
    missing = [s for s, name in zip(scenes, names, strict=True) if name not in whole]
    render(missing, out / "videos", jobs)
    texts = _texts(scenes, seed)
    for name, content in texts.items():
        _write(out / name, content)
    done = {name: _size(out / name) for name in [*names, *texts]}
    _write(out / STAMP, json.dumps({"digest": digest, "files": done}, indent=1).encode())
    return scenes


def _clear(out: Path, earlier: str) -> None:
    """Remove an earlier world's videos and subtitles; touch nothing when no stamp tells of one."""
    videos = sorted((out / "videos").glob("*.mp4"))
    if videos and not earlier:
        raise DataError(
            f"{out}: expected an empty folder or an earlier sample world, found {videos[0]} and no "
            f"readable {STAMP}; choose another --out or remove the folder"
        )
    for file in [*videos, *(out / "subtitles").glob("*.srt")]:
        if re.fullmatch(r"s\d+-d\d+", file.stem):
            file.unlink()
    if earlier:
        shutil.rmtree(out / "tall", ignore_errors=True)  # features of the earlier videos


def plan(seed: int, videos: int) -> list[dict[str, Any]]:
    """Complete scene descriptions, boxes and words included; draws nothing."""
    import language
    import motion
    import scene

    scenes = scene.plan_world(seed, videos)
    for each in scenes:
        language.describe(each, seed)
        language.talk(each, seed)
        for entity, track in motion.boxes(each).items():
            next(e for e in each["entities"] if e["id"] == entity)["boxes"] = track
        for entity in each["entities"]:
            if entity["kind"] != "character":
                entity["box"] = motion.static_box(entity)
    return scenes


def render(scenes: list[dict[str, Any]], folder: Path, jobs: int) -> None:
    """Write the videos of these scenes with `jobs` processes."""
    from render import render_video
    from tqdm import tqdm

    if not scenes:
        return
    print(f"sample world: rendering {len(scenes)} videos with {jobs} processes", flush=True)
    context = multiprocessing.get_context("spawn")  # safe with OpenCV's threads
    with ProcessPoolExecutor(jobs, context, initializer=_end_with_parent) as pool:
        tasks = [pool.submit(render_video, scene, folder / scene["file"]) for scene in scenes]
        try:
            for task in tqdm(as_completed(tasks), total=len(tasks), unit="video", disable=None):
                task.result()
        except BrokenProcessPool as error:
            raise DataError("a rendering process was killed (out of memory?); run the same command "
                            "again, it goes on where it stopped") from error  # fmt: skip
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let a worker end when the main process was killed, instead of waiting for work for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def make_tacos(scenes: list[dict[str, Any]], out: Path) -> None:
    """The raw layout of TACoS in `out`/tacos."""
    import tacos

    for name, content in tacos.files(scenes).items():
        _write(out / "tacos" / name, content)
    print(f"sample world: TACoS layout in {out / 'tacos'}")


def make_tall(_scenes: list[dict[str, Any]], out: Path) -> None:
    """What TALL reads, in `out`/tall, by the same preparation that real data go through."""
    script = ROOT / "data/dataset/tall/prepare.py"
    config = ROOT / "configs/sample/tall.yaml"
    command = [sys.executable, str(script), "--annotations", str(out / "tacos"),
               "--videos", str(out / "videos"), "--out", str(out / "tall"),
               "--config", str(config), "--test_lengths", "64,128,256"]  # fmt: skip
    for needed in (script, config, out / "tacos"):
        if not needed.exists():
            raise DataError(f"layout tall: expected {needed}, found nothing there; restore it, or "
                            "add tacos to --layouts")  # fmt: skip
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        error = DataError(f"layout tall: data/dataset/tall/prepare.py ended with exit code {code}; "
                          "its message is above")  # fmt: skip
        error.exit_code = code if code > 0 else DataError.exit_code
        raise error


LAYOUTS = {"tacos": make_tacos, "tall": make_tall}  # in this order: tall reads tacos


def make_preview(scenes: list[dict[str, Any]], out: Path, name: str) -> None:
    """`out`/preview/<name>.png; an empty name means the first video."""
    from preview import contact_sheet

    by_name = {scene["id"]: scene for scene in scenes}
    scene = by_name.get(name or scenes[0]["id"])
    if scene is None:
        raise ConfigError(f"--preview: expected a video from {scenes[0]['id']} to "
                          f"{scenes[-1]['id']}, found {name!r}")  # fmt: skip
    picture = out / "preview" / f"{scene['id']}.png"
    picture.parent.mkdir(exist_ok=True)
    contact_sheet(scene, out / "videos" / scene["file"], picture)
    print(f"sample world: contact sheet {picture}")


def _texts(scenes: list[dict[str, Any]], seed: int) -> dict[str, bytes]:
    """scenes.json (one line per video), subtitles.json and one .srt per video."""
    from language import srt

    lines = ",\n".join(json.dumps(scene, separators=(",", ":")) for scene in scenes)
    talks = {scene["id"]: scene["subtitles"] for scene in scenes}
    texts = {f"subtitles/{scene['id']}.srt": srt(scene).encode() for scene in scenes}
    texts["subtitles.json"] = json.dumps(talks, indent=1).encode()
    texts[SCENES] = f'{{"version":1,"seed":{seed},"videos":[\n{lines}\n]}}\n'.encode()
    return texts


def _sources() -> dict[str, str]:
    return {name: hashlib.sha256((HERE / name).read_bytes()).hexdigest() for name in SOURCES}


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _read_stamp(out: Path) -> dict[str, Any]:
    """The stamp of `out`; one that matches nothing when there is none or it is damaged."""
    try:
        stamp = json.loads((out / STAMP).read_text("utf-8"))
        return {"digest": str(stamp["digest"]), "files": dict(stamp["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"digest": "", "files": {}}


def _write(path: Path, content: bytes) -> None:
    """Write atomically; leave a file alone that has this content already."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


if __name__ == "__main__":
    guard(main)
