# SPDX-License-Identifier: Apache-2.0
"""Published weights: find them, fetch them into the cache, fill a network with them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reader.common.raw_arrays import widen_bfloat16

from . import backbone
from .backbone import kept
from .checkpoint import trained_features
from .download import DownloadError, download, unpack, wrong_content
from .errors import WeightsError
from .formats import load_state
from .log import logger

POLL = 1.0  # seconds between two looks at a lock that is taken
STALL = 600.0  # seconds without a new byte after which its holder is taken for hung
SHOWN = 8  # names of a list that stand in a message
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_SUFFIXES = {
    ".pdparams", ".pdckpt", ".pth", ".pt", ".pyth", ".bin", ".pkl", ".safetensors", ".npz"
}  # fmt: skip

Log = Callable[[str], Any]


# ---- where weights are


def cache_folder() -> Path:
    """``~/.paddle/weights``, or ``weights`` inside the folder that VLZOO_HOME names."""
    base = os.environ.get("VLZOO_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".paddle") / "weights"


def resolve(path: str | os.PathLike) -> Path:
    """The file, or folder of one file per variable, that ``--weights`` or ``--pretrain`` means.

    Taken are a file, the prefix of a ``.pdparams`` or ``.pdckpt``, a folder with one weights file
    in it, and a folder with one stream file per variable.

    Raises:
        WeightsError: there is none, or a folder holds several.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    for suffix in (".pdparams", ".pdckpt"):
        if (named := path.with_name(path.name + suffix)).is_file():
            return named
    if not path.is_dir():
        raise WeightsError(
            f"{path}: expected weights (a file, its prefix without .pdparams, or a folder), found "
            "nothing there; check the path"
        )
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
    weights = [f for f in files if f.suffix in _SUFFIXES]
    if len(weights) == 1:
        return weights[0]
    if weights or not files:
        raise WeightsError(
            f"{path}: expected a folder with one weights file, found "
            f"{_names([f.name for f in weights]) or 'an empty folder'}; name the file"
        )
    return path


def fetch(
    files: Sequence[Mapping[str, Any]],
    cache: str | os.PathLike | None = None,
    offline: bool | None = None,
    log: Log | None = None,
) -> Path:
    """Path of the first of ``files`` that is in the cache or can be downloaded into it.

    Args:
        files: alternatives, best first: {"name", "urls"} and, when known, "size" (bytes),
            "sha256" and "note", where else it may be found. When an address is a tar archive and
            the name is not, it is unpacked.
        cache: folder; default: ``cache_folder()``.
        offline: never use the network; default: whether VLZOO_OFFLINE is set to 1.
        log: receives lines for people; default: the toolkit's log.

    Raises:
        WeightsError: none can be had; says where to put the file by hand.
    """
    log = log or logger.info
    folder = Path(cache).expanduser() if cache else cache_folder()
    if not files:
        raise WeightsError("no weights are published for this; train it, or give --weights FILE")
    if found := _cached(folder, files, log):
        return found
    if offline is None:
        offline = os.environ.get("VLZOO_OFFLINE", "").casefold() in ("1", "true", "yes", "on")
    if offline:
        raise WeightsError(_by_hand(folder, files, "offline mode is on", []))
    try:
        if not folder.is_dir():
            log(f"{folder} is created for downloaded weights")
            folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, files, log):
            return _cached(folder, files, log) or _first(folder, files, log)
    except OSError as error:
        raise WeightsError(
            f"cannot write weights to {folder} ({error.strerror or error}); free or change the "
            "folder (VLZOO_HOME names the one above it), or give --weights FILE"
        ) from None


def _cached(folder: Path, files: Sequence[Mapping[str, Any]], log: Log) -> Path | None:
    for file in files:
        path = folder / file["name"]
        if path.is_dir() and any(path.iterdir()):
            return path
        if path.is_file():
            known = {} if _is_archive(file) else file
            wrong = wrong_content(path, known.get("size"), known.get("sha256"))
            if not wrong:
                return path
            log(f"{path} is not used: {wrong}")
    return None


def _is_archive(file: Mapping[str, Any]) -> bool:
    packed = any(url.split("?")[0].endswith(_ARCHIVES) for url in file["urls"])
    return packed and not file["name"].endswith(_ARCHIVES)


