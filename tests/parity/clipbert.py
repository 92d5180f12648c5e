# SPDX-License-Identifier: Apache-2.0
"""What the golden files of ClipBERT are compared with: the network; see also ``clipbert_*.py``."""

from __future__ import annotations

import json
import tempfile
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle

from engine import evaluate, loader
from metrics.clipbert import Metric
from models.clipbert import Model, objectives, pictures
from models.layers.bert import additive_mask
from reader.clipbert import Reader
from tests.parity import clipbert_data, clipbert_metrics, clipbert_prepare, clipbert_schedule
from tests.parity.clipbert_steps import Recipe
from tools.parity import Case, Tracked

RELATIVE, ABSOLUTE, SCORE = 1e-5, 1e-5, 3e-5
POOLS = ("mean", "max", "lse")
_UNUSED = "transformer.bert.visual_embeddings.position_embeddings.weight"  # not a parameter of ours


def close(case: Case, name: str, ours: Any, golden: np.ndarray, absolute: float = ABSOLUTE) -> None:
    """Every element within ``absolute`` plus its own share of ``RELATIVE``."""
    golden = np.asarray(golden)
    ours = np.reshape(ours, golden.shape)
    case.close(name, ours, golden, absolute + RELATIVE * np.abs(golden))


def activations(case: Case, name: str, ours: Any, golden: np.ndarray) -> None:
    """As ``close``, but with the largest one's share: small ones are sums of large ones."""
    case.close(name, np.reshape(ours, golden.shape), golden, ABSOLUTE, RELATIVE)


# ---- network and batch of a case


def build(meta: Tracked, state: dict[str, np.ndarray], task: str, **options: Any) -> Model:
    """The network of a case with its parameters, which all must be known."""
    meta.note("seed", "note", "batch_layout", "text_rows")
    meta.under("fp32_vs_fp64_after_training")
    tiny = meta["tiny"]
    tiny.note("name")
    bert, cnn = tiny["bert"], tiny["cnn"]
    # the last ones have no effect
    bert.note("model_type", "pad_token_id", "initializer_range", "max_temporal_position_embeddings")
    assert (bert["hidden_act"], bert["layer_norm_eps"], bert["type_vocab_size"]) == (
        "gelu", 1e-12, 2)  # fmt: skip
    assert bert["hidden_dropout_prob"] == bert["attention_probs_dropout_prob"]
    for key, option in (("img_pixel_mean", "image_mean"), ("img_pixel_std", "image_std")):
        if key in meta:
            options[option] = meta[key]
    model = Model(
        task=task, dropout=bert["hidden_dropout_prob"], hidden_size=bert["hidden_size"],
        num_layers=bert["num_hidden_layers"], num_heads=bert["num_attention_heads"],
        intermediate_size=bert["intermediate_size"], vocab_size=bert["vocab_size"],
        max_position=bert["max_position_embeddings"],
        grid_rows=bert["max_grid_row_position_embeddings"],
        grid_cols=bert["max_grid_col_position_embeddings"],
        width=cnn["width"], stem_width=cnn["stem"], outputs=cnn["res2"],
        **{"max_img_size": None} | options,
    )  # fmt: skip
    assert model.cnn.feature.backbone.channels == bert["backbone_channel_in_size"]
    missing, unexpected = model.set_state_dict(Model.convert(state))
    assert not missing and not unexpected, (missing, unexpected)
    return model


