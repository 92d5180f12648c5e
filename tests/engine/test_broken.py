# SPDX-License-Identifier: Apache-2.0
"""Items that cannot be loaded: left out and told, within a budget, never replaced."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from engine import errors, evaluate, loader
from engine.loop import Trainer
from reader.common.errors import BrokenSample
from reader.common.errors import DataError as ReaderError
from tests import toy


class Reader(toy.Reader):
    """Some items are broken, or end everything."""

    def __init__(self, broken=(), fatal=(), **options):
        super().__init__(**options)
        self.broken, self.fatal = set(broken), set(fatal)

    def __getitem__(self, i):
        if i in self.broken:
            raise BrokenSample(f"s{i}.mp4: expected a video,\nfound none")
        if i in self.fatal:
            raise ReaderError(f"line {i}: expected a question")
        return super().__getitem__(i)


def train(folder, reader, **changes) -> Trainer:
    paddle.seed(3)
    run = Trainer(toy.Model(), reader, toy.recipe(folder, **changes), "toy")
    run.run()
    return run


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_without_them(tmp_path, workers, caplog):
    bad = [3, 8, 9, 10, 11]
    reader = Reader(bad)
    reader.order = lambda epoch: list(range(22))  # so that 8 to 11 are a whole batch
    run = train(tmp_path, reader, max_bad=5, num_workers=workers)
    lines = (tmp_path / "bad_samples.txt").read_text().splitlines()
    assert lines == [f"s{i}.mp4: expected a video, found none" for i in bad]  # once in two epochs
    assert run.state.step == 12 and np.isfinite(run.last["loss"])


def test_the_budget_ends_training(tmp_path):
    with pytest.raises(errors.DataError, match="at most 1 items that cannot be loaded, found 2"):
        train(tmp_path, Reader([3, 4]), max_bad=1)
    assert len((tmp_path / "bad_samples.txt").read_text().splitlines()) == 2
    with pytest.raises(errors.DataError, match=r"TRAIN\.max_bad"):  # none is allowed by default
        train(tmp_path / "other", Reader([3]))


def test_a_resumed_run_keeps_its_list(tmp_path):
    (tmp_path / "bad_samples.txt").write_text("s9.mp4: expected a video, found none\n")
    with pytest.raises(errors.DataError, match="found 3"):
        train(tmp_path, Reader([2, 5]), max_bad=2)


def test_gradients_are_those_of_the_others(tmp_path):
    """A batch without its broken item trains like a batch that never had it."""
    results = []
    for reader, order in ((Reader([2]), [0, 1, 2, 3]), (Reader(), [0, 1, 3])):
        reader.order = lambda epoch, order=order: order
        folder = tmp_path / str(len(order))
        results.append(train(folder, reader, max_bad=1, epoch=1).model.out.weight.numpy())
    assert np.array_equal(*results)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_has_no_record_of_them(workers, caplog):
    reader = Reader([0, 1, 7])
    records = evaluate.predictions(toy.Model(), reader, batch_size=2, num_workers=workers)
    assert [r["id"] for r in records] == [f"s{i}" for i in range(22) if i not in (0, 1, 7)]
    assert evaluate.score(toy.Metric(), reader, records)["missing"] == 3
    said = [r.getMessage() for r in caplog.records]
    assert sum("cannot be loaded: s" in line for line in said) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_other_errors_end_everything(workers):
    with pytest.raises(errors.DataError, match="line 5: expected a question"):
        list(loader.load(Reader([4], [5]), [[4, 5, 6]], workers))


def test_sizes_are_checked_on_the_first_that_loads():
    assert loader.first_batch(Reader([0, 1]))["id"] == ["s2"]
    assert loader.first_batch(Reader(range(22))) == {}
