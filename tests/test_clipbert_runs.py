# SPDX-License-Identifier: Apache-2.0
"""ClipBERT as people run it: broken videos, their own videos, result files, mistakes."""

from __future__ import annotations

import importlib.util
import json
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
import pytest
import yaml

from engine import build, checkpoint, cli, config, errors, evaluate, formats, infer, loader, train
from tests.conftest import ROOT
from tests.reader.clipbert_world import (
    LABELS,
    WORDS,
    lines,
    make_world,
    question,
    taxonomy,
    write_store,
)
from tests.reader.clips import cut

MAIN = {"train": train.main, "eval": evaluate.main, "predict": infer.main}
SMALL = {
    "num_labels": len(LABELS), "max_img_size": 32, "width": 4, "hidden_size": 16, "num_heads": 2,
    "num_layers": 1, "intermediate_size": 32, "vocab_size": len(WORDS), "max_position": 48,
    "initializer_range": 0.3, "image_mean": [128.0] * 3,
}  # fmt: skip
OPTIONS = ["runs", "jumps", "sits", "eats", "red"]
CAPTIONS = [
    ("ball", "a cat runs"), ("hall", "a dog sits"), ("wall", "the man eats"), ("ball", "a cat"),
    ("wall", "red"),
]  # fmt: skip
GOOD, BROKEN = ("ball", "hall"), ("shut", "void", "gone")  # cut short, empty, missing
ASKED = [question(k, v) for k, v in enumerate(("ball", "shut", "hall", "void", "gone", "gone"))]


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A folder with files that no test changes."""
    folder = tmp_path_factory.mktemp("clipbert runs")
    make_world(folder)
    return folder


@pytest.fixture
def world(shared, tmp_path, monkeypatch) -> Path:
    """The working directory, with these files."""
    for path in shared.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(capsys):
    """Runs an entry point in this process."""

    def call(name: str, path: str, *flags: str) -> Done:
        def run() -> None:
            args = cli.parse(name, ["-c", path, *flags])
            MAIN[name](args, cli.start(name, args))

        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            errors.guard(run)
        return Done(stopped.value.code, *capsys.readouterr())

    return call


def fails(done: Done, code: int, *parts: str) -> None:
    """It ended with one line, which has these parts."""
    assert done.code == code, done
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1, done.err
    for part in parts:
        assert part in done.err


def configure(task: str = "anetqa", rows: list | None = None, **sections: dict) -> str:
    """A configuration in the working directory, like those of the sample world, only smaller."""
    if rows is not None:
        lines(Path(f"{task}.jsonl"), rows)
    split = {"annotations": f"{task}.jsonl", "questions": None, "n_clips": 2, "num_frm": 1}
    words = task in ("anetqa", "frameqa", "msrvtt_qa", "vqa")
    folder = {"images": "images"} if task == "vqa" else {"videos": "videos"}
    own = {
        "MODEL": SMALL | {"task": task, "loss_type": "bce" if task == "vqa" else "ce"},
        "DATASET": {"task": task, "vocab": "vocab.txt", "store": None, "max_img_size": 32,
                    "ans2label": "ans2label.json" if words else None, "max_txt_len": 12,
                    "frame_size": 32, "n_clips": 2, "num_frm": 2, "max_n_example_per_group": 1}
        | folder,
        "METRIC": {"task": task} | ({"ans2label": "ans2label.json"} if words else {}),
        "TRAIN": {"annotations": split["annotations"], "epoch": 2, "batch_size": 2,
                  "learning_rate": 1e-4, "log_interval": 1, "use_gpu": False, "save_dir": "ck"},
        "VALID": split, "TEST": split | {"save_dir": "ev"}, "INFER": split | {"save_dir": "pr"},
        "WEIGHTS": {"path": f"{task}.pdparams"},
    }  # fmt: skip
    own = {name: values | sections.get(name, {}) for name, values in own.items()}
    path = Path(f"{task}.yaml")
    base = {"_BASE_": str(ROOT / "configs" / "sample" / "clipbert.yaml")}
    path.write_text(yaml.safe_dump(base | own))
    return str(path)


def draw(path: str, seed: int = 1, **options: object):
    """A network of the configuration, and its weights where the configuration expects them."""
    cfg = config.load(path)
    cfg["TRAIN"]["seed"] = seed
    cfg["MODEL"].update(options)
    model = build.model(cfg)
    with open(cfg["WEIGHTS"]["path"], "wb") as file:
        formats.save_state(file, checkpoint.parameters_of(model))
    return model


def records(folder: str) -> list[dict]:
    return list(evaluate.read_predictions(Path(folder) / "CLIPBERT_predictions.jsonl"))


def numbers(folder: str) -> dict:
    return json.loads((Path(folder) / "CLIPBERT_metrics.json").read_text())


# ---- broken videos


def prepare(*args: str) -> int:
    """data/dataset/anetqa/prepare.py in this process; its exit code."""
    folder = ROOT / "data" / "dataset" / "anetqa"
    spec = importlib.util.spec_from_file_location("anetqa_prepare", folder / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        spec.loader.exec_module(module)
        patch.setattr(importlib.import_module("anetqa_frames"), "_pool", ThreadPoolExecutor)
        try:
            module.main(args)
        except Exception as error:
            return errors.exit_code(error)
    return 0


@pytest.fixture(params=["videos", "store"])
def damaged(request, world) -> str:
    """A configuration with questions about good and broken videos, as files or in a store."""
    folder = world / "some"
    folder.mkdir()
    for name, place in (("ball", "ball.mp4"), ("hall", "more/hall.mp4"), ("shut", "ball.mp4")):
        (folder / f"{name}.mp4").write_bytes((world / "videos" / place).read_bytes())
    cut(folder / "shut.mp4", 0.5)
    (folder / "void.mp4").write_bytes(b"")
    if request.param == "videos":
        return configure(rows=ASKED, DATASET={"videos": "some"})
    raw = world / "raw"
    raw.mkdir()
    (raw / "video_train.json").write_text(json.dumps([*GOOD, *BROKEN]))
    command = ("frames", str(raw), "--videos", str(folder), "--size", "32", "--jobs", "1")
    assert prepare(*command, "--max_bad", "2") == 3
    listed = json.loads((raw / "frames" / "broken.json").read_text())
    assert set(listed) == set(BROKEN)
    reasons = ("no readable picture stream", "an empty one (0 bytes)", "no file gone.mp4")
    for name, reason in zip(BROKEN, reasons, strict=True):
        assert reason in listed[name]
    assert prepare(*command, "--max_bad", "3") == 0
    return configure(rows=ASKED, DATASET={"videos": None, "store": str(raw / "frames")})


@pytest.fixture
def seen(monkeypatch) -> list[dict]:
    """All batches that networks get."""
    batches: list[dict] = []
    convert = loader.to_tensors

    def spy(batch: dict) -> dict:
        batches.append(batch)
        return convert(batch)

    monkeypatch.setattr(loader, "to_tensors", spy)
    return batches


def test_broken_videos_in_training(damaged, call, seen):
    done = call("train", damaged, "-o", "TRAIN.max_bad=3", "--valid_interval", "0")
    assert done.code == 0, done
    listed = Path("ck/bad_samples.txt").read_text().splitlines()
    assert len(listed) == 3  # once in two epochs, though two questions are about gone
    for name in BROKEN:
        assert sum(name in line for line in listed) == 1, listed
        assert f"left out of training: {next(line for line in listed if name in line)}" in done.out
    ids = [name for batch in seen for name in batch["id"]]
    assert sorted(ids) == sorted(2 * ["ball#0", "hall#2"])  # each once an epoch, nothing else
    assert all(len(batch["frames"]) == len(batch["id"]) for batch in seen)


def test_more_broken_videos_than_allowed(damaged, call):
    done = call("train", damaged, "-o", "TRAIN.max_bad=2")
    fails(done, 3, "TRAIN.max_bad: expected at most 2", "found 3", "bad_samples.txt")
    assert len(Path("ck/bad_samples.txt").read_text().splitlines()) == 3
    fails(call("train", damaged, "--save_dir", "other"), 3, "expected at most 0", "found 1")


def test_broken_videos_in_evaluation(damaged, call):
    workers = int(config.load(damaged)["DATASET"]["store"] is not None)  # one way each
    draw(damaged)
    done = call("eval", damaged, "-o", f"TEST.num_workers={workers}")
    assert done.code == 0, done
    found = records("ev")
    assert [r["id"] for r in found] == ["ball#0", "hall#2"]
    right = sum(r["answer"] == "yes" for r in found)
    assert numbers("ev") == {"overall": right / 6, "missing": 4}
    for name in BROKEN:
        told = [line for line in done.out.splitlines() if "cannot be loaded: " in line]
        assert sum(name in line for line in told) == 1, told
    assert "3 items left out: what is asked about them counts as wrong" in done.out
    assert "4 of 6 ids have no record and count as wrong" in done.out
    rows = json.loads(Path("ev/results_all.json").read_text())
    assert [row["question_id"] for row in rows] == ["ball#0", "hall#2"]


OTHERS = {
    "action": {"question": "what ?", "options": OPTIONS, "answer": 2},
    "retrieval": {"caption": "a cat"},
    "vqa": {"question": "what ?", "labels": {"yes": 1}},
}


@pytest.mark.parametrize("task", OTHERS)
def test_broken_items_among_others(world, call, task):
    """Every batch keeps what is right of it."""
    names = ["gone", *(("10", "40") if task == "vqa" else ("ball", "hall"))]
    key = "image_id" if task == "vqa" else "clip_name"
    rows = [OTHERS[task] | {key: name, "question_id": name} for name in names]
    path = configure(task, rows, TEST={"batch_size": 2})
    draw(path)
    assert call("eval", path).code == 0
    expected = ["1", "2"] if task == "action" else names[1:]
    assert [r["id"] for r in records("ev")] == expected and numbers("ev")["missing"] == 1


def test_no_video_at_all(world, call):
    """Then the folder or the store is the wrong one."""
    rows = [question(k, name) for k, name in enumerate(("one", "two"))]
    where = "compare the names, or change DATASET."
    fails(call("train", configure(rows=rows)), 3, "videos such as one, found none of 2", where)
    write_store(Path("frames"))
    path = configure(DATASET={"videos": None, "store": "frames"})
    fails(call("eval", path), 3, "frames of videos such as one, found none of 2", where)


# ---- own videos


def test_a_question_about_a_video(world, call):
    path = configure()
    draw(path)
    asked = ("--video", "videos/ball.mp4", "--query", "What color is the cat?")
    done = call("predict", path, *asked, "--visualize")
    assert done.code == 0, done
    head, *best = [line for line in done.out.splitlines() if not line.startswith("[")]
    assert head == "ball#What color is the cat?"
    found = [re.fullmatch(r"  answer: (.+) \((\d+\.\d)%\)", line) for line in best[:4]]
    assert {match[1] for match in found} == set(LABELS)
    chances = [float(match[2]) for match in found]
    assert chances == sorted(chances, reverse=True) and abs(sum(chances) - 100) < 0.3
    rows = json.loads(Path("pr/results_all.json").read_text())
    assert rows == [{"question_id": head, "answer": found[0][1]}]
    (page,) = Path("pr/CLIPBERT_pages").glob("ball*.html")
    assert found[0][1].replace("<", "&lt;").replace(">", "&gt;") in page.read_text()
    assert call("predict", path, *asked, "--infer_topk", "1").out.count("  answer: ") == 1


@pytest.mark.parametrize("task", ["action", "msrvtt_mc"])
def test_options_of_a_video(world, call, task):
    path = configure(task)
    draw(path)
    asked = ("--video", "videos/ball.mp4", "--query", "What does the cat do?")
    done = call("predict", path, *asked, "--choices", "|".join(OPTIONS), "--visualize")
    assert done.code == 0, done
    best = re.findall(r"^  answer: (\w+) \(score -?\d+\.\d{3}\)$", done.out, re.MULTILINE)
    assert sorted(best) == sorted(OPTIONS)
    written = json.loads(Path("pr/results_all.json").read_text())
    answer = OPTIONS.index(best[0])
    if task == "action":
        assert [row["answer"] for row in written] == [answer]
    else:
        assert written == {"ball#What does the cat do?": answer}
    (page,) = Path("pr/CLIPBERT_pages").glob("ball*.html")
    assert all(option in page.read_text() for option in OPTIONS)
    fails(call("predict", path, *asked), 3, "--choices: expected 5 texts, found 0")


def test_predictions_do_not_say_what_is_true(world, call):
    """What a record tells of its question counts for raw videos only."""
    path = configure("action", ROWS["action"])
    told = [{"id": str(k), "answer": 4, "reference": {"answer": 4}} for k in range(3)]
    evaluate.write_predictions(Path("told.jsonl"), told)
    assert call("eval", path, "--predictions", "told.jsonl").code == 0
    assert numbers("ev") == {"overall_acc": 0.0, "missing": 0}


def test_captions_of_a_video(world, call):
    path = configure("retrieval")
    draw(path)
    asked = ("--video", "videos/more/hall.mp4", "--query", "a dog sits")
    done = call("predict", path, *asked)
    assert done.code == 0, done
    assert re.search(r"^hall#a dog sits\n  caption: .+ \(\d+\.\d%\)$", done.out, re.MULTILINE)
    (row,) = json.loads(Path("pr/results_all.json").read_text())
    assert row.keys() == {"vid_id", "txt_id", "score"} and 0 < row["score"] < 1
    more = call("predict", path, *asked, "--choices", "a cat runs|red", "--visualize")
    assert more.code == 0 and more.out.count("  caption: ") == 3
    assert len(json.loads(Path("pr/results_all.json").read_text())) == 3
    assert len([*Path("pr/CLIPBERT_pages").glob("hall*.html")]) == 1


def test_a_question_about_a_picture(world, call):
    path = configure("vqa")
    draw(path)
    done = call("predict", path, "--video", "images/10.png", "--query", "what color?")
    assert done.code == 0 and len(re.findall(r"  answer: .+ \(\d+\.\d%\)", done.out)) == 4, done


def test_a_list_of_questions_without_answers(world, call):
    path = configure()
    draw(path)
    rows = [{"key": f"q{k}", "question": "what ?", "video_id": v}
            for k, v in enumerate(("hall", "ball", "gone", "hall"))]  # fmt: skip
    lines(Path("list.jsonl"), rows)
    done = call("predict", path, "--filelist", "list.jsonl", "--visualize", "2")
    assert done.code == 0, done
    written = json.loads(Path("pr/results_all.json").read_text())
    assert [row["question_id"] for row in written] == ["q0", "q1", "q3"]
    assert all(row.keys() == {"question_id", "answer"} for row in written)
    assert {row["answer"] for row in written} <= set(LABELS)
    assert "cannot be loaded: " in done.out and "expected gone" in done.out
    assert {p.name for p in Path("pr/CLIPBERT_pages").iterdir()} == {
        "index.html", "q0.html", "q1.html"
    }  # fmt: skip


# ---- result files

CHOSEN = [{"gif_name": v, "question": "what ?", "options": OPTIONS, "answer": k}
          for k, v in enumerate(("ball", "hall", "ball"))]  # fmt: skip
TRUTHS = [("ball", "yes"), ("hall", "red"), ("ball", "no")]
TYPED = [{"video_id": v, "question": f"who {k}", "answer": answer, "answer_type": "what"}
         for k, (v, answer) in enumerate(TRUTHS)]  # fmt: skip
ROWS = {
    "anetqa": [question(0, "ball"), question(1, "hall", "red"), question(2, "ball", "no")],
    "frameqa": [row | {"answer_type": "color"} for row in TYPED],
    "msrvtt_qa": TYPED,
    "action": CHOSEN,
    "retrieval": [{"clip_name": v, "caption": c} for v, c in CAPTIONS],
    "msrvtt_mc": [{"qid": k, "clip_name": v, "options": OPTIONS, "answer": str(k)}
                  for k, v in enumerate(("ball", "wall"))],
    "vqa": [{"question": f"what {k}", "image_id": k, "question_id": k,
             "labels": {"red": 0.3, "yes": 1}} for k in (10, 30)],
}  # fmt: skip


@pytest.mark.parametrize("task", ROWS)
def test_both_result_files_give_the_same_numbers(world, call, task):
    options = {"METRIC": {"round_scores": True}} if task == "retrieval" else {}
    path = configure(task, ROWS[task], **options)
    draw(path)
    assert call("eval", path).code == 0
    expected = numbers("ev")
    count = 3 if task == "retrieval" else len(ROWS[task])
    assert expected["missing"] == 0 and len(records("ev")) == count
    for k, file in enumerate(("CLIPBERT_predictions.jsonl", "results_all.json")):
        done = call("eval", path, "--predictions", f"ev/{file}", "--save_dir", f"again{k}")
        assert done.code == 0 and numbers(f"again{k}") == expected, done
    written = [Path(f"{f}/results_all.json").read_text() for f in ("ev", "again0", "again1")]
    assert len(set(written)) == 1


def test_pretraining_has_no_result_file(world, call):
    rows = [{"clip_name": v, "caption": c} for v, c in CAPTIONS]
    path = configure("pretrain", rows, DATASET={"itm_neg_prob": 0.5})
    draw(path)
    assert call("eval", path).code == 0
    file = "ev/CLIPBERT_predictions.jsonl"
    assert call("eval", path, "--predictions", file, "--save_dir", "again").code == 0
    assert numbers("again") == numbers("ev")
    done = call("eval", path, "--predictions", "ev/scores.json")
    fails(done, 3, "pretraining has no result file")


def test_answers_that_only_the_raw_questions_have(world, call):
    """As of a test split whose answers are in a file of their own."""
    raw = [{"qa_id": row["key"], "answer": row["answer"], "taxonomy": taxonomy("query")}
           for row in ROWS["anetqa"]]  # fmt: skip
    Path("raw.json").write_text(json.dumps(raw))
    rows = [row | {"answer": None} for row in ROWS["anetqa"]]
    path = configure(rows=rows, TEST={"questions": "raw.json"})
    draw(path)
    assert call("eval", path).code == 0
    true = {row["key"]: row["answer"] for row in ROWS["anetqa"]}
    right = sum(r["answer"] == true[r["id"]] for r in records("ev"))
    assert numbers("ev")["query"] == numbers("ev")["overall"] == right / 3


# ---- weights to start from


def published(model, prefix: str) -> dict[str, np.ndarray]:
    """Parameters under a prefix in PyTorch's layout, as files of that part alone name them."""
    dense = {f"{n}.weight" for n, x in model.named_sublayers() if isinstance(x, paddle.nn.Linear)}
    state = {n: x.T if n in dense else x for n, x in checkpoint.parameters_of(model).items()}
    return {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}


