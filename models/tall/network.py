# SPDX-License-Identifier: Apache-2.0
"""The CTRL network (arXiv:1705.02101, section 3), without ever building the pair tensor.

The published network concatenates ``[v*s, v+s, v, s]`` for every (sentence, window) pair and
applies a 1x1 convolution ``W_m``. Split along its input, ``[W_mul | W_add | W_vis | W_sen]``:

    W_m f_ij = W_mul (v_j * s_i) + (W_add + W_vis) v_j + (W_add + W_sen) s_i

Only the product term is computed per pair: a quarter of the multiplications, and no
(pairs, 4 * semantic) tensor in memory. The numbers are the published ones up to fp32 rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import paddle
import paddle.nn.functional as F
from paddle import nn

# Up to this many sentences + windows, all pairs go through one matrix product.
_ONE_PRODUCT = 256


class CrossModalLocaliser(nn.Layer):
    """Scores and boundary offsets for every (sentence, window) pair.

    Args:
        visual_size: length of a window's visual vector, left context | window | right context.
        sentence_size: length of a sentence vector.
        semantic_size: size of the common space.
        hidden_size: width of the 1x1 hidden layer.
        with_bias: biases in all four layers, as in the TensorFlow release.
    """

    def __init__(
        self,
        visual_size: int,
        sentence_size: int,
        semantic_size: int,
        hidden_size: int,
        with_bias: bool = False,
    ):
        super().__init__()
        self.semantic_size = semantic_size
        fan_in = 4 * semantic_size
        shapes = {  # published name: (shape, std of the normal initialisation)
            "v2s_lt_weights": ([visual_size, semantic_size], 1.0),
            "s2s_lt_weights": ([sentence_size, semantic_size], 1.0),
            "mid_out_weights": ([hidden_size, fan_in, 1, 1], math.sqrt(2 / fan_in)),
            "sim_mat_weights": ([3, hidden_size, 1, 1], math.sqrt(2 / hidden_size)),
        }
        for name, (shape, std) in shapes.items():
            init = nn.initializer.Normal(0.0, std)
            self.add_parameter(name, self.create_parameter(shape, default_initializer=init))
        self.with_bias = with_bias
        if with_bias:
            sizes = [semantic_size, semantic_size, hidden_size, 3]
            for name, size in zip(shapes, sizes, strict=True):
                bias = self.create_parameter([size], is_bias=True)
                self.add_parameter(name.replace("_weights", "_biases"), bias)

    def _bias(self, layer: str) -> paddle.Tensor | float:
        return getattr(self, f"{layer}_biases") if self.with_bias else 0.0

    def embed(
        self, visual: paddle.Tensor, sentence: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """(T, V), (Q, E) -> unit vectors (T, S), (Q, S) of the common space."""
        v = visual @ self.v2s_lt_weights + self._bias("v2s_lt")
        s = sentence @ self.s2s_lt_weights + self._bias("s2s_lt")
        return _unit(v), _unit(s)

    def forward(self, visual: paddle.Tensor, sentence: paddle.Tensor) -> paddle.Tensor:
        """(T, V), (Q, E) -> (3, Q, T): score, start offset, end offset in frames."""
        terms = self._terms(visual, sentence)
        small = visual.shape[0] + sentence.shape[0] <= _ONE_PRODUCT
        pairs = _hidden_at_once if small else _hidden_by_sentence
        out = paddle.concat([self._output(hidden) for hidden in pairs(*terms)])
        return out.reshape([sentence.shape[0], visual.shape[0], 3]).transpose([2, 0, 1])

    def forward_broadcast(self, visual: paddle.Tensor, sentence: paddle.Tensor) -> paddle.Tensor:
        """The same numbers by broadcasting: for static programs, whose sizes are open."""
        v, s, from_window, from_sentence, w_mul = self._terms(visual, sentence)
        product = _linear(s.unsqueeze(1) * v.unsqueeze(0), w_mul)  # (Q, T, H)
        hidden = product + from_window.unsqueeze(0) + from_sentence.unsqueeze(1)
        return self._output(hidden).transpose([2, 0, 1])

    def _terms(self, visual: paddle.Tensor, sentence: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        """V (T, S), s (Q, S), their own parts of the hidden layer (T, H), (Q, H), W_mul (H, S)."""
        v, s = self.embed(visual, sentence)
        w_mul, w_add, w_vis, w_sen = self.mid_out_weights.squeeze([2, 3]).split(4, axis=1)
        from_window = _linear(v, w_add + w_vis)
        from_sentence = _linear(s, w_add + w_sen) + self._bias("mid_out")
        return v, s, from_window, from_sentence, w_mul

    def _output(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """Hidden layer before ReLU (..., H) -> (..., 3)."""
        return _linear(F.relu(hidden), self.sim_mat_weights.squeeze([2, 3])) + self._bias("sim_mat")


def _linear(x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    return paddle.matmul(x, weight, transpose_y=True)


def _hidden_at_once(v, s, from_window, from_sentence, w_mul) -> Iterator[paddle.Tensor]:
    """Hidden layer before ReLU of all pairs, (Q * T, H), for training batches.

    Rows are repeated by a product with a 0/1 matrix. It is exact, and on CPU, backward included,
    several times faster than broadcasting.
    """
    count_v, count_s = v.shape[0], s.shape[0]
    of_sentence = paddle.eye(count_s, dtype=s.dtype).repeat_interleave(count_v, axis=0)  # (QT, Q)
    of_window = paddle.eye(count_v, dtype=v.dtype).tile([count_s, 1])  # (QT, T)
    product = (of_sentence @ s) * (of_window @ v)  # (QT, S)
    both = paddle.concat([of_sentence, of_window], axis=1) @ paddle.concat(
        [from_sentence, from_window]
    )
    yield _linear(product, w_mul) + both


def _hidden_by_sentence(v, s, from_window, from_sentence, w_mul) -> Iterator[paddle.Tensor]:
    """Hidden layer before ReLU, (T, H) per sentence, for the many windows of a whole video."""
    for sentence, extra in zip(s, from_sentence, strict=True):
        yield _linear(v * sentence, w_mul) + from_window + extra


def _unit(x: paddle.Tensor) -> paddle.Tensor:
    """Rows scaled to length 1 with the published epsilon; a zero row stays zero."""
    return x * paddle.rsqrt((x * x).sum(axis=-1, keepdim=True) + 1e-12)


def alignment_regression_loss(
    pairs: paddle.Tensor, offset: paddle.Tensor, regression_weight: float
) -> dict[str, paddle.Tensor]:
    """Alignment and location regression loss of a batch of B matched pairs (paper eq. 4-6).

    As published by the code: the paper's alignment term times an extra 1/B, i.e. the mean over B*B
    of ``(I + 1/B) * log(1 + exp(+-score))``, minus on the diagonal.

    Args:
        pairs: (3, B, B) network output; matched pairs on the diagonal.
        offset: (B, 2) true start and end offsets in frames.
        regression_weight: 0.01 in the paper.

    Returns:
        ``loss`` (total), ``loss_align``, ``loss_reg`` (mean absolute offset error, frames).
    """
    size = pairs.shape[1]
    eye = paddle.eye(size, dtype=pairs.dtype)
    align = ((eye + 1.0 / size) * F.softplus((1.0 - 2.0 * eye) * pairs[0])).mean()
    predicted = paddle.diagonal(pairs[1:], axis1=1, axis2=2).T  # (B, 2)
    regression = (predicted - offset).abs().mean()
    total = align + regression_weight * regression
    return {"loss": total, "loss_align": align, "loss_reg": regression}
