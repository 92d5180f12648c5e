# SPDX-License-Identifier: Apache-2.0
"""What the golden files of LLaMA-VQA are compared with, by kind."""

from __future__ import annotations

from tests.parity import llama_vqa_backbone, llama_vqa_data, llama_vqa_metrics, llama_vqa_model

CHECKS = {
    **llama_vqa_model.CHECKS,
    **llama_vqa_data.CHECKS,
    **llama_vqa_metrics.CHECKS,
    **llama_vqa_backbone.CHECKS,
}
