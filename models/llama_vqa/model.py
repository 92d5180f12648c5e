# SPDX-License-Identifier: Apache-2.0
"""LLaMA-VQA as the engine sees it: frames among the words of a prompt, options scored by LLaMA.

Source: Large Language Models are Temporal and Causal Reasoners for Video Question Answering
(arXiv:2310.15747), built on LLaMA-Adapter (arXiv:2303.16199).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import paddle
from paddle import nn

from ..layers.initialise import uniform_fan_in
from ..layers.vit import recomputed
from . import backbone as published
from . import checkpoints, memory, objectives, parallel, scoring
from .network import Block, Pair, Places, RMSNorm, Whole, as_type, places

Size, Type = Literal["7B", "13B", "33B"], Literal["auto", "float32", "bfloat16", "float16"]

_SIZES = {"7B": (4096, 32, 32), "13B": (5120, 40, 40), "33B": (6656, 60, 52)}
_DEVIATION = 0.02  # of the initial embeddings and of the last layer
_EXTRAS = ("gate", "adapter", "temporal_emb", "visual_proj")  # in the names of what is added
_LENGTH, _ASKED = 97, {"vqa": 4, "vaq": 15}  # words of a row of NExT-QA, and labels


class InputError(Exception):
    """The batch is not what the network was made for; the message is one line."""

    exit_code = 2


class Model(nn.Layer):
    """LLaMA with the extras of Flipped-VQA; sizes are those published for 7B.

    Args:
        size: sets dim, num_layers and num_heads.
        backbone: LLaMA's weights, a folder or a file; see ``backbone``. None: random ones.
        dim, num_layers, num_heads, multiple_of, norm_eps, vocab_size: of LLaMA.
        max_feats: frames of a video.
        adapter_len: prompts of a layer. adapter_layer: so many last layers have prompts; None: all.
        skip_early_layers: layers without prompts are left out altogether, as published code does.
        visual_dim: numbers of a frame's feature.
        bias: gate2, which is added to scores of frames, begins as its negative.
        tau: what scores of frames are divided by.
        vaq, qav: learn to predict the question, and the video, too.
        train_backbone: all parameters learn, as on texts; otherwise the extras alone.
        dtype: of frozen weights; auto: bfloat16 on a GPU, else float32.
        recompute: layers compute twice what training would otherwise remember.
        score: of an option: mean_nonzero, the mean of its tokens' losses that are not exactly 0, as
            published; mean, of all; letter, the loss of its letter.
        tensor_parallel: GPUs that share one network.

    Raises:
        ValueError: an option out of range.
    """

    feature_inputs = ("video",)
    published_weights = [checkpoints.ADAPTERS]
    benchmark_batch = 8

    def __init__(
        self, size: Size | None = None, backbone: str | None = None, dim: int = 4096,
        num_layers: int = 32, num_heads: int = 32, multiple_of: int = 256, norm_eps: float = 1e-6,
        vocab_size: int = 32000, max_feats: int = 10, adapter_len: int = 10,
        adapter_layer: int | None = None, skip_early_layers: bool = False, visual_dim: int = 768,
        bias: float = 3.5, tau: float = 100.0, vaq: bool = True, qav: bool = True,
        train_backbone: bool = False, dtype: Type = "auto", recompute: bool = False,
        score: scoring.Score = "mean_nonzero", tensor_parallel: int = 1,
    ):  # fmt: skip
        super().__init__()
        _check_choices(size=(size or "7B", Size), dtype=(dtype, Type),
                       score=(score, scoring.Score))  # fmt: skip
        if size:
            dim, num_layers, num_heads = _SIZES[size]
        adapter_layer = num_layers if adapter_layer is None else adapter_layer
        _check_sizes(dim, num_heads, adapter_len=adapter_len, adapter_layer=adapter_layer)
        self.backbone, self.train_backbone, self.recompute = backbone, train_backbone, recompute
        self.backbone_sizes = {
            "dim": dim, "num_layers": num_layers, "num_heads": num_heads,
            "multiple_of": multiple_of, "norm_eps": norm_eps, "vocab_size": vocab_size,
        }  # fmt: skip
        self.tau, self.score, self.head = tau, score, dim // num_heads
        self.objectives = ["vqa", *(n for n, on in (("vaq", vaq), ("qav", qav)) if on)]
        self.dtype = _dtype(dtype, train_backbone)
        plain = max(0, num_layers - adapter_layer)  # first layers without prompts
        self.used = range(plain if skip_early_layers else 0, num_layers)
        self.adapted = range(plain, num_layers)
        parallel.check(tensor_parallel, self.backbone_sizes, train_backbone)
        self._make = parallel.Parts(tensor_parallel) if tensor_parallel > 1 else Whole()
        with _default_type(self.dtype):
            self._add_backbone(bias)
        self.adapter_query = Whole.table(adapter_len * adapter_layer, dim, 1.0)
        self.visual_proj = nn.Linear(
            visual_dim, dim, weight_attr=uniform_fan_in(visual_dim), bias_attr=False
        )
        self.temporal_emb = Whole.table(max_feats, dim, 1.0)
        self.adapter_len, self._adapters = adapter_len, None
        for name, parameter in self.named_parameters():
            if not self.own(name):
                parameter.stop_gradient = True

    def _add_backbone(self, bias: float) -> None:
        sizes, make = self.backbone_sizes, self._make
        dim, depth, epsilon = (sizes[key] for key in ("dim", "num_layers", "norm_eps"))
        shape = dim, sizes["num_heads"], sizes["multiple_of"], epsilon, bias
        self.tok_embeddings = make.table(sizes["vocab_size"], dim, _DEVIATION)
        self.layers = nn.LayerList([
            Block(*shape, i in self.adapted, depth, self.dtype, make) for i in range(depth)
        ])  # fmt: skip
        self.norm = RMSNorm(dim, epsilon, self.dtype)
        self.output = make.words(dim, sizes["vocab_size"], _DEVIATION)

    def own(self, name: str) -> bool:
        """Is this parameter kept in checkpoints? The frozen ones are those of ``backbone``."""
        return self.train_backbone or any(part in name for part in _EXTRAS)

    def read_backbone(self, open_file: Callable[[Any], Any]) -> Iterator[tuple[str, np.ndarray]]:
        """The weights of ``backbone`` one at a time, in our layout; see ``backbone.read``."""
        return published.read(self.backbone, self.backbone_sizes, open_file)

    def read_training(self, tree: Any) -> Any:
        """What a training checkpoint of the published code holds; see ``checkpoints.training``."""
        return checkpoints.training(tree, {n: p.shape for n, p in self.named_parameters()})

    def activation_bytes(self, samples: int, data: dict[str, Any]) -> int:
        """An estimate for a forward pass of training, ``data`` being the reader's options."""
        rows, length = samples * len(self.objectives), data.get("max_seq_len", 128)
        return memory.activations(rows, length, self.backbone_sizes, self.dtype, self.recompute)

    def part(self, name: str, array: np.ndarray) -> np.ndarray:
        """What this process holds of an array of the backbone."""
        if isinstance(self._make, parallel.Parts):
            return parallel.split(name, array, self._make.rank, self._make.degree)
        return array

    def train(self) -> None:
        """Training mode."""
        super().train()
        self._adapters = None

    def eval(self) -> None:
        """Evaluation mode; keys and values of the prompts are computed once from now on."""
        super().eval()
        self._adapters = None

    # network

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Training batch -> what ``loss`` needs.

        ``hidden`` (N, L, D), last states of all rows: those of vqa, then of vaq and qav;
        ``frames`` (B, F, D) float32, projected. Of texts ``hidden`` (B, L, D) alone.
        """
        with _own_precision(self.dtype):
            if "text_ids" in batch:
                return {"hidden": self._read_texts(batch["text_ids"])}
            for name in self.objectives:
                if f"{name}_ids" not in batch:
                    raise InputError(
                        f"{name}: expected rows of this objective, found none; set {name} alike "
                        "under MODEL and DATASET"
                    )
            frames, video = self.video(batch["video"])
            rows = objectives.rows(batch, self.objectives)
            positions = np.arange(rows.ids.shape[1])[None]
            at = self.places(batch, positions, weighted=rows.weighted)
            x = self.embed(rows.ids, positions, rows.start, video, rows.owner)
            return {"hidden": self.decode(x, at)[0], "frames": frames, "first": rows.first}

    def places(
        self, batch: dict[str, Any], positions: np.ndarray, mask: np.ndarray | None = None,
        weighted: np.ndarray | bool = True,
    ) -> Places:  # fmt: skip
        """Of tokens at positions (1 or N, L) of rows whose frames begin at ``video_start``."""
        start = batch["video_start"].numpy()
        assert (start == start[0]).all(), f"video_start: expected equal places, found {start}"
        frames = int(start[0]), int(start[0]) + batch["video"].shape[1]
        return places(positions, self.head, frames, mask, weighted)

    def video(self, features: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Features (B, F, 768) -> frames (B, F, D) without and with their number, float32."""
        if features.shape[1] != self.temporal_emb.weight.shape[0]:
            raise InputError(
                f"max_feats: expected {features.shape[1]}, the frames of the data, found "
                f"{self.temporal_emb.weight.shape[0]}; change it under MODEL or DATASET"
            )
        frames = self.visual_proj(features)
        return frames, frames + self.temporal_emb.weight

    def embed(
        self, ids: np.ndarray, positions: np.ndarray, start: np.ndarray, video: paddle.Tensor,
        owner: np.ndarray,
    ) -> paddle.Tensor:  # fmt: skip
        """Tokens (N, W) at positions (1 or N, W) -> (N, W, D), frames in their places.

        Args:
            start: position of a row's first frame. owner: its video.
        """
        count = video.shape[1]
        number = positions - start[:, None]
        row, column = np.nonzero((number >= 0) & (number < count))
        x = self._words_of(ids)
        if not len(row):
            return x
        chosen = paddle.to_tensor(owner[row] * count + number[row, column])
        values = as_type(paddle.gather(video.flatten(0, 1), chosen), x.dtype)
        index = paddle.to_tensor(row * ids.shape[1] + column)
        return paddle.scatter(x.flatten(0, 1), index, values).reshape(x.shape)

    def _words_of(self, ids: np.ndarray) -> paddle.Tensor:
        """Ids (N, W) -> (N, W, D)."""
        known = self.tok_embeddings.weight.shape[0]
        if ids.max() >= known:
            raise InputError(
                f"vocab_size: expected that of the tokenizer, found {known} and the piece "
                f"{ids.max()} in the data; change it under MODEL"
            )
        return self.tok_embeddings(paddle.to_tensor(ids))

    def decode(
        self, x: paddle.Tensor, at: Places, past: list[Pair] | None = None, adapters: bool = True
    ) -> tuple[paddle.Tensor, list[Pair]]:
        """(N, L, D) -> last states before the last norm and, without gradients, keys and values."""
        pairs, prompts = [], self.adapters() if adapters else {}
        unweighted = replace(at, frames=None, after=None)
        for n, i in enumerate(self.used):
            layer, adapter = self.layers[i], prompts.get(i)
            seen = at if i in prompts else unweighted
            if self.recompute and paddle.is_grad_enabled():
                x = recomputed(_plainly(layer, seen), x, *(adapter or ()))
                continue
            x, pair = layer(x, seen, adapter, past[n] if past else None)
            if not paddle.is_grad_enabled():
                pairs.append(pair)
        return x, pairs

    def adapters(self) -> dict[int, Pair]:
        """Keys and values of the prompts of layers that have them."""
        if self._adapters is not None:
            return self._adapters
        query = as_type(self.adapter_query.weight, self.dtype)
        prompts = query.reshape([-1, self.adapter_len, query.shape[1]]).unbind(0)
        found = {
            i: self.layers[i].attention.adapter(prompts[n]) for n, i in enumerate(self.adapted)
        }
        if not (self.training or paddle.is_grad_enabled()):
            self._adapters = found
        return found

    def _read_texts(self, ids: paddle.Tensor) -> paddle.Tensor:
        at = places(np.arange(ids.shape[1])[None], self.head)
        return self.decode(self._words_of(ids.numpy()), at, adapters=False)[0]

    # objective

    def loss(self, outputs: dict, batch: dict) -> dict[str, paddle.Tensor]:
        """``loss``, the sum of the means ``vqa`` and ``vaq`` over words and ``qav`` over frames.

        Of texts ``loss`` and ``lm``, the mean over words. A term without a word is 0.
        """
        with _own_precision(self.dtype):
            texts = "text_ids" in batch
            terms = self._text_terms(outputs, batch) if texts else self._terms(outputs, batch)
            return {"loss": sum(terms.values())} | terms

    def _terms(self, outputs: dict, batch: dict) -> dict[str, paddle.Tensor]:
        hidden, frames = outputs["hidden"], outputs["frames"]
        index, targets = {}, {}
        for name, first in outputs["first"].items():
            labels = batch[f"{name}_labels"].numpy()
            labels = labels.reshape(-1, labels.shape[-1])
            if name == "qav":
                start = batch["qav_start"].numpy()
                found = objectives.before_frames(labels, start, frames.shape[1])
            else:
                found = objectives.asked(labels)
            row, place, targets[name] = found
            index[name] = (first + row) * hidden.shape[1] + place
        states = self._states(hidden, np.concatenate(list(index.values())))
        words, done, terms = len(states) - len(index.get("qav", ())), 0, {}
        logits = self.output(states[:words]) if words else None
        for name, right in targets.items():
            if not len(right):
                terms[name] = frames.sum() * 0
            elif name == "qav":
                before = states[words:].reshape([*frames.shape[:2], -1])
                found = objectives.frame_logits(before, frames, self.tau).flatten(0, 1)
                terms[name] = objectives.token_losses(found, right).mean()
            else:
                found, done = logits[done : done + len(right)], done + len(right)
                terms[name] = objectives.token_losses(found, right).mean()
        return terms

    def _states(self, hidden: paddle.Tensor, index: np.ndarray) -> paddle.Tensor:
        """Normed states (M, D) at places in N * L of the last states (N, L, D)."""
        return self.norm(paddle.gather(hidden.flatten(0, 1), paddle.to_tensor(index)))

    def _text_terms(self, outputs: dict, batch: dict) -> dict[str, paddle.Tensor]:
        losses, _, _ = self._text_losses(outputs["hidden"], batch)
        return {"lm": losses.mean() if losses is not None else outputs["hidden"].sum() * 0}

    def _text_losses(self, hidden: paddle.Tensor, batch: dict) -> tuple[Any, Any, np.ndarray]:
        """Of the words of texts their losses and hits (M,), None without a word, and rows (M,)."""
        row, place, right = objectives.asked(batch["text_labels"].numpy())
        if not len(row):
            return None, None, row
        logits = self.output(self._states(hidden, row * hidden.shape[1] + place))
        hits = logits.argmax(-1) == paddle.to_tensor(right)
        return objectives.token_losses(logits, right), hits, row

    # records

    def predict(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """Records: one per question, or per text."""
        if "text_ids" in batch:
            return self._text_records(batch)
        losses, plan = self.option_losses(batch)
        shape = tuple(batch["vqa_ids"].shape[:2])
        totals = scoring.totals(losses, plan, shape, self.score == "mean_nonzero")
        records = [
            {"id": name, "scores": row, "answer": int(row.argmin())}
            for name, row in zip(batch["id"], scoring.scores(*totals), strict=True)
        ]
        for record, reference in zip(records, batch.get("reference", ()), strict=False):
            record["reference"] = reference  # of a raw video
        return records

    def option_losses(self, batch: dict[str, Any]) -> tuple[np.ndarray, scoring.Plan]:
        """Losses (M,) of the words that are asked for in all options (B, K, L), and which they are.

        What the options of a question share is read once.
        """
        ids, labels = (batch[f"vqa_{part}"].numpy() for part in ("ids", "labels"))
        if self.score == "letter":
            labels = scoring.only_letters(labels)
        plan = scoring.plan(ids, labels)
        if not len(plan.source):
            return np.zeros(0, np.float32), plan
        with paddle.no_grad(), _own_precision(self.dtype):
            sources, inverse = np.unique(plan.source, return_inverse=True)
            states = paddle.gather(self._option_states(ids, plan, batch), paddle.to_tensor(sources))
            logits = self.output(self.norm(states))
            found = (paddle.to_tensor(x) for x in (inverse.ravel(), plan.targets))
            return objectives.exact_losses(logits, *found).numpy(), plan

    def _option_states(
        self, ids: np.ndarray, plan: scoring.Plan, batch: dict[str, Any]
    ) -> paddle.Tensor:
        """Last states (M, D) of all that is read: see ``Plan.source``."""
        video = self.video(batch["video"])[1]
        owner, start = np.arange(len(ids)), batch["video_start"].numpy()
        positions = np.arange(plan.shared.max())[None]
        x = self.embed(ids[:, 0, : positions.size], positions, start, video, owner)
        x, past = self.decode(x, self.places(batch, positions))
        states = [x.flatten(0, 1)]
        if plan.tail:
            positions, seen = scoring.tail_layout(plan.shared, ids.shape[1], plan.tail)
            x = self.embed(scoring.tails(ids, plan), positions, start, video, owner)
            x, _ = self.decode(x, self.places(batch, positions, seen), past)
            states.append(x.flatten(0, 1))
        return paddle.concat(states)

    def _text_records(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        rows = len(batch["id"])
        with paddle.no_grad(), _own_precision(self.dtype):
            losses, hits, row = self._text_losses(self(batch)["hidden"], batch)
        found = (None, *((x.numpy() if x is not None else ()) for x in (losses, hits)))
        tokens, total, correct = (np.bincount(row, weights, rows) for weights in found)
        return [
            {"id": name, "lm_loss": float(total[i]), "lm_tokens": int(tokens[i]),
             "lm_correct": int(correct[i])}
            for i, name in enumerate(batch["id"])
        ]  # fmt: skip

    # tools

    def example_batch(self, size: int, seed: int = 0) -> dict[str, np.ndarray]:
        """A random training batch with rows as long as those of NExT-QA; of texts to learn all."""
        rng = np.random.default_rng(seed)
        words = self.tok_embeddings.weight.shape[0]
        ids = rng.integers(3, words, (size, _LENGTH))
        if self.train_backbone:
            return {"text_ids": ids, "text_labels": ids}
        frames, visual = self.temporal_emb.weight.shape[0], self.visual_proj.weight.shape[0]
        place = np.arange(_LENGTH)
        batch = {"video": rng.standard_normal((size, frames, visual), np.float32),
                 "video_start": np.full(size, 18), "answer": np.zeros(size, np.int64)}  # fmt: skip
        for name in self.objectives:
            start = _LENGTH - frames - 1 if name == "qav" else 18
            rows = np.where((place >= start) & (place < start + frames), 0, ids)
            asked = place >= _LENGTH - _ASKED.get(name, 0)
            labels = np.where(asked, rows, 0)
            if name == "qav":
                batch["qav_start"] = np.full(size, start)
                labels = np.tile(np.where(rows[0] == 0, place - start, -1), (size, 1))
            batch |= {f"{name}_ids": rows[:, None], f"{name}_labels": labels[:, None]}
        return batch

    def flops(self, batch: dict[str, Any]) -> int:
        """Multiplications and additions of the matrix products of a forward pass and its loss."""
        dim, words = self.output.weight.shape
        texts = "text_ids" in batch
        names = ["text"] if texts else self.objectives
        shapes = [batch[f"{name}_ids"].shape for name in names]
        rows, length = sum(int(np.prod(s[:-1])) for s in shapes), max(s[-1] for s in shapes)
        layer = self.layers[0]
        numbers = sum(int(np.prod(p.shape)) for p in layer.parameters() if len(p.shape) == 2)
        found = rows * length * len(self.used) * (numbers + 2 * dim * length)
        asked = sum(int((np.asarray(batch[f"{n}_labels"])[..., 1:] != 0).sum())
                    for n in names if n != "qav")  # fmt: skip
        found += asked * dim * words
        if not texts:
            videos, frames, visual = batch["video"].shape
            prompts = 2 * len(self.adapted) * dim * self.adapter_len
            found += videos * frames * dim * visual + rows * length * prompts + prompts * dim
            found += videos * frames * frames * dim * ("qav" in names)
        return 2 * found

    def convert(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """PyTorch's layout to ours, see ``checkpoints.convert``."""
        return checkpoints.convert(state, {n: p.shape for n, p in self.named_parameters()})


def _plainly(layer: Block, at: Places) -> Any:
    """The layer as a function of tensors that gives one."""
    return lambda x, *adapter: layer(x, at, adapter or None)[0]


def _dtype(given: str, train_backbone: bool) -> str:
    if given != "auto":
        return given
    gpu = paddle.device.get_device().startswith("gpu")
    return "bfloat16" if gpu and not train_backbone else "float32"


@contextlib.contextmanager
def _default_type(dtype: str) -> Iterator[None]:
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        yield
    finally:
        paddle.set_default_dtype(before)


@contextlib.contextmanager
def _own_precision(dtype: str) -> Iterator[None]:
    """Inside, types are those that the network chose, whatever TRAIN.amp says."""
    if dtype != "float32" and paddle.device.get_device().startswith("cpu"):
        raise InputError(f"dtype: expected float32 on a CPU, found {dtype}; change it under MODEL")
    with paddle.amp.auto_cast(enable=False):
        yield


def _check_sizes(dim: int, num_heads: int, **counts: int) -> None:
    if dim % (2 * num_heads):
        raise ValueError(
            f"dim: expected a multiple of 2 * num_heads = {2 * num_heads}, found {dim}"
        )
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value}")


def _check_choices(**options: tuple[str, Any]) -> None:
    """Options are (what is given, the Literal of what there is)."""
    for name, (given, known) in options.items():
        if given not in get_args(known):
            choices = ", ".join(get_args(known))
            raise ValueError(f"{name}: expected one of {choices}, found {given!r}")
