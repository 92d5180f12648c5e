# SPDX-License-Identifier: Apache-2.0
"""LLaMA's own weights out of the folders that people have, one array at a time.

Known are Meta's folder (params.json, consolidated.00.pth and further shards), Hugging Face's
(config.json, safetensors or .bin files), and one file with our names and layout, such as the cache
that the engine keeps.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .network import hidden_size

Open = Callable[[Path], Mapping[str, np.ndarray]]
Named = Iterator[tuple[str, np.ndarray]]

SOURCE = (
    "LLaMA-1 is not downloaded: its licence lets Meta alone pass it on; ask at "
    "https://forms.gle/jk851eBVbX1m5TAv5 (README of github.com/facebookresearch/llama, branch "
    "llama_v1), put params.json and consolidated.*.pth into data/weights/llama/7B (13B, 33B), "
    "tokenizer.model beside these folders, and name the folder with MODEL.backbone"
)
_OTHER_FAMILY = (
    "LLaMA-2 or another family, with which the published recipe ends in NaN or at chance accuracy"
)
_OFFICIAL = {
    "dim": "dim", "n_layers": "num_layers", "n_heads": "num_heads", "multiple_of": "multiple_of",
    "norm_eps": "norm_eps",
}  # fmt: skip
_HUGGING_FACE = {
    "hidden_size": "dim", "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads",
    "rms_norm_eps": "norm_eps", "vocab_size": "vocab_size",
}  # fmt: skip
_OUTSIDE = {
    "tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head",
}  # fmt: skip
_INSIDE = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def names(num_layers: int) -> list[str]:
    """Names of all weights of a LLaMA."""
    inside = [f"layers.{i}.{part}" for i in range(num_layers) for part in _INSIDE]
    return [f"{name}.weight" for name in ("tok_embeddings", *inside, "norm", "output")]


def read(path: str | Path, sizes: Mapping[str, Any], open_file: Open) -> Named:
    """Weights of the LLaMA at ``path`` under our names, in Paddle's layout [in, out].

    What the folder tells of the network is checked at once; arrays are read as they are asked for.

    Args:
        sizes: of the network: dim, num_layers, num_heads, multiple_of, norm_eps, vocab_size.
        open_file: path -> the arrays of a weights file, each read when it is asked for, in the
            file's type; bfloat16 as uint16.

    Raises:
        ValueError: no such weights, those of another network, or incomplete ones.
    """
    path = Path(path)
    if path.is_file():
        return _ours(path, sizes, open_file)
    if (path / "params.json").is_file():
        _check(path / "params.json", _OFFICIAL, sizes)
        return _official(path, sizes, open_file)
    if (path / "config.json").is_file():
        _check(path / "config.json", _HUGGING_FACE, sizes)
        return _hugging_face(path, sizes, open_file)
    if path.suffix:  # a file of ours
        raise ValueError(
            f"{path}: expected a LLaMA of your own, found nothing there; train it first, that of "
            "the sample world with --config configs/sample/llama_vqa_text.yaml"
        )
    raise ValueError(
        f"{path}: expected a folder with params.json and consolidated.*.pth, or Hugging Face's "
        f"config.json and weights, found neither; {SOURCE}"
    )


# ---- is it the right one


def _check(path: Path, keys: Mapping[str, str], sizes: Mapping[str, Any]) -> None:
    """Does a params.json or config.json describe this network?"""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        found = {own: given[key] for key, own in keys.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected the description of a LLaMA, found {type(error).__name__} {error}; "
            "fetch it again"
        ) from None
    for key in ("n_kv_heads", "num_key_value_heads"):
        if given.get(key) not in (None, found["num_heads"]):
            raise ValueError(
                f"{path}: expected as many key as query heads, found {key} {given[key]}: "
                f"{_OTHER_FAMILY}; take LLaMA-1"
            )
    for key, usual in (("rope_theta", 10000.0), ("rope_scaling", None), ("hidden_act", "silu")):
        if given.get(key) not in (None, usual):
            raise ValueError(
                f"{path}: expected {key} {usual}, found {given[key]}: {_OTHER_FAMILY}; take LLaMA-1"
            )
    hidden = hidden_size(sizes["dim"], sizes["multiple_of"])
    if given.get("intermediate_size", hidden) != hidden:
        raise ValueError(
            f"{path}: expected intermediate_size {hidden} (MODEL.dim and multiple_of), found "
            f"{given['intermediate_size']}; take LLaMA-1, or change MODEL"
        )
    compare(path, found, sizes, context=given.get("max_position_embeddings") or 0)


def compare(
    path: Path, found: Mapping[str, Any], sizes: Mapping[str, Any], context: int = 0
) -> None:
    """Refuse weights of other sizes; warn of those that the published recipe is not for.

    Args:
        context: longest text that the weights were trained on, 0 where unknown.

    Raises:
        ValueError: another network.
    """
    other = [f"{k} {v} (MODEL: {sizes[k]})" for k, v in found.items()
             if k != "norm_eps" and v != sizes[k]]  # fmt: skip
    if other:
        raise ValueError(
            f"{path}: expected the sizes of MODEL, found {', '.join(other)}; choose the folder "
            "that MODEL.size (7B, 13B, 33B) or dim, num_layers and num_heads describe"
        )
    epsilon = found.get("norm_eps", sizes["norm_eps"])
    if not math.isclose(epsilon, sizes["norm_eps"], rel_tol=1e-3):
        raise ValueError(
            f"{path}: expected norm_eps {sizes['norm_eps']:g} of LLaMA-1 (MODEL.norm_eps), found "
            f"{epsilon:g}: {_OTHER_FAMILY}; take LLaMA-1, or set MODEL.norm_eps={epsilon:g} and "
            "find a learning rate of its own"
        )
    if epsilon > 5e-6 or context > 2048:
        what = f"norm_eps {epsilon:g}" if epsilon > 5e-6 else f"texts of {context} tokens"
        warnings.warn(
            f"{path}: {what} is that of {_OTHER_FAMILY}; a lower rate may help", stacklevel=2
        )


# ---- where the arrays are


def _ours(path: Path, sizes: Mapping[str, Any], open_file: Open) -> Named:
    """A file with our names; what else it holds (adapters) is left."""
    arrays = open_file(path)
    wanted = names(sizes["num_layers"])
    if lacking := [name for name in wanted if name not in arrays]:
        raise ValueError(
            f"{path}: expected a LLaMA under our names with {sizes['num_layers']} layers, found no "
            f"{lacking[0]} ({len(lacking)} missing); for published weights give their folder"
        )
    known = getattr(arrays, "metadata", {}).get("sizes")
    if known:
        compare(path, json.loads(known), sizes)
    return ((name, arrays[name]) for name in wanted)


def _official(folder: Path, sizes: Mapping[str, Any], open_file: Open) -> Named:
    """Meta's shards, merged; further arrays (tables of rotations) are left."""
    shards = sorted(folder.glob("consolidated.*.pth"))
    expected = [f"consolidated.{i:02d}.pth" for i in range(len(shards))]
    if not shards or [shard.name for shard in shards] != expected:
        raise ValueError(
            f"{folder}: expected {', '.join(expected) or 'consolidated.00.pth'}, found "
            f"{', '.join(s.name for s in shards) or 'none'}; fetch what is missing; {SOURCE}"
        )
    files = [open_file(shard) for shard in shards]
    rows = sizes["vocab_size"]
    for name in names(sizes["num_layers"]):
        parts = [_get(file, name, shard) for file, shard in zip(files, shards, strict=True)]
        array = merge(name, parts)
        if name == "tok_embeddings.weight" and array.shape != (rows, sizes["dim"]):
            raise ValueError(
                f"{folder}: expected word vectors {[rows, sizes['dim']]} (MODEL.vocab_size, dim), "
                f"found {list(array.shape)} in {len(shards)} shards; fetch missing shards, or "
                "change MODEL"
            )
        yield name, array


