"""Read tensors of safetensors files as NumPy arrays, one at a time, with nothing but their headers and a map.

NumPy has no BF16 and no FP8: both are widened to float32 here, bit by bit, so that a check of what another
library wrote does not rest on that library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginewright.safetensors_header import TensorEntry

__all__ = ["TensorReader", "e4m3_values"]

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1"}
_AS_BITS = {"BF16": "<u2", "F8_E4M3": "u1"}


class TensorReader:
    """The tensors of a checkpoint by name; every read maps the file anew and keeps nothing."""

    def __init__(self, tensors: Mapping[str, tuple[Path, TensorEntry]]) -> None:
        self._tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def dtype(self, name: str) -> str:
        """The dtype as safetensors calls it, such as "BF16"."""
        return self._tensors[name][1].dtype

    def raw(self, name: str) -> NDArray[Any]:
        """The stored values, [shape of the tensor]; BF16 and F8_E4M3 as unsigned integers of their bits."""
        path, entry = self._tensors[name]
        kind = np.dtype(_NUMPY.get(entry.dtype) or _AS_BITS[entry.dtype])
        with path.open("rb") as file:
            file.seek(entry.start)
            values = np.fromfile(file, dtype=kind, count=(entry.end - entry.start) // kind.itemsize)
        return values.reshape(entry.shape)

    def float32(self, name: str) -> NDArray[np.float32]:
        """The values as float32: exact for every floating dtype up to 32 bits."""
        raw, dtype = self.raw(name), self.dtype(name)
        if dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        if dtype == "F8_E4M3":
            return e4m3_values()[raw]
        return raw.astype(np.float32, copy=False)


def e4m3_values() -> NDArray[np.float32]:
    """The value of each of the 256 codes of FP8 E4M3 "fn": 4 exponent bits (bias 7), 3 mantissa bits, no
    infinity.

    Source: "FP8 Formats for Deep Learning" (arXiv:2209.05433), table 1.
    """
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, (codes & 7).astype(np.float32)
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * np.exp2(exponent - 10.0))
    magnitude[(codes & 127) == 127] = np.nan
    return np.where(codes < 128, magnitude, -magnitude).astype(np.float32)
