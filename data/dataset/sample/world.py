# SPDX-License-Identifier: Apache-2.0
"""The world itself on disk: videos, scenes.json, subtitles, and the stamp that guards them.

What decides their content is named in `SOURCES`; a change there makes a new world. Layouts follow
from scenes.json, and changing them leaves the videos alone.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from engine.errors import DataError

HERE = Path(__file__).resolve().parent
SOURCES = ("scene.py", "motion.py", "language.py", "render.py", "world.py")
STAMP, SCENES = "stamp.json", "scenes.json"
FEATURES = ("tall", "tvqa_plus", "anetqa", "image_text")  # folders made of the videos


def make(out: Path, seed: int, videos: int, jobs: int) -> list[dict[str, Any]]:
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
        write(out / STAMP, json.dumps({"digest": digest, "files": {}}).encode())
    scenes = plan(seed, videos)
    names = [f"videos/{scene['file']}" for scene in scenes]
    found = {name: _size(out / name) for name in names}
    whole = {name for name in names if found[name] and found[name] == sizes.get(name, found[name])}
    missing = [s for s, name in zip(scenes, names, strict=True) if name not in whole]
    render(missing, out / "videos", jobs)
    texts = _texts(scenes, seed)
    for name, content in texts.items():
        write(out / name, content)
    done = {name: _size(out / name) for name in [*names, *texts]}
    write(out / STAMP, json.dumps({"digest": digest, "files": done}, indent=1).encode())
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
    for folder in FEATURES if earlier else ():
        shutil.rmtree(out / folder, ignore_errors=True)  # of the earlier videos


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


def write(path: Path, content: bytes) -> None:
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
