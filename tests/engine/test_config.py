# SPDX-License-Identifier: Apache-2.0
"""Configuration: types, inheritance, precedence, and errors that name file and line."""

from __future__ import annotations

from typing import Literal

import pytest

from engine import build, cli, config
from engine.errors import ConfigError


def write(tmp_path, text: str, name: str = "m.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_defaults_come_from_the_schema_and_carry_their_types(tmp_path):
    cfg = config.load(write(tmp_path, "MODEL: {name: TALL}\nTRAIN: {learning_rate: 1e-3}\n"))
    assert cfg["TRAIN"]["learning_rate"] == 0.001
    assert cfg["TRAIN"]["batch_size"] == 16 and cfg["DATASET"]["name"] == "TALL"
    for section, keys in config.schema().items():
        for key, spec in keys.items():
            assert spec["help"] and key in cfg[section]
            assert (
                config.coerce(spec["default"], config._TYPES[spec["type"]], key) == spec["default"]
            )


def test_precedence_flag_over_override_over_file_over_base(tmp_path):
    write(
        tmp_path,
        "MODEL: {name: TALL}\nTRAIN: {epoch: 1, batch_size: 1, seed: 1, keep: 1}\n",
        "b.yaml",
    )
    path = write(tmp_path, "_BASE_: b.yaml\nTRAIN: {epoch: 2, batch_size: 2, seed: 2}\n")
    args = cli.parse("train", ["-c", str(path), "-o", "TRAIN.epoch=3", "-o", "TRAIN.seed=3",
                               "--epoch", "4"])  # fmt: skip
    train = cli.start("train", args)["TRAIN"]
    assert (train["epoch"], train["seed"], train["batch_size"], train["keep"]) == (4, 3, 2, 1)


def test_flags_reach_their_sections_only(tmp_path):
    sections = "".join(f"{s}: {{batch_size: 2}}\n" for s in ("TRAIN", "VALID", "TEST"))
    text = "MODEL: {name: TALL}\n" + sections
    args = cli.parse(
        "train", ["-c", str(write(tmp_path, text)), "--batch_size", "9", "--epoch", "0"]
    )
    cfg = cli.start("train", args)
    assert [cfg[s]["batch_size"] for s in ("TRAIN", "VALID", "TEST")] == [9, 9, 2]
    assert cfg["TRAIN"]["epoch"] == 10  # --epoch 0: as the file says


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "TRAIN:\n  batch_sise: 4\n",
            r"m.yaml:3: TRAIN.batch_sise: unknown key; did you mean batch_size",
        ),
        ("MODLE: {a: 1}\n", r"m.yaml:2: unknown section MODLE; did you mean MODEL"),
        ("TRAIN: {epoch: many}\n", r"m.yaml:2: TRAIN.epoch: expected int .*'many'"),
        ("TRAIN: {epoch: 1.5}\n", r"TRAIN.epoch: expected int .*1.5 \(float\)"),
        ("TRAIN: {use_gpu: maybe}\n", r"TRAIN.use_gpu: expected bool"),
        ("TRAIN: 5\n", r"m.yaml:2: TRAIN: expected a section of keys, found 5"),
        ("TRAIN: {epoch: 1}\nTRAIN: {epoch: 2}\n", r"m.yaml:3: TRAIN: written twice .*m.yaml:2"),
        ("TRAIN: {epoch: [\n", r"m.yaml:\d+: expected YAML"),
        ("TRAIN: !!python/object/apply:os.system ['true']\n", r"m.yaml:2: expected YAML"),
        ("TEST: {feats_dimen: wide}\n", r"m.yaml:2: TEST.feats_dimen: expected int, found 'wide'"),
        ("MODEL: {hiden_size: 3}\n", r"m.yaml:2: MODEL: written twice .*m.yaml:1"),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path, text, message):
    path = write(tmp_path, "MODEL: {name: TALL}\n" + text)
    with pytest.raises(ConfigError, match=message):
        cfg = config.load(path)
        for split in ("train", "test"):
            build.reader(cfg, split)


