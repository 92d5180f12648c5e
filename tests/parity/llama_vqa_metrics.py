# SPDX-License-Identifier: Apache-2.0
"""LLaMA-VQA's golden scores and accuracies, and its image encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from engine import optim
from metrics.llama_vqa import Metric
from models.extractors import clip_vit
from models.llama_vqa import scoring
from tests import toy

if TYPE_CHECKING:
    from tools.parity import Case

_KINDS = {  # data set -> names of its types of question, whose numbers begin at 1
    "nextqa": ("CH", "CW", "TN", "TC", "TP", "DL", "DC", "DO"),
    "star": ("Interaction", "Sequence", "Prediction", "Feasibility"),
}
_SCORE, _ACCURACY, _RATE = 1e-5, 1e-8, 1e-12
_PIXELS, _HIDDEN = 1e-6, (1e-5, 2e-6)  # of the latter the second is relative


# ---- learning rates


def check_rates(case: Case) -> None:
    """Of every micro-batch; those that are accumulated have the rate of the first of them."""
    schedules = case.json.plain("lr_schedules")
    golden = case.npz.under("out/lr/")
    case.equal("schedules", sorted(golden), sorted(map(str, range(len(schedules)))))
    for number, known in enumerate(schedules):
        epochs, warmup = known["epochs"], known["warmup_epochs"]
        recipe = toy.recipe(
            "unused", schedule="cosine", rate_of="epoch", learning_rate=known["lr"],
            min_learning_rate=known["min_lr"], warmup=warmup if warmup >= 1 else warmup / epochs,
        )  # fmt: skip
        ours = []
        for epoch in range(epochs):
            for batch in range(known["iters_per_epoch"]):
                first = batch - batch % known["accum_iter"]
                at = first / known["iters_per_epoch"] + epoch
                ours.append(optim.learning_rate(at, epochs, recipe))
        case.close(f"out/lr/{number}", ours, golden[str(number)], _RATE)


# ---- scores and accuracies


def check_metrics(case: Case) -> None:
    """Losses of tokens to scores, to the chosen option, to accuracies of all batches."""
    z, meta = case.npz, case.json
    pattern = meta["metric_batches"]
    case.equal("metric_batches", pattern, "metric/<ds>/batch<j>/*")
    names = sorted({key.split("/")[1] for key in z if key.startswith("metric/")})
    case.equal("some data sets", bool(names), True)
    for name in names:
        _check_metric(case, name, z.under(f"metric/{name}/"))
    # the meter's inputs are not in the file
    z.note("meter/global_avg", "meter/median")


def _check_metric(case: Case, name: str, z: Mapping[str, np.ndarray]) -> None:
    kinds = _KINDS.get(name, ())
    references: dict[str, dict[str, Any]] = {}
    records, used, number = [], {"out_names", "out_values"}, 0
    while f"batch{number}/nll" in z:
        batch, key = f"batch{number}", f"{name}/batch{number}"
        part = {k: z[f"{batch}/{k}"] for k in ("nll", "count", "score", "pred", "answer", "qtype")}
        used |= {f"{batch}/{k}" for k in part}
        count = (part["nll"] != 0).sum(-1)
        case.equal(f"{key}/count", count, part["count"])
        scores = scoring.scores(part["nll"].sum(-1), count)
        case.close(f"{key}/score", scores, part["score"], _SCORE, 1e-6)
        chosen = scores.argmin(-1)
        case.equal(f"{key}/pred", chosen, part["pred"])
        for row, (answer, kind) in enumerate(zip(part["answer"], part["qtype"], strict=True)):
            record = {"id": f"{number}/{row}", "scores": scores[row], "answer": int(chosen[row])}
            records.append(record)
            reference = {"answer": int(answer), "choices": ["?"] * scores.shape[1]}
            if kind > 0:
                reference["type"] = kinds[kind - 1]
            references[record["id"]] = reference
        number += 1
    case.equal(f"{name}/keys", {*z}, used)
    metric = Metric(name)
    metric.expect(references)
    metric.update(records)
    found = metric.details()
    case.equal(f"{name}/out_names", [*found], z["out_names"].tolist())
    case.close(f"{name}/out_values", [*found.values()], z["out_values"], _ACCURACY)


def check(case: Case) -> None:
    """Learning rates by micro-batch, then the metrics."""
    check_rates(case)
    check_metrics(case)


# ---- image encoder


def check_clip(case: Case) -> None:
    """Pixels, hidden states of every block and features, from OpenAI's and Hugging Face's names."""
    z, meta = case.npz, case.json
    meta.note("noise_fp32_vs_fp64")
    case.equal("act", meta["act"], "quick_gelu 1.702")
    case.close("mean", clip_vit.MEAN, meta["mean"], 0)
    case.close("std", clip_vit.DEVIATION, meta["std"], 0)
    case.equal("std_eps", clip_vit._DIVISOR, meta["std_eps"])
    case.equal("layer_norm_eps", clip_vit.EPSILON, meta["layer_norm_eps"])
    net = clip_vit.ClipVit(
        meta["image_size"], meta["patch_size"], meta["width"], meta["layers"], meta["heads"],
        meta["output_dim"], batch_size=3,
    )  # fmt: skip
    state = z.under("param/")
    frames = z["in/frames_uint8"]
    for kind, given in (("OpenAI", state), ("Hugging Face", hugging_face(state))):
        for parameter in net.parameters():
            parameter.set_value(paddle.zeros_like(parameter))
        missing, unexpected = net.set_state_dict(net.convert(given))
        case.equal(f"{kind}: all parameters", (missing, unexpected), ([], []))
        case.close(f"{kind}: out/features", net.pictures(frames), z["out/features"], *_HIDDEN)
    pixels = clip_vit.normalised(np.stack([net.preprocess(frame) for frame in frames]))
    case.close("in/pixel_values", pixels, z["in/pixel_values"], _PIXELS)
    half = net.pictures(frames).astype(np.float16)
    allowed = np.spacing(np.abs(z["out/features_fp16"])).astype(np.float64)
    case.close("out/features_fp16", half, z["out/features_fp16"], allowed)
    with paddle.no_grad():
        x = net.embed(paddle.to_tensor(z["in/pixel_values"]))
        case.close("out/ln_pre", x, z["out/ln_pre"], *_HIDDEN)
        for number, block in enumerate(net.blocks):
            x = block(x)
            case.close(f"out/block{number}", x, z[f"out/block{number}"], *_HIDDEN)


def hugging_face(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """OpenAI's state as Hugging Face stores it, beside a text encoder."""
    found = {"text_model.final_layer_norm.weight": np.ones(3, np.float32)}
    for name, value in state.items():
        for old, new in (
            ("visual.conv1.weight", "embeddings.patch_embedding.weight"),
            ("visual.class_embedding", "embeddings.class_embedding"),
            ("visual.positional_embedding", "embeddings.position_embedding.weight"),
            ("visual.ln_pre.", "pre_layrnorm."),
            ("visual.ln_post.", "post_layernorm."),
            ("visual.transformer.resblocks.", "encoder.layers."),
            (".ln_1.", ".layer_norm1."),
            (".ln_2.", ".layer_norm2."),
            (".attn.out_proj.", ".self_attn.out_proj."),
            (".mlp.c_fc.", ".mlp.fc1."),
            (".mlp.c_proj.", ".mlp.fc2."),
        ):
            name = name.replace(old, new)
        if ".attn.in_proj_" in name:
            for part, piece in zip("qkv", np.split(value, 3), strict=True):
                own = name.replace(".attn.in_proj_", f".self_attn.{part}_proj.")
                found[f"vision_model.{own}"] = piece
        elif name == "visual.proj":
            found["visual_projection.weight"] = np.ascontiguousarray(value.T)
        else:
            found[f"vision_model.{name}"] = value
    places = len(state["visual.positional_embedding"])
    return found | {"vision_model.embeddings.position_ids": np.arange(places)[None]}


CHECKS = {"schedule_metrics": check, "clip_vision": check_clip}
