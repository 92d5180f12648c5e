# SPDX-License-Identifier: Apache-2.0
"""Frozen feature networks. The folder is the registry: every module here that is not a helper
exports `Extractor` and is found by its file name (case-folded, `-` = `_`).

An extractor is a `paddle.nn.Layer` built from plain keyword arguments, with

* `dim`: length of one feature;
* `identity`: dict of name and options, stamped on every feature file it writes;
* `convert(state)` (static): published parameter names and layouts to its own;
* `init_seed` (argument): deterministic random parameters, for tests and small worlds;
* `read_file(path)` (optional): state of a file format that only this extractor knows, else None;
* `load_files(path)` (optional, instead of both): loads a folder of published files, returns its
  sha256.

Those of clips offer `positions(length)`, `preprocess(frame)`, `features(clips)` and `freeze(log)`;
of boxes `features(frame, boxes)` and `features_of(frames, boxes)`; of sentences
`encode(sentences)`; of words `words(sentences)`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

_HELPERS = {"caffe", "errors", "frozen"}


class UnknownExtractor(LookupError):
    """No extractor of that name."""

    exit_code = 2


def list_extractors() -> list[str]:
    """Names of all extractors, sorted."""
    files = Path(__file__).parent.glob("[a-z]*.py")
    return sorted(f.stem for f in files if f.stem not in _HELPERS)


def get_extractor(name: str) -> type:
    """Class of an extractor; imports Paddle.

    Raises:
        UnknownExtractor: no such module; the message lists those that exist.
    """
    key = str(name).casefold().replace("-", "_")
    if key not in list_extractors():
        known = ", ".join(list_extractors())
        raise UnknownExtractor(f"extractor: expected one of {known}, found {name!r}")
    return importlib.import_module(f"{__name__}.{key}").Extractor
