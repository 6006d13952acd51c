"""TensorRT-LLM 1.2.1: checkpoints, written and checked without a GPU and without tensorrt_llm."""

from __future__ import annotations

from enginewright_trtllm.check_checkpoint import Problem, check_checkpoint
from enginewright_trtllm.merge_scales import merge_scales
from enginewright_trtllm.write_checkpoint import CheckpointSummary, write_checkpoint
from enginewright_trtllm.write_variant import write_variant

__all__ = [
    "CheckpointSummary",
    "Problem",
    "check_checkpoint",
    "merge_scales",
    "write_checkpoint",
    "write_variant",
]
