# SPDX-License-Identifier: Apache-2.0
"""prepare.py of the five data sets of LLaMA-VQA on made-up files."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile

import pytest

from reader.common.errors import DataError
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "llama_vqa"
SETS = ["nextqa", "star", "dramaqa", "vlep", "tvqa"]


def script(dataset):
    """The module of a data set's prepare.py."""
    path = ROOT / "data" / "dataset" / dataset / "prepare.py"
    spec = importlib.util.spec_from_file_location(f"prepare_{dataset}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """A function that copies a data set's made-up files."""

    def copy(dataset):
        shutil.copytree(GOLDEN / "raw" / "data" / dataset, tmp_path / dataset)
        return tmp_path / dataset

    return copy


def run(dataset, folder, *more, tokenizer=GOLDEN / "tiny_sp.model"):
    script(dataset).main(["--folder", str(folder), "--tokenizer", str(tokenizer), *more])


@pytest.mark.parametrize("dataset", SETS)
def test_complete_folders(dataset, folder, capsys):
    run(dataset, folder(dataset))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("tiny_sp.model: 640 pieces")
    assert lines[-1].endswith(f"./configs/llama_vqa_{dataset}.yaml")
    counts = {"nextqa": 8, "star": 4, "dramaqa": 3, "vlep": 4, "tvqa": 4}
    assert f"{counts[dataset]} questions" in lines[1]
    assert sum("tokens" in line and "in the mean" in line for line in lines) == 2
    assert sum("features: " in line for line in lines) == 2
    assert any("features: missing for" in line for line in lines)


def test_what_is_told(folder, capsys):
    run("vlep", folder("vlep"), "--max_seq_len", "100")
    out = capsys.readouterr().out
    assert "lose the end of their dialogue in 100" in out
    run("nextqa", folder("nextqa"), "--max_seq_len", "100")
    out = capsys.readouterr().out
    assert "have no room in 100" in out and "(published: 34132)" in out and "CH 1, CW 1" in out
    assert "test.csv: not there, only needed for predictions" in out


def test_missing_files(folder, tmp_path, capsys):
    place = folder("tvqa")
    (place / "clipvitl14.pth").unlink()
    (place / "tvqa_val.jsonl").unlink()
    shutil.rmtree(place / "tvqa_subtitles")
    with pytest.raises(DataError) as caught:
        run("tvqa", place, tokenizer=tmp_path / "none.model")
    for name in ("clipvitl14.pth", "none.model", "tvqa_val.jsonl", "tvqa_subtitles", "README.md"):
        assert name in str(caught.value)
    assert "tvqa_val.jsonl: not there" in capsys.readouterr().out
    command = [sys.executable, str(ROOT / "data/dataset/star/prepare.py"), "--folder", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_subtitles_are_unpacked(folder, capsys):
    place = folder("tvqa")
    (place / "tvqa_subtitles").rename(place / "given")
    archive = place / "tvqa_subtitles.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (place / "given").iterdir():
            file.write(path, f"tvqa_subtitles/{path.name}")
        file.writestr("../../outside.srt", "1\n")
        file.writestr("__MACOSX/._a.srt", "?")
    run("tvqa", place)
    assert "4 files of subtitles" in capsys.readouterr().out
    names = {path.name for path in (place / "tvqa_subtitles").iterdir()}
    assert names == {path.name for path in (place / "given").iterdir()} | {"outside.srt"}
    assert not (place.parent.parent / "outside.srt").exists()
    run("tvqa", place)
    assert "files of subtitles" not in capsys.readouterr().out
    for content in (b"no zip", archive.read_bytes()[:200]):
        shutil.rmtree(place / "tvqa_subtitles", ignore_errors=True)
        archive.write_bytes(content)
        with pytest.raises(DataError, match=r"expected a zip of \.srt files"):
            run("tvqa", place)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "1")
    with pytest.raises(DataError, match=r"expected \.srt files, found none"):
        run("tvqa", place)
