# SPDX-License-Identifier: Apache-2.0
"""What the golden files of MCG are compared with: the network; see also ``mcg_*.py``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import paddle

from engine import loader
from engine.formats import load_state
from engine.weights import Report, start_from
from models.mcg import Model, checkpoints, contrast
from models.mcg import model as network
from models.mcg.timesformer import resize_places, resize_times
from reader.common.mcg_text import Texts
from tests.parity import mcg_data, mcg_encoder, mcg_metrics
from tests.parity.mcg_encoder import TOKENS, close, published
from tests.parity.mcg_steps import Recipe
from tools.parity import Case, Tracked

LOSS, GRADIENT, STEP, AFTER, SCORE = 1e-5, 1e-4, 2e-4, 1e-4, 1e-5
# BERT's; they have no effect
_REMARKS = ("architectures", "fusion_layer", "initializer_range", "itc_token_type", "model_type",
            "output_attentions", "pad_token_id", "type_vocab_size")  # fmt: skip


def texts() -> Texts:
    """The vocabulary of the golden texts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(TOKENS[:-2]) + "\n")  # [DEC] and [ENC] are no part of it
        return Texts(path)


def build(meta: Tracked, task: str, **options: Any) -> Model:
    """The network that the sections ``bert`` and ``video`` of a case describe."""
    bert, video = meta["bert"], meta["video"]
    bert.note(*_REMARKS)
    video.note("gradient_checkpointing", "maxpool_kernel_size")
    assert (bert["hidden_act"], bert["layer_norm_eps"]) == ("gelu", 1e-12)
    assert bert["add_cross_attention"] and bert["encoder_width"] == bert["hidden_size"]
    assert bert["hidden_dropout_prob"] == bert["attention_probs_dropout_prob"]
    assert video["cls"] == "TimeSformer" and video["embed_dim"] == bert["hidden_size"]
    assert not any(video[key] for key in ("attn_drop_rate", "drop_rate", "use_maxpooling"))
    return Model(
        task, num_frm=video["num_frm"], crop_img_size=video["img_size"],
        patch_size=video["patch_size"], hidden_size=bert["hidden_size"],
        num_layers=bert["num_hidden_layers"], num_heads=bert["num_attention_heads"],
        intermediate_size=bert["intermediate_size"], vit_depth=video["depth"],
        vit_heads=video["num_heads"], drop_path_rate=video["drop_path_rate"],
        vocab_size=bert["vocab_size"], max_position=bert["max_position_embeddings"],
        proj_size=video["proj_dim"], dropout=bert["hidden_dropout_prob"], **options,
    )  # fmt: skip


def fill(model: Model, state: dict[str, np.ndarray]) -> Model:
    """Give all parameters their published values."""
    missing, unexpected = model.set_state_dict(model.convert(state))
    assert not missing and not unexpected, (missing, unexpected)
    return model


def own_name(model: Model, name: str) -> str | None:
    """Our name of a published parameter; None of one that this network has no use for."""
    name = checkpoints._SHARED.get(name, name)
    return name if name in model.state_dict() else None


def as_given() -> Any:
    """Inside, frames count as normalised."""
    return mock.patch.object(network, "normalised", lambda frames: frames)


# ---- gradients and steps


def check_gradients(case: Case, model: Model, loss: paddle.Tensor, folder: str, norms: str) -> None:
    """Gradients of a loss and norms of all; -1 is that of a parameter without. They are cleared."""
    z, found = case.npz, dict(model.named_parameters())
    loss.backward()
    for name, golden in z.under(f"{folder}/").items():
        golden = published(model, name, golden)
        allowed = GRADIENT * np.abs(golden) + 1e-5 * np.abs(golden).max()
        case.close(f"{folder}/{name}", found[name].grad, golden, allowed)
    ours = []
    for name in z["out/param_names"].tolist():
        gradient = found[name].grad if own_name(model, name) else None
        ours.append(-1.0 if gradient is None else np.linalg.norm(gradient.numpy()))
    case.close(norms, ours, z[norms], GRADIENT * np.abs(z[norms]) + 1e-6)
    for parameter in found.values():
        parameter.clear_gradient(set_to_zero=False)


