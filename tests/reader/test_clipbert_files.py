# SPDX-License-Identifier: Apache-2.0
"""What ClipBERT's reader says of missing, damaged and unfitting files and options."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from reader.clipbert import Reader
from reader.common.clipbert_records import OPTIONS, Annotations, read_answers
from reader.common.errors import BrokenSample, DataError
from tests.conftest import ROOT
from tests.reader.clipbert_world import LABELS, QUESTIONS, lines, make_world, question, write_image
from tests.reader.clips import cut

REAL = ROOT.parent / "shared" / "annotations" / "anetqa" / "anetqa_trainval_ans2label.json"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("clipbert"))


@pytest.fixture
def world(shared, tmp_path):
    """Options of a reader whose text files may be changed."""
    options = dict(shared)
    for name in ("vocab", "ans2label", "annotations"):
        path = tmp_path / Path(shared[name]).name
        path.write_text(Path(shared[name]).read_text())
        options[name] = str(path)
    return options


def fails(options, *parts, split="valid", kind=DataError):
    """A reader fails with one line that has these parts."""
    with pytest.raises(kind) as caught:
        reader = Reader(split, **options)
        assert len(reader) and reader[0] and reader.references()
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("option", ["annotations", "ans2label", "vocab", "videos"])
def test_missing_files(world, option):
    fails(world | {option: None}, f"{option}: expected", f"set DATASET.{option}")
    fails(world | {option: "gone.x"}, "gone.x", "expected")
    with pytest.raises(DataError):
        len(Reader("train", **world | {option: "gone.x"}))


def test_missing_store_and_images(world):
    fails(world | {"store": "gone"}, "gone: expected a frame store, found none")
    row = {"question": "what", "image_id": 1, "question_id": 2, "labels": {}}
    Path(world["annotations"]).write_text(json.dumps(row))
    options = world | {"task": "vqa", "videos": None}
    fails(options, "images: expected", "set DATASET.images")
    fails(options | {"images": "gone"}, "images: expected a folder of pictures at gone")


@pytest.mark.parametrize("option", ["annotations", "ans2label", "vocab"])
@pytest.mark.parametrize("content", [b"", b"[1, 2", b"3", b"\xff\xfe{}", b'{"a": 1, "b": 1}'])
def test_malformed_files(world, option, content):
    Path(world[option]).write_bytes(content)
    fails(world, world[option], "expected")


ACTION = {"gif_name": "ball", "question": "what", "options": ["a"] * 5, "answer": 1}
VQA = {"question": "what", "image_id": 1, "question_id": 2, "labels": {"red": 0.3}}
CHOICES = {"qid": 1, "clip_name": "ball", "options": ["a"] * 5, "answer": 1}


@pytest.mark.parametrize(
    ("task", "good", "change", "message"),
    [
        ("anetqa", QUESTIONS[0], {"question": None}, "expected text as question, found None"),
        ("anetqa", QUESTIONS[0], {"key": None}, "expected a name as key or qa_id, found none"),
        ("anetqa", QUESTIONS[0], {"gif_name": 3.5}, "expected a name as gif_name or video_id or"),
        ("anetqa", QUESTIONS[0], {"answer": 2}, "expected text as answer, found 2"),
        ("frameqa", QUESTIONS[0], {"answer": ["a"]}, "expected text as answer, found ['a']"),
        ("action", ACTION, {"options": ["a"] * 4}, f"expected {OPTIONS} options, found 4"),
        ("action", ACTION, {"options": ["a", 2]}, "expected 5 texts as options, found ['a', 2]"),
        ("transition", ACTION, {"options": None}, "expected 5 texts as options, found None"),
        ("action", ACTION, {"answer": 5}, "expected 0 to 4 as answer, found 5"),
        ("action", ACTION, {"answer": "red"}, "expected 0 to 4 as answer, found 'red'"),
        ("action", ACTION, {"answer": True}, "expected 0 to 4 as answer, found True"),
        ("retrieval", {"clip_name": "ball", "caption": "a"}, {"caption": 2}, "text as caption"),
        ("retrieval", {"clip_name": "ball", "caption": "a"}, {"clip_name": ""}, "a name as"),
        ("msrvtt_mc", CHOICES, {"qid": None}, "expected a name as qid, found none"),
        ("vqa", VQA, {"labels": ["red"]}, "expected scores by answer as labels, found ['red']"),
        ("vqa", VQA, {"labels": {"red": "x"}}, "expected scores by answer as labels"),
        ("vqa", VQA, {"image_id": None}, "expected a name as image_id, found none"),
        ("pretrain", {"coco_id": 1, "caption": "a"}, {"coco_id": None}, "a name as coco_id or"),
    ],
)
def test_damaged_lines(world, task, good, change, message):
    path = world["annotations"]
    lines(Path(path), [good, good, {**good, **change}])
    fails(world | {"task": task}, f"{path}:3: ", message)
    Annotations(task, [lines(Path(path), [good, good])])  # nothing else is wrong


@pytest.mark.parametrize("plain", [True, False])
def test_training_needs_answers(world, plain):
    rows = [question(0, "ball"), question(1, "ball", None)]
    lines(Path(world["annotations"]), rows if plain else [*rows, {**rows[0], "more": 1}])
    fails(world, ":2: expected an answer for training as answer, found none", split="train")
    assert Reader("valid", **world)[0]["labels"][:2].tolist() == [1, -1]
    Path(world["annotations"]).write_text(json.dumps({**VQA, "labels": None}))
    fails(world | {"task": "vqa"}, ":1: expected an answer for training as labels", split="train")


def test_lines_of_several_kinds_are_read_as_those_of_one_kind(world, tmp_path):
    """The quick way through a file and the careful one give the same."""
    asked = [("ball", "no"), ("hall", None), ("ball", "pink"), ("7", "red")]
    rows = [question(k, video, answer) for k, (video, answer) in enumerate(asked)]
    quick = Annotations("anetqa", [lines(tmp_path / "a.jsonl", rows)], LABELS)
    rows[1]["more"], rows[3]["gif_name"] = 1, 7
    careful = Annotations("anetqa", [lines(tmp_path / "b.jsonl", rows)], LABELS)
    assert quick.videos == careful.videos == ["ball", "hall", "7"]
    for name in ("video", "label"):
        assert getattr(quick, name).tolist() == getattr(careful, name).tolist()
        assert getattr(quick, name).dtype == np.int32
    assert quick.label.tolist() == [2, -1, -1, 3]
    assert list(quick) == list(careful) == quick.read(range(4)) == careful.read([0, 1, 2, 3])


def test_ids_occur_once(world):
    lines(Path(world["annotations"]), [QUESTIONS[0], QUESTIONS[0]])
    fails(world, "expected every id once, found ball#0 twice")


def test_answer_lists(world):
    path = Path(world["ans2label"])
    for bad in ({"a": 1}, {"a": 0, "b": 2}, {"a": 0, "b": "1"}, {"a": 0, "b": True}, {}, [0]):
        path.write_text(json.dumps(bad))
        fails(world, str(path), "expected")


@pytest.mark.skipif(not REAL.exists(), reason="published annotations are not at hand")
def test_the_published_answer_list():
    labels = read_answers(REAL)
    assert len(labels) == 12911 and labels["<UNK>"] == 0 and list(labels.values())[-1] == 12910


@pytest.mark.parametrize("piece", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
def test_vocabularies_without_what_is_needed(world, piece):
    path = Path(world["vocab"])
    path.write_text(path.read_text().replace(piece, "x"))
    fails(world, f"{path}: expected a vocabulary of BERT", f"without {piece}")


def test_pretraining_needs_masks_and_two_images(world, tmp_path):
    write_image(tmp_path / "1.png", 20, 30, 5)
    rows = [{"coco_id": 1, "caption": "a"}, {"vg_id": 1, "caption": "b"}]
    lines(Path(world["annotations"]), rows)
    options = world | {"task": "pretrain", "videos": None, "images": str(tmp_path)}
    fails(options | {"itm_neg_prob": 1.0}, "captions of two videos or more, found one video",
          split="train")  # fmt: skip
    path = Path(world["vocab"])
    path.write_text(path.read_text().replace("[MASK]", "x"))
    fails(options, "without [MASK]")


def test_videos_that_cannot_be_read_spoil_only_their_items(world, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "hall.mp4").write_bytes((Path(world["videos"]) / "more/hall.mp4").read_bytes())
    (folder / "wall.mp4").write_text("no video")
    lines(Path(world["annotations"]), [question(k, v) for k, v in enumerate(("hall", "wall", "x"))])
    for split in ("train", "valid"):
        reader = Reader(split, **world | {"videos": str(folder)})
        assert len(reader) == 3 and reader[0]["frames"].shape[0] == 8
        messages = "wall.mp4: expected a video", r"expected x \(.mp4, .*found none"
        for i, message in enumerate(messages, 1):
            with pytest.raises(BrokenSample, match=message) as caught:
                reader[i]
            assert "\n" not in str(caught.value)
    (folder / "hall.mp4").write_bytes(b"")
    with pytest.raises(BrokenSample, match="0 bytes"):
        reader[0]
    (folder / "hall.mp4").unlink()
    (folder / "wall.mp4").unlink()
    fails(world | {"videos": str(folder)}, "expected videos such as hall, found none of 3")


def test_what_a_truncated_video_still_has_is_used(world, tmp_path):
    whole = Path(world["videos"]) / "wall.avi"
    (tmp_path / "wall.avi").write_bytes(whole.read_bytes())
    cut(tmp_path / "wall.avi", 0.6)
    lines(Path(world["annotations"]), [question(0, "wall")])
    frames = Reader("valid", **world | {"videos": str(tmp_path)})[0]["frames"]
    assert frames.shape[0] == 8


def test_videos_missing_from_a_store(world, shared, tmp_path):
    from tests.reader.clipbert_world import write_store

    lines(Path(world["annotations"]), [question(0, "ball"), question(1, "wall")])
    reader = Reader("train", store=write_store(tmp_path / "store"), **world)
    assert reader[0]["frames"].shape[0] == 8
    with pytest.raises(BrokenSample, match="expected frames of wall, found none"):
        reader[1]


def test_damaged_images(world, tmp_path):
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_text("no picture")
    Path(world["annotations"]).write_text(json.dumps(VQA))
    options = world | {"task": "vqa", "videos": None, "images": str(tmp_path)}
    fails(options, "1.jpg: expected a picture, found nothing readable", kind=BrokenSample)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"split": "dev"}, "split: expected one of train, valid, test, infer, found 'dev'"),
        ({"task": "count"}, "task: expected one of anetqa, .*found 'count'"),
        ({"num_frm": 0}, "num_frm: expected 1 or more"),
        ({"n_clips": 0}, "n_clips"),
        ({"itm_neg_size": 0}, "itm_neg_size"),
        ({"max_n_example_per_group": 0}, "max_n_example_per_group"),
        ({"frame_size": 0}, "frame_size"),
        ({"max_img_size": 0}, "max_img_size"),
        ({"max_txt_len": 1}, "max_txt_len"),
        ({"fps": 0.0}, "fps"),
        ({"seed": -1}, "seed"),
        ({"itm_neg_prob": 1.5}, "itm_neg_prob"),
        ({"data_ratio": 0.0}, "data_ratio"),
        ({"task": "action", "store": "x"}, "store: expected with anetqa, not action"),
        ({"task": "vqa", "questions": "x"}, "questions: expected with anetqa, not vqa"),
        ({"images": "x"}, "images: expected with vqa or pretrain, not anetqa"),
        ({"task": "pretrain", "images": "x", "videos": "y"}, "either images or videos"),
    ],
)
def test_bad_options(bad, message):
    with pytest.raises(ValueError, match=message):
        Reader(**{"split": "valid"} | bad)


def test_a_task_without_training_says_so():
    with pytest.raises(DataError, match="msrvtt_mc has no training; train retrieval"):
        len(Reader("train", task="msrvtt_mc"))
