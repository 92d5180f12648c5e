# SPDX-License-Identifier: Apache-2.0
"""TALL as the engine sees it: network, objective, records, published weights."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from .network import CrossModalLocaliser, alignment_regression_loss

_BASE_URL = "https://paddlemodels.bj.bcebos.com/video_grounding/"


class Model(CrossModalLocaliser):
    """CTRL with the released Paddle configuration as defaults.

    Args:
        visual_feature_dim: length of left context | window | right context features.
        sentence_embedding_size: length of a skip-thought vector.
        semantic_size: size of the common space.
        hidden_size: width of the hidden layer over pairs.
        output_size: numbers per pair; the method has exactly 3.
        regression_weight: weight of the offset term in the loss.
        with_bias: biases as in the TensorFlow release.

    Raises:
        ValueError: ``output_size`` other than 3.
    """

    # Negatives are the other pairs of a batch, so its split over processes changes the result.
    loss_couples_samples = True

    # Neither size nor hash was published. The document's name first, the later release's second.
    published_weights = [
        {"name": name, "urls": [_BASE_URL + name]}
        for name in ("TALL_final.pdparams", "TALL.pdparams")
    ]

    def __init__(
        self,
        visual_feature_dim: int = 12288,
        sentence_embedding_size: int = 4800,
        semantic_size: int = 1024,
        hidden_size: int = 1000,
        output_size: int = 3,
        regression_weight: float = 0.01,
        with_bias: bool = False,
    ):
        if output_size != 3:
            raise ValueError(
                f"output_size: expected 3 (score, start offset, end offset), found {output_size}"
            )
        super().__init__(
            visual_feature_dim, sentence_embedding_size, semantic_size, hidden_size, with_bias
        )
        self.regression_weight = regression_weight

    def forward(self, batch: dict) -> paddle.Tensor:
        """Batch with ``visual`` (T, V) and ``sentence`` (Q, E) -> (3, Q, T)."""
        return super().forward(batch["visual"], batch["sentence"])

    def loss(self, outputs: paddle.Tensor, batch: dict) -> dict[str, paddle.Tensor]:
        """Loss terms; every sentence's matching window is the one of the same index."""
        return alignment_regression_loss(outputs, batch["offset"], self.regression_weight)

    def predict(self, batch: dict) -> list[dict]:
        """One record per query: all windows of the item with score and offsets, (T, 3) float32."""
        outputs = self(batch).transpose([1, 2, 0]).numpy()  # (Q, T, 3)
        shared = {"video": batch["id"], "windows": np.asarray(batch["windows"])}
        shared["first_window"] = int(batch["first_window"])
        shared.update({k: batch[k] for k in ("fps", "num_frames") if k in batch})
        return [
            {"id": query, "sentence_index": int(index), **shared, "outputs": output}
            for query, index, output in zip(
                batch["query_ids"], batch["sentence_index"], outputs, strict=True
            )
        ]

    @staticmethod
    def progress_text(records: list[dict]) -> str:
        """As the published evaluation logs it: the mean of all outputs, a historical name."""
        return f"\tsim_score_mat = {np.mean([r['outputs'].mean() for r in records]):.01f}"

    def example_batch(self, size: int, seed: int = 0) -> dict[str, np.ndarray]:
        """A random training batch of ``size`` matched pairs."""
        rng = np.random.default_rng(seed)
        visual, sentence = self.v2s_lt_weights.shape[0], self.s2s_lt_weights.shape[0]
        return {
            "visual": rng.normal(size=(size, visual)).astype(np.float32),
            "sentence": rng.normal(size=(size, sentence)).astype(np.float32),
            "offset": rng.normal(scale=60, size=(size, 2)).astype(np.float32),
        }

    def flops(self, batch: dict) -> int:
        """Floating-point operations of the forward pass of a batch."""
        (windows, visual), (queries, text) = batch["visual"].shape, batch["sentence"].shape
        hidden, semantic = self.mid_out_weights.shape[0], self.semantic_size
        embed = windows * visual * semantic + queries * text * semantic
        unary = (windows + queries) * semantic * hidden
        pairs = windows * queries * hidden * (semantic + 3)
        return 2 * (embed + unary + pairs)

    def exportable(self) -> tuple[nn.Layer, list[InputSpec]]:
        """The network for deployment: forward(visual, sentence), any number of each."""
        sizes = (self.v2s_lt_weights.shape[0], self.s2s_lt_weights.shape[0])
        specs = [
            InputSpec([None, size], "float32", name)
            for name, size in zip(("visual", "sentence"), sizes, strict=True)
        ]
        return _Exported(self), specs

    @staticmethod
    def convert(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Published names -> ours; the TensorFlow release's kernels are HWIO and get transposed."""
        renamed = {}
        for name, value in state.items():
            key = name.split("CTRL_Model/")[-1]
            if key in _TF_NAMES:
                name = _TF_NAMES[key]
                if value.ndim == 4:
                    value = np.ascontiguousarray(value.transpose(3, 2, 0, 1))
            renamed[name] = value
        return renamed


class _Exported(nn.Layer):
    def __init__(self, network: CrossModalLocaliser):
        super().__init__()
        self.network = network

    def forward(self, visual: paddle.Tensor, sentence: paddle.Tensor) -> paddle.Tensor:
        return self.network.forward_broadcast(visual, sentence)


_TF_NAMES = {
    f"{scope}/{kind}": f"{ours}_{kind}"
    for scope, ours in {
        "v2s_lt": "v2s_lt",
        "s2s_lt": "s2s_lt",
        "vs_multilayer_lt/layer1": "mid_out",
        "vs_multilayer_lt/layer2": "sim_mat",
    }.items()
    for kind in ("weights", "biases")
}
