"""Rotary position embeddings: the frequencies of a checkpoint's rope, and cos/sin tables of several regions.

Sources: RoFormer (arXiv 2104.09864), position interpolation (2306.15595), YaRN (2309.00071), and the scaling
of Llama 3.1's release. The rounding follows transformers' `modeling_rope_utils`, which computes frequencies
and angles in float32: with QwQ's numbers a table from float64 angles is up to 4.4e-3 away from transformers',
this one 1.2e-7, over positions 0 .. 131071.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from enginewright_errors import CheckpointError
from enginewright_model import RopeSpec

__all__ = ["inverse_frequencies", "rope_tables"]

Float32 = npt.NDArray[np.float32]

_ROWS_AT_ONCE = 8192


def rope_tables(regions: Sequence[tuple[RopeSpec, int]], head_dim: int) -> tuple[Float32, Float32]:
    """Cos and sin float32 [rows, head_dim / 2] of `regions`, each (rope, positions), one after the other.

    Row `offset + p` of a region holds position p, scaled by the region's attention factor.
    """
    rows = sum(positions for _, positions in regions)
    cos = np.empty((rows, head_dim // 2), np.float32)
    sin = np.empty_like(cos)
    offset = 0
    for spec, positions in regions:
        frequencies, attention_factor = inverse_frequencies(spec, head_dim)
        scale = np.float32(attention_factor)
        for start in range(0, positions, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, positions)
            angles = np.arange(start, stop, dtype=np.float32)[:, None] * frequencies
            exact = angles.astype(np.float64)
            cos[offset + start : offset + stop] = np.cos(exact).astype(np.float32) * scale
            sin[offset + start : offset + stop] = np.sin(exact).astype(np.float32) * scale
        offset += positions
    return cos, sin


def inverse_frequencies(spec: RopeSpec, head_dim: int) -> tuple[Float32, float]:
    """Float32 [head_dim / 2] radians a position, and the factor that cos and sin are multiplied by."""
    periods = _periods(spec.rope_theta, head_dim)
    if spec.rope_type == "default":
        return np.float32(1.0) / periods, 1.0
    if spec.rope_type == "linear":
        return (np.float32(1.0) / periods) / np.float32(_needed(spec, "factor")), 1.0
    if spec.rope_type == "llama3":
        return _llama3(spec, np.float32(1.0) / periods), 1.0
    if spec.rope_type == "yarn":
        return _yarn(spec, periods, head_dim)
    raise CheckpointError(
        f"rope_type is {spec.rope_type!r}",
        code="unsupported-rope",
        hint="the ONNX engine knows default, linear, llama3 and yarn",
    )


def _periods(theta: float, head_dim: int) -> Float32:
    # torch's own float32 pow, because it is not correctly rounded: for QwQ one frequency of 64 is an ulp away
    # from the rounded float64 value, which moves the table by 2.2e-6 within 131072 positions.
    import torch

    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    periods: Float32 = (theta**exponents).numpy()
    return periods


def _llama3(spec: RopeSpec, frequencies: Float32) -> Float32:
    factor = np.float32(_needed(spec, "factor"))
    low, high = _needed(spec, "low_freq_factor"), _needed(spec, "high_freq_factor")
    context = _needed(spec, "original_max_position_embeddings")
    wavelength = np.float32(2 * math.pi) / frequencies
    scaled = np.where(wavelength > np.float32(context / low), frequencies / factor, frequencies)
    smooth = (np.float32(context) / wavelength - np.float32(low)) / np.float32(high - low)
    blended = (np.float32(1.0) - smooth) * scaled / factor + smooth * scaled
    between = ~(wavelength < np.float32(context / high)) & ~(wavelength > np.float32(context / low))
    return np.where(between, blended, scaled).astype(np.float32)


def _yarn(spec: RopeSpec, periods: Float32, head_dim: int) -> tuple[Float32, float]:
    factor = _needed(spec, "factor")
    context = _needed(spec, "original_max_position_embeddings")
    low = _rotation_dim(spec.beta_fast or 32.0, head_dim, spec.rope_theta, context)
    high = _rotation_dim(spec.beta_slow or 1.0, head_dim, spec.rope_theta, context)
    if spec.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = np.float32(1.0) - np.clip(ramp, np.float32(0.0), np.float32(1.0))
    interpolated = np.float32(1.0) / (np.float32(factor) * periods)
    frequencies = interpolated * (np.float32(1.0) - kept) + (np.float32(1.0) / periods) * kept
    return frequencies.astype(np.float32), _yarn_attention_factor(spec, factor)


def _rotation_dim(rotations: float, head_dim: int, theta: float, context: float) -> float:
    """The dimension whose wave turns `rotations` times within `context` positions."""
    return (head_dim * math.log(context / (rotations * 2 * math.pi))) / (2 * math.log(theta))


def _yarn_attention_factor(spec: RopeSpec, factor: float) -> float:
    if spec.attention_factor is not None:
        return spec.attention_factor

    def temperature(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if spec.mscale and spec.mscale_all_dim:
        return temperature(spec.mscale) / temperature(spec.mscale_all_dim)
    return temperature(1.0)


def _needed(spec: RopeSpec, field: str) -> float:
    value = getattr(spec, field)
    if value is None:
        raise CheckpointError(
            f"config.json: rope of type {spec.rope_type!r} has no {field}",
            code="incomplete-rope",
            hint=f"add {field} to rope_parameters (transformers 5) or rope_scaling (4.x)",
        )
    return float(value)
