"""What an ONNX build costs in bytes and seconds, from the model's dimensions alone.

Sizes follow the layout that `enginewright_onnx` writes, tensor by tensor, and are exact; memory and time are
estimates, fitted to measured builds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from enginewright_model import ModelSpec
from enginewright_onnx.block_format import largest_block
from enginewright_onnx.kv_cache import kv_bytes_per_token

from enginewright.expected_tensors import expected_tensors
from enginewright.limits import Limits
from enginewright.load_model import FLOAT32_PARAMETERS
from enginewright.machine import Machine
from enginewright.recipe import Recipe, ReportRecipe

__all__ = ["Sizes", "StageCost", "price_stages", "report_tokens", "sizes_of"]

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
    kept = tuple(f"model.layers.{index}." for index in recipe.quantization.keep_layers)
    linears = [
        (name.startswith(kept), shape)
        for name, shape in shapes.items()
        if len(shape) == 2 and ".layers." in name
    ]
    vectors = sum(math.prod(shape) for shape in shapes.values() if len(shape) == 1)
    embedding = math.prod(shapes[_EMBEDDING])
    head_shape = shapes.get(_HEAD, shapes[_EMBEDDING])
    tied = _HEAD not in shapes
    layers = sum(_engine_linear(recipe, whole, *shape) for whole, shape in linears)
    head = _head_bytes(recipe, *head_shape)
    tables = _FLOAT * spec.head_dim * (limits.max_seq_len + (limits.long_seq_len or 0))
    kept_once = tied and recipe.engine.lm_head == "fp32"
    weight_bytes = layers + (0 if kept_once else head) + embedding * width + _FLOAT * vectors + tables
    token_bytes = kv_bytes_per_token(spec)
    return Sizes(
        parameters=parameters,
        source_bytes=source_bytes if source_bytes is not None else parameters * width,
        quantized_bytes=sum(_checkpoint_linear(recipe, width, whole, *shape) for whole, shape in linears)
        + width * (vectors + embedding + (0 if tied else math.prod(head_shape))),
        weight_bytes=weight_bytes,
        step_bytes=layers + head + _FLOAT * vectors,
        kv_bytes_per_token=token_bytes,
        slot_tokens=limits.slot_tokens,
        sequences=min(
            recipe.engine.max_batch_size, recipe.engine.kv_budget // (token_bytes * limits.slot_tokens)
        ),
    )


def _engine_linear(recipe: Recipe, kept: bool, rows: int, columns: int) -> int:
    """Bytes of one linear as MatMulNBits codes and float32 scales, or as float32."""
    quantization = recipe.quantization
    if kept:
        return _FLOAT * rows * columns
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


def _checkpoint_linear(recipe: Recipe, width: int, kept: bool, rows: int, columns: int) -> int:
    """Bytes of one linear in ModelOpt's unified checkpoint."""
    quantization = recipe.quantization
    if kept:
        return rows * columns * width
    if quantization.format == "int4_awq":
        return rows * columns // 2 + _FLOAT * rows * columns // quantization.group_size
    return rows * columns * (width if quantization.format == "none" else 1)


# Fitted to SmolLM2-135M on 2 cores (ModelOpt 0.47, torch 2.13, ONNX Runtime 1.32), peaks within 10%.
_MIB = 1024**2
_TORCH = 480 * _MIB  # torch, transformers and modelopt imported
_RUNTIME = 180 * _MIB  # a process with ONNX Runtime and the tokenizer
_WORK = 150 * _MIB  # what a stage with torch holds beside the weights
_BATCH_TOKENS = 4096  # tokens of one calibration pass
_SCORES = 2.5  # float32 copies of the attention scores that a calibrated layer makes
# Forward passes over the calibration set that the work of each format equals.
_PASSES = {"int4_awq": 14.0, "fp8": 2.5, "int8_sq": 2.5, "none": 0.0}
_EFFICIENCY = 0.5  # of the speed of one large matrix product
_DISK_SPEED = 400e6  # bytes a second, read or written
_IMPORT_SECONDS, _VERIFY_SECONDS = 8.0, 4.0
_PROMPT_TOKENS = 32  # of the built-in ones, with a chat template
_PROBLEM_TOKENS = 256  # of an answer to a word problem, as `quality.answers` has it
# All choices of an item: a built-in one; one of HellaSwag and one of TruthfulQA.
_ITEM_TOKENS, _BENCHMARK_TOKENS = 48, 400


