# SPDX-License-Identifier: Apache-2.0
"""Prediction on a list of prepared data, or on one raw video with a query."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import broken, build, evaluate, loader, page, runtime
from .config import Config, find
from .errors import ConfigError, DataError
from .log import logger


def main(args: Any, cfg: Config) -> None:
    """What predict.py does: answer, write the published result file, print the answers."""
    if bool(args.video) != bool(args.query):
        raise ConfigError("--video and --query: expected both or neither; give the other one, too")
    options = cfg.engine_args("INFER")
    _check_inputs(args, options)
    runtime.select_device(cfg["TRAIN"]["use_gpu"] if options.use_gpu is None else options.use_gpu)
    reader, metric = build.reader(cfg, "infer"), build.metric(cfg)
    inputs = _raw_inputs(args, reader, cfg.model_name)
    _check_pages(args.visualize, metric, cfg.model_name)
    extractors = {}
    if args.video or getattr(reader, "needs_extractors", ()):
        extractors = reader.extractors = build.extractors(cfg)
    if not args.video:
        metric.expect(reader.references())
        len(reader)
    model, trained = evaluate.load_model(cfg, args.weights)
    given = {role: extractor.identity for role, extractor in extractors.items()}
    if not args.video:
        given |= evaluate.identity_of(reader)
    evaluate.check_features(trained, given, "INFER")
    if args.video:
        items = reader.from_raw(args.video, args.query, extractors, **inputs)
        batches = (reader.collate([item]) for item in items)
    else:
        chunks = loader.chunks(reader, options.batch_size)
        batches = loader.load(reader, chunks, options.num_workers)
    _predict(model, batches, metric, args.log_interval)
    folder = Path(options.save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    written = metric.write(folder, cfg.model_name, "infer", topk=args.infer_topk)
    for line in metric.answers(topk=args.infer_topk or (5 if args.video else 1)):
        print(line)
    print(f"results: {Path(written).resolve()}")
    if args.visualize:
        pages = folder / f"{cfg.model_name.upper()}_pages"
        index = page.write(
            pages, metric.pages(args.visualize), getattr(reader, "pictures", None), cfg.model_name,
            seen=getattr(reader, "seen", None),
        )  # fmt: skip
        print(f"pages: {index.resolve()}")


def _predict(model: Any, batches: Iterator[dict], metric: Any, log_interval: int) -> None:
    import paddle

    model.eval()
    started, done, left_out = time.perf_counter(), 0, []
    with paddle.no_grad():
        for done, batch in enumerate(batches, 1):
            if done == 1:
                build.check_sizes(model, batch)
            left_out += batch.pop(loader.BROKEN, [])
            if batch:
                metric.update(model.predict(loader.to_tensors(batch)))
            if log_interval and (done - 1) % log_interval == 0:
                logger.info("Processed %d samples", done)
    broken.tell(left_out)
    mean = (time.perf_counter() - started) / max(1, done)
    logger.info("[INFER] infer finished. average time: %.4f", mean)


def _check_inputs(args: Any, options: Any) -> None:
    if args.video:
        if not Path(args.video).is_file():
            raise DataError(f"--video: expected a video file, {args.video} not exist.")
    elif options.filelist:
        path = find(options.filelist)
        if not path.exists():
            raise DataError(
                f"--filelist: expected a file or folder, {options.filelist} not exist. Give "
                "another with --filelist or INFER.filelist, or ask a video with --video and --query"
            )
        options.filelist = str(path)


def _raw_inputs(args: Any, reader: Any, name: str) -> dict[str, Any]:
    """What is given beside --video and --query, as arguments of the reader's ``from_raw``."""
    flags = {key: getattr(args, key) for key in ("subtitles", "choices", "regions")}
    given = {key: value for key, value in flags.items() if value is not None}
    taken = getattr(reader, "raw_inputs", inspect.signature(reader.from_raw).parameters)
    for key, value in given.items():
        if not args.video:
            raise ConfigError(f"--{key}: expected only with --video and --query; give them, too")
        if key not in taken:
            raise ConfigError(f"--{key}: {name} takes none here; leave the flag out")
        if key == "choices":
            given[key] = _choices(value)
        elif not Path(value).is_file():
            raise DataError(f"--{key}: expected a file, {value} not exist.")
    return given


def _choices(text: str) -> list[str]:
    choices = [choice.strip() for choice in text.split("|")]
    if not all(choices):
        raise ConfigError(f"--choices: expected texts separated by |, found an empty one: {text!r}")
    return choices


def _check_pages(count: int | None, metric: Any, name: str) -> None:
    if count is None:
        return
    if count < 1:
        raise ConfigError(f"--visualize: expected a number of pages from 1, found {count}")
    if not hasattr(metric, "pages"):
        raise ConfigError(f"--visualize: {name} has no pages to write; leave the flag out")