def check_steps(
    case: Case, model: Model, batch: dict, steps: str, after: str | None, idle: int = 0
) -> None:
    """Losses, gradient norms, rates and parameters of optimiser steps.

    Args:
        steps, after: folders of the case.
        idle: so many steps on gradients of 0 come first.
    """
    z, options = case.npz, case.json["optim"]
    recipe, count = Recipe(model, options), options["accum"]
    recipe.idle(idle)
    model.train()
    number = 0
    while f"{steps}/{number}/loss" in z:
        losses = []
        for part in range(number * count, (number + 1) * count):
            loss = model.loss(model(batch), batch)["loss"]
            loss.backward()
            losses.append(float(loss))
            key = f"{steps}/micro{part}/loss"
            case.close(key, losses[-1], z[key], 0, STEP)
        key = f"{steps}/{number}"
        golden = float(z[f"{key}/loss"])
        summed = abs(golden - sum(losses)) < abs(golden - losses[-1])  # of several batches
        case.close(f"{key}/loss", sum(losses) if summed else losses[-1], golden, 0, STEP)
        norm, rate = recipe.update()
        case.close(f"{key}/grad_norm", norm, z[f"{key}/grad_norm"], 0, STEP)
        case.close(f"{key}/lr", rate, z[f"{key}/lr"], 0, 1e-6)
        number += 1
    case.equal(f"{steps}: some", number > 0, True)
    found = dict(model.named_parameters())
    for name, golden in z.under(f"{after}/").items() if after else ():
        key = f"{after}/{name}"
        if own := own_name(model, name):
            case.close(key, found[own], published(model, own, golden), AFTER)
        else:  # nothing learns it
            case.equal(key, golden, z[f"param/{name}"])


# ---- questions


def check_qa(case: Case) -> None:
    """Activations, loss, gradients, steps, generated answers and scores of given ones."""
    z, meta = case.npz, case.json
    meta.note("kind", "seed", "steps")
    state = z.under("param/")
    options = {"label_smoothing": meta["label_smoothing"]}
    model = fill(build(meta, "msvd_qa", freeze="none", **options), state)
    batch = _question_batch(case)
    with as_given():
        for mode in ("eval", "train"):
            model.train() if mode == "train" else model.eval()
            outputs = model(batch)
            loss = model.loss(outputs, batch)["loss"]
            close(case, f"loss/{mode}/lm", loss, z[f"loss/{mode}/lm"], LOSS)
            _check_answering(case, model, batch, outputs, mode)
        check_gradients(case, model, loss, "grad_nogc", "grad_nogc_norms")
        check_steps(case, model, batch, "step", "after")
        check_steps(case, fill(model, state), batch, "step_prestep2", None, idle=2)
        for recompute in (False, True):
            frozen = build(meta, "msvd_qa", recompute=recompute, **options)
            fill(frozen, state).train()
            loss = frozen.loss(frozen(batch), batch)["loss"]
            check_gradients(case, frozen, loss, "grad_gc", "grad_gc_norms")
            check_steps(case, frozen, batch, "step_gc", "after_gc")
        check_generation(case, model, state, batch)


