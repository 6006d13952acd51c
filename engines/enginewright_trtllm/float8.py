"""float8 e4m3fn by table: decode, and quantization of weights as one lookup an element.

For one scale a 16-bit weight has 65,536 possible values, so its FP8 code is a table of 64 KiB. The table is
computed as torch computes `(weight.float() / scale).to(torch.float8_e4m3fn)`: a float32 quotient, rounded to
nearest, ties to even. (ModelOpt 0.47's unified export divides in bfloat16 and lands one code away for 4% of
the weights; its TensorRT-LLM export divides in float32, as here.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["DECODED", "NOT_A_NUMBER", "quantization_table", "quantizer"]

Bytes = NDArray[np.uint8]

NOT_A_NUMBER = 0x7F


def _decode(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    exponent = (codes >> 3 & 0xF).astype(np.int32)
    mantissa = (codes & 7).astype(np.float32)
    normal = np.ldexp(1.0 + mantissa / 8.0, exponent - 7)
    subnormal = np.ldexp(mantissa / 8.0, -6)
    magnitude = np.where(exponent == 0, subnormal, normal)
    magnitude = np.where(codes & 0x7F == NOT_A_NUMBER, np.nan, magnitude)
    return np.where(codes & 0x80, -magnitude, magnitude).astype(np.float32)


# Value of each of the 256 codes.
DECODED: NDArray[np.float32] = _decode(np.arange(256, dtype=np.uint8))

_MAGNITUDES = DECODED[:NOT_A_NUMBER]  # 0 .. 448, ascending with the code
_MIDPOINTS = np.append((_MAGNITUDES[:-1] + _MAGNITUDES[1:]) / 2, np.float32(464.0))


def quantizer(dtype: str, scale: np.float32) -> Callable[[Bytes], Bytes]:
    """The function from bytes [rows, n] to FP8 codes [rows, m] of the values divided by `scale`.

    dtype: BF16, F16 or F32. What has no code is `NOT_A_NUMBER`, as in `quantization_table`.
    """
    if dtype != "F32":
        table = quantization_table(dtype, scale)
        # Not `take`, which is quicker but makes 64-bit indices of a whole block first: 65 MiB more.
        return lambda block: table[block.view(np.uint16)]
    of_quotient = quantization_table("BF16", np.float32(1.0))

    def quantize(block: Bytes) -> Bytes:
        with np.errstate(over="ignore", invalid="ignore"):
            bits = (block.view(np.float32) / scale).view(np.uint32)
        # Rounded to odd, the 8 significant bits of BF16 have the same nearest value of 4 bits as all 24
        # (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
        inexact = bits & 0xFFFF != 0
        bits >>= 16
        bits |= inexact
        codes: Bytes = of_quotient[bits.astype(np.uint16)]
        return codes

    return quantize


def quantization_table(dtype: str, scale: np.float32) -> NDArray[np.uint8]:
    """FP8 code of every 16-bit pattern of `dtype` ("BF16" or "F16") divided by `scale`; uint8 [65536].

    A quotient that rounds beyond 448, an infinity or a NaN has the code `NOT_A_NUMBER` (with either sign).
    """
    patterns = np.arange(1 << 16, dtype=np.uint32)
    if dtype == "BF16":
        values = (patterns << 16).view(np.float32)
    else:
        values = patterns.astype(np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        magnitudes = np.abs(values) / scale
    codes = np.searchsorted(_MIDPOINTS, magnitudes, side="left").astype(np.uint8)
    tie = magnitudes == _MIDPOINTS[np.minimum(codes, len(_MIDPOINTS) - 1)]
    codes += (tie & (codes & 1 == 1)).astype(np.uint8)
    codes[np.isnan(magnitudes)] = NOT_A_NUMBER
    signs = np.left_shift(np.signbit(values).astype(np.uint8), np.uint8(7))
    return np.bitwise_or(codes, signs)
