# SPDX-License-Identifier: Apache-2.0
"""Convert published weights: ``python tools/convert.py MODEL_OR_EXTRACTOR SRC DST.pdparams``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.errors import guard


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__.split("``")[0].strip(": "))
    parser.add_argument("name", help="model or extractor, in any case")
    parser.add_argument("source", help="file, prefix or folder, of any format that --weights takes")
    parser.add_argument("target", help="the .pdparams file to write")
    parser.add_argument("-c", "--config", help="configuration that gives the model's sizes")
    parser.add_argument("--partial", action="store_true", help="names may be missing in the source")
    args = parser.parse_args()

    from engine import runtime

    runtime.prepare()
    from engine.convert import convert

    report = convert(args.name, args.source, args.target, args.config, args.partial)
    casts = "".join(f", stored as {c.split(' ')[0]}: {n}" for c, n in report.cast.items())
    missing = f", missing: {len(report.missing)}" if report.missing else ""
    print(f"{len(report.matched)} arrays written to {args.target}{casts}{missing}")


if __name__ == "__main__":
    guard(main)
