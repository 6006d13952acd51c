"""What an ONNX build costs in bytes and seconds, from the model's dimensions alone.

Sizes follow the layout that `enginewright_onnx` writes, tensor by tensor, and are exact; memory and time are
fitted to measured builds (see the constants) and are estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from enginewright_onnx.block_format import largest_block

from enginewright.limits import Limits
from enginewright.machine import Machine
from enginewright.model_spec import ModelSpec, expected_tensors
from enginewright.recipe import Recipe

__all__ = ["Sizes", "StageCost", "price_stages", "sizes_of"]

_FLOAT = 4
_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes and counts that depend on the recipe and the model only, not on the machine.

    weight_bytes: of the engine, on disk and in memory. step_bytes: weights read to decode one token.
    quantized_bytes: of the quantized checkpoint. kv_bytes_per_token: over all layers.
    sequences: of slot_tokens tokens each, decoded together. kv_bytes: what those take.
    """

    parameters: int
    source_bytes: int
    quantized_bytes: int
    weight_bytes: int
    step_bytes: int
    kv_bytes_per_token: int
    slot_tokens: int
    sequences: int

    @property
    def kv_bytes(self) -> int:
        return self.sequences * self.slot_tokens * self.kv_bytes_per_token

    @property
    def kv_tokens(self) -> int:
        return self.sequences * self.slot_tokens


@dataclass(frozen=True, slots=True)
class StageCost:
    """host_bytes: peak resident memory. disk_bytes: written and kept. seconds: None if it cannot be told."""

    name: str
    host_bytes: int
    disk_bytes: int
    seconds: float | None


def sizes_of(recipe: Recipe, spec: ModelSpec, limits: Limits, source_bytes: int | None = None) -> Sizes:
    """Sizes for `recipe`. source_bytes: of the checkpoint's tensors; None assumes two bytes an element."""
    shapes = expected_tensors(spec)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    width = 2 if source_bytes is None else max(2, round(source_bytes / parameters))
    linears = [shape for name, shape in shapes.items() if len(shape) == 2 and ".layers." in name]
    vectors = sum(math.prod(shape) for shape in shapes.values() if len(shape) == 1)
    embedding = math.prod(shapes[_EMBEDDING])
    head_shape = shapes.get(_HEAD, shapes[_EMBEDDING])
    tied = _HEAD not in shapes
    layers = sum(_engine_linear(recipe, *shape) for shape in linears)
    head = _head_bytes(recipe, *head_shape)
    tables = _FLOAT * spec.head_dim * (limits.max_seq_len + (limits.long_seq_len or 0))
    kept_once = tied and recipe.engine.lm_head == "fp32"
    weight_bytes = layers + (0 if kept_once else head) + embedding * width + _FLOAT * vectors + tables
    kv_bytes_per_token = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * _FLOAT
    slot_bytes = kv_bytes_per_token * limits.slot_tokens
    return Sizes(
        parameters=parameters,
        source_bytes=source_bytes if source_bytes is not None else parameters * width,
        quantized_bytes=sum(_checkpoint_linear(recipe, width, *shape) for shape in linears)
        + width * (vectors + embedding + (0 if tied else math.prod(head_shape))),
        weight_bytes=weight_bytes,
        step_bytes=layers + head + _FLOAT * vectors,
        kv_bytes_per_token=kv_bytes_per_token,
        slot_tokens=limits.slot_tokens,
        sequences=min(recipe.engine.max_batch_size, recipe.engine.kv_budget // slot_bytes),
    )


def _engine_linear(recipe: Recipe, rows: int, columns: int) -> int:
    """Bytes of one layer as MatMulNBits codes and float32 scales, or as float32."""
    quantization = recipe.quantization
    if quantization.format == "int4_awq":
        return rows * columns // 2 + _FLOAT * rows * columns // quantization.group_size
    if quantization.format == "int8_sq" or (
        quantization.format == "fp8" and recipe.engine.fp8_compute == "int8"
    ):
        return _blocks_of_8_bits(rows, columns)
    return _FLOAT * rows * columns


def _head_bytes(recipe: Recipe, rows: int, columns: int) -> int:
    return _blocks_of_8_bits(rows, columns) if recipe.engine.lm_head == "int8" else _FLOAT * rows * columns


def _blocks_of_8_bits(rows: int, columns: int) -> int:
    block = largest_block(columns)
    return _FLOAT * rows * columns if block is None else rows * columns + _FLOAT * rows * columns // block


def _checkpoint_linear(recipe: Recipe, width: int, rows: int, columns: int) -> int:
    """Bytes of one layer in ModelOpt's unified checkpoint."""
    quantization = recipe.quantization
    if quantization.format == "int4_awq":
        return rows * columns // 2 + _FLOAT * rows * columns // quantization.group_size
    return rows * columns * (width if quantization.format == "none" else 1)


# Measured with tiny and 135M models on 2 cores of a server (ModelOpt 0.47, torch 2.13, ONNX Runtime 1.32).
_PYTHON = 900 * 1024**2  # torch, transformers and modelopt imported
_RUNTIME = 250 * 1024**2  # a process with ONNX Runtime and the tokenizer
# Forward passes over the calibration set, by format.
_PASSES = {
    "int4_awq": 14.0,
    "fp8": 3.0,
    "int8_sq": 3.0,
    "none": 0.0,
}
_EFFICIENCY = 0.5  # of the speed of one large matrix product
_DISK_SPEED = 400e6  # bytes a second, read or written


def price_stages(recipe: Recipe, spec: ModelSpec, sizes: Sizes, machine: Machine) -> tuple[StageCost, ...]:
    """Every stage in order, then serving."""
    calibration, verify = recipe.quantization.calibration, recipe.verify
    quantized = recipe.quantization.format != "none"
    layer = max(math.prod(shape) for shape in expected_tensors(spec).values())
    flops = _EFFICIENCY * machine.flops

    def forward(tokens: int) -> float:
        return 2.0 * sizes.parameters * tokens / flops

    tokens = calibration.samples * calibration.length
    return (
        StageCost(
            "quantize",
            _PYTHON + (sizes.parameters + spec.vocab_size * calibration.length + 2 * layer) * _FLOAT
            if quantized
            else _RUNTIME,
            sizes.quantized_bytes,
            (sizes.source_bytes + sizes.quantized_bytes) / _DISK_SPEED
            + _PASSES[recipe.quantization.format] * forward(tokens),
        ),
        StageCost(
            "compile",
            _RUNTIME + sizes.weight_bytes // spec.num_layers + layer * _FLOAT,
            sizes.weight_bytes,
            (sizes.quantized_bytes + sizes.weight_bytes) / _DISK_SPEED,
        ),
        StageCost(
            "verify",
            _PYTHON + sizes.parameters * _FLOAT + sizes.weight_bytes,
            0,
            2 * forward(verify.samples * verify.length),
        ),
        StageCost("package", _RUNTIME, 0, 0.1),
        StageCost("serve", _RUNTIME + sizes.weight_bytes + sizes.kv_bytes, 0, None),
    )
