# SPDX-License-Identifier: Apache-2.0
"""Train a model: ``python train.py --help`` lists the flags."""

from __future__ import annotations

from engine import cli
from engine.errors import guard


def main() -> None:
    """Parse, build, run."""
    args = cli.parse("train")
    config = cli.start("train", args)
    from engine import train

    train.main(args, config)


if __name__ == "__main__":
    guard(main)
