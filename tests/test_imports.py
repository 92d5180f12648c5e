# SPDX-License-Identifier: Apache-2.0
"""The plan of the house, read from the source: imports, names of models, licence, sizes."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENTRY_POINTS = ("train.py", "eval.py", "predict.py")
PARTS = ("engine", "models", "reader", "metrics", "tools", "data", "tests")
OURS = (*PARTS, "train", "eval", "predict")
READS_FILES = tuple(f"reader.common.{n}" for n in ("safe_pickle", "torch_files", "raw_arrays"))
HEAVY = ("paddle", "cv2", "nltk", "h5py", "paddlenlp")


def sources(*where: str) -> list[str]:
    """Python files of these folders and files, relative to the root."""
    files = [ROOT / w for w in where if w.endswith(".py")]
    files += [p for w in where if not w.endswith(".py") for p in (ROOT / w).rglob("*.py")]
    return sorted(p.relative_to(ROOT).as_posix() for p in files)


ALL = sources(*ENTRY_POINTS, *PARTS)


def imports(path: str, text: str) -> list[tuple[int, str, bool]]:
    """(line, absolute dotted name, whether it runs when the file is imported) of every import.

    ``from a import b`` counts as ``a.b``, since b may be a module of the package a.
    """
    package = Path(path).parent.parts
    found = []

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module or "").split(".") if node.module else ())))
            found.extend((node.lineno, f"{module}.{a.name}", at_import) for a in node.names)
        inside = at_import and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(text), True)
    return found


def within(name: str, *packages: str) -> bool:
    """Is the dotted name one of these packages or inside one?"""
    return any(name == p or name.startswith(p + ".") for p in packages)


def allowed(path: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """(own packages, packages of others or None for any) that a file may import."""
    parts = Path(path).parts
    own = ".".join(parts[:-1] if len(parts) > 2 else (*parts[:-1], Path(path).stem))
    if path in ENTRY_POINTS:
        return ("engine",), ()
    if path == "engine/build.py":
        return ("engine", "models", "reader", "metrics"), None
    if parts[0] == "engine":
        return ("engine", *READS_FILES), None
    if parts[:2] == ("models", "extractors"):  # they prepare frames and sentences, too
        return (own, "models.layers"), ("numpy", "paddle", "cv2", "nltk", "tokenizers")
    if parts[0] == "models":
        return (own, "models.layers"), ("numpy", "paddle")
    if parts[:2] == ("reader", "common"):
        return ("reader.common",), None
    if parts[0] == "reader":
        return (own, "reader.common"), ("numpy",)
    if parts[:2] == ("metrics", "common"):
        return ("metrics.common", "reader.common.safe_pickle"), ("numpy", "nltk")
    if parts[0] == "metrics":
        return (own, "metrics.common"), ("numpy",)
    if parts[0] in ("tools", "data"):
        return ("engine", "reader.common", "tools", *siblings(path)), None
    return OURS, None


def siblings(path: str) -> tuple[str, ...]:
    """Names under which a script finds the modules beside it."""
    return tuple(p.stem for p in (ROOT / path).parent.glob("*.py"))


def breaches(path: str, text: str) -> list[str]:
    """Imports of a file that the plan does not allow."""
    own, others = allowed(path)
    lines = []
    for line, name, _ in imports(path, text):
        top = name.split(".")[0]
        if top in OURS and path.split("/")[0] != "tests":
            fine = within(name, *own)
        else:
            fine = others is None or top in sys.stdlib_module_names or within(name, *others, *own)
        if not fine:
            lines.append(f"{path}:{line}: must not import {name}")
    return lines


@pytest.mark.parametrize("path", [p for p in ALL if not p.startswith("tests/")])
def test_imports_keep_the_parts_apart(path):
    assert not breaches(path, (ROOT / path).read_text())


@pytest.mark.parametrize(
    "path, text",
    [
        ("engine/loop.py", "import models.any"),
        ("engine/loop.py", "def f():\n    from reader import get_reader"),
        ("engine/loop.py", "from reader.common import video"),
        ("models/any/net.py", "from engine import optim"),
        ("models/any/net.py", "from ..other import net"),
        ("models/any/net.py", "import requests"),
        ("reader/any.py", "import paddle"),
        ("reader/any.py", "from . import other"),
        ("reader/common/x.py", "from metrics.common import boxes"),
        ("metrics/any.py", "from reader.common import text"),
        ("metrics/common/boxes.py", "import paddle"),
        ("tools/doctor.py", "from models import get_model"),
        ("train.py", "import numpy"),
    ],
)
def test_the_check_finds_breaches(path, text):
    assert breaches(path, text)


@pytest.mark.parametrize("path", sources(*ENTRY_POINTS, "engine", "reader", "metrics", "tools"))
def test_heavy_packages_are_imported_where_they_are_used(path):
    found = imports(path, (ROOT / path).read_text())
    heavy = [f"{path}:{line}: import {name} inside the function that needs it"
             for line, name, at_import in found if at_import and within(name, *HEAVY)]  # fmt: skip
    assert not heavy


def model_names() -> list[str]:
    """Names of the systems: the folders of models/ that are not shared parts."""
    shared = ("layers", "extractors")
    return [p.parent.name for p in ROOT.glob("models/*/__init__.py") if p.parent.name not in shared]


@pytest.mark.parametrize("path", [*ENTRY_POINTS, *sources("engine")])
def test_engine_and_entry_points_name_no_model(path):
    names = "|".join(name.replace("_", "[_-]?") for name in model_names())
    text = (ROOT / path).read_text()
    assert names
    assert not re.findall(rf"(?i)(?<![a-z])(?:{names})(?![a-z])", text)


@pytest.mark.parametrize("path", ALL)
def test_licence_line(path):
    lines = (ROOT / path).read_text().splitlines()
    assert not lines or "# SPDX-License-Identifier: Apache-2.0" in lines[:2]


def test_folders():
    assert not list((ROOT / "data").rglob("__init__.py")), "data/ holds data and is never imported"
    for part in PARTS:
        for name in ("utils", "core"):
            assert not (ROOT / part / name).exists(), "name the folder after what is in it"
    assert not (ROOT / "utils").exists()
    assert not (ROOT / "core").exists()


@pytest.mark.parametrize("path", ENTRY_POINTS)
def test_entry_points_are_short(path):
    assert len((ROOT / path).read_text().splitlines()) <= 60


@pytest.mark.parametrize("path", [p for p in ALL if not p.startswith("tests/")])
def test_files_and_functions_are_short(path):
    """Budgets: files 400 lines (networks 600), functions 40 without docstring; a tenth of slack."""
    text = (ROOT / path).read_text()
    assert len(text.splitlines()) <= (660 if path.startswith("models/") else 440)
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef))
    long = {f.name: n for f in functions if (n := length(f)) > 44}
    assert not long


def length(function: ast.FunctionDef) -> int:
    """Lines from ``def`` to the end without the docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    return lines - (function.body[0].end_lineno - function.body[0].lineno + 1)
