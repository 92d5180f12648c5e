# SPDX-License-Identifier: Apache-2.0
"""train.py, eval.py and predict.py as people call them: files, lines, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engine import checkpoint, cli, errors, evaluate, infer, train
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "tall"
CONFIG = GOLDEN / "tall_a.yaml"  # a file of release 1.8, unchanged
WEIGHTS = str(GOLDEN / "ckpt_a" / "TALL.pdparams")
ASKED = ("--weights", WEIGHTS, "--video", str(CONFIG), "--query", "a")  # any file for a video
MAIN = {"train": train.main, "eval": evaluate.main, "predict": infer.main}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with the data set that the configuration names."""
    with zipfile.ZipFile(GOLDEN / "dataset_a.zip") as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLZOO_HOME", str(tmp_path / "home"))
    return tmp_path


def script(name: str, *flags: str) -> subprocess.CompletedProcess:
    """A process of its own."""
    command = [sys.executable, str(ROOT / f"{name}.py"), "-c", str(CONFIG), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def call(name: str, *flags: str, config: Path | str = CONFIG) -> int:
    """The same in this process; the exit code."""

    def run() -> None:
        args = cli.parse(name, ["-c", str(config), *flags])
        MAIN[name](args, cli.start(name, args))

    with pytest.raises(SystemExit) as stopped:
        errors.guard(run)
    return stopped.value.code


def test_documented_commands_on_a_configuration_of_release_1_8(folder):
    flags = ("--model_name=TALL", "--use_gpu=False", "--log_interval=1", "--valid_interval=1")
    init = f"--pretrain={GOLDEN / 'ckpt_a' / 'TALL_init.pdparams'}"
    done = script("train", *flags, init, "--save_dir=ck", "--fix_random_seed=True")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "------- learning rate [0.001], learning rate counter [-] -----" in done.stdout
    assert "] Epoch 0, iter 0, time" in done.stdout and "\tLoss = 0.5039" in done.stdout
    assert "[TRAIN] Epoch 1 training finished, average time:" in done.stdout
    kpis = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("kpis")]
    assert [k[1] for k in kpis] == ["train_cost_card1", "train_speed_card1"]
    assert 0.1 < float(kpis[0][2]) < 2
    names = {p.name for p in Path("ck").iterdir()}
    for stem in ("TALL_epoch0", "TALL_epoch1"):
        assert {f"{stem}.pdparams", f"{stem}.pdopt", f"{stem}.pdstate"} <= names
    assert {"TALL.pdparams", "TALL_final.pdparams", "TALL_latest", "metrics.jsonl"} <= names
    state = checkpoint.load_state("ck/TALL_final.pdparams")
    golden = np.load(GOLDEN / "e2e_train_a.npz")
    for name, value in state.items():
        np.testing.assert_allclose(value, golden[f"after/{name}"], atol=5e-6)

    done = script("eval", "--weights", WEIGHTS, "--use_gpu=False")
    assert done.returncode == 0, done.stdout + done.stderr
    result = Path("data/evaluate_results/TALL_test_res_.json")
    assert result.read_text() == (GOLDEN / "e2e_a_TALL_test_res_.json").read_text()
    assert str(result.resolve()) in done.stdout

    done = script("predict", "--weights", WEIGHTS, "--video_path=", "--use_gpu=False")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(Path("data/dataset/predict_results/TALL_infer_res_.json").read_text())
    expected = json.loads((GOLDEN / "e2e_a_TALL_infer_res_.json").read_text())
    assert found.keys() == expected.keys() and found["results"].keys() == expected["results"].keys()
    for video, moments in expected["results"].items():
        np.testing.assert_allclose(found["results"][video], moments, atol=1e-4)
    assert "movie_name: s95-d07.avi, sentence_id: 0, pred_start_time: 25.759" in done.stdout


def test_scoring_predictions_needs_no_paddle(folder):
    assert call("eval", "--weights", WEIGHTS) == 0
    code = (
        "import sys; sys.modules['paddle'] = None; sys.argv[0] = 'eval.py';"
        f"sys.path.insert(0, {str(ROOT)!r}); import runpy;"
        f"runpy.run_path({str(ROOT / 'eval.py')!r}, run_name='__main__')"
    )
    predictions = "data/evaluate_results/TALL_predictions.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", code, "-c", str(CONFIG), "--predictions", predictions],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "best_R1_IOU5  0.3000" in done.stdout