def batch_of(z: Tracked, meta: Tracked) -> dict[str, Any]:
    """The batch under ``in/``; frames are not resized."""
    frames, ids = z["in/frames_rgb_uint8"], z["in/text_input_ids"]
    video = np.repeat(np.arange(len(frames)), len(ids) // len(frames))
    if "n_examples_per_image" in meta:
        assert meta["n_examples_per_image"] * len(frames) == len(ids)
    if "in/n_examples_list" in z:
        video = np.repeat(np.arange(len(frames)), z["in/n_examples_list"])
    length = meta["num_frm"] if "num_frm" in meta else frames.shape[1]
    if "n_clips" in meta:
        assert meta["n_clips"] * length == frames.shape[1]
    batch = {"frames": frames, "num_frm": length, "ids": ids, "video": video,
             "mask": z["in/text_input_mask"].astype(np.float32)}  # fmt: skip
    for key in ("labels", "mlm_labels", "itm_labels"):
        if f"in/{key}" in z:
            batch[key] = z[f"in/{key}"]
    return loader.to_tensors(batch)


def published(model: Model, name: str, value: np.ndarray) -> np.ndarray:
    """An array of a parameter's shape as published, in our layout."""
    layer = dict(model.named_sublayers()).get(name.rpartition(".")[0])
    dense = isinstance(layer, paddle.nn.Linear) and value.ndim == 2
    return value.T if dense else value


# ---- classifiers: questions, options, captions, images


def check_scores(case: Case, task: str, **options: Any) -> None:
    """Activations, scores of clips, losses, gradients and optimiser steps."""
    z, meta = case.npz, case.json
    meta.note("head")
    model = build(meta, z.under("param/"), task, **options)
    batch = batch_of(z, meta)
    model.eval()
    with paddle.no_grad():
        prefix = "out/clip0/" if any(k.startswith("out/clip0/") for k in z) else "out/"
        _check_activations(case, model, batch, z, prefix)
        clip_scores = _check_clip_scores(case, model, batch, z)
        if "out/clip0/logits" in z:
            close(case, "out/clip0/logits", clip_scores[0], z["out/clip0/logits"], SCORE)
            rows = _losses(model, objectives.pool(clip_scores[:1], "mean"), batch)
            close(case, "out/clip0/loss_vector", rows, z["out/clip0/loss_vector"])
        _check_pools(case, model, clip_scores, batch, z)
    for pool, folder in (("mean", "grad"), ("max", "grad_max"), ("lse", "grad_lse")):
        _check_gradients(case, model, batch, z, pool, folder)
    if "optimizer" in meta:
        _check_steps(case, model, batch)


def _losses(model: Model, scores: paddle.Tensor, batch: dict) -> paddle.Tensor:
    """The loss of each row."""
    if model.loss_type == "rank":
        return objectives.ranking(scores, model.itm_neg_size, model.margin)
    loss = objectives.soft_cross_entropy if model.loss_type == "bce" else objectives.cross_entropy
    return loss(scores, batch["labels"])


def _check_activations(case: Case, model: Model, batch: dict, z: Tracked, prefix: str) -> None:
    """Every part of the network on the first clip, the last layer for all positions."""
    golden = {k for k in z if k.startswith(prefix)}
    first = batch | {"frames": batch["frames"][:, : batch["num_frm"]]}
    stages = ["stem", *model.cnn.feature.backbone.names]
    if prefix + "stem" in golden:
        frames = pictures.prepared(first["frames"].flatten(0, 1), **model.pictures)
        for name, value in zip(stages, model.cnn.feature.backbone.stages(frames), strict=True):
            activations(case, prefix + name, value, z[prefix + name])
    grid = model.grid(first)
    if prefix + "grid" in golden:
        cells = model.cnn(pictures.prepared(first["frames"].flatten(0, 1), **model.pictures))
        activations(case, prefix + "grid", cells, z[prefix + "grid"])
        activations(case, "mean over the frames", grid[:, 0], z[prefix + "grid"].mean(1))
    bert = model.transformer.bert
    text, visual = bert.embeddings(batch["ids"]), model.embed(grid)[:, 0]
    visual = paddle.gather(visual, batch["video"])
    for name, value in (("text_embedding", text), ("visual_embedding", visual)):
        if prefix + name in golden:
            activations(case, prefix + name, value, z[prefix + name])
    x = paddle.concat([text, visual], 1)
    mask = additive_mask(paddle.concat([batch["mask"], paddle.ones(visual.shape[:2])], 1))
    for number, layer in enumerate(bert.encoder.layer):
        x = layer(x, mask)
        if (name := f"{prefix}encoder_layer{number}") in golden:
            activations(case, name, x, z[name])
    if prefix + "pooled" in golden:
        activations(case, prefix + "pooled", bert.pooler(x), z[prefix + "pooled"])


def _check_clip_scores(case: Case, model: Model, batch: dict, z: Tracked) -> paddle.Tensor:
    """In parts of several sizes, and all at once as in training."""
    key = "out/clip_logits" if "out/clip_logits" in z else "out/logits"
    for rows, frames in ((1, 3), (4, 1), (1000, 1000)):
        model.encode_rows, model.encode_frames = rows, frames
        close(case, f"{key}, {rows} rows, {frames} frames at a time",
              model(batch)["clip_scores"], z[key], SCORE)  # fmt: skip
    model.train()
    clip_scores = model(batch)["clip_scores"]
    model.eval()
    close(case, key, clip_scores, z[key], SCORE)
    if key + "_fp64" in z:
        close(case, key + "_fp64", clip_scores, z[key + "_fp64"], SCORE)
        noise = case.json["fp32_vs_fp64_logit_noise"]
        case.close("noise of the golden scores", np.abs(z[key] - z[key + "_fp64"]).max(), noise, 0)
    return clip_scores


def _check_pools(
    case: Case, model: Model, clip_scores: paddle.Tensor, batch: dict, z: Tracked
) -> None:
    for pool in POOLS:
        scores = objectives.pool(clip_scores, pool)
        if f"out/pooled_{pool}" in z:
            close(case, f"out/pooled_{pool}", scores, z[f"out/pooled_{pool}"], SCORE)
        if f"out/pred_{pool}" in z:
            case.equal(f"out/pred_{pool}", scores.argmax(1).numpy(), z[f"out/pred_{pool}"])
        if f"out/score_{pool}" in z:
            chances = objectives.match_probability(scores)
            close(case, f"out/score_{pool}", chances, z[f"out/score_{pool}"])
        if f"loss/{pool}" in z:
            rows = _losses(model, scores, batch)
            close(case, f"loss/{pool}", rows.mean(), z[f"loss/{pool}"])
            if f"loss/{pool}_vector" in z:
                close(case, f"loss/{pool}_vector", rows, z[f"loss/{pool}_vector"])


def _check_gradients(
    case: Case, model: Model, batch: dict, z: Tracked, pool: str, folder: str
) -> None:
    golden = z.under(folder + "/")
    if not golden:
        return
    model.train()
    model.score_agg_func = pool
    model.loss(model(batch), batch)["loss"].backward()
    if pool == "mean" and "grad_norm/total" in z:
        norm = np.sqrt(sum((p.grad.numpy().astype(np.float64) ** 2).sum()
                           for p in model.parameters() if p.grad is not None))  # fmt: skip
        case.close("grad_norm/total", norm, z["grad_norm/total"], 0, 1e-4)
    compare_gradients(case, model, golden, folder)


def compare_gradients(case: Case, model: Model, golden: dict, folder: str) -> None:
    """Compare and clear them."""
    parameters = dict(model.named_parameters())
    # some are 0 but for rounding: biases of keys, the last one of questions with options
    noise = 1e-7 * max((np.abs(value).max() for value in golden.values()), default=0.0)
    for name, value in golden.items():
        value = published(model, name, value)
        allowed = 1e-4 * np.abs(value) + max(1e-5 * np.abs(value).max(), noise)
        case.close(f"{folder}/{name}", parameters[name].grad, value, allowed)
    for parameter in parameters.values():
        parameter.clear_gradient(set_to_zero=False)


def _check_steps(case: Case, model: Model, batch: dict) -> None:
    z, options = case.npz, case.json["optimizer"]
    model.score_agg_func = case.json.under("train_").get("pool", "mean")
    if "pool" in options:
        case.equal("pool of the steps", options["pool"], model.score_agg_func)
    check_updates(case, model, lambda _: batch)
    model.eval()
    with paddle.no_grad():
        clip_scores = model(batch)["clip_scores"]
    for pool in POOLS:
        if (key := f"after_out/pooled_{pool}") in z:
            close(case, key, objectives.pool(clip_scores, pool), z[key], 1e-4)


def check_updates(case: Case, model: Model, batch_at: Any) -> None:
    """Losses, gradient norms, rates and parameters of optimiser steps."""
    z, meta = case.npz, case.json
    recipe = Recipe(model, meta["optimizer"], {_UNUSED: z[f"param/{_UNUSED}"]})
    if "param_groups" in meta:
        groups = [sorted(group) for group in meta["param_groups"]]
        case.equal("param_groups", recipe.names(), groups)
    model.train()
    steps = meta["n_steps"]
    for k in range(steps):
        batch = batch_at(str(k))
        loss = model.loss(model(batch), batch)["loss"]
        case.close(f"step/{k}/loss", loss, z[f"step/{k}/loss"], 0, 1e-4)
        loss.backward()
        norm, rates = recipe.update()
        case.close(f"step/{k}/grad_norm", norm, z[f"step/{k}/grad_norm"], 0, 1e-4)
        case.close(f"step/{k}/lr", rates, z[f"step/{k}/lr"], 0, 1e-9)
    batch = batch_at("final")
    with paddle.no_grad():
        loss = model.loss(model(batch), batch)["loss"]
    case.close("step/final_loss", loss, z["step/final_loss"], 0, 1e-4)
    found = {name: value.numpy() for name, value in model.named_parameters()} | recipe.unused
    after = z.under("after/")
    for name, value in after.items():
        case.close(f"after/{name}", found[name], published(model, name, value), 5e-5)


def check_qa(case: Case) -> None:
    """Open-ended questions."""
    meta = case.json
    options = {"num_labels": meta["num_labels"], "loss_type": meta["loss_type"]}
    check_scores(case, "frameqa", **options)


def check_multiple_choice(case: Case) -> None:
    """Questions with 5 options."""
    assert case.json["num_labels"] == 5
    check_scores(case, "action", loss_type=case.json["loss_type"])


def check_retrieval(case: Case) -> None:
    """Captions that match or not."""
    meta = case.json
    options = {key: meta[key] for key in ("loss_type", "margin", "itm_neg_size")}
    assert meta["num_labels"] == (1 if options["loss_type"] == "rank" else 2)
    check_scores(case, "retrieval", **options)


def check_vqa(case: Case) -> None:
    """Questions on images, whose answers are right to some degree."""
    z, meta = case.npz, case.json
    options = {"num_labels": meta["num_labels"], "loss_type": meta["loss_type"]}
    check_scores(case, "vqa", **options)
    model = build(meta, z.under("param/"), "vqa", **options)
    batch = batch_of(z, meta)
    model.eval()
    with paddle.no_grad():
        outputs = model(batch)
        matrix = paddle.nn.functional.binary_cross_entropy_with_logits(
            outputs["scores"], batch["labels"], reduction="none"
        )
        close(case, "loss/bce_matrix", matrix, z["loss/bce_matrix"])
        rows = _losses(model, outputs["scores"], batch)
        close(case, "its sums over classes", rows, z["loss/bce_matrix"].sum(1))
        close(case, "loss/train", model.loss(outputs, batch)["loss"], z["loss/train"])
        close(case, "out/valid_loss_sum", rows.sum(), z["out/valid_loss_sum"])


# ---- pretraining


def check_pretraining(case: Case) -> None:
    """Masked words and matching captions, in evaluation and in training with drawn cells."""
    z, meta = case.npz, case.json
    meta.note("head", "n_examples_per_image")
    cells = meta["pixel_random_sampling_size"]
    model = build(meta, z.under("param/"), "pretrain", pixel_random_sampling_size=cells)
    batch = batch_of(z, meta)

    def batch_at(step: str) -> dict:
        """The batch; on it the network reads the recorded cells."""
        key = "in/train_sampled_indices" if step == "train" else f"in/step/{step}/sampled_indices"
        drawn = paddle.to_tensor(z[key]) if key in z else None
        model.draw_cells = lambda _: drawn
        return batch

    _check_draws(case, model, z)
    model.eval()
    with paddle.no_grad():
        _check_activations(case, model, batch, z, "out/eval/")
        _check_mode(case, model, batch, z, "eval")
        _check_records(case, model, batch, z)
    model.train()
    terms = _check_mode(case, model, batch_at("train"), z, "train")
    visual = paddle.gather(model.embed(model.grid(batch))[:, 0], batch["video"])
    close(case, "out/train/visual_embedding", visual, z["out/train/visual_embedding"])
    close(case, "loss/train/total", terms["loss"], z["loss/train/total"])
    terms["loss"].backward()
    compare_gradients(case, model, z.under("grad/"), "grad")
    check_updates(case, model, batch_at)


def _check_draws(case: Case, model: Model, z: Tracked) -> None:
    """Ours are drawn as the recorded ones: distinct, ascending, as many."""
    count, most = z["out/eval/visual_embedding"].shape[1], model.sampled_cells
    drawn, key = model.draw_cells(count), "in/train_sampled_indices"
    drawn = np.arange(count) if drawn is None else drawn.numpy()
    golden = z[key] if key in z else np.arange(count)
    case.equal("cells drawn", (len(drawn), bool((np.diff(drawn) > 0).all())), (len(golden), True))
    case.equal("cells drawn of no more", model.draw_cells(most), None)


def _check_mode(case: Case, model: Model, batch: dict, z: Tracked, mode: str) -> dict:
    outputs = model(batch)
    terms = model.loss(outputs, batch)
    with paddle.no_grad():
        every = paddle.arange(batch["ids"].size)
        words = model.word_scores(outputs, every)
        close(case, f"out/{mode}/mlm_scores", words, z[f"out/{mode}/mlm_scores"], SCORE)
        itm = outputs["itm_scores"]
        close(case, f"out/{mode}/itm_scores", itm, z[f"out/{mode}/itm_scores"], SCORE)
    for name in ("mlm", "itm"):
        close(case, f"loss/{mode}/{name}_loss", terms[name], z[f"loss/{mode}/{name}_loss"])
    if f"loss/{mode}/itm_loss_vector" in z:
        rows = objectives.cross_entropy(itm, batch["itm_labels"])
        close(case, f"loss/{mode}/itm_loss_vector", rows, z[f"loss/{mode}/itm_loss_vector"])
        index, labels = objectives.masked_words(batch["mlm_labels"])
        vector = np.zeros(batch["ids"].size)
        found = objectives.cross_entropy(model.word_scores(outputs, index), labels)
        vector[index.numpy()] = found.numpy()
        close(case, f"loss/{mode}/mlm_loss_vector", vector, z[f"loss/{mode}/mlm_loss_vector"])
    return terms


def _check_records(case: Case, model: Model, batch: dict, z: Tracked) -> None:
    records = model.predict(batch | {"id": [str(i) for i in range(len(batch["ids"]))]})
    totals = {key: sum(r[key] for r in records) for key in records[0] if key != "id"}
    close(case, "out/eval/mlm_sum_loss", totals["mlm_loss"], z["out/eval/mlm_sum_loss"], 1e-4)
    for ours, golden in (("mlm_tokens", "mlm_n_tokens"), ("mlm_correct", "mlm_n_correct"),
                         ("itm_correct", "itm_n_correct")):  # fmt: skip
        case.equal(f"out/eval/{golden}", totals[ours], int(z[f"out/eval/{golden}"]))


# ---- single parts


def check_aggregation(case: Case) -> None:
    """Scores of clips to scores, losses and gradients."""
    z = case.npz
    case.json.note("shape")
    for name in sorted({key.split("/")[1] for key in z}):
        labels = paddle.to_tensor(z[f"in/{name}/labels"])
        for pool in POOLS:
            clips = paddle.to_tensor(z[f"in/{name}/clip_logits"], stop_gradient=False)
            scores = objectives.pool(clips, pool)
            rows = objectives.cross_entropy(scores, labels)
            rows.mean().backward()
            close(case, f"out/{name}/pooled_{pool}", scores, z[f"out/{name}/pooled_{pool}"])
            case.equal(f"out/{name}/pred_{pool}", scores.argmax(1).numpy(),
                       z[f"out/{name}/pred_{pool}"])  # fmt: skip
            close(case, f"loss/{name}/{pool}_vector", rows, z[f"loss/{name}/{pool}_vector"])
            golden = z[f"grad/{name}/{pool}"]
            allowed = 1e-4 * np.abs(golden) + 1e-5 * np.abs(golden).max()
            case.close(f"grad/{name}/{pool}", clips.grad, golden, allowed)


# ---- the whole chain


def check_e2e(case: Case) -> None:
    """From frames, questions and weights to the result file and its scores."""
    z, meta = case.npz, case.tracked("e2e.json")
    assert meta["head"] == "ClipBertForSequenceClassification"
    options = {key: meta[key] for key in ("num_labels", "loss_type", "max_img_size",
                                          "score_agg_func")}  # fmt: skip
    model = build(meta, z.under("param/"), "anetqa", **options)
    labels, frames = case.file("ans2label.json"), z.under("in/frames/")
    vocabulary = _vocabulary(case, labels.parent / meta["vocab"])
    reader = Reader(
        "valid", task="anetqa", annotations=str(case.file("data_val.jsonl")),
        ans2label=str(labels), questions=str(case.file("qa_val.json")),
        vocab=str(vocabulary), max_txt_len=meta["max_txt_len"],
        num_frm=meta["num_frm"], n_clips=meta["n_clips"], max_img_size=meta["max_img_size"],
    )  # fmt: skip
    # no store: those have square frames, all of one size
    reader._frames = SimpleNamespace(open=len, read=lambda video, _: frames[video])
    batches = [reader.collate([reader[i]]) for i in range(len(reader))]
    records = evaluate.predictions(model, reader, batch_size=len(reader))
    _check_texts(case, z, batches)
    first = paddle.to_tensor(batches[0]["frames"][0, :1])
    found = paddle.flip(pictures.prepared(first, **model.pictures), 1)[0]
    case.close("out/normalised_first_frame", found, z["out/normalised_first_frame"],
               clipbert_data.RESIZED)  # fmt: skip
    with paddle.no_grad():
        outputs = [model(loader.to_tensors(batch)) for batch in batches]
    clip_scores = paddle.concat([x["clip_scores"] for x in outputs], 1)
    scores = paddle.concat([x["scores"] for x in outputs])
    close(case, "out/clip_logits", clip_scores, z["out/clip_logits"], SCORE)
    pool = meta["score_agg_func"]
    close(case, f"out/pooled_{pool}", scores, z[f"out/pooled_{pool}"], SCORE)
    labels = paddle.to_tensor(z["out/labels"])
    for pool in POOLS:
        pooled = objectives.pool(clip_scores, pool)
        if (key := f"out/pooled_{pool}") in z:
            close(case, key, pooled, z[key], SCORE)
        if (key := f"loss/{pool}") in z:
            close(case, key, objectives.cross_entropy(pooled, labels).mean(), z[key])
    metric = Metric("anetqa")
    metric.expect(reader.references())
    metric.update(records)
    golden = case.tracked("expected_metrics.json").whole()
    case.equal("expected_metrics.json", metric.result(), golden | {"missing": 0})
    with tempfile.TemporaryDirectory() as folder:
        results = json.loads(metric.write(folder, "clipbert", "test").read_text())
    golden = json.loads(case.file("expected_results.json").read_text(encoding="utf-8"))
    ours, golden = (sorted(rows, key=itemgetter("question_id")) for rows in (results, golden))
    case.equal("expected_results.json", ours, golden)
    clipbert_metrics.e2e_metrics(case)


def _vocabulary(case: Case, path: Path) -> Path:
    """The path; looked at also if it is a file of the case."""
    for name in case.files:
        if (case.folder / name).resolve() == path.resolve():
            case.file(name)
    return path


def _check_texts(case: Case, z: Tracked, batches: list[dict]) -> None:
    """Token ids and labels of all questions; ours are as long as the longest of a video."""
    first = 0
    for batch in batches:
        rows, length = batch["ids"].shape
        for key, name in (("ids", "text_input_ids"), ("mask", "text_input_mask")):
            golden = z[f"out/{name}"][first : first + rows]
            case.equal(f"out/{name} from row {first}", batch[key], golden[:, :length])
            case.equal(f"out/{name}: the rest is padding", bool(golden[:, length:].any()), False)
        case.equal(f"out/labels from row {first}", batch["labels"], z["out/labels"][first:][:rows])
        first += rows
    case.equal("questions", first, len(z["out/labels"]))


CHECKS = {
    "qa_frameqa": check_qa,
    "qa_multiple_choice": check_multiple_choice,
    "retrieval": check_retrieval,
    "pretrain_mlm_itm": check_pretraining,
    "vqa_bce": check_vqa,
    "clip_aggregation": check_aggregation,
    "anetqa_e2e": check_e2e,
    **clipbert_data.CHECKS,
    **clipbert_metrics.CHECKS,
    **clipbert_prepare.CHECKS,
    **clipbert_schedule.CHECKS,
}
