# SPDX-License-Identifier: Apache-2.0
"""Pickled pandas tables as data: no code of the file runs, and pandas is not needed.

The names that pandas writes (versions 1 and 2) stand for small classes that only keep what they are
given; any other name is an error. What a table is made of is then read from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reader.common import safe_pickle
from reader.common.errors import DataError

_TYPE = re.compile(r"[<>|=]?([biuf][1248]|O8?)")


class _Kept:
    """Keeps arguments and state."""

    def __init__(self, *args: Any):
        self.args, self.state = args, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Type(_Kept):
    """An array's type: a name such as i8, and a byte order."""

    @property
    def spec(self) -> str:
        """As numpy writes it."""
        order = self.state[1] if self.state else ""
        spec = f"{order if order in ('<', '>') else ''}{self.args[0]}"
        if not _TYPE.fullmatch(spec):
            raise ValueError(f"arrays of {spec!r}")
        return spec


class _Array(_Kept):
    """An array; its state is (version, shape, type, in Fortran's order, content)."""

    def values(self) -> np.ndarray:
        """The array."""
        _, shape, kind, fortran, content = self.state
        if isinstance(content, list):
            made = np.empty(len(content), object)
            made[:] = content
            return made.reshape(shape)
        order = "F" if fortran else "C"
        return np.frombuffer(content, np.dtype(kind.spec)).reshape(shape, order=order)


class _Table(_Kept):
    pass


class _Manager(_Kept):
    def parts(self) -> tuple[np.ndarray, list[tuple[_Array, Any]]]:
        """Names of the columns, and blocks of columns with their places."""
        if self.args:  # from pandas 1.3 on
            blocks, axes = self.args[:2]
            return axes[0].values(), [block.args[:2] for block in blocks]
        state = self.state[3]["0.14.1"]
        blocks = [(block["values"], block["mgr_locs"]) for block in state["blocks"]]
        return state["axes"][0].values(), blocks


class _Block(_Kept):
    pass


class _Maker:
    """Makes blocks; pandas 1.3 adds a number of dimensions to it, which is of no interest."""

    def __call__(self, *args: Any) -> _Block:
        return _Block(*args)

    def __setstate__(self, state: Any) -> None:
        pass


def _array(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, kind: Any, shape: Any, order: str, *_: Any) -> _Array:
    made = _Array()
    made.state = (1, shape, kind, order == "F", bytes(content))
    return made


def _index(kind: Any, data: dict[str, Any]) -> Any:
    return data.get("data")


def _partial(function: Any) -> Any:
    return function


def _names() -> safe_pickle.Globals:
    managers, indexes = "pandas.core.internals.managers", "pandas.core.indexes"
    names: dict[tuple[str, str], Any] = {
        ("pandas.core.frame", "DataFrame"): _Table,
        (managers, "BlockManager"): _Manager,
        ("pandas._libs.internals", "_unpickle_block"): _Block,
        ("pandas.core.internals.blocks", "new_block"): _Maker(),
        ("functools", "partial"): _partial,
        ("", "maker"): _Maker,  # named by nothing, but what is listed here may get a state
        (f"{indexes}.base", "_new_Index"): _index,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
    }
    for module, kind in (("base", "Index"), ("numeric", "Int64Index"), ("range", "RangeIndex")):
        names[f"{indexes}.{module}", kind] = _Kept
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = _array
        names[f"{core}.numeric", "_frombuffer"] = _from_buffer
    for module in ("builtins", "__builtin__"):
        names[module, "slice"] = slice
    return names


def read_table(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a pickled table, with these columns only, as numbers, texts and None.

    Raises:
        DataError: not such a table, a column is missing, or the file asks for anything else.
    """
    table = safe_pickle.load(path, extra=_names())
    try:
        found = _columns(table, columns)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: expected a table of pandas 1 or 2, found another object ({error}); where you "
            "trust the file, write the table as CSV, which is read as well"
        ) from None
    if absent := [name for name in columns if name not in found]:
        raise DataError(f"{path}: expected the columns {', '.join(columns)}, found no {absent[0]}")
    for row in zip(*(found[name] for name in columns), strict=True):
        yield dict(zip(columns, row, strict=True))


def _columns(table: _Table, wanted: Sequence[str]) -> dict[str, list[Any]]:
    state = table.state
    labels, blocks = (state["_mgr"] if "_mgr" in state else state["_data"]).parts()
    found: dict[str, list[Any]] = {}
    for block, place in blocks:
        names = labels[place if isinstance(place, slice) else place.values()]
        for name, values in zip(names, block.values(), strict=True):
            if name in wanted:
                found[name] = [None if v != v else v for v in values.tolist()]  # NaN is none
    return found
