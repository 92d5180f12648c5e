# SPDX-License-Identifier: Apache-2.0
"""LLaMA-VQA's reader on made-up questions: prompts, tokens, frames, batches, errors."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from engine import build, config
from reader.common import llama_tokenizer
from reader.common.errors import DataError
from reader.common.llama_prompts import tidy_question
from reader.common.llama_tokenizer import Tokenizer
from reader.llama_vqa import Reader
from tests.engine.test_formats import tensor, torch_pickle, torch_zip
from tests.reader.clips import number, write_video
from tests.reader.llama_world import (
    DIM,
    DRAMAQA,
    NEXTQA,
    STAR,
    TOKENIZER,
    TVQA,
    VLEP,
    make_world,
    values,
    write_lines,
    write_pth,
    write_store,
)

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "annotations"
SETS = ["nextqa", "star", "dramaqa", "vlep", "tvqa"]
PIECES = Tokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def read(world, tmp_path):
    """A function that makes a reader; ``rows`` are its annotations."""

    def make(dataset="nextqa", split="train", rows=None, **changes):
        if rows is not None:
            path = tmp_path / "rows"
            if dataset == "nextqa":
                path.write_text(rows, encoding="utf-8")
            elif dataset in ("star", "dramaqa"):
                path.write_text(json.dumps(rows), encoding="utf-8")
            else:
                write_lines(path, rows)
            changes["annotations"] = str(path)
        return Reader(split, **world[dataset] | changes)

    return make


def batch_of(reader, *indices):
    len(reader)
    return reader.collate([reader[i] for i in indices or range(len(reader))])


def shown(ids):
    """Text of a row, without what stands for nothing and for frames."""
    return PIECES.decode([i for i in ids.tolist() if i])


# ---- configurations

PUBLISHED = {  # batch_size, GPUs, accum_iter, blr, weight_decay, bias, max_seq_len, sub, vaq
    "nextqa": (8, 4, 2, 9e-2, 0.14, 3.5, 128, False, True),
    "star": (8, 4, 1, 9e-2, 0.16, 3.0, 128, False, True),
    "dramaqa": (2, 4, 8, 9e-2, 0.10, 3.0, 384, False, True),
    "vlep": (4, 4, 8, 6e-2, 0.20, 3.0, 256, True, False),
    "tvqa": (1, 8, 4, 7e-2, 0.02, 3.0, 650, True, True),
}


@pytest.mark.parametrize("dataset", SETS)
def test_published_configurations(dataset):
    cfg = config.load(ROOT / "configs" / f"llama_vqa_{dataset}.yaml")
    size, gpus, accumulate, rate, decay, bias, length, sub, vaq = PUBLISHED[dataset]
    train, model = cfg["TRAIN"], cfg["MODEL"]
    assert (train["batch_size"], train["accumulate"]) == (size * gpus, accumulate)
    assert train["learning_rate"] == pytest.approx(rate * size * gpus * accumulate / 256)
    assert (train["weight_decay"], model["bias"], model["tau"]) == (decay, bias, 100)
    assert (train["epoch"], train["warmup"], train["beta1"], train["beta2"]) == (5, 2, 0.9, 0.95)
    for split in ("train", "valid", "test", "infer"):
        reader = build.reader(cfg, split)
        assert (reader.dataset, reader.max_seq_len, reader.sub) == (dataset, length, sub)
        assert (reader.vaq, reader.qav, reader.max_feats) == (vaq, True, 10)
        assert reader.vaq == model["vaq"] and reader.annotations.startswith(
            f"./data/dataset/{dataset}/"
        )
    assert cfg["METRIC"]["dataset"] == dataset


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"split": "val"}, "split: expected one of train"),
        ({"dataset": "msvd"}, "dataset: expected one of nextqa"),
        ({"on_overflow": "cut"}, "on_overflow"),
        ({"blind": "answer"}, "blind"),
        ({"max_feats": 0}, "above 0"),
        ({"fps": 0.0}, "above 0"),
        ({"sub": True}, "sub: expected with vlep or tvqa, not nextqa"),
        ({"dataset": "text", "blind": "video"}, "not with texts"),
    ],
)
def test_options_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        Reader(**{"split": "train"} | changes)


# ---- prompts


def test_questions_are_tidied():
    assert tidy_question("why did the MAN laugh") == "Why did the man laugh?"
    assert tidy_question(" Where is It ?  ") == "where is it ?"
    with pytest.raises(ValueError, match="expected a question"):
        tidy_question("  ")


def test_prompts_of_every_data_set(read):
    def texts(dataset, **changes):
        reader = read(dataset, **changes)
        return [reader.prompt(question) for question in reader.questions]

    first, second, _ = texts("nextqa")
    assert first.question == "Question: Why did the man laugh?\n"
    assert first.choices == ("Choices: \n(A) he is late\n(B) it rains\n(C) the dog fell\n"
                             "(D) to eat\n(E) no reason\n")  # fmt: skip
    assert first.dialogue is None and second.question == "Question: where is the cat ?\n"
    assert "(B) there, or not\n(C) None\n" in second.choices
    assert texts("star")[0].choices == (
        "Choices: \n(A) The cake.\n(B) The pie.\n(C) The pie.\n(D) The nut.\n"
    )
    assert texts("dramaqa")[1].question == "Question: Who?\n"
    event = "Question: Which event is more likely to happen right after?\n"
    assert [p.question for p in texts("vlep")] == [event] * 2
    assert [p.dialogue for p in texts("vlep")] == ["Dialogue: (Ross:)Ohno! Hi\n", "Dialogue: \n"]
    assert [p.dialogue for p in texts("vlep", sub=False)] == ["", ""]
    assert [p.dialogue for p in texts("tvqa")] == [
        "Dialogue:   - Three? - Four!\n",
        "Dialogue:  (Ann:)One, two.  - Three? - Four! Five\n",
        "",
    ]
    assert [p.dialogue for p in texts("tvqa", sub=False)] == [""] * 3


def test_references(read):
    assert read("star").references() == {
        "Interaction_T1_4": {"question": "Which object was eaten?", "answer": 1, "video": "s1",
                             "choices": ["The cake.", "The pie.", "The pie.", "The nut."],
                             "type": "Interaction", "index": 0},
        "Feasibility_T1_5": {"question": "What now?", "answer": 1, "video": "s2",
                             "choices": [*"abcd"], "type": "Feasibility", "index": 1},
    }  # fmt: skip
    assert [*read("nextqa").references()] == ["11_0", "12_1", "11_7"]
    assert [q["type"] for q in read("nextqa").references().values()] == ["CW", "TN", "DO"]
    names = {name: [*read(name).references()] for name in SETS[2:]}
    assert names == {"dramaqa": ["31", "32"], "vlep": ["5", "6"], "tvqa": ["3", "4", "5"]}
    row = {key: value for key, value in DRAMAQA[1].items() if key not in ("qid", "correct_idx")}
    ((name, reference),) = read("dramaqa", "test", [row]).references().items()
    assert name == "0" and "answer" not in reference


# ---- batches


@pytest.mark.parametrize("dataset", SETS)
def test_training_batches(read, dataset):
    reader = read(dataset)
    batch, count = batch_of(reader), len(reader.questions)
    length = batch["vqa_ids"].shape[-1]
    assert batch["id"] == [*reader.references()] and length < reader.max_seq_len
    assert batch["video"].shape == (count, 4, DIM) and batch["video"].dtype == np.float32
    assert batch["answer"].tolist() == [question.answer for question in reader.questions]
    starts = {"vqa": batch["video_start"], "vaq": batch["video_start"], "qav": batch["qav_start"]}
    for objective, places in starts.items():
        ids, labels = batch[f"{objective}_ids"], batch[f"{objective}_labels"]
        assert ids.shape == labels.shape == (count, 1, length) and places.shape == (count,)
        assert {x.dtype for x in (ids, labels, places)} == {np.dtype(np.int64)}
        for row, start in zip(ids[:, 0], places, strict=True):
            assert not row[start : start + 4].any() and row[:start].all()  # where frames will be
    assert len(set(batch["video_start"])) == 1
    longest = max((batch[f"{o}_ids"] > 0).any(1).sum(1).max() for o in starts)
    assert longest + 4 <= length  # the row's own zeros are its frames
    for k, question in enumerate(reader.questions):
        letter = "ABCDE"[question.answer]
        labels = batch["vqa_labels"][k, 0]
        assert shown(labels) == f"({letter})" and (labels > 0).sum() == 4
        assert shown(batch["vaq_labels"][k, 0]) == question.text  # behind "Question:"
        qav, start = batch["qav_labels"][k, 0], batch["qav_start"][k]
        assert qav[start : start + 4].tolist() == [0, 1, 2, 3] and (qav >= 0).sum() == 4
        assert f"Answer: The answer is ({letter})" in shown(batch["vqa_ids"][k, 0])
        vaq, qav = (shown(batch[f"{o}_ids"][k, 0]) for o in ("vaq", "qav"))
        assert vaq.endswith(f"Question: {question.text}") and qav.endswith("\nVideo:")


def test_evaluation_has_a_row_for_every_option(read):
    batch = batch_of(read("star", "valid"))
    assert batch.keys() == {"id", "video", "answer", "video_start", "vqa_ids", "vqa_labels"}
    assert batch["vqa_ids"].shape[:2] == (2, 4) and batch["answer"].tolist() == [1, 1]
    for rows in batch["vqa_labels"]:
        assert [shown(row) for row in rows] == ["(A)", "(B)", "(C)", "(D)"]
    differ = (batch["vqa_ids"][0] != batch["vqa_ids"][0, :1]).any(0)
    assert differ.sum() == 1  # the letter
    rows = [{key: value for key, value in row.items() if key != "answer_idx"} for row in TVQA]
    assert batch_of(read("tvqa", "infer", rows))["answer"].tolist() == [-1] * 3
    single = batch_of(read("star", "valid"), 1)
    assert single["vqa_ids"].shape[-1] < batch["vqa_ids"].shape[-1]
    again = batch_of(read("star", "valid"), 0, 1)
    assert all(np.array_equal(again[key], batch[key]) for key in batch)


def test_objectives_are_optional_and_only_for_training(read):
    assert "vaq_ids" not in batch_of(read("vlep", vaq=False))
    batch = batch_of(read("vlep", qav=False))
    assert "vaq_ids" in batch and not {"qav_ids", "qav_start"} & batch.keys()


def test_tokens_are_made_once(read, monkeypatch):
    reader, made = read("nextqa"), []
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda *args: made.append(1) or encode(*args))
    first = batch_of(reader)
    assert made
    made.clear()
    again = batch_of(reader)
    assert not made and all(np.array_equal(first[key], again[key]) for key in first)


def test_dialogue_loses_its_tail(read):
    whole = read("tvqa", "valid")
    needed = batch_of(whole, 1)["vqa_ids"].shape[-1]
    short = read("tvqa", "valid", max_seq_len=needed - 9)
    row, cut = batch_of(whole, 1), batch_of(short, 1)
    assert cut["vqa_ids"].shape[-1] == needed - 9
    before, behind = shown(row["vqa_ids"][0, 0]), shown(cut["vqa_ids"][0, 0])
    said = before[before.index("Dialogue:") : before.index("Question:")]
    left = behind[behind.index("Dialogue:") : behind.index("Question:")]
    assert said.startswith(left.rstrip()) and len(left) < len(said)
    assert before.endswith(behind[behind.index("Question:") :])
    assert [shown(r) for r in cut["vqa_labels"][0]] == ["(A)", "(B)", "(C)", "(D)", "(E)"]
    assert batch_of(read("tvqa", max_seq_len=needed - 9), 1)["qav_labels"].max() == 3


def test_rows_without_room(read, log):
    with pytest.raises(DataError, match=r"question 11_0: expected 80 tokens or fewer, found 93"):
        len(read("nextqa", max_seq_len=80))
    reader = read("nextqa", max_seq_len=80, on_overflow="skip")
    assert len(reader) == 1 and reader[0]["id"] == "11_7" and len(reader.references()) == 3
    assert "2 of 3 rows are left out" in log.text
    assert batch_of(reader)["vqa_ids"].shape[-1] == 70
    with pytest.raises(DataError, match="expected rows of 20 tokens, found none"):
        len(read("nextqa", max_seq_len=20, on_overflow="skip"))
    with pytest.raises(DataError, match=r"question 3: expected 99.*found 1\d\d tokens without its"):
        len(read("tvqa", max_seq_len=99))


def test_words_that_mark_places_in_options_are_told_of(read, log):
    rows = NEXTQA.replace("it rains", "-Question").replace("to eat", "-Answer")
    batch = batch_of(read("nextqa", rows=rows))
    assert "such as 11_0" in log.text and "1 questions" in log.text
    assert (batch["vaq_labels"][0] > 0).sum() > (batch["vaq_labels"][1] > 0).sum()
    log.clear()
    len(read("nextqa"))
    assert "Question" not in log.text


# ---- frames


def frames(batch):
    """Which frame each is, by its first number; 0 for none."""
    return batch["video"][..., 0].astype(int).tolist()


WANTED = {
    "nextqa": [[100, 101, 102, 103], [200, 202, 204, 206], [100, 101, 102, 103]],
    "star": [[100, 101, 102, 0], [0, 0, 0, 0]],  # seconds 0.5 to 2.5: 0 to 2; behind the end
    "dramaqa": [[100, 101, 0, 301], [400, 401, 0, 0]],  # of 2 + 1 + a missing + 3: 0, 1, 3, 5
    "vlep": [[103, 104, 105, 106], [200, 201, 0, 0]],
    "tvqa": [[106, 107, 109, 110], [100, 107, 115, 122], [0, 0, 0, 0]],
}


@pytest.mark.parametrize("dataset", SETS)
def test_frames(read, dataset, tmp_path):
    rows = None
    if dataset == "dramaqa":  # shot 9 is missing in the scene alone
        rows = [DRAMAQA[0], DRAMAQA[1] | {"vid": "Show01_001_0006", "qid": 33}]
    features = values(dataset)
    if dataset == "dramaqa":
        features["Show01_001_0006"] = features.pop("Show01_001_0009")
    store = write_store(tmp_path / "store", features)
    batch = batch_of(read(dataset, rows=rows, features=store))
    assert frames(batch) == WANTED[dataset]
    for kind in ("Half", "Float"):
        path = write_pth(tmp_path / "clipvitl14.pth", features, kind)
        again = batch_of(read(dataset, rows=rows, features=path))
        assert np.array_equal(again["video"], batch["video"])
    known = batch["video"][batch["video"][..., 0] > 0]
    assert len(known) == 0 or np.ptp(known - known[:, :1] - np.arange(DIM) / 4) == 0


def test_bfloat16_features_and_the_identity_of_stores(read, tmp_path):
    path = write_pth(tmp_path / "x.pth", {"11": np.ones((2, DIM)), "12": np.full((2, DIM), 1.5)},
                     "BFloat16")  # fmt: skip
    batch = batch_of(read(features=path))
    assert batch["video"][:2, :, 0].tolist() == [[1, 1, 0, 0], [1.5, 1.5, 0, 0]]
    assert read().feature_identity == {"clip": {"name": "made up"}}
    assert read(features=path).feature_identity == {"clip": None}
    assert read(features=None).feature_identity is None


def test_missing_features(read, tmp_path, log):
    few = write_store(tmp_path / "few", {"12": values("nextqa")["12"]})
    assert frames(batch_of(read(features=few)))[0] == [0] * 4
    assert "1 of 2 videos have no features and become zeros, such as 11" in log.text
    none = write_store(tmp_path / "none", {"99": np.ones((1, DIM))})
    with pytest.raises(DataError, match="expected features of 11 and others"):
        len(read(features=none))
    with pytest.raises(DataError, match=r"features: expected clipvitl14\.pth .* DATASET\.features"):
        len(read(features=None))
    with pytest.raises(DataError, match=r"768 numbers \(DATASET.visual_dim\), found 4"):
        len(read(visual_dim=768))
    (tmp_path / "y.pth").write_bytes(b"\x00" * 99)
    with pytest.raises(DataError, match="PyTorch file"):
        len(read(features=str(tmp_path / "y.pth")))
    path = write_pth(tmp_path / "z.pth", {"11": np.full((2, DIM), np.nan), "12": np.ones((1, DIM))})
    with pytest.raises(DataError, match=r"z\.pth: 11: expected finite numbers"):
        batch_of(read(features=path))


def test_other_pth_files(read, tmp_path):
    path = tmp_path / "x.pth"
    write_pth(path, {"11": np.ones((2, DIM)), "12": np.ones((2, DIM + 1))})
    with pytest.raises(DataError, match=r"\{video: \(frames, dim\)\}.*found tensors of"):
        len(read(features=str(path)))
    whole = {"11": tensor("0", 8, (2, DIM, 1), (DIM, 1, 1))}
    for pickled, found in ((torch_pickle(**whole), "tensors of"), (b"\x80\x02K\x01.", "a int"),
                           (torch_pickle(x=b"K\x01"), "no tensor for x")):  # fmt: skip
        path.write_bytes(torch_zip(pickled, {"0": bytes(32)}))
        with pytest.raises(DataError, match=found):
            len(read(features=str(path)))


def test_stores_with_other_names(read, tmp_path):
    from reader.common.features import FeatureWriter

    for k, names in enumerate((["11"], ["11/000001", "11/000002"], ["11/000000", "11/000002"])):
        with FeatureWriter(tmp_path / str(k), DIM) as writer:
            writer.append(names, np.ones((len(names), DIM)))
            writer.finish()
        with pytest.raises(DataError, match="expected names <video>/000000"):
            len(read(features=str(tmp_path / str(k))))


# ---- blind


def test_blind(read):
    seen = batch_of(read("tvqa"))
    reader = read("tvqa", blind="video", features=None)
    batch = batch_of(reader)
    assert not batch["video"].any() and batch["video"].shape == seen["video"].shape
    assert np.array_equal(batch["vqa_ids"], seen["vqa_ids"]) and reader.feature_identity is None
    batch = batch_of(read("tvqa", blind="text", subtitles=None))
    assert np.array_equal(batch["video"], seen["video"])
    row = shown(batch["vqa_ids"][0, 0])
    assert "Question: ?\n" in row and "Dialogue" not in row and "(B) Option 1" in row


# ---- damaged data

BAD = [
    ("nextqa", NEXTQA.replace("why did the MAN laugh", " "), ":2: expected a question"),
    ("nextqa", NEXTQA.replace("laugh,2", "laugh,5"), ":2: expected an answer of 0 to 4, found 5"),
    ("nextqa", NEXTQA.replace("laugh,2", "laugh,C"), ":2: expected the number of an option"),
    ("nextqa", NEXTQA.replace("laugh,2", "laugh,"), ":2: expected an answer for training"),
    ("nextqa", NEXTQA.replace("type", "kind"), "found no type"),
    ("nextqa", NEXTQA.replace(",7,DO", ",0,DO"), ":4: expected every id once, found 11_0 again"),
    ("nextqa", NEXTQA.split("\n")[0] + "\n", "expected questions, found none"),
    ("star", [STAR[0] | {"answer": "The egg."}], "entry 0: expected one of the choices as answer"),
    ("star", [STAR[0], STAR[1] | {"choices": STAR[1]["choices"][:3]}],
     "entry 1: expected 4 options as before, found 3"),
    ("star", [STAR[0] | {"start": None}], "expected seconds as start"),
    ("star", [STAR[0] | {"choices": [{"choice": "a"}]}], "expected a whole number as choice_id"),
    ("dramaqa", [DRAMAQA[0] | {"shot_contained": []}], "first and last as shot_contained"),
    ("dramaqa", [DRAMAQA[0] | {"shot_contained": [5, 123456]}], "first and last"),
    ("dramaqa", [DRAMAQA[0] | {"answers": "abcde"}], "expected a list as answers"),
    ("dramaqa", [DRAMAQA[0] | {"answers": ["a"]}], "expected 2 to 5 options, found 1"),
    ("dramaqa", [DRAMAQA[0] | {"que": 3}], "expected text as que, found 3"),
    ("vlep", [VLEP[0] | {"ts": [1.0]}], ":1: expected start and end as ts"),
    ("vlep", [VLEP[0] | {"ts": [1.0, float("inf")]}], ":1: expected seconds as ts"),
    ("vlep", [VLEP[0] | {"vid_name": ""}], "expected a name as vid_name"),
    ("tvqa", [TVQA[0], TVQA[1] | {"ts": "soon"}], ':2: expected "start-end" in seconds as ts'),
    ("tvqa", [TVQA[0] | {"a3": None}], ":1: expected text as a3, found None"),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "rows", "message"), BAD)
def test_damaged_rows(read, dataset, rows, message):
    with pytest.raises(DataError) as caught:
        len(read(dataset, rows=rows))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files(read, tmp_path):
    for name in ("annotations", "tokenizer", "features"):
        with pytest.raises(DataError, match=rf"{name}: expected .*DATASET\.{name}"):
            len(read(**{name: None}))
    for name in ("vlep", "tvqa"):
        with pytest.raises(DataError, match=r"subtitles: expected .*DATASET\.subtitles"):
            len(read(name, subtitles=None))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected subtitles of t1 and others, found none"):
        len(read("tvqa", subtitles=str(tmp_path / "empty")))
    for name in ("annotations", "features", "tokenizer", "subtitles"):
        with pytest.raises(DataError) as caught:
            len(read("vlep", **{name: "nowhere"}))
        assert "at nowhere, found nothing; data/dataset/vlep/README.md" in str(caught.value)


def test_subtitles(read, tmp_path, log):
    len(read("tvqa"))
    assert "1 of 2 clips have no subtitles, such as t2" in log.text
    path = write_lines(tmp_path / "s.jsonl", [{"vid_name": "v1", "sub": [{"text": "x"}]}])
    with pytest.raises(DataError, match=r"s\.jsonl:1: expected sub"):
        len(read("vlep", subtitles=path))
    (tmp_path / "t1.srt").write_bytes("1\r\n0:0:2,0 --> 0:0:3,0\r\ncaf\xe9\r\n".encode("latin-1"))
    reader = read("tvqa", subtitles=str(tmp_path))
    assert reader.prompt(reader.questions[0]).dialogue == "Dialogue:  caf\xe9\n"


def test_wrong_tokenizers(read, tmp_path, monkeypatch):
    import sentencepiece

    with pytest.raises(DataError, match=r"nowhere\.model.*comes with the weights"):
        Tokenizer("nowhere.model")
    path = tmp_path / "x.model"
    for content, found in ((b"", "an empty file"), (b"text\n" * 9, "another kind of file")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"SentencePiece.*found {found}"):
            len(read(tokenizer=str(path)))
    (tmp_path / "x.txt").write_text("the cat sat on the mat\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "x.txt"), model_prefix=str(tmp_path / "cat"), vocab_size=20,
        model_type="bpe", minloglevel=2,
    )  # fmt: skip
    with pytest.raises(DataError, match="found 20 pieces without 'Video'"):
        len(read(tokenizer=str(tmp_path / "cat.model")))
    monkeypatch.setattr(llama_tokenizer, "PUBLISHED", PIECES.size)
    with pytest.raises(DataError, match="one of 640 pieces that has 'Video' at 323, not 15167"):
        len(read())


# ---- raw video


class Extractor:
    """Tells of each picture the number that it shows."""

    dim, fps, identity = DIM, 1.0, {"name": "clip_vit"}

    def pictures(self, pictures):
        shown = [number(picture[..., ::-1]) for picture in pictures]
        assert all(picture.dtype == np.uint8 and picture.ndim == 3 for picture in pictures)
        return np.tile(np.array(shown, np.float32), (DIM, 1)).T


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("raw") / "mine.mp4", 200))  # 8 s


def test_raw_video(read, video, tmp_path):
    reader = read("nextqa", "infer", annotations=None, features=None)
    assert reader.raw_inputs == ("query", "choices")
    (item,) = reader.from_raw(video, "who is it", {"clip": Extractor()}, choices=["a", "b", "c"])
    batch = reader.collate([item])
    assert batch["id"] == ["mine#who is it"] and batch["answer"].tolist() == [-1]
    assert batch["reference"] == [
        {"question": "Who is it?", "choices": ["a", "b", "c"], "video": "mine"}
    ]
    assert frames(batch) == [[12, 62, 112, 162]]  # of seconds 0 to 7: 0, 2, 4, 6, and a half
    pictures = reader.seen("mine")
    assert len(pictures) == 4 and pictures[0].dtype == np.uint8 and reader.seen("other") is None
    assert batch["vqa_ids"].shape[:2] == (1, 3)
    text = shown(batch["vqa_ids"][0, 1])
    assert "Question: Who is it?\nChoices: \n(A) a\n(B) b\n(C) c\nAnswer: The answer is (B)" in text
    (tmp_path / "s.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHi - you\n")
    for dataset, dialogue in (("tvqa", "Dialogue:  Hi - you\n"), ("vlep", "Dialogue: Hi  you\n")):
        reader = read(dataset, "infer", annotations=None, subtitles=None)
        assert reader.raw_inputs == ("query", "choices", "subtitles")
        given = {"choices": ["a", "b"], "subtitles": str(tmp_path / "s.srt")}
        (item,) = reader.from_raw(video, "Who", {"clip": Extractor()}, **given)
        assert dialogue in shown(reader.collate([item])["vqa_ids"][0, 0])
    reader = read("tvqa", "infer", blind="video")
    (item,) = reader.from_raw("none.mp4", "Who", {}, choices=["a", "b"])
    assert not item["video"].any() and reader.seen("none") is None


def test_raw_video_with_mistakes(read, video):
    other = type("Other", (Extractor,), {"dim": 9})
    slow = type("Slow", (Extractor,), {"fps": 3.0})
    reader = read("nextqa", "infer")
    for query, choices, extractors, message in [
        (" ", "ab", {"clip": Extractor()}, "--query: expected a question"),
        ("who", "a", {"clip": Extractor()}, "--choices: expected 2 to 5, found 1"),
        ("who", "abcdef", {"clip": Extractor()}, "found 6"),
        ("who", "ab", {}, "DATASET.extractors.clip"),
        ("who", "ab", {"clip": other()}, "vectors of 4 numbers"),
        ("who", "ab", {"clip": slow()}, "at 1 frames a second"),
        ("who " * 299, "ab", {"clip": Extractor()}, "--query: expected 300 tokens or fewer"),
    ]:
        with pytest.raises(DataError) as caught:
            list(reader.from_raw(video, query, extractors, choices=list(choices)))
        assert message in str(caught.value)


# ---- texts


def test_texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("The cat sat.\n\nA dog runs away from it\n", encoding="utf-8")
    options = {"dataset": "text", "tokenizer": str(TOKENIZER)}
    reader = Reader("train", **options, annotations=str(path))
    batch = batch_of(reader)
    assert batch.keys() == {"id", "text_ids", "text_labels"} and len(reader) == 2
    assert [shown(row) for row in batch["text_ids"]] == ["The cat sat.", "A dog runs away from it"]
    assert batch["text_ids"].dtype == batch["text_labels"].dtype == np.int64
    assert batch["text_ids"][:, 0].tolist() == [PIECES.begin] * 2
    assert not batch["text_labels"][:, 0].any()
    assert np.array_equal(batch["text_labels"][:, 1:], batch["text_ids"][:, 1:])
    assert sorted(row[row > 0][-1] for row in batch["text_ids"]) == [PIECES.end] * 2
    assert reader.references() == {"0": {"text": "The cat sat."},
                                   "1": {"text": "A dog runs away from it"}}  # fmt: skip
    with pytest.raises(DataError, match="text 1: expected 12 tokens or fewer"):
        len(Reader("train", **options, annotations=str(path), max_seq_len=12))
    few = Reader("valid", **options, annotations=str(path), max_seq_len=12, on_overflow="skip")
    assert len(few) == 1 and batch_of(few)["id"] == ["0"]
    lines = write_lines(tmp_path / "texts.jsonl", [{"text": "One\ntwo"}, {"text": "Three"}])
    reader = Reader("train", **options, annotations=lines)
    assert shown(batch_of(reader)["text_ids"][0]) == "One\ntwo" and reader.raw_inputs == ()
    with pytest.raises(DataError, match="answers no questions"):
        list(reader.from_raw("x.mp4", "y", {}))
    write_lines(tmp_path / "texts.jsonl", [{"text": "One"}, {"words": "Three"}])
    with pytest.raises(DataError, match=r"texts\.jsonl:2: expected text"):
        len(Reader("train", **options, annotations=lines))


def test_texts_behind_prompts(tmp_path):
    rows = [{"prompt": "Is it a cat?", "text": "Yes"}, {"text": "A dog"}, {"text": "Two"}]
    lines = write_lines(tmp_path / "texts.jsonl", rows)
    options = {"dataset": "text", "tokenizer": str(TOKENIZER), "annotations": lines}
    reader = Reader("train", **options, in_order=True)
    assert reader.order(0) == reader.order(1) == [0, 1, 2]
    assert not hasattr(Reader("train", **options), "order")
    batch = batch_of(reader)
    ids, labels = batch["text_ids"][0], batch["text_labels"][0]
    given = 1 + len(PIECES.encode(["Is it a cat?"])[0])
    assert not labels[:given].any() and np.array_equal(labels[given:], ids[given:])
    assert shown(ids[given:]) == "Yes"
    assert np.array_equal(batch["text_labels"][1, 1:], batch["text_ids"][1, 1:])
    assert reader.references()["0"] == {"text": "Is it a cat? Yes"}
    write_lines(tmp_path / "texts.jsonl", [{"prompt": 3, "text": "Yes"}])
    with pytest.raises(DataError, match=r"texts\.jsonl:1: expected text as prompt, found 3"):
        len(Reader("train", **options))
    with pytest.raises(ValueError, match="in_order: expected with texts"):
        Reader("train", dataset="star", in_order=True)


# ---- published rows


def unpacked(name, folder):
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"no {path.name} here")
    target = folder / path.name.removesuffix(".gz")
    target.write_bytes(gzip.decompress(path.read_bytes()))
    return target


def every_row(dataset, path, split, **options):
    """A reader without frames whose rows, which the small tokenizer makes long, have room."""
    return Reader(split, dataset=dataset, annotations=str(path), tokenizer=str(TOKENIZER),
                  blind="video", max_seq_len=2000, **options)  # fmt: skip


@pytest.mark.parametrize("name, count", [("val", 4996), ("test", 8564)])
def test_all_rows_of_nextqa(tmp_path, name, count):
    path = unpacked(f"nextqa/{name}.csv.gz", tmp_path)
    reader = every_row("nextqa", path, "train", vaq=name == "val", qav=False)
    assert len(reader) == len(reader.references()) == count
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for k in range(0, count, 997):
        labels = reader.collate([reader[k]])["vqa_labels"][0, 0]
        assert shown(labels) == f"({'ABCDE'[int(rows[k]['answer'])]})"
    kinds = [reference["type"] for reference in reader.references().values()]
    assert name == "test" or (kinds.count("CW"), kinds.count("TP")) == (1924, 54)


def test_all_rows_of_tvqa(tmp_path, log):
    path = unpacked("tvqa/tvqa_test_public.jsonl.gz", tmp_path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answered = write_lines(tmp_path / "answered.jsonl", [row | {"answer_idx": 2} for row in rows])
    reader = every_row("tvqa", answered, "train", sub=False, vaq=False, qav=False)
    assert len(reader) == 7623
    assert shown(reader.collate([reader[7000]])["vqa_labels"][0, 0]) == "(C)"
    unknown = [question for question in reader.questions if question.window == (-1000, 1000)]
    assert len(unknown) == 3
    few = every_row("tvqa", write_lines(tmp_path / "few.jsonl", rows[:300]), "infer", sub=False)
    batch = few.collate([few[k] for k in range(len(few))])
    assert batch["vqa_ids"].shape[:2] == (300, 5) and set(batch["answer"]) == {-1}


@pytest.mark.parametrize(
    "name, split, count",
    [("dev_release.sample500", "valid", 500), ("test_release.sample200", "infer", 200)],
)
def test_all_rows_of_vlep(tmp_path, name, split, count):
    reader = every_row("vlep", unpacked(f"vlep/vlep_{name}.jsonl.gz", tmp_path), split, sub=False)
    assert len(reader) == count
    batch = reader.collate([reader[k] for k in range(count)])
    assert batch["vqa_ids"].shape[:2] == (count, 2)
    assert set(batch["answer"].tolist()) == ({0, 1} if split == "valid" else {-1})

