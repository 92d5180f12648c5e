# SPDX-License-Identifier: Apache-2.0
"""ClipBERT's reader on a made-up data set: items, batches, references of every task."""

from __future__ import annotations

import json
import multiprocessing
import pickle

import cv2
import numpy as np
import pytest

from engine import config
from reader.clipbert import Reader, Task
from reader.common.clips import choose_clips
from reader.common.errors import BrokenSample, DataError
from reader.common.frame_store import sample_indices
from tests.reader.batches import batch_of, same
from tests.reader.clipbert_world import (
    LENGTHS,
    QUESTIONS,
    SIDE,
    lines,
    make_world,
    numbers,
    question,
    taxonomy,
    texts,
    write_store,
)
from tests.reader.clips import picture

OPTIONS = ["runs", "jumps", "sits", "eats", "runs ?"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Options of a reader, and where its files are."""
    folder = tmp_path_factory.mktemp("clipbert")
    options = make_world(folder) | {"store": None}
    return options, write_store(folder / "store"), folder


@pytest.fixture
def read(files, tmp_path):
    """A function that makes a reader of a split; ``rows`` are its annotations."""
    options, store, folder = files
    used = set()

    def make(split="train", rows=None, **changes):
        if rows is not None:
            used.add(len(used))
            changes["annotations"] = lines(tmp_path / f"{len(used)}.jsonl", rows)
        if changes.get("task", "anetqa") not in ("anetqa", "frameqa", "msrvtt_qa", "vqa"):
            changes.setdefault("ans2label", None)
        if "images" in changes:
            changes |= {"images": str(folder / "images"), "videos": None}
        return Reader(split, **options | changes)

    make.store = store
    return make


def test_configurations_bind_to_the_reader():
    given = {"task": "vqa", "annotations": ["a", "b"], "fps": 2, "max_img_size": None}
    bound = config.bind(Reader, {("DATASET", key): value for key, value in given.items()}, {})
    assert bound == given and isinstance(bound["fps"], float)
    assert Reader("train", **bound).annotations == ["a", "b"]
    assert config.bind(Reader, {("TRAIN", "annotations"): "a"}, {}) == {"annotations": "a"}


# open questions


def test_training_on_videos_takes_a_frame_of_every_part(read):
    reader = read("train")
    batch = batch_of(reader)
    assert batch["id"] == ["ball#0", "ball#2", "hall#1"]  # by video
    assert batch["frames"].shape == (3, 8, 3, SIDE, SIDE) and batch["frames"].dtype == np.uint8
    assert batch["num_frm"] == 2 and type(batch["num_frm"]) is int
    assert texts(batch["ids"])[2] == "[CLS] what color is the cat the ? [SEP]"
    assert batch["ids"].dtype == np.int64 and batch["ids"].shape == (3, 10)
    assert batch["mask"].dtype == np.float32 and batch["mask"].sum(1).tolist() == [8, 10, 9]
    assert batch["video"].tolist() == [0, 1, 2] and batch["video"].dtype == np.int64
    assert batch["labels"].tolist() == [1, 2, 3] and batch["labels"].dtype == np.int64
    assert "answers" not in batch
    drawn = set()
    for epoch in range(6):
        reader.set_epoch(epoch)
        found = numbers(reader[2]["frames"])
        assert all(60 * k // 8 <= n < 60 * (k + 1) // 8 for k, n in enumerate(found))
        drawn.add(tuple(found))
    assert len(drawn) == 6


def test_training_draws_one_of_the_sets_of_a_store(read, files):
    from reader.common.frame_store import FrameStore

    reader, store = read("train", store=read.store), FrameStore(read.store)
    sets = {k: numbers(store.frames("ball", f"rand{k}")) for k in range(1, 6)}
    assert len({tuple(found) for found in sets.values()}) == 5
    drawn = []
    for epoch in range(20):
        reader.set_epoch(epoch)
        (kind,) = (k for k, found in sets.items() if found == numbers(reader[0]["frames"]))
        drawn.append(kind)
    assert set(drawn) == {1, 2, 3, 4, 5} and drawn[:10] != drawn[10:]
    few = read("train", store=read.store, n_clips=2)
    found = numbers(few[0]["frames"])
    assert len(found) == 4 and any(set(found) < set(each) for each in sets.values())


@pytest.mark.parametrize("stored", [False, True])
def test_evaluation_gives_all_questions_about_a_video_at_once(read, stored):
    rows = [*QUESTIONS, question(3, "ball", "purple"), question(4, "ball", None)]
    store = {"store": read.store} if stored else {}
    reader = read("valid", rows, n_clips=16, num_frm=1, **store)
    assert len(reader) == 2
    batch = batch_of(reader)
    assert batch["id"] == ["ball#0", "ball#2", "ball#3", "ball#4", "hall#1"]
    assert batch["video"].tolist() == [0, 0, 0, 0, 1]
    assert batch["labels"].tolist() == [1, 2, -1, -1, 3]
    assert batch["answers"] == ["<UNK>", "yes", "no", "red"]
    for video, frames in zip(("ball", "hall"), batch["frames"], strict=True):
        assert numbers(frames) == sample_indices(16, LENGTHS[video])
    assert same(batch_of(reader, 1), batch_of(reader, 1)) and batch["num_frm"] == 1
    assert read("valid", rows, n_clips=16, num_frm=1, **store).references() == {
        "ball#0": {"question": rows[0]["question"], "answer": "yes", "video": "ball"},
        "hall#1": {"question": rows[1]["question"], "answer": "red", "video": "hall"},
        "ball#2": {"question": rows[2]["question"], "answer": "no", "video": "ball"},
        "ball#3": {"question": rows[3]["question"], "answer": "purple", "video": "ball"},
        "ball#4": {"question": rows[4]["question"], "video": "ball"},
    }


def test_fewer_clips_than_a_store_has(read):
    every = numbers(read("test", n_clips=16, num_frm=1, store=read.store)[0]["frames"])
    some = numbers(read("test", n_clips=4, num_frm=1, store=read.store)[0]["frames"])
    assert some == [every[i] for i in sample_indices(4, 16)]
    with pytest.raises(DataError, match=r"expected 18 frames \(n_clips x num_frm\), found 16"):
        read("test", n_clips=9, num_frm=2, store=read.store)[0]
    fixed = read("train", store=read.store, random_sample_clips=False)
    assert numbers(fixed[0]["frames"]) == [every[i] for i in sample_indices(8, 16)]


def test_categories_come_from_the_raw_questions(read, tmp_path):
    raw = tmp_path / "qa_val.json"
    raw.write_text(json.dumps([{"qa_id": q["key"], "taxonomy": taxonomy(q["answer"])}
                               for q in QUESTIONS[::-1]]))  # fmt: skip
    references = read("valid", questions=str(raw)).references()
    assert references["hall#1"]["taxonomy"] == taxonomy("red")
    assert references["ball#2"] == {"question": QUESTIONS[2]["question"], "answer": "no",
                                    "video": "ball", "taxonomy": taxonomy("no")}  # fmt: skip
    raw.write_text(json.dumps([{"qa_id": "ball#0", "taxonomy": taxonomy("x")}]))
    with pytest.raises(DataError, match=r"qa_val.json: expected question hall#1, found none"):
        read("valid", questions=str(raw)).references()


def test_unknown_answers_are_learned_as_such_with_one_warning(read, log):
    rows = [question(k, "ball", answer) for k, answer in enumerate(["purple", "red", "pink"])]
    assert batch_of(read("train", rows))["labels"].tolist() == [0, 3, 0]
    (record,) = log.records
    assert "answers of 2 questions, such as 'purple'" in record.getMessage()
    log.clear()
    assert batch_of(read("valid", rows))["labels"].tolist() == [-1, 3, -1] and not log.records


def test_groups_share_a_video_in_training(read):
    rows = [question(k, video) for k, video in enumerate(["ball", "ball", "hall", "ball"])]
    reader = read("train", rows, max_n_example_per_group=2)
    assert len(reader) == 3
    batch = batch_of(reader)
    assert batch["id"][:2] == ["ball#0", "ball#1"] and batch["id"][4:] == ["hall#2"] * 2
    assert batch["id"][2] == "ball#3" and batch["id"][3] in ("ball#0", "ball#1", "ball#3")
    assert batch["video"].tolist() == [0, 0, 1, 1, 2, 2] and len(batch["frames"]) == 3
    filled = set()
    for epoch in range(20):
        reader.set_epoch(epoch)
        filled.add(reader[1]["id"][1])
    assert filled == {"ball#0", "ball#1", "ball#3"}


def test_orders_and_shares_of_the_data(read):
    rows = [question(k, "ball") for k in range(20)]
    reader = read("train", rows)
    assert reader.order(1) == reader.order(1) != reader.order(2)
    assert sorted(reader.order(3)) == list(range(20)) and type(reader.order(0)[0]) is int
    assert read("train", rows, seed=1).order(1) != reader.order(1)
    same_order = read("train", rows, reshuffle_each_epoch=False)
    assert same_order.order(5) == same_order.order(0) == reader.order(0)
    half = read("train", rows, data_ratio=0.55)
    names = [half[i]["id"][0] for i in range(len(half))]
    assert len(set(names)) == 11 and names != [row["key"] for row in rows[:11]]
    assert len(read("valid", rows, data_ratio=0.5).references()) == 20
    assert len(read("valid", rows, data_ratio=0.5)[0]["rows"]) == 20


def test_items_do_not_depend_on_what_was_read_before_or_on_the_process(read):
    reader = read("train", fps=1, task="frameqa", max_n_example_per_group=2)
    reader.set_epoch(3)
    expected = batch_of(reader, 1, 0)
    other = read("train", fps=1, task="frameqa", max_n_example_per_group=2)
    other.set_epoch(3)
    sent = pickle.loads(pickle.dumps(other))
    assert same(batch_of(sent, 1, 0), expected)
    len(other)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        items = pool.map(other.__getitem__, [1, 0])
    assert same(other.collate(items), expected)
    other.set_epoch(4)
    assert not np.array_equal(other[1]["frames"], items[0]["frames"])


# clips of a video


def frameqa(video, **more):
    return {"gif_name": video, "question": "what runs ?", "answer": "red", "answer_type": "color",
            **more}  # fmt: skip


def chosen(video, count, clips, of, fps=1.0):
    """Frames of clips of a made video, which has 25 frames a second."""
    return choose_clips(np.arange(LENGTHS[video]) / 25, 25, fps, count, clips, of)


def test_training_draws_clips_and_evaluation_spreads_them(read):
    rows = [frameqa("ball"), frameqa("hall")]
    reader = read("train", rows, task="frameqa", fps=4)
    starts = set()
    for epoch in range(10):
        reader.set_epoch(epoch)
        clips = np.array(numbers(reader[0]["frames"])).reshape(4, 2)
        assert (np.diff(clips) == 11).all()  # a window of 2 / 4 s has 12.5 frames
        starts |= set(clips[:, 0].tolist())
    assert len(starts) > 20 and min(starts) < 10 and 78 < max(starts) <= 88
    reader = read("valid", rows, task="frameqa", fps=4, n_clips=3)
    for i, video in enumerate(("ball", "hall")):
        assert numbers(reader[i]["frames"]) == chosen(video, 2, [0, 1, 2], 3, 4.0)
    assert numbers(read("test", rows, task="frameqa", n_clips=1)[0]["frames"]) == [0, 49]
    fixed = read("train", rows, task="frameqa", n_clips=2, random_sample_clips=False)
    assert numbers(fixed[0]["frames"]) == chosen("ball", 2, [0, 1], 2)


@pytest.mark.skipif(not hasattr(cv2, "imwriteanimation"), reason="this OpenCV writes no GIF")
def test_moving_pictures_of_uneven_speed(read, tmp_path):
    """Frames 0 to 9 take 0.1 s each, 10 to 19 0.3 s: 5 a second on average, 4 s altogether."""
    animation = cv2.Animation()
    opaque = np.full((48, 160), 255, np.uint8)
    animation.frames = [np.dstack([picture(k), opaque]) for k in range(20)]
    animation.durations = [100] * 10 + [300] * 10
    assert cv2.imwriteanimation(str(tmp_path / "ball.gif"), animation)
    options = {"task": "action", "videos": str(tmp_path), "num_frm": 2, "n_clips": 2}
    row = {"gif_name": "ball", "question": "what", "options": OPTIONS}
    # ten frames from 0 s and from 1 s on; of the latter 17 is the first one behind 2.8 s, the end
    assert numbers(read("test", [row], **options)[0]["frames"]) == [0, 9, 10, 17]


@pytest.mark.parametrize("task", ["retrieval", "msrvtt_mc", "pretrain"])
def test_a_single_clip_of_matching_tasks_starts_at_a_third(read, task):
    row = {"clip_name": "ball", "caption": "a cat", "qid": 1, "options": OPTIONS}
    reader = read("valid", [row, row | {"clip_name": "hall", "qid": 2}], task=task, n_clips=1)
    assert numbers(reader[0]["frames"]) == [17, 66] == chosen("ball", 2, [1], 3)
    two = read("valid", [row, row | {"clip_name": "hall", "qid": 2}], task=task, n_clips=2)
    assert numbers(two[0]["frames"]) == chosen("ball", 2, [0, 1], 2)


def test_ids_of_the_original_tasks_are_line_numbers_over_all_files(read, tmp_path):
    first = lines(tmp_path / "a.jsonl", [frameqa("ball"), frameqa("hall")])
    second = lines(tmp_path / "b.jsonl", [frameqa("ball", answer_type="number", answer="no")])
    reader = read("test", task="frameqa", annotations=[first, second], n_clips=1)
    assert reader[0]["id"] == ["0", "2"] and reader[0]["labels"].tolist() == [3, 2]
    assert reader.references() == {
        "0": {"question": "what runs ?", "answer": "red", "answer_type": "color", "video": "ball"},
        "1": {"question": "what runs ?", "answer": "red", "answer_type": "color", "video": "hall"},
        "2": {"question": "what runs ?", "answer": "no", "answer_type": "number", "video": "ball"},
    }


@pytest.mark.parametrize("key", ["gif_name", "video_id", "clip_name"])
def test_names_of_videos_have_several_keys(read, key):
    row = frameqa("hall") | {"gif_name": "", key: "ball"}
    assert read("infer", [row], task="msrvtt_qa", n_clips=1)[0]["frames"].shape[0] == 2
    assert read("infer", [row], task="msrvtt_qa").references()["0"]["video"] == "ball"


def test_options_are_rows_of_their_question(read):
    rows = [{"gif_name": video, "question": "what does the cat", "options": OPTIONS, "answer": k}
            for k, video in ((2, "ball"), (4, "hall"), (0, "ball"))]  # fmt: skip
    batch = batch_of(read("valid", rows, task="action", n_clips=1))
    assert batch["id"] == ["0", "2", "1"] and batch["labels"].tolist() == [2, 0, 4]
    assert texts(batch["ids"])[5:8] == [f"[CLS] what does the cat {word} [SEP]"
                                        for word in ("runs", "jumps", "sits")]  # fmt: skip
    assert batch["video"].tolist() == [0] * 10 + [1] * 5 and "answers" not in batch
    references = read("valid", rows, task="transition").references()
    assert references["1"] == {"question": "what does the cat", "choices": OPTIONS, "answer": 4,
                               "video": "hall"}  # fmt: skip
    unknown = read("infer", [{**rows[0], "answer": None}], task="action", n_clips=1)
    assert unknown[0]["labels"].tolist() == [-1] and "answer" not in unknown.references()["0"]
    train = batch_of(read("train", rows, task="action", n_clips=1), 0, 1)
    assert train["id"] == ["0", "2"] and train["ids"].shape[0] == 10


# matching


CAPTIONS = [{"clip_name": video, "caption": f"a {word}", "sen_id": 0} for video, word in
            (("ball", "cat"), ("hall", "dog"), ("ball", "man"), ("wall", "red"))]  # fmt: skip


def test_retrieval_trains_on_captions_of_other_videos(read):
    reader = read("train", CAPTIONS, task="retrieval", itm_neg_size=2, n_clips=1)
    batch = batch_of(reader)
    assert batch["id"] == ["ball", "ball", "hall", "wall"]
    assert batch["labels"].tolist() == [1, 0, 0] * 4
    assert batch["video"].tolist() == np.repeat(range(4), 3).tolist()
    own = [{"a cat", "a man"}] * 2 + [{"a dog"}, {"a red"}]
    drawn = [set(), set(), set(), set()]
    for epoch in range(15):
        reader.set_epoch(epoch)
        for i, mine in enumerate(own):
            first, *others = (text[6:-6] for text in texts(reader[i]["rows"]))
            assert first in mine and not mine & set(others)
            drawn[i] |= set(others)
    assert drawn == [{"a dog", "a red"}] * 2 + [{"a cat", "a man", "a red"},
                                                {"a cat", "a man", "a dog"}]  # fmt: skip


def test_retrieval_compares_every_video_with_every_caption(read):
    reader = read("test", CAPTIONS, task="retrieval", n_clips=1)
    batch = batch_of(reader, 0, 1)
    assert batch["id"] == ["ball", "hall"] and "labels" not in batch
    told = [f"[CLS] {row['caption']} [SEP]" for row in CAPTIONS]
    assert texts(batch["ids"]) == told * 2 and batch["video"].tolist() == [0] * 4 + [1] * 4
    assert reader.references() == {
        "ball": {"texts": [0, 2], "captions": ["a cat", "a man"], "count": 4},
        "hall": {"texts": [1], "captions": ["a dog"], "count": 4},
        "wall": {"texts": [3], "captions": ["a red"], "count": 4},
    }


def test_msrvtt_mc_reads_captions_alone(read):
    rows = [{"qid": 7, "clip_name": "hall", "options": OPTIONS, "answer": "3"}]
    reader = read("test", rows, task="msrvtt_mc", n_clips=1)
    batch = batch_of(reader)
    assert batch["id"] == ["7"] and "labels" not in batch
    assert texts(batch["ids"]) == [f"[CLS] {option} [SEP]" for option in OPTIONS]
    assert reader.references() == {"7": {"choices": OPTIONS, "answer": 3, "video": "hall"}}


# images


def vqa(image, number, **labels):
    return {"question": "what color ?", "image_id": image, "question_id": number,
            "labels": labels, "answer_type": "other"}  # fmt: skip


def test_questions_about_images_have_soft_labels(read):
    rows = [vqa(10, 5, red=0.3, no=1, purple=0.6), vqa("20", 6), vqa(10, 8, yes=1.0)]
    reader = read("valid", rows, task="vqa", images=True)
    batch = batch_of(reader)
    assert batch["id"] == ["5", "8", "6"] and batch["num_frm"] == 1
    assert batch["labels"].dtype == np.float32
    assert batch["labels"].tolist() == [[0, 0, 1, np.float32(0.3)], [0, 1, 0, 0], [0] * 4]
    assert batch["frames"].shape == (2, 1, 3, 20, 30) and batch["frames"].dtype == np.uint8
    assert batch["frames"][:, 0, :, 3, 4].tolist() == [[10, 11, 12], [20, 21, 22]]  # RGB
    assert batch["answers"] == ["<UNK>", "yes", "no", "red"]
    assert reader.references()["6"] == {"question": "what color ?", "labels": {}, "video": "20",
                                        "answer_type": "other"}  # fmt: skip


def test_frames_of_several_sizes_are_fitted_into_squares(read):
    rows = [vqa(10, 5), vqa(30, 6)]
    batch = batch_of(read("valid", rows, task="vqa", images=True, max_img_size=60))
    frames = batch["frames"]
    assert frames.shape == (2, 1, 3, 60, 60) and frames.dtype == np.float32
    assert (frames[0, 0, 0, :40] == 10).all() and (frames[0, 0, :, 40:] == 0).all()
    assert (frames[1, 0, 2, :, :40] == 32).all() and (frames[1, 0, :, :, 40:] == 0).all()
    with pytest.raises(DataError, match="frames of one size, found several; set max_img_size"):
        batch_of(read("valid", rows, task="vqa", images=True, max_img_size=None))


def test_extremely_long_pictures_are_not_trained_on(read):
    with pytest.raises(BrokenSample, match=r"40.png: .*at most 5 times .*found 200 x 20"):
        read("train", [vqa(40, 1, red=1)], task="vqa", images=True)[0]
    assert read("test", [vqa(40, 1)], task="vqa", images=True)[0]["frames"].shape[-1] == 200


def test_pretraining_hides_words_and_swaps_captions(read):
    rows = [{"coco_id": 10, "caption": "a cat runs"}, {"vg_id": 20, "caption": "the dog sits ?"},
            {"coco_id": 10, "caption": "a man eats"}]  # fmt: skip
    options = {"task": "pretrain", "images": True, "max_txt_len": 9}
    reader = read("train", rows, max_n_example_per_group=2, **options)
    seen, swapped, told, masked = set(), 0, 0, 0
    for epoch in range(60):
        reader.set_epoch(epoch)
        batch = batch_of(reader)
        ids, labels = batch["ids"], batch["mlm_labels"]
        assert batch["id"] == ["0", "2", "1", "1"] and ids.shape == labels.shape == (4, 9)
        assert batch["video"].tolist() == [0, 0, 1, 1] and "labels" not in batch
        assert (labels[batch["mask"] == 0] == -100).all() and batch["itm_labels"].dtype == np.int64
        original = np.where(labels == -100, ids, labels)
        texts_of = [row[6:-6] for row in texts(original)]
        for k, match in enumerate(batch["itm_labels"]):
            mine = {"a cat runs", "a man eats"} if k < 2 else {"the dog sits ?"}
            assert (texts_of[k] in mine) == bool(match)
        seen |= set(texts_of)
        swapped += (batch["itm_labels"] == 0).sum()
        told += (labels != -100).sum()
        masked += (ids[labels != -100] == 4).sum()
    assert seen == {row["caption"] for row in rows}
    assert 0.4 < swapped / 240 < 0.6 and 0.1 < told / (240 * 5.5) < 0.2 and masked / told > 0.65
    never = read("valid", rows, itm_neg_prob=0.0, mask_special_tokens=False, **options)
    assert batch_of(never)["itm_labels"].tolist() == [1, 1, 1]
    assert (batch_of(never)["mlm_labels"][:, 0] == -100).all()
    assert same(batch_of(never), batch_of(never))
    assert never.references()["1"] == {"caption": "the dog sits ?", "video": "20"}


def test_special_pieces_are_hidden_too_if_published(read):
    rows = [{"clip_name": video, "caption": "a cat"} for video in ("ball", "hall")]
    found = {}
    for published in (True, False):
        reader = read("train", rows, task="pretrain", n_clips=1, blind="video", max_img_size=8,
                      mask_special_tokens=published)  # fmt: skip
        labels = []
        for epoch in range(40):
            reader.set_epoch(epoch)
            labels.append(batch_of(reader)["mlm_labels"][:, [0, 3]])
        found[published] = set(np.unique(labels).tolist())
    assert found == {True: {-100, 2, 3}, False: {-100}}


# baselines, raw videos, pictures


def test_blind_readers(read, tmp_path):
    rows = [frameqa("no such video")]
    reader = read("valid", rows, task="frameqa", blind="video", max_img_size=12, videos=None)
    batch = batch_of(reader)
    assert batch["frames"].shape == (1, 8, 3, 12, 12)
    assert (batch["frames"] == np.array([124, 116, 104]).reshape(3, 1, 1)).all()
    assert texts(batch["ids"]) == ["[CLS] what runs ? [SEP]"]
    batch = batch_of(read("valid", [frameqa("ball")], task="frameqa", blind="text"))
    assert texts(batch["ids"]) == ["[CLS] [SEP]"] and batch["frames"].std() > 0
    options = {"gif_name": "ball", "question": "what", "options": OPTIONS, "answer": 1}
    batch = batch_of(read("valid", [options], task="action", blind="text"))
    assert texts(batch["ids"]) == ["[CLS] [SEP]"] * 5


RAW = [
    ("anetqa", "What color ?", (), ["what color ?"], [-1]),
    ("msrvtt_qa", "What color ?", (), ["what color ?"], [-1]),
    ("action", "what does the cat", OPTIONS, [f"what does the cat {o}" for o in OPTIONS], [-1]),
    ("msrvtt_mc", "which", OPTIONS, OPTIONS, None),
    ("retrieval", "a cat", (), ["a cat"], None),
    ("retrieval", "a cat", ("a dog", "a man"), ["a cat", "a dog", "a man"], None),
]


@pytest.mark.parametrize(("task", "query", "choices", "told", "labels"), RAW)
def test_a_raw_video(read, files, task, query, choices, told, labels):
    path = str(files[2] / "videos" / "more" / "hall.mp4")
    store = {"store": read.store} if task == "anetqa" else {}
    reader = read("infer", task=task, videos=None, annotations=None, n_clips=4, num_frm=1, **store)
    given = {"choices": choices} if choices else {}
    (item,) = reader.from_raw(path, query, {}, **given)
    batch = reader.collate([item])
    assert batch["id"] == [f"hall#{query}"]
    assert texts(batch["ids"]) == [f"[CLS] {text} [SEP]" for text in told]
    expected = sample_indices(4, 60) if task == "anetqa" else chosen("hall", 1, [0, 1, 2, 3], 4)
    assert numbers(batch["frames"][0]) == expected
    assert batch["frames"].shape[-2:] == ((SIDE, SIDE) if task == "anetqa" else (48, 160))
    assert (batch["labels"].tolist() if labels else batch.get("labels")) == labels
    assert numbers(reader.seen("hall").transpose(0, 3, 1, 2)) == expected


def test_a_raw_picture(read, files):
    reader = read("infer", task="vqa", images=None, annotations=None)
    (item,) = reader.from_raw(str(files[2] / "images" / "30.png"), "what ?", {})
    batch = reader.collate([item])
    assert batch["frames"].shape == (1, 1, 3, 30, 20) and batch["labels"].tolist() == [[0.0] * 4]
    assert batch["answers"][1] == "yes"


def test_what_cannot_be_asked(read, files):
    path = str(files[2] / "videos" / "ball.mp4")

    def fails(message, query="what", choices=(), video=path, **changes):
        with pytest.raises(DataError, match=message) as caught:
            list(read("infer", **changes).from_raw(video, query, {}, choices=choices))
        assert caught.value.exit_code == 3 and "\n" not in str(caught.value)

    fails("--query: expected a question, found an empty one", query=" ")
    fails("--choices: expected 5 texts, found 3", task="action", choices=["a", "b", "c"])
    fails("--choices: expected none with task frameqa", task="frameqa", choices=OPTIONS)
    fails("--video: task pretrain answers no questions", task="pretrain")
    fails("expected a video", video=str(files[2] / "vocab.txt"))
    fails("expected a picture", video=str(files[2] / "vocab.txt"), task="vqa", images=True)


def test_what_a_page_shows_of_a_video(read):
    reader = read("valid")
    item = reader[0]
    shown = reader.seen(reader.records.videos[reader.groups.video[0]])
    assert shown.dtype == np.uint8 and shown.shape[-1] == 3
    np.testing.assert_array_equal(shown.transpose(0, 3, 1, 2), item["frames"])
    assert reader.seen("nowhere") is None
    assert read("valid", blind="video").seen("ball") is None
    (image,) = read("valid", [vqa(10, 1)], task="vqa", images=True).seen("10")
    assert image.shape == (20, 30, 3) and image[0, 0].tolist() == [10, 11, 12]


def test_a_list_to_predict_on_needs_no_answers(read, tmp_path):
    rows = [{"key": "q", "question": "what ?", "video_id": "hall"}]
    filelist = lines(tmp_path / "list.jsonl", rows)
    reader = read("infer", filelist=filelist, annotations="nothing")
    assert batch_of(reader)["id"] == ["q"] and batch_of(reader)["labels"].tolist() == [-1]
    assert reader.references() == {"q": {"question": "what ?", "video": "hall"}}
    assert len(read("valid", filelist="nothing")) == 2


def test_references_decode_nothing(read):
    reader = read("test", videos="nothing", store=None)
    assert set(reader.references()) == {"ball#0", "hall#1", "ball#2"}


def test_every_task_has_a_format():
    from typing import get_args

    from reader.common.clipbert_records import FORMATS

    assert set(get_args(Task)) == set(FORMATS)
