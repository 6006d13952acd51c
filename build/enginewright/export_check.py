"""Check an exported checkpoint against its source, tensor by tensor, before anything is built on it.

Every quantized linear, dequantized by this project's own reading, has to resemble the source's linear with
the smoothing applied to it; everything else has to be the source's. What this catches: a scale that is off
by a factor, swapped nibbles or rows, a layer left out, a quantized lm_head, a norm that was folded twice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from enginewright_errors import StageFailed
from numpy.typing import NDArray

from enginewright.checkpoint import Checkpoint
from enginewright.dequantized_linear import DequantizedLinear, dequantize_linear
from enginewright.tensor_reader import TensorReader, row_blocks
from enginewright.weight_files import find_weight_files

__all__ = ["ExportCheck", "check_export"]

_KIND = {"int4_awq": "int4", "fp8": "fp8", "int8_sq": "int8"}
# Frobenius norm of the difference over that of the source's weight, smoothed as it was quantized: there the
# error is that of rounding alone. SmolLM2 has at most 0.17 (INT4, groups of 64), 0.03 (FP8) and
# 0.05 (INT8); a scale that is off by a factor of two gives 0.5 or 1.
_BOUND = {"int4": 0.4, "fp8": 0.1, "int8": 0.2}
_NORM_OF = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
}
_LINEARS = (*_NORM_OF, "self_attn.o_proj", "mlp.down_proj")


@dataclass(frozen=True, slots=True)
class ExportCheck:
    """The largest relative weight error of a linear, and the linear it is in."""

    worst_error: float
    worst_linear: str


def check_export(
    source: Checkpoint, folder: Path, quantization: str, kept: Collection[int] = ()
) -> ExportCheck:
    """Compare the checkpoint in `folder`, quantized as `quantization`, with `source`.

    kept: decoder layers that have to be the source's.

    Raises:
        StageFailed: names the tensor and the numbers.
        CheckpointError: scales that are missing, not finite or not positive.
    """
    kind = _KIND[quantization]
    before, after = TensorReader(source.tensors), TensorReader(find_weight_files(folder).tensors)
    for name in (
        "model.embed_tokens",
        "model.norm",
        *(() if source.spec.tie_word_embeddings else ("lm_head",)),
    ):
        _check_untouched(before, after, f"{name}.weight")
    worst = ExportCheck(0.0, "")
    for layer in range(source.spec.num_layers):
        prefix = f"model.layers.{layer}."
        if layer in kept:
            for name in (*_LINEARS, *set(_NORM_OF.values())):
                _check_untouched(before, after, f"{prefix}{name}.weight")
            continue
        ratios = {
            norm: _norm_ratio(before, after, f"{prefix}{norm}.weight") for norm in set(_NORM_OF.values())
        }
        for name in _LINEARS:
            ratio = ratios[_NORM_OF[name]] if name in _NORM_OF else None
            error = _linear_error(before, after, prefix + name, kind, ratio)
            if error > worst.worst_error:
                worst = ExportCheck(error, prefix + name)
            if f"{prefix}{name}.bias" in before:
                _check_untouched(before, after, f"{prefix}{name}.bias")
    return worst


def _check_untouched(before: TensorReader, after: TensorReader, name: str) -> None:
    if name not in after:
        raise _failed(f"{name} is missing from the export")
    if after.dtype(name) not in ("F32", "F16", "BF16"):
        raise _failed(f"{name} was quantized to {after.dtype(name)}; it has to stay in floating point")
    same = before.shape(name) == after.shape(name) and all(
        np.array_equal(before.float32(name, rows), after.float32(name, rows))
        for rows in row_blocks(before.shape(name))
    )
    if not same:
        raise _failed(f"{name} is not the source's")


def _norm_ratio(before: TensorReader, after: TensorReader, name: str) -> NDArray[np.float32]:
    """What AWQ multiplied an RMSNorm's weight by; NaN where the source's is zero and the channel is dead."""
    if name not in after:
        raise _failed(f"{name} is missing from the export")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float32] = after.float32(name) / before.float32(name)
    return ratio


def _linear_error(
    before: TensorReader, after: TensorReader, name: str, kind: str, ratio: NDArray[np.float32] | None
) -> float:
    if f"{name}.weight" not in after:
        raise _failed(f"{name}.weight is missing from the export")
    linear, shape = dequantize_linear(after, name), before.shape(f"{name}.weight")
    if linear.kind != kind:
        raise _failed(f"{name} is {linear.kind}, not {kind}")
    if linear.shape != shape:
        raise _failed(f"{name} has the shape {linear.shape}, not {shape}")
    smoothing = np.ones(shape[1], np.float32) if ratio is None else ratio
    if linear.pre_quant_scale is not None:
        smoothing = smoothing * linear.pre_quant_scale
    difference, norm = _norms(before, linear, smoothing)
    error = difference / norm if norm else difference
    if not error <= _BOUND[kind]:
        raise _failed(
            f"{name} differs from the source's by {error:.3g} of its norm; {kind} may by {_BOUND[kind]}"
        )
    return error


def _norms(
    before: TensorReader, linear: DequantizedLinear, smoothing: NDArray[np.float32]
) -> tuple[float, float]:
    """Frobenius norms over the live channels: of the linear less the smoothed source, and of the latter."""
    live = np.isfinite(smoothing) & (smoothing != 0)
    factors = np.divide(1, smoothing, out=np.zeros_like(smoothing), where=live)
    difference = norm = 0.0
    for rows in row_blocks(linear.shape):
        smoothed, rounded = before.float32(f"{linear.name}.weight", rows), linear.rows(rows)
        smoothed *= factors
        if not live.all():
            rounded *= live
        rounded -= smoothed
        difference += float(np.vdot(rounded, rounded))
        norm += float(np.vdot(smoothed, smoothed))
    return difference**0.5, norm**0.5


def _failed(problem: str) -> StageFailed:
    return StageFailed(
        f"quantize: {problem}",
        code="quantize-check",
        hint="more calibration samples or another quantization.format may help; otherwise report it",
    )
