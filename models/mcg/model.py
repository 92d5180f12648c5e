# SPDX-License-Identifier: Apache-2.0
"""MCG as the engine sees it: videos and texts encoded, contrasted, fused; answers written.

Source: Multi-granularity Contrastive Cross-modal Collaborative Generation for End-to-End Long-term
Video Question Answering (arXiv:2410.09379).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ..layers.bert import DEVIATION, spread
from ..layers.initialise import uniform_fan_in
from ..layers.kernels import unit
from . import checkpoints, contrast
from .search import Hypothesis, beam_search
from .text import AnswerDecoder, TextEncoder, read_pieces, smoothed_loss
from .timesformer import Freeze, Resize, TimeSformer

Task = Literal["pretrain", "msvd_qa", "msrvtt_qa", "nextqa_oe"]
Positions, Scope = Literal["zero", "normal"], Literal["all", "decoder"]

_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green, blue from 0 to 1, as in CLIP
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_FRAMES, _ROWS = 64, 32  # that evaluation encodes at a time


class VocabularyError(Exception):
    """The words of the data are not as many as those of the network; the message is one line."""

    exit_code = 2


class Model(nn.Layer):
    """MCG for one task; sizes are those published.

    Args:
        task: what is learned from: videos with captions (pretrain), or questions and answers.
        num_frm, crop_img_size, patch_size: frames of a video and pixels of a frame's and a patch's
            side.
        hidden_size: of all three transformers.
        num_layers, num_heads, intermediate_size: of the text encoder and of the answer decoder.
        vit_depth, vit_heads, drop_path_rate: of the video encoder, see ``TimeSformer``.
        vocab_size: words, [DEC] and [ENC] included.
        max_position: words of the longest text.
        proj_size: of the features by which videos and captions are compared.
        dropout: its probability everywhere in the text encoder and the answer decoder.
        freeze: checkpointed: attention and projections of the video encoder do not learn, as in
            published fine-tuning; None: checkpointed for questions, none for pretrain.
        recompute: the video encoder computes twice what training would otherwise remember.
        use_mlm, use_itc, use_mcl: terms of the pretrain loss.
        text_positions: of words that are compared with videos: zero, all the same, as published.
        patch_weights: from which attention a video's patches have their weights: batch_rows, that
            of the batch's first frames, as published, or per_video.
        num_beams, max_length, min_length, length_penalty: see ``beam_search``.
        label_smoothing: share of an answer word's probability that is spread over all words.
        initializer_range: standard deviation of the transformers' initial weights.
        pos_embed_resize: how places are resized when weights of other sizes are loaded.
        blip_scope: what is taken of a BLIP checkpoint: all, as published, or the decoder.

    Raises:
        ValueError: an option out of range.
    """

    feature_inputs = ()  # the video encoder checks frames itself
    published_weights = [checkpoints.MCG]
    initial_weights = [checkpoints.BLIP, checkpoints.ALPRO, checkpoints.TIMESFORMER,
                       checkpoints.VIT, checkpoints.BERT]  # fmt: skip
    benchmark_batch = 1
    task_heads = ("visual_encoder.model.head.", "vision_proj.", "text_proj.")

    def __init__(
        self, task: Task = "msvd_qa", num_frm: int = 16, crop_img_size: int = 224,
        patch_size: int = 16, hidden_size: int = 768, num_layers: int = 12, num_heads: int = 12,
        intermediate_size: int = 3072, vit_depth: int = 12, vit_heads: int = 12,
        drop_path_rate: float = 0.1, vocab_size: int = 30524, max_position: int = 512,
        proj_size: int = 256, dropout: float = 0.1,
        freeze: Freeze | None = None, recompute: bool = False, use_mlm: bool = True,
        use_itc: bool = True, use_mcl: bool = True, text_positions: Positions = "zero",
        patch_weights: contrast.PatchWeights = "batch_rows", num_beams: int = 3,
        max_length: int = 10, min_length: int = 1, length_penalty: float = 1.0,
        label_smoothing: float = 0.1, initializer_range: float = DEVIATION,
        pos_embed_resize: Resize = "flat_nearest", blip_scope: Scope = "all",
    ):  # fmt: skip
        super().__init__()
        _check_choices(
            task=(task, Task), text_positions=(text_positions, Positions),
            patch_weights=(patch_weights, contrast.PatchWeights),
            pos_embed_resize=(pos_embed_resize, Resize), blip_scope=(blip_scope, Scope),
        )  # fmt: skip
        self.task, self.label_smoothing = task, label_smoothing
        self.terms = {"mlm": use_mlm, "vtc": use_itc, "mcl": use_mcl}
        if not any(self.terms.values()):
            raise ValueError("use_mlm, use_itc, use_mcl: expected at least one, found none")
        self.text_positions, self.patch_weights = text_positions, patch_weights
        self.beams = {"size": num_beams, "max_length": max_length, "min_length": min_length,
                      "length_penalty": length_penalty}  # fmt: skip
        self.loading = {"resize": pos_embed_resize, "decoder_only": blip_scope == "decoder"}
        self.loss_couples_samples = pretrain = task == "pretrain"
        self.visual_encoder = TimeSformer(
            num_frm, crop_img_size, patch_size, hidden_size, vit_depth, vit_heads, drop_path_rate,
            freeze or ("none" if pretrain else "checkpointed"), recompute,
        )  # fmt: skip
        sizes = {
            "vocab_size": vocab_size, "hidden_size": hidden_size, "num_layers": num_layers,
            "num_heads": num_heads, "intermediate_size": intermediate_size,
            "max_position": max_position, "dropout": dropout,
        }  # fmt: skip
        self.text_encoder = TextEncoder(**sizes, words_head=pretrain)
        if not pretrain:
            self.text_decoder = AnswerDecoder(**sizes)
        if initializer_range != DEVIATION:
            spread(self, initializer_range)
        if pretrain:
            self._compare(hidden_size, proj_size)

    def _compare(self, hidden_size: int, proj_size: int) -> None:
        """Add what videos and captions are compared by."""
        self.vision_proj = _projection(hidden_size, proj_size)
        self.text_proj = _projection(hidden_size, proj_size)
        initial = nn.initializer.Constant(0.07)
        self.temp = self.create_parameter([], default_initializer=initial)

    # network

    def forward(self, batch: dict[str, Any]) -> dict[str, paddle.Tensor]:
        """Batch -> what ``loss`` needs.

        Questions: ``fused`` (R, L + 1 + N, D), what answers are made from, and, where answers are
        given, ``hidden`` (R, La, D) of their words. Task pretrain: see ``_pairs``.
        """
        if self.task == "pretrain":
            return self._pairs(batch)
        video = paddle.gather(self.video(batch["frames"]), batch["video"])
        outputs = {"fused": self.fuse(batch["ids"], batch["mask"], video)}
        if "answer_ids" in batch:
            memory = self.text_decoder.memory(outputs["fused"])
            hidden, _ = self.text_decoder(batch["answer_ids"].unsqueeze(1), memory)
            outputs["hidden"] = hidden.squeeze(1)
        return outputs

    def video(self, frames: paddle.Tensor) -> paddle.Tensor:
        """Frames (V, T, 3, S, S) -> (V, 1 + N, D), in evaluation a few videos at a time."""
        step = len(frames) if self.training else max(1, _FRAMES // frames.shape[1])
        return paddle.concat([
            self.visual_encoder(normalised(frames[i : i + step]))
            for i in range(0, len(frames), step)
        ])  # fmt: skip

    def fuse(
        self, ids: paddle.Tensor, mask: paddle.Tensor, video: paddle.Tensor
    ) -> paddle.Tensor:
        """Questions (R, L) and their videos (R, 1 + N, D) -> (R, L + 1 + N, D)."""
        return self.text_encoder.fuse(self.text_encoder(ids, mask), mask, video)

    def _pairs(self, batch: dict[str, Any]) -> dict[str, paddle.Tensor]:
        """Videos and captions.

        Returns:
            ``video`` (R, 1 + N, D), ``text`` (R, L, D), their features ``video_feat`` and
            ``text_feat`` (R, P) of length 1, ``text_attention`` (R, L) from [CLS] to all words,
            ``patch_attention`` (R T, heads, 1 + N, 1 + N), and ``words`` (R, L, D) of the captions
            with hidden words beside their videos.
        """
        contrast.clamp_temperature(self.temp)
        ids, mask = batch["ids"], batch["mask"]
        video, patch_attention = self.visual_encoder.attend(normalised(batch["frames"]))
        places = paddle.zeros_like(ids) if self.text_positions == "zero" else None
        text, text_attention = self.text_encoder.attend(ids, mask, places)
        outputs = {
            "video": video, "text": text, "text_attention": text_attention,
            "patch_attention": patch_attention,
            "video_feat": unit(self.vision_proj(video[:, 0])),
            "text_feat": unit(self.text_proj(text[:, 0])),
        }  # fmt: skip
        if self.terms["mlm"]:
            hidden = self.text_encoder(batch["mlm_ids"], mask)
            outputs["words"] = self.text_encoder.fuse(hidden, mask, video, ids.shape[1])
        return outputs

    # objective

    def loss(self, outputs: dict, batch: dict) -> dict[str, paddle.Tensor]:
        """``loss``: of an answer the sum over its words, of which the mean over questions.

        Task pretrain: the sum of ``mlm``, the mean over hidden words, ``vtc`` and ``mcl``.
        """
        if self.task == "pretrain":
            return self._pretrain_loss(outputs, batch)
        index, targets = _chosen(_next_words(batch["answer_ids"]))
        hidden = paddle.gather(outputs["hidden"].flatten(0, 1), index)
        scores = self.text_decoder.words(hidden)
        loss = smoothed_loss(scores, targets, self.label_smoothing)
        return {"loss": loss.sum() / len(batch["answer_ids"])}

    def _pretrain_loss(self, outputs: dict, batch: dict) -> dict[str, paddle.Tensor]:
        terms = {}
        if self.terms["mlm"]:
            losses, _ = self._hidden_words(outputs, batch)
            terms["mlm"] = losses.mean() if len(losses) else 0 * outputs["words"].sum()
        if self.terms["vtc"]:
            features = outputs["video_feat"], outputs["text_feat"]
            terms["vtc"] = contrast.vtc(*features, self.temp, together=self.training)["vtc"]
        if self.terms["mcl"]:
            terms["mcl"] = self.token_contrast(outputs, batch["pieces"])["mcl"]
        return {"loss": sum(terms.values())} | terms

    def token_contrast(self, outputs: dict, pieces: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Loss and parts of it by which words find their patches; see ``contrast.mcl``."""
        video = outputs["video"]
        found = contrast.words(outputs["text"], outputs["text_attention"], pieces)
        word, patch = unit(self.text_proj(found.embeddings)), unit(self.vision_proj(video[:, 1:]))
        weights = contrast.patch_weights(
            outputs["patch_attention"], len(video), self.patch_weights
        )
        return contrast.mcl(found, word, patch, weights)

    def _hidden_words(self, outputs: dict, batch: dict) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Losses and hits (M,) of the words that are asked for."""
        index, words = _chosen(batch["mlm_labels"])
        if not len(index):
            return paddle.zeros([0]), paddle.zeros([0], "bool")
        hidden = paddle.gather(outputs["words"].flatten(0, 1), index)
        scores = self.text_encoder.cls.predictions(hidden)
        return smoothed_loss(scores, words), scores.argmax(-1) == words

    # records

    def predict(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """Records: one per question, or per pair (pretrain)."""
        if self.task == "pretrain":
            return self._alignments(self(batch), batch)
        video, records = self.video(batch["frames"]), []
        for i in range(0, len(batch["ids"]), _ROWS):
            ids, mask, of = (batch[key][i : i + _ROWS] for key in ("ids", "mask", "video"))
            answers = self.answers(self.fuse(ids, mask, paddle.gather(video, of)), batch["tokens"])
            for name, found in zip(batch["id"][i : i + _ROWS], answers, strict=True):
                top = [[read_pieces(x.tokens, batch["tokens"]), x.score] for x in found]
                records.append({"id": name, "answer": top[0][0], "score": top[0][1], "top": top})
        return records

    def answers(self, fused: paddle.Tensor, tokens: Sequence[str]) -> list[list[Hypothesis]]:
        """The best answers to questions (R, L + 1 + N, D), by beam search, best first.

        Words of the network without a token are not written.

        Raises:
            VocabularyError: there are more tokens than the network knows.
        """
        known = self.text_decoder.cls.predictions.bias.shape[0]
        if len(tokens) > known:
            raise VocabularyError(
                f"vocab_size: expected that of the vocabulary with [DEC] and [ENC], {len(tokens)}, "
                f"found {known}; change it under MODEL"
            )
        start, end = tokens.index("[DEC]"), tokens.index("[SEP]")
        steps, count = self.text_decoder.steps(fused), len(tokens)
        return beam_search(
            lambda *call: steps(*call)[..., :count], len(fused), start=start, end=end, **self.beams
        )

    def candidate_scores(self, fused: paddle.Tensor, ids: paddle.Tensor) -> paddle.Tensor:
        """Log-probabilities (R, K) of K given answers (K, La) to questions (R, L + 1 + N, D).

        Answers begin with [DEC] and end with [SEP], then 0.
        """
        rows, (count, length) = len(fused), ids.shape
        memory = self.text_decoder.memory(fused)
        hidden, _ = self.text_decoder(ids.unsqueeze(0).expand([rows, count, length]), memory)
        index, words = _chosen(_next_words(ids))
        hidden = paddle.index_select(hidden.flatten(1, 2), index, 1)
        scores = self.text_decoder.words(hidden)
        words = words.unsqueeze(0).expand([rows, -1])
        logp = -smoothed_loss(scores.flatten(0, 1), words.flatten()).reshape([rows, -1])
        owner = F.one_hot(index // length, count)
        return paddle.matmul(logp, owner)

    def _alignments(self, outputs: dict, batch: dict) -> list[dict[str, Any]]:
        rows = len(batch["id"])
        totals = np.zeros((3, rows))  # loss, number and hits of hidden words
        if self.terms["mlm"]:
            found = [x.numpy() for x in self._hidden_words(outputs, batch)]
            row = np.nonzero(batch["mlm_labels"].numpy() >= 0)[0]
            for total, weights in zip(totals, (found[0], None, found[1]), strict=True):
                total += np.bincount(row, weights, rows)
        video, text = (outputs[key].numpy() for key in ("video_feat", "text_feat"))
        return [
            {"id": name, "video_feat": video[i], "text_feat": text[i],
             "mlm_loss": float(totals[0, i]), "mlm_tokens": int(totals[1, i]),
             "mlm_correct": int(totals[2, i])}
            for i, name in enumerate(batch["id"])
        ]  # fmt: skip

    # tools

    def example_batch(self, size: int, seed: int = 0) -> dict[str, np.ndarray]:
        """A random training batch with texts of the published lengths."""
        rng = np.random.default_rng(seed)
        encoder, table = self.visual_encoder, self.text_encoder.embeddings
        words, most = (
            x.weight.shape[0] for x in (table.word_embeddings, table.position_embeddings)
        )
        pretrain = self.task == "pretrain"
        length = min(30 if pretrain else 40, most)
        lengths = rng.integers(length // 4, length // 2, (size, 1))
        mask = np.arange(length) < lengths
        ids = rng.integers(5, words, mask.shape) * mask
        shape = (size, encoder.num_frm, 3, encoder.size, encoder.size)
        frames = 255 * rng.random(shape, np.float32)
        batch = {"frames": frames, "ids": ids, "mask": mask.astype(np.float32)}
        if pretrain:
            asked = mask & (rng.random(mask.shape) < 0.15)
            pieces = np.where(np.arange(length) == lengths - 1, 3, mask)
            pieces[:, 0] = 4
            return batch | {"mlm_ids": ids, "mlm_labels": np.where(asked, ids, -100),
                            "pieces": pieces.astype(np.int8)}  # fmt: skip
        answers = np.arange(6) < rng.integers(3, 7, (size, 1))
        return batch | {
            "video": np.arange(size),
            "answer_ids": rng.integers(5, words, answers.shape) * answers,
        }  # fmt: skip

    def flops(self, batch: dict[str, Any]) -> int:
        """Multiplications and additions of the matrix products of a forward pass and its loss."""
        rows, length = batch["ids"].shape
        videos, frames = batch["frames"].shape[:2]
        tokens = length + 1 + (self.visual_encoder.size // self._patch.patch) ** 2
        layers = self.text_encoder.encoder.layer
        found = videos * self._video_products(frames, tokens - length - 1)
        found += rows * (_products(layers, length) + _products(layers, tokens))
        if self.task == "pretrain":
            found += rows * _products(layers, length)  # of captions with hidden words
            asked = (np.asarray(batch["mlm_labels"]) >= 0).sum()
            head = _numbers(self.text_encoder.cls)
        else:
            answers, decoder = np.asarray(batch["answer_ids"]), self.text_decoder
            width, many = answers.shape[1], len(decoder.bert.encoder.layer)
            size = layers[0].attention.self.query.weight.shape[0]
            found += rows * _products(decoder.bert.encoder.layer, width)
            found += rows * many * 2 * size * (size * (tokens - width) + width * tokens)
            asked = (answers[:, 1:] > 0).sum()
            head = _numbers(decoder.cls) + _numbers(decoder.bert.embeddings.word_embeddings)
        return 2 * int(found + asked * head)

    @property
    def _patch(self) -> nn.Layer:
        return self.visual_encoder.model.patch_embed

    def _video_products(self, frames: int, patches: int) -> int:
        """Multiplications of a video of ``frames`` with ``patches`` each."""
        size = self._patch.proj.weight.shape[0]
        count = frames * patches
        over_time = 4 * size * size * count + 2 * size * count * frames
        over_space = frames * (patches + 1) * (4 * size * size + 2 * size * (patches + 1))
        blocks = len(self.visual_encoder.model.blocks)
        block = over_time + over_space + 8 * size * size * (count + 1)
        return blocks * block + count * _numbers(self._patch)

    def convert(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Published names, layouts and sizes to ours, see ``checkpoints.convert``."""
        return checkpoints.convert(state, self.state_dict(), **self.loading)


