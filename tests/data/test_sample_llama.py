# SPDX-License-Identifier: Apache-2.0
"""The sample world's layouts for LLaMA-VQA: questions, texts, tokenizer, features."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from engine import build, config
from reader import get_reader
from reader.common.llama_tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "dataset" / "sample"
sys.path.insert(0, str(SAMPLE))

import choice_questions  # noqa: E402
import dramaqa  # noqa: E402
import llama  # noqa: E402
import nextqa  # noqa: E402
import render  # noqa: E402
import star  # noqa: E402
import tvqa  # noqa: E402
import vlep  # noqa: E402
import world as worlds  # noqa: E402
from facts import WITH, look  # noqa: E402

SPLITS = ("train", "val", "test")
LAYOUTS = {
    "nextqa": (nextqa, 5), "star": (star, 4), "dramaqa": (dramaqa, 5), "vlep": (vlep, 2),
    "tvqa": (tvqa, 5),
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> list[dict]:
    return worlds.plan(seed=0, videos=76)


@pytest.fixture(scope="module")
def asked(scenes) -> dict[str, dict[str, list[tuple]]]:
    """Layout -> split -> what its module asks."""
    return {
        name: {split: module.asked(scenes, split) for split in SPLITS}
        for name, (module, _) in LAYOUTS.items()
    }


def choices(name: str, found: list[tuple]) -> list[tuple[str, list[str], int]]:
    """(question, options, which is right)."""
    if name == "tvqa":
        return [(question.text, options, right) for _, question, options, right in found]
    return [(each[-1].text, each[-1].options, each[-1].answer) for each in found]


@pytest.fixture(scope="module")
def made(scenes, tmp_path_factory):
    """A world of its shortest videos, one of each split, with all layouts."""
    spec = importlib.util.spec_from_file_location("sample_prepare_llama", SAMPLE / "prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    out = tmp_path_factory.mktemp("world") / "data" / "dataset" / "sample"
    (out / "videos").mkdir(parents=True)
    few = [min((s for s in scenes if s["split"] == split), key=lambda s: s["num_frames"])
           for split in SPLITS]  # fmt: skip
    for scene in few:
        render.render_video(scene, out / "videos" / scene["file"])
    for name in ("llama", *LAYOUTS):
        prepare.LAYOUTS[name](few, out)
    return few, out, prepare


@pytest.mark.parametrize("name", LAYOUTS)
def test_options_are_different_and_their_places_even(asked, name):
    for split, least in zip(SPLITS, (550, 80, 130), strict=True):
        found = choices(name, asked[name][split])
        assert len(found) >= least
        for text, options, right in found:
            assert len(options) == len(set(options)) == LAYOUTS[name][1], text
            assert 0 <= right < len(options)
    counts = Counter(right for *_, right in choices(name, asked[name]["train"]))
    mean = sum(counts.values()) / LAYOUTS[name][1]
    assert all(0.8 * mean < count < 1.2 * mean for count in counts.values()), counts


@pytest.mark.parametrize("name", LAYOUTS)
def test_words_do_not_tell_the_answers(asked, name):
    """Neither how often an option is right in training, nor with this question's first words."""
    told = defaultdict(Counter)

    def keys(text: str, option: str):
        start = " ".join(text.split()[:2])
        yield from ((start, option), (start, *option.split()[-2:]), (start, len(option)))

    for text, options, right in choices(name, asked[name]["train"]):
        for k, option in enumerate(options):
            for key in keys(text, option):
                told[key][k == right] += 1
    hits = []
    for text, options, right in choices(name, asked[name]["test"]):
        shares = [
            np.prod([(told[key][True] + 1) / (told[key].total() + len(options))
                     for key in keys(text, option)])
            for option in options
        ]  # fmt: skip
        hits.append(np.argmax(shares) == right)
    chance = 1 / LAYOUTS[name][1]
    assert np.mean(hits) < chance + 0.13


def test_answers_of_nextqa_are_true(asked):
    checked: Counter = Counter()
    for split in SPLITS:
        for (_, part), choice in asked["nextqa"][split]:
            assert part.facts.split == split
            first, second = part.ones
            right = choice.options[choice.answer]
            if choice.kind == "TC":
                assert right == (first if "beginning" in choice.text else second)["colour"]
            elif choice.kind == "TN":
                assert right == second["colour"] and look(first) in choice.text
            elif choice.kind == "TP":
                assert right == first["colour"] and look(second) in choice.text
            elif choice.kind == "CW":
                met = [e["object"] for e in part.events if e["verb"] in WITH]
                assert right.split()[-2] in [part.facts.entities[i]["colour"] for i in met]
            elif choice.text == "what can be seen at the sides":
                assert right == part.facts.scenery
            elif choice.kind == "DC":
                count = len({one["id"] for one in part.ones})
                assert right == choice_questions.NUMBERS[count - 1]
            if choice.kind in ("TN", "TP"):  # who is named cannot be meant
                named = first if choice.kind == "TN" else second
                assert named["colour"] not in choice.options
            checked[choice.kind] += 1
    assert set(checked) == {"CH", "CW", "TC", "TN", "TP", "DL", "DC", "DO"}
    assert min(checked.values()) > 30


