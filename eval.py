# SPDX-License-Identifier: Apache-2.0
"""Evaluate a model: ``python eval.py --help`` lists the flags."""

from __future__ import annotations

from engine import cli
from engine.errors import guard


def main() -> None:
    """Parse, build, run."""
    args = cli.parse("eval")
    config = cli.start("eval", args)
    from engine import evaluate

    evaluate.main(args, config)


if __name__ == "__main__":
    guard(main)
