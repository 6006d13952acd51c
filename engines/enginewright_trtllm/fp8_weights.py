"""FP8 weights under the one scale that TensorRT-LLM has for q, k and v, and for gate and up.

ModelOpt 0.47's unified export gives each projection a scale of its own (its TensorRT-LLM export took the
maximum). Codes made for one scale cannot be moved to another exactly: any ratio below 1 loses the smallest
subnormals, and most ratios round every weight twice (measured on normal weights, ratios 0.7 to 0.95: RMS
errors of 3.6% to 4.7%, where FP8 itself costs 2.6%). So the weights of the original checkpoint are
quantized with the merged scale, as ModelOpt's own exporter does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from enginewright_errors import CheckpointError
from numpy.typing import NDArray

from enginewright_trtllm.float8 import DECODED, NOT_A_NUMBER, quantizer
from enginewright_trtllm.layout import Entry
from enginewright_trtllm.tensor_file import TensorRef, read_blocks

__all__ = ["check_scales", "quantized_blocks"]

Bytes = NDArray[np.uint8]
_SAMPLE_BYTES = 1 << 20


def check_scales(entry: Entry, scalars: Mapping[str, np.float32]) -> None:
    """Raise CheckpointError when an FP8 weight's projections differ in scale and no original is at hand."""
    differing = sorted({float(scalars[name]) for name in entry.scales})
    if len(differing) > 1:
        raise CheckpointError(
            f"{entry.name}: its projections have the weight scales"
            f" {', '.join(f'{scale:.6g}' for scale in differing)}; TensorRT-LLM has one",
            code="fp8-scales-differ",
            hint="Pass `original`, the 16-bit checkpoint that was quantized: its weights are then quantized"
            " with the largest scale, without a second rounding.",
        )


def quantized_blocks(
    original: TensorRef, unified: TensorRef, *, own_scale: np.float32, scale: np.float32
) -> Iterator[tuple[int, Bytes]]:
    """(first row, FP8 codes [rows, columns]) of an original weight divided by `scale`.

    original: BF16, F16 or F32. Weights are rounded once, to FP8: the quantize stage calibrates and exports an
    F32 checkpoint in float32, and by way of BF16 1.4% of the codes would differ. The first rows are compared
    with the unified checkpoint's weight: CheckpointError when the two are not the same model's.
    """
    quantize = quantizer(original.dtype, scale)
    for first, block in read_blocks(original):
        codes = quantize(block)
        if (codes & 0x7F == NOT_A_NUMBER).any():
            raise _not_the_original(original, "holds weights beyond the scale's range")
        if first == 0:
            _, theirs = next(read_blocks(unified, _SAMPLE_BYTES))
            rows = min(len(codes), len(theirs))
            _compare(codes[:rows], scale, theirs[:rows], own_scale, original)
        yield first, codes


def _compare(ours: Bytes, scale: np.float32, theirs: Bytes, own_scale: np.float32, ref: TensorRef) -> None:
    """Two roundings of one weight to 3-bit mantissas differ by a step at most: 1/8, or a subnormal's step."""
    a, b = DECODED[ours] * scale, DECODED[theirs] * own_scale
    bound = np.maximum(np.abs(a), np.abs(b)) * 0.13 + scale * 2.0**-8
    if not (np.abs(a - b) <= bound).all():
        raise _not_the_original(ref, "is not what the quantized checkpoint was made from")


def _not_the_original(ref: TensorRef, why: str) -> CheckpointError:
    return CheckpointError(
        f"{ref.file}: a weight {why}",
        code="original-mismatch",
        hint="Pass as `original` the very checkpoint, at the same revision, that was quantized.",
    )
