# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the readers' tests."""

from __future__ import annotations

import pytest

from tests.reader.tall_world import make_world


@pytest.fixture
def world(tmp_path):
    """Reader arguments for TALL's made-up data set."""
    return make_world(tmp_path)
