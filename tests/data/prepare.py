# SPDX-License-Identifier: Apache-2.0
"""Runs preparation scripts as a command would."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path

from engine.errors import BUG, OK, exit_code


def run_script(script: Path, *args: object) -> tuple[int, list[str], str]:
    """(exit code, lines of output, error) of a data set's prepare.py."""
    spec = importlib.util.spec_from_file_location(f"{script.parent.name}_prepare", script)
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            prepare.main([str(arg) for arg in args])
    except Exception as error:
        if (code := exit_code(error)) == BUG:
            raise
        return code, printed.getvalue().splitlines(), str(error)
    return OK, printed.getvalue().splitlines(), ""
