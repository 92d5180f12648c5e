# SPDX-License-Identifier: Apache-2.0
"""Compare our numbers with a folder of golden ones: ``python tools/parity.py MODEL DIR``.

``DIR/manifest.json`` lists cases of some kind with their files. How a kind is checked lives in
``tests/parity/<model>.py`` as ``CHECKS = {kind: function(case)}``. Whatever a check does not look
at (an unknown kind, a file that is not opened, a key that is not used) is a FAIL, so that nothing
is taken for verified that is not.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from engine import runtime
from engine.errors import ConfigError, DataError, guard


class Tracked(dict):
    """A mapping that knows which of its keys were looked at, nested mappings included."""

    def __init__(self, values: dict[str, Any]):
        super().__init__({k: Tracked(v) if isinstance(v, dict) else v for k, v in values.items()})
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.used.add(key)
        return super().__getitem__(key)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Pairs; every key that is reached counts as looked at."""
        return ((key, self[key]) for key in self)

    def plain(self, key: str) -> Any:
        """Value as ordinary objects, all of it counted as looked at."""
        value = self[key]
        return value.whole() if isinstance(value, Tracked) else value

    def whole(self) -> dict[str, Any]:
        """Everything as ordinary objects, counted as looked at."""
        return {k: self.plain(k) for k in self}

    def under(self, prefix: str) -> dict[str, Any]:
        """Entries whose key starts with ``prefix``, without it."""
        return {k[len(prefix) :]: self.plain(k) for k in self if k.startswith(prefix)}

    def note(self, *keys: str) -> None:
        """Count keys as looked at: remarks about the origin of the numbers."""
        self.used.update(k for k in keys if k in self)

    def unused(self) -> Iterator[str]:
        """Keys nobody looked at."""
        for key, value in super().items():
            if key not in self.used:
                yield key
            elif isinstance(value, Tracked):
                yield from (f"{key}.{k}" for k in value.unused())


