# SPDX-License-Identifier: Apache-2.0
"""What the golden files of MCG are compared with: the video encoder, and losses of pre-training."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from models.layers.bert import normalise
from models.layers.kernels import unit
from models.mcg import contrast
from models.mcg.timesformer import TimeSformer, pool
from tools.parity import Case, Tracked

RELATIVE, ABSOLUTE, GRADIENT = 1e-4, 1e-5, 1e-4


def close(case: Case, name: str, ours: Any, golden: Any, absolute: float = ABSOLUTE) -> None:
    """Every element within ``absolute`` plus its own share of ``RELATIVE``.

    A millionth of the largest value is the precision of the sums that small ones are left of.
    """
    golden = np.asarray(golden)
    case.close(name, np.asarray(ours), golden, absolute + RELATIVE * np.abs(golden), 1e-6)


def published(net: paddle.nn.Layer, name: str, value: np.ndarray) -> np.ndarray:
    """An array of a parameter's shape as published, in our layout."""
    layer = dict(net.named_sublayers()).get(name.rpartition(".")[0])
    dense = isinstance(layer, paddle.nn.Linear) and value.ndim == 2
    return value.T if dense else value


# ---- video encoder


def encoder(video: Tracked, **options: Any) -> TimeSformer:
    """The network that the section ``video`` of a case describes."""
    video.note("gradient_checkpointing", "maxpool_kernel_size", "proj_dim")
    assert video["cls"] == "TimeSformer" and not video["use_maxpooling"]
    assert not video["attn_drop_rate"] and not video["drop_rate"]
    return TimeSformer(
        num_frm=video["num_frm"], size=video["img_size"], patch=video["patch_size"],
        width=video["embed_dim"], depth=video["depth"], heads=video["num_heads"],
        drop_path=video["drop_path_rate"], **options,
    )  # fmt: skip


def check_timesformer(case: Case) -> None:
    """Tokens, poolings, attention, other sizes, gradients with and without upstream's freezing."""
    z, meta = case.npz, case.json
    meta.note("kind", "notes", "seed")
    net = encoder(meta["video"])
    state = {k: published(net, k, v) for k, v in z.under("param/").items()}
    assert not any(net.set_state_dict(state))
    frames = paddle.to_tensor(z["in/x"].swapaxes(1, 2))
    net.eval()
    with paddle.no_grad():
        _check_blocks(case, net, frames)
        for key in z:
            if key.startswith("in/interp/"):
                name = key.removeprefix("in/")
                other = z[key].swapaxes(1, 2)
                tokens = net.model(paddle.to_tensor(other))[0]
                close(case, f"out/{name}", _by_patch(tokens, other.shape[1]), z[f"out/{name}"])
    for freeze, recompute in (("none", False), ("none", True), ("checkpointed", False),
                              ("checkpointed", True)):  # fmt: skip
        net = encoder(meta["video"], freeze=freeze, recompute=recompute)
        net.set_state_dict(state)
        _check_gradients(case, net, frames, "nogc" if freeze == "none" else "gc", recompute)


def _by_patch(x: paddle.Tensor, frames: int) -> np.ndarray:
    """Our tokens (B, 1 + T N, D) as upstream has them: all frames of the first patch, and so on."""
    x = x.numpy()
    patches = x[:, 1:].reshape(len(x), frames, -1, x.shape[-1]).swapaxes(1, 2)
    return np.concatenate([x[:, :1], patches.reshape(len(x), -1, x.shape[-1])], 1)