def test_training_starts_from_the_parts(world, call):
    """A detector's backbone, then a BERT with the heads of its own pre-training."""
    path = configure(rows=ROWS["anetqa"])
    other = draw(configure("pretrain"), seed=9, max_position=48)
    grid = published(other, "cnn.feature.")
    grid["roi_heads.box_predictor.cls_score.weight"] = np.ones((3, 3), np.float32)
    Path("grid.pth").write_bytes(pickle.dumps({"model": grid, "iteration": 7}, 2))
    bert = published(other, "transformer.")
    bert = {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): x
            for n, x in bert.items() if "visual" not in n}  # fmt: skip
    bert["bert.pooler.dense.weight"] = bert["bert.pooler.dense.weight"] + np.eye(16, dtype="f4")
    np.savez("bert.npz", **bert)
    still = ("-o", "TRAIN.learning_rate=1e-9", "--epoch", "1", "--valid_interval", "0")
    done = call("train", path, *still, "--pretrain", "grid.pth,bert.npz")
    assert done.code == 0, done
    found = formats.load_state("ck/ClipBERT_final.pdparams")
    expected = checkpoint.parameters_of(other)
    expected["transformer.bert.pooler.dense.weight"] += np.eye(16, dtype=np.float32)
    taken = [n for n in found if n.startswith("cnn.feature.") or "transformer.bert." in n]
    taken = [n for n in taken if "visual" not in n]
    for name in taken:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6, err_msg=name)
    assert len(taken) > 30 and "cls.seq_relationship.weight" in done.out  # left out, and said
    fresh = checkpoint.parameters_of(build.model(config.load(path)))
    for name in found.keys() - set(taken):
        np.testing.assert_allclose(found[name], fresh[name], atol=1e-6, err_msg=name)


