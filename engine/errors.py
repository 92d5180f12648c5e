# SPDX-License-Identifier: Apache-2.0
"""Errors that people cause, and the exit code that each one ends in.

Any exception with an integer ``exit_code`` is a user-facing error: its text is printed, without a
traceback. Readers and metrics define their own of that kind, so that they need not import
the engine.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

OK, BUG, USAGE, DATA, WEIGHTS, DIVERGED, OUT_OF_MEMORY, STOPPED = 0, 1, 2, 3, 4, 5, 6, 75


class VLZooError(Exception):
    """Base of the family."""

    exit_code = BUG


class ConfigError(VLZooError):
    """A flag, a configuration key or its value is wrong."""

    exit_code = USAGE


class DataError(VLZooError):
    """Data are missing or damaged."""

    exit_code = DATA


class WeightsError(VLZooError):
    """Weights cannot be fetched, read or applied."""

    exit_code = WEIGHTS


class DivergedError(VLZooError):
    """Loss or gradients are not finite any more."""

    exit_code = DIVERGED


class Stopped(VLZooError):
    """A signal asked to stop; everything was saved before this is raised."""

    exit_code = STOPPED


def exit_code(error: BaseException) -> int:
    """Exit code of an exception: 6 for exhausted memory, its own if it has one, else 1 (a bug)."""
    if isinstance(error, MemoryError) or "ResourceExhausted" in f"{type(error).__name__}{error}":
        return OUT_OF_MEMORY
    code = getattr(error, "exit_code", BUG)
    return code if isinstance(code, int) else BUG


def guard(main: Callable[[], None]) -> None:
    """Run ``main`` and exit the process with the code that its outcome deserves."""
    try:
        main()
        code = OK
    except KeyboardInterrupt:
        print("stopped by the keyboard", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of a pipe went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = OK
    except Exception as error:
        code = exit_code(error)
        if code == BUG:
            traceback.print_exc()
            print("this is a bug in VLZoo: please report it with the lines above", file=sys.stderr)
        elif code == OUT_OF_MEMORY:
            print("error: out of memory: lower --batch_size or num_workers", file=sys.stderr)
        else:
            print(f"error: {error}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code)