def _check_blocks(case: Case, net: TimeSformer, frames: paddle.Tensor) -> None:
    z, count = case.npz, frames.shape[1]
    embedded = net.model.patch_embed(frames.flatten(0, 1))
    close(case, "out/patch_embed", embedded, z["out/patch_embed"])
    x = net.model.embed(frames)
    for number, block in enumerate(net.model.blocks):
        patches = x[:, 1:].reshape([len(x), count, -1, x.shape[-1]])
        normed = normalise(patches, block.temporal_norm1)
        over_time = block.temporal_attn.mix(normed, 1)[1]
        x, _ = block(x, count, None, None, None)
        close(case, f"out/block{number}", _by_patch(x, count), z[f"out/block{number}"])
    close(case, "out/attn_temporal_last", over_time.flatten(0, 1), z["out/attn_temporal_last"])
    tokens, _ = net.model(frames)
    close(case, "out/tokens", _by_patch(tokens, count), z["out/tokens"])
    close(case, "out/cls_only", tokens[:, 0], z["out/cls_only"])
    for how in ("temporal", "spatial", "none"):
        close(case, f"out/pool_{how}", pool(tokens, count, how), z[f"out/pool_{how}"])
    pooled, over_space = net.attend(frames)
    close(case, "pooled by the encoder", pooled, z["out/pool_temporal"])
    close(case, "out/attn_spatial_last", over_space, z["out/attn_spatial_last"])


def _check_gradients(
    case: Case, net: TimeSformer, frames: paddle.Tensor, kind: str, recompute: bool
) -> None:
    z, remark = case.npz, ", recomputed" if recompute else ""
    net.train()
    frames = frames.detach()
    frames.stop_gradient = False
    (net(frames) * paddle.to_tensor(z["in/loss_weight"])).sum().backward()
    found = {name: parameter.grad for name, parameter in net.named_parameters()}
    none = sorted(name for name, gradient in found.items() if gradient is None)
    case.equal(f"out/none_grad_{kind}{remark}", none, sorted(z[f"out/none_grad_{kind}"].tolist()))
    for name, golden in z.under(f"grad_{kind}/").items():
        if name == "in/x":
            ours = np.swapaxes(frames.grad.numpy(), 1, 2)
        else:
            ours, golden = found[name], published(net, name, golden)
        allowed = GRADIENT * np.abs(golden) + 1e-5 * np.abs(golden).max()
        case.close(f"grad_{kind}/{name}{remark}", ours, golden, allowed)
    norms = [-1.0 if found[name] is None else np.linalg.norm(found[name].numpy())
             for name in z["out/param_names"].tolist()]  # fmt: skip
    golden = z[f"grad_{kind}_norms"]
    case.close(f"grad_{kind}_norms{remark}", norms, golden, GRADIENT * np.abs(golden) + 1e-6)


# ---- losses of pre-training

_TOKENS = """
[PAD] [UNK] [CLS] [SEP] [MASK] . , ? ' ! - a s t b what who how where when why is are the man woman
dog cat boy girl play ##ing ##s ##ed ##er ##ful run walk guitar ball on in of two three four 1 2
people color red blue many do does did cook ##book food to with his her hand yes no someone kitchen
park video sing dance ##r shirt white black un ##know ##n table ##able piano ##o [DEC] [ENC]
"""
TOKENS = _TOKENS.split()  # the vocabulary of all golden files


def kinds(ids: np.ndarray) -> np.ndarray:
    """Token ids (R, L) to what the reader calls ``pieces``."""
    special = {"[PAD]": 0, "[SEP]": 3, "[CLS]": 4}
    table = [special.get(token, 2 if token.startswith("##") else 1) for token in TOKENS]
    return np.array(table)[ids]