def test_unknown_model_key_names_the_nearest(tmp_path):
    cfg = config.load(write(tmp_path, "MODEL:\n  name: TALL\n  hiden_size: 3\n"))
    with pytest.raises(ConfigError, match=r"m.yaml:3: MODEL.hiden_size: .* hidden_size\?"):
        build.model(cfg)


def test_inheritance_cycle_and_missing_base(tmp_path):
    write(tmp_path, "_BASE_: b.yaml\n", "a.yaml")
    write(tmp_path, "_BASE_: a.yaml\n", "b.yaml")
    with pytest.raises(ConfigError, match="inherits from itself"):
        config.load(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="expected a YAML file"):
        config.load(write(tmp_path, "_BASE_: gone.yaml\n"))


@pytest.mark.parametrize("item", ["TRAIN.epoch", "epoch=3", "TRAIN..a=3", "=3"])
def test_malformed_override(tmp_path, item):
    with pytest.raises(ConfigError, match=r"-o: expected SECTION\.key=value"):
        config.load(write(tmp_path, "MODEL: {name: TALL}\n"), [item])


def test_override_values_are_typed(tmp_path):
    path = write(tmp_path, "MODEL: {name: TALL}\n")
    cfg = config.load(
        path, ["TRAIN.learning_rate=1e-2", "TRAIN.milestones=[0.5, 1e-1]", "INFER.filelist="]
    )
    assert cfg["TRAIN"]["learning_rate"] == 0.01
    assert cfg["TRAIN"]["milestones"] == [0.5, 0.1]
    assert cfg["INFER"]["filelist"] is None


def test_model_name_flag_must_agree_with_the_file(tmp_path):
    path = write(tmp_path, "MODEL: {name: TALL}\n")
    assert config.load(path, model_name="tall").model_name == "tall"
    with pytest.raises(ConfigError, match="--model_name STAGE"):
        config.load(path, model_name="STAGE")


def test_files_of_the_1_8_generation_train_with_its_adam(tmp_path):
    old = write(
        tmp_path, "MODEL: {name: TALL}\nTRAIN: {epoch: 1, feats_dimen: 8}\nTEST: {feats_dimen: 9}\n"
    )
    new = write(
        tmp_path,
        "MODEL: {name: TALL}\nDATASET: {feats_dimen: 7}\nTEST: {feats_dimen: 9}\n",
        "n.yaml",
    )
    assert config.load(old)["TRAIN"]["adam_eps_mode"] == "fluid"
    cfg = config.load(new)
    assert cfg["TRAIN"]["adam_eps_mode"] == "standard"
    assert cfg.reader_args("TRAIN") == {("DATASET", "feats_dimen"): 7}
    assert cfg.reader_args("TEST") == {("TEST", "feats_dimen"): 9}
    assert config.load(old).reader_args("TRAIN") == {("TRAIN", "feats_dimen"): 8}


def test_dump_loads_again(tmp_path):
    cfg = config.load(write(tmp_path, "MODEL: {name: TALL}\nTRAIN: {learning_rate: 1e-8}\n"))
    again = config.load(write(tmp_path, cfg.dump(), "again.yaml"))
    assert again.sections == cfg.sections and again.digest() == cfg.digest()


def test_bind_types_follow_the_signature():
    def target(
        rate: float, names: list[str], kind: Literal["a", "b"] = "a", size: int | None = None
    ): ...

    ok = {("S", "rate"): 1, ("S", "names"): ["x"], ("S", "kind"): "b", ("S", "size"): None}
    assert config.bind(target, ok, {}) == {"rate": 1.0, "names": ["x"], "kind": "b", "size": None}
    for key, value in {"rate": "fast", "names": "x", "kind": "c", "size": True}.items():
        with pytest.raises(ConfigError, match=f"S.{key}: expected"):
            config.bind(target, {("S", key): value}, {})


@pytest.mark.parametrize(
    ("text", "value"), [("True", True), ("1", True), ("no", False), ("None", None), ("OFF", False)]
)
def test_boolean_flags(text, value):
    assert cli.boolean(text) is value


def test_boolean_flag_rejects_anything_else():
    with pytest.raises(SystemExit) as stopped:
        cli.parse("train", ["--model_name", "TALL", "--use_gpu", "perhaps"])
    assert stopped.value.code == 2
