"""What memory bandwidth and matrix rate allow at best: decode and prefill limits of a target.

A decode step reads every weight but the embedding once and the keys and values of each running sequence;
tensor-parallel ranks do so side by side, pipeline stages one after another. A prompt token costs two
operations a parameter plus causal attention. No engine reaches these: they say how far one is from what the
card can do.
"""

from __future__ import annotations

from dataclasses import dataclass

from enginewright_model import ModelSpec

from enginewright_trtllm.gpus import Gpu
from enginewright_trtllm.kv_cache import kv_bytes_per_token
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.weights import decode_read_bytes, linear_parameters

__all__ = ["DecodeLimit", "decode_limit", "prefill_seconds"]


@dataclass(frozen=True, slots=True)
class DecodeLimit:
    """Tokens a second of each of `batch` sequences that are `context` tokens long."""

    context: int
    batch: int
    tokens_per_second: float


def decode_limit(
    target: TrtllmTarget, dims: ModelSpec, gpu: Gpu, *, context: int, batch: int = 1
) -> DecodeLimit:
    """The slower of reading and computing, per step."""
    read = decode_read_bytes(dims, target) + batch * context * kv_bytes_per_token(dims, fp8=target.fp8_kv)
    operations = batch * (_token_operations(dims, with_head=True) + 2 * _attention_operations(dims) * context)
    seconds = max(
        read / (gpu.bandwidth * target.tp), operations / (gpu.flops(fp8=target.format == "fp8") * target.tp)
    )
    return DecodeLimit(context, batch, 1 / seconds)


def prefill_seconds(target: TrtllmTarget, dims: ModelSpec, gpu: Gpu, *, prompt: int) -> float:
    """Seconds to the first token of a prompt that runs alone."""
    linear = prompt * _token_operations(dims, with_head=False) + 2 * dims.vocab_size * dims.hidden_size
    # Attention is computed in BF16 unless the cache is FP8; each token sees half of the prompt on average.
    attention = prompt * prompt * _attention_operations(dims)
    return (
        linear / gpu.flops(fp8=target.format == "fp8") + attention / gpu.flops(fp8=target.fp8_kv)
    ) / target.tp


def _token_operations(dims: ModelSpec, *, with_head: bool) -> int:
    head = dims.vocab_size * dims.hidden_size if with_head else 0
    return 2 * (dims.num_layers * linear_parameters(dims) + head)


def _attention_operations(dims: ModelSpec) -> int:
    """Per pair of positions, for the scores and the sum of values, halved for causality."""
    return 2 * dims.num_layers * dims.query_size
