# SPDX-License-Identifier: Apache-2.0
"""Predict with a model: ``python predict.py --help`` lists the flags."""

from __future__ import annotations

from engine import cli
from engine.errors import guard


def main() -> None:
    """Parse, build, run."""
    args = cli.parse("predict")
    config = cli.start("predict", args)
    from engine import infer

    infer.main(args, config)


if __name__ == "__main__":
    guard(main)
