# SPDX-License-Identifier: Apache-2.0
"""TALL's reader: sentence files, faulty and missing data, lengths, identities, file lists."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from reader.common.errors import DataError
from reader.common.moments import write_json, write_sentences
from reader.tall import Reader
from tests.reader.tall_world import E, F, Text, vector, write_windows

# sentence files


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["v_1_65", b"v_1_65", "视频_1_65", "视频_1_65".encode()])
@pytest.mark.parametrize("kind", [list, np.asarray, lambda v: [row.tolist() for row in v]])
def test_every_kind_of_pickle(world, tmp_path, protocol, name, kind):
    vectors = np.concatenate([vector(0), vector(1)])
    with open(tmp_path / "p.pkl", "wb") as file:
        pickle.dump([[name, kind(vectors)]], file, protocol)
    queries = Reader("test", **world | {"clip_sentvec": str(tmp_path / "p.pkl")}).queries
    assert queries.names == [name if isinstance(name, str) else name.decode()] * 2
    assert np.array_equal(queries.vectors, vectors) and queries.vectors.dtype == np.float32
    assert queries.moments.tolist() == [[1, 65]] * 2


class _Evil:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected a list of .*, found an empty list"),
        ({"v_1_2": 1}, "found dict"),
        ([["v_1_2"]], r"entry 0: expected \[name, vectors\]"),
        ([["v_1_2", [[1.0], [1.0, 2.0]]]], "entry 0: expected a name and vectors"),
        ([["v_1_2", np.zeros(E, np.float32)]], r"an array of shape \(5,\)"),
        ([["v_1_2", "text"]], "entry 0"),
        ([[7, [[1.0] * E]]], "a name of type int"),
        ([["v_1_2", [[1.0] * E]], ["v_3_4", [[np.nan] * E]]], r"entry 1 \(v_3_4\): .* finite"),
        ([["v_1_2", [[1.0] * E]], ["v_3_4", [[1.0] * 7]]], r"one size, found 5 \(v_1_2\), 7"),
        ([["v_1_2", []]], "found moments without any"),
        ([["nonsense", [[1.0] * E]]], "nonsense"),
        (_Evil(), "print"),
    ],
)
def test_odd_sentence_files(world, tmp_path, capsys, data, message):
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(data, 2))
    with pytest.raises(DataError, match=message) as caught:
        len(Reader("test", **world | {"clip_sentvec": str(tmp_path / "p.pkl")}))
    assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


# missing and faulty data


def test_constructor_touches_no_file_and_missing_data_are_explained():
    r = Reader("train", sliding_clip_path="nowhere/w", clip_sentvec="nowhere/s.pkl")
    with pytest.raises(DataError) as caught:
        len(r)
    text = str(caught.value)
    assert "data/dataset/tall/README.md" in text and "nowhere/w" in text
    assert "bash run.sh train TALL ./configs/sample/tall.yaml" in text
    assert len(text.splitlines()) <= 6 and caught.value.exit_code == 3
    with pytest.raises(DataError, match="names no path"):
        len(Reader("test"))


def test_faulty_features_are_named(world):
    folder = Path(world["sliding_clip_path"])
    with pytest.raises(DataError, match=r"features of 4 numbers \(feats_dimen\), found 6"):
        len(Reader("train", **world | {"feats_dimen": 4}))
    r = Reader("train", **world)
    file = r[0]["id"].split("|")[1]
    for bad, said in ((np.full(F, np.nan), "NaN"), (np.zeros(F + 1), str(F + 1))):
        np.save(folder / file, bad.astype(np.float32))
        with pytest.raises(DataError, match=said) as caught:
            Reader("train", **world)[0]
        assert file.removesuffix(".npy") in str(caught.value)
    (folder / file).unlink()
    with pytest.raises(DataError, match=file.removesuffix(".npy")):
        r[0]


def test_no_matching_sample_hints_at_names_and_grid(world, tmp_path):
    write_sentences(tmp_path / "o.pkl", [("b.avi_1_4", vector(0)), ("z.avi_1_65", vector(1))])
    args = world | {"clip_sentvec": str(tmp_path / "o.pkl")}
    with pytest.raises(DataError, match=r"moments such as b.avi_1_4, found none in 1 videos"):
        len(Reader("train", **args))


def test_videos_without_windows(world, tmp_path, log):
    write_sentences(tmp_path / "o.pkl", [("b.avi_1_4", vector(0)), ("z.avi_1_65", vector(1))])
    r = Reader("test", **world | {"clip_sentvec": str(tmp_path / "o.pkl")})
    assert len(r) == 1 and "no window of 1 videos, the first is z.avi" in log.text
    assert len(r.references()) == 2
    write_sentences(tmp_path / "o.pkl", [("z.avi_1_65", vector(1))])
    with pytest.raises(DataError, match=r"videos such as z.avi, found only others such as a.avi_"):
        len(Reader("test", **world | {"clip_sentvec": str(tmp_path / "o.pkl")}))


@pytest.mark.parametrize(
    "options", [{"off_size": 3}, {"context_num": 0}, {"max_windows": 0}, {"feats_dimen": 0}]
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options)).split("_")[0]):
        Reader("train", **options)
    with pytest.raises(ValueError, match="split"):
        Reader("training")


# lengths, identities, file lists


def test_lengths_and_rates_where_known(world, tmp_path):
    write_json(tmp_path / "info.json", {"b.avi": {"num_frames": 500, "fps": 25.0}})
    r = Reader("test", **world, movie_length_info=str(tmp_path / "info.json"))
    assert (r[0]["num_frames"], r[0]["fps"]) == (500, 25.0) and "fps" not in r[1]
    assert r.references()["b.avi_1_130#0"]["fps"] == 25.0
    (tmp_path / "info.pkl").write_bytes(pickle.dumps({b"a": 480}, 0))
    r = Reader("test", **world, movie_length_info=str(tmp_path / "info.pkl"))
    assert r.references()["a.avi_100_240#0"]["num_frames"] == 480
    assert len(Reader("test", **world, movie_length_info="nowhere.pkl").references()) == 5


def test_feature_identity(world, tmp_path):
    assert Reader("test", **world).feature_identity is None
    stamp = {"identity": {"name": "skip_thoughts", "eos": False}, "made_from": "x"}
    write_sentences(tmp_path / "s.pkl", [("b.avi_1_130", vector(0))], stamp)
    found = Reader("test", **world).feature_identity
    assert found == {"visual": None, "text": stamp["identity"]}


def test_filelist_of_videos_and_sentences(world, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.avi\n\nb.avi\tHe cuts the bread.\nb.avi\tShe smiles.\n", encoding="utf-8")
    r = Reader("infer", **world, filelist=str(path))
    assert r.needs_extractors == ("text",)
    with pytest.raises(DataError, match="text extractor"):
        len(r)
    r.extractors = {"text": Text()}
    assert [r[i]["query_ids"] for i in range(len(r))] == [
        ["a.avi_100_240#0"], ["b.avi#0", "b.avi#1"]]  # fmt: skip
    assert np.array_equal(r[1]["sentence"][1], vector(len("She smiles."))[0])
    assert np.array_equal(r[0]["sentence"], vector(4))
    assert r.references()["b.avi#1"] == {"video": "b.avi", "sentence_index": 1}
    path.write_text("b.avi\tAll sentences are given.\n", encoding="utf-8")
    r = Reader("infer", **world | {"clip_sentvec": None}, filelist=str(path))
    r.extractors = {"text": Text()}
    assert r[0]["query_ids"] == ["b.avi#0"]


def test_filelist_of_videos_only(world, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("﻿b.avi\r\na_1.avi\r\n", encoding="utf-8")
    r = Reader("infer", **world, filelist=str(path))
    assert r.needs_extractors == ()
    assert [r[i]["query_ids"] for i in range(len(r))] == [
        ["b.avi_1_130#0", "b.avi_150_410#1", "b.avi_1_130#2"], ["a_1.avi_20_160#0"]]  # fmt: skip


def test_filelist_folder(world, tmp_path):
    own = tmp_path / "infer"
    write_windows(own / "infer_feat", ["c.avi"])
    r = Reader("infer", **world, filelist=str(own))
    assert len(r) == 3  # without infer_clip-sen.pkl: the configured paths
    write_sentences(own / "infer_clip-sen.pkl", [("c.avi_1_65", vector(0))])
    r = Reader("infer", **world, filelist=str(own))
    assert len(r) == 1 and r[0]["id"] == "c.avi"
    assert len(Reader("test", **world, filelist=str(own))) == 3  # infer only


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "found no line"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"zebra.avi\n", "known sentences, found zebra.avi"),
    ],
)
def test_odd_filelists(world, tmp_path, content, message):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        len(Reader("infer", **world, filelist=str(tmp_path / "list.txt")))


def test_the_file_written_is_what_python_2_writes(tmp_path):
    write_sentences(tmp_path / "s.pkl", [("v_1_2", vector(0))])
    data = (tmp_path / "s.pkl").read_bytes()
    assert data[:2] == b"\x80\x02" and b"numpy.core.multiarray" in data and b"_core" not in data
    assert b"U\x05v_1_2" in data  # a Python 2 str
    ((name, vectors),) = pickle.loads(data, encoding="bytes")
    assert name == b"v_1_2" and np.array_equal(vectors, vector(0))
    assert json.dumps(pickle.loads(data, encoding="latin1")[0][0]) == '"v_1_2"'
