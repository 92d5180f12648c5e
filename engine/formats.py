# SPDX-License-Identifier: Apache-2.0
"""Weights files of all kinds as a dictionary of numpy arrays, and back to ``.pdparams``.

What a file is follows from its content, never from its name. Known: Paddle's pickle (Python 2 and
3), Paddle's nameless binary stream (release 1.6, ``.pdckpt`` with optimiser variables included), a
folder of such streams, PyTorch files (zip and legacy), pickles of numpy dictionaries (Caffe2,
Detectron), safetensors and ``.npz``. No file can run code: pickles go through the allow-list
unpickler.
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from reader.common import safe_pickle, torch_files
from reader.common.raw_arrays import array_at

from .errors import WeightsError
from .streams import Shapes, State, name_tensors, read_stream

_WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "params", "weights",
    "blobs",
)  # fmt: skip
_NAME_TABLE, _SPLIT_TABLE = "StructuredToParameterName@@", "UnpackBigParamInfor@@"
SAFE_TYPES = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4",
    "I64": "<i8", "U64": "<u8", "F16": "<f2", "BF16": "<bf16", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_FOREIGN = {
    b"\x93NUMPY": "a single numpy array; put named arrays into one .npz",
    b"\x89HDF": "an HDF5 file; export it as .npz or safetensors",
    b"\x1f\x8b": "a gzip archive; unpack it and give the file inside",
    b"BZh": "a bzip2 archive; unpack it and give the file inside",
    b"\xfd7zXZ": "an xz archive; unpack it and give the file inside",
}


def load_state(path: str | os.PathLike, expected: Shapes | None = None) -> State:
    """Parameters in the file or folder ``path``: name -> array (read-only, native byte order).

    bfloat16 becomes float32 (except in Paddle's pickles, which hold it as uint16). Large arrays of
    PyTorch and safetensors files stay in the mapped file until they are used.

    Args:
        expected: name -> shape of the parameters; needed by the binary stream, which has no names.

    Raises:
        WeightsError: missing, damaged, unknown or unsafe file.
    """
    return load_checkpoint(path, expected)[0]


def load_checkpoint(path: str | os.PathLike, expected: Shapes | None = None) -> tuple[State, State]:
    """As ``load_state``, and beside it the optimiser's variables of a stream or folder of streams.

    Those are in ``.pdckpt`` files, under Paddle 1.x names (``<parameter>_moment1_0``, ...); other
    formats give none.
    """
    path = Path(path)
    if path.is_dir():
        state, optimiser = _read_folder(path, expected)
    else:
        state, optimiser = _read_file(path, expected)
    for array in (*state.values(), *optimiser.values()):
        array.flags.writeable = False
    return state, optimiser


def load_object(path: str | os.PathLike) -> Any:
    """Everything that a pickle or PyTorch file holds, nesting kept, tensors as numpy arrays."""
    with _opened(Path(path)) as (file, data):
        kind = _sniff(Path(path), data)
        if kind not in ("pickle", "torch"):
            raise WeightsError(f"{path}: expected a pickle or PyTorch file, found {kind}")
        tree, array, _ = _open_tree(str(path), kind, file, data)
        return _plain(tree, array, {})


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of a weights file, each read when it is asked for, as they are stored.

    They are views of the mapped file where that can be, and bfloat16 comes as uint16.

    Args:
        read: name -> function that gives the array.
        metadata: texts that a safetensors file holds beside its arrays.
    """

    def __init__(
        self, path: Path, data: mmap.mmap, read: dict[str, Callable[[], np.ndarray]],
        metadata: dict[str, str] | None = None,
    ):  # fmt: skip
        self.path, self.metadata, self._data, self._read = path, metadata or {}, data, read

    def __getitem__(self, name: str) -> np.ndarray:
        read = self._read[name]
        with _told(self.path):
            return read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)

    def release(self) -> None:
        """Give back the memory of what was read; arrays that are still in use read it again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._data.madvise(mmap.MADV_DONTNEED)


def open_state(path: str | os.PathLike) -> Arrays:
    """The parameters in a file, of which only those are read that are asked for.

    That saves memory with PyTorch and safetensors files; others are read as a whole.

    Raises:
        WeightsError: as ``load_state``; for a single array when it is asked for.
    """
    path = Path(path)
    with _opened(path) as (file, data):
        kind = _sniff(path, data)
        if kind == "safetensors":
            entries, metadata = _safe_entries(path, data)
            read = {name: partial(_stored, data, *entry) for name, entry in entries.items()}
            return Arrays(path, data, read, metadata)
        if kind == "torch":
            tree, _, view = _open_tree(str(path), kind, file, data)
            found = (_search(tree) or {}).items()
            tensors = {str(n): v for n, v in found if isinstance(v, torch_files.Tensor)}
            return Arrays(path, data, {n: partial(view, v) for n, v in tensors.items()})
    state = load_state(path)
    return Arrays(path, data, {name: partial(state.get, name) for name in state})


def save_state(target: str | os.PathLike | BinaryIO, state: Mapping[str, Any]) -> None:
    """Write ``state`` so that ``paddle.load`` reads it: a pickle (protocol 4) of name -> array.

    A path is replaced in one step; an open file is only written to.
    """
    values = {k: np.asarray(v, order="C") if _is_array(v) else v for k, v in state.items()}
    if not isinstance(target, (str, os.PathLike)):
        pickle.dump(values, target, protocol=4)
        return
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            pickle.dump(values, file, protocol=4)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def text_page(head: bytes) -> str | None:
    """What the beginning of a file is when it is text, which no weights file is; else None."""
    text = head.decode("utf-8", "ignore").lstrip("\ufeff \t\r\n").lower()
    if re.match(r"<(!doctype|html|head|body|\?xml|error)", text):
        return "a web page or error message of the server"
    if text.startswith("version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    printable = head.isascii() and all(c >= 32 or c in b"\t\r\n\f" for c in head)
    return f"text ({head[:30].decode()!r}...)" if printable and head else None


# ---- which format


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, mmap.mmap]]:
    """The file and its mapping; what goes wrong inside becomes a WeightsError."""
    with _told(path), open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise WeightsError(f"{path}: expected weights, found an empty file; fetch it again")
        yield file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What an unreadable, unsafe or damaged file raises inside becomes a WeightsError."""
    try:
        yield
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except safe_pickle.DataError as error:
        raise WeightsError(str(error)) from None
    except torch_files.DAMAGE as error:
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise WeightsError(
            f"{path}: expected weights, found a damaged or incomplete file ({why}); "
            "delete it and fetch it again"
        ) from None


