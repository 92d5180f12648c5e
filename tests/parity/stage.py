# SPDX-License-Identifier: Apache-2.0
"""What the golden files of STAGE are compared with. Keys are explained where they are used."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle

from engine import evaluate, loader, optim
from metrics.stage import Metric
from models.layers import spans
from models.stage import Model
from reader.stage import Reader
from tests.parity import (
    stage_data,
    stage_evaluation,
    stage_generative,
    stage_text,
    stage_vocab,
)
from tools.parity import Case, Tracked

HIDDEN, LOSS, GRADIENT, STEP = 1e-5, 1e-5, 1e-4, 1e-4

# Options of the published code that the network or its loss depends on, under our names.
_OPTIONS = (
    "hsz", "bridge_hsz", "embedding_size", "vfeat_size", "dropout", "input_streams", "add_local",
    "t_iter", "scale", "extra_span_length", "input_encoder_n_blocks", "input_encoder_n_conv",
    "input_encoder_kernel_size", "input_encoder_n_heads", "cls_encoder_n_blocks",
    "cls_encoder_n_conv", "cls_encoder_kernel_size", "cls_encoder_n_heads", "use_sup_att",
    "att_weight", "att_loss_type", "alpha", "margin", "num_negatives", "num_hard",
    "negative_pool_size", "drop_topk", "ts_weight", "span_iou_thd", "span_prob_thd",
    "max_num_proposal",
)  # fmt: skip
# Options of the reader, the recipe, or without effect.
_OTHER = (
    "add_non_visual", "att_iou_thd", "bsz", "clip", "hard_negative_start", "lr", "max_qa_l",
    "max_sub_l", "max_vcpt_l", "max_vid_l", "num_region", "sub_flag", "test_bsz", "vcpt_flag",
    "vfeat_flag", "vfeat_type", "wd",
)  # fmt: skip


def build(config: Tracked, state: dict[str, np.ndarray], **others: Any) -> Model:
    """The network of a case with its parameters."""
    config.note(*_OTHER)
    options = {name: config.plain(name) for name in _OPTIONS if name in config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that t_iter has no effect
        model = Model(**options, attention_dropout=0.0, **others)
    converted = Model.convert(state)
    missing, unexpected = model.set_state_dict(converted)
    assert not missing and not unexpected, (missing, unexpected)
    return model


def tensors(case: Case, z: Tracked) -> tuple[dict, list[str]]:
    """The batch under ``in/``, and the names of the keys that a network has no use for."""
    arrays = {k: v for k, v in z.under("in/").items() if "/" not in k}
    return loader.to_tensors(arrays), list(arrays)


def check_model(case: Case) -> None:
    """Hidden tensors, losses, gradients and evaluation of one batch."""
    z, meta = case.npz, case.tracked(f"{case.entry['name']}.json")
    meta.note("notes", "seed", "trajectory_hard_negatives", "trajectory_steps")
    model = build(meta["config"], z.under("param/"))
    batch, _ = tensors(case, z)
    _check_training(case, model, batch, z)
    _check_evaluation(case, model, batch, z)
    if any(f.endswith("_inference.json") for f in case.files):
        _check_boxes(case, model, batch)


def _check_training(case: Case, model: Model, batch: dict, z: Tracked) -> None:
    model.train()
    with _Recorder(model) as record:
        outputs = model(batch)
    _check_hidden(case, model, outputs, record, z)
    for name in ("temporal_scores", "answer_scores", "classifier_in"):
        if f"out/train/{name}" in z:
            case.close(f"out/train/{name}", outputs[name], z[f"out/train/{name}"], HIDDEN)
    targets = batch["target"].numpy()[outputs["row_sample"]]
    case.equal("out/train/span_targets", targets, z["out/train/span_targets"])
    terms = model.loss(outputs, batch)
    _check_losses(case, terms, z, len(batch["target"]), len(targets))
    if "out/train/grad_norm" in z:
        terms["loss"].backward()
        norm = optim.clip_gradients(model.parameters(), 1e30)
        case.close("out/train/grad_norm", norm, z["out/train/grad_norm"], 0, GRADIENT)
        if any(name.startswith("grad/") for name in z):
            _check_gradients(case, model, z.under("grad/"))
        for parameter in model.parameters():
            parameter.clear_gradient(set_to_zero=False)


def _check_losses(case: Case, terms: dict, z: Tracked, samples: int, rows: int) -> None:
    raw = float(terms["cls"]) * rows / samples
    ours = {"cls_sum": raw, "total": terms["loss"], **{k: terms[k] for k in ("cls", "att", "ts")}}
    for name, value in ours.items():
        case.close(f"loss/{name}", value, z[f"loss/{name}"], 1e-6, LOSS)


class _Recorder:
    """Outputs of the layers whose values the goldens hold."""

    def __init__(self, model: Model):
        self.model, self.hooks, self.seen = model, [], {}

    def __enter__(self) -> dict[str, list[paddle.Tensor]]:
        layers = {
            "input_encoder": self.model.input_encoder,
            "cls_encoder": self.model.cls_encoder,
            "cls_projection0": self.model.cls_projection_layers[0],
        }
        for name, layer in layers.items():
            self.hooks.append(layer.register_forward_post_hook(self._keep(name)))
        fuse = self.model.fuse
        self.model.fuse = lambda *args: self._keep("concat_fc")(None, None, fuse(*args))
        return self.seen

    def _keep(self, name: str) -> Any:
        def keep(_layer: Any, _inputs: Any, output: paddle.Tensor) -> paddle.Tensor:
            self.seen.setdefault(name, []).append(output)
            return output

        return keep

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()
        del self.model.fuse


def _check_hidden(case: Case, model: Model, outputs: dict, record: dict, z: Tracked) -> None:
    """Hidden tensors; ours exist for real frames only, so padded ones are left out."""
    frames, answers = outputs["frames"], outputs["frame_mask"].shape[1]
    n, length = frames.shape
    real = frames.index.numpy()

    def by_frame(golden: np.ndarray) -> np.ndarray:  # (N, A, Li, Lqa, x) -> (F, A * Lqa, x)
        rows = golden.transpose(0, 2, 1, 3, 4).reshape(n * length, -1, golden.shape[-1])
        return rows[real]

    def close(name: str, ours: Any, golden: np.ndarray) -> None:
        scale = 0 if name.endswith("_raw_s") else 1e-6  # masked scores are -1e10
        ours = np.asarray(ours).reshape(golden.shape)
        case.close(f"out/train/{name}", ours, golden, HIDDEN, scale)

    for k, (stream, key) in enumerate((s, {"sub": "sub", "vfeat": "vid"}[s])
                                      for s in model.streams):  # fmt: skip
        attention = outputs[stream]
        rows = outputs["piece"].numpy() if stream == "sub" else slice(None)
        if f"out/train/c2q/{k}" in z:
            close(f"c2q/{k}", attention.output.numpy()[rows], by_frame(z[f"out/train/c2q/{k}"]))
        for name, value in (("raw", attention.scores), ("normalized", attention.weights)):
            golden = z[f"out/train/{key}_{name}_s"]
            close(f"{key}_{name}_s", value.numpy()[rows], by_frame(golden))
    for k in range(3):
        if f"out/train/input_encoder/{k}" in z:
            golden = z[f"out/train/input_encoder/{k}"]
            ours = record["input_encoder"][k]
            golden = golden if len(golden) == len(ours) else golden[real]
            close(f"input_encoder/{k}", ours, golden)
    if "out/train/concat_fc/0" in z:
        close("concat_fc/0", record["concat_fc"][0], by_frame(z["out/train/concat_fc/0"]))
    if "out/train/cls_encoder/0" in z:
        golden = z["out/train/cls_encoder/0"]  # (N * A * Li, Lqa, D)
        golden = by_frame(golden.reshape(n, answers, length, *golden.shape[1:]))
        close("cls_encoder/0", record["cls_encoder"][0], golden)
    if "out/train/cls_projection0/0" in z:
        golden = z["out/train/cls_projection0/0"]  # (N * A, Li, D)
        keep = outputs["frame_mask"].numpy().reshape(len(golden), length) > 0
        ours = record["cls_projection0"][0].numpy().reshape(golden.shape)
        # The input of a padded frame is -1e10 everywhere: its LayerNorm is rounding noise.
        close("cls_projection0/0", ours[keep], golden[keep])


# True gradient 0: a softmax does not see what is added to all of its inputs.
_NO_GRADIENT = re.compile(
    r"classifier\.conv\.[02]\.bias|temporal_scoring_.*\.conv\.[02]\.bias|.*k_proj\.bias"
    r"|.*multi_head_attn\.linears\.1\.bias"
)


def _check_gradients(case: Case, model: Model, golden: dict[str, np.ndarray]) -> None:
    position_free = {k: v for k, v in golden.items() if v.size}
    # convert() tells published states by their position table
    marked = Model.convert(position_free | {"position_encoding.pe": np.zeros((1, 1))})
    for name, parameter in model.named_parameters():
        if golden[name].size == 0:
            case.equal(f"grad/{name} (unused)", parameter.grad is None, True)
        elif not _NO_GRADIENT.fullmatch(name):
            case.close(f"grad/{name}", parameter.grad, marked[name], 1e-6, GRADIENT)
    case.equal("gradients left over", sorted(set(golden) - set(dict(model.named_parameters()))), [])


def _check_evaluation(case: Case, model: Model, batch: dict, z: Tracked) -> None:
    model.eval()
    with paddle.no_grad():
        outputs = model(batch)
        terms = model.loss(outputs, batch)
    case.close(
        "out/eval/answer_scores", outputs["answer_scores"], z["out/eval/answer_scores"], HIDDEN
    )
    chances = paddle.nn.functional.softmax(outputs["temporal_scores"], 2).numpy()
    case.close("out/eval/t_probs", chances, z["out/eval/t_probs"], HIDDEN)
    length = chances.shape[2]
    start, end = (chances[..., i].reshape(-1, length) for i in (0, 1))
    pairs, _ = spans.scan_pairs(start, end)
    golden = z["out/eval/max_pair_spans"]
    case.equal("out/eval/max_pair_spans", pairs.reshape(golden.shape), golden)
    case.close("loss/eval_ts", terms["ts"], z["loss/eval_ts"], 1e-6, LOSS)
    case.close("loss/eval_total", terms["loss"], z["loss/eval_total"], 1e-6, LOSS)


def _check_boxes(case: Case, model: Model, batch: dict) -> None:
    """Boxes of given regions and object words in the published file's form."""
    golden = case.tracked("_inference.json")
    z = case.npz
    objects = golden.plain("eval_object_word_ids")
    boxes, videos = golden.plain("boxes"), golden.plain("vid_name")
    meta = [
        {
            "vid_name": videos[i], "image_indices": z[f"in/image_indices/{i}"].tolist(),
            "anno_st_idx": int(z["in/anno_st_idx"][i]),
            "boxes": [np.array(b, np.float64) for b in boxes[i]],
        }
        for i in range(len(videos))
    ]  # fmt: skip
    ids = z["in/qas"]
    batch = batch | {
        "id": [str(q) for q in z["in/qid"]], "meta": meta,
        "object_mask": paddle.to_tensor(np.isin(ids, objects)),
    }  # fmt: skip
    with paddle.no_grad():
        records = model.predict(batch)
    ours = [published_boxes(record) for record in records]
    compare_boxes(case, "att_predictions", ours, golden.plain("att_predictions"))


