# SPDX-License-Identifier: Apache-2.0
"""Unpack TVQA's subtitles, and see whether all files are there, with features and tokenizer.

    python data/dataset/tvqa/prepare.py [--folder data/dataset/tvqa]

README.md beside this file says where they come from.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from engine.errors import guard  # noqa: E402
from reader.common.errors import DataError  # noqa: E402
from reader.common.llama_check import Layout, arguments, check  # noqa: E402

SUBTITLES = "tvqa_subtitles"
LAYOUT = Layout(
    "tvqa",
    {"tvqa_train.jsonl": 122039, "tvqa_val.jsonl": 15253, "tvqa_test_public.jsonl": 7623},
    length=650,
    subtitles=SUBTITLES,
)
_LARGEST = 1 << 20  # bytes of a subtitle file


def unpack(folder: Path) -> None:
    """The .srt files of ``tvqa_subtitles.zip`` into a folder of that name, unless it is there.

    Raises:
        DataError: damaged, or without any.
    """
    archive, target = folder / f"{SUBTITLES}.zip", folder / SUBTITLES
    if target.exists() or not archive.exists():
        return
    part = folder / f".{SUBTITLES}.part"
    part.mkdir(exist_ok=True)
    count = 0
    try:
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                name = os.path.basename(info.filename.replace("\\", "/"))
                if info.is_dir() or not name.endswith(".srt") or name.startswith("."):
                    continue
                if info.file_size > _LARGEST:
                    raise DataError(f"{archive}: {name}: expected subtitles, found a large file")
                (part / name).write_bytes(file.read(info))
                count += 1
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise DataError(f"{archive}: expected a zip of .srt files ({error})") from None
    if not count:
        raise DataError(f"{archive}: expected .srt files, found none")
    os.replace(part, target)
    print(f"{target}: {count} files of subtitles")


def main(argv: Sequence[str] | None = None) -> None:
    """Unpack, then check the folder."""
    args = arguments(__doc__, Path(__file__).parent, argv, LAYOUT)
    unpack(args.folder)
    check(LAYOUT, args)


if __name__ == "__main__":
    guard(main)
