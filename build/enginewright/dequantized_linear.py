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

from enginewright.tensor_reader import TensorReader

__all__ = ["DequantizedLinear", "dequantize_linear"]

_KINDS = {"U8": "int4", "F8_E4M3": "fp8", "I8": "int8"}


@dataclass(frozen=True, slots=True)
class DequantizedLinear:
    """y = weight @ (pre_quant_scale * x): `weight` float32 [out, in], `pre_quant_scale` [in] or None.

    `kind`: int4, fp8, int8 or float.
    """

    kind: str
    weight: NDArray[np.float32]
    pre_quant_scale: NDArray[np.float32] | None

    @property
    def effective(self) -> NDArray[np.float32]:
        """The weight of the plain linear that computes the same, [out, in]."""
        return self.weight if self.pre_quant_scale is None else self.weight * self.pre_quant_scale


def dequantize_linear(reader: TensorReader, name: str) -> DequantizedLinear:
    """The linear whose tensors are `name`.weight and so on.

    Raises:
        CheckpointError: scales that are missing, of the wrong shape, not finite or not positive.
    """
    kind = _KINDS.get(reader.dtype(f"{name}.weight"), "float")
    if kind == "float":
        return DequantizedLinear(kind, reader.float32(f"{name}.weight"), None)
    scale = _positive(reader, f"{name}.weight_scale")
    if f"{name}.input_scale" in reader:
        _positive(reader, f"{name}.input_scale")
    if kind == "int4":
        weight = _unpack_nibbles(reader.raw(f"{name}.weight")).astype(np.float32)
        groups = scale.shape[1] if scale.ndim == 2 else 0
        if scale.shape[:1] != weight.shape[:1] or not groups or weight.shape[1] % groups:
            raise _bad(f"{name}.weight_scale", f"has the shape {scale.shape} for weights {weight.shape}")
        weight *= np.repeat(scale, weight.shape[1] // groups, axis=1)
    else:
        weight = reader.float32(f"{name}.weight")
        if scale.size not in (1, weight.shape[0]):
            raise _bad(f"{name}.weight_scale", f"has the shape {scale.shape} for weights {weight.shape}")
        weight *= scale.reshape(-1, 1)
    smoothing = f"{name}.pre_quant_scale"
    return DequantizedLinear(kind, weight, _positive(reader, smoothing) if smoothing in reader else None)


def _unpack_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """uint8 [out/2, in] -> int8 [out, in] in -8..7."""
    rows, columns = packed.shape
    values = np.empty((rows, 2, columns), np.int8)
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