def _question_batch(case: Case) -> dict[str, Any]:
    """The batch under ``in/``, whose ids must be those that a reader makes of its texts."""
    z, meta, words = case.npz, case.json, texts()
    ids, answers = z["in/text_input_ids"], z["in/ans_input_ids"]
    case.equal("LQ, LA", (ids.shape[1], answers.shape[1]), (meta["LQ"], meta["LA"]))
    rows = [words.question(str(text), ids.shape[1]) for text in z["in/questions"]]
    case.equal("in/text_input_ids", padded(rows, ids.shape[1]), ids)
    case.equal("in/text_input_mask", (ids > 0).astype(np.int64), z["in/text_input_mask"])
    rows = [words.answer(str(text), answers.shape[1]) for text in z["in/answers"]]
    case.equal("in/ans_input_ids", padded(rows, answers.shape[1]), answers)
    case.equal("in/ans_input_mask", (answers > 0).astype(np.int64), z["in/ans_input_mask"])
    targets = np.where(answers > 0, answers, -100)
    case.equal("in/answer_targets", targets, z["in/answer_targets"])
    following = network._next_words(paddle.to_tensor(answers)).numpy()
    case.equal("what follows", following[:, :-1], targets[:, 1:])
    return loader.to_tensors({
        "id": [str(i) for i in range(len(ids))], "tokens": words.tokens,
        "frames": z["in/visual_inputs"], "video": np.arange(len(ids)), "ids": ids,
        "mask": z["in/text_input_mask"].astype(np.float32), "answer_ids": answers,
    })  # fmt: skip


def padded(rows: list[list[int]], length: int) -> np.ndarray:
    """Lists of ids as one array, 0 where nothing is left."""
    return np.array([row + [0] * (length - len(row)) for row in rows])


def _check_answering(case: Case, model: Model, batch: dict, outputs: dict, mode: str) -> None:
    z = case.npz
    with paddle.no_grad():
        video = model.video(batch["frames"])
        text = model.text_encoder(batch["ids"], batch["mask"])
        words = model.text_decoder.words(outputs["hidden"])
        for name, ours in (("image_embeds", video), ("text_hidden", text),
                           ("fused", outputs["fused"]), ("answer_logits", words)):  # fmt: skip
            close(case, f"out/{name}, {mode}", ours, z[f"out/{name}"])
        longest = int((batch["answer_ids"].numpy() > 0).sum(1).max())
        rows = [{key: value[i : i + 1] for key, value in batch.items()}
                | {"video": paddle.zeros([1], "int64")}
                for i in range(len(batch["ids"]))]  # fmt: skip
        for width in (longest, batch["answer_ids"].shape[1]):  # what is only padding may be cut
            cut = [row | {"answer_ids": row["answer_ids"][:, :width]} for row in rows]
            losses = [float(model.loss(model(row), row)["loss"]) for row in cut]
            golden = z["loss/lm_per_sample"]
            close(case, f"loss/lm_per_sample, {width} pieces", losses, golden, LOSS)


def check_generation(
    case: Case, model: Model, state: dict[str, np.ndarray], batch: dict[str, Any]
) -> None:
    """Answers by beam search of networks with sharper words and more or fewer of them."""
    z, meta = case.npz, case.json["generation"]
    tokens = batch["tokens"]
    marks = {"bos": "[DEC]", "eos": "[SEP]", "pad": "[PAD]"}
    case.equal("marks", {key: meta[key] for key in marks},
               {key: tokens.index(mark) for key, mark in marks.items()})  # fmt: skip
    assert not meta["early_stopping"]
    model.beams = {"size": meta["num_beams"], "length_penalty": meta["length_penalty"],
                   "max_length": meta["max_length"], "min_length": meta["min_length"]}  # fmt: skip
    bias = "text_decoder.cls.predictions.bias"
    model.eval()
    number = 0
    while f"gen{number}/sequences" in z:
        scale, more = z[f"gen{number}/scale_sepbias"]
        sharper = {name: value if "norm" in name.casefold() or name == "temp" else value * scale
                   for name, value in state.items()}  # fmt: skip
        sharper[bias] = sharper[bias].copy()
        sharper[bias][meta["eos"]] += more
        sharper["text_decoder.cls.predictions.decoder.bias"] = sharper[bias]
        fill(model, sharper)
        with paddle.no_grad():
            _check_search(case, model, batch, f"gen{number}")
        number += 1
    case.equal("some networks", number > 0, True)


