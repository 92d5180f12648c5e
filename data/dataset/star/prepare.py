# SPDX-License-Identifier: Apache-2.0
"""Are the files of STAR complete, with features and tokenizer? Nothing has to be converted.

    python data/dataset/star/prepare.py [--folder data/dataset/star]

README.md beside this file says where they come from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from engine.errors import guard  # noqa: E402
from reader.common.llama_check import Layout, arguments, check  # noqa: E402

LAYOUT = Layout(
    "star",
    {"STAR_train.json": None, "STAR_val.json": 7098, "STAR_test.json": None},
    length=128,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Check the folder."""
    check(LAYOUT, arguments(__doc__, Path(__file__).parent, argv, LAYOUT))


if __name__ == "__main__":
    guard(main)
