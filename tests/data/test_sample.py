# SPDX-License-Identifier: Apache-2.0
"""The sample world: what is planned, drawn and written, and what happens on failure."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from reader.common import safe_pickle

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "data" / "dataset" / "sample" / "prepare.py"


def load(path: Path):
    spec = importlib.util.spec_from_file_location(f"sample_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prepare = load(SCRIPT)  # also puts its folder on sys.path
import language  # noqa: E402
import render  # noqa: E402
import scene as plans  # noqa: E402
import world as worlds  # noqa: E402


def run(*args: object, code: int = 0) -> str:
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def world() -> list[dict]:
    """The default world, without its pictures."""
    return worlds.plan(seed=0, videos=76)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A world of three videos on disk."""
    out = tmp_path_factory.mktemp("sample") / "a world"
    run("--out", out, "--videos", 3, "--layouts", "tacos", "--jobs", 2, "--preview")
    return out


def scenes_of(out: Path) -> list[dict]:
    return json.loads((out / "scenes.json").read_text("utf-8"))["videos"]


def kind(scene: dict, entity: str) -> tuple[str, str]:
    found = next(e for e in scene["entities"] if e["id"] == entity)
    return found["colour"], found["shape"]


def centre(box: list[int]) -> np.ndarray:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


# the plan


def test_default_world_trains_every_combination(world):
    assert Counter(s["split"] for s in world) == {"train": 55, "val": 8, "test": 13}
    seen = {
        (*kind(s, e["subject"]), e["verb"])
        for s in world
        if s["split"] == "train"
        for e in s["events"]
    }
    assert len(seen) == len(plans.COLOURS) * len(plans.SHAPES) * len(plans.VERBS)
    tested = {e["verb"] for s in world if s["split"] == "test" for e in s["events"]}
    assert tested == set(plans.VERBS)


def test_videos_have_the_promised_lengths_and_casts(world):
    for scene in world:
        assert 20 <= scene["num_frames"] / scene["fps"] <= 40
        assert 5 <= len(scene["events"]) <= 9
        cast = [e for e in scene["entities"] if e["kind"] == "character"]
        assert 2 <= len(cast) <= 3
        assert len({e["colour"] for e in cast}) == len({e["name"] for e in cast}) == len(cast)
        ends = [1] + [e["end"] for e in scene["events"]] + [scene["num_frames"] + 1]
        for event, before in zip(scene["events"], ends, strict=False):
            assert before < event["start"] < event["end"] <= scene["num_frames"] + 1
            assert 55 <= event["end"] - event["start"] <= 250


