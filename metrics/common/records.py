# SPDX-License-Identifier: Apache-2.0
"""What is predicted of every question, a row of numbers each: a million questions stay small."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import DataError

logger = logging.getLogger("vlzoo")


class Records:
    """Rows of what was predicted, in the order of the references.

    A reference without a record is ``missing`` and a record of an unknown id is ignored, both with
    a warning; ``strict`` makes either an error. Without ``expect`` every id is taken. Of two
    records of an id the last one counts.

    Args:
        strict: as said.
        columns: name -> what stands there as long as nothing is predicted; gives type and shape.
    """

    truths: tuple[str, ...] = ()  # keys of which a reference has one when it says what is right

    def __init__(self, strict: bool = False, **columns: np.ndarray | np.generic):
        self.strict = strict
        self._blank = columns | {"predicted": np.bool_(False)}
        self._start({})
        self._anyone = True

    def expect(self, references: Mapping[str, Mapping[str, Any]]) -> None:
        """Say what is to be answered, {id: reference}; start afresh."""
        self._start(references)
        self._anyone = False

    def _start(self, references: Mapping[str, Mapping[str, Any]]) -> None:
        self.references = references
        self._row = {name: n for n, name in enumerate(references)}
        self._columns = {key: _repeat(blank, len(references)) for key, blank in self._blank.items()}
        self.counted: Any = None  # for subclasses: what is computed of the rows as they are
        self._unknown = 0
        self._first_unknown: Any = None

    def __getitem__(self, column: str) -> np.ndarray:
        """A column, (references, …)."""
        return self._columns[column]

    def known(self, records: Sequence[dict]) -> tuple[Sequence[dict], np.ndarray]:
        """The records whose id is known, and their rows, int64.

        Raises:
            DataError: strict, and one is not known.
        """
        names = [record.get("id") for record in records]
        if self._anyone:
            self._append(names)
        rows = [*map(self._row.get, names)]
        if None in rows:
            unknown = [name for name, row in zip(names, rows, strict=True) if row is None]
            if self.strict:
                raise DataError(
                    f"record {unknown[0]}: expected one of the {len(self._row)} ids of this data "
                    "set; score predictions with the configuration that made them"
                )
            self._first_unknown = self._first_unknown or unknown[0]
            self._unknown += len(unknown)
            records = [r for r, row in zip(records, rows, strict=True) if row is not None]
            rows = [row for row in rows if row is not None]
        return records, np.array(rows, np.int64)

    def _append(self, names: Sequence[Any]) -> None:
        new: dict[Any, dict] = {name: {} for name in names if name not in self._row}
        self._row |= {name: n for n, name in enumerate(new, len(self._row))}
        self.references |= new
        for key, blank in self._blank.items():
            self._columns[key] = np.concatenate([self[key], _repeat(blank, len(new))])

    def put(self, rows: np.ndarray, **columns: Any) -> None:
        """Fill rows."""
        for key, values in (columns | {"predicted": True}).items():
            self._columns[key][rows] = values
        self.counted = None

    def present(self) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
        """(row, id, reference) of everything that is predicted."""
        predicted = self["predicted"].tolist()
        for row, (name, reference) in enumerate(self.references.items()):
            if predicted[row]:
                yield row, name, reference

    def missing(self) -> int:
        """Number of references without a record."""
        return int((~self["predicted"]).sum())

    def has_truth(self) -> bool:
        """Does any reference say what is right?"""
        known = (r.get(key) is not None for r in self.references.values() for key in self.truths)
        return not self.truths or any(known)

    def check(self) -> None:
        """Warn of missing and of unknown ids, and when nothing can be scored.

        Raises:
            DataError: strict, and one is missing.
        """
        if count := self.missing():
            row = int((~self["predicted"]).argmax())
            first = next(name for name, n in self._row.items() if n == row)
            if self.strict:
                raise DataError(
                    f"record {first}: expected one of each of {len(self._row)} ids, found none "
                    f"({count} are missing); METRIC.strict=false counts them as wrong"
                )
            logger.warning("%d of %d ids have no record and count as wrong, the first is %s",
                           count, len(self._row), first)  # fmt: skip
        if self._unknown:
            logger.warning("%d records of unknown ids are ignored, the first is %s",
                           self._unknown, self._first_unknown)  # fmt: skip
        if not self.has_truth():
            logger.warning("nothing to score: expected questions with known answers, found none")


def _repeat(row: np.ndarray | np.generic, count: int) -> np.ndarray:
    return np.full((count, *row.shape), row, row.dtype)


def values(records: Sequence[dict], key: str, kind: type, absent: Any = None) -> list[Any]:
    """What the records have under a key, all of one type.

    Raises:
        DataError: one has it not (and ``absent`` is none, either), or of another type.
    """
    found = [record.get(key, absent) for record in records]
    if set(map(type, found)) - {kind}:
        n = next(n for n, value in enumerate(found) if type(value) is not kind)
        raise DataError(
            f"record {records[n].get('id')}: expected {key} of type {kind.__name__}, found "
            f"{found[n]!r}"
        )
    return found


def finite(array: np.ndarray, records: Sequence[dict], key: str) -> np.ndarray:
    """The array (records, …), if all of its numbers are finite.

    Raises:
        DataError: some are not; names the first such record.
    """
    right = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    if not right.all():
        raise DataError(
            f"record {records[int(right.argmin())].get('id')}: expected finite {key}, found NaN or "
            "infinity"
        )
    return array
