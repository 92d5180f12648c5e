# SPDX-License-Identifier: Apache-2.0
"""Look at everything a run needs and say how to mend what is wrong.

    python tools/doctor.py [--config C] [--json]

Without a configuration: the machine and the installation. With one: its keys, the data of every
split and the weights, too. Exit code 0: usable; 2: installation or configuration; 3: data;
4: weights. Runs where nothing is installed yet.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.errors import OK, USAGE, WeightsError, exit_code, guard  # noqa: E402

GIB = 2**30
REQUIRED = {  # module -> distribution
    "numpy": "numpy",
    "yaml": "PyYAML",
    "cv2": "opencv-python-headless",
    "h5py": "h5py",
    "tqdm": "tqdm",
    "filelock": "filelock",
    "requests": "requests",
    "nltk": "nltk",
    "jinja2": "jinja2",
    "tokenizers": "tokenizers",
    "sentencepiece": "sentencepiece",
    "safetensors": "safetensors",
}
EXTRAS = {
    "nlp": ("paddlenlp", "text backbones by community name"),
    "demo": ("gradio", "the demonstration page"),
    "video": ("av", "a second video decoder"),
    "metrics": ("pycocoevalcap", "METEOR 1.5, with Java"),
    "log": ("visualdl", "training curves"),
    "dev": ("pytest", "tests and lint"),
}


@dataclass
class Finding:
    """One thing looked at. ``state``: ok, note (works, could be better) or error."""

    topic: str
    state: str
    text: str
    fix: str = ""
    code: int = OK  # exit code that an error stands for


def error(topic: str, text: Any, fix: str, code: int = USAGE) -> Finding:
    """A finding that prevents use; only its first line is shown."""
    return Finding(topic, "error", str(text).strip().splitlines()[0], fix, code)


# ---- machine and installation


def check_machine() -> Iterator[Finding]:
    """Python, cores, memory, shared memory, disk."""
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield Finding("python", "ok", f"{version} ({sys.executable})")
    else:
        yield error("python", f"{version}; expected 3.10 to 3.13", "install one; run.sh finds it")
    from engine.runtime import usable_cores

    cores, memory = usable_cores(), memory_bytes()
    text = f"{cores} usable cores" + (f", {memory / GIB:.1f} GiB free memory" if memory else "")
    if memory and memory < 2 * GIB:
        yield Finding("machine", "note", text, "close other programs or lower --batch_size")
    else:
        yield Finding("machine", "ok", text)
    yield free_space("shared memory", Path("/dev/shm"), 0.25, "docker run --shm-size=2g ...")
    yield free_space("disk", ROOT, 2, "free some space; --save_dir may lie on another disk")


def memory_bytes() -> int | None:
    """Memory that can still be had, the limit of a container included."""
    try:
        text = Path("/proc/meminfo").read_text()
        free = int(re.search(r"MemAvailable:\s+(\d+) kB", text)[1]) * 1024
    except (OSError, TypeError):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        return min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        return free


def free_space(topic: str, folder: Path, needed: float, fix: str) -> Finding:
    """A note when fewer than ``needed`` GiB are free in ``folder``."""
    try:
        free = shutil.disk_usage(folder).free / GIB
    except OSError:
        return Finding(topic, "ok", f"no {folder} on this system")
    text = f"{free:.1f} GiB free in {folder}"
    return Finding(topic, "note", text, fix) if free < needed else Finding(topic, "ok", text)


def check_packages() -> Iterator[Finding]:
    """The required packages and the optional ones."""
    missing = [dist for module, dist in REQUIRED.items() if util.find_spec(module) is None]
    if missing:
        yield error("packages", f"missing: {', '.join(missing)}", "bash run.sh setup")
    else:
        versions = ", ".join(f"{d} {version(d)}" for d in ("numpy", "opencv-python-headless"))
        yield Finding("packages", "ok", f"all required ones; {versions}")
    for extra, (module, purpose) in EXTRAS.items():
        if util.find_spec(module) is None:
            text, fix = f"not installed ({purpose})", f"if wanted: bash run.sh setup {extra}"
            yield Finding(f"extra {extra}", "note", text, fix)
        else:
            yield Finding(f"extra {extra}", "ok", purpose)


def version(distribution: str) -> str:
    """Installed version, or '?'."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "?"


