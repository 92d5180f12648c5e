# SPDX-License-Identifier: Apache-2.0
"""The error of everything that reads data."""

from __future__ import annotations


class DataError(Exception):
    """A data file is missing, damaged or not what was expected.

    The message is one line: what was expected, what was found (file, line, id), what to do.
    """

    exit_code = 3


class BrokenSample(DataError):
    """One item cannot be loaded, such as a damaged video; the others can be used without it.

    Training lists it and goes on within the budget TRAIN.max_bad; evaluation counts its questions
    as wrong.
    """

    broken = True
