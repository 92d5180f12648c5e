# SPDX-License-Identifier: Apache-2.0
"""A system beside what it must beat: ``python tools/baselines.py -c configs/sample/tall.yaml``.

Trains and evaluates the configuration once as it is and once for every input that its reader can
hide (``DATASET.blind``), scores answers without a network besides, and prints one table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from engine import build, config, evaluate, log, runtime
from engine.errors import ConfigError, VLZooError, guard

_DRAWS = 20  # random answers are scored this often


def main() -> None:
    """Run the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("-o", dest="override", action="append", default=[], metavar="A.b=c")
    parser.add_argument("--weights", help="trained weights of the first row, instead of training")
    parser.add_argument("--pretrain", help="weights that all trainings start from, as of train.py")
    parser.add_argument("--metrics", nargs="+", help="columns; default: the metric's own choice")
    parser.add_argument("--save_dir", type=Path, default=Path("data/evaluate_results/baselines"))
    args = parser.parse_args()
    log.setup()
    cfg = config.load(args.config, args.override)
    metric = build.metric(cfg)
    columns = args.metrics or getattr(metric, "columns", [metric.primary])
    rows = {}
    for blind in _blind_values(cfg):
        title = "full model" if blind == "none" else f"{blind}-blind"
        print(f"{title}: running", flush=True)
        rows[title] = _run(cfg, args, blind)
    rows |= _without_network(cfg, metric, args.save_dir / "none")
    print("\n".join(["", *table(rows, columns)]))


def _blind_values(cfg: config.Config) -> list[str]:
    hints = typing.get_type_hints(type(build.reader(cfg, "test")).__init__)
    values = typing.get_args(hints.get("blind"))
    if not values:
        raise ConfigError(f"reader {cfg['DATASET']['name']}: expected an option blind, found none")
    return list(values)


def _run(cfg: config.Config, args: Any, blind: str) -> dict[str, float]:
    """Train (unless weights are given for the full model) and evaluate one row."""
    folder = args.save_dir / blind
    shared = ["-c", args.config, *(x for o in args.override for x in ("-o", o))]
    shared += ["-o", f"DATASET.blind={blind}"]
    weights = args.weights if blind == "none" else None
    if not weights:
        start = ["--pretrain", args.pretrain] if args.pretrain else []
        _call("train.py", [*shared, *start, "--save_dir", str(folder)])
        best = folder / f"{cfg.model_name}_best.pdparams"
        weights = str(best if best.exists() else folder / f"{cfg.model_name}_final.pdparams")
    _call("eval.py", [*shared, "--save_dir", str(folder), "--weights", weights])
    return json.loads((folder / f"{cfg.model_name.upper()}_metrics.json").read_text())


class _RowFailed(VLZooError):
    """A row's process failed; its own error was printed."""


def _call(script: str, arguments: list[str]) -> None:
    command = [sys.executable, str(runtime.ROOT / script), *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode:
        error = _RowFailed(f"{script} {' '.join(arguments)}: failed, see above")
        error.exit_code = done.returncode
        raise error


def _without_network(cfg: config.Config, metric: Any, folder: Path) -> dict[str, dict[str, float]]:
    """Rows of answers that look at nothing: means of random ones, and the commonest one.

    The latter where the metric offers ``frequent(records, references of the training set)``.
    """
    path = folder / f"{cfg.model_name.upper()}_predictions.jsonl"
    records, reader = list(evaluate.read_predictions(path)), build.reader(cfg, "test")
    rows = {}
    if hasattr(metric, "random"):
        draws = [
            evaluate.score(metric, reader, metric.random(records, np.random.default_rng(seed)))
            for seed in range(_DRAWS)
        ]
        rows["random answers"] = {k: float(np.mean([d[k] for d in draws])) for k in draws[0]}
    if hasattr(metric, "frequent"):
        common = metric.frequent(records, build.reader(cfg, "train").references())
        rows["most frequent answer"] = evaluate.score(metric, reader, common)
    return rows


def table(rows: dict[str, dict[str, float]], columns: list[str]) -> list[str]:
    """Markdown lines."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for title, scores in rows.items():
        lines.append(f"| {title} | " + " | ".join(f"{scores[c]:.3f}" for c in columns) + " |")
    return lines


if __name__ == "__main__":
    guard(main)