def _sniff(path: Path, data: mmap.mmap) -> str:
    """pickle, torch, npz, stream or safetensors."""
    head = data[:512]
    if head.startswith(b"PK\3\4"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(n.endswith("data.pkl") for n in names):
            return "torch"
        if names and all(n.endswith(".npy") for n in names):
            return "npz"
        raise WeightsError(
            f"{path}: expected weights, found a zip archive; unpack it and give the file inside"
        )
    # Before pickles: the length that a safetensors file begins with may look like one.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100 << 20:
        return "safetensors"
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        magic = torch_files.LEGACY_MAGIC.to_bytes(10, "little")
        return "torch" if magic in head[:24] else "pickle"
    if re.match(rb"\(d|\(l|ccollections\n|[}\]](q|r|\()", head):  # protocols 0 and 1
        return "pickle"
    if head[:4] == bytes(4) and int.from_bytes(head[4:12], "little") < 16:
        return "stream"
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise WeightsError(f"{path}: expected weights, found {what}")
    if head[257:262] == b"ustar":
        raise WeightsError(
            f"{path}: expected weights, found a tar archive; unpack it and give the file inside"
        )
    what = text_page(head) or f"an unknown format (first bytes {head[:8].hex(' ')})"
    raise WeightsError(
        f"{path}: expected weights (.pdparams, .pth, safetensors, .npz, ...), found {what}; "
        "delete it and fetch the right file"
    )


def _read_file(path: Path, expected: Shapes | None) -> tuple[State, State]:
    with _opened(path) as (file, data):
        kind = _sniff(path, data)
        if kind == "stream":
            return name_tensors(path, list(read_stream(data)), expected)
        if kind == "safetensors":
            return _read_safetensors(path, data), {}
        if kind == "npz":
            return _read_npz(path, len(data)), {}
        tree, array, _ = _open_tree(str(path), kind, file, data)
        return _find_state(path, tree, array), {}


# ---- pickles and PyTorch files


def _open_tree(path: str, kind: str, file: BinaryIO, data: mmap.mmap) -> tuple[Any, Any, Any]:
    """The object, and what reads its tensors: as plain arrays, as they are stored."""
    if kind == "pickle":
        return safe_pickle.load_stream(file, name=path), None, None
    if data[:4] == b"PK\3\4":
        with zipfile.ZipFile(file) as archive:
            opened = torch_files.read_zip(path, data, archive)
    else:
        opened = torch_files.read_legacy(path, data, file)
    return opened.tree, opened.array, opened.view


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic, torch_files.Tensor))


