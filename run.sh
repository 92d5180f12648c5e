#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One command for everything; the first call installs what is missing into .venv beside this file.

usage="usage: bash run.sh MODE ...
  setup [EXTRA ...]                 install the requirements (extras: nlp demo video metrics log dev)
  train|eval|predict MODEL CONFIG   e.g.  bash run.sh train TALL ./configs/sample/tall.yaml
  export MODEL CONFIG               write a deployable program
  demo-data                         render the sample videos and their annotations
  test                              run all tests
  doctor                            check environment, configuration, data and weights
Arguments after these are passed on to Python. The variables below may be set in the environment."

# Edit these here, or set them for one call: use_gpu=False bash run.sh train ...
pretrain="${pretrain:-}"                  # weights to start from
resume="${resume:-}"                      # checkpoint to go on from; wins over pretrain
save_dir="${save_dir:-./data/checkpoints}"
save_inference_dir="${save_inference_dir:-./data/inference_model}"
use_gpu="${use_gpu:-}"                    # True, False, or empty: the GPU when there is one
fix_random_seed="${fix_random_seed:-False}"
log_interval="${log_interval:-1}"
valid_interval="${valid_interval:-1}"
weights="${weights:-}"                    # weights to evaluate, predict with or export

export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"   # e.g. 0,1,2,3
export FLAGS_fast_eager_deletion_mode="${FLAGS_fast_eager_deletion_mode:-1}"
export FLAGS_eager_delete_tensor_gb="${FLAGS_eager_delete_tensor_gb:-0.0}"
export FLAGS_fraction_of_gpu_memory_to_use="${FLAGS_fraction_of_gpu_memory_to_use:-0.98}"

set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)" || exit 1
here="$(pwd -P)"
venv="$root/.venv"
stamps="$venv/.vlzoo"                     # one copy of each lock file that is fully installed
extras="nlp demo video metrics log dev"
modules="paddle numpy cv2 h5py yaml tqdm filelock tokenizers sentencepiece safetensors requests nltk"

say() { printf '[run.sh] %s\n' "$*" >&2; }
fail() { printf '[run.sh] error: %s\n' "$*" >&2; exit 1; }
misuse() { printf '%s\n\n%s\n' "$1" "$usage" >&2; exit 2; }

# ---- which Python -------------------------------------------------------------------------------

# ready PYTHON MODULE...: can it import all of them, and is its Paddle at least 2.6.2? Imports nothing.
ready() {
  "$1" -c '
import re, sys
from importlib import metadata, util
def version(name):
    try:
        return tuple(int(n) for n in re.findall(r"\d+", metadata.version(name))[:3])
    except metadata.PackageNotFoundError:
        return ()
paddle = max(version("paddlepaddle"), version("paddlepaddle-gpu"))
found = all(util.find_spec(name) for name in sys.argv[1:])
sys.exit(not (sys.version_info >= (3, 10) and paddle >= (2, 6, 2) and found))
' "${@:2}" >/dev/null 2>&1
}

# fits PYTHON NEWEST_MINOR MODULE...: a Python 3.10 to 3.NEWEST_MINOR that has these modules?
fits() {
  "$1" -c '
import sys
from importlib import util
fits = (3, 10) <= sys.version_info[:2] <= (3, int(sys.argv[1]))
sys.exit(not (fits and all(util.find_spec(name) for name in sys.argv[2:])))
' "${@:2}" >/dev/null 2>&1
}

# find_python NEWEST_MINOR MODULE...: prints the newest suitable one
find_python() {
  local name
  for name in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3.10 python3 python; do
    fits "$name" "$@" && { command -v "$name"; return; }
  done
  return 1
}

# stamped LOCK: is this lock file, as it reads now, fully installed in .venv?
stamped() { [ -f "$stamps/$1" ] && [ "$(<"$stamps/$1")" = "$(<"$root/requirements/$1")" ]; }

