# SPDX-License-Identifier: Apache-2.0
"""How TALL's golden numbers are checked; used by tools/parity.py and by the tests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import build, checkpoint, config, evaluate, formats, optim
from engine.loop import Trainer
from metrics.common.grounding import nms, recall_hits
from metrics.tall import Metric
from reader.common.window_index import WindowIndex
from reader.common.windows import parse_name, window_grid, window_name
from reader.tall import Reader

if TYPE_CHECKING:
    from tools.parity import Case

_PARAMETERS = ("v2s_lt_weights", "s2s_lt_weights", "mid_out_weights", "sim_mat_weights")


def _model(parameters: dict[str, np.ndarray], **options: Any) -> Any:
    """A model of the sizes that the parameters have, holding them."""
    from models import get_model

    cls = get_model("tall")
    parameters = cls.convert(parameters)
    (visual, semantic), sentence = (
        parameters["v2s_lt_weights"].shape,
        parameters["s2s_lt_weights"].shape,
    )
    model = cls(
        visual_feature_dim=visual,
        sentence_embedding_size=sentence[0],
        semantic_size=semantic,
        hidden_size=parameters["mid_out_weights"].shape[0],
        with_bias="v2s_lt_biases" in parameters,
        **options,
    )
    missing, unexpected = model.set_state_dict(parameters)
    assert not missing and not unexpected, (missing, unexpected)
    return model


def _batch(values: dict[str, np.ndarray]) -> dict[str, Any]:
    import paddle

    return {k: paddle.to_tensor(v.astype(np.float32)) for k, v in values.items()}


def _recipe(meta: dict[str, Any], eps_mode: str) -> SimpleNamespace:
    adam = meta["adam"]
    return SimpleNamespace(
        optimizer="adam",
        learning_rate=meta["learning_rate"],
        clip_norm=meta["clip_norm"],
        beta1=adam["beta1"],
        beta2=adam["beta2"],
        epsilon=adam["epsilon"],
        adam_eps_mode=eps_mode,
        weight_decay=0.0,
    )


def _train(model: Any, batch: dict, recipe: SimpleNamespace, steps: int) -> tuple[list, dict, Any]:
    """Losses before each update, {step: parameters after it}, the optimiser."""
    optimizer = optim.build(model, recipe)
    losses, after = [], {}
    for step in range(steps):
        terms = model.loss(model(batch), batch)
        terms["loss"].backward()
        losses.append(float(terms["loss"]))
        optim.clip_gradients(model.parameters(), recipe.clip_norm)
        optim.set_fluid_epsilon(optimizer, recipe, step)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        after[step] = checkpoint.parameters_of(model)
    return losses, after, optimizer


def check_net(case: Case) -> None:
    """Forward, losses, gradients and optimiser trajectories of the published network."""
    z, meta = case.npz, case.json
    meta.note("source", "layout", "seed")
    parameters, batch = z.under("param/"), _batch(z.under("in/"))
    model = _model(parameters, regression_weight=meta["lambda_regression"])
    sizes = ("visual_feature_dim", "sentence_embedding_size", "semantic_size", "hidden_size")
    shapes = (*parameters["v2s_lt_weights"].shape[:1], *parameters["s2s_lt_weights"].shape)
    shapes += parameters["mid_out_weights"].shape[:1]
    case.equal("sizes", [meta[s] for s in sizes], list(shapes))
    case.equal("output_size, batch_size", [meta["output_size"], meta["batch_size"]],
               [parameters["sim_mat_weights"].shape[0], len(z["in/visual"])])  # fmt: skip
    out = model(batch)
    case.close("out/sim_reg_mat", out, z["out/sim_reg_mat"], 1e-6, 1e-6)
    case.close("out/eval_pairs", _pair_by_pair(model, batch), z["out/eval_pairs"], 1e-6, 1e-6)
    terms = model.loss(out, batch)
    for ours, golden in (("loss", "total"), ("loss_align", "align"), ("loss_reg", "reg")):
        case.close(f"loss/{golden}", terms[ours], z[f"loss/{golden}"], 1e-6, 1e-6)
    terms["loss"].backward()
    for name, parameter in model.named_parameters():
        case.close(f"grad/{name}", parameter.grad, z[f"grad/{name}"], 1e-6, 1e-5)
    model.clear_gradients()
    _check_trajectories(case, parameters, batch)


def _pair_by_pair(model: Any, batch: dict) -> np.ndarray:
    """(Q, T, 3), each pair in a forward of its own, as the original evaluation did."""
    visual, sentence = batch["visual"], batch["sentence"]
    rows = [
        [model({"visual": v[None], "sentence": s[None]}).numpy().reshape(-1) for v in visual]
        for s in sentence
    ]
    return np.asarray(rows)


def _check_trajectories(case: Case, parameters: dict, batch: dict) -> None:
    z, meta = case.npz, case.json
    weight = meta["lambda_regression"]
    model = _model(parameters, regression_weight=weight)
    losses, after, optimizer = _train(model, batch, _recipe(meta, "fluid"), meta["steps"])
    golden = [float(z[f"step/{k}/loss"]) for k in range(meta["steps"])]
    case.close("step/*/loss", losses, golden, 1e-6, 1e-6)
    _, state = checkpoint.state_of(model, optimizer)
    for name in parameters:
        case.close(f"after_step0/{name}", after[0][name], z[f"after_step0/{name}"], 5e-6)
        case.close(f"after/{name}", after[meta["steps"] - 1][name], z[f"after/{name}"], 5e-6)
        for moment in ("moment1", "moment2"):
            ours = state[f"{name}_{moment}_0"]
            case.close(f"adam/{moment}/{name}", ours, z[f"adam/{moment}/{name}"], 1e-8, 1e-6)
    model = _model(parameters, regression_weight=weight)
    _, after, _ = _train(model, batch, _recipe(meta, "standard"), meta["steps"])
    for name in parameters:
        # A stock Adam step is lr * g / |g| for tiny gradients: their rounding, 1e-6 of the largest
        # gradient, comes back as a share of lr.
        gradient = np.abs(z[f"grad/{name}"])
        rounding = np.minimum(1.0, 1e-6 * gradient.max() / np.maximum(gradient, 1e-30))
        tolerance = 5e-6 + meta["learning_rate"] * rounding
        ours, golden = after[meta["steps"] - 1][name], z[f"after_paddle3_adam/{name}"]
        case.close(f"after_paddle3_adam/{name}", ours, golden, tolerance)


def check_net_tf(case: Case) -> None:
    """The TensorFlow variant: biases, other names and layouts."""
    z = case.npz
    model, batch = _model(z.under("param/")), _batch(z.under("in/"))
    out = model(batch)
    case.close(
        "out/sim_reg_mat_bbc", out.transpose([1, 2, 0]), z["out/sim_reg_mat_bbc"], 1e-6, 1e-6
    )
    terms = model.loss(out, batch)
    for ours, golden in (("loss", "total"), ("loss_align", "align"), ("loss_reg", "reg")):
        case.close(f"loss/{golden}", terms[ours], z[f"loss/{golden}"], 1e-6)
    terms["loss"].backward()
    grads = model.convert(z.under("grad/"))
    for name, parameter in model.named_parameters():
        case.close(f"grad/{name}", parameter.grad, grads.pop(name), 1e-6)
    case.equal("gradients left over", list(grads), [])


def check_score_pairs(case: Case) -> None:
    """All windows against all sentences as one matrix equals one pair at a time."""
    z = case.npz
    model, batch = _model(z.under("param/")), _batch(z.under("in/"))
    scores = model(batch).transpose([1, 2, 0])
    case.close("out/scores", scores, z["out/scores"], 1e-6)
    case.close("pair by pair", _pair_by_pair(model, batch), scores, 1e-6)


def check_config_merge(case: Case) -> None:
    """Parsing of literals, and flags over sections."""
    golden = case.json
    text = golden["yaml"]
    case.equal("parsed", _tagged(config.parse(text)[0]), golden.plain("parsed"))
    for n, merge in enumerate(golden["merge"]):
        tree, _ = config.parse(text)
        ours = _tagged(config.merge(tree, merge["section"], merge["args"]))
        case.equal(f"merge {n} ({merge['section']})", ours, merge["result"])


def _tagged(value: Any) -> Any:
    if isinstance(value, tuple):
        return {"__tuple__": [_tagged(v) for v in value]}
    if isinstance(value, dict):
        return {k: _tagged(v) for k, v in value.items()}
    return [_tagged(v) for v in value] if isinstance(value, list) else value


def check_checkpoint(case: Case) -> None:
    """Every format of the releases gives the same parameters."""
    z = case.tracked(".npz")
    z.note("loss/per_step")  # belongs to the training case
    _check_weight_files(case, z.under("param/"), z.under("after/"))


def _check_weight_files(case: Case, initial: dict, after: dict) -> None:
    shapes = {k: v.shape for k, v in after.items()}
    folders = set()
    for name in case.files:
        path = Path(name)
        if path.suffix == "":
            folders.add(case.file(name).parent)
        elif path.suffix == ".pdopt":
            _check_optimiser(case, name, formats.load_state(case.file(name)), after)
        elif path.suffix in (".pdparams", ".pdckpt"):
            state = formats.load_state(case.file("/" + path.name), shapes)
            golden = initial if "init" in path.stem else after
            for key, value in golden.items():
                case.equal(f"{name}: {key}", state[key], value)
    for folder in folders:
        state = formats.load_state(folder, shapes)
        case.equal(f"{folder.name}/", sorted(state), sorted(after))
        for key, value in after.items():
            case.equal(f"{folder.name}/{key}", state[key], value)


def _check_optimiser(case: Case, name: str, state: dict, parameters: dict) -> None:
    """Adam's accumulators of release 1.8 fit our parameters and enter our optimiser."""
    model = _model(parameters)
    adam = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    recipe = _recipe({"learning_rate": 1e-3, "clip_norm": None, "adam": adam}, "fluid")
    optimizer = optim.build(model, recipe)
    used = checkpoint.restore_optimiser(model, optimizer, state)
    case.equal(f"{name}: entries used", used, len(state) - 1)  # all but learning_rate_0
    _, ours = checkpoint.state_of(model, optimizer)
    for key, value in state.items():
        if key in ours:
            case.equal(f"{name}: {key}", np.asarray(ours[key]).reshape(value.shape), value)


