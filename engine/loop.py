# SPDX-License-Identifier: Apache-2.0
"""The training loop of all systems.

A run is a function of its configuration: sample order, dropout and initialisation derive from the
seed and the position, never from what happened before. So a resumed run repeats an
uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from . import broken, dist, loader, optim
from .checkpoint import Checkpoints, Progress
from .errors import ConfigError, DataError, DivergedError, Stopped
from .log import Curves, clock, logger
from .log import progress as progress_bar


@dataclass
class Trainer:
    """Trains ``model`` on ``reader`` with the recipe of a TRAIN section.

    Args:
        validate: called as validate() -> {name: number}; None: no validation.
        primary: name of the number that chooses the best epoch, and whether higher is better.
    """

    model: Any
    reader: Any
    recipe: SimpleNamespace
    name: str = "model"
    validate: Callable[[], dict[str, float]] | None = None
    primary: tuple[str, bool] = ("", True)
    state: Progress = field(default_factory=Progress)
    on_step: Callable[[int, dict[str, float]], None] | None = None

    def __post_init__(self) -> None:
        self.rates = optim.Rates(self.model, self.recipe)
        self.optimizer = optim.build(self.model, self.recipe, self.rates)
        self.parameters = [p for p in self.model.parameters() if not p.stop_gradient]
        self.checkpoints = Checkpoints(self.recipe.save_dir, self.name, self.recipe.keep)
        self.amp, self.scaler = _precision(self.recipe, self.model, self.optimizer)
        self.steps_per_epoch, self.begins = 1, [0.0]  # the latter: see loader.Batch
        self._samples_per_step = self.recipe.batch_size * self.recipe.accumulate
        self._sums = getattr(self.model, "loss_sums_samples", False)
        self._coupled = getattr(self.model, "loss_couples_samples", False)
        self._terms: list[str] = []  # names of the loss terms, once they are known
        self.received = 0  # signal that reached this process
        self.stop_signal = 0  # signal that all processes know of
        self.last: dict[str, float] = {}
        self.seconds: list[float] = []  # of this epoch's steps

    def run(self) -> dict[str, float]:
        """Train to the last epoch; returns the last step's loss terms.

        Raises:
            DataError: not a single batch. DivergedError: loss or gradient not finite.
            Stopped: SIGTERM arrived; the position was saved.
        """
        if self._coupled and dist.world_size() > 1 and dist.process() == 0:
            logger.warning(
                "the loss couples the samples of a batch: %d processes give other results than one",
                dist.world_size(),
            )
        dist.broadcast(self.parameters)
        self._check_plan()
        folder = Path(self.recipe.save_dir)
        self.curves = Curves(folder, self.recipe.visualdl, enabled=dist.process() == 0)
        self.broken = broken.Training(folder, self.recipe.max_bad, dist.rank())
        if not self.state.step:
            optim.idle_steps(self.optimizer, self.parameters, self.recipe.idle_steps)
        with self._listening():
            for epoch in range(self.state.epoch, self.recipe.epoch):
                if self._out_of_patience():
                    logger.info(
                        "training ends before epoch %d: no better %s than %.4f of epoch %d in %d "
                        "epochs (TRAIN.patience)",
                        epoch, self.primary[0], self.state.best, self.state.best_epoch,
                        self.recipe.patience,
                    )  # fmt: skip
                    break
                self._epoch(epoch)
                if not self.last:
                    raise DataError(
                        f"expected items to train on, found none that can be loaded: see "
                        f"{self.broken.path}"
                    )
                self._end_of_epoch(epoch)
        if dist.process() == 0:
            self.checkpoints.export("", self.model, self.state.features)
            path = self.checkpoints.export("final", self.model, self.state.features)
            logger.info("training finished: %s", path.resolve())
        self.curves.close()
        return self.last

    def step_on(self, data: dict) -> dict[str, float]:
        """One optimiser step on one collated batch; returns the model's own loss terms."""
        window = _Window()
        self._forward_backward(loader.Batch([], 1.0, True), data, window)
        self._update(window)
        return window.terms

    def _plan(self, epoch: int) -> list[loader.Batch]:
        order = loader.training_order(self.reader, epoch, self.recipe.seed)
        if self.recipe.debug:
            order = order[: loader.DEBUG_BATCHES * self.recipe.batch_size]
        return loader.plan(
            order,
            self.recipe.batch_size,
            accumulate=self.recipe.accumulate,
            drop_last=getattr(self.reader, "drop_last", False),
            leftovers=self.recipe.leftovers,
            rank=dist.rank(),
            world=dist.world_size(),
        )

    def _check_plan(self) -> None:
        """A position inside an epoch only means something under the plan it was saved with."""
        now = {
            "samples": len(self.reader),
            "batch_size": self.recipe.batch_size,
            "accumulate": self.recipe.accumulate,
            "seed": self.recipe.seed,
        }
        if self.state.batch and self.state.plan != now:
            raise ConfigError(
                f"--resume: stopped inside epoch {self.state.epoch} with {self.state.plan}, "
                f"found {now}; use the same values, or resume from the end of an epoch"
            )
        self.state.plan = now
        self.begins = [b.begin for b in self._plan(0) if b.last]
        self.steps_per_epoch = len(self.begins)
        if self.recipe.batch_size < dist.world_size():
            raise ConfigError(
                f"TRAIN.batch_size: expected at least one sample for each of {dist.world_size()} "
                f"processes, found {self.recipe.batch_size}"
            )
        if not self.steps_per_epoch:
            raise DataError(
                f"No iteration was executed: {len(self.reader)} samples make no batch of "
                f"{self.recipe.batch_size}; lower --batch_size or check the data"
            )

    def _epoch(self, epoch: int) -> None:
        if hasattr(self.reader, "set_epoch"):
            self.reader.set_epoch(epoch)
        self.model.train()
        self.seconds = []
        plan = self._plan(epoch)
        done, batches = plan[: self.state.batch], plan[self.state.batch :]
        stream = loader.load(
            self.reader, [b.indices for b in batches if b.indices], self.recipe.num_workers
        )
        rate = self._rate()
        counter = self.state.step if self.recipe.schedule != "constant" else "-"
        logger.info("------- learning rate [%g], learning rate counter [%s] -----", rate, counter)
        steps = sum(batch.last for batch in done)  # of this epoch
        self._validate_inside(steps)  # when a signal came between the last step and this
        window = _Window()
        for batch in progress_bar(batches, desc=f"epoch {epoch}"):
            data = window.load(stream) if batch.indices else {}
            self.broken.add(data.pop(loader.BROKEN, []))
            if self._can_use(data):
                self._forward_backward(batch, data, window)
            self.state.batch += 1
            if batch.last:
                self._update(window)
                self._report(epoch, window)
                self._stop_if_asked()
                steps += 1
                self._validate_inside(steps)
                self._save_if_due()
                window = _Window()

    def _can_use(self, data: dict) -> bool:
        """Is there anything to compute on? Coupled processes wait for one another: all or none."""
        if not self._coupled:
            return bool(data)
        return dist.sum_values([float(bool(data))]) == [dist.world_size()]

    def _forward_backward(self, batch: loader.Batch, data: dict, window: _Window) -> None:
        import paddle

        # Dropout depends on the position alone: a resumed run draws the same masks.
        position = self.state.step * self.recipe.accumulate + window.batches
        paddle.seed((self.recipe.seed * 1_000_003 + position) * dist.world_size() + dist.rank())
        tensors = loader.to_tensors(data)
        with self.amp():
            terms = self.model.loss(self.model(tensors), tensors)
        values = {k: float(v) for k, v in terms.items()}
        ids = data.get("id", [])
        if not math.isfinite(values["loss"]):
            parts = [k for k, v in values.items() if k != "loss" and not math.isfinite(v)]
            raise DivergedError(
                f"loss{_of(parts)} is {values['loss']} at epoch {self.state.epoch}, step "
                f"{self.state.step}; samples: {_some(ids)}; check their features, lower the "
                "learning rate or set clip_norm"
            )
        if self._sums:  # the step's sum is that of its parts; what is logged is a mean over samples
            self.scaler.scale(terms["loss"]).backward()
            window.add(values, batch.weight / max(1, len(batch.indices)), ids)
        else:
            parts = batch.parts if self.recipe.accumulate_sum else 1
            (self.scaler.scale(terms["loss"]) * (batch.weight * parts)).backward()
            window.add(values, batch.weight, ids)

    def _update(self, window: _Window) -> None:
        """One optimiser step on the gradients of a window of batches."""
        dist.sum_gradients(self.parameters)
        if self.scaler.is_enable():
            self.scaler.unscale_(self.optimizer)
        norm = optim.clip_gradients(self.parameters, self.recipe.clip_norm)
        if norm is not None and not math.isfinite(norm) and not self.scaler.is_enable():
            raise DivergedError(
                f"gradient norm is {norm} at epoch {self.state.epoch}, step {self.state.step}; "
                f"samples: {_some(window.ids)}; lower the learning rate"
            )
        self.rates.set(self.optimizer, *self._place())
        taken = self.state.step + self.recipe.idle_steps
        optim.set_fluid_epsilon(self.optimizer, self.recipe, taken)
        if self.scaler.is_enable():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.clear_grad(set_to_zero=False)  # zeros would cost two passes over memory
        self.state.step += 1

    def _rate(self) -> float:
        return optim.learning_rate(*self._place(), self.recipe)

    def _place(self) -> tuple[float, float]:
        """Where training is and where it ends, in optimiser steps or in epochs."""
        step, steps = self.state.step, self.steps_per_epoch
        if self.recipe.rate_of == "step":
            return step, steps * self.recipe.epoch
        return step // steps + self.begins[step % steps], self.recipe.epoch

    def _report(self, epoch: int, window: _Window) -> None:
        window.finish()
        self.seconds.append(window.seconds)
        # On every step, so that all processes take part and all learn of a signal to any of them.
        if not self._terms:  # a process whose first samples are broken knows of none
            self._terms = sorted(set().union(*dist.gather(list(window.terms))))
        local = [window.terms.get(n, 0.0) for n in self._terms] + [float(self.received)]
        *values, received = dist.sum_values(local)
        self.stop_signal = int(received)
        self.last = dict(zip(self._terms, values, strict=True))
        if self.on_step:
            self.on_step(self.state.step, self.last)
        every, done = self.recipe.log_interval, (self.state.step - 1) % self.steps_per_epoch
        if not every or done % every or not self.last:  # nothing of the first step was loaded
            return
        left = self.steps_per_epoch * self.recipe.epoch - self.state.step
        mean = sum(self.seconds[-50:]) / len(self.seconds[-50:])
        terms = ", ".join(f"{k} = {v:.4f}" for k, v in self.last.items() if k != "loss")
        logger.info(
            "[TRAIN %s] Epoch %d, iter %d, time %.3f, \tLoss = %.4f, %s%slr = %.3g, ips = %.1f, "
            "reader %.3f s, eta %s, mem %.1f GB",
            clock(), epoch, done, window.seconds, self.last["loss"], terms, ", " if terms else "",
            self.optimizer.get_lr(), self._samples_per_step / max(window.seconds, 1e-9),
            window.waited, _duration(left * mean), peak_memory() / 2**30,
        )  # fmt: skip
        extra = {
            "epoch": epoch,
            "lr": self.optimizer.get_lr(),
            "seconds": window.seconds,
            "reader": window.waited,
        }
        self.curves.add("train", self.state.step, self.last | extra)

    def _stop_if_asked(self) -> None:
        if self.stop_signal:
            self._save(f"step{self.state.step}")
            raise Stopped(
                f"stopped by a signal after saving step {self.state.step}; go on with "
                f"--resume {self.recipe.save_dir}"
            )

    def _save_if_due(self) -> None:
        every = self.recipe.save_interval
        if every and self.state.step % every == 0:
            self._save(f"step{self.state.step}")

    def _validate_inside(self, steps: int) -> None:
        """Validate after ``steps`` optimiser steps of an epoch if it is due and was not done."""
        every, state = self.recipe.valid_steps, self.state
        if not (self.validate and every and steps) or state.validated == state.step:
            return
        if (steps - 1) % every == 0:
            self._choose_best(self.validate())
            state.validated = state.step
            self.model.train()

    def _out_of_patience(self) -> bool:
        """Did the last TRAIN.patience epochs bring no better validation score?"""
        patience, state = self.recipe.patience, self.state
        return 0 < patience < state.epoch - state.best_epoch and state.best is not None

    def _end_of_epoch(self, epoch: int) -> None:
        steady = self.seconds[1:] or self.seconds
        if steady:
            mean = sum(steady) / len(steady)
            logger.info("[TRAIN] Epoch %d training finished, average time: %.4f", epoch, mean)
        interval, last = self.recipe.valid_interval, epoch + 1 == self.recipe.epoch
        if self.validate and interval and (last or (epoch + 1) % interval == 0):
            self._choose_best(self.validate())
        self.state.epoch, self.state.batch = epoch + 1, 0
        self._save(f"epoch{epoch}")

    def _choose_best(self, scores: dict[str, float]) -> None:
        self.curves.add("valid", self.state.step, scores)
        name, higher = self.primary
        score = scores.get(name)
        if score is None:
            return
        best = self.state.best
        if best is None or (score > best if higher else score < best):
            self.state.best, self.state.best_epoch = score, self.state.epoch
            if dist.process() == 0:
                self.checkpoints.export("best", self.model, self.state.features)

    def _save(self, tag: str) -> None:
        if dist.process() == 0:
            self.checkpoints.save(tag, self.model, self.optimizer, self.state)
        dist.barrier()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Note SIGTERM instead of dying from it; the step in progress is finished first."""

        def note(number: int, _: Any) -> None:
            self.received = number

        try:
            before = signal.signal(signal.SIGTERM, note)
        except ValueError:  # not the main thread: signals are somebody else's
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


class _Window:
    """The batches of one optimiser step: loss terms, samples, times."""

    def __init__(self) -> None:
        self.terms: dict[str, float] = {}
        self.ids: list[str] = []
        self.batches = 0
        self.seconds = self.waited = 0.0
        self._mark = time.perf_counter()

    def load(self, stream: Iterator[dict]) -> dict:
        """The next batch; the wait for it counts as the reader's."""
        start = time.perf_counter()
        data = next(stream)
        self.waited += time.perf_counter() - start
        return data

    def add(self, terms: dict[str, float], weight: float, ids: Any) -> None:
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + weight * value
        self.ids += list(ids)
        self.batches += 1

    def finish(self) -> None:
        self.seconds = time.perf_counter() - self._mark


