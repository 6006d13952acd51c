"""How the linears of a TensorRT-LLM checkpoint are quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Format", "Quantization", "quantization_of"]

Format = Literal["none", "fp8", "int4_awq"]


@dataclass(frozen=True, slots=True)
class Quantization:
    """The quantization of every linear of the decoder layers; embedding and lm_head keep the model's
    dtype."""

    format: Format
    kv_fp8: bool = False
    group_size: int = 128  # int4_awq only: input features that share one scale


def quantization_of(
    model_format: Literal["bf16", "fp8", "int4_awq"], *, fp8_kv: bool = False, group_size: int = 128
) -> Quantization:
    """The `Quantization` of a target's format, which says bf16 for unquantized weights."""
    return Quantization("none" if model_format == "bf16" else model_format, fp8_kv, group_size)
