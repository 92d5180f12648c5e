# SPDX-License-Identifier: Apache-2.0
"""Prediction on a list of prepared data, or on one raw video with a query."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import build, evaluate, loader, runtime
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
    batches = _batches(args, reader, options, extractors)
    _predict(model, batches, metric, args.log_interval)
    folder = Path(options.save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    written = metric.write(folder, cfg.model_name, "infer", topk=args.infer_topk)
    for line in metric.answers(topk=args.infer_topk or (5 if args.video else 1)):
        print(line)
    print(f"results: {Path(written).resolve()}")


def _predict(model: Any, batches: Iterator[dict], metric: Any, log_interval: int) -> None:
    import paddle

    model.eval()
    started, done = time.perf_counter(), 0
    with paddle.no_grad():
        for done, batch in enumerate(batches, 1):
            if done == 1:
                build.check_sizes(model, batch)
            metric.update(model.predict(loader.to_tensors(batch)))
            if log_interval and (done - 1) % log_interval == 0:
                logger.info("Processed %d samples", done)
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


def _batches(args: Any, reader: Any, options: Any, extractors: dict[str, Any]) -> Iterator[dict]:
    if args.video:
        items = reader.from_raw(args.video, args.query, extractors)
        return (reader.collate([item]) for item in items)
    return loader.load(reader, loader.chunks(reader, options.batch_size), options.num_workers)