# installed EXTRA...: does a working .venv hold one build of Paddle and these extras?
installed() {
  local extra
  case "${VLZOO_PADDLE:-auto}" in
    auto) stamped cpu.txt || stamped gpu.txt || return 1 ;;
    *) stamped "$VLZOO_PADDLE.txt" || return 1 ;;
  esac
  for extra in "$@"; do stamped "$extra.txt" || return 1; done
  [ ! -e "$stamps/unfinished" ] && "$venv/bin/python" -c '' 2>/dev/null
}

# ---- installation -------------------------------------------------------------------------------

# Which build of Paddle: prints cpu or gpu. VLZOO_PADDLE=cpu|gpu decides it by hand.
build_of_paddle() {
  local capability
  case "${VLZOO_PADDLE:-auto}" in cpu | gpu) echo "$VLZOO_PADDLE"; return ;; esac
  stamped cpu.txt && { echo cpu; return; }
  if ! command -v nvidia-smi >/dev/null 2>&1 && [ ! -e /proc/driver/nvidia/version ]; then
    echo cpu; return
  fi
  capability="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -n | head -n 1)"
  say "NVIDIA driver found. The newest GPU build in the public registry is 2.6.2: CUDA 11.8 and cuDNN 8.6"
  say "from the system, cards up to compute capability 8.x. Newer builds come from Paddle's own index:"
  say "  .venv/bin/python -m pip uninstall -y paddlepaddle paddlepaddle-gpu"
  say "  .venv/bin/python -m pip install paddlepaddle-gpu==3.3.1 -i INDEX   (INDEX: the install page of paddlepaddle.org.cn)"
  say "run.sh keeps a Paddle that was installed like that."
  if [ "${capability%%.*}" -ge 9 ] 2>/dev/null; then
    say "This card (compute capability $capability) needs a newer build: installing the CPU build meanwhile."
    echo cpu
  elif ! find_python 12 >/dev/null; then
    say "The GPU build needs Python 3.10 to 3.12, which is not here: installing the CPU build meanwhile."
    echo cpu
  else
    echo gpu
  fi
}

make_venv() {  # make_venv NEWEST_MINOR
  local python
  if python="$(find_python "$1" venv ensurepip)"; then
    say "creating .venv with $("$python" -V) ($python)"
    "$python" -m venv --clear "$venv" || fail "could not create $venv; is the folder writable?"
  elif python="$(find_python "$1" venv pip)"; then
    say "creating .venv with $("$python" -V) ($python), without its own pip"
    "$python" -m venv --clear --without-pip "$venv" || fail "could not create $venv; is the folder writable?"
  elif python="$(find_python "$1")"; then
    fail "$python lacks the modules venv and pip; on Debian and Ubuntu: apt-get install python3-venv"
  else
    fail "Python 3.10 to 3.$1 was not found on PATH; install one or name it: PYTHON=/path/to/python bash run.sh ..."
  fi
}

pip_install() {  # pip_install REQUIREMENTS_FILE
  local host flags=(-qq) python
  if [ -t 1 ]; then flags=(); fi   # people get progress bars, logs get errors only
  flags=(${flags[@]+"${flags[@]}"} --disable-pip-version-check --no-input)
  if "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    host=("$venv/bin/python" -m pip)
  else
    python="$(find_python 13 pip)" || fail "no pip for .venv; on Debian and Ubuntu: apt-get install python3-venv"
    host=("$python" -m pip --python "$venv/bin/python")
  fi
  PIP_USER=0 "${host[@]}" install "${flags[@]}" -r "$1"
}

install_lock() {  # install_lock NAME: with its stamp; a Paddle that the user put there is kept
  local lock="$root/requirements/$1.txt" own="$stamps/own.txt"
  stamped "$1.txt" && return 0
  say "installing requirements/$1.txt into .venv"
  : >"$stamps/unfinished"
  grep -v '^paddlepaddle' "$lock" >"$own"
  if [ -d "$venv/lib" ] && ready "$venv/bin/python" paddle && ! ours; then lock="$own"; fi
  pip_install "$lock" || fail "pip could not install requirements/$1.txt (see above); the next call tries again"
  cp "$root/requirements/$1.txt" "$stamps/$1.txt" && rm -f "$stamps/unfinished" "$own"
}
