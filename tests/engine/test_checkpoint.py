# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: whole or not at all, whenever the process dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine import checkpoint, errors, optim
from engine.checkpoint import Progress
from tests import toy

ROOT = Path(__file__).resolve().parents[2]

# Saves value 2 over value 1 and dies at the N-th call that touches the disk.
_DYING = """
import os, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np
from engine import checkpoint
left = int(sys.argv[2])
def dying(function):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped
def dying_write(save):
    # half of the bytes reach the file before the process dies
    def wrapped(file, values):
        global left
        left -= 1
        if left < 0:
            file.write(b"half a file"); file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return save(file, values)
    return wrapped
os.replace, os.fsync = dying(os.replace), dying(os.fsync)
checkpoint.save_state = dying_write(checkpoint.save_state)
folder = Path(sys.argv[1])
value = np.full([50], 2.0, np.float32)
progress, moments = checkpoint.Progress(step=2), {{"w_moment1_0": value * 10}}
checkpoint.save(folder / "m_last", {{"w": value}}, moments, progress)
checkpoint.replace_text(folder / "m_latest", "m_last\\n")
"""


def _save(folder: Path, number: float) -> None:
    value = np.full([50], number, np.float32)
    progress = Progress(step=int(number))
    checkpoint.save(folder / "m_last", {"w": value}, {"w_moment1_0": value * 10}, progress)
    checkpoint.replace_text(folder / "m_latest", "m_last\n")


def test_kill_at_every_write_leaves_the_old_or_the_new_checkpoint(tmp_path):
    seen, script = set(), _DYING.format(root=str(ROOT))
    for deaths in range(40):
        folder = tmp_path / str(deaths)
        _save_first(folder)
        done = subprocess.run([sys.executable, "-c", script, str(folder), str(deaths)], timeout=60)
        prefix = checkpoint.find(folder, "m")
        parameters, optimiser, progress = checkpoint.load(prefix)
        assert progress.step in (1, 2)
        assert set(parameters["w"]) == {progress.step}
        assert set(optimiser["w_moment1_0"]) == {progress.step * 10}
        assert set(np.load(checkpoint.parameters_file(prefix), allow_pickle=True)["w"]) == {
            progress.step
        }
        seen.add(progress.step)
        if done.returncode == 0:
            break
        assert done.returncode == -9
    assert done.returncode == 0 and deaths > 8 and seen == {1, 2}


def _save_first(folder: Path) -> None:
    folder.mkdir()
    _save(folder, 1)


def test_files_of_different_checkpoints_are_not_mixed(tmp_path):
    _save(tmp_path, 1)
    stale = (tmp_path / "m_last.pdopt").read_bytes()
    _save(tmp_path, 2)
    (tmp_path / "m_last.pdopt").write_bytes(stale)
    with pytest.raises(errors.WeightsError, match=r"m_last\.pdopt"):
        checkpoint.load(tmp_path / "m_last")


def test_find_accepts_folder_prefix_and_files(tmp_path):
    _save(tmp_path, 1)
    prefix = tmp_path / "m_last"
    for given in (tmp_path, prefix, f"{prefix}.pdparams", f"{prefix}.pdstate"):
        assert checkpoint.find(given, "m") == prefix
    with pytest.raises(errors.WeightsError, match="expected a checkpoint prefix"):
        checkpoint.find(tmp_path / "nothing", "m")


def test_save_removes_nothing_else(tmp_path):
    (tmp_path / "keep.me").write_text("x")
    _save(tmp_path, 1)
    assert (tmp_path / "keep.me").exists() and os.listdir(tmp_path)


_GOLDEN = ROOT / "tests" / "golden" / "tall" / "ckpt_a"


@pytest.mark.parametrize(
    ("given", "entries"),
    [
        ("TALL", 16),  # prefix with .pdopt: two moments and two beta powers of four parameters
        ("TALL.pdparams", 16),
        ("TALL_final.pdckpt", 16),
        ("TALL_final.pdparams", 0),  # the published form holds parameters only
        ("per_var", 0),
    ],
)
def test_resume_from_files_of_older_releases(given, entries, monkeypatch):
    from models import get_model

    model = get_model("tall")(24, 10, 16, 12)
    optimizer = optim.build(model, toy.recipe("unused", adam_eps_mode="fluid"))
    used = []
    restore = checkpoint.restore_optimiser
    monkeypatch.setattr(
        checkpoint, "restore_optimiser", lambda *a: used.append(restore(*a)) or used[0]
    )
    progress = checkpoint.resume(str(_GOLDEN / given), "TALL", model, optimizer)
    assert progress == Progress() and used == [entries]
    golden = np.load(_GOLDEN.parent / "e2e_train_a.npz")
    for name, value in checkpoint.parameters_of(model).items():
        np.testing.assert_array_equal(value, golden[f"after/{name}"])


def test_master_weights_are_kept_under_structured_names():
    model = toy.Model()
    names = {n: p.name for n, p in model.named_parameters()}

    class Optimizer:
        """What Paddle's optimisers hold under autocast O2."""

        def __init__(self):
            import paddle

            masters = {p.name: paddle.ones(p.shape) * 3 for p in model.parameters()}
            moment = {f"{names['out.bias']}_moment1_0": paddle.ones([2])}
            self.state = {"master_weights": masters, **moment}

        def state_dict(self):
            return dict(self.state)

        def set_state_dict(self, state):
            self.state = state

    _, saved = checkpoint.state_of(model, Optimizer())
    assert set(saved) == {f"{n}_master_weight" for n in names} | {"out.bias_moment1_0"}
    other = Optimizer()
    assert checkpoint.restore_optimiser(model, other, saved) == len(saved)
    assert set(other.state["master_weights"]) == set(names.values())
    assert other.state[f"{names['out.bias']}_moment1_0"].tolist() == [1.0, 1.0]
