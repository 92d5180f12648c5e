# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of a system: ``python tools/benchmark.py MODEL --config C``.

Prints samples per second of reader, forward pass, train step and evaluation, the peak memory, and
the share of the machine's matrix-multiply rate, which is measured in the same run. Where
``tools/comparisons/<model>.py`` exists, its published-against-ours comparisons follow. Figures are
the best of several repeats; a part whose data are missing is said to be left out.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import config, runtime
from engine.errors import DATA, DataError, guard

_MATRIX = 2048


def best(function: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds of the fastest of several calls, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_rate() -> float:
    """Floating-point operations per second of a large fp32 matrix product."""
    import paddle

    a, b = paddle.rand([_MATRIX, _MATRIX]), paddle.rand([_MATRIX, _MATRIX])
    return 2 * _MATRIX**3 / best(lambda: float((a @ b)[0, 0]), 20)


def network(cfg: config.Config, rate: float, repeats: int) -> dict[str, Any]:
    """Forward pass and train step on a random batch of the configured size."""
    from engine import build, loader
    from engine.loop import Trainer

    recipe = cfg.engine_args("TRAIN")
    model = build.model(cfg)
    size = min(recipe.batch_size, getattr(model, "benchmark_batch", recipe.batch_size))
    batch = model.example_batch(size)
    tensors = loader.to_tensors(batch)
    trainer = Trainer(model, None, recipe)
    flops = model.flops(batch)
    forward = best(lambda: float(model.loss(model(tensors), tensors)["loss"]), repeats)
    step = best(lambda: trainer.step_on(batch), repeats)
    return {
        "batch_size": size,
        "forward_samples_per_second": size / forward,
        "forward_share_of_matrix_rate": flops / forward / rate,
        "train_step_seconds": step,
        "train_samples_per_second": size / step,
        "train_share_of_matrix_rate": 3 * flops / step / rate,
    }


def data(cfg: config.Config, samples: int) -> dict[str, Any]:
    """Reader and evaluation on the configured data."""
    from engine import build, evaluate, loader

    reader, start = build.reader(cfg, "train"), time.perf_counter()
    order = loader.training_order(reader, 0, 0)
    ready = time.perf_counter() - start
    chosen = list(itertools.islice(itertools.cycle(order), samples))
    size = cfg["TRAIN"]["batch_size"]
    batches = [chosen[i : i + size] for i in range(0, samples, size)]
    start = time.perf_counter()
    for _ in loader.load(reader, batches, cfg["TRAIN"]["num_workers"]):
        pass
    out = {
        "reader_samples": len(reader),
        "reader_start_seconds": ready,
        "reader_samples_per_second": samples / (time.perf_counter() - start),
    }
    test, model, metric = build.reader(cfg, "test"), build.model(cfg), build.metric(cfg)
    start = time.perf_counter()
    records = evaluate.predictions(model, test, batch_size=cfg["TEST"]["batch_size"])
    predicted = time.perf_counter()
    evaluate.score(metric, test, records)
    done = time.perf_counter()
    return out | {
        "evaluation_records": len(records),
        "evaluation_records_per_second": len(records) / (predicted - start),
        "scoring_seconds": done - predicted,
    }


def _default_config(name: str) -> str:
    """``configs/<name>.yaml``, or the first one whose name begins so."""
    found = sorted((runtime.ROOT / "configs").glob(f"{name}_*.yaml"))
    plain = runtime.ROOT / "configs" / f"{name}.yaml"
    return str(plain if plain.is_file() or not found else found[0])


def _require_memory(cfg: config.Config, device: str) -> None:
    """Raise DataError unless the network and its gradients fit into the machine."""
    from engine import build, dry_run

    need = 2 * dry_run.weight_bytes(build.outline(cfg).parameters())
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device == "cpu" and need > have:
        raise DataError(
            f"expected at least {need / 1e9:.0f} GB of memory, found {have / 1e9:.0f} GB; give "
            "smaller sizes with -o MODEL.…"
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    where = "default: configs/<model>.yaml, or else the first of configs/<model>_*.yaml"
    parser.add_argument("-c", "--config", help=where)
    parser.add_argument("-o", dest="override", action="append", default=[], metavar="A.b=c")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=512, help="read by the reader")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write JSON when asked."""
    args = _parse()
    settings = runtime.prepare()
    name = args.model.casefold().replace("-", "_")
    path = args.config or _default_config(name)
    cfg = config.load(path, args.override, args.model)
    device = runtime.select_device(cfg["TRAIN"]["use_gpu"])
    import paddle

    from engine.loop import peak_memory

    rate = matrix_rate()
    figures: dict[str, Any] = {
        "model": name,
        "configuration": path,
        "machine": f"{runtime.usable_cores()} cores, {platform.machine()}, {device}",
        "paddle": paddle.__version__,
        "settings": settings,
        "matrix_gflops": rate / 1e9,
    }
    show(figures)
    for part in (lambda: network(cfg, rate, args.repeats), lambda: data(cfg, args.samples)):
        try:
            _require_memory(cfg, device)
            found = part()
        except Exception as error:
            if getattr(error, "exit_code", None) != DATA:
                raise
            found = {"left_out": str(error).splitlines()[0]}
        figures |= show(found)
    figures |= show({"peak_memory_gb": peak_memory() / 2**30})
    if (runtime.ROOT / "tools" / "comparisons" / f"{name}.py").is_file():
        module = importlib.import_module(f"tools.comparisons.{name}")
        for title, compare in module.COMPARISONS.items():
            print(f"\n{title}")
            figures[title] = show(compare(cfg))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
        print(f"\nwritten to {args.json}")


def show(figures: dict[str, Any]) -> dict[str, Any]:
    """Print figures as aligned lines and return them."""
    for name, value in figures.items():
        print(
            f"{name:<40} {value:.5g}" if isinstance(value, float) else f"{name:<40} {value}",
            flush=True,
        )
    return figures


if __name__ == "__main__":
    guard(main)