def _check_search(case: Case, model: Model, batch: dict[str, Any], name: str) -> None:
    z, beams, tokens = case.npz, model.beams, batch["tokens"]
    calls, steps = [], model.text_decoder.steps

    def watched(fused: paddle.Tensor) -> Any:
        step = steps(fused)
        return lambda *call: calls.append(step(*call)) or calls[-1]

    model.text_decoder.steps = watched
    video = paddle.gather(model.video(batch["frames"]), batch["video"])
    fused = model.fuse(batch["ids"], batch["mask"], video)
    best = [found[0] for found in model.answers(fused, tokens)]
    case.equal(f"{name}/n_steps", len(calls), int(z[f"{name}/n_steps"]))
    close(case, f"{name}/first_step_scores", calls[0][:, 0], z[f"{name}/first_step_scores"])
    del model.text_decoder.steps
    start, end = tokens.index("[DEC]"), tokens.index("[SEP]")
    longest = 1 + max(len(found.tokens) for found in best)
    rows = [[start, *found.tokens, *([end] if found.ended else [])] for found in best]
    rows = padded(rows, min(longest + 1, beams["max_length"]))
    case.equal(f"{name}/sequences", rows, z[f"{name}/sequences"])
    records = model.predict(batch)
    scores = [record["score"] for record in records]
    close(case, f"{name}/sequences_scores", scores, z[f"{name}/sequences_scores"], SCORE)
    case.equal(f"{name}/predictions", [record["answer"] for record in records],
               z[f"{name}/predictions"].tolist())  # fmt: skip
    words, ids = texts(), z[f"{name}/candidate_ids"]
    rows = [words.answer(str(text), ids.shape[1]) for text in z[f"{name}/candidates"]]
    case.equal(f"{name}/candidate_ids", padded(rows, ids.shape[1]), ids)
    mask = (ids > 0).astype(np.int64)
    case.equal(f"{name}/candidate_mask", mask, z[f"{name}/candidate_mask"])
    found = model.candidate_scores(fused, paddle.to_tensor(ids))
    close(case, f"{name}/candidate_logprob", found, z[f"{name}/candidate_logprob"], SCORE)


# ---- pretraining


def check_pretraining(case: Case) -> None:
    """Activations, terms of the loss and their gradients, published and repaired, and steps."""
    z, meta = case.npz, case.json
    meta.note("kind", "seed", "steps")
    case.equal("mcl_temperature", contrast.TEMPERATURE, meta["mcl_temperature"])
    fresh = build(meta, "pretrain").temp.item()
    case.close("temp_init", fresh, meta["temp_init"], 1e-7)
    state = z.under("param/")
    model = fill(build(meta, "pretrain"), state)
    batch = _caption_batch(case)
    with as_given():
        for mode in ("eval", "train"):
            model.train() if mode == "train" else model.eval()
            outputs = model(batch)
            found = model.loss(outputs, batch)
            found |= contrast.vtc(outputs["video_feat"], outputs["text_feat"], model.temp)
            found |= model.token_contrast(outputs, batch["pieces"])
            found["total"] = found["loss"]
            for name, golden in z.under(f"loss/{mode}/").items():
                close(case, f"loss/{mode}/{name}", found[name], golden, LOSS)
        with paddle.no_grad():
            mcg_encoder.check_contrast(case)
            _check_pairs(case, model, batch, outputs)
            _check_switches(case, state, batch)
            _check_records(case, model, batch)
        for term in ("vtc", "mlm", "mcl"):
            folder = "grad_itc" if term == "vtc" else f"grad_{term}"
            alone = fill(build(meta, "pretrain"), state)  # cleared gradients are zeros, not absent
            loss = alone.loss(alone(batch), batch)[term]
            check_gradients(case, alone, loss, folder, f"{folder}_norms")
        check_steps(case, model, batch, "step", "after")


