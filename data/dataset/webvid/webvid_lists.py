# SPDX-License-Identifier: Apache-2.0
"""Published lists of clips and pictures as the JSON lines that MCG reads."""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reader.common import csv_rows, json_lines
from reader.common.errors import DataError
from reader.common.mcg_pairs import LONGEST_CAPTION, webvid_path

_PICKLED = ("video_id", "txt_len", "page_dir", "text")  # columns of MCG's and ALPRO's tables
_PUBLISHED = ("videoid", "page_dir", "name")  # of WebVid's own

Line = dict[str, Any]


def convert(
    table: Path, out: Path, folders: Mapping[str, str | None], strip: str
) -> Iterator[str]:
    """Write the lines of a list; yields what to say about it.

    Args:
        folders: of clips ("video") and pictures ("image"); what has no file there is left out.
        strip: beginning of the list's paths that is left out.

    Raises:
        DataError: unreadable list, or nothing of it can be used.
    """
    kept = long = missing = 0
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "w", encoding="utf-8") as file:
            for line in read_list(table):
                kind = "video" if "video" in line else "image"
                line[kind] = line[kind].removeprefix(strip).lstrip("/" if strip else "")
                if kind == "video" and line.pop("txt_len") >= LONGEST_CAPTION:
                    long += 1
                elif not _is_there(folders[kind], line[kind]):
                    missing += 1
                else:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    kept += 1
        if not kept:
            raise DataError(
                f"{table}: expected something to use, found {long} long captions, {missing} "
                "without a file; compare --videos, --images, --strip"
            )
        if not out.exists() or not filecmp.cmp(part, out, shallow=False):
            os.replace(part, out)  # else it stays as old as it is, and so do shards of it
    except OSError as error:
        raise DataError(f"{out}: cannot write: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    yield (f"{out}: {kept} lines; left out: {long} captions of {LONGEST_CAPTION} words or more, "
           f"{missing} without a file")  # fmt: skip


def _is_there(folder: str | None, path: str) -> bool:
    return folder is None or os.path.exists(os.path.join(folder, path))


def read_list(path: Path) -> Iterator[Line]:
    """Lines {video, caption, txt_len} or {image, caption} of a published list, by its ending."""
    readers = {".csv": _table, ".pkl": _pickle, ".jsonl": _lines, ".json": _list}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: expected a list ({', '.join(readers)}), found another ending")
    return readers[path.suffix.lower()](path)


def _table(path: Path) -> Iterator[Line]:
    """WebVid's results_*.csv."""
    for _, _, rows in csv_rows.read_blocks(path, _PUBLISHED):
        for row in rows:
            yield _clip(webvid_path(row["page_dir"], row["videoid"]), row["name"])


def _pickle(path: Path) -> Iterator[Line]:
    import webvid_pickle

    for k, row in enumerate(webvid_pickle.read_table(path, _PICKLED)):
        if not isinstance(row["text"], str) or not isinstance(row["txt_len"], int | float):
            raise DataError(f"{path}: row {k}: expected text and txt_len, found "
                            f"{row['text']!r:.40}, {row['txt_len']!r:.40}")  # fmt: skip
        yield _clip(webvid_path(row["page_dir"], row["video_id"]), row["text"], row["txt_len"])


def _clip(path: str, caption: str, length: float | None = None) -> Line:
    words = len(caption.split()) if length is None else length
    return {"video": path, "caption": caption.strip(), "txt_len": words}


def _lines(path: Path) -> Iterator[Line]:
    for numbers, _, rows in json_lines.read_blocks(path):
        for number, row in zip(numbers, rows, strict=True):
            yield _checked(f"{path}:{number}", row)


def _list(path: Path) -> Iterator[Line]:
    """CC3M as ALPRO lists it: [{"image": path, "caption": text or texts}, ...]."""
    for number, row in enumerate(json_lines.stream_list(path)):
        yield _checked(f"{path}: entry {number}", row)


def _checked(where: str, row: Mapping[str, Any]) -> Line:
    kind = "video" if "video" in row else "image"
    place, caption = row.get(kind), row.get("caption")
    texts = caption if isinstance(caption, list) else [caption]
    if not isinstance(place, str) or not texts or not all(isinstance(t, str) for t in texts):
        raise DataError(f"{where}: expected video or image, and caption, as text, found "
                        f"{place!r:.40}, {caption!r:.40}")  # fmt: skip
    if kind == "video":
        return _clip(place, texts[0], row.get("txt_len"))
    return {"image": place, "caption": caption}