def check_paddle() -> Iterator[Finding]:
    """Whether Paddle starts and computes, on which device, with which switches."""
    from engine import runtime

    if util.find_spec("paddle") is None:
        yield error("paddle", "not installed in this interpreter", "bash run.sh setup")
        return
    own_threads = os.environ.get("OMP_NUM_THREADS")
    switches = runtime.prepare()
    try:
        runtime.import_paddle()
        import paddle

        paddle.ones([2, 2]).matmul(paddle.ones([2, 2])).numpy()
    except Exception as problem:  # a wheel for another CUDA, a missing system library, ...
        fix = "apt-get install libgomp1, or install Paddle anew: rm -rf .venv; bash run.sh setup"
        yield error("paddle", f"does not start: {problem or type(problem).__name__}", fix)
        return
    found = tuple(int(n) for n in re.findall(r"\d+", paddle.__version__)[:3])
    if found and any(found) and found < (2, 6, 2):
        yield error("paddle", f"{paddle.__version__}; expected 2.6.2 or newer", "bash run.sh setup")
    else:
        yield Finding("paddle", "ok", f"{paddle.__version__}, {build_of(paddle)}; it computes")
    yield check_gpu(paddle)
    text = ", ".join(f"{name}={value}" for name, value in switches.items())
    if own_threads and own_threads.isdigit() and int(own_threads) < runtime.usable_cores():
        yield Finding("runtime", "note", text, "unset OMP_NUM_THREADS to use all cores")
    else:
        yield Finding("runtime", "ok", text)


def build_of(paddle: Any) -> str:
    """CPU or CUDA build, in words."""
    return f"CUDA {paddle.version.cuda()} build" if paddle.is_compiled_with_cuda() else "CPU build"


def check_gpu(paddle: Any) -> Finding:
    """Driver, cards, and whether this build of Paddle can use them."""
    cards = nvidia_cards()
    if not cards:
        return Finding("gpu", "ok", "no NVIDIA driver here: everything runs on the CPU")
    text = "; ".join(cards)
    if not paddle.is_compiled_with_cuda():
        fix = "run.sh explains the GPU builds: VLZOO_PADDLE=gpu bash run.sh setup"
        return Finding("gpu", "note", f"{text}; this Paddle is a CPU build", fix)
    if not paddle.device.cuda.device_count():
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        fix = f"CUDA_VISIBLE_DEVICES is {shown!r}; name a card that exists, or mend the driver"
        return Finding("gpu", "note", f"{text}; Paddle sees none of them", fix)
    major, minor = paddle.device.cuda.get_device_capability()
    if major >= 9 and paddle.version.cuda().startswith("11."):
        fix = "install a build for CUDA 12 from Paddle's own index (paddlepaddle.org.cn)"
        return error("gpu", f"{text}; compute capability {major}.{minor} needs CUDA 12", fix)
    return Finding("gpu", "ok", text)


def nvidia_cards() -> list[str]:
    """Name, memory and driver of each card, as nvidia-smi tells them."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]


# ---- configuration, data, weights


def check_config(path: str, overrides: list[str], name: str | None) -> Iterator[Finding]:
    """The configuration's keys, then what it names: data of every split, weights."""
    try:
        from engine import build, config

        cfg = config.load(path, overrides, name)
        keys = config.schema()["MODEL"]
        model = build.model_class(cfg.model_name)
        values = {("MODEL", k): v for k, v in cfg["MODEL"].items() if k not in keys}
        config.bind(model, values, cfg.marks)
        build.metric(cfg)
    except Exception as problem:
        yield failed("config", problem, f"correct {path}, or see configs/_base_.yaml for the keys")
        return
    yield Finding("config", "ok", f"{path}: {cfg.model_name}, every key is known")
    for split in ("train", "valid", "test", "infer"):
        if split != "valid" or cfg.has_valid:
            yield check_split(cfg, split, path)
    yield check_weights(cfg, model)
    for role, options in cfg["DATASET"]["extractors"].items():
        if weights := options.get("weights"):
            yield check_extractor(role, options["name"], weights)


