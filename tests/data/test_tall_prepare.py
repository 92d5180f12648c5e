# SPDX-License-Identifier: Apache-2.0
"""data/dataset/tall/prepare.py: annotations, sentence files, windows, prediction data."""

from __future__ import annotations

import importlib.util
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from engine import build
from engine.errors import ConfigError
from reader.common.errors import DataError
from reader.common.features import open_features
from reader.common.moments import read_sentences, read_stamp, read_video_info
from reader.common.windows import window_grid, window_name
from reader.tall import Reader

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "data/dataset/tall/prepare.py"
SHARED = ROOT.parent / "shared"
F, E, FRAMES = 4, 5, 150


@pytest.fixture(scope="module")
def prepare():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("tall_prepare", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Visual:
    dim, calls = F, 0

    def __init__(self, name="c3d", seed=0):
        self.identity = {"name": name, "options": (1, 2), "weights": f"random, seed {seed}"}

    def positions(self, length):
        return np.array([[0, length - 1]])

    def preprocess(self, frame):
        return frame[:1, :1]

    def features(self, clips):
        _Visual.calls += len(clips)
        ends = clips.reshape(len(clips), 2, 3)[:, :, 0].astype(np.float32)
        return np.concatenate([ends, ends], 1)


class _Text:
    dim, calls = E, 0

    def __init__(self, seed=0):
        self.identity = {"name": "skip_thoughts", "weights": f"random, seed {seed}"}

    def encode(self, sentences):
        _Text.calls += len(sentences)
        return np.stack([np.full(E, len(s), np.float32) for s in sentences])


@pytest.fixture
def fakes(monkeypatch):
    """Extractors that cost nothing and count what they are asked for."""
    made = {"c3d": _Visual, "text": _Text}
    monkeypatch.setattr(build, "build_extractor", lambda name, seed=0: made[name](seed=seed))
    _Visual.calls = _Text.calls = 0


def _video(path, frames=FRAMES):
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 25, (16, 16))
    for k in range(frames):
        writer.write(np.full((16, 16, 3), k + 1, np.uint8))
    writer.release()


TACOS = {
    "train": {"w1.avi": [[1, 70, "He waves."], [20, 100, "She sits."], [1, 70, "He waves."]]},
    "val": {"w2.avi": [[30, 90, "He waves."]]},
    "test": {"w_3.avi": [[1, 70, "It rains."], [50, 120, "She sits."], [1, 70, "It pours."]]},
}


def _tacos(folder, splits=TACOS):
    folder.mkdir(exist_ok=True)
    for split, videos in splits.items():
        data = {
            video: {"timestamps": [m[:2] for m in items], "sentences": [m[2] for m in items],
                    "fps": 25, "num_frames": FRAMES}
            for video, items in videos.items()
        }  # fmt: skip
        (folder / f"{split}.json").write_text(json.dumps(data))
    return folder


def _config(tmp_path, **more):
    extractors = {"visual": {"name": "c3d"}, "text": {"name": "text"}} | more
    text = json.dumps({"MODEL": {"name": "TALL"}, "DATASET": {"extractors": extractors}})
    (tmp_path / "c.yaml").write_text(text)
    return str(tmp_path / "c.yaml")


@pytest.fixture
def command(tmp_path):
    """The command line for three short videos in the layout of TACoS."""
    (tmp_path / "videos").mkdir()
    for name in ("w1", "w2", "w_3"):
        _video(tmp_path / "videos" / f"{name}.avi")
    return ["--annotations", str(_tacos(tmp_path / "ann")), "--videos", str(tmp_path / "videos"),
            "--out", str(tmp_path / "out"), "--config", _config(tmp_path),
            "--train_lengths", "32,64", "--test_lengths", "64"]  # fmt: skip


def test_everything_from_annotations_and_videos(prepare, fakes, command, tmp_path):
    prepare.main(command)
    out = tmp_path / "out"
    entries = read_sentences(out / "test_clip-sentvec.pkl")
    assert [(name, v.tolist()) for name, v in entries] == [
        ("w_3.avi_1_70", [[9.0] * E]), ("w_3.avi_50_120", [[9.0] * E]),
        ("w_3.avi_1_70", [[9.0] * E])]  # fmt: skip
    train = open_features(out / "Interval32_64_overlap0.8_c3d_fc6")
    spans = window_grid(FRAMES, (32, 64)).tolist()
    assert train.names == sorted(window_name("w1.avi", *span) for span in spans)
    row = train.names.index("w1.avi_13_77")
    assert np.abs(train.rows([row])[0] - [13, 76, 13, 76]).max() <= 1  # first and last frame
    test = open_features(out / "Interval64_overlap0.8_c3d_fc6")
    assert {name.rsplit("_", 2)[0] for name in test.names} == {"w2.avi", "w_3.avi"}
    assert read_video_info(out / "video_allframes_info.pkl")["w_3"].num_frames == FRAMES
    assert read_video_info(out / "video_info.json")["w_3.avi"] == (FRAMES, 25.0)
    args = {"feats_dimen": F, "sent_vec_dim": E, "context_size": 64,
            "movie_length_info": str(out / "video_info.json")}  # fmt: skip
    paths = {
        "sliding_clip_path": str(train._path),
        "clip_sentvec": str(out / "train_clip-sentvec.pkl"),
    }
    reader = Reader("train", **args, **paths)
    assert len(reader) > 0
    assert reader.feature_identity == {"visual": train.identity, "text": _Text().identity}
    reader = Reader("infer", **args, filelist=str(out / "infer"))
    assert len(reader) == 1 and reader[0]["fps"] == 25.0
    assert reader.feature_identity == {"visual": train.identity, "text": _Text().identity}
    assert len(reader[0]["query_ids"]) == 3
    assert len(reader[0]["windows"]) == len(window_grid(FRAMES, (64,)))


