# SPDX-License-Identifier: Apache-2.0
"""Caffe files of both layouts, whole and damaged, against Google's protobuf."""

from __future__ import annotations

import numpy as np
import pytest

from models.extractors.caffe import read_binaryproto, read_caffemodel
from models.extractors.errors import WeightsFileError
from tests.extractors.caffe_files import blob, messages, model

LAYERS = {
    "conv1a": [np.arange(162, dtype=np.float32).reshape(2, 3, 3, 3, 3), np.ones(2, np.float32)],
    "fc6-1": [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(2, np.float32)],
}


@pytest.mark.parametrize("layout", ["fork", "caffe"])
def test_model(tmp_path, layout):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(model(layout, LAYERS))
    found = read_caffemodel(path)
    assert list(found) == ["conv1a", "fc6-1"]
    for name, arrays in LAYERS.items():
        for ours, array in zip(found[name], arrays, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_array_equal(ours.reshape(array.shape), array)
    assert found["fc6-1"][0].shape == ((1, 1, 1, 2, 3) if layout == "fork" else (2, 3))


def test_mean_cube(tmp_path):
    cube = np.random.default_rng(0).random((1, 3, 2, 4, 5), np.float32)
    path = tmp_path / "mean.binaryproto"
    for layout in ("fork", "caffe"):
        path.write_bytes(blob(layout, cube).SerializeToString())
        np.testing.assert_array_equal(read_binaryproto(path), cube)


def test_other_ways_to_write_a_blob(tmp_path):
    path, values = tmp_path / "a.binaryproto", np.arange(6.0).reshape(1, 1, 2, 3)
    path.write_bytes(blob("caffe", values, "double_data").SerializeToString())
    assert read_binaryproto(path).dtype == np.float32
    message = messages("caffe")["Blob"](num=1, channels=1, height=2, width=3, data=range(6))
    path.write_bytes(message.SerializeToString())
    np.testing.assert_array_equal(read_binaryproto(path), values)


def test_cut_at_every_byte(tmp_path):
    """Part of a file is an error, or a model with fewer layers, never wrong numbers."""
    path, data = tmp_path / "net.caffemodel", model("fork", LAYERS)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        try:
            found = read_caffemodel(path)
        except WeightsFileError as error:
            assert "net.caffemodel: expected" in str(error) and "\n" not in str(error)
        else:
            assert list(found) == ["conv1a"]
            np.testing.assert_array_equal(found["conv1a"][0], LAYERS["conv1a"][0])


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x80\x02}q.", b"PK\x03\x04" * 9, b"\xff" * 99])
def test_other_files(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    for read in (read_caffemodel, read_binaryproto):
        with pytest.raises(WeightsFileError, match="expected a Caffe") as error:
            read(tmp_path / "a")
        assert error.value.exit_code == 4
    with pytest.raises(WeightsFileError, match="No such file"):
        read_caffemodel(tmp_path / "none")
