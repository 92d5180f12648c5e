# SPDX-License-Identifier: Apache-2.0
"""Are the files of VLEP complete, with features and tokenizer? Nothing has to be converted.

    python data/dataset/vlep/prepare.py [--folder data/dataset/vlep]

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
    "vlep",
    {
        "vlep_train_release.jsonl": 20142,
        "vlep_dev_release.jsonl": 4392,
        "vlep_test_release.jsonl": 4192,
    },
    length=256,
    subtitles="vlep_subtitles.jsonl",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Check the folder."""
    check(LAYOUT, arguments(__doc__, Path(__file__).parent, argv, LAYOUT))


if __name__ == "__main__":
    guard(main)
