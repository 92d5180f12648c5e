# SPDX-License-Identifier: Apache-2.0
"""Evaluation is prediction, then scoring of the file that prediction wrote."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import broken, build, dist, loader
from .checkpoint import replace_text, trained_features
from .config import Config, find
from .errors import DataError
from .log import logger, progress


def predictions(
    model: Any,
    reader: Any,
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    log_interval: int = 0,
    batches: int | None = None,
) -> list[dict]:
    """Records of a reader's items in their order, on any number of processes the same.

    Every process gets the full list. Broken items have no records; process 0 tells of them.

    Args:
        batches: only the first so many; default: all.
    """
    import paddle

    chunks = loader.chunks(reader, batch_size)[:batches]
    mine = list(range(dist.rank(), len(chunks), dist.world_size()))
    stream = loader.load(reader, [chunks[c] for c in mine], num_workers)
    model.eval()
    records: dict[int, list[dict]] = {}
    left_out: dict[int, list[str]] = {}
    has_text = hasattr(model, "progress_text")
    with paddle.no_grad():
        for n, (chunk, batch) in enumerate(progress(zip(mine, stream, strict=True), len(mine))):
            if n == 0:
                build.check_sizes(model, batch)
            left_out[chunk] = batch.pop(loader.BROKEN, [])
            records[chunk] = model.predict(loader.to_tensors(batch)) if batch else []
            if log_interval and n % log_interval == 0:
                text = model.progress_text(records[chunk]) if has_text else f" of {len(mine)}"
                logger.info("[EVAL] Batch %d%s", n, text)
    messages = _joined(dist.gather(left_out))
    if dist.process() == 0:
        broken.tell(messages)
    return _joined(dist.gather(records))


def _joined(parts: list[dict[int, list]]) -> list:
    """What the processes found, in order of its numbers."""
    merged = {number: found for part in parts for number, found in part.items()}
    return [each for number in sorted(merged) for each in merged[number]]


def score(
    metric: Any, reader: Any, records: Iterable[dict], partial: bool = False
) -> dict[str, float]:
    """Score records against the reader's references.

    Args:
        partial: leave out references without a record; otherwise they count as wrong.
    """
    records, references = list(records), reader.references()
    if partial:
        references = {r["id"]: references[r["id"]] for r in records if r["id"] in references}
    metric.expect(references)
    metric.update(records)
    return metric.result()


def identity_of(reader: Any) -> dict[str, Any]:
    """Role -> what made the features that a reader gives, as far as it is known."""
    return getattr(reader, "feature_identity", None) or {}


def check_features(trained: dict[str, Any] | None, given: dict[str, Any], where: str) -> None:
    """Refuse features of another extractor than the network was trained on.

    Roles that either side knows nothing of are not compared: published features bear no stamp.

    Raises:
        DataError: they differ; names the role and what differs.
    """
    for role, found in given.items():
        expected = (trained or {}).get(role)
        if not expected or not found or expected == found:
            continue
        keys = sorted(k for k in {*expected, *found} if expected.get(k) != found.get(k))
        differ = ", ".join(f"{k} {expected.get(k)} (found {found.get(k)})" for k in keys)
        raise DataError(
            f"{where}: expected {role} features as in training: {differ}; extract them again with "
            "the extractor of the training"
        )


def validator(
    cfg: Config, model: Any, features: dict[str, Any] | None = None
) -> tuple[Callable[[], dict] | None, tuple[str, bool]]:
    """A function that scores the validation set, and the number that chooses the best epoch.

    None without a VALID section, and for files of the 1.8 generation, whose VALID repeats the
    training data and was never evaluated.
    """
    if not cfg.has_valid or cfg.legacy:
        logger.info("no validation: the configuration has no VALID section beside DATASET")
        return None, ("", True)
    reader, metric = build.reader(cfg, "valid"), build.metric(cfg)
    len(reader)  # missing data are said before an epoch is trained
    check_features(features, identity_of(reader), "VALID")
    options, brief = cfg.engine_args("VALID"), cfg["TRAIN"]["debug"]
    limits = {"batch_size": options.batch_size or cfg["TRAIN"]["batch_size"]}
    limits |= {"num_workers": options.num_workers}
    limits |= {"batches": loader.DEBUG_BATCHES if brief else None}

    def validate() -> dict[str, float]:
        scores = score(metric, reader, predictions(model, reader, **limits), partial=brief)
        logger.info("[TEST] Finish: %s", ", ".join(f"{k} {v:.4g}" for k, v in scores.items()))
        return scores

    return validate, (metric.primary, metric.higher_is_better)


def write_predictions(path: Path, records: Iterable[dict]) -> None:
    """One JSON object a line; arrays as {dtype, shape, base64}. Replaces the file in one step."""
    lines = [json.dumps(r, default=_encode, ensure_ascii=False) for r in records]
    replace_text(path, "".join(line + "\n" for line in lines))


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        text = base64.b64encode(data.tobytes()).decode()
        return {"dtype": data.dtype.str, "shape": list(data.shape), "base64": text}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"records hold JSON values and arrays, not {type(value).__name__}")


def read_predictions(path: Path) -> Iterator[dict]:
    """Records of a file written by ``write_predictions``.

    Raises:
        DataError: the file is missing or a line is not a record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--predictions: expected a predictions.jsonl, found {path} ({error})"
        ) from None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line, object_hook=_decode)
            if not isinstance(record, dict) or not isinstance(record.get("id"), str):
                raise ValueError("no text under the key id")
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}:{number}: expected a record with an id, found {error}"
            ) from None
        yield record