def _caption_batch(case: Case) -> dict[str, Any]:
    """The batch under ``in/``, whose ids must be those that a reader makes of its texts."""
    z, words = case.npz, texts()
    ids = z["in/text_input_ids"]
    case.equal("max_txt_len", ids.shape[1], case.json["max_txt_len"])
    rows = padded([words.caption(str(x), ids.shape[1]) for x in z["in/texts"]], ids.shape[1])
    case.equal("in/text_input_ids", rows, ids)
    case.equal("in/text_input_mask", (ids > 0).astype(np.int64), z["in/text_input_mask"])
    case.equal("in/token_type_ids", np.zeros_like(ids), z["in/token_type_ids"])
    draws = [1 - z[f"in/mlm_draw_{name}"] for name in ("masked", "replaced", "random")]
    hidden = words.hide(ids, np.stack(draws), z["in/mlm_draw_words"])
    for name, ours in zip(("mlm_text_input_ids", "mlm_labels"), hidden, strict=True):
        case.equal(f"in/{name}", ours, z[f"in/{name}"])
    return loader.to_tensors({
        "id": [str(i) for i in range(len(ids))], "frames": z["in/visual_inputs"], "ids": ids,
        "mask": z["in/text_input_mask"].astype(np.float32), "pieces": words.codes[ids],
        "mlm_ids": z["in/mlm_text_input_ids"], "mlm_labels": z["in/mlm_labels"],
    })  # fmt: skip


def _check_pairs(case: Case, model: Model, batch: dict, outputs: dict) -> None:
    """What losses are computed from."""
    z = case.npz
    every = model.text_encoder.cls.predictions(outputs["words"])
    masked = model.text_encoder(batch["mlm_ids"], batch["mask"])
    for name, ours in (
        ("video_embeds", outputs["video"]), ("video_feat", outputs["video_feat"]),
        ("text_feat", outputs["text_feat"]), ("text_hidden", outputs["text"]),
        ("text_cls_attn", outputs["text_attention"][:, 1:]), ("mlm_logits", every),
        ("mlm_text_hidden", masked), ("mlm_fused_text", outputs["words"]),
        ("last_spatial_attention_map", outputs["patch_attention"]),
    ):  # fmt: skip
        close(case, f"out/{name}", ours, z[f"out/{name}"])


def _check_switches(case: Case, state: dict[str, np.ndarray], batch: dict) -> None:
    """Places of words and weights of patches, repaired."""
    z, meta = case.npz, case.json
    for folder, options in (("posfix", {"text_positions": "normal"}),
                            ("patchfix", {"patch_weights": "per_video"})):  # fmt: skip
        model = fill(build(meta, "pretrain", **options), state)
        terms = model.loss(model(batch), batch)
        for name, golden in z.under(f"loss/{folder}/").items():
            close(case, f"loss/{folder}/{name}", terms[name], golden, LOSS)


def _check_records(case: Case, model: Model, batch: dict) -> None:
    z, model_records = case.npz, model.predict(batch)
    for name in ("video_feat", "text_feat"):
        rows = np.stack([record[name] for record in model_records])
        close(case, f"records: {name}", rows, z[f"out/{name}"])
    losses, counts = (sum(r[key] for r in model_records) for key in ("mlm_loss", "mlm_tokens"))
    close(case, "records: mlm_loss", losses / counts, z["loss/eval/mlm"], LOSS)
    case.equal("records: mlm_tokens", counts, int((z["in/mlm_labels"] >= 0).sum()))
    labels, scores = z["in/mlm_labels"], z["out/mlm_logits"]
    hits = ((scores.argmax(-1) == labels) & (labels >= 0)).sum(1).tolist()
    case.equal("records: mlm_correct", [r["mlm_correct"] for r in model_records], hits)


# ---- weights to begin from


