# SPDX-License-Identifier: Apache-2.0
"""STAGE's reader on a made-up data set: samples, batches, references."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import pickle
import typing
from pathlib import Path

import numpy as np
import pytest

from engine import config
from reader.common.tvqa_plus_store import pack
from reader.stage import Reader
from tests.conftest import ROOT
from tests.reader.batches import batch_of, same
from tests.reader.stage_world import (
    D,
    V,
    features,
    make_package,
    question,
    regions,
    rows,
)

FEATURES = ("qa_bert", "sub_bert", "vcpt", "vfeat")
REAL = ROOT.parent / "shared" / "annotations" / "tvqa_plus"


@pytest.fixture
def world(tmp_path):
    """A function that makes a reader of a split."""
    options, annotations = make_package(tmp_path)

    def reader(split, **changes):
        of = annotations["test" if split == "infer" else split]
        return Reader(split, **{"annotations": of, **options, **changes})

    reader.options, reader.annotations = options, annotations
    return reader


def test_configurations_bind_to_the_reader():
    values = {"input_streams": ["sub"], "att_iou_thd": 1, "blind": "video", "store": None}
    given = {("DATASET", key): value for key, value in values.items()}
    bound = config.bind(Reader, given, {})
    assert bound == values and isinstance(bound["att_iou_thd"], float)
    assert Reader("valid", **bound).input_streams == ["sub"]
    hints = typing.get_type_hints(Reader.__init__)
    assert typing.get_args(hints["blind"]) == ("none", "subtitles", "video")


def test_a_batch_holds_what_the_files_say(world):
    batch = batch_of(world("valid"))
    assert batch["id"] == ["4", "5"]
    ball, hall = batch["meta"]
    assert ball["image_indices"] == [3, 9, 15] and ball["anno_st_idx"] == 0 and ball["q_len"] == 5
    assert hall["image_indices"][:3] == [4, 10, 16] and hall["image_indices"][-1] == 298
    assert hall["anno_st_idx"] == 1 and len(hall["boxes"]) == 1
    assert batch["ts_label_mask"].sum(1).tolist() == [3, 50]
    # moment 1.0 to 3.4 s = frames 3 to 10.2 of 2, 8, 14; the last frame is never the end
    assert (batch["ts_label_st"][0], batch["ts_label_ed"][0]) == (1, 1)
    assert batch["target"].tolist() == [1, 1]
    # question and answer, then zeros; five words and 2, 2, 3, 4, 2
    assert batch["qas_bert"].shape == (2, 5, 9, D)
    assert batch["qas_mask"].sum(2)[0].tolist() == [7, 7, 8, 9, 7]
    expected = np.concatenate([rows("4_q", 5, D), rows("4_a2", 3, D), np.zeros((1, D))])
    assert np.array_equal(batch["qas_bert"][0, 2], expected)
    assert batch["qas"][0, 1].tolist() == [3, 4, 5, 6, 7, 8, 10, 0, 0]
    # frames 2, 8 and 14 have 3, 1 and 3 regions of at most 3
    assert batch["vid"].shape == (2, 50, 3, V)
    assert batch["vid_mask"][0, :4].sum(1).tolist() == [3, 1, 3, 0]
    starts = np.cumsum([0, *regions("ball")["counts"]])
    all_rows = rows("ball", starts[-1], V)
    assert np.array_equal(batch["vid"][0, 1, 0], all_rows[starts[8]])
    assert np.array_equal(batch["vid"][0, 2], all_rows[starts[14] : starts[14] + 3])
    assert not batch["vid"][0, 3:].any() and not batch["vid"][0, 1, 1:].any()
    assert [b.tolist() for b in ball["boxes"]] == [regions("ball")["boxes"][2][:3],
                                                  regions("ball")["boxes"][8][:3]]  # fmt: skip
    assert all(b.dtype == np.float64 for b in ball["boxes"])


def test_subtitle_pieces_are_shared_by_frames(world):
    batch = batch_of(world("valid"))
    # times 1, 3, 5 s; starts 0.5, 2, 5: sentences 0+1, then 1+2 (twice); one sentence in the hall
    assert batch["sub_index"][0, :4].tolist() == [0, 1, 1, 0] and not batch["sub_index"][1].any()
    assert batch["sub_bert"].shape == (2, 2, 10, D)  # 4 + 6 and 6 + 4 words
    assert batch["sub_mask"].sum(2).tolist() == [[10, 10], [6, 0]]
    said = features()["sub_bert"]["ball"]
    assert np.array_equal(batch["sub_bert"][0, 0], said[:10])
    assert np.array_equal(batch["sub_bert"][0, 1], said[4:14])


def test_limits_clip_after_padding(world):
    whole = batch_of(world("valid"))
    cut = batch_of(world("valid", max_qa_l=4, max_sub_l=3, max_vid_l=2))
    assert np.array_equal(cut["qas_bert"], whole["qas_bert"][:, :, :4])
    assert np.array_equal(cut["object_mask"], whole["object_mask"][:, :, :4])
    assert np.array_equal(cut["sub_bert"], whole["sub_bert"][:, :, :3])
    for key in ("vid", "vid_mask", "sub_index", "ts_label_mask"):
        assert np.array_equal(cut[key], whole[key][:, :2]), key


def test_object_words(world):
    mask = batch_of(world("valid"))["object_mask"]
    # who holds the ball ? ada .; zoe has no id, so id 0 (unknown words and padding) is an object
    assert mask[0, 1].tolist() == [False] * 3 + [True, False, True, False, True, True]
    assert mask[0, 3].tolist() == [False] * 3 + [True, False, True, True, True, False]
    skipped = batch_of(world("valid", skip_unk=True))["object_mask"]
    assert skipped[0, 1].tolist() == [False] * 3 + [True, False, True, False, False, False]


def test_training_pairs(world):
    reader = world("train", num_negatives=3)
    batch = batch_of(reader)
    assert not {"meta", "qas", "object_mask"} & batch.keys()
    positive, negative = batch["pos_container"], batch["neg_container"]
    # sample 0: frame 3 has 3 regions, "ball" (word 3) overlaps the first, "ada" (word 5) none;
    # frame 9 has 1 region, which "ball" overlaps with 0 < 0.5. Sample 1: answer 0, the same
    assert positive.tolist() == [[0, 1, 0, 3, 0]] * 3 + [[1, 0, 0, 3, 0]] * 3
    assert np.array_equal(positive[:, :4], negative[:, :4]) and set(negative[:, 4]) <= {1, 2}
    assert positive.dtype == negative.dtype == np.int64
    alone = batch_of(reader, 1)["neg_container"][:, 1:]
    assert np.array_equal(alone, negative[3:, 1:])  # whatever else is in the batch
    drawn = []
    for epoch in range(20):
        reader.set_epoch(epoch)
        drawn.append(batch_of(reader, 0)["neg_container"][:, 4].tolist())
    assert len({tuple(d) for d in drawn}) > 3
    reader.set_epoch(4)
    assert batch_of(reader, 0)["neg_container"][:, 4].tolist() == drawn[4]
    assert batch_of(reader, 2)["pos_container"].shape == (0, 5)
    assert "pos_container" not in batch_of(world("train", use_sup_att=False))


def test_hard_negatives_give_groups(world):
    reader = world("train", hard_negative_start=2)
    reader.set_epoch(1)
    assert "pos_container" in batch_of(reader)
    reader.set_epoch(2)
    batch = batch_of(reader)
    assert "pos_container" not in batch
    assert batch["att_groups"].tolist() == [[0, 1, 0, 3], [1, 0, 0, 3]]
    assert batch["att_pattern"].tolist() == [[1, 0, 0], [1, 0, 0]]
    assert batch["att_pattern"].dtype == np.int8
    assert batch_of(reader, 2)["att_pattern"].shape == (0, 3)


def test_streams_need_only_their_files(world):
    both = batch_of(world("valid"))
    sub = world("valid", input_streams=["sub"], vcpt=None, vfeat=None, object_vocab=None,
                word2idx=None)  # fmt: skip
    batch = batch_of(sub)
    assert np.array_equal(batch["sub_bert"], both["sub_bert"]) and not batch["qas"].any()
    assert not {"vid", "object_mask"} & batch.keys() and batch["meta"][0]["boxes"] == []
    assert sub.references()["4"]["objects"][3][0] == ("ball", 0, [10, 10, 30, 30])
    vision = world("valid", input_streams=["vfeat"], sub_bert=None, subtitles=None)
    batch = batch_of(vision)
    assert np.array_equal(batch["vid"], both["vid"]) and "sub_bert" not in batch
    assert vision.references()["4"]["subtitles"] == []
    train = world("train", word2idx=None, object_vocab=None)
    assert len(batch_of(train)["pos_container"])


def test_blind(world):
    seen = batch_of(world("valid"))
    for blind, key, other in (("subtitles", "sub_bert", "vid"), ("video", "vid", "sub_bert")):
        batch = batch_of(world("valid", blind=blind))
        assert not batch[key].any() and np.array_equal(batch[other], seen[other])
        assert np.array_equal(batch["sub_mask"], seen["sub_mask"])
        assert np.array_equal(batch["vid_mask"], seen["vid_mask"])


def _item(reader):
    return reader.collate([reader[0]])


def test_store_package_and_processes_give_equal_samples(world, tmp_path):
    given = {name: Path(world.options[name]) for name in FEATURES}
    pack(tmp_path / "store", **given)
    chunked = make_package(_folder(tmp_path / "chunked"), chunks=(2, 2), compression="gzip")[0]
    none = dict.fromkeys(FEATURES)
    for split in ("train", "valid", "test", "infer"):
        expected = batch_of(world(split))
        stored = world(split, store=str(tmp_path / "store"), **none)
        unpacked = world(split, **{name: chunked[name] for name in FEATURES})
        for reader in (stored, unpacked):
            assert same(batch_of(reader), expected)
            assert same(batch_of(pickle.loads(pickle.dumps(reader))), expected)
            with multiprocessing.get_context("fork").Pool(2) as workers:
                for batch in workers.map(_item, [reader] * 3, 1):
                    assert same(batch, batch_of(reader, 0))


def _folder(path):
    path.mkdir()
    return path


def test_half_precision_is_close(world, tmp_path):
    given = {name: Path(world.options[name]) for name in FEATURES}
    pack(tmp_path / "store", **given, half=True)
    expected, reader = batch_of(world("train")), world("train", store=str(tmp_path / "store"))
    batch = batch_of(reader)
    for key in ("qas_bert", "sub_bert", "vid"):
        assert batch[key].dtype == np.float32
        error = np.abs(batch[key] - expected[key]) / np.maximum(np.abs(expected[key]), 1e-3)
        assert 0 < error.max() < 1e-3
    for box, own in zip(world("valid")[0]["meta"]["boxes"],
                        world("valid", store=str(tmp_path / "store"))[0]["meta"]["boxes"],
                        strict=True):  # fmt: skip
        assert np.array_equal(box, own)  # boxes are never rounded


def test_identity_travels_with_the_features(world, tmp_path):
    assert world("valid").feature_identity == {"text": None, "regions": None}
    stamp = {"text": {"name": "bert"}, "regions": {"name": "cnn", "dim": 4}}
    (Path(world.options["qa_bert"]).parent / "identity.json").write_text(json.dumps(stamp))
    assert world("valid").feature_identity == stamp
    assert world("valid", input_streams=["sub"]).feature_identity == {"text": stamp["text"]}
    pack(tmp_path / "store", **{name: Path(world.options[name]) for name in FEATURES})
    stored = world("valid", store=str(tmp_path / "store"), **dict.fromkeys(FEATURES))
    assert stored.feature_identity == stamp


def test_references(world):
    truth = world("valid").references()
    assert list(truth) == ["4", "5"]
    assert truth["4"] == {
        "vid_name": "ball", "question": "Who holds the Ball ?", "qid": 4, "answer": 1,
        "choices": ["Ben .", "Ada .", "The ball .", "Nobody at all .", "Ben ."],
        "moment": [1.0, 3.4], "num_frames": 20,
        "subtitles": [(0.5, "Ada : hi ."), (2.0, "Ben : a red ball !"), (5.0, "Ada : yes .")],
        "objects": {3: [("ball", 6, [10, 10, 30, 30]), ("ada", 8, [60, 60, 100, 100])],
                    9: [("ball", 6, [50, 50, 70, 70]), ("zoe", 0, [0, 0, 9, 9])]},
    }  # fmt: skip
    hidden = world("test").references()["6"]
    assert not {"answer", "moment", "objects"} & hidden.keys()
    item = world("test")[0]
    assert item["target"] == 999 and item["label"] == (0, 0) and len(item["meta"]["boxes"]) == 2


def test_typographic_quotes_become_straight(world, tmp_path):
    boxes = {"3": [{"label": "Ada’s “cup”", "left": 0, "top": 0, "width": 2, "height": 3}]}
    path = tmp_path / "own.json"
    path.write_text(json.dumps([question(4, bbox=boxes)]))
    objects = world("valid", annotations=str(path)).references()["4"]["objects"]
    assert objects[3][0][0] == "ada's \"cup\""


def test_file_lists(world, tmp_path):
    entries = [question(4), question(5, "hall"), question(1)]
    (tmp_path / "all.json").write_text(json.dumps(entries))
    (tmp_path / "ids.txt").write_text("1\n\n5\n")
    listed = {"annotations": str(tmp_path / "all.json"), "filelist": str(tmp_path / "ids.txt")}
    reader = world("infer", **listed)
    assert [reader[i]["id"] for i in range(len(reader))] == ["1", "5"]
    assert len(world("test", **listed)) == 3  # file lists are for infer only
    own = world("infer", filelist=str(tmp_path / "all.json"))
    assert [own[i]["id"] for i in range(len(own))] == ["4", "5", "1"]


def test_questions_without_annotated_frames_use_all(world, tmp_path):
    with gzip.open(tmp_path / "own.json.gz", "wt") as file:
        json.dump([question(4, bbox={}, ts=None, answer_idx=None)], file)
    reader = world("infer", filelist=str(tmp_path / "own.json.gz"))
    meta = reader[0]["meta"]
    assert meta["image_indices"] == [1, 7, 13, 19] and meta["anno_st_idx"] == 0
    assert [len(boxes) for boxes in meta["boxes"]] == [1, 3, 1, 3]


def test_pictures(world, tmp_path):
    import cv2

    from tests.reader.clips import number, write_video

    assert world("valid").pictures("ball", [1]) is None
    write_video(tmp_path / "ball.mp4", 50)  # 25 frames per second
    (tmp_path / "hall").mkdir()
    cv2.imwrite(str(tmp_path / "hall" / "00007.jpg"), np.full((4, 6, 3), (255, 0, 0), np.uint8))
    reader = world("valid", videos=str(tmp_path))
    pictures = reader.pictures("ball", [6, 1, 3, 99])
    assert [number(p) for p in pictures] == [49, 8, 25, 49]  # frame i at i / 3 seconds
    (blue,) = reader.pictures("hall", [7])
    assert blue.shape == (4, 6, 3) and blue.dtype == np.uint8 and blue[0, 0].argmax() == 2
    assert reader.pictures("nowhere", [1]) is None


@pytest.mark.skipif(not REAL.is_dir(), reason="the published annotations are not at hand")
def test_published_validation_set():
    with gzip.open(REAL / "tvqa_plus_val.json.gz", "rt") as file:
        entries = {str(entry["qid"]): entry for entry in json.load(file)}
    reader = Reader("valid", annotations=str(REAL / "tvqa_plus_val.json.gz"),
                    word2idx=str(REAL / "word2idx.json.gz"))  # fmt: skip
    truth = reader.references()
    assert truth.keys() == entries.keys() and len(truth) == 3017
    assert len({t["vid_name"] for t in truth.values()}) == 431
    frames = boxes = 0
    for qid, reference in truth.items():
        entry = entries[qid]
        assert reference["moment"] == entry["ts"]
        assert str(reference["answer"]) == entry["answer_idx"]
        assert reference["choices"] == [entry[f"a{k}"] for k in range(5)]
        assert list(reference["objects"]) == sorted(map(int, entry["bbox"]))
        frames += len(reference["objects"])
        boxes += sum(map(len, reference["objects"].values()))
    assert (frames, boxes) == (15309, 32682)
    known = [word for r in truth.values() for of in r["objects"].values() for _, word, _ in of]
    assert 0.99 < np.count_nonzero(known) / len(known) < 1
    table = Reader("valid", word2idx=str(REAL / "word2idx.json.gz"),
                   object_vocab=str(REAL / "eval_object_vocab.json")).source.is_object  # fmt: skip
    assert table[0] and table.sum() == 1138 - 83 + 1