def _first(folder: Path, files: Sequence[Mapping[str, Any]], log: Log) -> Path:
    tried: list[str] = []
    unreachable: set[str] = set()
    for file in files:
        target = folder / file["name"]
        for url in file["urls"]:
            server = url.partition("//")[2].partition("/")[0]
            if server in unreachable:
                tried.append(f"{url} (same server)")
                continue
            log(f"Download weights {file['name']} from {url} to {folder}")
            try:
                _obtain(file, url, target)
            except DownloadError as error:
                tried.append(f"{url} ({error})")
                log(f"{url}: {error}")
                if error.unreachable:
                    unreachable.add(server)
            else:
                return target
    raise WeightsError(_by_hand(folder, files, "download failed", tried))


def _obtain(file: Mapping[str, Any], url: str, target: Path) -> None:
    if not _is_archive(file):
        download(url, target, file.get("size"), file.get("sha256"))
        return
    archive = target.with_name(f"{target.name}.tar.gz")
    download(url, archive, file.get("size"), file.get("sha256"))
    try:
        unpack(archive, target)
    finally:
        archive.unlink()


def _by_hand(folder: Path, files: Sequence[Mapping[str, Any]], why: str, tried: list[str]) -> str:
    sources = tried or [url for file in files for url in file["urls"]]
    notes = "".join(f"; {file['note']}" for file in files if "note" in file)
    return (
        f"expected {' or '.join(str(f['name']) for f in files)} in {folder}, found none and {why}: "
        f"{', '.join(sources)}{notes}; put the file at {folder / files[0]['name']} by hand, "
        "or give --weights FILE"
    )


@contextmanager
def _locked(folder: Path, files: Sequence[Mapping[str, Any]], log: Log) -> Iterator[None]:
    """Hold the lock on a download.

    The system frees it when its holder dies; while the holder lives it is waited for, as long as
    bytes keep arriving.
    """
    from filelock import FileLock, Timeout

    path = folder / f"{files[0]['name']}.lock"
    lock = FileLock(path)
    seen, since, told = None, time.monotonic(), False
    while True:
        try:
            lock.acquire(timeout=POLL)
            break
        except Timeout:
            if not told:
                log(f"waiting for another process that downloads to {folder} ({path.name})")
                told = True
        arrived = [(p.name, p.stat().st_size) for p in sorted(folder.glob("*.part"))]
        if arrived != seen:
            seen, since = arrived, time.monotonic()
        elif time.monotonic() - since > STALL:
            raise WeightsError(
                f"{path}: expected the process that holds this lock to go on, found no new data "
                f"for {STALL:.0f} s; end that process, or delete the lock file when there is none"
            )
    try:
        yield
    finally:
        lock.release()


# ---- from arrays to a network


@dataclass
class Report:
    """How a file's arrays met a network's parameters."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # in the network, not in the file
    unexpected: list[str] = field(default_factory=list)  # in the file, not in the network
    misshaped: list[str] = field(default_factory=list)  # with both shapes
    cast: dict[str, int] = field(default_factory=dict)  # "float16 -> float32": how many

    def problems(self, shown: int | None = SHOWN) -> str:
        """The non-empty lists in one line, so many names of each; empty when all is well."""
        lists = {k: getattr(self, k) for k in ("missing", "unexpected", "misshaped")}
        return "; ".join(f"{len(v)} {k}: {_names(v, shown)}" for k, v in lists.items() if v)


def _names(items: Sequence[str], shown: int | None = SHOWN) -> str:
    left = len(items) - len(items[:shown])
    return ", ".join(items[:shown]) + (f", ... and {left} more" if left else "")


def compare(model: Any, state: Mapping[str, np.ndarray]) -> Report:
    """Which arrays of ``state`` fit ``model``, by name, shape and kind of number.

    A name under which the network shares the parameter of another, present name is not missing.
    """
    own, report = kept(model), Report()
    seen = {id(own[name]) for name in state if name in own}
    for name, parameter in own.items():
        if name not in state and id(parameter) not in seen:
            report.missing.append(name)
            seen.add(id(parameter))
    report.unexpected = [name for name in state if name not in own]
    for name in (n for n in own if n in state):
        array, shape, dtype = state[name], tuple(own[name].shape), _dtype(own[name])
        if tuple(array.shape) != shape:
            report.misshaped.append(f"{name} {list(array.shape)} instead of {list(shape)}")
        elif not _fits(array.dtype, dtype):
            report.misshaped.append(f"{name} of type {array.dtype} instead of {dtype}")
        else:
            report.matched.append(name)
            stored = "bfloat16" if _is_bfloat16(array.dtype, dtype) else str(array.dtype)
            if stored != dtype:
                change = f"{stored} -> {dtype}"
                report.cast[change] = report.cast.get(change, 0) + 1
    return report


def _dtype(parameter: Any) -> str:
    return str(parameter.dtype).split(".")[-1]


def _is_bfloat16(stored: np.dtype, wanted: str) -> bool:
    """Paddle's pickles hold bfloat16 as uint16."""
    return "float" in wanted and stored == np.uint16