@contextlib.contextmanager
def _data_set(case: Case) -> Iterator[config.Config]:
    """The case's data set unpacked, its configuration loaded, relative paths valid."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(case.file(".zip")) as archive:
            archive.extractall(folder)
        os.chdir(folder)
        try:
            yield config.load(case.file(".yaml"))
        finally:
            os.chdir(before)


def check_reader(case: Case) -> None:
    """Matching, order, batches and contexts of the data set reader."""
    golden, z = case.json, case.npz
    with _data_set(case) as cfg:
        case.equal("batch_size", cfg["TRAIN"]["batch_size"], golden["batch_size"])
        _check_training_data(case, build.reader(cfg, "train"), golden, z)
        case.equal("valid_num_batches", int(evaluate.validator(cfg, None)[0] is not None),
                   golden["valid_num_batches"])  # fmt: skip
        _check_test_data(case, build.reader(cfg, "test"), golden, z)
        infer = build.reader(cfg, "infer")
        infer.max_windows = 10**9
        items = [infer[i] for i in range(len(infer))]
        names = [n for i in items for n in _window_names(i)]
        case.equal("infer_clips", names, golden["infer_clips"])
        case.equal("infer_movies", [i["id"] for i in items], golden["infer_movies"])
        case.equal("infer_sents", [_moment_name(q) for i in items for q in i["query_ids"]],
                   golden["infer_sents"])  # fmt: skip
        count = sum(len(i["windows"]) * len(i["query_ids"]) for i in items)
        case.equal("infer_num_items", count, golden["infer_num_items"])


def _moment_name(query_id: str) -> str:
    return query_id.rpartition("#")[0]


def _window_names(item: dict) -> list[str]:
    return [window_name(item["id"], int(a), int(b)) for a, b in item["windows"]]


def _check_training_data(case: Case, reader: Reader, golden: Any, z: Any) -> None:
    matches, names = reader.matches, reader.windows.names
    triples = [
        [reader.queries.names[m], m, f"{names[w]}.npy", *o]
        for w, m, o in zip(*(part.tolist() for part in matches), strict=True)
    ]
    case.equal("matched", triples, golden["matched"])
    case.equal("clip_sentence_pairs", reader.queries.names, golden["clip_sentence_pairs"])
    case.equal("sent_vecs", reader.queries.vectors, z["sent_vecs"])
    case.equal("train_windows", len(names), golden["train_windows"])
    count = reader.context_num
    context = reader.windows.context(np.arange(len(names)), count, reader.context_size, False)
    real = context != np.arange(len(names))[:, None]  # (n, 2 * count + 1)
    left, right = real[:, :count].any(1).tolist(), real[:, count + 1 :].any(1).tolist()
    found = [[f"{name}.npy", a, b] for name, a, b in zip(names, left, right, strict=True) if a or b]
    case.equal("windows_with_context", found, golden["windows_with_context"])
    size = golden["batch_size"]
    for epoch in sorted(int(k.removeprefix("order_epoch")) for k in golden if "order_epoch" in k):
        order = reader.order(epoch)
        case.equal(
            f"order_epoch{epoch}", [triples[i][:3] for i in order], golden[f"order_epoch{epoch}"]
        )
        case.equal(
            f"num_batches_epoch{epoch}", len(order) // size, golden[f"num_batches_epoch{epoch}"]
        )
        for k in range(len(order) // size):
            if f"train/ep{epoch}/batch{k}/visual" not in z:
                continue
            batch = reader.collate([reader[i] for i in order[k * size : (k + 1) * size]])
            for part in ("visual", "sentence", "offset"):
                key = f"train/ep{epoch}/batch{k}/{part}"
                case.equal(key, batch[part], z[key])


def _check_test_data(case: Case, reader: Reader, golden: Any, z: Any) -> None:
    reader.max_windows = 10**9  # one item per video
    items = {item["id"]: item for item in (reader[i] for i in range(len(reader)))}
    case.equal("test_pairs", reader.queries.names, golden["test_pairs"])
    case.equal("test_movies_sorted", sorted(items), golden["test_movies_sorted"])
    names = [n for i in items.values() for n in _window_names(i)]
    case.equal("test_clips", names, golden["test_clips"])
    flat = [
        [i["id"], *i["windows"][t].tolist(), k, t]
        for i in items.values()
        for k in range(len(i["query_ids"]))
        for t in range(len(i["windows"]))
    ]
    case.equal(
        "test_first_items", flat[: len(golden["test_first_items"])], golden["test_first_items"]
    )
    for video, per_movie in golden["test_per_movie"].items():
        item = items[video]
        ours = {
            "clips": _window_names(item),
            "n_clip": len(item["windows"]),
            "n_items": len(item["windows"]) * len(item["query_ids"]),
            "n_sent": len(item["query_ids"]),
            "sents": [_moment_name(q) for q in item["query_ids"]],
        }
        case.equal(f"test_per_movie/{video}", ours, per_movie.whole())
        for part in ("visual", "sentence"):
            key = f"test/{video}/{part}"
            case.equal(key, item[part], z[key])


def check_e2e(case: Case) -> None:
    """Two epochs of training, evaluation and prediction as the original scripts did them."""
    z = case.tracked(".npz")
    initial, after = z.under("param/"), z.under("after/")
    _check_weight_files(case, initial, after)
    with _data_set(case) as cfg, _messages() as messages:
        losses = z["loss/per_step"]
        model = _model(initial)
        recipe = cfg.engine_args("TRAIN")
        recipe.save_dir, recipe.log_interval = "checkpoints", 1
        ours: list[float] = []
        run = Trainer(model, build.reader(cfg, "train"), recipe, "TALL")
        run.on_step = lambda step, terms: ours.append(terms["loss"])
        run.run()
        case.close("loss/per_step", ours, losses, 1e-6)
        for name, value in checkpoint.parameters_of(model).items():
            case.close(f"after/{name}", value, after[name], 5e-6)
        _check_log(case, "train", messages)
        model = _model(formats.load_state(case.file("/TALL.pdparams")))
        for split, mode in (("test", "eval"), ("infer", "predict")):
            messages.clear()
            reader = build.reader(cfg, split)
            metric = _score(model, reader, messages, split)
            written = metric.write(".", "tall", split)
            golden = case.file(f"_{written.name}")
            _check_result(
                case, json.loads(written.read_text()), json.loads(golden.read_text()), split
            )
            case.equal(f"{split}: layout", *map(_layout, (written, golden)))
            _check_log(case, mode, messages)


def _score(model: Any, reader: Reader, messages: list[str], split: str) -> Metric:
    metric = Metric()
    evaluate.score(metric, reader, evaluate.predictions(model, reader))
    messages += metric.report() if split == "test" else metric.answers()
    return metric


def _layout(path: Path) -> str:
    """A result file with its numbers taken out."""
    return re.sub(r"-?[0-9.]+(e-?[0-9]+)?(?=[,\s\]}])", "0", path.read_text())


def _check_result(case: Case, ours: dict, golden: dict, split: str) -> None:
    flat = [_numbers(json.dumps(side["results"])) for side in (ours, golden)]
    case.close(f"{split} results", *flat, 1e-4 if split == "infer" else 0.0)
    case.equal(
        f"{split} keys", *[{k: v for k, v in d.items() if k != "results"} for d in (ours, golden)]
    )


def _numbers(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


@contextlib.contextmanager
def _messages() -> Iterator[list[str]]:
    """Everything that is logged meanwhile."""
    messages: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("vlzoo")
    handler.emit = lambda record: messages.append(record.getMessage())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _check_log(case: Case, mode: str, ours: list[str]) -> None:
    """Lines of the original's log that people's scripts read, with the same numbers in ours."""
    text = case.file(f"_{mode}.log.txt").read_text(encoding="utf-8")
    golden = re.findall(r"(?m)^\[\w+: \S+: +\d+\]: (.*)$", text)
    for pattern in (r"(TRAIN|TEST|INFER):\d+ ", r".*(IoU=|best_R)"):
        theirs, mine = (
            [m.strip() for m in side if re.match(pattern, m)] for side in (golden, ours)
        )
        if theirs:
            case.equal(f"{mode} log: {pattern}", mine, theirs)
    theirs, mine = ([_numbers(m.split("sentence_id")[1]) for m in side if "movie_name: " in m]
                    for side in (golden, ours))  # fmt: skip
    if theirs:
        case.close(f"{mode} log: moments", mine, theirs, 1e-4)
    theirs, mine = (_logged_losses(side) for side in (golden, ours))
    if theirs:  # at whatever iterations the original logged; printed with four digits
        found = [mine.get(position, np.nan) for position in theirs]
        case.close(f"{mode} log: losses", found, list(theirs.values()), 1.1e-4)


def _logged_losses(lines: list[str]) -> dict[tuple[str, str], float]:
    """(epoch, iteration) -> loss."""
    found = (re.search(r"Epoch (\d+), iter (\d+).*Loss = ([\d.]+)", line) for line in lines)
    return {(m[1], m[2]): float(m[3]) for m in found if m}


def check_metrics(case: Case) -> None:
    """Recall counts, picks and result files for given network outputs."""
    z = case.npz
    for name, golden in case.json.items():
        metrics = {mode: _metric_case(case, name, golden, z) for mode in ("test", "infer")}
        with tempfile.TemporaryDirectory() as folder:
            for mode, metric in metrics.items():
                path = metric.write(folder, "tall", mode)
                case.equal(f"{name}/{mode}_file", path.name, golden[f"{mode}_file"])
                case.equal(
                    f"{name}/{mode}_json",
                    json.loads(path.read_text()),
                    golden.plain(f"{mode}_json"),
                )


def _metric_case(case: Case, name: str, golden: Any, z: Any) -> Metric:
    metric, references, records = Metric(), {}, []
    for movie in golden["movies"]:
        video, outputs = movie["name"], z[f"{name}/{movie['name']}/out"]
        windows = np.array([parse_name(c)[1:] for c in movie["clips"]], np.float64)
        truth = np.array([parse_name(c)[1:] for c in movie["sents"]], np.float64)
        for k, sentence in enumerate(movie["sents"]):
            key = f"{sentence}#{k}"
            shared = {"id": key, "video": video, "sentence_index": k}
            references[key] = {**shared, "moment": truth[k].tolist()}
            records.append({**shared, "windows": windows, "outputs": outputs[k], "first_window": 0})
        moments = windows + outputs[..., 1:].astype(np.float64)
        case.equal(f"{name}/{video}/reg", moments, z[f"{name}/{video}/reg"])
        _check_picks(case, video, outputs[..., 0], moments, truth, golden)
    metric.expect(references)
    metric.update(records)
    return metric


def _check_picks(
    case: Case, video: str, scores: Any, moments: Any, truth: Any, golden: Any
) -> None:
    for key in golden["nms_picks"]:
        movie, iou = key.rsplit("|", 1)
        if movie != video:
            continue
        picks = golden["nms_picks"][key]
        ours = nms(scores, moments, float(iou) - 0.05)
        case.equal(f"nms_picks/{key}", [[p for p in row if p >= 0] for row in ours.tolist()], picks)
        counts = [k for k in golden["recall_counts"] if k.startswith(f"{key}|")]
        topn = [int(k.rsplit("|", 1)[1]) for k in counts]
        hits = recall_hits(moments, ours, truth, float(iou), topn).sum(1)
        for count_key, count in zip(counts, hits.tolist(), strict=True):
            case.equal(
                f"recall_counts/{count_key}", float(count), golden["recall_counts"][count_key]
            )


def check_context_window(case: Case) -> None:
    """Mean features of the neighbours on either side."""
    z = case.npz
    features = z.under("feat/")
    index, table = WindowIndex(list(features)), np.stack(list(features.values()))
    for key in (k for k in z if k.startswith("ctx")):
        match = re.fullmatch(r"ctx(\d+)_(\d+)/(.*?)(?:\.npy)?/(left|right)", key)
        count, size, row = int(match[1]), int(match[2]), index.names.index(match[3])
        reader = Reader("test", feats_dimen=table.shape[1], context_num=count, context_size=size)
        rows = index.context(np.array([row]), count, size, False)
        left, _, right = np.split(reader.with_context(table.__getitem__, rows)[0], 3)
        case.equal(key, {"left": left, "right": right}[match[4]], z[key])


def check_sliding_windows(case: Case) -> None:
    """The grid of windows of a video."""
    for key, grids in case.json.items():
        video, frames = key.rsplit("|", 1)
        for lengths in grids:
            spans = window_grid(int(frames), [int(x) for x in lengths.split(",")]).tolist()
            case.equal(f"{key} {lengths}", [window_name(video, *s) for s in spans], grids[lengths])


def check_tacos_matching(case: Case) -> None:
    """Windows matched with the sentences of the real annotations."""
    golden = case.json
    golden.note("row_format")
    if case.annotations is None:
        case.fail("annotations", "needs --annotations DIR")
        return
    folder = case.annotations / case.entry["annotations"]
    videos = json.loads((folder / f"{golden['split']}.json").read_text())
    frames = json.loads((folder / "video_allframes_info.json").read_text())
    rows, per_video, by_length = [], {}, {}
    for video, entry in videos.items():
        grid = window_grid(frames[video.removesuffix(".avi")], [64, 128, 256, 512])
        index = WindowIndex([window_name(video, *s) for s in grid.tolist()])
        moments = np.array(entry["timestamps"], np.int64).reshape(-1, 2)
        matches = index.match([video] * len(moments), moments)
        for w, m, o in zip(*matches, strict=True):
            rows.append("{} {} {} {} {} {}".format(video, *index.spans[w], m, *o))
            length = str(int(np.diff(index.spans[w])[0]))
            by_length[length] = by_length.get(length, 0) + 1
        counts = (len(grid), len(moments), len(matches.window))
        per_video[video] = dict(zip(("windows", "sentences", "matched"), counts, strict=True))
    rows.sort()
    for lengths, total in golden["window_totals_all_127_videos"].items():
        sizes = [int(x) for x in lengths.split(",")]
        ours = sum(len(window_grid(count, sizes)) for count in frames.values())
        case.equal(f"windows {lengths}", ours, total)
    case.equal("videos", len(videos), golden["videos"])
    case.equal("sentences", sum(v["sentences"] for v in per_video.values()), golden["sentences"])
    case.equal("matched", len(rows), golden["matched"])
    case.equal("matched_by_window_length", by_length, golden.plain("matched_by_window_length"))
    case.equal("first_rows", rows[: len(golden["first_rows"])], golden["first_rows"])
    digest = hashlib.md5("\n".join(rows).encode()).hexdigest()
    case.equal("md5_of_sorted_rows", digest, golden["md5_of_sorted_rows"])
    case.equal("per_video", per_video, golden.plain("per_video"))


def check_c3d(case: Case) -> None:
    """C3D activations, both variants of the last pooling."""
    from models.extractors import get_extractor

    z, cls = case.npz, get_extractor("c3d")
    parameters = z.under("param/")
    convs = [v.shape[0] for k, v in parameters.items() if k.startswith("conv") and v.ndim == 5]
    dense = [v.shape[0] for k, v in parameters.items() if k.startswith("fc") and v.ndim == 2]
    clips = z["in/frames_u8_bgr_thwc"]
    clips = clips if clips.ndim == 5 else clips[None]
    mean = z["in/channel_mean_bgr"].tolist()
    for pool5, suffix in (("ceil", ""), ("padded", "_padded_variant")):
        net = cls(widths=convs, fc_dims=dense, pool5=pool5, mean=mean, side=clips.shape[2])
        net.set_state_dict(cls.convert(parameters, head=True))
        ours = net.activations(clips)
        for key in (
            k for k in z if k.startswith("out/") and k.endswith("_variant") == bool(suffix)
        ):
            name = key[4:].removesuffix("_padded_variant").removesuffix("_pool5")
            case.close(key, ours[name], z[key], 5e-4, 1e-5)
        if not suffix:
            case.close("features()", net.features(clips), z["out/fc6"], 5e-4, 1e-5)


def check_skipthought(case: Case) -> None:
    """combine-skip vectors, raw and normalised, with and without the end token."""
    from models.extractors import get_extractor

    z, meta, cls = case.npz, case.json, get_extractor("skip_thoughts")
    sizes = {k: meta[k] for k in ("dim_word", "uni_dim", "bi_dim")}
    sentences, state = meta["tokenised_sentences"], cls.convert(z.under("param/"))
    for eos in (False, True):
        for normalise in (False, True):
            net = cls(**sizes, eos=eos, normalise=normalise)
            net._set_state(state, case.folder)
            net.set_tables(meta["vocab"], z["in/utable"], z["in/btable"])
            ours, end, n = net.encode_tokens(sentences), "_eos" if eos else "", meta["uni_dim"]
            kind = "norm" if normalise else "raw"
            case.close(f"out/combine_{kind}{end}", ours, z[f"out/combine_{kind}{end}"], 1e-6)
            if not normalise:
                case.close(f"out/uni_raw{end}", ours[:, :n], z[f"out/uni_raw{end}"], 1e-6)
                case.close(f"out/bi_raw{end}", ours[:, n:], z[f"out/bi_raw{end}"], 1e-6)


def check_tokenise(case: Case) -> None:
    """Words of sentences."""
    from models.extractors.skip_thoughts import tokenise

    golden = case.json["items"]
    wrong = [(s, tokenise(s), words) for s, words in golden if tokenise(s) != words]
    case.equal(f"{len(golden)} sentences", wrong, [])


CHECKS = {
    "net": check_net,
    "net_tf": check_net_tf,
    "score_pairs": check_score_pairs,
    "config_merge": check_config_merge,
    "checkpoint": check_checkpoint,
    "reader": check_reader,
    "e2e": check_e2e,
    "metrics": check_metrics,
    "context_window": check_context_window,
    "sliding_windows": check_sliding_windows,
    "tacos_matching": check_tacos_matching,
    "c3d": check_c3d,
    "skipthought": check_skipthought,
    "tokenise": check_tokenise,
}