def check_loading(case: Case) -> None:
    """What files of every kind change, and to what."""
    z, meta = case.npz, case.json
    meta.note("kind")
    meta["old"].whole()  # sizes that the files have
    state = z.under("param/qa_init/")
    model = fill(build(meta["new"], "msvd_qa"), state)
    report = _check_file(case, model, "mcg_pretrain", "mcg_pretrain")
    lacking = {own for name in z["out/mcg_pretrain/missing"].tolist()
               if (own := own_name(model, name))}  # fmt: skip
    case.equal("out/mcg_pretrain/missing", set(report.missing), lacking)
    case.equal("out/mcg_pretrain/unexpected", sorted(report.unexpected),
               sorted(z["out/mcg_pretrain/unexpected"].tolist()))  # fmt: skip
    video = {n: v.numpy() for n, v in model.visual_encoder.named_parameters()}
    _check_file(case, model, "blip", "blip")
    same = all((v.numpy() == video[n]).all() for n, v in model.visual_encoder.named_parameters())
    case.equal("out/blip/visual_unchanged", np.array([same], np.int64),
               z["out/blip/visual_unchanged"])  # fmt: skip
    _check_file(case, fill(model, state), "alpro", "alpro")
    _check_file(case, fill(model, state), "pyth", "timesformer", "visual_encoder.")
    new = build(meta["new"], "msvd_qa")
    times = new.visual_encoder.model.time_embed.abs().max()
    case.close("out/vit/init_time_embed_absmax", times, z["out/vit/init_time_embed_absmax"], 0)
    _check_file(case, new, "vit", "timm", "visual_encoder.")
    merging = [block.temporal_fc for block in new.visual_encoder.model.blocks][1:]
    found = [max(float(getattr(x, name).abs().max()) for x in merging)
             for name in ("weight", "bias")]  # fmt: skip
    golden = z["out/vit/temporal_fc_all_zero_after_first"]
    case.equal("out/vit/temporal_fc_all_zero_after_first", np.array(found, golden.dtype), golden)
    _check_resizing(case)


def _check_file(
    case: Case, model: Model, name: str, part: str, prefix: str = ""
) -> Report:
    """Load the file with ``part`` in its name; ``prefix`` stands before the golden names."""
    (file,) = (f for f in case.files if part in Path(f).name)
    z, path = case.npz, case.file(file)
    before = {n: value.numpy() for n, value in model.state_dict().items()}
    report = start_from(model, path, log=lambda _: None)
    after = {n: value.numpy() for n, value in model.state_dict().items()}
    golden = [prefix + key for key in z[f"out/{name}/changed_keys"].tolist()]
    expected = {own for key in golden if (own := own_name(model, key))}
    changed = {n for n, value in after.items() if not np.array_equal(value, before[n])}
    case.equal(f"out/{name}/changed_keys", changed, expected)
    stored = load_state(path)
    for key, total in z.under(f"out/{name}/sum/").items():
        if key.startswith("model.head."):  # upstream's own random values, which nothing reads
            continue
        own = own_name(model, prefix + key)
        # of what no network here has: the file has it, which was all there was to it
        array = after[own] if own else stored[key.replace("text_encoder.", "text_encoder.bert.")
                                              if key not in stored else key]  # fmt: skip
        total_allowed = 1e-5 + 1e-6 * np.abs(array).sum()
        case.close(f"out/{name}/sum/{key}", array.sum(dtype=np.float64), total, total_allowed)
    for key in ("pos_embed", "time_embed"):
        if f"out/{name}/{key}" in z:
            ours = after[f"visual_encoder.model.{key}"]
            close(case, f"out/{name}/{key}", ours, z[f"out/{name}/{key}"])
    return report


def _check_resizing(case: Case) -> None:
    """Which stored place, -1 being that of the video's token, and time each new one is."""
    z = case.npz
    for key, golden in z.under("out/resize_pos/").items():
        old, new = (int(side) ** 2 for side in key.split("_"))
        ours = resize_places(np.arange(-1, old).reshape(1, -1, 1), new)
        case.equal(f"out/resize_pos/{key}", ours.ravel().astype(golden.dtype), golden)
    for key, golden in z.under("out/resize_time/").items():
        old, new = map(int, key.split("_"))
        ours = resize_times(np.arange(old).reshape(1, -1, 1), new)
        case.equal(f"out/resize_time/{key}", ours.ravel().astype(golden.dtype), golden)


CHECKS = {
    "qa": check_qa,
    "pretrain": check_pretraining,
    "checkpoint_loading": check_loading,
    **mcg_encoder.CHECKS,
    **mcg_data.CHECKS,
    **mcg_metrics.CHECKS,
}