def test_sentences_are_encoded_once_and_complete_files_left_alone(
    prepare, fakes, command, tmp_path
):
    prepare.main(command)
    assert _Text.calls == 2 + 1 + 3  # different ones per file
    first = (tmp_path / "out" / "train_clip-sentvec.pkl").stat().st_mtime_ns
    calls = _Text.calls, _Visual.calls
    prepare.main(command)
    assert (_Text.calls, _Visual.calls) == calls
    assert (tmp_path / "out" / "train_clip-sentvec.pkl").stat().st_mtime_ns == first
    changed = {**TACOS, "val": {"w2.avi": [[30, 90, "He leaves."]]}}
    _tacos(tmp_path / "ann", changed)
    prepare.main(command)
    assert (_Text.calls, _Visual.calls) == (calls[0] + 1, calls[1])
    assert not list((tmp_path / "out").glob(".*"))


def test_an_interrupted_run_goes_on(prepare, fakes, command, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    prepare.main([*command, "--out", str(whole)])
    expected, budget = _Visual.calls, [3]
    features = _Visual.features

    def failing(self, clips):
        budget[0] -= 1
        if budget[0] < 0:
            raise KeyboardInterrupt
        return features(self, clips)

    monkeypatch.setattr(_Visual, "features", failing)
    _Visual.calls, interruptions = 0, 0
    while True:
        try:
            prepare.main([*command, "--batch", "2"])
            break
        except KeyboardInterrupt:
            budget[0], interruptions = 3, interruptions + 1
    assert interruptions > 3 and _Visual.calls == expected
    for name in ("Interval32_64_overlap0.8_c3d_fc6", "Interval64_overlap0.8_c3d_fc6"):
        a, b = open_features(whole / name), open_features(tmp_path / "out" / name)
        assert a.names == b.names
        assert np.array_equal(a.rows(range(len(a))), b.rows(range(len(b))))


def test_other_extractors_are_not_mixed(prepare, fakes, command, tmp_path):
    prepare.main(command)
    _config(tmp_path, text={"name": "text", "seed": 1})
    prepare.main(command)
    stamp = read_stamp(tmp_path / "out" / "test_clip-sentvec.pkl")
    assert stamp["identity"]["weights"] == "random, seed 1"
    _config(tmp_path, visual={"name": "c3d", "seed": 1})
    with pytest.raises(DataError, match=r"seed 0.*choose another folder"):
        prepare.main(command)


def test_real_extractors(prepare, command, tmp_path):
    _config(tmp_path, visual={"name": "c3d", "init_seed": 0, "widths": [2] * 8, "fc_dims": [F],
                              "side": 16},
            text={"name": "skip_thoughts", "init_seed": 0, "dim_word": 4, "uni_dim": 2,
                  "bi_dim": 1})  # fmt: skip
    prepare.main(command)
    store = open_features(tmp_path / "out" / "Interval64_overlap0.8_c3d_fc6")
    assert store.identity["name"] == "c3d" and store.dim == F
    vectors = dict(read_sentences(tmp_path / "out" / "test_clip-sentvec.pkl"))
    assert np.isclose(np.linalg.norm(vectors["w_3.avi_50_120"]), np.sqrt(2))


# Charades-STA

CHARADES = """AB1CD 0.0 2.0##a person waves.
AB1CD 1.0 99.9##person sits down.
AB1CD 4.0 2.0##reversed in the release.
AB1CD 7.5 8.0##begins behind the end.
"""


def _charades(folder):
    folder.mkdir()
    (folder / "charades_sta_train.txt").write_text(CHARADES)
    (folder / "charades_sta_test.txt").write_text(CHARADES.splitlines()[0] + "\n")
    (folder / "durations.json").write_text(json.dumps({"AB1CD": 6.0}))
    return str(folder)


def test_charades_seconds_become_frames(prepare, fakes, tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    _video(tmp_path / "videos" / "AB1CD.avi")
    prepare.main(["--annotations", _charades(tmp_path / "ann"), "--out", str(tmp_path / "out"),
                  "--config", _config(tmp_path), "--videos", str(tmp_path / "videos"),
                  "--train_lengths", "32", "--test_lengths", "32"])  # fmt: skip
    names = [name for name, _ in read_sentences(tmp_path / "out" / "train_clip-sentvec.pkl")]
    assert names == ["AB1CD_1_51", "AB1CD_26_150", "AB1CD_51_101", "AB1CD_150_150"]
    assert "train      1       4, 1 reversed, 2 clamped, 1 empty" in capsys.readouterr().out
    store = open_features(tmp_path / "out" / "Interval32_overlap0.8_c3d_fc6")
    assert store.names[0] == "AB1CD_103_135"
    assert Path(tmp_path / "out" / "infer" / "infer_feat" / "AB1CD_1_33.npy").exists()


def test_charades_without_videos_needs_a_rate(prepare, fakes, tmp_path):
    command = ["--annotations", _charades(tmp_path / "ann"), "--out", str(tmp_path / "out"),
               "--config", _config(tmp_path)]  # fmt: skip
    with pytest.raises(ConfigError, match="--fps"):
        prepare.main(command)
    prepare.main([*command, "--fps", "10"])
    names = [name for name, _ in read_sentences(tmp_path / "out" / "train_clip-sentvec.pkl")]
    assert names[:2] == ["AB1CD_1_21", "AB1CD_11_60"]


# pack and infer on the published layout


@pytest.fixture
def published(tmp_path):
    """The small data set of the golden numbers, in the original's files."""
    with zipfile.ZipFile(ROOT / "tests/golden/tall/dataset_a.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "ds_a"


def test_pack(prepare, published, tmp_path, capsys):
    source = published / "Interval128_256_overlap0.8_c3d_fc6"
    prepare.main(["pack", str(source), str(tmp_path / "store")])
    a, b = open_features(source), open_features(tmp_path / "store")
    assert a.names == b.names and np.array_equal(a.rows(range(30)), b.rows(range(30)))
    assert "30 windows of 8 numbers" in capsys.readouterr().out


def test_infer_equals_the_published_folder(prepare, published, tmp_path):
    windows = published / "Interval128_256_overlap0.8_c3d_fc6"
    out = tmp_path / "infer"
    prepare.main(["infer", "--sentences", str(published / "test_clip-sentvec.pkl"),
                  "--windows", str(windows), "--out", str(out)])  # fmt: skip
    ours, theirs = (read_sentences(f / "infer_clip-sen.pkl") for f in (out, published / "infer"))
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        assert np.array_equal(a, b)
    a, b = open_features(out / "infer_feat"), open_features(published / "infer" / "infer_feat")
    assert a.names == b.names and np.array_equal(a.rows(range(16)), b.rows(range(16)))


# bad input


def test_missing_videos_and_extractors(prepare, fakes, command, tmp_path):
    (tmp_path / "videos" / "w2.avi").unlink()
    with pytest.raises(DataError, match=r"found all but 1, the first is w2\.avi"):
        prepare.main(command)
    (tmp_path / "c.yaml").write_text("MODEL: {name: TALL}\n")
    with pytest.raises(ConfigError, match=r"DATASET\.extractors: expected text"):
        prepare.main(command[:2] + command[4:])


def test_sentences_only_without_videos(prepare, fakes, command, tmp_path):
    prepare.main(command[:2] + command[4:])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"video_info.json", "video_allframes_info.pkl"} | {
        f"{split}_clip-sentvec.pkl{end}" for split in TACOS for end in ("", ".identity.json")
    }
    told = read_video_info(tmp_path / "out" / "video_info.json")["w1.avi"]
    assert told == (FRAMES + 16, 25.0)  # TACoS states 16 frames less than there are


def test_videos_of_another_length_are_said(prepare, fakes, command, tmp_path, capsys):
    path = tmp_path / "ann" / "train.json"
    path.write_text(path.read_text().replace(str(FRAMES), "5000"))
    prepare.main(command)
    assert "w1.avi has 150 frames, the annotations say 5016" in capsys.readouterr().out


def test_one_line_errors_and_quick_help(tmp_path):
    def run(*args):
        return subprocess.run([sys.executable, *args], capture_output=True, text=True)

    check = (
        "import runpy, sys\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "finally: print({'numpy', 'paddle', 'cv2'} & set(sys.modules))"
    )
    done = run("-c", check, "--help")
    assert done.returncode == 0 and "pack" in done.stdout and done.stdout.endswith("set()\n")
    done = run(SCRIPT, "counts", "--annotations", tmp_path)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1
    done = run(SCRIPT, "infer", "--sentences", __file__, "--windows", tmp_path, "--out", tmp_path)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1


def test_pickles_are_read_as_data_only(prepare, published, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (published / "test_clip-sentvec.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError):
        prepare.main(["infer", "--sentences", str(published / "test_clip-sentvec.pkl"),
                      "--windows", str(published), "--out", str(tmp_path / "o")])  # fmt: skip
    assert not (tmp_path / "ran").exists()
