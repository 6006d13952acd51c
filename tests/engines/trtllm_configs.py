"""The config.json of a checkpoint that a target promises."""

from __future__ import annotations

from typing import Any

from enginewright_trtllm.config import render_config
from enginewright_trtllm.parallel import Parallel
from enginewright_trtllm.quantization import quantization_of
from enginewright_trtllm.target import TrtllmTarget, Variant
from trtllm_targets import QWQ


def config_of(target: TrtllmTarget, variant: Variant) -> dict[str, Any]:
    yarn = variant.yarn
    scaling = None
    if yarn is not None:
        scaling = {
            "type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
        }
    return render_config(
        QWQ,
        quantization_of(target.format, fp8_kv=target.fp8_kv, group_size=target.group_size),
        Parallel(target.tp, target.pp),
        rotary_base=1e6,
        rotary_scaling=scaling,
        max_position_embeddings=variant.max_seq_len,
        logits_dtype=target.logits_dtype,
    )
