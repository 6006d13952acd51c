"""Read tensors of safetensors files as NumPy arrays, whole or a few rows at a time.

NumPy has no BF16 and no FP8: both are widened to float32 here, bit by bit, so that a check of what another
library wrote does not rest on that library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginewright.safetensors_header import TensorEntry

__all__ = ["TensorReader", "e4m3_values", "row_blocks"]

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1"}
_AS_BITS = {"BF16": "<u2", "F8_E4M3": "u1"}
# Rows whose float32 values, and a few arrays like them, stay in a core's cache: arithmetic on whole matrices
# of a 32B model takes several times as long, and their memory.
_BLOCK_ELEMENTS = 1 << 18


class TensorReader:
    """The tensors of a checkpoint by name; every read opens the file anew and keeps nothing."""

    def __init__(self, tensors: Mapping[str, tuple[Path, TensorEntry]]) -> None:
        self._tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def dtype(self, name: str) -> str:
        """The dtype as safetensors calls it, such as "BF16"."""
        return self._tensors[name][1].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape as stored."""
        return self._tensors[name][1].shape

    def raw(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """The stored values, or `rows` of them (start and stop, within the first axis).

        BF16 and F8_E4M3 come as unsigned integers of their bits.
        """
        path, entry = self._tensors[name]
        kind = np.dtype(_NUMPY.get(entry.dtype) or _AS_BITS[entry.dtype])
        shape, skipped = entry.shape, 0
        if rows is not None:
            skipped = rows.start * math.prod(shape[1:])
            shape = (rows.stop - rows.start, *shape[1:])
        with path.open("rb") as file:
            file.seek(entry.start + skipped * kind.itemsize)
            return np.fromfile(file, dtype=kind, count=math.prod(shape)).reshape(shape)

    def float32(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """The values as float32: exact for every floating dtype up to 32 bits."""
        raw, dtype = self.raw(name, rows), self.dtype(name)
        if dtype == "BF16":
            bits = raw.astype(np.uint32)
            bits <<= 16
            return bits.view(np.float32)
        if dtype == "F8_E4M3":
            # Half the time of indexing.
            return np.take(_E4M3_VALUES, raw)
        return raw.astype(np.float32, copy=False)


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of an array of `shape` in blocks of an even number of rows (but the last), cache sized."""
    rows_each = max(2, _BLOCK_ELEMENTS // max(1, math.prod(shape[1:])) // 2 * 2)
    for first in range(0, shape[0], rows_each):
        yield slice(first, min(first + rows_each, shape[0]))


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


_E4M3_VALUES = e4m3_values()
