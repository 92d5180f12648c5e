# SPDX-License-Identifier: Apache-2.0
"""The training loop: exact resumption, accumulation, stopping, guards."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import paddle
import pytest

from engine import checkpoint, errors, loader
from engine.loop import Trainer
from tests import toy


def trainer(folder, reader=None, on_step=None, **changes) -> Trainer:
    paddle.seed(3)
    model = toy.Model()
    recipe = toy.recipe(folder, **changes)
    return Trainer(model, reader or toy.Reader(), recipe, "toy", on_step=on_step)


def losses_of(run: Trainer) -> list[float]:
    losses = []
    run.on_step = lambda step, terms: losses.append(terms["loss"])
    run.run()
    return losses


class Cut(Exception):
    pass


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_resume_repeats_the_uninterrupted_run_bit_for_bit(tmp_path, workers, accumulate):
    options = {"num_workers": workers, "accumulate": accumulate, "clip_norm": 1.0, "epoch": 3}
    whole = losses_of(trainer(tmp_path / "whole", **options))
    final = checkpoint.parameters_of
    cut_at = 3 if accumulate == 1 else 1  # inside the first epoch
    run = trainer(tmp_path / "cut", save_interval=1, **options)
    first: list[float] = []

    def stop(step: int, terms: dict) -> None:
        first.append(terms["loss"])
        if step == cut_at + 1:
            raise Cut

    run.on_step = stop
    with pytest.raises(Cut):
        run.run()
    again = trainer(tmp_path / "cut", **options)
    again.state = checkpoint.resume(str(tmp_path / "cut"), "toy", again.model, again.optimizer)
    assert (again.state.step, again.state.batch) == (cut_at, cut_at * accumulate)
    assert first[:cut_at] + losses_of(again) == whole
    uninterrupted = checkpoint.load_state(tmp_path / "whole" / "toy_final.pdparams")
    for name, value in final(again.model).items():
        np.testing.assert_array_equal(value, uninterrupted[name])


def test_accumulation_gives_the_gradient_of_the_mean_over_its_samples(tmp_path):
    """22 samples: 6 batches of 4, the last of 2, make the same step as one batch of 22."""
    whole = trainer(tmp_path, batch_size=22, optimizer="sgd", epoch=1)
    parts = trainer(tmp_path, batch_size=4, accumulate=6, optimizer="sgd", epoch=1)
    for run in (whole, parts):
        run.model.dropout.p = 0.0
        run.run()
    a, b = (checkpoint.parameters_of(r.model) for r in (whole, parts))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-7)


def test_plan_weights_of_every_window_sum_to_one_over_processes():
    for world in (1, 2, 3):
        plans = [
            loader.plan(list(range(23)), 5, accumulate=2, rank=r, world=world) for r in range(world)
        ]
        used = sorted(i for plan in plans for batch in plan for i in batch.indices)
        assert used == list(range(23))
        weights = sum(b.weight for plan in plans for b in plan)
        assert weights == pytest.approx(3)  # windows: 10, 10 and 3 samples
        assert [b.last for b in plans[0]] == [False, True, False, True, True]


def test_sigterm_saves_and_raises_with_exit_code_75(tmp_path):
    def kill(step: int, terms: dict) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    run = trainer(tmp_path, on_step=kill)
    with pytest.raises(errors.Stopped) as stopped:
        run.run()
    assert stopped.value.exit_code == 75
    state = json.loads((tmp_path / "toy_step3.pdstate").read_text())["progress"]
    assert (state["step"], state["batch"], state["epoch"]) == (3, 3, 0)


def test_nan_names_the_samples(tmp_path):
    with pytest.raises(errors.DivergedError, match="s7"):
        trainer(tmp_path, reader=toy.Reader(nan_at=7)).run()


def test_exploding_gradient_is_caught_before_the_update(tmp_path):
    run = trainer(tmp_path, clip_norm=1.0)
    run.model.loss = lambda out, batch: {"loss": (out * 0).sqrt().sum()}
    with pytest.raises(errors.DivergedError, match="gradient norm"):
        run.run()
    assert all(np.isfinite(v).all() for v in checkpoint.parameters_of(run.model).values())


def test_files_after_every_epoch_best_and_kept(tmp_path):
    scores = iter([{"mse": 3.0}, {"mse": 1.0}, {"mse": 2.0}])
    run = trainer(tmp_path, epoch=3, keep=1)
    run.validate, run.primary = lambda: next(scores), ("mse", False)
    (tmp_path / "notes.txt").write_text("mine")
    run.run()
    names = {p.name for p in tmp_path.iterdir()}
    assert {"toy.pdparams", "toy_final.pdparams", "toy_best.pdparams", "notes.txt"} <= names
    assert {"toy_epoch2.pdparams", "toy_epoch2.pdopt", "toy_epoch2.pdstate"} <= names
    assert not any("epoch0" in n or "epoch1" in n or n.endswith(".tmp") for n in names)
    assert (tmp_path / "toy_latest").read_text() == "toy_epoch2\n"
    assert run.state.best == 1.0
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(x["tag"] == "valid" for x in lines) == 3
    assert len(paddle.load(str(tmp_path / "toy_final.pdparams"))) == 4


def test_nothing_to_train_on(tmp_path):
    reader = toy.Reader(samples=3)
    reader.drop_last = True
    with pytest.raises(errors.DataError, match="No iteration was executed"):
        trainer(tmp_path, reader=reader).run()


def test_resume_inside_an_epoch_refuses_another_batch_size(tmp_path):
    run = trainer(tmp_path, save_interval=1)
    run.on_step = lambda step, terms: (_ for _ in ()).throw(Cut) if step == 3 else None
    with pytest.raises(Cut):
        run.run()
    again = trainer(tmp_path, batch_size=5)
    again.state = checkpoint.resume(str(tmp_path), "toy", again.model, again.optimizer)
    with pytest.raises(errors.ConfigError, match="batch_size"):
        again.run()


@pytest.mark.parametrize("workers", [0, 2])
def test_reader_errors_reach_the_main_process_as_they_are(tmp_path, workers):
    class Broken(toy.Reader):
        def __getitem__(self, i):
            if i == 5:
                raise errors.DataError("clip 5 is gone")
            return super().__getitem__(i)

    with pytest.raises(errors.DataError, match="clip 5 is gone"):
        trainer(tmp_path, reader=Broken(), num_workers=workers).run()


def test_amp_on_cpu_is_refused(tmp_path):
    with pytest.raises(errors.ConfigError, match="needs a GPU"):
        trainer(tmp_path, amp="bf16")
