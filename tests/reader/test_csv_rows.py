# SPDX-License-Identifier: Apache-2.0
"""Tables without holding them."""

from __future__ import annotations

import csv
import random

import pytest

from reader.common import csv_rows
from reader.common.errors import DataError


def test_equals_the_standard_library(tmp_path, monkeypatch):
    rng = random.Random(0)
    texts = ["x", 'says "hi"', "two\nlines, \r\nthree", " ", "é,", "", '"', "\u2028 line"]
    rows = [{"a": str(k), "b": rng.choice(texts), "c": "z" * rng.randint(0, 30)}
            for k in range(500)]  # fmt: skip
    path = tmp_path / "x.csv"
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["a", "b", "c"])
        writer.writeheader()
        writer.writerows(rows)
    path.write_bytes(path.read_bytes().rstrip(b"\r\n"))  # no end of the last line
    for size in (1 << 20, 64, 7):
        monkeypatch.setattr(csv_rows, "_BLOCK", size)
        blocks = list(csv_rows.read_blocks(path, ["c", "a"]))
        assert [row for *_, found in blocks for row in found] == rows
        places = [int(place) for _, found, _ in blocks for place in found]
        numbers = [int(number) for found, *_ in blocks for number in found]
        assert csv_rows.read_at(path, places[::-7]) == rows[::-7]
        lines = path.read_bytes().split(b"\n")
        assert all(lines[n - 1].startswith(b"%d," % k) for k, n in enumerate(numbers))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a,b\n1,2\n", "expected the columns a, c, found no c in its first line b'a,b"),
        (b"", "expected the columns a, c, found no a"),
        (b"a,c\n1,2\n\n3\n", "x.csv:4: expected 2 fields, found 1"),
        (b"a,c\n1,2,3\n", "x.csv:2: expected 2 fields, found 3"),
        (b"a,c\n1,\xff\n", "x.csv:2: expected text in UTF-8, found b'1,"),
        (b'a,c\n1,"2\n3,4\n', "x.csv:2: expected"),
        (b"\xff\n", "x.csv:1: expected text in UTF-8"),
    ],
)
def test_damaged_tables(tmp_path, text, message):
    path = tmp_path / "x.csv"
    path.write_bytes(text)
    with pytest.raises(DataError) as error:
        list(csv_rows.read_blocks(path, ["a", "c"]))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_quote_without_end_is_not_read_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_rows, "_BLOCK", 100)
    monkeypatch.setattr(csv_rows, "_LONGEST", 1000)
    path = tmp_path / "x.csv"
    path.write_text('a\n1\n"' + "2\n" * 5000)
    with pytest.raises(DataError, match=r"x.csv:3: expected rows, found a quote without an end"):
        list(csv_rows.read_blocks(path, ["a"]))


def test_missing_and_changed_files(tmp_path):
    path = tmp_path / "x.csv"
    with pytest.raises(DataError, match=r"x.csv: expected a table \(No such file"):
        list(csv_rows.read_blocks(path, ["a"]))
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="was changed while it is in use"):
        csv_rows.read_at(path, [6])