def test_heads_of_another_size_are_left_out(world, call):
    """From matching to questions, with BERT's own file after it."""
    path = configure(rows=ROWS["anetqa"])
    draw(configure("retrieval"), seed=9)
    bert = published(draw(configure("action"), seed=7), "transformer.")
    np.savez("bert.npz", **{n: x for n, x in bert.items() if n.startswith("bert.embeddings")})
    flags = ("--epoch", "1", "--valid_interval", "0", "-o", "TRAIN.learning_rate=1e-9")
    done = call("train", path, *flags, "--pretrain", "retrieval.pdparams,bert.npz")
    assert done.code == 0, done
    heads = "transformer.classifier.2.weight, transformer.classifier.2.bias"
    assert f"retrieval.pdparams: of another task, left out: {heads}" in done.out
    found = formats.load_state("ck/ClipBERT_final.pdparams")
    for file, name in (
        ("retrieval", "transformer.classifier.0.weight"),
        ("retrieval", "cnn.grid_encoder.0.weight"),
        ("action", "transformer.bert.embeddings.word_embeddings.weight"),
    ):
        expected = formats.load_state(f"{file}.pdparams")[name]
        np.testing.assert_allclose(found[name], expected, atol=1e-6, err_msg=name)
    draw(configure("action"), seed=7, vocab_size=99)
    done = call("train", path, *flags, "--pretrain", "action.pdparams")
    fails(done, 4, "action.pdparams", "word_embeddings.weight [99, 16] instead of [24, 16]")


