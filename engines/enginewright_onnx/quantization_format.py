"""Which quantization a checkpoint has: what it declares, held against what its tensors are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError
from enginewright_model import read_json_object

from enginewright_onnx.decoder_weights import DecoderWeights
from enginewright_onnx.linear_weights import Kind

__all__ = ["QuantizationFormat", "read_quantization_format"]

# ModelOpt's quant_algo -> (our name, kind of its tensors).
_ALGORITHMS: dict[str | None, tuple[str, Kind]] = {
    None: ("none", "dense"),
    "W4A16_AWQ": ("int4_awq", "int4"),
    "FP8": ("fp8", "fp8"),
    "FP8_PER_CHANNEL_PER_TOKEN": ("fp8", "fp8"),
    "W8A8_SQ_PER_CHANNEL": ("int8_sq", "int8"),
}


@dataclass(frozen=True, slots=True)
class QuantizationFormat:
    """name: int4_awq, fp8, int8_sq or none. group_size: columns of one scale of int4_awq."""

    name: str
    group_size: int | None


def read_quantization_format(checkpoint: Path, weights: DecoderWeights) -> QuantizationFormat:
    """The format of `checkpoint`. Layers that the quantizer excluded may be dense.

    Raises CheckpointError for an unknown format, and naming the tensor that is not of the declared one.
    """
    algorithm = _declared(checkpoint)
    if algorithm not in _ALGORITHMS:
        raise CheckpointError(
            f"{checkpoint} is quantized with {algorithm!r}",
            code="unknown-quantization",
            hint="quantize with ModelOpt to int4_awq, fp8 or int8_sq, or give the unquantized checkpoint",
        )
    name, kind = _ALGORITHMS[algorithm]
    linears = [linear for layer in weights.layers for linear in layer.linears] + [weights.lm_head]
    for linear in linears:
        if linear.kind not in (kind, "dense"):
            raise CheckpointError(
                f"tensor {linear.name}.weight is {linear.kind}, but {algorithm or 'no format'} is declared",
                code="undeclared-quantization",
                hint="hf_quant_config.json and the weights must come from one export",
            )
    groups = {linear.group_size for linear in linears if linear.group_size is not None}
    if len(groups) > 1:
        raise CheckpointError(
            f"the layers have INT4 groups of {', '.join(map(str, sorted(groups)))} columns",
            code="mixed-formats",
            hint="quantize all layers with one group size",
        )
    return QuantizationFormat(name, next(iter(groups), None))


def _declared(checkpoint: Path) -> str | None:
    declared = _read(checkpoint / "hf_quant_config.json").get("quantization")
    if declared is None:
        declared = _read(checkpoint / "config.json").get("quantization_config")
        if isinstance(declared, Mapping) and declared.get("quant_method") != "modelopt":
            return str(declared.get("quant_method"))
    if not isinstance(declared, Mapping):
        return None
    algorithm = declared.get("quant_algo")
    return None if algorithm is None else str(algorithm)


def _read(path: Path) -> Mapping[str, Any]:
    return read_json_object(path) if path.exists() else {}
