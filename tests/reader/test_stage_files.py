# SPDX-License-Identifier: Apache-2.0
"""What STAGE's reader says of missing, damaged and unfitting files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from reader.common import tvqa_plus
from reader.common.errors import DataError
from reader.common.tvqa_plus import read_json, stream_json
from reader.common.tvqa_plus_store import pack
from reader.stage import Reader
from tests.reader.stage_world import (
    SUBTITLES,
    D,
    V,
    features,
    make_package,
    question,
    regions,
    rows,
    write_h5,
)


@pytest.fixture
def world(tmp_path):
    """Reader options of a made-up data set."""
    options, annotations = make_package(tmp_path)
    return options | {"annotations": annotations["valid"]}


def fails(options, *parts, split="valid", index=0):
    """A sample of a reader fails with one line that has these parts."""
    with pytest.raises(DataError) as caught:
        reader = Reader(split, **options)
        reader.collate([reader[index]])
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def rewrite(path, change):
    """Change a JSON file."""
    data = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps(change(data) or data))


@pytest.mark.parametrize(
    "option",
    ["annotations", "subtitles", "word2idx", "object_vocab", "frm_cnt", "qa_bert", "sub_bert",
     "vcpt", "vfeat"],
)  # fmt: skip
def test_missing_files(world, option):
    fails(world | {option: None}, f"{option}: expected the path of", f"DATASET.{option}")
    fails(world | {option: "gone.x"}, f"{option}: expected", "gone.x, found nothing", "README.md")
    if option not in ("word2idx", "object_vocab"):
        with pytest.raises(DataError):
            len(Reader("valid", **world | {option: "gone.x"}))


@pytest.mark.parametrize("option", ["annotations", "subtitles", "word2idx", "frm_cnt", "vcpt"])
@pytest.mark.parametrize("content", [b"{", b"", b"[1, 2", b'{"a": nope}', b"3", b"\xff\xfe{}"])
def test_malformed_json(world, option, content, tmp_path):
    for path in (tmp_path / "bad.json", tmp_path / "bad.json.gz"):
        path.write_bytes(content if path.suffix == ".json" else gzip.compress(content))
        fails(world | {option: str(path)}, f"{path}: expected")
    path.write_bytes(gzip.compress(b'{"a": 1}')[:-9])
    fails(world | {option: str(path)}, f"{path}: expected")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_idx": "5"}, "answer_idx 5, which is not 0 to 4"),
        ({"answer_idx": -1}, "answer_idx -1"),
        ({"answer_idx": "two"}, "'two'"),
        ({"ts": [1.0, float("nan")]}, "ts [1.0, nan]"),
        ({"ts": [1.0]}, "found"),
        ({"q": None}, "found no 'q'"),
        ({"vid_name": 7}, "no text"),
        ({"bbox": {"0": []}}, "bbox of frame 0; frames count from 1"),
        ({"bbox": {"3": [{"label": "x"}]}}, "found no 'left'"),
        ({"bbox": {"3": "abc"}}, "found"),
        ({"bbox": {"21": []}}, "expected boxes of frames 1 to 20 of ball, found frame 21"),
    ],
)
def test_damaged_questions(world, tmp_path, change, message):
    path = tmp_path / "own.json"
    change = {"bbox": None, **change}
    path.write_text(json.dumps([question(4, **change)]))
    fails(world | {"annotations": str(path)}, "question 4", message)


def test_question_lists(world, tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps([question(4), question(4)]))
    fails(world | {"annotations": str(path)}, "expected every qid once, found 4 twice")
    path.write_text(json.dumps([question(4, "moon")]))
    fails(world | {"annotations": str(path)}, "moon: expected a number of frames, found nothing")
    path.write_text("[]")
    fails(world | {"annotations": str(path)}, "expected questions, found none")
    path.write_text("[3]")
    fails(world | {"annotations": str(path)}, "entry 0: expected a question of TVQA+")
    path.write_text(json.dumps([question(4, answer_idx=None)]))
    fails(world | {"annotations": str(path)}, "question 4: expected an answer_idx", split="train")
    ids = tmp_path / "ids.txt"
    ids.write_text("4\n77\n")
    fails(world | {"filelist": str(ids)}, "ids.txt:2: expected the id of one of 2 questions",
          "found '77'", split="infer")  # fmt: skip


def test_subtitles(world):
    rewrite(world["subtitles"], lambda data: {k: v for k, v in data.items() if k != "ball"})
    fails(world, "expected subtitles of ball, found none")
    for bad in ({"sub_text": "", "sub_time": []}, {"sub_text": " <eos> ", "sub_time": [1.0, 2.0]}):
        rewrite(world["subtitles"], lambda data, bad=bad: data | {"ball": bad})
        fails(world, "ball: expected subtitles, found none")
    rewrite(world["subtitles"], lambda data: data | {"ball": {"sub_text": "a"}})
    fails(world, "ball: expected sub_text and sub_time, found KeyError('sub_time')")
    more = SUBTITLES["ball"] | {"sub_time": [1, 2, 3, 4]}
    rewrite(world["subtitles"], lambda data: data | {"ball": more})
    fails(world, "ball: expected 4 sentences in sub_text as in sub_time, found 3")


def test_feature_files(world, tmp_path):
    files = (tmp_path / f"{k}.h5" for k in range(99))  # HDF5 does not write what is open

    def wrong(name, values, *parts):
        path = next(files)
        path.write_bytes(values) if isinstance(values, bytes) else write_h5(path, values)
        fails(world | {name: str(path)}, str(path), *parts)

    for name, key in (("qa_bert", "4_a3"), ("sub_bert", "ball"), ("vfeat", "ball")):
        values = features()[name]
        without = {k: v for k, v in values.items() if k != key}
        wrong(name, without, f"expected features of {key}, found none")
        nan = np.full_like(values[key], np.nan)
        wrong(name, without | {key: nan}, key, "expected finite numbers")
        option = "vfeat_size" if name == "vfeat" else "embedding_size"
        expected = f"expected rows of {V if name == 'vfeat' else D} numbers ({option}), found 3"
        wrong(name, {k: v[:, :3] for k, v in values.items()}, expected, f"change {option}")
        wrong(name, without | {key: values[key][:, :3]}, "numbers")
        wrong(name, without | {key: values[key][0]}, "numbers")
        wrong(name, b"no HDF5", "expected an HDF5 file")
        wrong(name, {}, "expected features, found an empty file")
    short = {"4_a3": rows("4_a3", 3, D)}
    wrong("qa_bert", features()["qa_bert"] | short, "a row for each of 4 words, found 3")
    short = {"ball": rows("ball", 20, V)}
    wrong("vfeat", features()["vfeat"] | short, "ball: expected 50 rows, one a region, found 20")


def test_boxes(world):
    rewrite(world["vcpt"], lambda data: {k: v for k, v in data.items() if k != "ball"})
    fails(world, "expected regions of ball, found none")
    good = regions("ball")
    for bad, message in (
        (good | {"counts": good["counts"][:5]}, "20 frames of boxes for 5 counts"),
        (good | {"counts": [-1] * 20}, "counts [-1"),
        ({"counts": [1] * 20}, "KeyError('boxes')"),
        ({"counts": good["counts"][:9], "boxes": good["boxes"][:9]},
         "ball: expected regions of 15 frames, found 9"),
        (good | {"boxes": [[[1, 2, 3]]] * 20}, "boxes[2]: expected boxes of 4 numbers"),
        (good | {"boxes": [[[1, 2, 3, 4]] * 4] * 20}, "expected 3 finite boxes, found 4"),
        (7, "expected counts and boxes of frames"),
    ):  # fmt: skip
        rewrite(world["vcpt"], lambda data, bad=bad: {"hall": regions("hall"), "ball": bad})
        fails(world, "ball", message)


def test_stores(world, tmp_path):
    store = tmp_path / "store"
    options = world | {"store": str(store)}
    fails(options, "store: expected a folder packed from the feature files")
    store.mkdir()
    fails(options, "expected a store with index.json; make it with prepare.py pack")
    pack(store, qa_bert=Path(world["qa_bert"]), sub_bert=Path(world["sub_bert"]))
    fails(options, "expected a store with regions, found qa, subtitles")
    sub = Reader("valid", **options | {"input_streams": ["sub"]})
    assert len(sub) == 2 and len(sub.collate([sub[0]])["id"]) == 1
    fails(options | {"embedding_size": 7}, "rows of 7 numbers (embedding_size), found 6")
    (store / "qa.npy").write_bytes(b"no array")
    fails(options, "qa.npy: expected an array")
    (store / "index.json").write_text('{"format": "tvqa_plus 0", "parts": {}}')
    fails(options, "expected a store of format 'tvqa_plus 1'")
    with pytest.raises(DataError, match="expected features of nothing"):
        tmp = tmp_path / "other"
        pack(tmp, qa_bert=Path(world["qa_bert"]))
        Reader("valid", **world | {"store": str(tmp)}).source._qa.read("nothing")


@pytest.mark.parametrize(
    "bad",
    [{"split": "dev"}, {"input_streams": ["vcpt"]}, {"input_streams": []}, {"num_region": 0},
     {"frame_interval": 0}, {"num_negatives": 0}, {"max_qa_l": 0}],
)  # fmt: skip
def test_bad_options(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected"):
        Reader(**{"split": "valid", **bad})


def test_json_is_read_in_pieces(tmp_path, monkeypatch):
    data = {f"clip {k}": {"counts": [k] * k, "text": 'a "}" \\ ,' * k} for k in range(30)}
    path = tmp_path / "a.json"
    for indent in (None, 3):
        path.write_text(json.dumps(data, indent=indent))
        for block in (1, 7, 100, 1 << 20):
            monkeypatch.setattr(tvqa_plus, "_BLOCK", block)
            assert dict(stream_json(path)) == data == read_json(path)
    path.write_text("{}")
    assert dict(stream_json(path)) == {}
    for bad in ('{"a": 1', '{"a" 1}', '{"a": 1 "b": 2}', "{1: 2}", '{"a": {"b": }, "c": 1}'):
        path.write_text(bad)
        with pytest.raises(DataError, match=r"a\.json: expected JSON"):
            list(stream_json(path))