# ---- mistakes

ASK = ("--video", "videos/ball.mp4", "--query", "what ?")


def test_mistakes_of_training(world, call):
    path = configure(rows=ROWS["anetqa"])
    Path("no.json").write_text('{"yes": 1, "no": 2}')
    Path("bad.jsonl").write_text(Path("anetqa.jsonl").read_text() + '{"key": "a", "question": 3}\n')
    Path("cut.jsonl").write_text(Path("anetqa.jsonl").read_text()[:-20])
    write_store(Path("frames"))
    for code, option, *parts in (
        (2, "MODEL.task=nope", "MODEL.task: expected", "'nope'"),
        (2, "DATASET.task=nope", "DATASET.task: expected", "'nope'"),
        (2, "METRIC.task=nope", "METRIC.task: expected", "'nope'"),
        (2, "MODEL.task=action", "task: expected the same", "found action and anetqa"),
        (2, "MODEL.task=pretrain", "task: expected the same", "found pretrain and anetqa"),
        (2, "MODEL.num_labels=3", "num_labels: expected more than", "3, found 3"),
        (2, "MODEL.vocab_size=20", "vocab_size: expected more than", "22, found 20"),
        (2, "MODEL.max_position=8", "max_position: expected", "found 8"),
        (2, "MODEL.max_img_size=16", "max_img_size: expected a grid"),
        (2, "MODEL.blocs=3", "did you mean blocks?"),
        (3, "TRAIN.annotations=gone.jsonl", "gone.jsonl: expected a file of JSON lines"),
        (3, "TRAIN.annotations=bad.jsonl", "bad.jsonl:4: expected text as question, found 3"),
        (3, "TRAIN.annotations=cut.jsonl", "cut.jsonl:3: expected"),
        (3, "DATASET.ans2label=gone.json", "gone.json: expected a JSON file"),
        (3, "DATASET.ans2label=no.json", "no.json: expected a label of 0 to 1"),
        (3, "DATASET.ans2label=vocab.txt", "vocab.txt: expected JSON"),
        (3, "DATASET.ans2label=null", "set DATASET.ans2label"),
        (3, "DATASET.vocab=gone.txt", "gone.txt: expected the vocab.txt"),
        (3, "DATASET.vocab=anetqa.jsonl", "anetqa.jsonl: expected a vocabulary of BERT"),
        (3, "DATASET.videos=gone", "expected a folder of videos at gone, found none"),
        (3, "DATASET.store=videos", "videos: expected a frame store, found none"),
    ):
        fails(call("train", path, "-o", option), code, *parts)
    many = ("-o", "DATASET.store=frames", "-o", "DATASET.n_clips=9")
    fails(call("train", path, *many), 3, "frames: expected 18 frames (n_clips x num_frm)")
    fails(call("train", path, "--pretrain", "gone"), 4, "gone: expected weights")
    assert not list(Path("ck").glob("*.pdparams"))


