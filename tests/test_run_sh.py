# SPDX-License-Identifier: Apache-2.0
"""run.sh with a stand-in for Python that installs nothing and notes how it was called."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")

# Probes (-c) succeed unless they ask for a module in $MISSING; the requirements are found in a
# .venv, or anywhere when $READY is set. Every other call is one line of $LOG: words between bars.
STUB = r"""#!/usr/bin/env bash
note() { (IFS='|'; printf '%s\n' "${0##*/}|$*" >>"$LOG"); }
case "$1" in
  -V) echo "Python 3.12.0" ;;
  -c)
    for module in $MISSING; do case " ${*:3} " in *" $module "*) exit 1 ;; esac; done
    case "$2" in
      *metadata.distributions*) echo "${OWN_PADDLE-paddlepaddle==3.3.1}" ;;
      *paddlepaddle*) [[ "$0" == */.venv/* || -n "$READY" ]] ;;
      *"import paddle"*) [[ -z "$BROKEN" ]] || { echo "ImportError: $BROKEN" >&2; exit 1; } ;;
    esac ;;
  -m)
    note "$@"
    if [ "$2" = venv ]; then
      mkdir -p "${!#}/bin" && cp "$0" "${!#}/bin/python"
    elif [ "$2" = pip ]; then
      sleep "${PIP_SECONDS:-0}"
      exit "${PIP_STATUS:-0}"
    else
      exit "${STATUS:-0}"
    fi ;;
  *)
    note "$@"
    note "env:$PWD:$CUDA_VISIBLE_DEVICES:$FLAGS_fraction_of_gpu_memory_to_use"
    [ "$1" != train.py ] || [ -z "$SAVES" ] || : >"$SAVES"
    case "$1" in *.py) [ "$1" != "${FAILS:-train.py}" ] || exit "${STATUS:-0}" ;; esac ;;
esac
"""

TOOLS = ("bash", "cp", "dirname", "env", "flock", "grep", "mkdir", "rm", "sleep", "sort", "tail")


class Repository:
    """A copy of run.sh and the locks in a folder whose name has blanks, and calls of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.root = folder / "my tool kit"
        self.log = folder / "log"
        self.bin = folder / "bin"
        shutil.copytree(ROOT / "requirements", self.root / "requirements")
        shutil.copy(ROOT / "run.sh", self.root)
        self.bin.mkdir()
        for tool in TOOLS:  # nothing else: no real Python, no driver of this machine
            if path := shutil.which(tool):
                (self.bin / tool).symlink_to(path)
        for name in ("python3.12", "python3", "python"):
            self.program(name, STUB)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, *args: str, cwd: Path | None = None, **env: str) -> subprocess.Popen:
        clean = {"PATH": str(self.bin), "HOME": str(self.folder), "LOG": str(self.log)}
        return subprocess.Popen(
            [BASH, str(self.root / "run.sh"), *args], cwd=cwd or self.root, env=clean | env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *args: str, cwd: Path | None = None, **env: str) -> Any:
        process = self.start(*args, cwd=cwd, **env)
        out, err = process.communicate(timeout=30)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def calls(self, start: str = "") -> list[list[str]]:
        """Calls so far whose first word begins with ``start``, without the name of Python."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        words = [line.split("|")[1:] for line in lines]
        return [w for w in words if w[0].startswith(start)]

    def installs(self) -> list[str]:
        """Names of the lock files given to pip so far."""
        return [Path(w[-1]).name for w in self.calls("-m") if w[1] == "pip"]


@pytest.fixture
def repo(tmp_path):
    return Repository(tmp_path)


CONFIG = "./configs/tall.yaml"


def test_train_passes_name_config_variables_and_further_arguments(repo):
    done = repo("train", "TALL", CONFIG, "--epoch", "2", "-o", "TRAIN.seed=3", READY="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"train TALL {CONFIG}  "
    assert repo.calls("train.py") == [[
        "train.py", "--model_name=TALL", f"--config={CONFIG}", "--fix_random_seed=False",
        "--epoch", "2", "-o", "TRAIN.seed=3",
    ]]  # fmt: skip


def test_variables_come_from_the_environment(repo):
    values = {"use_gpu": "False", "resume": "w/a b", "pretrain": "p", "save_dir": "out dir",
              "log_interval": "5", "valid_interval": "0", "fix_random_seed": "True"}  # fmt: skip
    done = repo("train", "TALL", CONFIG, READY="1", CUDA_VISIBLE_DEVICES="2,3", **values)
    assert done.stdout.splitlines()[0] == f"train TALL {CONFIG} w/a b p"
    (call,) = repo.calls("train.py")
    assert call[3:] == ["--use_gpu=False", "--fix_random_seed=True", "--save_dir=out dir",
                        "--log_interval=5", "--valid_interval=0", "--resume=w/a b"]  # fmt: skip
    assert repo.calls("env:")[0][0] == f"env:{repo.root}:2,3:0.98"


def test_variables_may_be_edited_in_place(repo):
    script = repo.root / "run.sh"
    text = script.read_text()
    for old, new in (('weights="${weights:-}"', 'weights="my.pdparams"'),
                     ('use_gpu="${use_gpu:-}"', 'use_gpu=True')):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    script.write_text(text)
    repo("eval", "TALL", CONFIG, READY="1")
    (call,) = repo.calls("eval.py")
    assert call[3:] == ["--use_gpu=True", "--weights=my.pdparams"]


@pytest.mark.parametrize("visible, seen", [(None, "0"), ("", ""), ("1", "1")])
def test_first_gpu_unless_the_user_says_otherwise(repo, visible, seen):
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    repo("predict", "TALL", CONFIG, READY="1", **env)
    assert repo.calls("env:")[0][0].split(":")[2] == seen


@pytest.mark.parametrize("mode", ["train", "eval", "predict"])
def test_exit_status_is_that_of_python(repo, mode):
    done = repo(mode, "TALL", CONFIG, READY="1", FAILS=f"{mode}.py", STATUS="75")
    assert done.returncode == 75


def test_paths_of_the_callers_folder_are_meant_there(repo):
    work = repo.folder / "some where"
    work.mkdir()
    for name in ("my.mp4", "my.yaml", "w.pdparams"):
        (work / name).touch()
    repo("predict", "TALL", "my.yaml", "--video", "my.mp4", "--query=my.mp4", "--weights=w",
         "--save_dir", "out", "--filelist", "configs/list", cwd=work, READY="1")  # fmt: skip
    (call,) = repo.calls("predict.py")
    assert call[2:] == [
        f"--config={work}/my.yaml", f"--video={work}/my.mp4", "--query=my.mp4",
        f"--weights={work}/w", f"--save_dir={work}/out", "--filelist=configs/list",
    ]  # fmt: skip
    assert repo.calls("env:")[0][0].startswith(f"env:{repo.root}:")


def test_export_and_its_old_name(repo):
    for mode in ("export", "inference"):
        repo(mode, "TALL", CONFIG, READY="1", weights="w")
    first, second = repo.calls("tools/export.py")
    assert first == second
    assert first[3:] == ["--save_dir=./data/inference_model", "--weights=w"]


def test_unknown_mode(repo):
    done = repo("fly", "TALL", CONFIG)
    assert done.returncode == 2
    assert done.stdout == "Not implemented mode  fly\n"
    assert "usage: bash run.sh MODE" in done.stderr


@pytest.mark.parametrize(
    "args, message",
    [
        ((), "expected a mode"),
        (("train",), "expected a model and a configuration file, found: nothing"),
        (("eval", "TALL"), "expected a model and a configuration file, found: TALL"),
        (("setup", "tea"), "unknown extra: tea"),
    ],
)
def test_misuse_ends_with_the_usage(repo, args, message):
    done = repo(*args)
    assert done.returncode == 2
    assert done.stderr.startswith(message + "\n\nusage:")
    assert not repo.calls()


def test_help(repo):
    done = repo("--help")
    assert done.returncode == 0
    assert "doctor" in done.stdout


# ---- installation


def test_first_call_installs_and_the_second_does_not(repo):
    for _ in range(2):
        done = repo("eval", "TALL", CONFIG)
        assert done.returncode == 0, done.stderr
    assert repo.installs() == ["cpu.txt"]
    assert len(repo.calls("eval.py")) == 2
    assert len([w for w in repo.calls("-m") if w[1] == "venv"]) == 1
    assert "installing" not in done.stderr


def test_nothing_is_installed_where_the_requirements_are(repo):
    done = repo("setup", READY="1")
    assert done.returncode == 0
    assert not repo.calls()
    assert not (repo.root / ".venv").exists()


def test_test_mode_adds_the_development_tools_and_passes_arguments_on(repo):
    repo("setup")
    done = repo("test", "-k", "a b", STATUS="5")
    assert done.returncode == 5
    assert repo.installs() == ["cpu.txt", "dev.txt"]
    assert repo.calls("-m")[-1] == ["-m", "pytest", "-k", "a b"]
    assert repo("test").returncode == 0  # everything: on all cores
    assert repo.calls("-m")[-1] == ["-m", "pytest", "--numprocesses=auto", "--dist=worksteal"]


def test_a_changed_lock_is_installed_into_the_same_venv(repo):
    repo("setup", "nlp")
    lock = repo.root / "requirements/cpu.txt"
    lock.write_text(lock.read_text() + "another==1\n")
    repo("setup", "nlp")
    assert repo.installs() == ["cpu.txt", "nlp.txt", "cpu.txt"]
    assert len([w for w in repo.calls("-m") if w[1] == "venv"]) == 1


def test_an_interrupted_installation_is_made_anew_with_its_extras(repo):
    repo("setup", "log")
    lock = repo.root / "requirements/log.txt"
    lock.write_text(lock.read_text() + "another==1\n")
    failed = repo("setup", "log", PIP_STATUS="1")
    assert failed.returncode == 1
    assert "pip could not install requirements/log.txt" in failed.stderr
    assert repo("setup").returncode == 0
    assert repo.installs() == ["cpu.txt", "log.txt", "log.txt", "cpu.txt", "log.txt"]
    assert len([w for w in repo.calls("-m") if w[1] == "venv"]) == 2


def test_a_venv_whose_python_is_gone_is_made_anew(repo):
    repo("setup")
    (repo.root / ".venv/bin/python").unlink()
    assert repo("setup").returncode == 0
    assert repo.installs() == ["cpu.txt", "cpu.txt"]


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
def test_two_calls_at_once_install_once(repo):
    both = [repo.start("setup", PIP_SECONDS="0.5") for _ in range(2)]
    assert [p.wait(timeout=30) for p in both] == [0, 0]
    for process in both:
        process.communicate()
    assert repo.installs() == ["cpu.txt"]


def test_without_ensurepip_the_pip_of_the_base_is_used(repo):
    done = repo("setup", MISSING="ensurepip")
    assert done.returncode == 0, done.stderr
    assert "--without-pip" in repo.calls("-m")[0]


def test_without_any_pip_the_package_to_install_is_named(repo):
    done = repo("setup", MISSING="ensurepip pip", PYTHON="python3.12")
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not repo.calls()


NVIDIA = "#!/usr/bin/env bash\necho {}\n"


def test_the_gpu_build_where_a_driver_is(repo):
    repo.program("nvidia-smi", NVIDIA.format("8.6"))
    done = repo("setup")
    assert repo.installs() == ["gpu.txt"]
    assert "Paddle's own index" in done.stderr


def test_the_cpu_build_for_cards_that_the_gpu_build_cannot_drive(repo):
    repo.program("nvidia-smi", NVIDIA.format("9.0"))
    done = repo("setup")
    assert repo.installs() == ["cpu.txt"]
    assert "compute capability 9.0" in done.stderr


def test_the_build_may_be_chosen(repo):
    repo("setup")
    repo("setup", VLZOO_PADDLE="gpu")
    assert repo.installs() == ["cpu.txt", "gpu.txt"]
    repo("setup")
    assert repo.installs() == ["cpu.txt", "gpu.txt"]


def test_a_paddle_that_the_user_installed_is_kept(repo):
    repo("setup")
    (repo.root / ".venv/.vlzoo/cpu.txt").write_text("of an earlier lock\n")
    repo("setup", OWN_PADDLE="paddlepaddle-gpu==3.3.1")
    assert repo.installs() == ["cpu.txt", "kept"]


def test_a_paddle_that_does_not_start_is_reported(repo):
    done = repo("setup", BROKEN="libgomp.so.1: cannot open shared object file")
    assert done.returncode == 1
    assert "libgomp.so.1" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# ---- sample configurations

SAMPLE = "./configs/sample/tall.yaml"
PREPARE = "data/dataset/sample/prepare.py"


def scripts(repo) -> list[str]:
    return [w[0] for w in repo.calls() if w[0].endswith(".py")]


def test_training_a_sample_makes_data_trains_and_evaluates(repo):
    done = repo("train", "TALL", SAMPLE, "--epoch=1", "-o", "MODEL.hidden_size=9", READY="1")
    assert done.returncode == 0, done.stderr
    assert scripts(repo) == [PREPARE, "train.py", "eval.py"]
    (call,) = repo.calls("eval.py")
    assert call[1:] == ["--model_name=TALL", f"--config={SAMPLE}", "-o", "MODEL.hidden_size=9"]


@pytest.mark.parametrize("saved", ["TALL_best.pdparams", "TALL.pdparams"])
def test_the_evaluated_weights_are_those_of_the_folder_asked_for(repo, saved):
    save_dir = repo.folder / "out"
    save_dir.mkdir()
    repo("train", "TALL", SAMPLE, f"--save_dir={save_dir}", READY="1", SAVES=f"{save_dir}/{saved}")
    assert f"--weights={save_dir}/{saved}" in repo.calls("eval.py")[0]


def test_a_failed_step_ends_the_sample_run(repo):
    assert repo("train", "TALL", SAMPLE, READY="1", STATUS="5").returncode == 5
    assert scripts(repo) == [PREPARE, "train.py"]
    assert repo("eval", "TALL", SAMPLE, READY="1", FAILS=PREPARE, STATUS="3").returncode == 3
    assert "eval.py" not in scripts(repo)
