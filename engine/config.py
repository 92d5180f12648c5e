# SPDX-License-Identifier: Apache-2.0
"""Typed configuration: YAML with inheritance, flags and ``-o`` on top, bound to signatures.

Precedence: flag, ``-o``, file, ``_BASE_``, default. The engine's keys come from
``configs/_base_.yaml``; all others are constructor arguments of model, reader and metric, whose
signatures are the schema. Every error names the file and line of the key.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError
from .runtime import ROOT

SPLITS = ("TRAIN", "VALID", "TEST", "INFER")
SECTIONS = ("MODEL", "DATASET", *SPLITS, "METRIC", "WEIGHTS")
Marks = dict[tuple[str, ...], str]  # key path -> "file:line"


@dataclass
class Config:
    """A resolved configuration: sections of plain values, and where each key was written."""

    sections: dict[str, dict[str, Any]]
    marks: Marks = field(default_factory=dict)
    has_valid: bool = False
    legacy: bool = False  # the layout of release 1.8: no DATASET section

    def __getitem__(self, section: str) -> dict[str, Any]:
        return self.sections[section]

    @property
    def model_name(self) -> str:
        return self.sections["MODEL"]["name"]

    def engine_args(self, section: str) -> types.SimpleNamespace:
        """The engine's own keys of a section."""
        keys = schema()[section]
        return types.SimpleNamespace(**{k: self.sections[section][k] for k in keys})

    def reader_args(self, split: str) -> dict[tuple[str, str], Any]:
        """Reader arguments of a split as {(section, key): value}: DATASET, then the split's own."""
        dataset, own = schema()["DATASET"], schema()[split]
        merged = {k: ("DATASET", v) for k, v in self["DATASET"].items() if k not in dataset}
        merged |= {k: (split, v) for k, v in self[split].items() if k not in own}
        return {(section, k): v for k, (section, v) in merged.items()}

    def digest(self) -> str:
        """Short fingerprint of the values."""
        text = json.dumps(self.sections, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def dump(self) -> str:
        """The configuration as YAML that loads again."""
        return yaml.safe_dump(_plain(self.sections), sort_keys=False, allow_unicode=True)

    def lines(self, mode: str) -> list[str]:
        """The configuration as printed at the start of every run."""
        out = [f"{'-' * 16} {mode:>5} Arguments {'-' * 16}"]
        for section, values in self.sections.items():
            out.append(f"{section}:")
            out += [f"    {key}:{value}" for key, value in values.items()]
        return [*out, "-" * 49]


@functools.lru_cache(maxsize=1)
def schema() -> dict[str, dict[str, dict[str, Any]]]:
    """The engine's keys: section -> key -> {default, type, help}."""
    return yaml.safe_load((ROOT / "configs" / "_base_.yaml").read_text(encoding="utf-8"))


def parse(text: str, source: str = "<text>") -> tuple[dict[str, Any], Marks]:
    """YAML text -> (tree, marks). Strings inside mappings that are Python literals become values.

    ``1e-3`` without a dot is a string in YAML 1.1 and the float 0.001 here; list items stay as they
    are, as in the 1.8 generation.

    Raises:
        ConfigError: not YAML, a duplicate key, or a top level that is not a mapping of mappings.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        marks: Marks = {}
        tree = _construct(node, (), source, marks) if node is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{source}{line}: expected YAML, found: {problem}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: expected sections such as MODEL and TRAIN, found {tree!r}")
    for key, value in tree.items():
        if key != "_BASE_" and not isinstance(value, dict):
            raise ConfigError(
                f"{marks[(key,)]}: {key}: expected a section of keys, found {value!r}"
            )
    return tree, marks


def _construct(node: yaml.Node, path: tuple[str, ...], source: str, marks: Marks) -> Any:
    if not isinstance(node, yaml.MappingNode):
        return yaml.SafeLoader("").construct_document(node)
    result: dict[str, Any] = {}
    loader = yaml.SafeLoader("")
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        where = f"{source}:{key_node.start_mark.line + 1}"
        if key in result:
            raise ConfigError(f"{where}: {key}: written twice (first at {marks[(*path, key)]})")
        marks[(*path, key)] = where
        value = _construct(value_node, (*path, key), source, marks)
        result[key] = literal(value) if isinstance(value, str) else value
    return result


def literal(text: str) -> Any:
    """Python literal in ``text``, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def merge(tree: dict[str, dict], section: str, args: Mapping[str, Any]) -> dict[str, dict]:
    """Overwrite keys that ``section`` already has with the flags that were given, in place."""
    if section.upper() not in SPLITS:
        raise ConfigError(f"section: expected one of {SPLITS}, found {section}")
    target = tree.get(section.upper())
    for key, value in args.items():
        if value is not None and isinstance(target, dict) and key in target:
            target[key] = value
    return tree


def load(
    path: str | Path,
    overrides: typing.Sequence[str] = (),
    model_name: str | None = None,
) -> Config:
    """Read a configuration file with its bases, apply ``-o`` overrides, fill in the defaults.

    Raises:
        ConfigError: see ``parse``; also a missing file, an unknown section, an inheritance cycle.
    """
    tree, marks = _read(Path(path), ())
    legacy = "DATASET" not in tree
    for item in overrides:
        _override(tree, marks, item)
    for section in tree:
        if section not in SECTIONS:
            raise ConfigError(
                f"{marks[(section,)]}: unknown section {section}{_nearest(section, SECTIONS)}"
            )
    config = Config(_with_defaults(tree, marks), marks, "VALID" in tree, legacy)
    _choose_model(config, model_name, str(path))
    if config["TRAIN"]["adam_eps_mode"] is None:
        config["TRAIN"]["adam_eps_mode"] = "fluid" if legacy else "standard"
    return config


def _read(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], Marks]:
    path = find(path)
    if path.resolve() in seen:
        raise ConfigError(f"{path}: inherits from itself through _BASE_")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"--config: expected a YAML file, found {path} ({reason})") from None
    tree, marks = parse(text, str(path))
    base = tree.pop("_BASE_", None)
    if base is None:
        return tree, marks
    parent, parent_marks = _read(path.parent / str(base), (*seen, path.resolve()))
    return _overlay(parent, tree), parent_marks | marks