@dataclass
class Line:
    """One printed comparison."""

    group: str
    absolute: float
    relative: float
    tolerance: str
    passed: bool

    def __str__(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        size = f"abs {self.absolute:<9.2e} rel {self.relative:<9.2e}"
        return f"  {verdict}  {self.group:<34} {size} {self.tolerance}"


@dataclass
class Case:
    """One case of a manifest: access to its files, and the comparisons made so far."""

    folder: Path
    entry: dict[str, Any]
    annotations: Path | None = None
    lines: list[Line] = field(default_factory=list)
    _opened: dict[str, Tracked | None] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        return self.entry["files"]

    def file(self, ending: str) -> Path:
        """The case's one file whose name ends so; counted as looked at."""
        found = [f for f in self.files if f.endswith(ending)]
        if len(found) != 1:
            raise DataError(f"{self.entry['name']}: expected one file *{ending}, found {found}")
        self._opened.setdefault(found[0], None)
        return self.folder / found[0]

    def tracked(self, ending: str) -> Tracked:
        """Contents of a .json or .npz of the case."""
        path = self.file(ending)
        name = str(path.relative_to(self.folder))
        if self._opened[name] is None:
            if path.suffix == ".json":
                values = json.loads(path.read_text(encoding="utf-8"))
                values = values if isinstance(values, dict) else {"items": values}
            else:
                with np.load(path, allow_pickle=False) as archive:
                    values = dict(archive)
            self._opened[name] = Tracked(values)
        return self._opened[name]

    @property
    def npz(self) -> Tracked:
        return self.tracked(".npz")

    @property
    def json(self) -> Tracked:
        return self.tracked(".json")

    def close(self, group: str, ours: Any, golden: Any, atol: Any, rtol: float = 0.0) -> None:
        """Every element within ``atol + rtol * max |golden|``; ``atol`` may be an array."""
        ours, golden = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
        tolerance = f"<= {np.min(atol):g}" + (f" + {rtol:g} * max|golden|" if rtol else "")
        tolerance += f" (up to {np.max(atol):g} by element)" if np.ndim(atol) else ""
        if ours.shape != golden.shape:
            tolerance = f"shape {golden.shape}, found {ours.shape}"
            self.lines.append(Line(group, math.inf, math.inf, tolerance, False))
            return
        same = (ours == golden) | (np.isnan(ours) & np.isnan(golden))
        difference = np.where(same, 0.0, np.abs(ours - golden))
        worst = float(difference.max(initial=0.0))
        scale = float(np.abs(golden[np.isfinite(golden)]).max(initial=0.0))
        relative = worst / scale if scale else worst
        passed = bool((difference <= atol + rtol * scale).all())
        self.lines.append(Line(group, worst, relative, tolerance, passed))

    def equal(self, group: str, ours: Any, golden: Any) -> None:
        """Exactly the same value."""
        same = (
            bool(np.array_equal(ours, golden)) if isinstance(golden, np.ndarray) else ours == golden
        )
        detail = "exact" if same else f"exact; expected {str(golden)[:60]}, found {str(ours)[:60]}"
        self.lines.append(
            Line(group, 0.0 if same else math.inf, 0.0 if same else math.inf, detail, same)
        )

    def fail(self, group: str, why: str) -> None:
        """Record something that was not or could not be checked."""
        self.lines.append(Line(group, math.inf, math.inf, why, False))

    def finish(self) -> None:
        """Fail on whatever was not looked at."""
        for name in self.files:
            if name not in self._opened:
                self.fail(name, "file was not checked")
        for name, values in self._opened.items():
            for key in values.unused() if values is not None else ():
                self.fail(f"{name}: {key}", "key was not checked")
        if not self.lines:
            self.fail(self.entry["name"], "nothing was compared")


def run_case(
    case: Case, checks: dict[str, Callable[[Case], None]], *, catch: bool = False
) -> list[Line]:
    """Check one case; with ``catch`` an exception becomes a FAIL line."""
    kind = case.entry["kind"]
    if kind not in checks:
        case.fail(kind, "no check for this kind")
        return case.lines
    try:
        checks[kind](case)
        case.finish()
    except Exception as error:
        if not catch:
            raise
        case.fail(case.entry["name"], f"{type(error).__name__}: {error}")
    return case.lines


def load_manifest(folder: Path) -> list[dict[str, Any]]:
    """Cases of a golden folder."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError(f"{folder}: expected a folder with manifest.json, found none")
    return json.loads(path.read_text(encoding="utf-8"))["cases"]


def checks_of(model: str) -> dict[str, Callable[[Case], None]]:
    """The checks that live with a system."""
    name = model.casefold().replace("-", "_")
    if not (runtime.ROOT / "tests" / "parity" / f"{name}.py").is_file():
        raise ConfigError(f"{model}: expected a system with tests/parity/{name}.py, found none")
    return importlib.import_module(f"tests.parity.{name}").CHECKS


def main() -> None:
    """Run the cases of a folder and print a line per comparison; exit 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--annotations", type=Path, help="folder of the datasets' annotation files")
    parser.add_argument("--kind", help="only cases of this kind")
    args = parser.parse_args()
    runtime.prepare()
    runtime.import_paddle()
    checks, lines = checks_of(args.model), []
    cases = [c for c in load_manifest(args.folder) if args.kind in (None, c["kind"])]
    if not cases:
        raise DataError(f"{args.folder}: no case of kind {args.kind}")
    for entry in cases:
        print(f"{entry['kind']}: {entry['name']}", flush=True)
        case = Case(args.folder.resolve(), entry, args.annotations and args.annotations.resolve())
        for line in run_case(case, checks, catch=True):
            print(line, flush=True)
            lines.append(line)
    failed = sum(not line.passed for line in lines)
    if failed:
        raise SystemExit(f"FAIL: {failed} of {len(lines)} comparisons in {len(cases)} cases")
    print(f"all PASS: {len(lines)} comparisons in {len(cases)} cases")


if __name__ == "__main__":
    guard(main)
