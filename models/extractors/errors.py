# SPDX-License-Identifier: Apache-2.0
"""The error of published weight files."""

from __future__ import annotations


class WeightsFileError(Exception):
    """A published file is missing, damaged or of another network; the message is one line."""

    exit_code = 4