def find(path: str | Path) -> Path:
    """``path`` as seen from the working directory or else from the toolkit's root."""
    path = Path(path).expanduser()
    rooted = ROOT / path
    return rooted if not path.exists() and rooted.exists() else path


def _overlay(base: dict, top: dict) -> dict:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _overlay(base[key], value) if both else value
    return merged


def _override(tree: dict[str, Any], marks: Marks, item: str) -> None:
    key, sign, value = item.partition("=")
    path = tuple(key.strip().split("."))
    if not sign or len(path) < 2 or not all(path):
        raise ConfigError(f"-o: expected SECTION.key=value, found {item!r}")
    node = tree.setdefault(path[0], {})
    for part in path[1:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"-o {item}: {part} is a value, not a section")
    parsed, _ = parse(f"x: {{value: {value}}}" if value.strip() else "x: {value: null}", "-o")
    node[path[-1]] = parsed["x"]["value"]
    marks.update({path[: i + 1]: "-o" for i in range(len(path))})


def _with_defaults(tree: dict[str, Any], marks: Marks) -> dict[str, dict[str, Any]]:
    sections = {}
    for name in SECTIONS:
        known = schema()[name]
        values = dict(tree.get(name) or {})
        for key, value in values.items():
            if key in known:
                values[key] = coerce(value, _TYPES[known[key]["type"]], _label((name, key), marks))
        for key, spec in known.items():
            values.setdefault(key, spec["default"])
        sections[name] = values
    return sections


def _choose_model(config: Config, flag: str | None, path: str) -> None:
    written = config["MODEL"]["name"]
    if flag and written and _fold(flag) != _fold(written):
        raise ConfigError(
            f"--model_name {flag}: {path} is for MODEL.name {written}; change one of the two"
        )
    config["MODEL"]["name"] = flag or written
    if not config.model_name:
        raise ConfigError(f"{path}: expected MODEL.name or the flag --model_name, found neither")
    for section in ("DATASET", "METRIC"):
        config[section]["name"] = config[section]["name"] or config.model_name


def _fold(name: str) -> str:
    return str(name).casefold().replace("-", "_")


_TYPES: dict[str, Any] = {
    "int": int | None,
    "float": float | None,
    "bool": bool | None,
    "str": str | None,
    "dict": dict,
    "list": list,
    "list[float]": list[float],
}


def coerce(value: Any, kind: Any, label: str) -> Any:
    """``value`` as ``kind`` (a type annotation).

    Raises:
        ConfigError: the value is of another type.
    """
    try:
        return _coerce(value, kind)
    except (TypeError, ValueError):
        name = getattr(kind, "__name__", None) if isinstance(kind, type) else str(kind)
        name = str(name).replace("typing.", "")
        raise ConfigError(
            f"{label}: expected {name}, found {value!r} ({type(value).__name__})"
        ) from None


def _coerce(value: Any, kind: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is inspect.Parameter.empty:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _first(value, [a for a in args if a is not type(None)])
    if origin is typing.Literal:
        if value in args:
            return value
        raise ValueError
    if origin in (list, tuple, typing.get_origin(typing.Sequence[int])) and args:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise TypeError
        items = [_coerce(literal(v) if isinstance(v, str) else v, args[0]) for v in value]
        return tuple(items) if origin is tuple else items
    return _coerce_plain(value, origin or kind)


def _first(value: Any, kinds: list[Any]) -> Any:
    for kind in sorted(kinds, key=lambda k: not (isinstance(k, type) and isinstance(value, k))):
        try:
            return _coerce(value, kind)
        except (TypeError, ValueError):
            continue
    raise TypeError


def _coerce_plain(value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError
    return value


def bind(
    target: Callable,
    values: Mapping[tuple[str, str], Any],
    marks: Marks,
    also: typing.Iterable[str] = (),
) -> dict[str, Any]:
    """Keyword arguments for ``target`` from {(section, key): value}, typed by its signature.

    Args:
        also: further key names to offer as the nearest to an unknown one (the engine's).

    Raises:
        ConfigError: unknown key (with the nearest name), wrong type, or a required one is absent.
    """
    function = target.__init__ if inspect.isclass(target) else target
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(target).parameters
    result = {}
    for (section, key), value in values.items():
        label = _label((section, key), marks)
        if key not in parameters:
            raise ConfigError(f"{label}: unknown key{_nearest(key, [*parameters, *also])}")
        result[key] = coerce(value, hints.get(key, Any), label)
    return result


def _label(path: tuple[str, ...], marks: Marks) -> str:
    where = marks.get(path)
    return f"{where}: {'.'.join(path)}" if where else ".".join(path)


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
