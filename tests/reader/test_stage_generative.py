# SPDX-License-Identifier: Apache-2.0
"""STAGE's reader with a vocabulary of answers: targets, candidates, words to copy."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from reader.common.errors import DataError
from reader.common.tvqa_plus_answers import SPECIAL
from reader.stage import Reader
from tests.reader.clips import write_video
from tests.reader.stage_world import D, V, box, features, make_package, question, rows, write_h5

WORDS = [*SPECIAL, ".", "the", "ball", "?", "who"]  # ids 4 to 8; others count from 9
ASKED = [8, 9, 5, 6, 7]  # who holds the ball ?
# ada : hi . ben : a red ball !, and ben : a red ball ! ada : yes .
PIECES = [[10, 11, 12, 4, 13, 11, 14, 15, 6, 16], [13, 11, 14, 15, 6, 16, 10, 11, 17, 4]]
OOV = ["holds", "ada", ":", "hi", "ben", "a", "red", "!", "yes"]


@pytest.fixture
def world(tmp_path):
    """A function that makes a reader of a split."""
    options, annotations = make_package(tmp_path)
    path = tmp_path / "answer_vocab.json"
    path.write_text(json.dumps(WORDS))

    def reader(split, **changes):
        of = annotations["test" if split == "infer" else split]
        return Reader(split, **{"annotations": of, "answer_vocab": str(path), **options, **changes})

    reader.folder = tmp_path
    return reader


def own(world, *entries):
    """Path of a file of questions."""
    path = world.folder / f"own{len(list(world.folder.glob('own*')))}.json"
    path.write_text(json.dumps(entries))
    return str(path)


def batch_of(reader, *indices):
    return reader.collate([reader[i] for i in indices or range(len(reader))])


def differences(a, b):
    """Keys of two batches whose values are not equal."""
    assert a.keys() == b.keys()
    return {
        key
        for key, value in a.items()
        if not (
            np.array_equal(value, b[key])
            if isinstance(value, np.ndarray)
            else repr(value) == repr(b[key])
        )
    }


def test_a_batch_reads_the_question_alone(world):
    reader = world("valid")
    batch, chosen = batch_of(reader), batch_of(world("valid", answer_vocab=None))
    assert batch["qas_bert"].shape == (2, 1, 5, D) and batch["qas_mask"].shape == (2, 1, 5)
    assert np.array_equal(batch["qas_bert"][0, 0], rows("4_q", 5, D)) and batch["qas_mask"].all()
    assert batch["qas"].tolist() == [[[3, 4, 5, 6, 7]]] * 2
    assert batch["object_mask"].tolist() == [[[False, False, False, True, False]]] * 2
    assert batch["target"].tolist() == [0, 0] and batch["target"].dtype == np.int64
    assert not {"dec_in", "copy_ids", "oov", "vocabulary"} & chosen.keys()
    equal = {"id", "sub_bert", "sub_mask", "sub_index", "vid", "vid_mask", "ts_label_mask",
             "ts_label_st", "ts_label_ed", "meta"}  # fmt: skip
    assert equal < chosen.keys()
    assert not differences({k: batch[k] for k in equal}, {k: chosen[k] for k in equal})
    assert reader.references() == world("valid", answer_vocab=None).references()


def test_targets_and_candidates(world):
    reader = world("valid")
    batch = batch_of(reader)
    # ada is said in the ball's clip only
    assert batch["dec_tgt"].tolist() == [[10, 4, 3], [1, 4, 3]]
    assert batch["dec_in"].tolist() == [[2, 10, 4], [2, 1, 4]]
    assert batch["dec_mask"].tolist() == [[1, 1, 1]] * 2
    candidates = [[13, 4, 3, 0, 0], [10, 4, 3, 0, 0], [5, 6, 4, 3, 0], [1, 1, 1, 4, 3],
                  [13, 4, 3, 0, 0]]  # fmt: skip
    assert batch["cand_tgt"][0].tolist() == candidates
    assert batch["cand_in"][0, 2].tolist() == [2, 5, 6, 4, 0]
    assert batch["cand_mask"].sum(2).tolist() == [[3, 3, 4, 5, 3]] * 2
    for name in ("dec", "cand"):
        assert batch[f"{name}_in"].dtype == batch[f"{name}_tgt"].dtype == np.int64
        assert batch[f"{name}_mask"].dtype == np.float32
    assert batch["vocabulary"] == WORDS and batch["vocabulary"] is reader.answers.vocabulary
    short = batch_of(world("valid", max_answer_len=3))["cand_tgt"][0]
    assert short.tolist() == [[13, 4, 3], [10, 4, 3], [5, 6, 3], [1, 1, 3], [13, 4, 3]]


def test_words_to_copy(world):
    batch = batch_of(world("valid"))
    assert batch["oov"] == [OOV, ["holds", "ben", ":", "here", "we", "are"]]
    assert batch["copy_size"] == 9 + 9 and type(batch["copy_size"]) is int
    ids = batch["copy_ids"]
    assert ids.shape == (2, 5 + 50 * 10) and ids.dtype == np.int64
    assert ids[:, :5].tolist() == [ASKED] * 2
    frames = ids[:, 5:].reshape(2, 50, 10)  # one piece in the first frame, one in two more
    assert frames[0, :3].tolist() == [PIECES[0], PIECES[1], PIECES[1]] and not frames[0, 3:].any()
    assert (frames[1] == [10, 11, 12, 13, 14, 4, 0, 0, 0, 0]).all()
    # the same places as the words that the network encodes
    said = batch["sub_mask"][[[0], [1]], batch["sub_index"]] * batch["ts_label_mask"][..., None]
    seen = np.concatenate([batch["qas_mask"][:, 0], said.reshape(2, -1)], 1)
    assert np.array_equal(ids > 0, seen > 0)
    alone = batch_of(world("valid"), 0)
    assert np.array_equal(alone["copy_ids"], ids[:1, : 5 + 3 * 10]) and alone["oov"] == [OOV]


def test_limits_clip_what_can_be_copied(world):
    reader = world("valid", max_q_l=3, max_qa_l=1, max_sub_l=4, max_vid_l=1)
    batch = batch_of(reader)
    assert batch["qas_bert"].shape == (2, 1, 3, D) and batch["qas"].shape == (2, 1, 3)
    assert batch["object_mask"].shape == (2, 1, 3)
    assert batch["copy_ids"].tolist() == [[8, 9, 5, 10, 11, 12, 4], [8, 9, 5, 10, 11, 12, 13]]
    assert batch["oov"] == [["holds", "ada", ":", "hi"], ["holds", "ben", ":", "here", "we"]]
    assert batch["copy_size"] == 9 + 5
    assert batch["cand_tgt"][0, 0].tolist() == [1, 4, 3, 0, 0]  # ben is out of reach


def test_without_copying(world):
    batch = batch_of(world("valid", use_copy=False))
    assert not {"copy_ids", "copy_size", "oov"} & batch.keys()
    assert batch["dec_tgt"].tolist() == [[1, 4, 3]] * 2 and batch["vocabulary"] == WORDS


def test_words_that_the_vocabulary_has_are_not_numbered_again(world):
    path = world.folder / "all.json"
    path.write_text(json.dumps([*WORDS, *OOV]))
    batch = batch_of(world("valid", answer_vocab=str(path)), 0)
    assert batch["oov"] == [[]] and batch["copy_size"] == 9 + 9 + 1
    assert batch["copy_ids"][0, :15].tolist() == ASKED + PIECES[0]


def test_without_subtitles_the_question_can_be_copied(world):
    vision = world("valid", input_streams=["vfeat"], sub_bert=None, subtitles=None)
    batch = batch_of(vision)
    assert batch["copy_ids"].tolist() == [ASKED] * 2 and batch["oov"] == [["holds"]] * 2
    assert batch["dec_tgt"].tolist() == [[1, 4, 3]] * 2
    hidden = batch_of(world("valid", blind="subtitles"))
    assert hidden["copy_ids"].shape == (2, 5 + 50 * 10) and not hidden["copy_ids"][:, 5:].any()
    assert hidden["oov"] == [["holds"]] * 2


def test_training_pairs_are_of_question_words(world):
    reader = world("train")
    batch = batch_of(reader)
    assert not {"vocabulary", "meta", "qas"} & batch.keys()
    assert batch["dec_tgt"].tolist() == [[10, 4, 3], [13, 4, 3], [1, 4, 3]]
    for row, (target, right) in enumerate(zip(batch["dec_tgt"], batch["mc_target"], strict=True)):
        assert batch["cand_tgt"][row, right, :3].tolist() == target.tolist()
    positive, negative = batch["pos_container"], batch["neg_container"]
    assert positive.tolist() == [[0, 0, 0, 3, 0]] * 2 + [[1, 0, 0, 3, 0]] * 2
    assert np.array_equal(positive[:, :4], negative[:, :4])
    ada = own(world, question(7, bbox={"3": [box("Ada", 10, 10, 20, 20)]}))
    data = {"annotations": ada, "qa_bert": str(world.folder / "qa.h5")}
    write_h5(data["qa_bert"], features([question(7)])["qa_bert"])
    assert len(batch_of(world("train", **data, answer_vocab=None))["pos_container"]) == 2
    assert batch_of(world("train", **data))["pos_container"].shape == (0, 5)
    hard = batch_of(world("train", hard_negative_start=0))
    assert hard["att_groups"].tolist() == [[0, 0, 0, 3], [1, 0, 0, 3]]
    assert len(batch_of(world("train", hard_negative_start=0, max_q_l=3))["att_groups"]) == 0


def test_answers_reach_targets_only(world):
    asked = features([question(7)])["qa_bert"]
    write_h5(world.folder / "qa.h5", {"7_q": asked["7_q"]})  # no features of answers
    texts = {f"a{k}": "Yes ." for k in range(5)}
    for split in ("train", "valid"):
        files = [own(world, question(7)), own(world, question(7, answer=3, **texts))]
        one, other = (
            batch_of(world(split, annotations=path, qa_bert=str(world.folder / "qa.h5")))
            for path in files
        )
        expected = {"dec_in", "dec_tgt", "mc_target", "cand_in", "cand_tgt", "cand_mask"}
        assert differences(one, other) == expected


def test_unknown_answers_have_no_targets(world):
    for split in ("test", "infer"):
        batch = batch_of(world(split))
        assert not [key for key in batch if key.startswith("dec_")]
        assert batch["cand_tgt"].shape == (1, 5, 5) and batch["target"].tolist() == [0]
    mixed = own(world, question(4), question(5, "hall", ts=None, answer_idx=None))
    batch = batch_of(world("valid", annotations=mixed))
    assert "dec_in" not in batch and "cand_in" in batch
    assert "dec_in" in batch_of(world("valid", annotations=mixed), 0)
    with pytest.raises(DataError, match="question 5: expected an answer_idx for training"):
        batch_of(world("train", annotations=mixed), 1)


def test_copies_of_a_reader_give_equal_batches(world):
    for split in ("train", "valid"):
        reader = world(split)
        expected = batch_of(reader)  # the vocabulary is read before the copy and after it
        for copy in (pickle.loads(pickle.dumps(r)) for r in (reader, world(split))):
            assert not differences(batch_of(copy), expected)


def test_the_vocabulary_is_read_early_and_checked(world):
    missing = world("valid", answer_vocab="gone.json")
    with pytest.raises(DataError, match=r"gone\.json, found nothing; .*prepare\.py vocab --qa"):
        len(missing)
    path = world.folder / "bad.json"
    for content, message in (
        ("{}", "expected a JSON list, found dict"),
        ("[", "expected JSON"),
        ("[]", r"expected a list that begins <pad>, <unk>, <bos>, <eos>, found \[\]"),
        (json.dumps(["the", *SPECIAL]), r"found \['the', '<pad>'"),
        (json.dumps([*SPECIAL, "a", 7]), "expected words, found '7' at place 5"),
        (json.dumps([*SPECIAL, "a", ["b\nc"]]), "expected words"),
        (json.dumps([*SPECIAL, "a\n", "a\n"]), r"expected every word once, found 'a\\n' twice"),
        (json.dumps([*SPECIAL, "<eos>"]), "found '<eos>' twice"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=message) as caught:
            len(world("valid", answer_vocab=str(path)))
        assert "\n" not in str(caught.value) and "bad.json" in str(caught.value)


@pytest.mark.parametrize("option", ["max_q_l", "max_answer_len"])
def test_bad_options(option):
    with pytest.raises(ValueError, match=f"{option}: expected 1 or more"):
        Reader("valid", **{option: 0})


class Text:
    """Length of every word."""

    def words(self, sentences):
        assert all(sentences)
        return [np.full((len(s), D), [[len(w)] for w in s], np.float32) for s in sentences]


class Regions:
    """Nothing but the right shape."""

    def features(self, frame, boxes):
        return np.ones((len(boxes), V), np.float32)


@pytest.fixture
def raw(tmp_path):
    """Options of ``from_raw`` without choices."""
    said = "1\n00:00:00,500 --> 00:00:01,500\nAda: it's red.\n"
    (tmp_path / "said.srt").write_text(said)
    entry = {"counts": [1] * 15, "boxes": [[[1, 2, 30, 40]]] * 15}
    (tmp_path / "regions.json").write_text(json.dumps(entry))
    return {
        "video": str(write_video(tmp_path / "mine.mp4", 125)),
        "query": "Who holds the Ball?",
        "extractors": {"text": Text(), "regions": Regions()},
        "subtitles": str(tmp_path / "said.srt"),
        "regions": str(tmp_path / "regions.json"),
    }


def test_raw_videos_need_no_choices(raw, tmp_path):
    path = Path(tmp_path / "answer_vocab.json")
    path.write_text(json.dumps(WORDS))
    reader = Reader("infer", answer_vocab=str(path), embedding_size=D, vfeat_size=V)
    (item,) = reader.from_raw(**raw)
    batch = reader.collate([item])
    assert batch["qas_bert"].shape == (1, 1, 5, D) and batch["qas"].tolist() == [[[1, 2, 3, 4, 5]]]
    words = batch["meta"][0]["reference"]["words"]
    assert list(words.items()) == list(enumerate(["who", "holds", "the", "ball", "?"], 1))
    assert batch["object_mask"].tolist() == [[[False, True, False, True, False]]]
    assert batch["meta"][0]["reference"]["choices"] == [] and batch["target"].tolist() == [0]
    assert batch["oov"] == [["holds", "ada", ":", "it", "'s", "red"]]
    assert batch["copy_ids"].tolist() == [ASKED + [10, 11, 12, 13, 14, 4] * 3]
    assert not [key for key in batch if key.startswith(("dec_", "cand_"))]
    (item,) = reader.from_raw(**raw, choices=["It's Ada.", "The ball", "Nobody"])
    ranked = reader.collate([item])
    assert ranked["cand_tgt"].tolist() == [[[12, 13, 10, 4, 3], [5, 6, 3, 0, 0], [1, 3, 0, 0, 0]]]
    assert ranked["meta"][0]["reference"]["choices"] == ["It's Ada.", "The ball", "Nobody"]
    assert np.array_equal(ranked["qas_bert"], batch["qas_bert"]) and "dec_in" not in ranked
    with pytest.raises(DataError, match="--choices: expected answers, none of them empty"):
        list(reader.from_raw(**raw, choices=["Ada", " "]))