def test_sigterm_saves_exits_75_and_the_run_goes_on(folder):
    flags = ["--epoch", "40", "--log_interval", "1", "--use_gpu", "False"]
    command = [sys.executable, str(ROOT / "train.py"), "-c", str(CONFIG), *flags]
    running = subprocess.Popen(
        [*command, "--save_dir", "cut"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in running.stdout:
        if "Epoch 1, iter 7" in line:
            running.send_signal(signal.SIGTERM)
            break
    text = running.stdout.read()
    assert running.wait(60) == 75, text
    assert "--resume cut" in text and "Traceback" not in text
    assert call("train", *flags, "--save_dir", "cut", "--resume", "cut") == 0
    assert call("train", *flags, "--save_dir", "whole") == 0
    cut, whole = (checkpoint.load_state(f"{f}/TALL_final.pdparams") for f in ("cut", "whole"))
    for name, value in whole.items():
        np.testing.assert_array_equal(cut[name], value)


@pytest.mark.parametrize(
    ("name", "flags", "code", "message"),
    [
        ("train", ["--model_name", "TALLL"], 2, "--model_name TALLL"),
        (
            "train",
            ["-o", "MODEL.name=NOPE", "-o", "DATASET.name=tall"],
            2,
            "\n  tall\n",
        ),
        ("train", ["-o", "DATASET.name=nope"], 2, "tall"),
        ("train", ["-o", "TRAIN.epochs=3"], 2, "did you mean epoch?"),
        ("train", ["-o", "TRAIN.epoch=many"], 2, "expected int"),
        ("train", ["-o", "TRAIN.optimizer=best"], 2, "expected one of adam"),
        ("train", ["--use_gpu", "True"], 2, "use_gpu = False"),
        ("train", ["--batch_size", "100000"], 3, "No iteration was executed"),
        ("train", ["--resume", "nothing"], 4, "--resume nothing"),
        ("train", ["--pretrain", "nothing"], 4, "nothing"),
        ("train", ["-o", "TRAIN.clip_sentvec=gone.pkl"], 3, "gone.pkl"),
        ("train", ["-o", "MODEL.visual_feature_dim=25"], 2, "visual"),
        ("train", ["-o", "MODEL.output_size=4"], 2, "output_size"),
        ("eval", ["--weights", "gone.pdparams"], 4, "gone.pdparams"),
        ("eval", ["--weights", WEIGHTS, "-o", "MODEL.hidden_size=13"], 4, "mid_out_weights"),
        ("eval", ["--predictions", "gone.jsonl"], 3, "gone.jsonl"),
        ("predict", ["--weights", WEIGHTS, "--filelist", "gone.txt"], 3, "gone.txt not exist."),
        ("predict", ["--weights", WEIGHTS, "--video", "gone.mp4", "--query", "a"], 3, "gone.mp4"),
        ("predict", ["--weights", WEIGHTS, "--video", "gone.mp4"], 2, "--query"),
        ("predict", ["--weights", WEIGHTS, "--choices", "a|b"], 2, "--choices: expected only with"),
        ("predict", [*ASKED, "--subtitles", "a.srt"], 2, "--subtitles: TALL takes none"),
        ("predict", [*ASKED, "--regions", "gone.json"], 2, "--regions: TALL takes none"),
        ("predict", [*ASKED, "--visualize"], 2, "--visualize: TALL has no pages"),
        ("predict", [*ASKED, "--visualize", "0"], 2, "from 1, found 0"),
        ("eval", ["--predictions", "gone.json"], 3, "gone.json"),
        ("eval", ["--predictions", str(CONFIG)], 3, f"{CONFIG}:1: expected a record"),
    ],
)
def test_mistakes_end_in_one_line_and_their_exit_code(folder, capsys, name, flags, code, message):
    flags = [*flags, "--save_dir", "out"]
    assert call(name, *flags) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_without_weights_the_published_files_are_named(folder, capsys):
    assert call("eval") == 4
    error = capsys.readouterr().err
    assert "TALL_final.pdparams" in error and str(folder / "home") in error
    assert "https://" in error


def test_published_weights_in_the_cache_are_used(folder, capsys):
    from engine import weights

    cache = weights.cache_folder()
    cache.mkdir(parents=True)
    # the later release's name, the 1.6 format: whichever is there is read
    (cache / "TALL.pdparams").write_bytes((GOLDEN / "ckpt_a" / "TALL_final.pdparams").read_bytes())
    assert call("eval") == 0
    expected = (GOLDEN / "e2e_a_TALL_test_res_.json").read_text()
    assert Path("data/evaluate_results/TALL_test_res_.json").read_text() == expected


@pytest.mark.parametrize("line", ["not json", "{}", '{"id": 3}', '{"id": "x#0"}'])
def test_damaged_predictions(folder, capsys, line):
    assert call("eval", "--weights", WEIGHTS) == 0
    path = Path("data/evaluate_results/TALL_predictions.jsonl")
    path.write_text(path.read_text() + line + "\n")
    assert call("eval", "--predictions", str(path)) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_features_of_another_extractor_are_refused(folder, capsys):
    assert call("train", "--epoch", "1", "--save_dir", "ck") == 0
    identity = {"text": {"name": "a", "dim": 10}, "visual": None}
    Path("ck/TALL_final.identity.json").write_text(json.dumps(identity))
    stamp = {"identity": {"name": "b", "dim": 10}, "made_from": "?"}
    Path("ds_a/test_clip-sentvec.pkl.identity.json").write_text(json.dumps(stamp))
    assert call("eval", "--weights", "ck/TALL_final.pdparams") == 3
    assert "text features" in capsys.readouterr().err


def test_output_folder_keeps_what_is_in_it(folder):
    Path("ck").mkdir()
    Path("ck/mine.txt").write_text("keep")
    assert call("train", "--epoch", "1", "--save_dir", "ck") == 0
    assert Path("ck/mine.txt").read_text() == "keep" and os.listdir("ck")


def test_published_results_are_scored_as_predictions(folder, monkeypatch, capsys):
    from metrics.tall import Metric

    def read(self, path):
        assert self._references, "expect comes first"
        return list(evaluate.read_predictions(Path(path)))

    assert call("eval", "--weights", WEIGHTS) == 0
    scores = Path("data/evaluate_results/TALL_metrics.json").read_text()
    monkeypatch.setattr(Metric, "read", read, raising=False)
    published = Path("data/evaluate_results/TALL_predictions.jsonl").rename("published.txt")
    assert call("eval", "--predictions", str(published), "--save_dir", "again") == 0
    assert Path("again/TALL_metrics.json").read_text() == scores
    lines = Path("published.jsonl")  # of others, with other keys
    lines.write_text('{"qid": 1}\n')
    monkeypatch.setattr(Metric, "read", lambda *_: evaluate.read_predictions(published))
    monkeypatch.setattr(Metric, "reads_lines", True, raising=False)
    assert call("eval", "--predictions", str(lines), "--save_dir", "lines") == 0
    assert Path("lines/TALL_metrics.json").read_text() == scores


class Asked:
    """A reader with all inputs of a raw video."""

    def from_raw(self, video, query, extractors, subtitles=None, choices=(), regions=None): ...


def raw_inputs(**given) -> dict:
    flags = {"video": "v.mp4", "subtitles": None, "choices": None, "regions": None, **given}
    return infer._raw_inputs(SimpleNamespace(**flags), Asked(), "MINE")


def test_inputs_beside_a_raw_video():
    assert raw_inputs() == {}
    found = raw_inputs(choices="red | a | b\u00e9", regions=str(CONFIG))
    assert found == {"choices": ["red", "a", "b\u00e9"], "regions": str(CONFIG)}
    for text in ("", "a||b", "a| ", "|a"):
        with pytest.raises(errors.ConfigError, match="--choices"):
            raw_inputs(choices=text)
    with pytest.raises(errors.DataError, match=r"--subtitles: .*gone.srt not exist"):
        raw_inputs(subtitles="gone.srt")


def test_predict_writes_pages(folder, monkeypatch, capsys):
    from metrics.tall import Metric

    def pages(self, limit):
        for found in self.moments()[:limit]:
            start, end, _ = found["moments"][0]
            moments = [{"label": "predicted", "start": start / 30, "end": end / 30}]
            yield {"id": found["id"], "title": f"query {found['id']}", "moments": moments}

    monkeypatch.setattr(Metric, "pages", pages, raising=False)
    assert call("predict", "--weights", WEIGHTS, "--save_dir", "out", "--visualize", "2") == 0
    index = Path("out/TALL_pages/index.html")
    assert f"pages: {index.resolve()}" in capsys.readouterr().out
    assert len(list(index.parent.iterdir())) == 3 and index.read_text().count("<tr>") == 3
