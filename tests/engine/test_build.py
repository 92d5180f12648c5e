# SPDX-License-Identifier: Apache-2.0
"""Extractors: their weights, identity and mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from engine import build, convert
from engine.errors import ConfigError, WeightsError
from models.extractors import get_extractor
from tests.conftest import ROOT

TINY = ROOT / "tests" / "golden" / "tall" / "c3d_tiny.npz"


@pytest.fixture(scope="module")
def tiny() -> tuple[dict, dict]:
    """Options and published-form parameters of a narrow C3D."""
    with np.load(TINY) as z:
        state = {k[6:]: z[k] for k in z.files if k.startswith("param/") and "fc7" not in k}
        frames, expected = z["in/frames_u8_bgr_thwc"], z["out/fc6"]
        mean = z["in/channel_mean_bgr"].tolist()
    state = {k: v for k, v in state.items() if "fc8" not in k}
    widths = [v.shape[0] for k, v in state.items() if v.ndim == 5]
    options = {"widths": widths, "fc_dims": [state["fc6.weight"].shape[0]], "mean": mean}
    return options, {"state": state, "frames": frames, "fc6": expected}


def test_weights_file_to_features_and_identity(tiny, tmp_path):
    options, golden = tiny
    path = tmp_path / "c3d.npz"
    np.savez(path, **golden["state"])
    extractor = build.build_extractor("c3d", weights=str(path), **options)
    np.testing.assert_allclose(
        extractor.features(golden["frames"][None]), golden["fc6"], rtol=1e-5, atol=5e-4
    )
    same = build.build_extractor("C3D", weights=str(path), **options)
    assert same.identity == extractor.identity and len(same.identity["weights"]) == 64
    other = build.build_extractor("c3d", init_seed=1, **options)
    assert other.identity != extractor.identity


def test_caffe_file_converts_to_pdparams(tiny, tmp_path, monkeypatch):
    options, golden = tiny
    cls = get_extractor("c3d")
    monkeypatch.setattr(cls, "read_file", staticmethod(lambda path: golden["state"]))
    monkeypatch.setattr(convert.build, "extractor_class", lambda name: lambda: cls(**options))
    source, target = tmp_path / "c3d.caffemodel", tmp_path / "c3d.pdparams"
    source.write_bytes(b"a protobuf message")
    report = convert.convert("c3d", str(source), str(target))
    assert len(report.matched) == len(golden["state"])
    monkeypatch.undo()
    loaded = build.build_extractor("c3d", weights=str(target), **options)
    np.testing.assert_allclose(
        loaded.features(golden["frames"][None]), golden["fc6"], rtol=1e-5, atol=5e-4
    )


@pytest.mark.parametrize("name", ["c3d", "skip_thoughts"])
def test_absent_weights_say_where_they_come_from(name):
    with pytest.raises(WeightsError, match=r"found nothing there; .*http|C3D project"):
        build.build_extractor(name, weights="nowhere/at.all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected either weights .* neither"),
        ({"weights": "w", "init_seed": 1}, "found both"),
        ({"init_seed": "x"}, "init_seed: expected int"),
        ({"init_seed": 1, "wdiths": [1]}, r"did you mean widths\?"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        build.build_extractor("c3d", **options)