def test_every_event_has_a_training_window(world):
    for scene in world:
        for event in scene["events"]:
            a, b = event["start"], event["end"]
            matches = 0
            for length in (64, 128, 256):
                for s in range(1, scene["num_frames"] - length + 1, length // 5):
                    inter = min(s + length, b) - max(s, a)
                    union = max(s + length, b) - min(s, a)
                    matches += inter / union > 0.5 and (length - inter) / length < 0.15
            assert matches, (scene["id"], event["index"])


def test_a_query_has_one_answer(world):
    for scene in world:
        done = [(e["subject"], e["verb"]) for e in scene["events"]]
        assert len(set(done)) == len(done)
        told = [s for e in scene["events"] for s in e["sentences"]]
        assert len(set(told)) == len(told)


def test_neither_words_nor_places_give_the_time_away(world):
    """Every verb happens early and late; knowing the verb hardly narrows down the time."""
    times, verbs = [], []
    for scene in (s for s in world if s["split"] == "train"):
        for event in scene["events"]:
            times.append((event["start"] + event["end"]) / 2 / scene["num_frames"])
            verbs.append(event["verb"])
    values, names = np.array(times), np.array(verbs)
    explained = sum(
        (names == verb).sum() * (values[names == verb].mean() - values.mean()) ** 2
        for verb in plans.VERBS
    )
    assert explained < 0.1 * ((values - values.mean()) ** 2).sum()
    for verb in plans.VERBS:
        assert (values[names == verb] < 0.5).any()
        assert (values[names == verb] > 0.5).any()


def test_queries_need_subject_and_verb(world):
    """Most events share their subject, and many their verb, with another event of the video."""
    shared = Counter()
    for scene in world:
        subjects = Counter(e["subject"] for e in scene["events"])
        verbs = Counter(e["verb"] for e in scene["events"])
        for event in scene["events"]:
            shared["subject"] += subjects[event["subject"]] > 1
            shared["verb"] += verbs[event["verb"]] > 1
            shared["all"] += 1
    assert shared["subject"] > 0.9 * shared["all"]
    assert shared["verb"] > 0.4 * shared["all"]


def test_same_seed_same_bytes_other_seed_other_world():
    first, again, other = (worlds._texts(worlds.plan(seed, 5), 0) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_sentences_name_what_can_be_seen(world):
    for scene in world:
        names = {e.get("name") for e in scene["entities"]} - {None}
        for event in scene["events"]:
            colour, shape = kind(scene, event["subject"])
            for text in event["sentences"]:
                words = text.rstrip(".").lower().split()
                assert set(language.COLOUR_WORDS[colour]) & set(words), text
                assert set(language.SHAPE_WORDS[shape]) & set(words), text
                assert text[0].isupper()
                assert text.endswith(".")
                assert "{" not in text
                assert not names & set(text.rstrip(".").split())


def test_subtitles_do_not_overlap_and_tell_the_causes(world):
    kinds = Counter()
    for scene in world:
        lines = scene["subtitles"]
        assert all(a["end"] < b["start"] for a, b in itertools.pairwise(lines))
        assert lines[-1]["end"] <= scene["num_frames"] / scene["fps"]
        assert {s["speaker"] for s in lines if s["kind"] == "name"} == {
            e["id"] for e in scene["entities"] if e["kind"] == "character"
        }
        for event in scene["events"]:
            cause = event["cause"]
            kinds[cause and cause["kind"]] += 1
            if cause:
                line = lines[cause["subtitle"]]
                assert line["event"] == event["index"]
                assert line["start"] < sum(event["seconds"]) / 2
                spoken = cause["kind"] == "request" or cause["text"] in line["text"]
                assert spoken and (cause["by"] == line["speaker"]) == (cause["kind"] == "request")
            if cause and cause["kind"] == "event":
                assert cause["event"] == event["index"] - 1
    assert min(kinds[k] for k in ("reason", "event", "request", None)) > 40


# motion and boxes


@pytest.mark.parametrize("verb", plans.VERBS)
def test_boxes_do_what_the_verb_says(world, verb):
    found = [(s, e) for s in world for e in s["events"] if e["verb"] == verb][:8]
    assert len(found) == 8
    for scene, event in found:
        by_id = {e["id"]: e for e in scene["entities"]}
        track = by_id[event["subject"]]["boxes"][event["start"] - 1 : event["end"] - 1]
        first, last = centre(track[0]), centre(track[-1])
        seen = [box for box in track if box]
        height = [box[3] - box[1] for box in seen]
        if verb in plans.MOVES:
            assert np.dot(last - first, plans.MOVES[verb]) > 30
        elif verb == "grow":
            assert height[-1] > 1.4 * height[0]
        elif verb == "shrink":
            assert height[-1] < 0.6 * height[0]
        elif verb == "hide":
            assert 0.3 < 1 - len(seen) / len(track) < 0.7
        elif verb == "jump":
            tops = [centre(box)[1] for box in seen]
            assert max(tops) - min(tops) > 25
            low = np.array(tops) > np.mean(tops)
            assert abs(int((low[:-1] > low[1:]).sum()) - event["count"]) <= 1
        elif verb in ("meet", "swap", "chase"):
            other = by_id[event["object"]]["boxes"][event["start"] - 1 : event["end"] - 1]
            pairs = zip(track, other, strict=True)
            apart = [np.linalg.norm(centre(a) - centre(b)) for a, b in pairs]
            if verb == "meet":
                assert apart[-1] < 46 < apart[0]
            elif verb == "swap":
                assert np.abs(last - centre(other[0])).max() < 6
                assert np.abs(centre(other[-1]) - first).max() < 6
            else:
                assert np.ptp([centre(box) for box in other], axis=0).min() > 60
        else:  # on the spot
            assert np.abs(last - first).max() < 6


def test_every_box_is_inside_the_frame(world):
    for scene in world[:10]:
        for entity in scene["entities"]:
            boxes = entity.get("boxes") or [entity["box"]]
            assert len(boxes) == (scene["num_frames"] if "boxes" in entity else 1)
            for x1, y1, x2, y2 in filter(None, boxes):
                assert 0 <= x1 < x2 <= plans.WIDTH
                assert 0 <= y1 < y2 <= plans.HEIGHT


# the files


def test_videos_hold_all_frames_and_their_characters(made):
    for scene in scenes_of(made):
        capture = cv2.VideoCapture(str(made / "videos" / scene["file"]))
        assert capture.get(cv2.CAP_PROP_FPS) == scene["fps"]
        ok, frame = capture.read()
        count = 0
        while ok:
            if count == 5:  # nobody acts yet
                for entity in (e for e in scene["entities"] if e["kind"] == "character"):
                    x, y = centre(entity["boxes"][count]).astype(int)
                    patch = frame[y - 9, x - 1 : x + 2].astype(float)  # the forehead
                    paint = np.array(render.PAINT[entity["colour"]][::-1])
                    assert np.abs(patch.mean(axis=0) - paint).max() < 60
            count += 1
            ok, frame = capture.read()
        assert count == scene["num_frames"]


def test_decoded_frames_are_those_drawn(made):
    scene = scenes_of(made)[0]
    drawn = render.frames(scene)
    capture = cv2.VideoCapture(str(made / "videos" / scene["file"]))
    for frame in itertools.islice(drawn, 60):
        assert np.abs(capture.read()[1].astype(float) - frame).mean() < 6


def test_tacos_layout(made):
    scenes = scenes_of(made)
    lengths = safe_pickle.load(made / "tacos" / "video_allframes_info.pkl")
    assert lengths == {s["id"]: s["num_frames"] for s in scenes}
    for split, per_event in (("train", 3), ("val", 2), ("test", 2)):
        videos = json.loads((made / "tacos" / f"{split}.json").read_text())
        (scene,) = [s for s in scenes if s["split"] == split]
        assert list(videos) == [scene["file"]]
        entry = videos[scene["file"]]
        assert list(entry) == ["timestamps", "sentences", "fps", "num_frames"]
        assert (entry["fps"], entry["num_frames"]) == (25, scene["num_frames"])
        moments = [[e["start"], e["end"]] for e in scene["events"] for _ in range(per_event)]
        assert entry["timestamps"] == moments
        assert len(entry["sentences"]) == len(set(entry["sentences"])) == len(moments)


def test_subtitle_files(made):
    for scene in scenes_of(made):
        cues = (made / "subtitles" / f"{scene['id']}.srt").read_text().split("\n\n")
        assert len(cues) == len(scene["subtitles"])
        line = scene["subtitles"][0]
        assert cues[0].splitlines()[0] == "1"
        assert cues[0].splitlines()[1].startswith("00:00:00,100 --> 00:00:0")
        assert cues[0].splitlines()[2] == f"{line['name']} : {line['text']}"
    talks = json.loads((made / "subtitles.json").read_text())
    assert talks == {s["id"]: s["subtitles"] for s in scenes_of(made)}


def test_preview_is_a_picture_of_all_events(made):
    picture = cv2.imread(str(made / "preview" / "s01-d01.png"))
    events = len(scenes_of(made)[0]["events"])
    assert picture.shape[0] > events * plans.HEIGHT
    assert picture.std() > 20


# doing things once, and after failures


def snapshot(out: Path) -> dict[str, tuple[int, bytes]]:
    files = (p for p in out.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(out)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_second_run_changes_nothing(made):
    before = snapshot(made)
    said = run("--out", made, "--videos", 3, "--layouts", "tacos")
    assert "nothing to render" in said
    assert snapshot(made) == before


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_missing_and_cut_files_are_made_again(made, copy):
    (copy / "videos" / "s01-d02.mp4").write_bytes(b"cut")
    (copy / "scenes.json").unlink()
    (copy / "videos" / ".part-1-s01-d03.mp4").write_bytes(b"left over")
    kept = (copy / "videos" / "s01-d01.mp4").stat().st_mtime_ns
    assert "rendering 1 videos" in run("--out", copy, "--videos", 3, "--layouts", "tacos")
    assert (copy / "videos" / "s01-d01.mp4").stat().st_mtime_ns == kept
    same = {k: v[1] for k, v in snapshot(made).items()}
    assert {k: v[1] for k, v in snapshot(copy).items()} == same


def test_killed_run_goes_on(made, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--videos", "3",
               "--layouts", "tacos", "--jobs", "1"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (finished := list(out.glob("videos/s*.mp4"))) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(finished) < 3
    stamp = finished[0].stat().st_mtime_ns
    run("--out", out, "--videos", 3, "--layouts", "tacos", "--preview")
    assert finished[0].stat().st_mtime_ns == stamp
    same = {k: v[1] for k, v in snapshot(made).items()}
    assert {k: v[1] for k, v in snapshot(out).items()} == same


def test_another_seed_replaces_the_world(copy):
    (copy / "videos" / "mine.mp4").write_bytes(b"mine")
    before = snapshot(copy)
    run("--out", copy, "--videos", 3, "--seed", 5, "--layouts", "tacos")
    after = snapshot(copy)
    assert after["scenes.json"] != before["scenes.json"]
    assert after["videos/s01-d01.mp4"][1] != before["videos/s01-d01.mp4"][1]
    assert after["videos/mine.mp4"] == before["videos/mine.mp4"]


def test_videos_of_others_are_left_alone(tmp_path):
    video = tmp_path / "videos" / "s30-d52.mp4"
    video.parent.mkdir()
    video.write_bytes(b"precious")
    said = run("--out", tmp_path, "--videos", 3, code=3)
    assert said.count("\n") == 1
    assert "choose another --out" in said
    assert video.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--layouts", "tacos,cats"], 2, "found 'cats'"),
        (["--videos", "2"], 2, "at least 3"),
        (["--jobs", "0"], 2, "at least 1"),
        (["--out", str(SCRIPT / "below")], 3, "cannot prepare the sample world"),
    ],
)
def test_user_mistakes_are_one_line(args, code, words):
    said = run(*args, code=code)
    assert said.count("\n") == 1
    assert words in said


def test_unknown_preview_names_the_range(made):
    said = run("--out", made, "--videos", 3, "--layouts", "tacos", "--preview", "s9", code=2)
    assert "from s01-d01 to s01-d03, found 's9'" in said


def test_tall_layout_calls_the_real_preparation(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    with pytest.raises(prepare.DataError, match="found nothing there"):
        prepare.make_tall([], tmp_path)
    script = tmp_path / "data" / "dataset" / "tall" / "prepare.py"
    script.parent.mkdir(parents=True)
    config = tmp_path / "configs" / "sample" / "tall.yaml"
    config.parent.mkdir(parents=True)
    config.touch()
    (tmp_path / "tacos").mkdir()
    script.write_text("import sys; open('told', 'w').write(' '.join(sys.argv[1:]))")
    prepare.make_tall([], tmp_path)
    out = tmp_path
    assert (tmp_path / "told").read_text() == (
        f"--annotations {out / 'tacos'} --videos {out / 'videos'} --out {out / 'tall'} "
        f"--config {config} --test_lengths 64,128,256"
    )
    script.write_text("import sys; sys.exit(4)")
    with pytest.raises(prepare.DataError, match="exit code 4") as failed:
        prepare.make_tall([], tmp_path)
    assert failed.value.exit_code == 4


def test_stage_layout_extracts_features_and_packs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    with pytest.raises(prepare.DataError, match="found nothing there"):
        prepare.make_stage([], tmp_path)
    script = tmp_path / "data" / "dataset" / "tvqa_plus" / "prepare.py"
    script.parent.mkdir(parents=True)
    config = tmp_path / "configs" / "sample" / "stage.yaml"
    config.parent.mkdir(parents=True)
    config.touch()
    raw = tmp_path / "tvqa_plus"
    raw.mkdir()
    script.write_text("import sys; open('told', 'a').write(' '.join(sys.argv[1:]) + '\\n')")
    prepare.make_stage([], tmp_path)
    extract, pack, vocab = (tmp_path / "told").read_text().splitlines()
    lists = [f"{raw}/tvqa_plus_{split}_preprocessed.json" for split in ("train", "valid", "test")]
    assert extract.startswith(f"extract --qa {' '.join(lists)} --videos {tmp_path / 'videos'} ")
    assert f"--out {raw} --config {config} " in extract
    assert f"-o DATASET.extractors.regions.pca={raw / 'region_pca.npz'} " in extract
    assert pack == f"pack {raw} {raw / 'store'}"
    assert vocab == f"vocab --qa {lists[0]} --out {raw / 'answer_vocab.json'} --force"


def test_store_of_other_features_is_packed_anew(tmp_path):
    from reader.common import tvqa_plus_store

    def write(rows: int) -> None:
        import h5py

        with h5py.File(tmp_path / "qa_bert.h5", "w") as file:
            file["1_q"] = np.zeros((rows, 4), np.float32)

    store = tmp_path / "store"
    assert not prepare._is_stale(store)
    write(3)
    tvqa_plus_store.pack(store, qa_bert=tmp_path / "qa_bert.h5")
    assert not prepare._is_stale(store)
    write(300)
    assert prepare._is_stale(store)
    (tmp_path / "qa_bert.h5").unlink()
    assert prepare._is_stale(store)
