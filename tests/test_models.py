# SPDX-License-Identifier: Apache-2.0
"""What every system must do, on its sample configuration and a sample world of a few videos."""

from __future__ import annotations

import inspect
import json
import time
from pathlib import Path

import numpy as np
import pytest

from engine import backbone, build, checkpoint, cli, config, evaluate, infer, loader, train
from engine.loop import Trainer
from models import list_models
from reader.common.errors import DataError
from tests.conftest import ROOT

CONFIGS = ROOT / "configs" / "sample"
MODELS = list_models()
_OVERFIT_SECONDS = 150  # of computing, on however busy a machine


def test_every_model_has_reader_metric_and_configurations():
    from metrics import list_metrics
    from reader import list_readers

    for name in MODELS:
        card = ROOT / "models" / name / "README.md"
        assert list(CONFIGS.glob(f"{name}*.yaml")) and card.is_file()
    assert set(MODELS) <= set(list_readers()) and set(MODELS) <= set(list_metrics())


@pytest.fixture(params=sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def name(request, sample_world, monkeypatch) -> str:
    monkeypatch.chdir(sample_world)  # sample configurations name their data relative to it
    frozen = load(request.param)["MODEL"].get("backbone")
    if frozen and not Path(frozen).exists():
        _make_backbone(Path(frozen))
    return request.param


def _make_backbone(path: Path) -> None:
    """What another configuration here trains, untrained."""
    cfgs = (load(other.stem) for other in CONFIGS.glob("*.yaml"))
    cfg = next(cfg for cfg in cfgs if Path(cfg["WEIGHTS"]["path"] or "") == path)
    checkpoint.save_state(path, checkpoint.parameters_of(build.model(cfg)))


def load(name: str, *overrides: str) -> config.Config:
    return config.load(CONFIGS / f"{name}.yaml", overrides)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda p: p.name)
def test_configurations_bind(path):
    if path.name == "_base_.yaml":
        return
    cfg = config.load(path)
    for split in ("train", "test", "infer"):
        assert build.reader(cfg, split).split == split
    build.metric(cfg)
    config.bind(build.model_class(cfg.model_name), build._arguments(cfg, "MODEL"), cfg.marks)


def test_overfits_one_batch(name, tmp_path):
    steady = ("TRAIN.schedule=constant", "TRAIN.warmup=0")  # one batch makes no epochs
    cfg = load(name, f"TRAIN.save_dir={tmp_path}", *steady)
    reader, model = build.reader(cfg, "train"), build.model(cfg)
    order = loader.training_order(reader, 0, 0)
    batch = reader.collate([reader[i] for i in order[:8]])
    trainer = Trainer(model, None, cfg.engine_args("TRAIN"))
    model.train()
    frozen = bool(cfg["MODEL"].get("backbone"))  # and untrained: the rest can do little
    first = loss = trainer.step_on(batch)["loss"]
    start = time.process_time()
    while loss >= (0.95 if frozen else 0.5) * first:
        assert time.process_time() - start < _OVERFIT_SECONDS, f"loss {first:.4g} -> {loss:.4g}"
        loss = trainer.step_on(batch)["loss"]


def test_real_and_random_batches_have_the_same_form(name):
    cfg = load(name)
    reader, model = build.reader(cfg, "train"), build.model(cfg)
    real = reader.collate([reader[i] for i in range(4)])
    examples = {k: v for k, v in model.example_batch(4).items() if isinstance(v, np.ndarray)}
    assert examples
    pictures = {np.dtype(np.uint8), np.dtype(np.float32)}  # as read, or changed at random
    for key, value in examples.items():  # padded axes vary
        kinds = {value.dtype, real[key].dtype}
        assert value.ndim == real[key].ndim and (len(kinds) == 1 or kinds == pictures), key
    for key in getattr(model, "feature_inputs", examples):
        if key in examples:
            assert examples[key].shape[-1] == real[key].shape[-1], key
    build.check_sizes(model, real)
    assert model.flops(real) > 0


def test_outline_has_the_shapes_of_the_network(name):
    """For --dry-run, and for benchmarks to know what fits."""
    cfg = load(name)
    outline, model = build.outline(cfg), build.model(cfg)
    shapes = [{n: p.shape for n, p in net.named_parameters()} for net in (outline, model)]
    assert shapes[0] == shapes[1]


def test_save_and_load_give_the_same_predictions(name, tmp_path):
    cfg = load(name)
    reader, model = build.reader(cfg, "test"), build.model(cfg)
    path = checkpoint.Checkpoints(tmp_path, "m").export("", model)
    other = build.model(cfg)
    for value in backbone.kept(other).values():
        value.set_value(value + 1.0)
    from engine import weights

    weights.load_into(other, path)
    model.eval(), other.eval()
    batch = loader.to_tensors(reader.collate([reader[0]]))
    for a, b in zip(model.predict(batch), other.predict(batch), strict=True):
        assert a.keys() == b.keys() and a["id"] == b["id"]
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def run(mode: str, name: str, *flags: str) -> None:
    args = cli.parse(mode, ["-c", str(CONFIGS / f"{name}.yaml"), *flags])
    cfg = cli.start(mode, args)
    {"train": train, "eval": evaluate, "predict": infer}[mode].main(args, cfg)