def published_boxes(record: dict) -> dict[str, list[dict]]:
    """Boxes of a record as the published result file has them."""
    found = {str(k): [] for k in range(5)}
    ends = np.cumsum(record["entries"][:, 3])
    for (answer, image, word, count), end in zip(record["entries"].tolist(), ends, strict=True):
        found[str(answer)].append({
            "pred": record["box_scores"][end - count : end].tolist(),
            "bbox": record["boxes"][end - count : end].tolist(),
            "word": word, "qid": int(record["id"]), "vid_name": record["vid_name"],
            "img_idx": image,
        })  # fmt: skip
    return found


def compare_boxes(case: Case, group: str, ours: list, golden: list) -> None:
    """Lists of ``raw_bbox``: scores within the tolerance, everything else exactly."""

    def split(items: list) -> tuple[list, list]:
        entries = [(k, e) for item in items for k in sorted(item) for e in item[k]]
        rest = [(k, {n: v for n, v in e.items() if n != "pred"}) for k, e in entries]
        return rest, [p for _, e in entries for p in e["pred"]]

    (rest, scores), (golden_rest, golden_scores) = split(ours), split(golden)
    case.equal(f"{group}: entries", rest, golden_rest)
    case.close(f"{group}: scores", scores, golden_scores, HIDDEN)


