"""What of a model decides its TensorRT-LLM checkpoint: dimensions, norms, rotary base, quantization."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from enginewright_errors import CheckpointError

__all__ = ["Format", "Model", "Quantization", "is_tied", "model_from_config"]

Format = Literal["none", "fp8", "int4_awq"]

# Hugging Face model_type -> architecture, the key of upstream's MODEL_MAP. Qwen2 was observed through
# upstream's own loader; Llama shares every tensor name but only its text was read.
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}


# Far above any model of these families; a layout of more layers would not end.
_MAX_WIDTH = 1 << 20
_MAX_LAYERS = 1024


@dataclass(frozen=True, slots=True)
class Quantization:
    """The quantization of every linear of the decoder layers; embedding and lm_head keep the model's
    dtype."""

    format: Format
    kv_fp8: bool = False
    group_size: int = 128  # int4_awq only: input features that share one scale


@dataclass(frozen=True, slots=True)
class Model:
    """Dimensions and constants of a Qwen2 or Llama model, named as in its Hugging Face config.json."""

    family: Literal["qwen2", "llama"]
    dtype: Literal["bfloat16", "float16"]
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    norm_epsilon: float

    @property
    def architecture(self) -> str:
        return ARCHITECTURES[self.family]

    @property
    def attention_bias(self) -> bool:
        """Biases on q, k and v: always in Qwen2, never in the Llama models written here."""
        return self.family == "qwen2"


def model_from_config(config: Mapping[str, Any]) -> Model:
    """`Model` from the config.json of a Hugging Face checkpoint.

    Weights stored as float32 are served as bfloat16. Raises CheckpointError for an architecture or a feature
    whose TensorRT-LLM checkpoint was never observed.
    """
    family = _family(config)
    _refuse_unsupported(config)
    heads = _positive(config, "num_attention_heads")
    hidden = _positive(config, "hidden_size")
    return Model(
        family=family,
        dtype="float16" if _dtype(config) == "float16" else "bfloat16",
        hidden_size=hidden,
        intermediate_size=_positive(config, "intermediate_size"),
        num_layers=_positive(config, "num_hidden_layers", limit=_MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=_positive(config, "num_key_value_heads", default=heads),
        head_size=_positive(config, "head_dim", default=hidden // heads),
        vocab_size=_positive(config, "vocab_size"),
        norm_epsilon=_epsilon(config),
    )


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the embedding is the lm_head as well. Raises CheckpointError."""
    tied = config.get("tie_word_embeddings")
    if tied is not None and not isinstance(tied, bool):
        raise CheckpointError(
            f"config.json: tie_word_embeddings = {reprlib.repr(tied)} is neither true nor false",
            code="config-invalid",
            hint="Fetch the checkpoint's config.json again.",
        )
    return bool(tied)


def _family(config: Mapping[str, Any]) -> Literal["qwen2", "llama"]:
    match config.get("model_type"):
        case "qwen2":
            return "qwen2"
        case "llama":
            return "llama"
        case other:
            raise CheckpointError(
                f"config.json: model_type {reprlib.repr(other)} has no TensorRT-LLM checkpoint here",
                code="architecture-unsupported",
                hint=f"Supported: {', '.join(ARCHITECTURES)}.",
            )


def _dtype(config: Mapping[str, Any]) -> str:
    dtype = config.get("dtype") or config.get("torch_dtype")
    if dtype not in ("bfloat16", "float16", "float32"):
        raise CheckpointError(
            f"config.json: dtype {reprlib.repr(dtype)} is none of bfloat16, float16, float32",
            code="dtype-unsupported",
            hint="Set `dtype` (or `torch_dtype`) to the type that the weights were trained in.",
        )
    return str(dtype)


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    """Features that upstream's Qwen2 and Llama classes would drop without a word, or that were never
    observed."""
    unsupported = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "attention_bias": config.get("model_type") == "llama" and bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "layer_types": not _is_full_attention(config.get("layer_types")),
    }
    for field, refused in unsupported.items():
        if refused:
            raise CheckpointError(
                f"config.json: {field} = {reprlib.repr(config[field])} is not supported for TensorRT-LLM",
                code="feature-unsupported",
                hint="Build this model with target onnx, or use a checkpoint without it.",
            )


def _is_full_attention(layer_types: object) -> bool:
    """What transformers 5 writes for each layer; an older config has none."""
    return layer_types is None or (
        isinstance(layer_types, list) and all(kind == "full_attention" for kind in layer_types)
    )


def _positive(
    config: Mapping[str, Any], field: str, default: int | None = None, limit: int = _MAX_WIDTH
) -> int:
    value = config.get(field)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise CheckpointError(
            f"config.json: {field} = {reprlib.repr(value)} is not a whole number within 1..{limit}",
            code="config-invalid",
            hint="Fetch the checkpoint's config.json again.",
        )
    return value


def _epsilon(config: Mapping[str, Any]) -> float:
    value = config.get("rms_norm_eps")
    if not isinstance(value, float) or not 0.0 < value < 1.0:
        raise CheckpointError(
            f"config.json: rms_norm_eps = {reprlib.repr(value)} is not a small positive number",
            code="config-invalid",
            hint="Fetch the checkpoint's config.json again.",
        )
    return value
