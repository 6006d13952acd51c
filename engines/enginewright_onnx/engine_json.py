"""The content of engine.json: what the runtime needs to know about an engine."""

from __future__ import annotations

from typing import Any

from enginewright_model import ModelSpec, TokenIds

from enginewright_onnx.context import Region
from enginewright_onnx.linear import format_of
from enginewright_onnx.linear_weights import LinearWeight
from enginewright_onnx.options import EngineOptions
from enginewright_onnx.quantization_format import QuantizationFormat

__all__ = ["describe_engine"]


def describe_engine(
    spec: ModelSpec,
    token_ids: TokenIds,
    options: EngineOptions,
    quantization: QuantizationFormat,
    regions: tuple[Region, ...],
    lm_head: LinearWeight,
) -> dict[str, Any]:
    """engine.json as a dictionary. `quantization.lm_head` is what the head became, not what was asked for."""
    contexts = {region.name: region.as_json() for region in regions}
    head_bits = format_of(lm_head, dense=options.lm_head, fp8=options.fp8_compute).bits
    return {
        "format": 1,
        "architecture": spec.architecture,
        "hidden_size": spec.hidden_size,
        "num_layers": spec.num_layers,
        "num_heads": spec.num_heads,
        "num_kv_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "intermediate_size": spec.intermediate_size,
        "vocab_size": spec.vocab_size,
        "rms_norm_eps": spec.rms_norm_eps,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "quantization": {
            "format": quantization.name,
            "group_size": quantization.group_size,
            "accuracy_level": options.accuracy_level,
            "lm_head": "fp32" if head_bits is None else f"int{head_bits}",
            "fp8_compute": options.fp8_compute if quantization.name == "fp8" else None,
        },
        "context": {"native": contexts["native"], "long": contexts.get("long")},
        "limits": {
            "max_seq_len": max(region.max_seq_len for region in regions),
            "max_batch_size": options.max_batch_size,
            "prefill_chunk": options.prefill_chunk,
            "kv_budget_bytes": options.kv_budget_bytes,
            "kv_dtype": "float32",
        },
        "eos_token_ids": list(token_ids.eos),
        "pad_token_id": token_ids.pad,
        "bos_token_id": token_ids.bos,
        "threads": options.threads,
    }
