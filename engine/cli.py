# SPDX-License-Identifier: Apache-2.0
"""Command line shared by train.py, eval.py and predict.py."""

from __future__ import annotations

import argparse
from typing import Any

from . import config, log, runtime

PAGES = 20  # of --visualize
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def boolean(text: str) -> bool | None:
    """True, False, None, 1, 0 and true/false/yes/no/on/off in any case."""
    value = _WORDS.get(text.casefold(), config.literal(text))
    if value is None or value in (0, 1):
        return None if value is None else bool(value)
    raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")


def _common(parser: argparse.ArgumentParser, log_interval: int | None) -> None:
    add = parser.add_argument
    add(
        "--model_name",
        help="model folder under models/, in any case; default: MODEL.name of the file",
    )
    add("-c", "--config", help="YAML file; default: configs/<model_name>.yaml")
    add(
        "-o", dest="override", action="append", default=[], metavar="A.b=c", help="override one key"
    )
    add("--batch_size", type=int, help="overrides the file")
    add("--use_gpu", type=boolean, help="True, False, or automatic when not given")
    add("--log_interval", type=int, default=log_interval, help="steps between log lines; 0: never")


def _train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--learning_rate", type=float, help="overrides the file")
    add("--pretrain", help="weights to start from; several files are separated by commas")
    add("--resume", help="checkpoint to go on from: prefix, .pdparams, .pdckpt or the folder")
    add("--no_memory_optimize", action="store_true", help="accepted, no effect")
    add("--epoch", type=int, help="overrides the file; 0: as the file says")
    add("--valid_interval", type=int, help="epochs between validations; 0: never")
    add("--save_dir", help="default: data/checkpoints")
    add("--fix_random_seed", type=boolean, default=False, help="seed 1000 and two kpis lines")
    add(
        "--dry-run",
        action="store_true",
        help="tell parameters, memory, effective batch and rates, then stop; needs no data",
    )
    add("--profiler_path", default="./", help="folder of the profile")
    add(
        "--is_profiler",
        type=int,
        default=0,
        help="1: profile a few steps of the first epoch, then stop",
    )


def _evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", help="default: WEIGHTS.path, else the published weights are downloaded")
    add("--save_dir", help="default: data/evaluate_results")
    add(
        "--predictions",
        help="score this predictions.jsonl or published result file instead of running the network",
    )


def _predict(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", help="default: WEIGHTS.path, else the published weights are downloaded")
    add("--filelist", help="what to predict on; default: INFER.filelist")
    add("--infer_topk", type=int, help="also write the best K answers; default: the best one")
    add("--save_dir", help="default: data/dataset/predict_results")
    add("--video", "--video_path", dest="video", help="a video file of your own")
    add("--query", help="the sentence or question to ask of --video")
    add("--subtitles", help="subtitle file of --video")
    add("--choices", help="answers to choose from, separated by |")
    add("--regions", help="file of detected object regions of --video")
    add(
        "--visualize",
        type=int,
        nargs="?",
        const=PAGES,
        metavar="N",
        help=f"write a web page for each of the first N answers; {PAGES} when no number is given",
    )


_MODES = {"train": (_train, None), "eval": (_evaluate, 1), "predict": (_predict, 1)}
_SECTIONS = {"train": ("train", "valid"), "eval": ("test",), "predict": ("infer",)}


def parse(mode: str, argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the flags of train, eval or predict."""
    add_flags, log_interval = _MODES[mode]
    parser = argparse.ArgumentParser(prog=f"{mode}.py", allow_abbrev=False)
    _common(parser, log_interval)
    add_flags(parser)
    args = parser.parse_args(argv)
    if not args.config and not args.model_name:
        parser.error("expected --config FILE or --model_name NAME, found neither")
    return args


def start(mode: str, args: argparse.Namespace) -> config.Config:
    """Prepare the process, load the configuration, apply the flags and print both."""
    runtime.prepare()
    from . import dist

    log.setup(rank=dist.process())
    log.logger.info(args)
    path = args.config or f"configs/{args.model_name.casefold().replace('-', '_')}.yaml"
    cfg = config.load(path, args.override, args.model_name)
    flags: dict[str, Any] = vars(args) | {"epoch": getattr(args, "epoch", None) or None}
    for section in _SECTIONS[mode]:
        config.merge(cfg.sections, section, flags)
    for line in cfg.lines({"eval": "Test", "predict": "Infer"}.get(mode, "Train")):
        log.logger.info(line)
    return cfg
