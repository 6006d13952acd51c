"""Bytes of the KV cache."""

from __future__ import annotations

from enginewright_model import ModelSpec

from enginewright_trtllm.target import TrtllmTarget

__all__ = ["kv_bytes_per_token", "rank_kv_bytes_per_token"]


def kv_bytes_per_token(dims: ModelSpec, *, fp8: bool) -> int:
    """Keys and values of one token in all layers: FP8 has one byte an element, BF16 two."""
    return 2 * dims.num_layers * dims.kv_size * (1 if fp8 else 2)


def rank_kv_bytes_per_token(dims: ModelSpec, target: TrtllmTarget) -> int:
    """What one rank holds of a token: its heads and its layers."""
    layers, heads = -(-dims.num_layers // target.pp), -(-dims.num_kv_heads // target.tp)
    return 2 * layers * heads * dims.head_dim * (1 if target.fp8_kv else 2)
