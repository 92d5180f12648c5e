# SPDX-License-Identifier: Apache-2.0
"""MCG's reader on made-up questions: items, batches, references, errors."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from engine import config
from reader.common.errors import BrokenSample, DataError
from reader.common.mcg_frames import choose_frames
from reader.common.mcg_text import Texts
from reader.mcg import Reader
from tests.reader.batches import batch_of, same
from tests.reader.clips import number
from tests.reader.mcg_world import (
    QUESTIONS,
    SIDE,
    WORDS,
    lines,
    make_world,
    numbers,
    texts,
    write_table,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mcg")
    return make_world(folder), write_table(folder), folder


@pytest.fixture
def read(files, tmp_path):
    """A function that makes a reader of a split; ``rows`` are its annotations."""
    options, _, _ = files

    def make(split="train", rows=None, **changes):
        if rows is not None:
            changes["annotations"] = lines(tmp_path / "rows.jsonl", rows)
        return Reader(split, **options | changes)

    return make


def test_configurations_bind_to_the_reader():
    given = {"task": "nextqa_oe", "annotations": ["a"], "frame_sampling": None, "videos": "v"}
    bound = config.bind(Reader, {("DATASET", key): value for key, value in given.items()}, {})
    assert bound == given and Reader("valid", **bound).num_frm == 16
    assert Reader("train", task="pretrain", shards="x-{00..09}.tar").shards == "x-{00..09}.tar"


# items


def test_training_has_a_question_an_item(read):
    reader = read("train", frame_sampling="nlvl_uniform")
    batch = batch_of(reader)
    assert batch["id"] == ["0", "2", "1"]  # by video
    assert batch["frames"].shape == (3, 4, 3, SIDE, SIDE) and batch["frames"].dtype == np.uint8
    assert [numbers(frames) for frames in batch["frames"]] == [[0, 25, 50, 75]] * 2 + [
        [0, 15, 30, 45]
    ]
    assert batch["video"].tolist() == [0, 1, 2] and batch["video"].dtype == np.int64
    assert batch["ids"].shape == (3, 10) and batch["ids"].dtype == np.int64
    assert texts(batch["ids"]) == ["[ENC] what runs ? [SEP]", "[ENC] what color is the cat ? [SEP]",
                                   "[ENC] who is the man [SEP]"]  # fmt: skip
    assert batch["mask"].dtype == np.float32 and batch["mask"].sum(1).tolist() == [5, 8, 6]
    assert texts(batch["answer_ids"]) == ["[DEC] cat [SEP]", "[DEC] blue [SEP]",
                                          "[DEC] the red man [SEP]"]  # fmt: skip
    assert batch["answer_ids"].shape == (3, 5) and batch["answer_ids"].dtype == np.int64
    assert "tokens" not in batch and sorted(reader.order(0)) == [0, 1, 2]


def test_training_draws_frames_by_epoch(read):
    reader = read("train", num_frm=6)
    drawn = []
    for epoch in range(4):
        reader.set_epoch(epoch)
        drawn.append(numbers(reader[0]["frames"]))
        assert drawn[-1] == sorted(set(drawn[-1])) and max(drawn[-1]) < 100
    assert len(set(map(tuple, drawn))) == 4 and max(map(max, drawn)) > 80
    reader.set_epoch(2)
    assert numbers(reader[0]["frames"]) == drawn[2]
    assert numbers(read("train", num_frm=6, seed=7)[0]["frames"]) != drawn[0]
    orders = [tuple(reader.order(epoch)) for epoch in [0, *range(9)]]
    assert orders[0] == orders[1] and len(set(orders)) > 1


def test_evaluation_has_all_questions_of_a_video_in_an_item(read):
    rows = [*QUESTIONS, {"video_id": "ball", "question": "who", "answer": "man"}]
    reader = read("valid", rows)
    assert len(reader) == 2
    batch = batch_of(reader)
    assert batch["id"] == ["0", "2", "3", "1"] and batch["video"].tolist() == [0, 0, 0, 1]
    assert [numbers(frames) for frames in batch["frames"]] == [[0, 25, 50, 75], [0, 15, 30, 45]]
    assert batch["tokens"] is reader.texts.tokens == [*WORDS, "[DEC]", "[ENC]"]
    assert len(batch["answer_ids"]) == 4 and same(batch, batch_of(reader))
    assert batch_of(reader, 1)["video"].tolist() == [0]
    assert reader.references() == {
        "0": {"question": "what runs?", "answer": "cat", "answer_type": "what", "video": "ball"},
        "1": {"question": "who is the man", "answer": "the red man", "answer_type": "who",
              "video": "hall"},
        "2": {"question": "what color is the cat?", "answer": "blue", "answer_type": "what",
              "video": "ball"},
        "3": {"question": "who", "answer": "man", "answer_type": "who", "video": "ball"},
    }  # fmt: skip


def test_answers_may_be_unknown_in_evaluation(read):
    rows = [*QUESTIONS, {"video_id": "wall", "question": "who"}]
    reader = read("test", rows)
    assert "answer_ids" in batch_of(reader, 0, 1) and "answer_ids" not in batch_of(reader)
    assert "answer" not in reader.references()["3"]
    with pytest.raises(DataError, match=r"rows.jsonl:4: expected an answer for training"):
        len(read("train", rows))
    listed = read("infer", rows, filelist=str(read("infer").annotations))
    assert len(listed.questions) == 3


def test_groups_of_several_questions(read):
    rows = [{**QUESTIONS[0], "question": f"what {'the ' * k}"} for k in range(3)]
    reader = read("train", rows, max_n_example_per_group=2)
    batch = batch_of(reader)
    assert len(reader) == 2 and batch["video"].tolist() == [0, 0, 1, 1]
    assert batch["id"][:3] == ["0", "1", "2"] and batch["id"][3] in ("0", "1", "2")
    assert len(batch["frames"]) == 2 and len(read("valid", rows, max_n_example_per_group=2)) == 1


def test_random_changes_only_in_training(read):
    plain = read("train")[0]["frames"]
    changed = [read("train", augment=True, seed=seed)[0]["frames"] for seed in range(6)]
    assert all(each.dtype == np.float32 and each.shape == plain.shape for each in changed)
    assert all(each.min() >= 0 and each.max() <= 255 for each in changed)
    assert batch_of(read("train", augment=True))["frames"].dtype == np.float32
    mine = read("train", augment=True, seed=42)[0]["frames"]
    assert np.array_equal(mine, read("train", augment=True)[0]["frames"])
    assert not all(
        np.array_equal(read("train", seed=seed)[0]["frames"], each)
        for seed, each in enumerate(changed)
    )
    assert same(batch_of(read("valid", augment=True)), batch_of(read("valid")))


def test_frames_are_squeezed_to_a_square(read, files):
    import cv2

    frames = read("valid", crop_img_size=32)[1]["frames"]
    path = files[2] / "videos" / "more" / "hall.mp4"
    capture = cv2.VideoCapture(str(path))
    first = capture.read()[1]
    expected = cv2.resize(first, (32, 32), interpolation=cv2.INTER_CUBIC)[..., ::-1]
    assert np.array_equal(frames[0], expected.transpose(2, 0, 1))


def test_what_is_left_out_for_baselines(read):
    full, video, text = (batch_of(read("valid", blind=b)) for b in ("none", "video", "text"))
    assert (video["frames"] == np.array([123, 117, 104], np.uint8).reshape(3, 1, 1)).all()
    assert video["frames"].shape == full["frames"].shape
    assert np.array_equal(video["ids"], full["ids"])
    assert np.array_equal(text["frames"], full["frames"])
    assert set(texts(text["ids"])) == {"[ENC] [SEP]"} and text["mask"].sum() == 6
    assert np.array_equal(text["answer_ids"], full["answer_ids"])
    assert len(read("valid", blind="video", videos=None)) == 2  # needs none


# NExT-QA


def test_table_with_places_and_second_answers(read, files):
    reader = read("test", **files[1])
    assert len(reader) == 2
    batch = batch_of(reader)
    assert batch["id"] == ["11_0", "11_4", "22_0"] and batch["video"].tolist() == [0, 0, 1]
    assert numbers(batch["frames"][1]) == [0, 7, 14, 21]
    assert texts(batch["answer_ids"])[1] == "[DEC] dog ##s [SEP]"
    assert reader.references() == {
        "11_0": {"question": "what does the man", "answer": "runs", "answer_type": "CW",
                 "video": "0001/11", "index": 0},
        "22_0": {"question": "is the cat red", "answer": "jumps, sits", "answer_type": "DC",
                 "video": "0100/22", "index": 1},
        "11_4": {"question": "who is the cat", "answer": "dogs", "answer_type": "DL",
                 "video": "0001/11", "index": 2, "second": "a dog"},
    }  # fmt: skip
    assert len(reader.seen("0001/11")) == reader.num_frm and reader.seen("9999/1") is None


def test_videos_are_also_found_without_places(read, files):
    reader = read("test", **files[1] | {"video_paths": None, "second_references": None})
    assert numbers(reader[0]["frames"]) == [0, 25, 50, 75]
    assert reader.references()["11_4"]["video"] == "11"
    assert "second" not in reader.references()["11_4"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("annotations", "video,question,qid\n1,x,0\n", "found no type in its first line"),
        ("annotations", "video,question,answer,qid,type\n11,x,y,0,CW\n11,x,y,0,CW\n",
         "expected every id once, found 11_0 twice"),
        ("annotations", "video,question,answer,qid,type\n44,x,y,0,CW\n",
         "q.csv:2: video_paths: expected 44, found none"),
        ("annotations", "video,question,answer,qid,type\n,x,y,0,CW\n",
         "q.csv:2: expected a video and a qid, found none"),
        ("annotations", "video,question,answer,qid,type\n", "expected questions, found none"),
        ("video_paths", '{"11": 3}', "11: expected a str, found 3"),
        ("video_paths", "[]", "expected a JSON dict, found list"),
        ("second_references", '{"11": "a"}', "11: expected a dict, found 'a'"),
        ("second_references", "{", "expected JSON"),
    ],
)  # fmt: skip
def test_damaged_tables(read, files, tmp_path, name, content, message):
    path = tmp_path / "q.csv"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        len(read("test", **files[1] | {name: str(path)}))
    assert message in str(error.value) and "\n" not in str(error.value)


# user's own video


def test_from_raw(read, files):
    reader = read("infer", annotations=None)
    (item,) = reader.from_raw(str(files[2] / "videos" / "wall.avi"), "who runs ?", {})
    batch = reader.collate([item])
    assert batch["id"] == ["wall#who runs ?"] and "answer_ids" not in batch
    assert numbers(batch["frames"][0]) == [0, 7, 14, 21] and "tokens" in batch
    assert [number(frame) for frame in reader.seen("wall")] == [0, 7, 14, 21]
    assert read("infer", blind="video").seen("ball") is None
    for video, query, message in (
        ("none.mp4", "who", "none.mp4: expected a video file, found nothing"),
        ("none.mp4", " ", "--query: expected a question, found an empty one"),
    ):
        with pytest.raises(DataError, match=message):
            list(reader.from_raw(video, query, {}))
    pretrain = read("infer", task="pretrain", crop_img_size=8)
    with pytest.raises(DataError, match="pretrain answers no questions"):
        list(pretrain.from_raw("x.mp4", "who", {}))


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "all"}, "split: expected one of train, valid, test, infer, found 'all'"),
        ({"task": "vqa"}, "task: expected one of pretrain, msvd_qa"),
        ({"num_frm": 0}, "num_frm: expected 1 or more, found 0"),
        ({"crop_img_size": -1}, "crop_img_size: expected 1 or more"),
        ({"max_txt_len": 1}, "expected max_txt_len of 2 or more"),
        ({"seed": -1}, "expected max_txt_len of 2 or more, seed of 0 or more"),
        ({"num_frm": 5, "frame_sampling": "headtail"}, "expected an even number with headtail"),
        ({"task": "pretrain", "resize_size": 9, "crop_img_size": 10}, "resize_size: expected 10"),
        ({"images": "x"}, "images: expected with pretrain, not msvd_qa"),
        ({"shards": "x"}, "shards: expected with pretrain"),
        ({"task": "pretrain", "video_paths": "x"}, "video_paths: expected with nextqa_oe"),
        ({"second_references": "x"}, "second_references: expected with nextqa_oe"),
    ],
)
def test_bad_options(options, message):
    split = options.pop("split", "train")
    with pytest.raises(ValueError, match=message):
        Reader(split, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab": None}, "vocab: expected the path of vocab.txt"),
        ({"annotations": None}, "annotations: expected the path of a file of questions"),
        ({"annotations": "none.jsonl"}, "none.jsonl: expected a file of JSON lines"),
        ({"videos": None}, "videos: expected a folder's path, found none; set DATASET.videos"),
        ({"videos": "none"}, "videos: expected a folder of videos at none, found none"),
    ],
)
def test_missing_files(read, changes, message):
    with pytest.raises(DataError, match=message):
        len(read("valid", **changes))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "who", "answer": "a"}', "rows.jsonl:2: expected a name as"),
        ('{"video_id": "ball", "answer": "a"}', "rows.jsonl:2: expected text as question"),
        ('{"video_id": "ball", "question": "who", "answer": 3}', "expected text as answer"),
        ("[1]", "rows.jsonl:2: expected a JSON object a line"),
    ],
)
def test_damaged_lines(read, tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(QUESTIONS[0]) + "\n" + line + "\n")
    with pytest.raises(DataError) as error:
        len(read("valid", annotations=str(path)))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_broken_videos(read, files, tmp_path):
    options, table, folder = files
    (tmp_path / "videos").mkdir()
    for name, content in (("ball.mp4", b""), ("hall.mp4", b"no video")):
        (tmp_path / "videos" / name).write_bytes(content)
    rows = [*QUESTIONS, {"video_id": "gone", "question": "who", "answer": "a"}]
    reader = read("valid", rows, videos=str(tmp_path / "videos"))
    messages = ["found an empty one", "found no readable picture", "expected gone"]
    for i, message in enumerate(messages):
        with pytest.raises(BrokenSample, match=message):
            reader[i]
    with pytest.raises(BrokenSample, match=r"wall\.avi: expected 31 frames or more to draw"):
        rows = [{**QUESTIONS[0], "video_id": "wall"}]
        read("train", rows, num_frm=31)[0]
    assert numbers(read("valid", rows, num_frm=31)[0]["frames"]) == [0] * 31
    (folder / "away.json").write_text('{"11": "0001/11", "22": "0100/away"}')
    mapped = read("test", **table | {"video_paths": str(folder / "away.json")})
    with pytest.raises(BrokenSample, match=r"0100/away: expected a video \(.mp4, .avi"):
        mapped[1]
    assert options["videos"] != table["videos"]


# frames and texts


def test_strategies_for_short_videos():
    def draw(places, count):
        return random.Random(0).sample(places, count)

    assert choose_frames("uniform", 31, 16, draw) == list(range(16))
    assert choose_frames("uniform", 3, 4, draw) == [0] * 4
    assert choose_frames("nlvl_uniform", 3, 6, draw) == [0, 0, 1, 1, 2, 2]
    assert choose_frames("rand", 4, 4, draw) == [0, 1, 2, 3]
    assert choose_frames("headtail", 4, 4, draw) == [0, 1, 2, 3]
    chosen = choose_frames("headtail", 100, 8, draw)
    assert chosen == sorted(chosen) and sum(k < 50 for k in chosen) == 4
    for strategy, length in (("rand", 3), ("headtail", 3), ("headtail", 1)):
        with pytest.raises(ValueError, match=f"expected 4 frames or more .*, found {length}"):
            choose_frames(strategy, length, 4, draw)


def test_texts(files):
    found = Texts(files[0]["vocab"])
    assert texts([found.question("The CAT runs, [SEP] [MASK][sep]", 99)]) == [
        "[ENC] the cat runs [UNK] [SEP] [MASK] [UNK] [UNK] [UNK] [SEP]"
    ]
    assert texts([found.caption("cats a a a", 5)]) == ["[CLS] cat ##s a [SEP]"]
    assert len(found.answer("a " * 100)) == 64
    ids = found.caption("cats [DEC] man", 99)
    assert found.codes[ids].tolist() == [4, 1, 2, 1, 1, 3] and found.codes[0] == 0
    assert found.codes.dtype == np.int8 and len(found.codes) == len(WORDS) + 2
    again = files[2] / "again.txt"
    again.write_text("\n".join([*WORDS, "[DEC]", "[ENC]"]))
    assert Texts(again).tokens == found.tokens
    again.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]")
    with pytest.raises(DataError, match=r"without \[MASK\]"):
        Texts(again)


def test_hidden_pieces(files):
    found = Texts(files[0]["vocab"])
    ids = found.caption("a cat [UNK] cats", 99)
    draws = np.zeros((3, len(ids)))
    hidden, labels = found.hide(ids, draws, np.full(len(ids), 9))
    assert texts([hidden]) == ["[CLS] [MASK] [MASK] [UNK] [MASK] [MASK] [SEP]"]
    assert texts([np.where(labels < 0, 0, labels)]) == ["a cat cat ##s"]
    draws[1] = 0.9
    hidden, _ = found.hide(ids, draws, np.full(len(ids), 9))
    assert texts([hidden]) == ["[CLS] is is [UNK] is is [SEP]"]
    draws[2] = 0.5
    assert found.hide(ids, draws, np.full(len(ids), 9))[0].tolist() == ids
    draws[0] = 0.15
    assert (found.hide(ids, draws, np.full(len(ids), 9))[1] == -100).all()