def price_stages(recipe: Recipe, spec: ModelSpec, sizes: Sizes, machine: Machine) -> tuple[StageCost, ...]:
    """Every stage in order, then serving. Each as if it were alone: memory is given back between them."""
    copied = (sizes.source_bytes + sizes.quantized_bytes) / _DISK_SPEED
    compiled = (sizes.quantized_bytes + sizes.weight_bytes) / _DISK_SPEED
    largest = _FLOAT * max(math.prod(shape) for shape in expected_tensors(spec).values())
    if recipe.quantization.format == "none":
        quantize = StageCost("quantize", _RUNTIME, sizes.quantized_bytes, copied)
    else:
        memory = _quantize_memory(recipe, spec, sizes)
        quantize = StageCost(
            "quantize", memory, sizes.quantized_bytes, copied + _quantize_seconds(recipe, sizes, machine)
        )
    engine = sizes.weight_bytes * 6 // 5
    verify = recipe.verify
    tables = (1 if spec.tie_word_embeddings else 2) * _FLOAT * spec.vocab_size * spec.hidden_size
    logits = 4 * _FLOAT * spec.vocab_size * verify.length
    layer = _FLOAT * sizes.parameters // spec.num_layers
    checked = _VERIFY_SECONDS + 4 * _forward_seconds(sizes, verify.samples * verify.length, machine)
    return (
        quantize,
        StageCost("compile", _RUNTIME + largest, sizes.weight_bytes, compiled),
        StageCost("verify", _TORCH + _WORK + engine + tables + logits + layer, 0, checked),
        StageCost(
            "report",
            _report_memory(recipe, spec, sizes, machine),
            0,
            _report_seconds(recipe, spec, sizes, machine),
        ),
        StageCost("package", _RUNTIME, 0, 0.1),
        StageCost("serve", _RUNTIME + engine + sizes.kv_bytes, 0, None),
    )


def _quantize_memory(recipe: Recipe, spec: ModelSpec, sizes: Sizes) -> int:
    """Weights in memory, the mapped source, and the activations of one calibration pass."""
    calibration = recipe.quantization.calibration
    width = _FLOAT if sizes.parameters <= FLOAT32_PARAMETERS else sizes.source_bytes // sizes.parameters
    tokens = min(calibration.samples * calibration.length, max(_BATCH_TOKENS, calibration.length))
    linear = 4 * spec.intermediate_size + 6 * spec.hidden_size
    scores = _SCORES * spec.num_heads * calibration.length
    activations = int(_FLOAT * tokens * (linear + scores))
    if recipe.quantization.format == "int4_awq":
        activations += activations // 2
    return _TORCH + _WORK + sizes.parameters * width + sizes.source_bytes + activations


def _report_memory(recipe: Recipe, spec: ModelSpec, sizes: Sizes, machine: Machine) -> int:
    """A layer of each checkpoint, the engine, and what every text carries from layer to layer.

    Before that an exact engine of the original, where there is room for it: it is not needed.
    """
    report = recipe.report
    tables = 2 * (1 if spec.tie_word_embeddings else 2) * _FLOAT * spec.vocab_size * spec.hidden_size
    logits = 3 * _FLOAT * spec.vocab_size * report.length
    hidden = 4 * _FLOAT * spec.hidden_size * report_tokens(recipe.report)
    layer = 2 * _FLOAT * sizes.parameters // spec.num_layers
    base = _TORCH + _WORK + sizes.weight_bytes * 6 // 5
    needed = base + tables + logits + hidden + layer
    original = base + _FLOAT * sizes.parameters
    answers = report.prompts or report.problems
    return max(needed, original) if answers and original < machine.memory_available else needed


def _report_seconds(recipe: Recipe, spec: ModelSpec, sizes: Sizes, machine: Machine) -> float:
    """Passes of original, checkpoint and engine; the layers by themselves; answers of all three."""
    report = recipe.report
    seconds = 3 * _forward_seconds(sizes, report_tokens(report), machine)
    if report.sensitivity:
        held_out = report.samples * report.length
        seconds += spec.num_layers / 2 * _forward_seconds(sizes, held_out, machine)
    steps = 2 * report.answer_tokens if report.prompts else 0
    steps += _PROBLEM_TOKENS * math.ceil(report.problems / recipe.engine.max_batch_size)
    if steps:
        exact = _FLOAT * sizes.parameters
        seconds += 2 * (exact + sizes.weight_bytes) / _DISK_SPEED  # exact engines of both checkpoints
        seconds += steps * (exact + 2 * sizes.step_bytes) / machine.read_bandwidth
    return seconds


def report_tokens(report: ReportRecipe) -> int:
    """Held-out text, prompts with answers, and items with all their choices."""
    item_tokens = _ITEM_TOKENS if report.tasks == "builtin" else _BENCHMARK_TOKENS
    return (
        report.samples * report.length
        + report.prompts * (report.answer_tokens + _PROMPT_TOKENS)
        + report.items * item_tokens
    )


def _quantize_seconds(recipe: Recipe, sizes: Sizes, machine: Machine) -> float:
    calibration = recipe.quantization.calibration
    tokens = calibration.samples * calibration.length
    passes = _PASSES[recipe.quantization.format]
    return _IMPORT_SECONDS + passes * _forward_seconds(sizes, tokens, machine)


def _forward_seconds(sizes: Sizes, tokens: int, machine: Machine) -> float:
    return 2.0 * sizes.parameters * tokens / (_EFFICIENCY * machine.flops)
