"""One linear layer of a checkpoint: dense, or INT4-AWQ, FP8 or INT8 as ModelOpt exports them.

What a layer is follows from its tensors, not from hf_quant_config.json, which is wrong about pre_quant_scale.
Layouts (N outputs, K inputs), source: ModelOpt 0.47's `export_hf_checkpoint`, observed:

* dense  `.weight` float [N, K]
* int4   `.weight` uint8 [N/2, K], low nibble row 2i, high nibble row 2i+1, two's complement;
         `.weight_scale` [N, K/g]
* fp8    `.weight` e4m3 [N, K]; `.weight_scale` [] or [N]
* int8   `.weight` int8 [N, K]; `.weight_scale` [] or [N]

Any of them may have `.pre_quant_scale` [K], which multiplies the input. On a CPU the formats are weight-only:
activations stay float32, or MatMulNBits quantizes them itself, row by row, and `.input_scale` is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from enginewright_errors import CheckpointError

from enginewright_onnx.tensors import CheckpointTensors

__all__ = ["LinearWeight", "open_linear", "read_finite"]

Float32 = npt.NDArray[np.float32]
Kind = Literal["dense", "int4", "fp8", "int8"]

_KINDS: dict[str, Kind] = {
    "float32": "dense",
    "float16": "dense",
    "bfloat16": "dense",
    "uint8": "int4",
    "float8_e4m3fn": "fp8",
    "int8": "int8",
}


# Float32 bytes of one slice of rows; the temporaries of rounding a slice are some five times that.
_SLICE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class LinearWeight:
    """A layer [rows, columns] that is read in slices of rows.

    group_size: columns under one scale, int4 only.
    pre_quant_scale: float32 [columns], multiplies the input.
    row_scale: float32 [rows], multiplies the rows of the weight, not the bias.
    """

    tensors: CheckpointTensors
    name: str
    kind: Kind
    rows: int
    columns: int
    group_size: int | None
    bias: Float32 | None
    pre_quant_scale: Float32 | None
    row_scale: Float32 | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.tensors.dtype(f"{self.name}.weight")

    @property
    def nbytes(self) -> int:
        """Bytes of the weight in the checkpoint, without its scales."""
        return self.tensors.nbytes(f"{self.name}.weight")

    def slices(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows to read one after the other; starts are even, as INT4's pairs of rows need."""
        step = max(2, _SLICE_BYTES // (4 * self.columns) // 2 * 2)
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)

    def dense(self, start: int, stop: int) -> Float32:
        """Rows as float32, dequantized exactly: code times scale, rounded once."""
        if self.kind in ("int4", "int8"):
            codes, scales = self.codes(start, stop)
            zero = np.float32(8 if self.kind == "int4" else 128)
            return (codes.astype(np.float32) - zero) * np.repeat(
                scales, self.columns // scales.shape[1], axis=1
            )
        weight = read_finite(self.tensors, f"{self.name}.weight", start, stop)
        if self.kind == "fp8":
            return weight * self._row_scales(start, stop)
        return weight if self.row_scale is None else weight * self.row_scale[start:stop, None]

    def codes(self, start: int, stop: int, block: int | None = None) -> tuple[npt.NDArray[np.uint8], Float32]:
        """Rows of an integer format: unsigned codes [n, columns] with zero at 8 or 128, and their scales
        [n, columns / block].

        `block` repeats the scale of an int8 row; int4 has its own groups. `start` is even for int4.
        """
        if self.kind == "int8":
            signed = self.tensors.read(f"{self.name}.weight", start, stop)
            scales = np.repeat(self._row_scales(start, stop), self.columns // (block or self.columns), axis=1)
            return signed.view(np.uint8) ^ np.uint8(128), scales
        pairs = self.tensors.read(f"{self.name}.weight", start // 2, stop // 2)
        codes = np.empty((2 * len(pairs), self.columns), np.uint8)
        # Two's complement with its sign bit flipped is the value plus 8.
        codes[0::2] = (pairs & 15) ^ 8
        codes[1::2] = (pairs >> 4) ^ 8
        scales = _read_scales(self.tensors, f"{self.name}.weight_scale", start, stop)
        return codes, scales if self.row_scale is None else scales * self.row_scale[start:stop, None]

    def _row_scales(self, start: int, stop: int) -> Float32:
        """Scales [n, 1] of an fp8 or int8 weight."""
        name = f"{self.name}.weight_scale"
        if self.tensors.shape(name) in ((), (1,)):
            scales = np.repeat(_read_scales(self.tensors, name).reshape(1, 1), stop - start, axis=0)
        else:
            scales = _read_scales(self.tensors, name, start, stop).reshape(-1, 1)
        return scales if self.row_scale is None else scales * self.row_scale[start:stop, None]


def open_linear(
    tensors: CheckpointTensors, name: str, rows: int, columns: int, *, bias: bool = False
) -> LinearWeight:
    """The layer `name` (such as `model.layers.0.mlp.up_proj`), checked against the shape that it must have.

    Raises CheckpointError naming the tensor that is missing, misshapen or of no known format.
    """
    weight, scale = f"{name}.weight", f"{name}.weight_scale"
    kind = _KINDS.get(tensors.dtype(weight).name)
    if kind is None:
        raise CheckpointError(
            f"tensor {weight} is of type {tensors.dtype(weight).name}",
            code="unsupported-dtype",
            hint="quantize with int4_awq, fp8, int8_sq or none",
        )
    _expect_shape(tensors, weight, ((rows // 2, columns) if kind == "int4" else (rows, columns),))
    group_size = None
    if kind == "int4":
        group_size = _group_size(tensors, scale, rows, columns)
    elif kind != "dense":
        _expect_shape(tensors, scale, ((), (1,), (rows,), (rows, 1)))
    pre_quant = f"{name}.pre_quant_scale"
    if pre_quant in tensors:
        _expect_shape(tensors, pre_quant, ((columns,),))
    if bias:
        _expect_shape(tensors, f"{name}.bias", ((rows,),))
    return LinearWeight(
        tensors=tensors,
        name=name,
        kind=kind,
        rows=rows,
        columns=columns,
        group_size=group_size,
        bias=read_finite(tensors, f"{name}.bias") if bias else None,
        pre_quant_scale=read_finite(tensors, pre_quant) if pre_quant in tensors else None,
    )


def read_finite(tensors: CheckpointTensors, name: str, start: int = 0, stop: int | None = None) -> Float32:
    """Rows of a float tensor as float32. Raises CheckpointError when one is NaN or infinite."""
    values: Float32 = tensors.read(name, start, stop).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"tensor {name} holds a value that is not finite",
            code="non-finite-weight",
            hint="the checkpoint is damaged, or overflowed when it was quantized",
        )
    return values


def _read_scales(tensors: CheckpointTensors, name: str, start: int = 0, stop: int | None = None) -> Float32:
    scales = read_finite(tensors, name, start, stop)
    if (scales < 0).any():
        raise CheckpointError(
            f"tensor {name} holds a negative scale",
            code="negative-scale",
            hint="quantize the checkpoint again",
        )
    return scales


def _group_size(tensors: CheckpointTensors, scale: str, rows: int, columns: int) -> int:
    shape = tensors.shape(scale)
    groups = shape[1] if len(shape) == 2 and shape[0] == rows else 0
    size = columns // groups if groups and columns % groups == 0 else 0
    if size not in (16, 32, 64, 128, 256):
        raise CheckpointError(
            f"tensor {scale} has shape {list(shape)} for a weight of {rows} x {columns}",
            code="wrong-shape",
            hint="INT4 groups of 16, 32, 64, 128 or 256 columns are supported",
        )
    return size


def _expect_shape(tensors: CheckpointTensors, name: str, allowed: tuple[tuple[int, ...], ...]) -> None:
    shape: tuple[Any, ...] = tensors.shape(name)
    if shape not in allowed:
        expected = " or ".join(str(list(item)) for item in allowed)
        raise CheckpointError(
            f"tensor {name} has shape {list(shape)}, expected {expected}",
            code="wrong-shape",
            hint="the file is damaged, or config.json describes another model",
        )
