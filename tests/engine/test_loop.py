# SPDX-License-Identifier: Apache-2.0
"""The training loop: exact resumption, accumulation, stopping, guards."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import paddle
import pytest

from engine import checkpoint, errors, evaluate, loader, loop
from engine.loop import Trainer
from tests import toy


def trainer(folder, reader=None, on_step=None, sums=False, **changes) -> Trainer:
    paddle.seed(3)
    model = toy.Model(sums=sums)
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


def test_summed_losses_are_added_over_the_step_and_logged_per_sample(tmp_path):
    """Any cut of 22 samples into batches makes the step of the mean loss at 22 times its rate."""
    options = {"optimizer": "sgd", "epoch": 1}
    runs = [
        trainer(tmp_path, batch_size=22, learning_rate=0.022, **options),
        trainer(tmp_path, batch_size=22, learning_rate=0.001, sums=True, **options),
        trainer(tmp_path, batch_size=4, accumulate=6, learning_rate=0.001, sums=True, **options),
    ]
    losses = []
    for run in runs:
        run.model.dropout.p = 0.0
        losses.append(losses_of(run))
        assert run.last["half"] == pytest.approx(run.last["loss"] / 2)
    assert losses[1:] == [pytest.approx(losses[0], rel=1e-5)] * 2
    mean, *summed = (checkpoint.parameters_of(r.model) for r in runs)
    for name in mean:
        for other in summed:
            np.testing.assert_allclose(other[name], mean[name], atol=1e-6)


def test_clipping_acts_on_the_sum(tmp_path):
    """A limit 22 times as large cuts the gradient of a sum as that of the mean."""
    options = {"optimizer": "sgd", "epoch": 1, "batch_size": 22}
    mean = trainer(tmp_path, learning_rate=0.22, clip_norm=0.1, **options)
    summed = trainer(tmp_path, learning_rate=0.01, clip_norm=2.2, sums=True, **options)
    free = trainer(tmp_path, learning_rate=0.22, **options)
    for run in (mean, summed, free):
        run.model.dropout.p = 0.0
        run.run()
    a, b, c = (checkpoint.parameters_of(r.model) for r in (mean, summed, free))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-6)
        assert np.abs(a[name] - c[name]).max() > 1e-3


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


# ---- validation inside an epoch, patience, debug; an epoch of the toy has 6 steps


def validated(run: Trainer, scores=None) -> list[int]:
    """Steps after which ``run`` validates, filled as it goes; ``scores`` are what it finds."""
    steps: list[int] = []
    scores = iter(scores or range(1000))

    def validate() -> dict[str, float]:
        run.model.eval()
        steps.append(run.state.step)
        return {"score": float(next(scores))}

    run.validate, run.primary = validate, ("score", True)
    return steps


def training_modes(run: Trainer) -> list[bool]:
    modes: list[bool] = []
    forward = run.model.forward
    run.model.forward = lambda batch: (modes.append(run.model.training), forward(batch))[1]
    return modes


@pytest.mark.parametrize(
    ("interval", "expected"),
    [(1, [1, 5, 6, 7, 11, 12]), (2, [1, 5, 7, 11, 12]), (0, [1, 5, 7, 11])],
)
def test_validates_after_the_first_and_every_nth_step_of_an_epoch(tmp_path, interval, expected):
    run = trainer(tmp_path, valid_steps=4, valid_interval=interval)
    steps, modes = validated(run, [1, 5, 2, 3, 4, 0]), training_modes(run)
    run.run()
    assert steps == expected
    assert modes == [True] * 12
    assert (run.state.best, run.state.best_epoch) == (5, 0)
    best = checkpoint.load_state(tmp_path / "toy_best.pdparams")
    last = checkpoint.parameters_of(run.model)
    assert any((best[name] != last[name]).any() for name in last)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("cut_at", [1, 2, 3, 4])
def test_a_resumed_run_validates_each_step_once(tmp_path, cut_at, accumulate):
    options = {"valid_steps": 2, "save_interval": 1, "accumulate": accumulate}
    whole = trainer(tmp_path / "whole", **options)
    expected = validated(whole)
    whole.run()
    run = trainer(tmp_path / "cut", **options)
    steps = validated(run)

    def cut(step: int, terms: dict) -> None:
        if step == cut_at + 1:
            raise Cut

    run.on_step = cut
    with pytest.raises(Cut):
        run.run()
    again = trainer(tmp_path / "cut", **options)
    again.state = checkpoint.resume(str(tmp_path / "cut"), "toy", again.model, again.optimizer)
    more = validated(again)
    again.run()
    assert steps + more == expected
    for name, value in checkpoint.parameters_of(whole.model).items():
        np.testing.assert_array_equal(checkpoint.parameters_of(again.model)[name], value)


def test_a_stop_does_not_wait_for_validation_which_is_made_up_for(tmp_path):
    run = trainer(tmp_path, valid_steps=2)
    run.on_step = lambda step, terms: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None
    steps = validated(run)
    with pytest.raises(errors.Stopped):
        run.run()  # the signal arrives while step 2 is reported, so that step 3 is the last
    assert steps == [1]
    again = trainer(tmp_path, valid_steps=2)
    again.state = checkpoint.resume(str(tmp_path), "toy", again.model, again.optimizer)
    more = validated(again)
    again.run()
    assert more == [3, 5, 6, 7, 9, 11, 12]


def test_training_ends_when_patience_does_and_says_so(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(loop.logger, "info", lambda text, *values: said.append(text % values))
    options = {"epoch": 9, "patience": 2}
    run = trainer(tmp_path, **options)
    steps = validated(run, [1, 3, 3, 4, 4, 2, 9])  # equal is not better
    run.run()
    assert steps == [6, 12, 18, 24, 30, 36] and run.state.epoch == 6
    expected = [
        "training ends before epoch 6: no better score than 4.0000 of epoch 3 in 2 epochs "
        "(TRAIN.patience)"
    ]
    assert [line for line in said if "patience" in line] == expected
    assert (tmp_path / "toy_final.pdparams").is_file()
    said.clear()
    again = trainer(tmp_path, **options)
    again.state = checkpoint.resume(str(tmp_path), "toy", again.model, again.optimizer)
    assert not validated(again) and again.run() == {}
    assert again.state.step == 36 and expected[0] in said


def test_patience_goes_on_where_it_was(tmp_path):
    run = trainer(tmp_path, epoch=3, patience=3)
    validated(run, [5, 1, 1])
    run.run()
    again = trainer(tmp_path, epoch=9, patience=3)
    again.state = checkpoint.resume(str(tmp_path), "toy", again.model, again.optimizer)
    assert validated(again, [1, 1, 1]) == []
    again.run()
    assert again.state.epoch == 4


def test_patience_without_validation_changes_nothing(tmp_path):
    run = trainer(tmp_path, epoch=3, patience=1)
    run.run()
    assert run.state.epoch == 3


def test_debug_trains_and_validates_on_three_batches(tmp_path):
    class Counting(toy.Reader):
        read: set[int] = set()

        def __getitem__(self, i):
            self.read.add(i)
            return super().__getitem__(i)

    reader = Counting()
    run = trainer(tmp_path, reader=reader, debug=True, batch_size=2, epoch=2)
    assert len(losses_of(run)) == 6 and len(reader.read) <= 12
    reader.read.clear()
    records = evaluate.predictions(run.model, reader, batch_size=2, batches=loader.DEBUG_BATCHES)
    scores = evaluate.score(toy.Metric(), reader, records, partial=True)
    assert reader.read == set(range(6)) and len(records) == 6
    assert scores["missing"] == 0 and scores["mse"] > 0
    assert evaluate.score(toy.Metric(), reader, records)["missing"] == 16


class Nested(toy.Reader):
    """Batches with structures and empty arrays."""

    def collate(self, items):
        ids = [item["id"] for item in items]
        meta = [{"boxes": [np.zeros((0, 4)), np.ones((1, 4))], "name": name} for name in ids]
        return super().collate(items) | {"meta": meta, "pairs": np.zeros((0, 5), np.int64)}


@pytest.mark.parametrize("workers", [0, 1])
def test_structures_and_empty_arrays_pass_through_workers(workers):
    (batch,) = loader.load(Nested(), [[0, 1]], workers)
    assert batch["pairs"].shape == (0, 5)
    assert [type(box) for box in batch["meta"][1]["boxes"]] == [np.ndarray] * 2
    assert batch["meta"][1]["name"] == batch["id"][1]


def test_rates_by_epoch_and_incomplete_steps_left_out(tmp_path):
    """Of 6 batches 2 are left over; each step's rate is that of its first batch."""
    rates, recipe = [], toy.recipe(
        tmp_path, epoch=3, batch_size=4, accumulate=4, learning_rate=0.1, schedule="cosine",
        rate_of="epoch", warmup=1, leftovers=False,
    )  # fmt: skip
    run = Trainer(toy.Model(), toy.Reader(), recipe)
    run.on_step = lambda step, _: rates.append(run.optimizer.get_lr())
    run.run()
    assert rates == pytest.approx([0.0, 0.1, 0.05])


