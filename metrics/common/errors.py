# SPDX-License-Identifier: Apache-2.0
"""The error that metrics raise for faulty records."""

from __future__ import annotations


class DataError(Exception):
    """Records or references are missing, damaged or contradict one another."""

    exit_code = 3
