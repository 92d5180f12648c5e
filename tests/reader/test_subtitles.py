# SPDX-License-Identifier: Apache-2.0
"""Subtitle files in every form, and words as TVQA+ has them."""

from __future__ import annotations

import gzip
import json

import pytest

from reader.common.errors import DataError
from reader.common.subtitles import read_subtitles, tokenize
from tests.conftest import ROOT

SRT = (
    "\ufeff1\r\n00:00:05,500 --> 00:00:07,25\r\n<i>Ben : We</i> met &amp; left.\r\nBye.\r\n\r\n\r\n"
    "2\r\n01:00:01,000 --> 01:00:02,000\r\n{\\an8}late\r\n \r\n"
    "3\n00:00:01,000 --> 00:00:02,000\nAda : hi ,\n  2 < 3\n\n4\n00:00:03,000 --> 00:00:04,000\n\n"
)
VTT = (
    "WEBVTT - made up\nKind: captions\n\nNOTE\nnot shown\n\nSTYLE\n::cue {}\n\n"
    "00:05.500 --> 00:07.250 align:start\n<v Ben>Hello</v>\n\n"
    "name of a cue\n00:00:01.000 --> 00:00:02.000\n<00:00:01.500><c>hi</c>\n"
)


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_srt(tmp_path):
    assert read_subtitles(written(tmp_path, "a.srt", SRT)) == [
        (1.0, 2.0, "Ada : hi , 2 < 3"),
        (5.5, 7.25, "Ben : We met & left. Bye."),
        (3601.0, 3602.0, "late"),
    ]


def test_vtt(tmp_path):
    found = read_subtitles(written(tmp_path, "a.vtt", VTT))
    assert found == [(1.0, 2.0, "hi"), (5.5, 7.25, "Hello")]


def test_json_list(tmp_path):
    entries = [
        {"start": 3, "end": 4.5, "text": "Ben : yes .", "speaker": "c1"},
        {"start": 1.25, "end": 1.25, "text": " <b>no</b> "},
        {"start": 2, "end": 2.5, "text": ""},
    ]
    found = read_subtitles(written(tmp_path, "a.JSON", "\ufeff" + json.dumps(entries)))
    assert found == [(1.25, 1.25, "no"), (3.0, 4.5, "Ben : yes .")]


def test_json_of_tvqa(tmp_path):
    entry = {"sub_text": "Raj : hi . <eos> ( Penny : ) hello . <eos> end", "sub_time": [1.2, 4, 3]}
    found = read_subtitles(written(tmp_path, "a.json", json.dumps(entry)))
    assert found == [(1.2, 4.0, "Raj : hi ."), (3.0, 3.0, "end"), (4.0, 4.0, "( Penny : ) hello .")]


CUE = "1\n00:00:01,000 --> 00:00:02,000\nhi\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.srt", "", "a.srt: expected one subtitle a line, found none"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\n<i> </i>\n", "a.srt: .*none with text"),
        ("a.vtt", "WEBVTT\n\n", "a.vtt: .*none with text"),
        ("a.srt", CUE + "\nlost line\n", "a.srt:5: expected a time such as .*'lost line'"),
        ("a.srt", CUE + "\n2\n00:0x:01,000 --> 00:00:02,000\nho\n", r"a.srt:6: expected a time"),
        ("a.srt", CUE + "\n2\n00:00:03,000 -->\nho\n", r"a.srt:6: expected a time"),
        ("a.srt", "1\n00:00:03,000 --> 00:00:02,999\nho\n", "a.srt:2: expected an end after"),
        ("a.srt", CUE.encode() + b"caf\xe9\n", "a.srt:4: .*UTF-8"),
        ("a.srt", CUE.encode("utf-16"), "a.srt:1: .*UTF-8"),
        ("a.json", b'["caf\xe9"]', "a.json: expected JSON in UTF-8"),
        ("a.json", "", "a.json:1: expected JSON"),
        ("a.json", "[1,\n2,,]", "a.json:2: expected JSON"),
        ("a.json", "3", "a.json: expected a list of subtitles, found int"),
        ("a.json", "[]", "a.json: .*none with text"),
        ("a.json", '[{"start": 0, "end": 1, "text": "a"}, {"b": 2}]', "subtitle 1: .*'b': 2"),
        ("a.json", '[{"start": 2, "end": 1, "text": "a"}]', "subtitle 0: expected"),
        ("a.json", '[{"start": NaN, "end": 1, "text": "a"}]', "subtitle 0: expected"),
        ("a.json", '[{"start": 0, "end": 1, "text": 7}]', "subtitle 0: expected"),
        ("a.json", "[3]", "subtitle 0: expected"),
        ("a.json", '{"s01": {"sub_text": "a", "sub_time": [1]}}', "of one video, found s01"),
        ("a.json", '{"sub_text": "a <eos> b", "sub_time": [1]}', r"sentences .*\(2\), found 1"),
        ("a.sub", CUE, "a.sub: expected subtitles ending in"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read_subtitles(written(tmp_path, name, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.srt", "none.json"])
def test_missing_file(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}: expected .* \(No such file"):
        read_subtitles(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Who is Ada's friend?", "Who is Ada 's friend ?"),
        ("DON'T! I can't; it isn’t.", "DO N'T ! I ca n't it is n't ."),
        ("They'd've said we'll; I'm sure you're", "They 'd 've said we 'll I 'm sure you 're"),
        ("the ladies' purse, sayin' 'Soft Kitty'", "the ladies ' purse , sayin ' ' Soft Kitty '"),
        ("O'Brian let 'em in at 6:30 in the '80s", "O'Brian let 'em in at 6 : 30 in the '80s"),
        ("I cannot; Gonna go. Wanna?", "I can not Gon na go . Wan na ?"),
        ('He said "Hi" -- to the well-known (old) man…', "He said Hi to the well known old man ."),
        ("Dr. No paid $1,000 & 2.5%", "Dr . No paid 1 , 000 2 . 5"),
        ("naïve café snake_case 很好", "naïve café snake case 很好"),
        ("\t \n", ""),
    ],
)  # fmt: skip
def test_tokenize(text, tokens):
    assert tokenize(text) == tokens.split()
    assert tokenize(" ".join(tokenize(text))) == tokens.split()


def test_tokenize_agrees_with_the_annotations():
    """Published sentences stay as they are; written as usual, nearly all come out as published."""
    path = ROOT.parent / "shared" / "annotations" / "tvqa_plus" / "tvqa_plus_val.json.gz"
    if not path.exists():
        pytest.skip("the annotations of TVQA+ are not here")
    with gzip.open(path) as file:
        entries = json.load(file)
    texts = [entry[key] for entry in entries for key in ("q", "a0", "a1", "a2", "a3", "a4")]
    assert len(texts) > 18000
    changed = [text for text in texts if tokenize(text) != text.split()]
    assert changed == ["Working on the computer `"]
    usual = texts
    for ending in ("'s", "n't", "'re", "'ll", "'m", "'ve", "'d", ",", "?", ".", "!", ":"):
        usual = [text.replace(f" {ending}", ending) for text in usual]
    pairs = [pair for pair in zip(texts, usual, strict=True) if pair[0] != pair[1]]
    wrong = [text for text, written in pairs if tokenize(written) != text.split()]
    assert len(pairs) > 10000
    assert len(wrong) < 0.001 * len(pairs), wrong[:5]