def test_a_loss_that_is_not_finite_names_its_terms(tmp_path):
    class Broken(toy.Model):
        def loss(self, outputs, batch):
            terms = super().loss(outputs, batch)
            return terms | {"loss": terms["loss"] + float("nan"), "more": terms["half"] * np.inf}

    run = Trainer(Broken(), toy.Reader(), toy.recipe(tmp_path))
    with pytest.raises(errors.DivergedError, match=r"loss \(more\) is nan at epoch 0, step 0"):
        run.run()


def test_idle_steps_only_count(tmp_path):
    """Nothing moves before the first step; then Adam's correction is that of later ones."""
    found = {}
    for idle in (0, 2):
        paddle.seed(3)
        options = {"epoch": 1, "idle_steps": idle, "adam_eps_mode": "fluid", "weight_decay": 0.1,
                   "optimizer": "adamw", "beta2": 0.9}  # fmt: skip
        run = Trainer(toy.Model(dropout=0.0), toy.Reader(), toy.recipe(tmp_path, **options), "toy")
        before = run.model.hidden.weight.numpy().copy()
        run.on_step = lambda step, terms, idle=idle: found.setdefault((idle, step), terms["loss"])
        run.run()
        found[idle] = np.abs(run.model.hidden.weight.numpy() - before).max()
    assert found[0, 1] == found[2, 1]  # nothing moved before the first step
    assert found[0, 2] != found[2, 2] and found[0] != found[2]