def check_contrast(case: Case) -> None:
    """Losses between videos and captions, patches and words, from the golden hidden states.

    Of a case of kind ``pretrain`` this covers features, similarities, words, weights and the losses
    vtc and mcl of evaluation, ``rank1_of_2`` and ``patchfix``.
    """
    z = case.npz
    video, text, temperature = (
        paddle.to_tensor(z[key]) for key in ("out/video_embeds", "out/text_hidden", "param/temp")
    )
    contrast.clamp_temperature(temperature)
    features = {}
    for name, x in (("vision", video), ("text", text)):
        weight, bias = (z[f"param/{name}_proj.{part}"] for part in ("weight", "bias"))
        features[name] = unit(F.linear(x, paddle.to_tensor(weight.T), paddle.to_tensor(bias)))
    _check_instances(case, features["vision"][:, 0], features["text"][:, 0], temperature)
    found = _check_words(case, text)
    weight, bias = (paddle.to_tensor(z[f"param/text_proj.{part}"]) for part in ("weight", "bias"))
    word, patch = unit(F.linear(found.embeddings, weight.t(), bias)), features["vision"][:, 1:]
    close(case, "out/word_emb", word, z["out/word_emb"])
    close(case, "out/patch_emb", patch, z["out/patch_emb"])
    for name, scores in zip(
        ("word", "patch"), contrast.similarities(word, patch, found.shown), strict=True
    ):
        close(case, f"out/{name}_sim", scores, z[f"out/{name}_sim"])
    attention = paddle.to_tensor(z["out/last_spatial_attention_map"])
    weights = contrast.patch_weights(attention, len(video))
    close(case, "out/patch_weights", weights, z["out/patch_weights"])
    for name, value in contrast.mcl(found, word, patch, weights).items():
        close(case, f"loss/eval/{name}", value, z[f"loss/eval/{name}"])
    weights = contrast.patch_weights(attention, len(video), "per_video")
    own = contrast.mcl(found, word, patch, weights)["mcl"]
    close(case, "loss/patchfix/mcl", own, z["loss/patchfix/mcl"])


def _check_instances(
    case: Case, video: paddle.Tensor, text: paddle.Tensor, temperature: paddle.Tensor
) -> None:
    z = case.npz
    close(case, "out/video_feat", video, z["out/video_feat"])
    close(case, "out/text_feat", text, z["out/text_feat"])
    for key, one, other in (("v2t", video, text), ("t2v", text, video)):
        close(case, f"out/sim_{key}", one @ other.t() / temperature, z[f"out/sim_{key}"])
    for name, value in contrast.vtc(video, text, temperature).items():
        close(case, f"loss/eval/{name}", value, z[f"loss/eval/{name}"])
    before = [paddle.to_tensor(z[f"in/rank0_{name}_feat"]) for name in ("video", "text")]
    videos, texts = paddle.concat([before[0], video]), paddle.concat([before[1], text])
    terms = contrast.contrast(video, text, videos, texts, len(before[0]), temperature)
    close(case, "loss/rank1_of_2/vtc", terms["vtc"], z["loss/rank1_of_2/vtc"])


def _check_words(case: Case, text: paddle.Tensor) -> contrast.Words:
    """Words, which pieces they are of, and their weights."""
    z = case.npz
    ids = z["in/text_input_ids"]
    pieces = paddle.to_tensor(kinds(ids))
    attention = np.pad(z["out/text_cls_attn"], ((0, 0), (1, 0)))
    attention = paddle.to_tensor(attention)
    found = contrast.words(text, attention, pieces)
    close(case, "out/agg_embeds", found.embeddings, z["out/agg_embeds"][:, 1:])
    close(case, "out/agg_embeds, [CLS]", text[:, 0], z["out/agg_embeds"][:, 0])
    close(case, "out/agg_attn, [CLS]", attention[:, 1], z["out/agg_attn"][:, 0])
    places = paddle.eye(ids.shape[1]).unsqueeze(0).expand([len(ids), -1, -1])
    member = contrast.words(places, attention, pieces).embeddings.numpy() > 0
    written = [
        ["[CLS]"] + ["".join(TOKENS[k].removeprefix("##") for k in row[m]) or "[PAD]" for m in rows]
        for row, rows in zip(ids, member, strict=True)
    ]
    case.equal("out/words", written, z["out/words"].tolist())
    shown = np.array(written)[:, 1:] != "[PAD]"
    case.equal("words shown", found.shown.numpy() > 0, shown)
    used = (found.weights > 0).astype("float32")
    cut = contrast.trimmed(found.weights, used)  # what upstream leaves in place of the weights
    close(case, "out/agg_attn", cut, z["out/agg_attn"][:, 1:])
    close(case, "out/word_weights", contrast.shares(found.weights, used), z["out/word_weights"])
    return found


CHECKS = {"timesformer": check_timesformer}