def _plain(value: Any, array: Any, seen: dict[int, Any]) -> Any:
    """The tree with numpy arrays for tensors; what occurs twice is converted once."""
    value = _untuple(value)
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, torch_files.Tensor):
        made = array(value)
    elif isinstance(value, dict):
        made = {k: _plain(v, array, seen) for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        made = type(value)(_plain(v, array, seen) for v in value)
    else:
        return value
    seen[id(value)] = made
    return made


def _find_state(path: Path, tree: Any, array: Any) -> State:
    """The parameters inside a checkpoint's object."""
    found = _search(tree)
    if found is None:
        keys = f" with {list(tree)[:5]}"[:120] if isinstance(tree, dict) else ""
        raise WeightsError(
            f"{path}: expected a dictionary of arrays, found {type(tree).__name__}{keys}; "
            "save a state dict"
        )
    state = {}
    for key, value in _join_split(found).items():
        value = _untuple(value)
        if _is_array(value):
            value = array(value) if isinstance(value, torch_files.Tensor) else np.asarray(value)
            name = key.decode() if isinstance(key, bytes) else str(key)
            state[name] = _native(value)
    if all(name.startswith("module.") for name in state):  # PyTorch's data parallel wrapper
        state = {name[len("module.") :]: value for name, value in state.items()}
    return state


def _native(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _untuple(value: Any) -> Any:
    """Paddle writes tensors of nested objects as (name, array)."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        return value[1]
    return value


def _search(tree: Any, depth: int = 0) -> dict | None:
    if not isinstance(tree, dict) or depth > 4:
        return None
    for key in _WRAPPERS:
        inner = _search(tree.get(key), depth + 1)
        if inner is not None:
            return inner
    if any(isinstance(_untuple(v), (np.ndarray, torch_files.Tensor)) for v in tree.values()):
        return tree
    inner = [found for v in tree.values() if (found := _search(v, depth + 1)) is not None]
    return inner[0] if len(inner) == 1 else None


def _join_split(tree: dict) -> dict:
    """Without Paddle's bookkeeping; parameters that it stored in slices are joined."""
    state = {k: v for k, v in tree.items() if k not in (_NAME_TABLE, _SPLIT_TABLE)}
    for name, parts in tree.get(_SPLIT_TABLE, {}).items():
        slices = [state.pop(part).ravel() for part in parts["slices"]]
        state[name] = np.concatenate(slices).reshape(parts["OriginShape"])
    return state


# ---- folder, safetensors and npz


def _read_folder(path: Path, expected: Shapes | None) -> tuple[State, State]:
    """A folder with one stream file per variable, named after it."""
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith((".", "__")))
    state, optimiser = {}, {}
    for file in files:
        with _opened(file) as (_, data):
            if _sniff(file, data) != "stream":
                raise WeightsError(
                    f"{path}: expected a folder with one stream file per variable, found "
                    f"{file.name}; name the weights file itself"
                )
            tensors = list(read_stream(data))
            if len(tensors) != 1:
                raise ValueError(f"{len(tensors)} tensors instead of one")
            wanted = expected is None or file.name in expected
            (state if wanted else optimiser)[file.name] = tensors[0]
    if not state:
        raise WeightsError(
            f"{path}: expected a folder with weights, found {len(files)} files and none of this "
            "network's parameters; name the weights file itself"
        )
    return state, optimiser


def _safe_entries(
    path: Path, data: mmap.mmap
) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], dict[str, str]]:
    """Type, shape and byte offset of each array of a safetensors file; its metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):  # checks header, sizes and overlaps
            pass
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    metadata = header.pop("__metadata__", None) or {}
    entries = {}
    for name, entry in header.items():
        if entry["dtype"] not in SAFE_TYPES:
            raise ValueError(f"{name} has type {entry['dtype']}, which is not supported")
        dtype, at = SAFE_TYPES[entry["dtype"]], begin + entry["data_offsets"][0]
        entries[name] = (dtype, tuple(entry["shape"]), at)
    return entries, metadata


def _read_safetensors(path: Path, data: mmap.mmap) -> State:
    entries, _ = _safe_entries(path, data)
    return {name: array_at(data, *entry) for name, entry in entries.items()}


def _stored(data: mmap.mmap, dtype: str, shape: tuple[int, ...], at: int) -> np.ndarray:
    return array_at(data, dtype.replace("bf16", "u2"), shape, at)


def _read_npz(path: Path, size: int) -> State:
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > max(1 << 30, 20 * size):
            raise ValueError("arrays far larger than the file")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: _native(arrays[name]) for name in arrays.files}
