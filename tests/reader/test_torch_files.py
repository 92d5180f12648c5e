# SPDX-License-Identifier: Apache-2.0
"""PyTorch's files, mapped: views of tensors, and what is no such file."""

from __future__ import annotations

import numpy as np
import pytest

from reader.common import torch_files
from reader.common.errors import DataError
from tests.conftest import ROOT
from tests.engine.test_formats import tensor, torch_pickle, torch_zip

FORMATS = ROOT / "tests" / "golden" / "formats"


@pytest.mark.parametrize("name", ["pth_edge_zip.pth", "pth_edge_legacy.pth"])
def test_views_are_the_tensors(name):
    wanted, opened = np.load(FORMATS / "pth_edge.npz"), torch_files.open_file(FORMATS / name)
    checked = 0
    for key, value in opened.tree["model"].items():
        if not isinstance(value, torch_files.Tensor):
            continue
        view, golden = opened.view(value), wanted[f"model/{key}"]
        assert view.shape == golden.shape and not (view.size and view.flags.writeable)
        if value.storage.dtype == "bf16":  # as it is stored
            assert view.dtype == np.uint16
            view = (view.astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(view, golden) and np.array_equal(opened.array(value), golden)
        checked += 1
    assert checked > 10


def test_views_of_many_small_tensors_do_not_run_out(tmp_path):
    """Features are asked for again in every epoch."""
    values = np.arange(12, dtype=np.float16).reshape(3, 4)
    path = tmp_path / "x.pth"
    pickled = torch_pickle(video=tensor("0", 12, (3, 4), (4, 1), 0, "Half"))
    path.write_bytes(torch_zip(pickled, {"0": values.tobytes()}))
    opened = torch_files.open_file(path)
    for _ in range(3):
        assert np.array_equal(opened.view(opened.tree["video"]), values)


def test_mistakes_are_data_errors_of_one_line(tmp_path):
    path = tmp_path / "x.pth"
    for content, message in (
        (None, "cannot be read"),
        (b"", "damaged or incomplete"),
        (b"<html>", "expected a PyTorch file"),
        (torch_zip(b"\x80\x02cos\nsystem\n.", {}), "os.system"),
        ((FORMATS / "pth_edge_zip.pth").read_bytes()[:-900], "damaged or incomplete"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            torch_files.open_file(path)
        assert "\n" not in str(error.value) and error.value.exit_code == 3
    path.write_bytes(torch_zip(torch_pickle(a=tensor("0", 9, (9,), (1,))), {"0": bytes(8)}))
    opened = torch_files.open_file(path)
    with pytest.raises(DataError, match="reaches beyond storage 0"):
        opened.view(opened.tree["a"])