def _fits(stored: np.dtype, wanted: str) -> bool:
    kind = "f" if "float" in wanted else np.dtype(wanted).kind
    return _is_bfloat16(stored, wanted) or stored.kind.replace("u", "i") == kind.replace("u", "i")


def _set(parameter: Any, array: np.ndarray) -> None:
    import paddle

    dtype = _dtype(parameter)
    if _is_bfloat16(array.dtype, dtype):
        array = widen_bfloat16(array)
    if dtype == "bfloat16":  # numpy has none
        parameter.set_value(paddle.to_tensor(array.astype(np.float32)).astype(dtype))
    else:
        parameter.set_value(array.astype(dtype, copy=False))


def apply_state(
    model: Any,
    state: Mapping[str, np.ndarray],
    *,
    source: str,
    strict: bool = True,
    log: Log | None = None,
) -> Report:
    """Copy ``state`` into the parameters and buffers of ``model``.

    Args:
        source: the file's name for messages.
        strict: anything missing, unexpected or misshaped is an error. Otherwise missing and
            unexpected names are logged only, all of them.

    Raises:
        WeightsError: as above, or nothing at all matches. The network is then unchanged.
    """
    log = log or logger.info
    report = compare(model, state)
    problems = report.problems()
    refused = problems if strict else report.misshaped
    own = kept(model)
    if refused or not report.matched:
        count = len({id(parameter) for parameter in own.values()})
        raise WeightsError(
            f"{source}: expected the {count} parameters of this network, found "
            f"{len(report.matched)} that fit; {problems or 'none at all'}; "
            "use the configuration that these weights belong to"
        )
    for name in report.matched:
        _set(own[name], state[name])
    if problems:
        log(f"{source}: {len(report.matched)} parameters loaded; {report.problems(shown=None)}")
    for change, count in report.cast.items():
        log(f"{source}: {count} parameters converted, {change}")
    return report


def load_into(model: Any, path: str | os.PathLike) -> Report:
    """Find weights, read them, map them to the model's names and apply them.

    Raises:
        WeightsError: as each of these.
    """
    found = resolve(path)
    return apply_state(model, read_for(model, found), source=str(found))


def start_from(model: Any, path: str | os.PathLike, log: Log | None = None) -> Report:
    """Like ``load_into``, of weights that another task or only a part was trained with.

    Parameters that the file lacks keep their initial values, what the network lacks is left out,
    and so are parts of another size whose names begin with one of ``model.task_heads``.

    Raises:
        WeightsError: nothing fits, or another parameter has another size; no such file: also says
            where the files of ``model.initial_weights`` are.
    """
    try:
        found = resolve(path)
    except WeightsError as error:
        notes = [file["note"] for file in getattr(model, "initial_weights", ()) if "note" in file]
        raise WeightsError("; ".join([str(error), *notes])) from None
    state = read_for(model, found)
    own = {name: tuple(value.shape) for name, value in kept(model).items()}
    heads = tuple(getattr(model, "task_heads", ()))
    other = [n for n in state if n.startswith(heads) and own.get(n) != state[n].shape]
    state = {name: value for name, value in state.items() if name not in other}
    if other:
        (log or logger.info)(f"{found}: of another task, left out: {', '.join(other)}")
    return apply_state(model, state, source=str(found), strict=False, log=log)


def read_for(model: Any, path: Path) -> dict[str, np.ndarray]:
    """What the file holds, under the names of ``model``.

    A network may know formats of its own: ``read_file(path)`` gives their arrays, or None.

    Raises:
        WeightsError: unreadable, or trained with another backbone.
    """
    backbone.check(model, trained_features(path), str(path))
    state = model.read_file(path) if hasattr(model, "read_file") else None
    if state is None:
        shapes = {name: tuple(value.shape) for name, value in kept(model).items()}
        state = load_state(path, shapes)
    return model.convert(state)