def normalised(frames: paddle.Tensor) -> paddle.Tensor:
    """Frames (..., 3, H, W) of 0 to 255, or floats of 0 to 1 -> float32 around 0."""
    divided = frames.dtype == paddle.uint8 or float(frames.max()) > 1
    scale = 255.0 if divided else 1.0
    mean, deviation = (
        np.array(x, np.float32).reshape(3, 1, 1) * np.float32(scale) for x in (_MEAN, _DEVIATION)
    )
    return (frames.astype("float32") - paddle.to_tensor(mean)) * paddle.to_tensor(1 / deviation)


def _check_choices(**options: tuple[str, Any]) -> None:
    """Options are (what is given, the Literal of what there is)."""
    for name, (given, known) in options.items():
        if given not in get_args(known):
            choices = ", ".join(get_args(known))
            raise ValueError(f"{name}: expected one of {choices}, found {given!r}")


def _numbers(layer: nn.Layer) -> int:
    return sum(int(np.prod(parameter.shape)) for parameter in layer.parameters())


def _products(layers: nn.LayerList, length: int) -> int:
    """Multiplications of ``length`` tokens that attend to one another; biases and norms are few."""
    size = layers[0].attention.self.query.weight.shape[0]
    return len(layers) * length * (_numbers(layers[0]) + 2 * size * length)


def _projection(inputs: int, outputs: int) -> nn.Linear:
    attrs = {"weight_attr": uniform_fan_in(inputs), "bias_attr": uniform_fan_in(inputs)}
    return nn.Linear(inputs, outputs, **attrs)


def _next_words(ids: paddle.Tensor) -> paddle.Tensor:
    """Answers (R, L) -> the word after each one, -100 where there is none."""
    following = paddle.concat([ids[:, 1:], paddle.zeros_like(ids[:, :1])], 1)
    return paddle.where(following == 0, paddle.full_like(ids, -100), following)


def _chosen(labels: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Labels (R, L), negative where nothing is asked for -> places in R * L and labels (M,)."""
    flat = labels.flatten()
    index = paddle.nonzero(flat >= 0).squeeze(-1)
    return index, paddle.gather(flat, index)
