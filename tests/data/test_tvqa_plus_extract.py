# SPDX-License-Identifier: Apache-2.0
"""`prepare.py extract` of TVQA+: rows by word and region, resuming, PCA, mistakes."""

from __future__ import annotations

import importlib.util
import json
import sys

import h5py
import numpy as np
import pytest

from engine import build
from engine.errors import ConfigError
from reader.common.errors import DataError
from reader.common.tvqa_plus import PUBLISHED, read_json
from tests.conftest import ROOT
from tests.reader.clips import HEIGHT, WIDTH, number, write_video

FOLDER = ROOT / "data/dataset/tvqa_plus"
TEXT = "MODEL: {name: STAGE}\nDATASET:\n  extractors:\n    text: {name: text}\n"
REGIONS = "    regions: {name: regions}\n"
LENGTHS = {"one": 75, "two": 52, "unused": 25, "three": 30}  # frames, 25 a second
SENTENCES = {"one": ["Ada : hi .", "Ben : I 'm here ."], "two": ["No ."], "three": ["A b", "C"]}


@pytest.fixture(scope="module")
def prepare():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("tvqa_plus_prepare", FOLDER / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


class Text:
    """Rows that tell word, place and sentence."""

    dim, calls = 4, 0
    identity = {"name": "fake", "weights": "text"}

    def words(self, sentences):
        Text.calls += len(sentences)
        return [
            np.array([word_row(s, i) for i in range(len(s))], np.float32).reshape(-1, 4)
            for s in sentences
        ]


def word_row(sentence, place):
    word = sentence[place]
    return [len(word), ord(word[0]), place, len(sentence)]


class Regions:
    """Rows that tell the number in the frame and the box."""

    dim, frames, fail, seed = 5, 0, None, 0

    def __init__(self):
        self.identity = {"name": "fake", "weights": f"regions {self.seed}"}

    def freeze(self, log):
        pass

    def features_of(self, frames, boxes):
        Regions.frames += len(frames)
        if Regions.fail is not None and Regions.frames > Regions.fail:
            raise KeyboardInterrupt
        return [
            np.array([[number(f), *box] for box in bs], np.float32).reshape(-1, 5)
            for f, bs in zip(frames, boxes, strict=True)
        ]


@pytest.fixture
def fake(monkeypatch):
    """Fake extractors, counted anew."""

    def build_extractor(name, pca=None, **options):
        if name == "text":
            return Text()
        extractor = Regions()
        if pca is not None:
            with np.load(pca) as file:
                extractor.dim = len(file["components"])
                extractor.identity["pca"] = file["components"].tolist()
            extractor.features_of = lambda frames, boxes: [
                np.ones((len(b), extractor.dim), np.float32) for b in boxes
            ]
        return extractor

    monkeypatch.setattr(build, "build_extractor", build_extractor)
    monkeypatch.setattr(Text, "calls", 0)
    monkeypatch.setattr(Regions, "frames", 0)


def question(qid, clip, text="Who is it ?", **more):
    choices = {f"a{k}": f"Ada {'x' * k} ." for k in range(5)}
    return {"qid": qid, "vid_name": clip, "q": text, **choices, **more}


def regions_of(frames, seed):
    """Some regions on every frame, none on the third."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 4, frames)
    counts[2] = 0
    low = [rng.integers(0, 20, (n, 2)) for n in counts]
    high = [rng.integers(21, HEIGHT, (n, 2)) for n in counts]
    boxes = [np.concatenate(pair, 1).tolist() for pair in zip(low, high, strict=True)]
    return {"counts": counts.tolist(), "boxes": boxes, "object": [["cup"] * n for n in counts]}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for clip, frames in LENGTHS.items():
        write_video(folder / f"{clip}.mp4", frames)
    return folder


@pytest.fixture
def world(tmp_path, videos):
    """Arguments of the command for a small world; a change of `files` is written by `write`."""
    files = {
        "train.json": [
            question(7, "one", answer_idx="0", ts=[0, 1]),
            question(8, "two", "Red Cup ?"),
        ],
        "valid.json": [question(9, "three", "Zebra ?")],
        "subtitles.json": {
            clip: {"sub_text": " <eos> ".join(s), "sub_time": list(range(len(s)))}
            for clip, s in SENTENCES.items()
        },
        "regions.json": {
            clip: regions_of(count * 3 // 25, count) for clip, count in LENGTHS.items()
        },
    }
    arguments = ["extract", "--qa", tmp_path / "train.json", tmp_path / "valid.json"]
    for flag, name in (("--subtitles", "subtitles.json"), ("--regions", "regions.json")):
        arguments += [flag, tmp_path / name]
    config = tmp_path / "config.yaml"
    config.write_text(TEXT + REGIONS)
    arguments += ["--videos", videos, "--out", tmp_path / "out", "--config", config]

    class World:
        out, given = tmp_path / "out", [str(argument) for argument in arguments]

        @staticmethod
        def write():
            for name, content in files.items():
                (tmp_path / name).write_text(json.dumps(content))

        @staticmethod
        def rows(option):
            with h5py.File(World.out / PUBLISHED[option]) as file:
                return {name: np.array(rows) for name, rows in file.items()}

    World.files, World.config = files, config
    World.write()
    return World


def test_words(fake, prepare, world):
    prepare.main(world.given)
    rows = world.rows("qa_bert")
    expected = {}
    for entry in (e for name in ("train.json", "valid.json") for e in world.files[name]):
        for part in ("q", "a0", "a1", "a2", "a3", "a4"):
            expected[f"{entry['qid']}_{part}"] = [entry[part].split()]
    assert rows.keys() == expected.keys()
    expected_said = {clip: [s.split() for s in found] for clip, found in SENTENCES.items()}
    said = world.rows("sub_bert")
    assert said.keys() == expected_said.keys()
    for name, sentences in {**expected, **expected_said}.items():
        wanted = [word_row(s, i) for s in sentences for i in range(len(s))]
        np.testing.assert_array_equal({**rows, **said}[name], np.array(wanted, np.float32))


def test_regions(fake, prepare, world):
    """A row per region in the order of the boxes; frame i shows second i / 3."""
    prepare.main(world.given)
    rows = world.rows("vfeat")
    assert rows.keys() == {"one", "two", "three"}
    for clip, found in rows.items():
        entry, wanted = world.files["regions.json"][clip], []
        for frame, boxes in enumerate(entry["boxes"], 1):
            shown = min(round(frame * 25 / 3), LENGTHS[clip] - 1)
            wanted += [[shown, *box] for box in boxes]
        assert len(wanted) == sum(entry["counts"])
        np.testing.assert_array_equal(found, np.array(wanted, np.float32))
    assert read_json(world.out / PUBLISHED["frm_cnt"]) == {"one": 9, "two": 6, "three": 3}
    copied = read_json(world.out / PUBLISHED["vcpt"])
    assert copied == {clip: world.files["regions.json"][clip] for clip in copied}
    assert [*copied] == ["one", "two", "three"]


def test_other_files(fake, prepare, world, capsys):
    prepare.main(world.given)
    words = read_json(world.out / PUBLISHED["word2idx"])
    assert [*words][:3] == ["<unk>", "<pad>", "<eos>"]
    assert [*words.values()] == list(range(len(words)))
    assert {"who", "cup", "ada", "ben", "'m", "no", "xxxx", "?"} <= words.keys()
    assert not {"zebra", "b", "Ada", "<eos> ben"} & words.keys()  # valid's, or not lower case
    identity = read_json(world.out / "identity.json")
    assert identity == {"text": Text.identity, "regions": Regions().identity}
    other = [p.name for p in world.out.iterdir() if p.suffix not in (".h5", ".json")]
    assert other == [".lock"]
    files = ["--train", world.given[2], "--valid", world.given[3], "--subtitles", world.given[5]]
    prepare.main(["check", str(world.out), *files])
    assert capsys.readouterr().out.endswith("usable\n")


def test_a_second_run_does_nothing_a_changed_input_is_made_anew(fake, prepare, world, monkeypatch):
    prepare.main(world.given)
    calls, frames = Text.calls, Regions.frames
    assert (calls, frames) == (18 + 5, 8 + 5 + 2)
    prepare.main(world.given)
    assert (Text.calls, Regions.frames) == (calls, frames)
    world.files["subtitles.json"]["two"]["sub_text"] = "Yes ."
    world.write()
    prepare.main(world.given)
    assert (Text.calls, Regions.frames) == (calls + 5, frames)
    assert world.rows("sub_bert")["two"][0, 1] == ord("Y")
    monkeypatch.setattr(Regions, "seed", 1)
    prepare.main(world.given)
    assert (Text.calls, Regions.frames) == (calls + 5, 2 * frames)
    assert read_json(world.out / "identity.json")["regions"]["weights"] == "regions 1"


def test_a_stopped_run_goes_on(fake, prepare, world, monkeypatch):
    monkeypatch.setattr(Regions, "fail", 8)  # in the second clip
    with pytest.raises(KeyboardInterrupt):
        prepare.main(world.given)
    assert not (world.out / PUBLISHED["vfeat"]).exists()
    monkeypatch.setattr(Regions, "fail", None)
    monkeypatch.setattr(Regions, "frames", 0)
    prepare.main(world.given)
    assert Regions.frames == 5 + 2
    assert not list(world.out.glob(".vfeat*"))
    assert world.rows("vfeat").keys() == {"one", "two", "three"}


def test_words_alone(fake, prepare, world):
    """Without videos; the test split may be given with and without answers."""
    world.files["valid.json"] += [question(7, "one")]
    world.write()
    start = world.given.index("--regions")
    prepare.main([*world.given[:start], *world.given[world.given.index("--out") :]])
    assert (world.out / PUBLISHED["sub_bert"]).exists()
    assert not (world.out / PUBLISHED["frm_cnt"]).exists()
    assert len(world.rows("qa_bert")) == 18


def test_given_word_ids(fake, prepare, world, tmp_path):
    ids = tmp_path / "ids.json"
    ids.write_text('{"<unk>": 0, "cup": 5}')
    prepare.main([*world.given, "--word2idx", str(ids)])
    assert read_json(world.out / PUBLISHED["word2idx"]) == {"<unk>": 0, "cup": 5}


def test_pictures_of_another_size(fake, prepare, world, videos, tmp_path):
    """Folders of frames; boxes are in pixels of the size that is given."""
    import cv2

    from reader.common.tvqa_plus_pictures import grid_numbers
    from reader.common.video import Video

    for clip, count in (("one", 9), ("two", 6), ("three", 3)):
        folder = tmp_path / "pictures" / clip
        folder.mkdir(parents=True)
        video = Video(videos / f"{clip}.mp4")
        frames = video.frames(grid_numbers(video, range(1, count + 1)))
        for i, frame in enumerate(frames, 1):
            large = cv2.resize(frame, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(folder / f"{i:05d}.jpg"), large)
    prepare.main(world.given)
    expected = world.rows("vfeat")
    given = [str(tmp_path / "pictures") if a == str(videos) else a for a in world.given]
    given[given.index("--out") + 1] = str(tmp_path / "other")
    prepare.main([*given, "--size", f"{WIDTH}x{HEIGHT}"])
    with h5py.File(tmp_path / "other" / PUBLISHED["vfeat"]) as file:
        for clip, rows in expected.items():
            np.testing.assert_array_equal(file[clip], rows)
    assert read_json(tmp_path / "other" / PUBLISHED["frm_cnt"])["one"] == 9


def test_pca_is_fitted_once_for_its_network(fake, prepare, world, tmp_path, monkeypatch):
    path = tmp_path / "pca.npz"
    given = [*world.given, "-o", f"DATASET.extractors.regions.pca={path}"]
    with pytest.raises(ConfigError, match=r"pca.npz: .* found none; add --pca N"):
        prepare.main(given)
    prepare.main([*given, "--pca", "3"])
    with np.load(path) as file:
        first = {name: file[name] for name in file.files}
    assert first["components"].shape == (3, 5)
    assert {rows.shape[1] for rows in world.rows("vfeat").values()} == {3}
    frames = Regions.frames
    prepare.main([*given, "--pca", "3"])
    prepare.main(given)
    assert Regions.frames == frames
    prepare.main([*given, "--pca", "2"])
    assert Regions.frames > frames
    monkeypatch.setattr(Regions, "seed", 1)
    with pytest.raises(ConfigError, match="a PCA for this extractor"):
        prepare.main(given)
    frames = Regions.frames
    prepare.main([*given, "--pca", "2"])
    assert Regions.frames > frames
    assert {rows.shape[1] for rows in world.rows("vfeat").values()} == {2}
    with pytest.raises(DataError, match=r"--pca 9: expected more than 9 regions .* of 5"):
        prepare.main([*given, "--pca", "9"])
    np.savez(path, mean=np.zeros(5), components=np.eye(5)[:4])  # another's
    prepare.main([*given, "--pca", "2"])
    assert {rows.shape[1] for rows in world.rows("vfeat").values()} == {4}
    with pytest.raises(ConfigError, match=r"to name DATASET.extractors.regions.pca"):
        prepare.main([*world.given, "--pca", "3"])


def test_fit_pca(prepare):
    from tvqa_plus_clips import fit_pca

    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6) * 9
    mean, components = fit_pca(np.split(values.astype(np.float32), [50, 50, 120]), 4)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-4)
    _, scale, expected = np.linalg.svd(values - values.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(components @ expected[:4].T), np.eye(4), atol=1e-4)
    projected = (values - mean) @ components.T
    np.testing.assert_allclose(projected.std(0), scale[:4] / 200**0.5, rtol=1e-4)
    assert (components[np.arange(4), np.abs(components).argmax(1)] > 0).all()


def change(world, name, clip=None, **values):
    target = world.files[name] if clip is None else world.files[name][clip]
    target.update(values)
    world.write()


def test_mistakes_in_files(fake, prepare, world, tmp_path):
    def fails(message, error=DataError):
        with pytest.raises(error, match=message) as caught:
            prepare.main(world.given)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value.exit_code, int)

    entry = world.files["regions.json"].pop("two")
    world.write()
    fails("regions.json: expected regions of two, found none")
    change(world, "regions.json", two={**entry, "counts": entry["counts"][:-1]})
    fails("regions.json: two: expected counts and boxes")
    wide = [[[0, 0, WIDTH + 9, 5]], *entry["boxes"][1:]]
    change(world, "regions.json", two={**entry, "counts": [1, *entry["counts"][1:]], "boxes": wide})
    fails(rf"two: expected boxes inside of {WIDTH}x{HEIGHT} pixels, found .*169.*; give --size")
    change(world, "regions.json", two=regions_of(30, 1))
    fails(r"two: expected regions of 6 frames \(3 per second\), found some of frame 30")
    change(world, "regions.json", two=entry)
    del world.files["subtitles.json"]["three"]
    world.write()
    fails("subtitles.json: expected subtitles of three, found none")
    world.files["valid.json"] = [question(7, "one", "Another ?")]
    world.write()
    fails("one question 7, found two different ones")
    world.files["valid.json"] = [question(9, "four")]
    change(world, "subtitles.json", four={"sub_text": "a", "sub_time": [0]})
    fails("expected the video four.mp4, found none")
    world.config.write_text(TEXT)
    fails("extractors: expected regions, found none", ConfigError)


def test_mistakes_in_arguments(fake, prepare, world, capsys):
    with pytest.raises(ConfigError, match="both or neither of --videos and --regions"):
        prepare.main(world.given[: world.given.index("--videos")] + world.given[-4:])
    with pytest.raises(DataError, match=r"nowhere: expected a file or folder, found none"):
        prepare.main([*world.given, "--videos", "nowhere"])
    with pytest.raises(ConfigError, match=r"extractors.text: .* with words, found regions"):
        prepare.main([*world.given, "-o", "DATASET.extractors.text.name=regions"])
    with pytest.raises(SystemExit):
        prepare.main([*world.given, "--size", "640"])
    assert "expected a size such as 640x360, found 640" in capsys.readouterr().err
    (world.out / PUBLISHED["qa_bert"]).write_bytes(b"published")
    with pytest.raises(DataError, match="not made by this command"):
        prepare.main(world.given)


def test_real_extractors(prepare, world, tmp_path):
    """Rows are those of the extractors, run as anybody would."""
    text = {"name": "bert", "init_seed": 1, "hidden_size": 8, "num_layers": 1, "num_heads": 2}
    text["intermediate_size"] = 8
    region = {"name": "region_cnn", "init_seed": 1, "blocks": [1, 1], "width": 1, "side": 48}
    region["pca"] = str(tmp_path / "pca.npz")
    sections = {"DATASET": {"extractors": {"text": text, "regions": region}}}
    world.config.write_text(json.dumps({"MODEL": {"name": "STAGE"}, **sections}))
    prepare.main([*world.given, "--pca", "4"])
    words = build.build_extractor(**text).words([["Red", "Cup", "?"]])[0]
    np.testing.assert_allclose(world.rows("qa_bert")["8_q"], words, atol=1e-5)
    rows = world.rows("vfeat")["three"]
    assert rows.shape == (sum(world.files["regions.json"]["three"]["counts"]), 4)
    identity = read_json(world.out / "identity.json")
    extractor = build.build_extractor(**region)
    assert identity["regions"] == json.loads(json.dumps(extractor.identity))
    from reader.common.video import Video

    picture = Video(world.given[world.given.index("--videos") + 1] + "/three.mp4").frames([8])
    boxes = np.array(world.files["regions.json"]["three"]["boxes"][0], np.float32)
    found = extractor.features(np.ascontiguousarray(picture[0, ..., ::-1]), boxes)
    np.testing.assert_allclose(rows[: len(boxes)], found, rtol=1e-3, atol=1e-2)
