# SPDX-License-Identifier: Apache-2.0
"""Line files in every encoding accident."""

from __future__ import annotations

import pytest

from reader.common.errors import DataError
from reader.common.text import read_lines, read_pairs


def test_lines_keep_their_numbers(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\r\n  two\u2028still two\t\n\nthree \xe9".encode())
    assert read_lines(path) == [(1, "one"), (3, "two\u2028still two"), (5, "three \xe9")]


def test_pairs(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("v_1 \tHe cuts.\ta\nShe runs.\n")
    assert read_pairs(path) == [(1, "v_1", "He cuts.\ta"), (2, None, "She runs.")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected one sentence a line, found none"),
        (b"\n \n", "expected one sentence a line, found none"),
        (b"ok\nbad \xff\xfe\n", "a.txt:2: expected one sentence a line in UTF-8"),
        (b"ok\n\nPK\x03\x04\x00\x00", "a.txt:3: .*UTF-8"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_lines(path, "sentence")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="expected a text file"):
        read_lines(tmp_path / "none.txt")