def failed(topic: str, problem: Exception, fix: str) -> Finding:
    """The finding for an exception: its own code for a user's mistake; a bug stays a bug."""
    code = exit_code(problem)
    if isinstance(problem, ImportError):
        return error(topic, f"not looked at: {problem}", "bash run.sh setup")
    if not isinstance(getattr(problem, "exit_code", None), int):
        raise problem
    return error(topic, problem, fix, code)


def check_split(cfg: Any, split: str, path: str) -> Finding:
    """Open the data of a split as a run would."""
    from engine import build

    try:
        count = len(build.reader(cfg, split))
    except Exception as problem:
        finding = failed(f"data {split}", problem, where_from(str(problem), path))
        if split == "infer":  # a run of one's own video needs none of it
            finding.state, finding.code = "note", OK
        return finding
    return Finding(f"data {split}", "ok", f"{count} items")


def where_from(problem: str, path: str) -> str:
    """Where the data come from: the sample command, or the README of the data set's folder."""
    if "sample" in Path(path).parts:
        return "bash run.sh demo-data"
    named = re.findall(r"data/dataset/([\w-]+)", problem)
    readmes = [f"data/dataset/{n}/README.md" for n in named]
    known = [r for r in readmes if (ROOT / r).exists()]
    return f"see {known[0] if known else 'data/dataset/*/README.md'}"


def check_weights(cfg: Any, model: type) -> Finding:
    """The weights for evaluation and prediction, read if they are here."""
    from engine import weights
    from engine.formats import load_state

    path = cfg["WEIGHTS"]["path"]
    files = cfg["WEIGHTS"]["files"] or model.published_weights
    remarks: list[str] = []  # on damaged files in the cache
    try:
        found = weights.resolve(path) if path else weights.fetch(files, None, True, remarks.append)
    except WeightsError:
        if path:
            text, fix = f"not here yet: {path}", "training writes them; or give --weights FILE"
        elif files:
            names = " or ".join(file["name"] for file in files)
            text = "; ".join([f"not in {weights.cache_folder()} yet: {names}", *remarks])
            fix = "eval and predict download them; without a network put the file there"
        else:
            text, fix = "none are published", "train first, or give --weights FILE"
        return Finding("weights", "note", text, fix)
    try:
        load_state(found)
    except Exception as problem:
        return failed("weights", problem, f"remove {found}, then train or download again")
    return Finding("weights", "ok", f"{found} can be read")


def check_extractor(role: str, name: str, path: str) -> Finding:
    """The weights of a frozen feature network, which raw video and text need."""
    from engine import config

    topic = f"extractor {role}"
    if config.find(path).exists():
        return Finding(topic, "ok", f"{name}: {path}")
    fix = "needed for raw video and text only; data/dataset/*/README.md says where they come from"
    return Finding(topic, "note", f"{name}: no {path}", fix)


# ---- command


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", help="also check this file, its data and weights")
    parser.add_argument("--model_name", help="as for train.py; default: MODEL.name of the file")
    parser.add_argument("-o", dest="override", action="append", default=[], metavar="A.b=c")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser.parse_args(argv)


def examine(args: argparse.Namespace) -> list[Finding]:
    """All findings."""
    findings = [*check_machine(), *check_packages(), *check_paddle()]
    if args.config:
        findings += check_config(args.config, args.override, args.model_name)
    return findings


def show(findings: list[Finding]) -> None:
    """The findings for people."""
    for f in findings:
        print(f"{f.state:<6} {f.topic:<15} {f.text}")
        if f.fix:
            print(f"{'':<22} -> {f.fix}")
    errors = sum(f.state == "error" for f in findings)
    print(f"\n{errors} to mend" if errors else "\nusable")


def main() -> None:
    """Examine, show, exit with the code of the first error."""
    args = parse()
    findings = examine(args)
    code = next((f.code for f in findings if f.state == "error"), OK)
    if args.json:
        print(json.dumps({"exit_code": code, "findings": [asdict(f) for f in findings]}, indent=2))
    else:
        show(findings)
    sys.exit(code)


if __name__ == "__main__":
    guard(main)
