# SPDX-License-Identifier: Apache-2.0
"""Large JSON files: objects one a line, and one list of objects."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reader.common import json_lines
from reader.common.errors import DataError
from reader.common.json_lines import read_at, read_blocks, stream_list


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def blocks(path):
    """Everything in a file of lines: line numbers, places, objects."""
    parts = list(read_blocks(path))
    numbers, places = (np.concatenate([part[k] for part in parts]).tolist() for k in range(2))
    return numbers, places, [each for part in parts for each in part[2]]


@pytest.mark.parametrize("size", [1 << 20, 40, 7, 1])
def test_lines_are_found_again(tmp_path, monkeypatch, size):
    monkeypatch.setattr(json_lines, "_BLOCK", size)
    objects = [{"k": k, "text": "é\n\\n" * k} for k in range(9)]
    path = write(tmp_path / "a", "\n".join(map(json.dumps, objects)) + "\n")
    numbers, places, found = blocks(path)
    assert numbers == list(range(1, 10)) and found == objects
    assert read_at(path, [places[8], places[0], places[4]]) == [objects[i] for i in (8, 0, 4)]


@pytest.mark.parametrize("size", [1 << 20, 5])
def test_empty_lines_marks_and_missing_ends(tmp_path, monkeypatch, size):
    monkeypatch.setattr(json_lines, "_BLOCK", size)
    path = write(tmp_path / "a", b'\xef\xbb\xbf{"a": 1}\r\n\r\n \n{"a": 2}\n\n\n{"a": 3}')
    numbers, places, found = blocks(path)
    assert numbers == [1, 4, 7] and found == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert read_at(path, places) == found
    assert list(read_blocks(write(tmp_path / "b", b"\n\n \n"))) == []


@pytest.mark.parametrize(
    "line", ["[1]", "3", '{"a": 1', "{}{}", "{},{}", "nope", b"\xff\xfe", '"a"', "[" * 100_000]
)
@pytest.mark.parametrize("size", [1 << 20, 5])
def test_damaged_lines_are_named(tmp_path, monkeypatch, line, size):
    monkeypatch.setattr(json_lines, "_BLOCK", size)
    line = line if isinstance(line, bytes) else line.encode()
    path = write(tmp_path / "a", b'{"a": 1}\n\n{"a": 2}\n' + line + b'\n{"a": 3}\n')
    with pytest.raises(DataError, match=r"a:4: expected a JSON object a line, found b") as caught:
        list(read_blocks(path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    with pytest.raises(DataError, match="gone: expected a file of JSON lines"):
        list(read_blocks(tmp_path / "gone"))


def test_files_that_were_changed(tmp_path):
    path = write(tmp_path / "a", '{"a": 1}\n')
    with pytest.raises(DataError, match="was changed while it is in use"):
        read_at(path, [3])


@pytest.mark.parametrize("size", [1 << 20, 3])
def test_lists_are_read_piece_by_piece(tmp_path, monkeypatch, size):
    monkeypatch.setattr(json_lines, "_BLOCK", size)
    objects = [{"a": k, "text": "é]}" * k} for k in range(5)]
    for indent in (None, 2):
        path = write(tmp_path / "a", json.dumps(objects, indent=indent) + "\n")
        assert list(stream_list(path)) == objects
    assert list(stream_list(write(tmp_path / "b", "\n [ ]"))) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a JSON list, found ''"),
        ("{}", "expected a JSON list, found '{}'"),
        ('[{"a": 1}, {"a": 2', "entry 1: not JSON"),
        ('[{"a": 1}, 3]', "entry 1: no JSON object, but 3"),
        ('[{"a": 1}', "entry 1: not JSON"),
        (b"[\xff]", "expected a JSON file"),
    ],
)
def test_damaged_lists(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        list(stream_list(write(tmp_path / "a", content)))
    assert "\n" not in str(caught.value)