def _given_predictions(metric: Any, reader: Any, path: Path) -> Iterable[dict]:
    """Records of ``--predictions``: ours, or a published result file that the metric reads."""
    if not path.is_file():
        raise DataError(f"--predictions: expected a result file, {path} not exist.")
    if not hasattr(metric, "read") or _holds_records(metric, path):
        return read_predictions(path)
    metric.expect(reader.references())
    return metric.read(path)


def _holds_records(metric: Any, path: Path) -> bool:
    """Is it a file of ours? Published ones in JSON lines (``reads_lines``) have other keys."""
    if path.suffix != ".jsonl" or not getattr(metric, "reads_lines", False):
        return path.suffix == ".jsonl"
    with open(path, "rb") as file:
        first = file.readline()
    try:
        return "id" in json.loads(first)
    except (ValueError, TypeError):
        return True  # reading it will say what is wrong


def _decode(value: dict) -> Any:
    if value.keys() != {"dtype", "shape", "base64"}:
        return value
    dtype = np.dtype(value["dtype"])
    if dtype.kind not in "biufUS":
        raise ValueError(f"an array of dtype {dtype}")
    raw = base64.b64decode(value["base64"], validate=True)
    return np.frombuffer(raw, dtype).reshape(value["shape"])


def main(args: Any, cfg: Config) -> None:
    """What eval.py does: predict (or read predictions), score, write, print the table."""
    folder = Path(cfg["TEST"]["save_dir"])
    metric, reader = build.metric(cfg), build.reader(cfg, "test")
    if args.predictions:
        records: Iterable[dict] = _given_predictions(metric, reader, Path(args.predictions))
    else:
        records = run(cfg, reader, args)
        if dist.process() != 0:
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_predictions(folder / f"{cfg.model_name.upper()}_predictions.jsonl", records)
    scores = score(metric, reader, records)
    folder.mkdir(parents=True, exist_ok=True)
    for line in metric.report():
        logger.info(line)
    logger.info("[EVAL] eval finished.")
    written = metric.write(folder, cfg.model_name, "test")
    replace_text(folder / f"{cfg.model_name.upper()}_metrics.json", json.dumps(scores, indent=2))
    for line in table(scores):
        print(line)
    print(f"results: {Path(written).resolve()} and files beside it")


def run(cfg: Config, reader: Any, args: Any) -> list[dict]:
    """Records of the configured network with its weights on ``reader``."""
    from . import runtime

    options = cfg.engine_args("TEST")
    use_gpu = cfg["TRAIN"]["use_gpu"] if options.use_gpu is None else options.use_gpu
    runtime.select_device(use_gpu)
    build.join(cfg)
    len(reader)  # missing data are said before weights are fetched
    model, trained = load_model(cfg, args.weights)
    check_features(trained, identity_of(reader), "TEST")
    return predictions(
        model,
        reader,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        log_interval=args.log_interval,
    )


def load_model(cfg: Config, flag: str | None) -> tuple[Any, dict[str, Any]]:
    """The network with the weights of --weights, WEIGHTS.path or the published ones.

    Returns:
        the network, and the identity of the features that it was trained on, where known.
    """
    from . import weights

    model = build.model(cfg)
    path = flag or cfg["WEIGHTS"]["path"]
    if not path:
        files = cfg["WEIGHTS"]["files"] or getattr(model, "published_weights", [])
        path = weights.fetch(files)
    path = weights.resolve(find(path))
    weights.load_into(model, path)
    logger.info("load test weights from %s", path)
    return model, trained_features(path)


def table(scores: dict[str, float]) -> list[str]:
    """Scores as aligned lines."""
    width = max(map(len, scores), default=0)
    return [
        f"{k:<{width}}  {v:.4f}" if isinstance(v, float) else f"{k:<{width}}  {v}"
        for k, v in scores.items()
    ]
