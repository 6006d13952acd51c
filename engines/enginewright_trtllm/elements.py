"""Conversions of raw element bytes between the dtypes of a checkpoint, in NumPy, block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from enginewright_errors import CheckpointError
from numpy.typing import NDArray

__all__ = ["Convert", "converter", "ones"]

Bytes = NDArray[np.uint8]
Convert = Callable[[Bytes], Bytes]


def converter(source: str, target: str) -> Convert:
    """The function from bytes [rows, n] of dtype `source` to bytes [rows, m] of dtype `target`.

    Codes are those of safetensors. float32 rounds to nearest, ties to even, as torch does; widening is exact;
    U8 to I8 only renames. Raises CheckpointError for a pair that would lose range (bfloat16 to float16).
    """
    try:
        return _CONVERSIONS[source, target]
    except KeyError:
        raise CheckpointError(
            f"a tensor of dtype {source} cannot be written as {target}",
            code="dtype-unsupported",
            hint="Use a checkpoint whose tensors all have the dtype that its config.json names.",
        ) from None


def ones(count: int, dtype: str) -> bytes:
    """`count` elements of value 1."""
    return {"BF16": b"\x80\x3f", "F16": b"\x00\x3c", "F32": b"\x00\x00\x80\x3f"}[dtype] * count


def _same(block: Bytes) -> Bytes:
    return block


def _f32_to_bf16(block: Bytes) -> Bytes:
    bits = block.view(np.uint32)
    even = (bits >> 16) & 1
    rounded = ((bits + 0x7FFF + even) >> 16).astype(np.uint16)
    quiet_nan = ((bits >> 16) | 0x40).astype(np.uint16)
    return np.where(np.isnan(block.view(np.float32)), quiet_nan, rounded).view(np.uint8)


def _f32_to_f16(block: Bytes) -> Bytes:
    wide = block.view(np.float32)
    if np.abs(wide, where=np.isfinite(wide), out=np.zeros_like(wide)).max(initial=0.0) >= 65520.0:
        raise CheckpointError(
            "a float32 tensor holds a value beyond float16",
            code="dtype-unsupported",
            hint='Set "dtype": "bfloat16" in the checkpoint\'s config.json.',
        )
    return wide.astype(np.float16).view(np.uint8)


def _bf16_to_f32(block: Bytes) -> Bytes:
    return (block.view(np.uint16).astype(np.uint32) << 16).view(np.uint8)


def _f16_to_f32(block: Bytes) -> Bytes:
    return block.view(np.float16).astype(np.float32).view(np.uint8)


_CONVERSIONS: dict[tuple[str, str], Convert] = {
    **{(dtype, dtype): _same for dtype in ("F32", "BF16", "F16", "F8_E4M3", "I8")},
    ("U8", "I8"): _same,
    ("F32", "BF16"): _f32_to_bf16,
    ("F32", "F16"): _f32_to_f16,
    ("BF16", "F32"): _bf16_to_f32,
    ("F16", "F32"): _f16_to_f32,
}
