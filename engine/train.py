# SPDX-License-Identifier: Apache-2.0
"""What train.py does: build everything, train, say where the results are."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from . import backbone, build, checkpoint, dist, dry_run, evaluate, loader, runtime, weights
from .config import Config
from .errors import ConfigError
from .log import logger
from .loop import Trainer

_KPI_SEED = 1000  # --fix_random_seed
_DEBUG = {"epoch": 2, "log_interval": 1, "valid_interval": 1}


def main(args: Any, cfg: Config) -> None:
    """Train as flags and configuration say, or tell what that will be like."""
    if args.dry_run:
        dry_run.main(cfg)
        return
    if args.fix_random_seed:
        cfg["TRAIN"]["seed"] = _KPI_SEED
    if cfg["TRAIN"]["debug"]:
        folder = str(Path(cfg["TRAIN"]["save_dir"]) / "debug")  # beside real checkpoints
        cfg["TRAIN"].update(_DEBUG, save_dir=folder)
        logger.info("TRAIN.debug: %d batches an epoch, for a check only", loader.DEBUG_BATCHES)
    recipe = cfg.engine_args("TRAIN")
    runtime.select_device(recipe.use_gpu)
    _check_gpus(recipe)
    build.join(cfg)
    reader = build.reader(cfg, "train")
    model = build.model(cfg)
    features = evaluate.identity_of(reader) | backbone.identity(model)
    build.check_sizes(model, loader.first_batch(reader))
    validate, primary = evaluate.validator(cfg, model, features)
    trainer = Trainer(model, reader, recipe, args.model_name or cfg.model_name, validate, primary)
    _start_from(args, trainer)
    evaluate.check_features(trainer.state.features, features, "TRAIN")
    trainer.state.features = features or trainer.state.features
    trainer.state.digest = cfg.digest()
    folder = Path(recipe.save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if dist.process() == 0:
        (folder / f"{trainer.name}_config.yaml").write_text(cfg.dump(), encoding="utf-8")
    if args.is_profiler:
        _profile(trainer, args.profiler_path)
        return
    last = trainer.run()
    if args.fix_random_seed:
        cards = dist.processes()
        steady = trainer.seconds[1:] or trainer.seconds
        print(f"kpis\ttrain_cost_card{cards}\t{last.get('loss')}")
        print(f"kpis\ttrain_speed_card{cards}\t{sum(steady) / max(1, len(steady))}")


def _start_from(args: Any, trainer: Trainer) -> None:
    if args.resume:
        trainer.state = checkpoint.resume(
            args.resume, trainer.name, trainer.model, trainer.optimizer
        )
    elif args.pretrain:
        for path in args.pretrain.split(","):
            weights.start_from(trainer.model, path)
            logger.info("Load pretrain weights from %s", path)


def _check_gpus(recipe: SimpleNamespace) -> None:
    visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d.strip()]
    if recipe.use_gpu and recipe.num_gpus and visible and len(visible) != recipe.num_gpus:
        raise ConfigError(
            f"TRAIN.num_gpus: expected the number of CUDA_VISIBLE_DEVICES ({len(visible)}), found "
            f"{recipe.num_gpus}"
        )


def _profile(trainer: Trainer, folder: str) -> None:
    """Profile a few steps of the first epoch into ``folder`` and return."""
    from paddle import profiler

    first = max(1, trainer.recipe.log_interval)
    profile = profiler.Profiler(
        scheduler=(first, first + 5),
        on_trace_ready=profiler.export_chrome_tracing(folder),
    )

    def step(number: int, _: dict[str, float]) -> None:
        profile.step()
        if number > first + 5:
            raise _Profiled

    trainer.on_step = step
    profile.start()
    with contextlib.suppress(_Profiled):
        trainer.run()
    profile.stop()
    logger.info("profile written to %s", Path(folder).resolve())


class _Profiled(Exception):
    """Enough steps were profiled."""