def test_other_numbers_of_captions_than_the_ranking_has(world, call):
    path = configure("retrieval", ROWS["retrieval"], MODEL={"loss_type": "rank"})
    for option in ("MODEL.itm_neg_size=2", "DATASET.itm_neg_size=3"):
        fails(call("train", path, "-o", option), 2, "itm_neg_size: expected", "to the same number")
    both = ("-o", "MODEL.itm_neg_size=2", "-o", "DATASET.itm_neg_size=2", "--epoch", "1")
    assert call("train", path, *both, "--valid_interval", "0").code == 0


def test_mistakes_of_prediction(world, call):
    path = configure(rows=ROWS["anetqa"])
    draw(path)
    draw(configure("action"))
    Path("void.mp4").touch()
    Path("list.jsonl").write_text('{"question": "what ?", "video_id": "ball"}\n')
    tall = str(ROOT / "tests" / "golden" / "tall" / "ckpt_a" / "TALL.pdparams")
    video, query = ASK[:2], ASK[2:]
    for code, flags, part in (
        (2, query, "--video and --query: expected both or neither"),
        (2, video, "--video and --query: expected both or neither"),
        (2, (*ASK, "--subtitles", "vocab.txt"), "--subtitles: ClipBERT takes none"),
        (3, (*video, "--query", " "), "--query: expected a question, found an empty one"),
        (2, (*ASK, "--choices", "a|b"), "--choices: ClipBERT takes none here"),
        (3, ("--video", "gone.mp4", *query), "gone.mp4 not exist"),
        (3, ("--video", "void.mp4", *query), "void.mp4: expected a video file, found an empty one"),
        (3, ("--video", "vocab.txt", *query), "vocab.txt: expected a video, found no readable"),
        (3, ("--filelist", "gone.jsonl"), "gone.jsonl not exist"),
        (3, ("--filelist", "list.jsonl"), "list.jsonl:1: expected a name as key or qa_id"),
        (4, (*ASK, "--weights", "gone"), "gone: expected weights"),
        (4, (*ASK, "--weights", tall), "found 0 that fit"),
        (4, (*ASK, "--weights", "action.pdparams"), "classifier.2.weight [32, 1] instead of"),
        (4, (*ASK, "--weights", "vocab.txt"), "vocab.txt: expected weights"),
    ):
        fails(call("predict", path, *flags), code, part)
    path = configure("pretrain", [{"clip_name": "ball", "caption": "a"}])
    draw(path)
    fails(call("predict", path, *ASK), 3, "task pretrain answers no questions")


