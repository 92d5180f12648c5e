# SPDX-License-Identifier: Apache-2.0
"""Published weights of ClipBERT and of what it began from, under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ..layers.bert import modern_name, own_layout

_STORE = "https://convaisharables.blob.core.windows.net/clipbert/pretrained/"

ANETQA = {
    "name": "model_step_163400.pt",
    "urls": [],
    "note": "the network trained on ANetQA is linked (SharePoint) in the results table of the "
    "README of github.com/MILVLG/anetqa-code; download model_step_163400.pt there",
}
PRETRAINED = {
    "name": "clipbert_image_text_pretrained.pt",
    "urls": [_STORE + "clipbert_image_text_pretrained.pt"],
    "note": "the authors' store is closed to the public (error 409); without their "
    "pre-trained network train from its parts, "
    "https://dl.fbaipublicfiles.com/grid-feats-vqa/R-50/R-50.pth (grid_feat_R-50.pth) and "
    "pytorch_model.bin of https://huggingface.co/bert-base-uncased, with --pretrain",
}

_UNUSED = re.compile(
    r"cnn\.feature\.(proposal_generator|roi_heads)\..*"  # the detector around the backbone
    r"|cnn\.feature\.pixel_(mean|std)"
    r"|transformer\.bert\.visual_embeddings\.position_embeddings\.weight"
    r"|transformer\.bert\.embeddings\.position_ids"
)
_WORDS = "transformer.cls.predictions."
_TIED = {
    _WORDS + "decoder.weight": "transformer.bert.embeddings.word_embeddings.weight",
    _WORDS + "decoder.bias": _WORDS + "bias",
}


class WeightsFileError(Exception):
    """A file of weights contradicts itself; the message is one line."""

    exit_code = 4


def convert(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Published names and layouts to ours; a state of ours passes unchanged.

    Known are the authors' checkpoints, the detector that the CNN is from (names without
    ``cnn.feature.``) and BERT (names without ``transformer.``). What no network here uses is left
    out, and so are second copies of shared parameters.

    Raises:
        WeightsFileError: such a copy differs.
    """
    named = {_own_name(name): value for name, value in state.items()}
    for copy, original in _TIED.items():
        value = named.pop(copy, None)
        if value is not None and original in named and not np.array_equal(value, named[original]):
            raise WeightsFileError(
                f"{copy}: expected the same numbers as {original}, with which it is shared, found "
                "others; take an undamaged file"
            )
    return own_layout({n: value for n, value in named.items() if not _UNUSED.fullmatch(n)})


def _own_name(name: str) -> str:
    if re.match(r"(backbone|proposal_generator|roi_heads|pixel_(mean|std)$)", name):
        return f"cnn.feature.{name}"
    if re.match(r"(bert|cls)\.", name):
        return f"transformer.{modern_name(name)}"
    return name
