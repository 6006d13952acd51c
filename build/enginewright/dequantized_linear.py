"""A linear layer of ModelOpt's unified checkpoint, dequantized: this project's own reading of it.

Verification must not trust the code that it verifies, so this shares nothing with ModelOpt or with the
engines. Layout (as observed, ModelOpt 0.47): `weight` is
- uint8 [out/2, in] for INT4: row 2i in the low nibbles, row 2i+1 in the high ones, two's complement;
  `weight_scale` float32 [out, in/group];
- float8_e4m3fn [out, in] for FP8: `weight_scale` float32 [] (or [out]);
- int8 [out, in] for INT8: `weight_scale` float32 [out].
`pre_quant_scale` [in], where present, multiplies the layer's input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from enginewright_errors import CheckpointError
from numpy.typing import NDArray

from enginewright.tensor_reader import TensorReader, row_blocks

__all__ = ["DequantizedLinear", "dequantize_linear"]

_KINDS = {"U8": "int4", "F8_E4M3": "fp8", "I8": "int8"}


@dataclass(frozen=True, slots=True)
class DequantizedLinear:
    """y = weight @ (pre_quant_scale * x): weight float32 [out, in], `pre_quant_scale` [in] or None.

    The weight is read when it is asked for. `kind`: int4, fp8, int8 or float. `scale`: [1 or out, 1], for
    int4 [out, groups]; None for float.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    scale: NDArray[np.float32] | None
    pre_quant_scale: NDArray[np.float32] | None
    reader: TensorReader

    def rows(self, rows: slice) -> NDArray[np.float32]:
        """`rows` of the weight; for int4, whose rows are stored in pairs, start and stop are even."""
        if self.scale is None:
            return self.reader.float32(f"{self.name}.weight", rows)
        scale = self.scale if len(self.scale) == 1 else self.scale[rows]
        if self.kind != "int4":
            weight = self.reader.float32(f"{self.name}.weight", rows)
            weight *= scale
            return weight
        packed = self.reader.raw(f"{self.name}.weight", slice(rows.start // 2, rows.stop // 2))
        weight = _unpack_nibbles(packed)
        groups = weight.reshape(*scale.shape, -1)
        groups *= scale[:, :, None]
        return weight

    @property
    def effective(self) -> NDArray[np.float32]:
        """The weight of the plain linear that computes the same, [out, in]."""
        weight = np.empty(self.shape, np.float32)
        for rows in row_blocks(self.shape):
            weight[rows] = self.rows(rows)
            if self.pre_quant_scale is not None:
                weight[rows] *= self.pre_quant_scale
        return weight


def dequantize_linear(reader: TensorReader, name: str) -> DequantizedLinear:
    """The linear whose tensors are `name`.weight and so on.

    Raises:
        CheckpointError: scales that are missing, of the wrong shape, not finite or not positive.
    """
    kind = _KINDS.get(reader.dtype(f"{name}.weight"), "float")
    if kind == "float":
        return DequantizedLinear(name, kind, _shape(reader, name), None, None, reader)
    scale = _positive(reader, f"{name}.weight_scale")
    if f"{name}.input_scale" in reader:
        _positive(reader, f"{name}.input_scale")
    rows, columns = _shape(reader, name)
    if kind == "int4":
        rows *= 2
        fits = scale.ndim == 2 and len(scale) == rows and scale.size > 0 and columns % scale.shape[1] == 0
    else:
        fits = scale.size in (1, rows)
    if not fits:
        raise _bad(f"{name}.weight_scale", f"has the shape {scale.shape} for weights {(rows, columns)}")
    if kind != "int4":
        scale = scale.reshape(-1, 1)
    smoothing = f"{name}.pre_quant_scale"
    pre_quant_scale = _positive(reader, smoothing) if smoothing in reader else None
    return DequantizedLinear(name, kind, (rows, columns), scale, pre_quant_scale, reader)


def _shape(reader: TensorReader, name: str) -> tuple[int, int]:
    shape = reader.shape(f"{name}.weight")
    if len(shape) != 2:
        raise _bad(f"{name}.weight", f"has the shape {shape}, which is not a matrix's")
    return shape[0], shape[1]


def _unpack_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [out/2, in] -> float32 [out, in] in -8..7."""
    rows, columns = packed.shape
    values = np.empty((rows, 2, columns), np.float32)
    # Shifting left and back as int8 extends the sign of a nibble.
    values[:, 0] = (packed << 4).view(np.int8) >> 4
    values[:, 1] = packed.view(np.int8) >> 4
    return values.reshape(2 * rows, columns)


def _positive(reader: TensorReader, name: str) -> NDArray[np.float32]:
    if name not in reader:
        raise _bad(name, "is missing")
    value = reader.float32(name)
    if not np.isfinite(value).all() or not (value > 0).all():
        raise _bad(name, "has values that are not finite and positive")
    return value


def _bad(name: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{name} {problem}",
        code="quantized-checkpoint-invalid",
        hint="quantize the checkpoint again; weights with NaN, infinity or all-zero rows cannot be quantized",
    )
