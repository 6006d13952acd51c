"""Between a Hugging Face config.json, the dimensions that a plan needs, and the checkpoint writer's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginewright_trtllm.model import Model, Quantization, is_tied, model_from_config
from enginewright_trtllm.rope import rope_from_config
from enginewright_trtllm.target import Format, ModelDims

__all__ = ["model_of", "quantization_of", "read_dims"]


def read_dims(config: Mapping[str, Any]) -> ModelDims:
    """`ModelDims` of a Qwen2 or Llama config, whichever generation of transformers wrote it.

    Raises CheckpointError for what has no TensorRT-LLM checkpoint here, naming the field.
    """
    model, rope = model_from_config(config), rope_from_config(config)
    return ModelDims(
        hidden=model.hidden_size,
        layers=model.num_layers,
        heads=model.num_heads,
        kv_heads=model.num_kv_heads,
        head_dim=model.head_size,
        intermediate=model.intermediate_size,
        vocab=model.vocab_size,
        tied=is_tied(config),
        bias=model.attention_bias,
        max_position_embeddings=rope.max_positions,
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
    )


def model_of(dims: ModelDims) -> Model:
    """The writer's `Model`, as far as shapes go: dtype and epsilon are none of a plan's business."""
    return Model(
        family="qwen2" if dims.bias else "llama",
        dtype="bfloat16",
        hidden_size=dims.hidden,
        intermediate_size=dims.intermediate,
        num_layers=dims.layers,
        num_heads=dims.heads,
        num_kv_heads=dims.kv_heads,
        head_size=dims.head_dim,
        vocab_size=dims.vocab,
        norm_epsilon=1e-6,
    )


def quantization_of(model_format: Format, *, fp8_kv: bool = False, group_size: int = 128) -> Quantization:
    """The writer's `Quantization`, whose name for unquantized weights is "none"."""
    return Quantization("none" if model_format == "bf16" else model_format, fp8_kv, group_size)