def test_mistakes_of_evaluation(world, call):
    path = configure(rows=ROWS["anetqa"])
    draw(path)
    Path("rows.json").write_text('[{"question_id": "ball#0"}]')
    lines(Path("twice.jsonl"), 2 * ROWS["anetqa"][:1])
    Path("raw.json").write_text("[]")
    for code, flags, part in (
        (3, ("--predictions", "gone.json"), "gone.json not exist"),
        (3, ("--predictions", "rows.json"), "rows.json: result 0: expected an object with answer"),
        (3, ("--predictions", "anetqa.jsonl"), "anetqa.jsonl:1: expected a record with an id"),
        (3, ("-o", "TEST.annotations=twice.jsonl"), "expected every id once, found ball#0 twice"),
        (3, ("-o", "TEST.questions=raw.json"), "raw.json: expected question ball#0, found none"),
        (4, ("-o", "MODEL.hidden_size=8"), "misshaped"),
    ):
        fails(call("eval", path, *flags), code, part)


def test_a_process_of_its_own(world):
    """Its exit code is that of the command."""
    path = configure(rows=[*ROWS["anetqa"], question(7, "gone")])
    command = [sys.executable, str(ROOT / "train.py"), "-c", path, "-o", "TRAIN.epoch=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    fails(Done(done.returncode, done.stdout, done.stderr), 3, "TRAIN.max_bad: expected at most 0")


def test_nothing_but_broken_videos(world, call):
    Path("empty").mkdir()
    for name in ("shut", "void"):
        Path(f"empty/{name}.mp4").write_bytes(b"")
    rows = [question(k, video) for k, video in enumerate(BROKEN)]
    path = configure(rows=rows, DATASET={"videos": "empty"})
    done = call("train", path, "-o", "TRAIN.max_bad=3")
    fails(done, 3, "none that can be loaded: see ck/bad_samples.txt")


def test_a_first_step_with_nothing_to_learn_from(world, call):
    rows = [question(0, "gone"), question(1, "ball")]
    path = configure(rows=rows, TRAIN={"batch_size": 1, "max_bad": 1})
    for seed in range(3):  # either comes first
        flags = ("-o", f"DATASET.seed={seed}", "--save_dir", f"s{seed}")
        assert call("train", path, *flags).code == 0


def test_missing_validation_data_are_said_before_training(world, call):
    done = call("train", configure(rows=ROWS["anetqa"], VALID={"annotations": "gone.jsonl"}))
    fails(done, 3, "gone.jsonl: expected")
    assert "Epoch 0" not in done.out


def test_captions_given_with_a_video_are_named(world, call):
    path = configure("retrieval")
    draw(path)
    video = ("--video", "videos/ball.mp4", "--query", "a cat", "--choices", "red|a dog")
    done = call("predict", path, *video, "--visualize")
    assert done.code == 0
    found = re.findall(r"  caption: (.+) \(\d+\.\d%\)", done.out)
    assert sorted(found) == ["a cat", "a dog", "red"]
    (page,) = Path("pr/CLIPBERT_pages").glob("ball*.html")
    text = page.read_text().split("</style>")[1]
    assert "a dog" in text and "wrong" not in text and "true caption" not in text