def check_trajectory(case: Case) -> None:
    """Optimiser steps with hard negatives from the given starting point."""
    z, meta = case.npz, case.json
    meta.note("notes", "seed")
    config = meta["config"]
    model = build(config, z.under("param/"))
    batch, _ = tensors(case, z)
    _check_training(case, model, batch, z)
    _check_evaluation(case, model, batch, z)
    if meta["trajectory_hard_negatives"]:
        del batch["pos_container"], batch["neg_container"]
        groups, pattern = _groups(z, batch)
        batch["att_groups"], batch["att_pattern"] = map(paddle.to_tensor, (groups, pattern))
    recipe = SimpleNamespace(
        optimizer="adam", learning_rate=config["lr"], beta1=0.9, beta2=0.999, epsilon=1e-8,
        weight_decay=config["wd"], clip_norm=config["clip"], adam_eps_mode="standard",
    )  # fmt: skip
    optimizer = optim.build(model, recipe)
    model.train()
    for k in range(meta["trajectory_steps"]):
        _check_step(case, model, optimizer, recipe, batch, z, f"step/{k}")
    after = Model.convert(z.under("after/") | {"position_encoding.pe": np.zeros((1, 1))})
    for name, parameter in model.named_parameters():
        golden = after.pop(name)
        if golden.size and not _NO_GRADIENT.fullmatch(name):
            case.close(f"after/{name}", parameter, golden, 1e-4)