def test_files_are_what_was_published(scenes):
    rows = list(csv.DictReader(io.StringIO(nextqa.files(scenes)["val.csv"].decode())))
    assert tuple(rows[0]) == nextqa.COLUMNS
    assert len({(row["video"], row["qid"]) for row in rows}) == len(rows)
    entries = json.loads(star.files(scenes)["STAR_val.json"])
    assert all(0 <= e["start"] < e["end"] for e in entries)
    assert {e["question_id"].split("_")[0] for e in entries} == {
        "Interaction", "Sequence", "Prediction", "Feasibility"}  # fmt: skip
    entries = json.loads(dramaqa.files(scenes)["AnotherMissOhQA_val_set.json"])
    for entry in entries:
        scene, first = entry["vid"].endswith("_0000"), entry["shot_contained"][0]
        assert entry["videoType"] == ("scene" if scene else "shot")
        assert scene or entry["vid"].endswith(f"_{first:04d}")
    files = vlep.files(scenes)
    spoken = {json.loads(x)["vid_name"] for x in files["vlep_subtitles.jsonl"].splitlines()}
    rows = [json.loads(line) for line in files["vlep_dev_release.jsonl"].splitlines()]
    assert {row["vid_name"] for row in rows} <= spoken and {r["split"] for r in rows} == {"dev"}
    files = tvqa.files(scenes)
    for line in files["tvqa_val.jsonl"].splitlines():
        assert f"tvqa_subtitles/{json.loads(line)['vid_name']}.srt" in files


# texts


@pytest.fixture(scope="module")
def texts(scenes) -> dict[str, list[dict]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama, "COUNT", {"train": 8000, "val": 300})
        return {split: list(llama.texts(scenes, split)) for split in llama.COUNT}


@pytest.fixture(scope="module")
def model(texts, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("llama") / "tokenizer.model"
    path.write_bytes(llama.tokenizer(texts["train"]))
    return path


def test_texts_are_in_the_form_of_prompts(scenes, texts, model, tmp_path):
    (tmp_path / "val.csv").write_bytes(nextqa.files(scenes)["val.csv"])
    reader = get_reader("llama_vqa")(
        "valid", dataset="nextqa", annotations=str(tmp_path / "val.csv"), tokenizer=str(model),
        blind="video",
    )  # fmt: skip
    batch, text = reader.collate([reader[0]]), reader.text
    row = batch["vqa_ids"][0, 0].tolist()
    start, frames = int(batch["video_start"][0]), llama.FRAMES
    prompts = [
        [each for part in (line["prompt"], line["text"]) for each in text.encode([part])[0]]
        for line in texts["val"]
        if line.get("prompt", "").startswith(llama.PREDICT)
    ]
    assert len(prompts) > 50
    asked = row[start + frames : start + frames + 3]  # end of line, "Question", ":"
    for ids in prompts:
        ids = [text.begin, *ids, text.end]
        assert ids[:start] == row[:start]
        assert ids[start + frames : start + frames + 3] == asked
        assert ids[ids.index(text.answer) :][:6] == row[row.index(text.answer) :][:6]
        assert ids[-1] == row[-1] and len(ids) <= 128


def test_texts_become_harder(texts):
    asked = [line for line in texts["train"] if "prompt" in line]
    assert {line["prompt"].count("(") for line in asked[:500]} == {2}
    assert all(len(line["prompt"].split("\n")[0].split()) == 2 for line in asked[:400])
    assert sum("Question" in line["prompt"] for line in asked[-1000:]) > 500
    for line in asked[:3000]:
        seen, _, *options = line["prompt"].splitlines()[:-1]
        letters = [o[:3] for o in options if o[4:] in seen.split()]
        assert letters == [line["text"]]  # one option is there, and it is the answer
    answers = Counter(line["text"] for line in asked[-2000:])
    assert len(answers) == 5 and max(answers.values()) < 1.6 * min(answers.values())


def test_texts_are_of_their_split(scenes, texts):
    plans = {line["text"]: scene["split"] for scene in scenes for line in scene["subtitles"]
             if line["kind"] == "plan"}  # fmt: skip
    plain = [line["text"] for line in texts["train"] if "prompt" not in line]
    said = {line.split(" : ")[1] for line in plain if " : I want to " in line}
    assert len(said) > 100
    only = {text for text, split in plans.items() if split == "test"} - {
        line["text"] for scene in scenes if scene["split"] != "test" for line in scene["subtitles"]}
    assert only and not only & said


def test_tokenizer(texts, model):
    assert llama.tokenizer(texts["train"]) == model.read_bytes()
    tokenizer = Tokenizer(model)
    cfg = config.load(ROOT / "configs" / "sample" / "llama_vqa_text.yaml")
    assert tokenizer.size <= cfg["MODEL"]["vocab_size"] == llama.PIECES
    pieces = tokenizer.pieces
    assert pieces[:3] == ["<unk>", "<s>", "</s>"] and pieces[13] == "<0x0A>"
    for text in ("Zebra 42 ü\n", "Answer: The answer is (A)"):
        assert tokenizer.decode(tokenizer.encode([text])[0]) == text
    assert [pieces[i] for i in tokenizer.encode(["is (B)"])[0]] == ["▁is", "▁(", "B", ")"]
    assert all(len(tokenizer.encode([word])[0]) == 1 for word in llama.WORDS)


# features


@pytest.mark.parametrize("name", LAYOUTS)
def test_reader(made, name, monkeypatch):
    _, out, _ = made
    monkeypatch.chdir(out.parents[2])  # the configuration names its data relative to it
    cfg = config.load(ROOT / "configs" / "sample" / f"llama_vqa_{name}.yaml")
    for split in ("train", "valid", "test"):
        reader = build.reader(cfg, split)
        batch = reader.collate([reader[i] for i in range(len(reader))])
        assert len(batch["id"]) == len(reader.references()) >= 4
        assert (batch["answer"] >= 0).all() and batch["video"].shape[1:] == (10, 768)
        assert np.abs(batch["video"]).sum((1, 2)).min() > 0


def test_features_are_made_once(made, monkeypatch):
    few, out, prepare = made
    monkeypatch.setattr(prepare, "_run", lambda *_: pytest.fail("extracted again"))
    prepare.LAYOUTS["star"](few, out)
