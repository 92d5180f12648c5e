# SPDX-License-Identifier: Apache-2.0
"""Render the sample world and write its annotations in the raw layouts of the real data sets.

    python data/dataset/sample/prepare.py [--out DIR] [--seed 0] [--layouts tacos,tall] [--jobs 2]

Same seed, same annotations byte for byte. What is complete is not made again; after an interruption
the next run goes on with the missing videos. README.md beside this file describes the output.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE), str(ROOT)]

from engine.errors import ConfigError, DataError, guard  # noqa: E402

LOCK = ".lock"
REGION_SIZE = 128  # numbers of a region's features, as configs/sample/stage.yaml says
SHARD_SIZE = 100  # clips of a tar file
FRAME_SIZE = 96  # height and width of the frames, as configs/sample/clipbert.yaml expects them


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; every default makes the standard world."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="output folder (default: beside me)")
    parser.add_argument("--seed", type=int, default=0, help="which world (default 0)")
    parser.add_argument("--videos", type=int, default=76, help="how many, at least 3 (default 76)")
    parser.add_argument("--layouts", default=",".join(LAYOUTS), metavar="A,B",
                        help="what to write besides the videos; tall, stage and clipbert run "
                        "the real preparation on the layouts tacos, tvqa_plus and anetqa "
                        f"(default: all, {','.join(LAYOUTS)})")  # fmt: skip
    parser.add_argument("--config", help="write only the layouts that this configuration reads")
    parser.add_argument("--jobs", type=int, default=cores, help="processes (default: all cores)")
    parser.add_argument(
        "--preview",
        nargs="?",
        const="",
        metavar="VIDEO",
        help="also write the contact sheet preview/VIDEO.png (default: the first)",
    )
    args = parser.parse_args(argv)
    args.out = args.out.absolute()  # preparations run in another folder
    args.layouts = [name for name in args.layouts.split(",") if name]
    if args.config:
        args.layouts = read_by(args.config)
    for name in args.layouts:
        if name not in LAYOUTS:
            raise ConfigError(f"--layouts: expected some of {', '.join(LAYOUTS)}, found {name!r}")
    if args.videos < 3:
        raise ConfigError(f"--videos: expected at least 3 (one per split), found {args.videos}")
    if args.jobs < 1:
        raise ConfigError(f"--jobs: expected at least 1, found {args.jobs}")
    return args


def read_by(path: str) -> list[str]:
    """Layouts whose folders a configuration names, and those that they are made of."""
    from engine import config

    text = config.load(path).dump()
    folders = set(re.findall(r"data/dataset/sample/(\w+)", text))
    wanted = folders.union(*(MADE_IN.get(folder, ()) for folder in folders))
    return [name for name in LAYOUTS if name in wanted]


def main(argv: list[str] | None = None) -> None:
    """Make what is missing: the world, then every layout asked for."""
    args = parse(argv)
    import world
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
            scenes = world.make(args.out, args.seed, args.videos, args.jobs)
            for name in args.layouts:
                LAYOUTS[name](scenes, args.out)
            if args.preview is not None:
                make_preview(scenes, args.out, args.preview)
    except OSError as error:
        raise DataError(f"cannot prepare the sample world: {error}") from error


def write_layout(name: str, title: str, scenes: list[dict[str, Any]], out: Path) -> None:
    """The raw layout of a data set in `out`/<name>, by the script of that name."""
    import world

    for file, content in importlib.import_module(name).files(scenes).items():
        world.write(out / name / file, content)
    print(f"sample world: {title} layout in {out / name}")


def make_tall(_scenes: list[dict[str, Any]], out: Path) -> None:
    """What TALL reads, in `out`/tall, by the same preparation that real data go through."""
    script = ROOT / "data/dataset/tall/prepare.py"
    config = ROOT / "configs/sample/tall.yaml"
    _need("tall", script, config, out / "tacos")
    _run("tall", script, "--annotations", out / "tacos", "--videos", out / "videos",
         "--out", out / "tall", "--config", config, "--test_lengths", "64,128,256")  # fmt: skip


def make_stage(_scenes: list[dict[str, Any]], out: Path) -> None:
    """What STAGE reads, in `out`/tvqa_plus: features and the store they are packed into."""
    script = ROOT / "data/dataset/tvqa_plus/prepare.py"
    config = ROOT / "configs/sample/stage.yaml"
    raw = out / "tvqa_plus"
    _need("stage", script, config, raw)
    questions = [raw / f"tvqa_plus_{s}_preprocessed.json" for s in ("train", "valid", "test")]
    beside = {"text.vocab": "vocab.txt", "regions.pca": "region_pca.npz"}
    placed = [f"DATASET.extractors.{key}={raw / name}" for key, name in beside.items()]
    _run("stage", script, "extract", "--qa", *questions, "--videos", out / "videos",
         "--subtitles", raw / "tvqa_plus_subtitles.json", "--regions", raw / "regions.json",
         "--out", raw, "--config", config, *(word for o in placed for word in ("-o", o)),
         "--pca", REGION_SIZE)  # fmt: skip
    store = raw / "store"
    if _is_stale(store):
        shutil.rmtree(store)
    _run("stage", script, "pack", raw, store)
    _run("stage", script, "vocab", "--qa", questions[0], "--out", raw / "answer_vocab.json",
         "--force")  # fmt: skip


def make_anetqa(scenes: list[dict[str, Any]], out: Path) -> None:
    """The raw layout of ANetQA in `out`/anetqa, and the videos under its names."""
    import anetqa

    write_layout("anetqa", "ANetQA", scenes, out)
    anetqa.link_videos(scenes, out / "videos", out / "anetqa" / "videos")


def make_image_text(scenes: list[dict[str, Any]], out: Path) -> None:
    """Captions and questions about pictures in `out`/image_text, and the pictures."""
    import image_text
    import world
    from facts import Facts

    write_layout("image_text", "COCO and VQA", scenes, out)
    folder = out / "image_text" / "images"
    for scene in scenes:
        taken = image_text.pictures(Facts(scene))
        if not all((folder / f"{picture.name}.jpg").exists() for picture in taken):
            for name, content in image_text.images(out / "videos" / scene["file"], taken):
                world.write(folder / name, content)


def make_clipbert(scenes: list[dict[str, Any]], out: Path) -> None:
    """What ClipBERT reads: its files and frames in `out`/anetqa, its vocabulary beside them."""
    import vocabulary
    import world

    script, raw = ROOT / "data/dataset/anetqa/prepare.py", out / "anetqa"
    _need("clipbert", script, raw)
    for name, content in vocabulary.files(scenes).items():
        world.write(raw / name, content)
    _run("clipbert", script, "questions", raw)
    _run("clipbert", script, "answers", raw, "--force")
    _run("clipbert", script, "frames", raw, "--videos", raw / "videos", "--out", raw / "frames",
         "--size", FRAME_SIZE)  # fmt: skip


def make_msvd_qa(scenes: list[dict[str, Any]], out: Path) -> None:
    """Questions about short clips in `out`/msvd_qa, and the clips."""
    import clips

    write_layout("msvd_qa", "MSVD-QA", scenes, out)
    paths, folder = clips.make(scenes, out), out / "msvd_qa" / "videos"
    names = [clip.name for clip in clips.singles(scenes)]
    clips.link((paths[name], folder / f"{name}.avi") for name in names)


def make_next_oe(scenes: list[dict[str, Any]], out: Path) -> None:
    """The layout of NExT-OE in `out`/next_oe, and its videos."""
    import clips
    import next_oe

    write_layout("next_oe", "NExT-OE", scenes, out)
    paths, folder = clips.make(scenes, out), out / "next_oe" / "videos"
    found = next_oe.videos(scenes).items()
    clips.link((paths[c.name], folder / f"{next_oe.place(name)}.mp4") for name, c in found)


def make_webvid(scenes: list[dict[str, Any]], out: Path) -> None:
    """Clips and pictures with captions in `out`/webvid, by the real preparation also as shards."""
    import clips
    import webvid

    script, raw = ROOT / "data/dataset/webvid/prepare.py", out / "webvid"
    write_layout("webvid", "WebVid", scenes, out)
    _need("webvid", script, raw)
    paths = clips.make(scenes, out)
    found = webvid.videos(scenes).items()
    clips.link((paths[c.name], raw / "videos" / f"{name}.mp4") for name, c in found)
    for split in ("train", "val"):
        _run("webvid", script, "convert", raw / f"results_{split}.csv", "--videos", raw / "videos",
             "--out", raw / f"{split}.jsonl")  # fmt: skip
        _run("webvid", script, "convert", raw / f"pictures_{split}.json",
             "--out", raw / f"pictures_{split}.jsonl")  # fmt: skip
    shards, changed = raw / "shards", [*paths.values(), raw / "train.jsonl"]
    newest = max(path.stat().st_mtime for path in changed)
    if any(path.stat().st_mtime < newest for path in shards.glob("*.tar")):
        shutil.rmtree(shards)
    _run("webvid", script, "pack", raw / "train.jsonl", "--videos", raw / "videos",
         "--out", shards / "train", "--samples", SHARD_SIZE, "--jobs", 1)  # fmt: skip


def make_llama(name: str, title: str, scenes: list[dict[str, Any]], out: Path) -> None:
    """The raw layout of a data set for LLaMA-VQA in `out`/<name>, and features of frames."""
    write_layout(name, title, scenes, out)
    config = ROOT / "configs" / "sample" / f"llama_vqa_{name}.yaml"
    script = ROOT / "tools" / "extract.py"
    _need(name, script, config, out / name)
    videos = _clips_of(name, scenes, out)
    _extract_clip(name, script, config, videos, out / name)


def _clips_of(name: str, scenes: list[dict[str, Any]], out: Path) -> dict[str, Path]:
    """Videos by the names of their features."""
    import clips

    if name == "nextqa":
        import next_oe

        paths = clips.make(scenes, out)
        return {key: paths[clip.name] for key, clip in next_oe.videos(scenes).items()}
    if name == "dramaqa":
        import dramaqa

        paths = clips.make(scenes, out)
        return {dramaqa.shot_name(clip.facts, clip.events[0]["index"] + 1): paths[clip.name]
                for clip in clips.singles(scenes)}  # fmt: skip
    return {scene["id"]: out / "videos" / scene["file"] for scene in scenes}


def _extract_clip(
    layout: str, script: Path, config: Path, videos: dict[str, Path], folder: Path
) -> None:
    """Features of videos in `folder`/clip, by the real extraction; what is there stays."""
    import world

    from engine.config import load

    options = dict(load(config)["DATASET"]["extractors"]["clip"])
    listed = "".join(f"{name}\t{path}\n" for name, path in videos.items())
    world.write(folder / "videos.txt", listed.encode())
    store = folder / "clip"
    index = store / "index.json"
    if index.exists():
        newest = max(path.stat().st_mtime for path in [config, *videos.values()])
        if index.stat().st_mtime >= newest:
            return
        shutil.rmtree(store)
    name, seed, _ = (options.pop(key) for key in ("name", "init_seed", "weights"))
    words = (word for key, value in options.items() for word in ("-o", f"{key}={value}"))
    _run(layout, script, "--extractor", name, "--init_seed", seed, *words,
         "--videos", folder / "videos.txt", "--out", store, "--use_gpu", False)  # fmt: skip


def _is_stale(store: Path) -> bool:
    """Is the store packed from other files than those beside it? Packing would refuse it."""
    from reader.common.tvqa_plus_rows import INDEX, read_index

    if not (store / INDEX).exists():
        return False
    files = [file for part in read_index(store)["parts"].values() for file in part["files"]]
    paths = [store.parent / name for name, *_ in files]
    found = [(p.stat().st_size, int(p.stat().st_mtime)) if p.exists() else None for p in paths]
    return found != [(size, time) for _, size, time in files]


def _need(layout: str, *paths: Path) -> None:
    """Raise unless these exist; the last one is the folder of the layout that is read."""
    for path in paths:
        if not path.exists():
            raise DataError(f"layout {layout}: expected {path}, found nothing there; restore it, "
                            f"or add {paths[-1].name} to --layouts")  # fmt: skip


def _run(layout: str, script: Path, *arguments: object) -> None:
    """Run a preparation of real data; its failure is ours, with the same exit code."""
    command = [sys.executable, str(script), *map(str, arguments)]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        error = DataError(f"layout {layout}: {script.relative_to(ROOT)} ended with exit code "
                          f"{code}; its message is above")  # fmt: skip
        error.exit_code = code if code > 0 else DataError.exit_code
        raise error


# In this order: tall reads tacos, stage reads tvqa_plus, clipbert reads anetqa
LAYOUTS: dict[str, Callable[[list[dict[str, Any]], Path], None]] = {
    "tacos": partial(write_layout, "tacos", "TACoS"),
    "tall": make_tall,
    "tvqa_plus": partial(write_layout, "tvqa_plus", "TVQA+"),
    "stage": make_stage,
    "anetqa": make_anetqa,
    "tgif_qa": partial(write_layout, "tgif_qa", "TGIF-QA"),
    "msrvtt_qa": partial(write_layout, "msrvtt_qa", "MSRVTT-QA"),
    "retrieval": partial(write_layout, "retrieval", "retrieval"),
    "image_text": make_image_text,
    "clipbert": make_clipbert,
    "msvd_qa": make_msvd_qa,
    "next_oe": make_next_oe,
    "webvid": make_webvid,
    "llama": partial(write_layout, "llama", "texts for LLaMA"),
    "nextqa": partial(make_llama, "nextqa", "NExT-QA"),
    "star": partial(make_llama, "star", "STAR"),
    "dramaqa": partial(make_llama, "dramaqa", "DramaQA"),
    "vlep": partial(write_layout, "vlep", "VLEP"),  # reads features of star
    "tvqa": partial(make_llama, "tvqa", "TVQA"),
}

# Layouts that are needed besides the folder's own
MADE_IN = {"tall": ("tacos",), "tvqa_plus": ("stage",), "anetqa": ("clipbert",),
           "webvid": ("image_text",)}  # fmt: skip


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


if __name__ == "__main__":
    guard(main)