def _groups(z: Tracked, batch: dict) -> tuple[np.ndarray, np.ndarray]:
    """Words with labelled regions, from the label matrices of the case."""
    regions = batch["vid"].shape[2]
    groups, pattern = [], []
    targets, first = z["in/target"], z["in/anno_st_idx"]
    for n, target in enumerate(targets):
        labels = z.under(f"in/att_labels/{n}/")
        for k in range(len(labels)):
            matrix = labels[str(k)]
            for word, row in enumerate(matrix):
                if 0 < np.count_nonzero(row) < len(row):
                    groups.append((n, target, first[n] + k, word))
                    kinds = np.full(regions, -1, np.int8)
                    kinds[: len(row)] = row > 0
                    pattern.append(kinds)
    groups = np.array(groups, np.int64).reshape(-1, 4)
    return groups, np.array(pattern, np.int8).reshape(-1, regions)


def _check_step(
    case: Case, model: Model, optimizer: Any, recipe: Any, batch: dict, z: Tracked, step: str
) -> None:
    outputs = model(batch)
    chosen = []
    choose = model.hard_pairs
    model.hard_pairs = lambda *args: chosen.append(choose(*args)) or chosen[-1]
    terms = model.loss(outputs, batch)
    del model.hard_pairs
    for name in ("loss", "cls", "att", "ts"):
        key = f"{step}/loss" if name == "loss" else f"{step}/loss_{name}"
        case.close(key, terms[name], z[key], 0, STEP)
    rows = len(outputs["row_sample"])
    case.equal(f"{step}/n_span_targets", rows, int(z[f"{step}/n_span_targets"]))
    negatives = chosen[0][1] if chosen else batch["neg_container"]
    case.equal(f"{step}/neg_container", negatives.numpy(), z[f"{step}/neg_container"])
    terms["loss"].backward()
    norm = optim.clip_gradients(model.parameters(), recipe.clip_norm)
    case.close(f"{step}/grad_norm", norm, z[f"{step}/grad_norm"], 0, STEP)
    optimizer.step()
    optimizer.clear_grad(set_to_zero=False)


def check_data(case: Case) -> None:
    """Reader, batches, scores, losses, result files and metrics on a small data set."""
    stage_data.data(case)
    z, meta = case.npz, case.tracked("data_e2e.json")
    model = build(meta["config"], z.under("param/"))
    options = stage_data.package(case)
    _check_train_batch(case, model, options, z, meta)
    for split in ("valid", "test"):
        _check_inference(case, model, options, split)
    stage_evaluation.data_metrics(case)


def _check_train_batch(case: Case, model: Model, options: dict, z: Tracked, meta: Tracked) -> None:
    indices = meta["train_batch_indices"]
    case.equal("e2e/train/indices", z["e2e/train/indices"], np.array(indices))
    reader = Reader("train", annotations=stage_data.annotations(case, "train"), **options)
    arrays = reader.collate([reader[i] for i in indices])
    case.equal("e2e/train/pos_container", arrays["pos_container"], z["e2e/train/pos_container"])
    drawn, golden = arrays["neg_container"], z["e2e/train/neg_container"]
    case.equal("neg_container but for regions", drawn[:, :4], golden[:, :4])
    arrays["neg_container"] = golden
    batch = loader.to_tensors(arrays)
    model.train()
    with paddle.no_grad():
        outputs = model(batch)
        terms = model.loss(outputs, batch)
    targets = arrays["target"][outputs["row_sample"]]
    case.equal("e2e/train/span_targets", targets, z["e2e/train/span_targets"])
    scores = outputs["answer_scores"]
    case.close("e2e/train/answer_scores", scores, z["e2e/train/answer_scores"], HIDDEN)
    for name in ("att", "ts", "cls", "total"):
        value = terms["loss" if name == "total" else name]
        case.close(f"e2e/train/loss_{name}", value, z[f"e2e/train/loss_{name}"], 1e-6, LOSS)