def _some(ids: list[str], limit: int = 8) -> str:
    more = f" and {len(ids) - limit} more" if len(ids) > limit else ""
    return ", ".join(map(str, ids[:limit])) + more


def _of(parts: list[str]) -> str:
    """The terms of the loss that are to blame."""
    return f" ({', '.join(parts)})" if parts else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:d}:{minutes % 60:02d}:{rest:02d}"


def peak_memory() -> int:
    """Largest memory of this process so far, in bytes: the GPU's when one is in use."""
    import paddle

    if paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.max_memory_allocated()
    try:  # unlike ru_maxrss, this does not begin with the parent's
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _precision(recipe: SimpleNamespace, model: Any, optimizer: Any) -> tuple[Callable, Any]:
    """The autocast context and the loss scaler that TRAIN.amp asks for."""
    import paddle

    kinds = {"off": None, "bf16": "bfloat16", "fp16": "float16"}
    if recipe.amp not in kinds or recipe.amp_level not in ("O1", "O2"):
        raise ConfigError(
            f"TRAIN.amp, amp_level: expected off, bf16 or fp16 and O1 or O2, found {recipe.amp}, "
            f"{recipe.amp_level}"
        )
    dtype = kinds[recipe.amp]
    scaler = paddle.amp.GradScaler(enable=recipe.amp == "fp16")
    if dtype is None:
        return contextlib.nullcontext, scaler
    if not paddle.device.get_device().startswith("gpu"):
        raise ConfigError(
            f"TRAIN.amp: {recipe.amp} needs a GPU, Paddle has no such kernels on CPU; set it to off"
        )
    if recipe.amp_level == "O2":
        paddle.amp.decorate(model, optimizer, level="O2", dtype=dtype)
    return lambda: paddle.amp.auto_cast(level=recipe.amp_level, dtype=dtype), scaler