def test_train_resume_evaluate_predict(name, tmp_path, capsys):
    folder = tmp_path / "ck"
    brief = ("--save_dir", str(folder), "-o", "TRAIN.keep=0")
    run("train", name, "--epoch", "2", *brief)
    typed = load(name).model_name
    whole = checkpoint.load_state(folder / f"{typed}_epoch1.pdparams")
    # from the end of the first epoch once more
    run("train", name, "--epoch", "2", "--resume", str(folder / f"{typed}_epoch0"), *brief)
    again = checkpoint.load_state(folder / f"{typed}_final.pdparams")
    for key, value in whole.items():
        np.testing.assert_array_equal(again[key], value)
    results = tmp_path / "results"
    weights = ("--weights", str(folder / f"{typed}_final.pdparams"), "--save_dir", str(results))
    run("eval", name, *weights)
    scores = json.loads((results / f"{typed.upper()}_metrics.json").read_text())
    assert scores["missing"] == 0
    capsys.readouterr()
    predictions = results / f"{typed.upper()}_predictions.jsonl"
    run("eval", name, "--predictions", str(predictions), "--save_dir", str(tmp_path / "again"))
    assert json.loads((tmp_path / "again" / f"{typed.upper()}_metrics.json").read_text()) == scores
    capsys.readouterr()
    run("predict", name, *weights)
    assert Path(printed(capsys, "results")).parent == results
    if hasattr(build.metric(load(name)), "pages"):
        run("predict", name, *weights, "--visualize", "2")
        index = Path(printed(capsys, "pages"))
        assert index.parent.parent == results
        assert 2 <= len(list(index.parent.glob("*.html"))) <= 3


def test_debug_takes_three_batches_through_everything(name, tmp_path):
    start = time.monotonic()
    run("train", name, "--save_dir", str(tmp_path), "-o", "TRAIN.debug=true")
    assert time.monotonic() - start < 60
    folder = tmp_path / "debug"
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    cfg = load(name)
    reader, recipe = build.reader(cfg, "train"), cfg.engine_args("TRAIN")
    batches = min(3, -(-len(loader.training_order(reader, 0, 0)) // recipe.batch_size))
    assert 2 <= sum(x["tag"] == "train" for x in lines) <= 2 * batches
    scores = [x for x in lines if x["tag"] == "valid"]
    assert len(scores) >= 2 and all(x["missing"] == 0 for x in scores)
    written = {p.name for p in folder.iterdir()}
    stem = cfg.model_name
    assert {f"{stem}_best.pdparams", f"{stem}_final.pdparams", f"{stem}_epoch1.pdstate"} <= written


def printed(capsys, title: str) -> str:
    """The path after ``title:`` in the output."""
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith(f"{title}: "))
    path = line.removeprefix(f"{title}: ")
    assert Path(path).is_file()
    return path


def test_a_missing_record_counts_as_wrong(name):
    cfg = load(name)
    reader, metric = build.reader(cfg, "test"), build.metric(cfg)
    assert evaluate.score(metric, reader, [])["missing"] == len(reader.references()) > 0
    assert metric.result()[metric.primary] == (0 if metric.higher_is_better else np.inf)


def test_asks_a_raw_video(name, tmp_path, capsys):
    sample = Path("data/dataset/sample")
    video = sorted((sample / "videos").glob("*.mp4"))[0]
    cfg = load(name)
    reader = build.reader(cfg, "infer")
    taken = getattr(reader, "raw_inputs", inspect.signature(reader.from_raw).parameters)
    extra = {
        "subtitles": str(sample / "subtitles" / f"{video.stem}.srt"),
        "choices": "red|green|blue|yellow|purple",
        "regions": str(sample / "tvqa_plus" / "regions.json"),
    }
    flags = [x for key, value in extra.items() if key in taken for x in (f"--{key}", value)]
    path = checkpoint.Checkpoints(tmp_path, "m").export("", build.model(cfg))
    if "query" not in taken:
        flags.append("--query=What is it?")
        with pytest.raises(DataError, match="answers no questions"):
            run("predict", name, "--weights", str(path), "--video", str(video), *flags)
        return
    run("predict", name, "--weights", str(path), "--video", str(video), "--save_dir", str(tmp_path),
        "--query", "The red circle moves to the left.", *flags)  # fmt: skip
    printed(capsys, "results")
