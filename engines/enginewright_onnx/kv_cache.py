"""The size of the float32 KV cache."""

from __future__ import annotations

from enginewright_model import ModelSpec

__all__ = ["kv_bytes_per_token"]

_FLOAT32_BYTES = 4


def kv_bytes_per_token(spec: ModelSpec) -> int:
    """Bytes of the keys and values that one token keeps over all layers."""
    return 2 * spec.num_layers * spec.kv_size * _FLOAT32_BYTES
