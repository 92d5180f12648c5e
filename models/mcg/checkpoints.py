# SPDX-License-Identifier: Apache-2.0
"""Published weights that MCG begins from, under our names and in our sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ..layers.bert import modern_name, own_layout
from .timesformer import Resize, resize_places, resize_times

_TRAIN_IT = (
    "no weights of MCG are published; train it (configs/mcg_pretrain.yaml, then --pretrain "
    "PRETRAINED,model_base_14M.pth), or give --weights FILE"
)
MCG = {"name": "mcg_pretrained_ckpt.pt", "urls": [], "note": _TRAIN_IT}
BLIP = {
    "name": "model_base_14M.pth",
    "urls": ["https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/"
             "model_base_14M.pth"],
    "note": "listed as BLIP w/ ViT-B, 14M images, in the README of github.com/salesforce/BLIP",
}  # fmt: skip
ALPRO = {
    "name": "alpro_pretrained_ckpt.pt",
    "urls": ["https://storage.googleapis.com/sfr-vision-language-research/ALPRO/output.zip"],
    "note": "output.zip holds it as output/release_models/alpro/alpro_pretrained_ckpt.pt",
}
TIMESFORMER = {
    "name": "TimeSformer_divST_8x32_224_K600.pyth",
    "urls": [],
    "note": "linked in the model zoo of github.com/facebookresearch/TimeSformer",
}
VIT = {
    "name": "jx_vit_base_p16_224-80ecf9dd.pth",
    "urls": ["https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx/"
             "jx_vit_base_p16_224-80ecf9dd.pth"],
    "note": "vit_base_patch16_224 of timm",
}  # fmt: skip
BERT = {
    "name": "bert-base-uncased",
    "urls": [],
    "note": "take pytorch_model.bin or model.safetensors of "
    "https://huggingface.co/bert-base-uncased",
}

_VIDEO, _TEXT = "visual_encoder.model.", "text_encoder."
_WORDS = "embeddings.word_embeddings.weight"
_UNUSED = re.compile(
    r".*\.position_ids|.*\.token_type_embeddings\.weight"
    r"|text_encoder\.encoder\..*\.crossattention\..*|text_decoder\.bert\.cls\..*"
    r"|text_encoder\.pooler\..*|text_encoder\.cls\.seq_relationship\..*"  # BERT's
    r"|(prompter|itm_head|(visual_encoder|text_encoder|vision_proj|text_proj)_m)\..*"
    r"|(image_queue|text_queue|queue_ptr|ptr_queue|idx_queue)"  # ALPRO's and BLIP's
    r"|visual_encoder\.(?!model\.).*"  # BLIP's sees images
)
_ONE_TASK = re.compile(r"temp|(vision|text)_proj\..*|text_encoder\.cls\..*|text_decoder\..*")
_SHARED = {
    "text_decoder.cls.predictions.decoder.weight": f"text_decoder.bert.{_WORDS}",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
    "text_encoder.cls.predictions.decoder.bias": "text_encoder.cls.predictions.bias",
}


def convert(
    state: Mapping[str, np.ndarray],
    own: Mapping[str, np.ndarray],
    *,
    resize: Resize = "flat_nearest",
    decoder_only: bool = False,
) -> dict[str, np.ndarray]:
    """Published names, layouts and sizes to ours; a state of ours passes unchanged.

    Known are files of MCG, ALPRO, BLIP, TimeSformer, timm's ViT and BERT. What this network lacks
    is left out. Places and times are resized; a vocabulary without the last words keeps ours.

    Args:
        own: the network's present state.
        resize: of places; "flat_nearest" is the published way, which leaves out ViT's where their
            number differs.
        decoder_only: of a BLIP file only the answer decoder is taken.
    """
    named = _named(state)
    if decoder_only and any(re.match(r"visual_encoder\.(?!model\.)", name) for name in named):
        named = {n: value for n, value in named.items() if n.startswith("text_decoder.")}
    named = own_layout({
        name: value for name, value in named.items()
        if not _UNUSED.fullmatch(name) and (name in own or not _ONE_TASK.fullmatch(name))
    })  # fmt: skip
    place, time = f"{_VIDEO}pos_embed", f"{_VIDEO}time_embed"
    if place in named:
        patches = own[place].shape[1] - 1
        if time in named or resize == "bicubic" or named[place].shape == tuple(own[place].shape):
            named[place] = resize_places(named[place], patches, resize)
        else:
            del named[place]
    if time in named:
        named[time] = resize_times(named[time], own[time].shape[1])
    return {name: _grown(name, value, own) for name, value in named.items()}


def _named(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Under our names; of parameters stored twice the head's copy counts, as in PyTorch."""
    if "cls_token" in state or "model.cls_token" in state:
        named = {_VIDEO + name.removeprefix("model."): value for name, value in state.items()}
        named = {n: value for n, value in named.items() if not n.startswith(f"{_VIDEO}head.")}
        return named if f"{_VIDEO}time_embed" in named else _with_time(named)
    if f"bert.{_WORDS}" in state or _WORDS in state:
        return _from_bert(state)
    named = {name.replace("text_encoder.bert.", _TEXT): value for name, value in state.items()}
    copies = {own: named.pop(copy) for copy, own in _SHARED.items() if copy in named}
    return named | copies


def _with_time(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Attention over time begins as a copy of that over space."""
    copies = {}
    for name, value in state.items():
        for part in ("attn", "norm1"):
            if f".{part}." in name:
                copies[name.replace(f".{part}.", f".temporal_{part}.")] = value
    return state | copies


def _from_bert(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The text encoder; its head's word vectors, which BERT shares, are a copy."""
    named = {_TEXT + modern_name(n.removeprefix("bert.")): value for n, value in state.items()}
    head = f"{_TEXT}cls.predictions."
    if f"{head}bias" in named:
        named.setdefault(f"{head}decoder.weight", named[_TEXT + _WORDS])
    named.pop(f"{head}decoder.bias", None)
    return named


def _grown(name: str, value: np.ndarray, own: Mapping[str, np.ndarray]) -> np.ndarray:
    """With the network's own rows for words that the file's vocabulary ends before."""
    if not name.endswith((_WORDS, "predictions.bias", "predictions.decoder.weight")):
        return value
    if name not in own or len(value) >= own[name].shape[0]:
        return value
    return np.concatenate([value, np.asarray(own[name])[len(value) :]])
