# SPDX-License-Identifier: Apache-2.0
"""Result files of the five multiple-choice data sets: what their evaluations take, and ours."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import DataError
from .files import read_json, write_json
from .llama_choices import LETTERS

Predicted = Iterable[tuple[str, Mapping[str, Any], int, list[float | None] | None]]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # of files in archives, so that equal results are equal files


def lines(predicted: Predicted) -> Iterator[dict[str, Any]]:
    """Our own form, an object per question; a loss that is no number is null."""
    for row, (name, reference, option, losses) in enumerate(predicted):
        yield {
            "qid": reference.get("index", row),
            "vid": str(reference.get("video", name)),
            "pred": option,
            "pred_letter": LETTERS[option],
            "scores": losses,
            "answer": reference.get("answer"),
            "qtype": reference.get("type"),
        }


def write_lines(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> Path:
    """An object a line; written under another name, then renamed."""
    path = Path(path)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return _replace(path, text.encode())


def _replace(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)
    return path


def write_submission(folder: str | os.PathLike, dataset: str, predicted: Predicted) -> Path | None:
    """What the data set's own evaluation takes; None of one without such a form.

    nextqa  ``submission.json`` {id: {prediction, answer where known}}
    star    ``submission.json`` {type: [{question_id, answer}]}
    tvqa    ``submission.json`` {qid: option}
    vlep    ``vlep_dev_submission.jsonl`` (``test`` where answers are not known) with lines
            {example_id, pred_ans}, and the same alone in a ``.zip``
    """
    rows = [(name, reference, option) for name, reference, option, _ in predicted]
    path = Path(folder) / "submission.json"
    if dataset == "nextqa":
        document = {}
        for name, reference, option in rows:
            truth = {key: reference[key] for key in ("answer",) if reference.get(key) is not None}
            document[name] = {"prediction": option} | truth
        return write_json(path, document)
    if dataset == "star":
        groups: dict[str, list[dict]] = {}
        for name, reference, option in rows:
            kind = reference.get("type") or name.partition("_")[0]
            groups.setdefault(kind, []).append({"question_id": name, "answer": option})
        return write_json(path, groups)
    if dataset == "tvqa":
        return write_json(path, {name: option for name, _, option in rows})
    return _write_vlep(Path(folder), rows) if dataset == "vlep" else None


def _write_vlep(folder: Path, rows: list[tuple]) -> Path:
    split = "dev" if any(r.get("answer") is not None for _, r, _ in rows) else "test"
    path = folder / f"vlep_{split}_submission.jsonl"
    write_lines(path, ({"example_id": int(name) if name.isdecimal() else name, "pred_ans": option}
                       for name, _, option in rows))  # fmt: skip
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo(path.name, _EPOCH), path.read_bytes(), zipfile.ZIP_DEFLATED)
    _replace(path.with_suffix(".zip"), archive.getvalue())
    return path


# ---- reading


def read(
    path: str | os.PathLike, dataset: str, references: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Records of a result file in our form (``.jsonl``) or in that of ``write_submission``.

    Args:
        references: our form names questions by their ``index``.

    Raises:
        DataError: the file is missing or in neither form.
    """
    path = Path(path).expanduser()
    if _suffix(path) in (".jsonl", ".zip"):
        return _from_lines(path, references)
    document = read_json(path)
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected an object, found {type(document).__name__}")
    entries: Iterable[tuple[str, Any]] = document.items()
    if dataset == "star":
        entries = [_star(path, row) for rows in document.values() for row in _list(path, rows)]
    elif dataset == "nextqa":
        entries = [(name, _entry(path, name, value)) for name, value in document.items()]
    return [{"id": name, "answer": answer} for name, answer in entries]


def _suffix(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def _list(path: Path, rows: Any) -> list:
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected {{type: [answers]}}, found {str(rows)[:80]}")
    return rows


def _star(path: Path, row: Any) -> tuple[str, Any]:
    if not isinstance(row, dict) or not {"question_id", "answer"} <= row.keys():
        raise DataError(f"{path}: expected {{question_id, answer}}, found {str(row)[:80]}")
    return str(row["question_id"]), row["answer"]


def _entry(path: Path, name: str, value: Any) -> Any:
    if not isinstance(value, dict) or "prediction" not in value:
        raise DataError(f"{path}: {name}: expected {{prediction, ...}}, found {str(value)[:80]}")
    return value["prediction"]


def _from_lines(path: Path, references: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = {r.get("index", row): name for row, (name, r) in enumerate(references.items())}
    records = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: expected a JSON object, found: {error}") from None
        if isinstance(row, dict) and {"example_id", "pred_ans"} <= row.keys():
            records.append({"id": str(row["example_id"]), "answer": row["pred_ans"]})
            continue
        if not isinstance(row, dict) or not {"qid", "pred"} <= row.keys():
            raise DataError(
                f"{where}: expected an object with qid and pred, or example_id and pred_ans, "
                f"found {line[:80]}"
            )
        record = {"id": names.get(row["qid"], str(row["qid"])), "answer": row["pred"]}
        if isinstance(losses := row.get("scores"), list):
            record["scores"] = [float("nan") if loss is None else loss for loss in losses]
        records.append(record)
    return records


def _text(path: Path) -> str:
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                inside = archive.namelist()
                if len(inside) != 1:
                    raise ValueError(f"{len(inside)} files instead of one")
                return archive.read(inside[0]).decode()
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except FileNotFoundError:
        raise DataError(f"{path}: expected a result file, found none; check the path") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: expected a result file, found: {error}") from None