def shard_axis(name: str) -> int | None:
    """Along which axis of [out, in] Meta's shards divide a weight; None: each has all of it."""
    if name.endswith("norm.weight"):
        return None
    return int(name.endswith((".wo.weight", ".w2.weight", "tok_embeddings.weight")))


def merge(name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    """One array in Paddle's layout from the shards' parts of a weight."""
    axis = shard_axis(name)
    if axis is None or name == "tok_embeddings.weight":
        return parts[0] if axis is None or len(parts) == 1 else np.concatenate(parts, axis)
    turned, axis = [part.T for part in parts], 1 - axis
    shape = list(turned[0].shape)
    shape[axis] = sum(part.shape[axis] for part in turned)
    return np.concatenate(turned, axis, out=np.empty(shape, parts[0].dtype))


def _hugging_face(folder: Path, sizes: Mapping[str, Any], open_file: Open) -> Named:
    paths = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not paths:
        raise ValueError(
            f"{folder}: expected model*.safetensors or pytorch_model*.bin beside config.json, "
            f"found none; {SOURCE}"
        )
    files = {name: arrays for path in paths for arrays in (open_file(path),) for name in arrays}
    for name in names(sizes["num_layers"]):
        array = _get(files.get(published(name), {}), published(name), folder)
        if name.endswith(("norm.weight", "tok_embeddings.weight")):
            yield name, array
            continue
        if name.endswith((".wq.weight", ".wk.weight")):
            array = interleaved(array, sizes["num_heads"])
        yield name, np.ascontiguousarray(array.T)


def published(name: str) -> str:
    """Hugging Face's name of a weight."""
    found = re.fullmatch(r"layers\.(\d+)\.(.*)\.weight", name)
    if found:
        return f"model.layers.{found[1]}.{_INSIDE[found[2]]}.weight"
    return f"{_OUTSIDE[name.removesuffix('.weight')]}.weight"


def interleaved(array: np.ndarray, num_heads: int) -> np.ndarray:
    """Query or key matrix [out, in] whose rows are in Meta's order again.

    Hugging Face rotates the first half of a head's rows with the second, Meta neighbours.
    """
    rows, inputs = array.shape
    halves = array.reshape([num_heads, 2, rows // num_heads // 2, inputs])
    return halves.swapaxes(1, 2).reshape([rows, inputs])


def _get(arrays: Mapping[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    if name not in arrays:
        raise ValueError(
            f"{path}: expected the weights of a LLaMA, found none called {name}; check "
            "MODEL.num_layers, or fetch the files again"
        )
    return arrays[name]