def _check_inference(case: Case, model: Model, options: dict, split: str) -> None:
    z, size = case.npz, case.tracked("data_e2e.json")["test_bsz"]
    reader = Reader(split, annotations=stage_data.annotations(case, split), **options)
    model.eval()
    first = loader.to_tensors(reader.collate([reader[i] for i in range(size)]))
    with paddle.no_grad():
        outputs = model(first)
    chances = paddle.nn.functional.softmax(outputs["temporal_scores"], 2)
    for ours, key in ((outputs["answer_scores"], "answer_scores"), (chances, "t_scores")):
        case.close(f"e2e/{split}/batch0_{key}", ours, z[f"e2e/{split}/batch0_{key}"], HIDDEN)
    records = evaluate.predictions(model, reader, batch_size=size)
    metric = Metric()
    metric.expect(reader.references())
    metric.update(records)
    with tempfile.TemporaryDirectory() as folder:
        written = metric.write(folder, "stage", split)
        ours = json.loads(Path(written).read_text())
    golden = json.loads(case.file(f"e2e_{split}_inference_predictions.json").read_text())
    case.equal(f"{split}: name of the result file", Path(written).name in
               f"e2e_{split}_inference_predictions.json", True)  # fmt: skip
    case.equal(f"{split}: ts_answer", ours["ts_answer"], golden["ts_answer"])
    compare_boxes(case, f"{split}: raw_bbox", ours["raw_bbox"], golden["raw_bbox"])
    if split == "valid":
        scores = metric.result()
        for name, value in case.tracked("data_e2e.json").plain("valid_metrics").items():
            case.close(f"from our predictions: {name}", scores[name], value, 1e-7)


def check_units(case: Case) -> None:
    """Single functions of reader, network and metric."""
    stage_data.units(case)
    stage_evaluation.units(case)
    for n, item in enumerate(case.json.plain("span_search")):
        start, end = (np.array([item[key]], np.float32) for key in ("p1", "p2"))
        pairs, products = spans.top_pairs(start, end, max(1, len(item["top"])))
        found = products[0] > 0
        golden = np.array(item["top"]).reshape(-1, 3)
        case.equal(f"span_search {n}", pairs[0][found].tolist(), golden[:, :2].tolist())
        case.close(f"span_search {n}: products", products[0][found], golden[:, 2], 1e-7)
        pair, product = spans.scan_pairs(start, end)
        case.equal(f"max_pair {n}", pair[0].tolist(), item["max_pair"][0])
        case.close(f"max_pair {n}: product", product[0], item["max_pair"][1], 1e-7)
    for n, item in enumerate(case.json.plain("train_span_proposals")):
        truth = np.array([item["gt"]])
        found = np.array([p[:2] for p in item["pred"]])
        case.close(f"proposals {n}: iou", spans.span_iou(found, truth[0]), item["iou"], 1e-12)
        case.equal(f"proposals {n}: expanded", spans.widen(found, 3, 10**6).tolist(),
                   item["expanded"])  # fmt: skip
        start, end = _certain(found)
        _, ours = spans.training_spans(
            truth - [0, 1], start, end, proposals=1, min_product=0.01, min_iou=0.5
        )
        case.equal(f"proposals {n}", ours.tolist(), item["spans"])


def _certain(span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities whose best pair is the one [start, end) given."""
    frame = np.arange(64)
    return tuple((frame == value).astype(np.float32)[None] for value in span[0] - [0, 1])


CHECKS = {
    "model": check_model,
    "trajectory": check_trajectory,
    "data": check_data,
    "units": check_units,
    "evaluation": stage_evaluation.evaluation,
    "generative": stage_generative.generative,
    "generative_vocab": stage_vocab.generative_vocab,
    "text_metrics": stage_text.text_metrics,
    "stems": stage_text.stems,
}
