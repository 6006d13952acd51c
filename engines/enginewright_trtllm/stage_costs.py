"""Host memory, device memory, disk and time of each stage of a TensorRT-LLM build.

quantize: ModelOpt calibrates with the BF16 weights resident and packs them in place; AWQ searches its scales
over eleven candidates. report: both checkpoints pass through the CPU in float32, a layer of each in memory at
a time, beside their embeddings and output projections. checkpoint: rank files are written tensor by tensor,
so the largest tensor twice is what it needs. build: read off public logs of Gemma-2-9B and Falcon-1B (20.3
and 2.6 GB of weights, 42.2 and 11.1 GB of host memory, the weights once on the GPU, a gigabyte a second of
serialization). Times are estimates, right within a factor of three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enginewright_model import ModelSpec

from enginewright_trtllm.activations import activation_bytes
from enginewright_trtllm.gpus import Gpu
from enginewright_trtllm.target import TrtllmTarget, Variant
from enginewright_trtllm.weights import (
    checkpoint_bytes,
    engine_bytes,
    linear_parameters,
    source_bytes,
    stage_weights,
)

__all__ = ["StageCost", "stage_costs"]

_FLOAT32 = 4
_PROCESS_BYTES = 2 * 10**9  # Python with torch and what it loads
_BUILDER_BYTES = 6_500_000_000  # TensorRT's builder library and its kernels, per worker
_WEIGHT_COPIES = 1.75  # of a rank's weights, while its engine is built and serialized
_AWQ_PASSES = 13
_FP8_PASSES = 1
_MATRIX_EFFICIENCY = 0.4
_HOST_FLOPS = 1e12  # float32, of a server's 32 cores at half their peak: a card's host has no fewer
_TACTIC_SECONDS = 60.0
_LAYER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class StageCost:
    """Peak bytes while a stage runs, bytes that it leaves on disk, and an estimate of its seconds."""

    stage: Literal["quantize", "report", "checkpoint", "build"]
    variant: str | None
    host_bytes: int
    device_bytes: int
    disk_bytes: int
    seconds: float


def stage_costs(target: TrtllmTarget, dims: ModelSpec, gpu: Gpu) -> tuple[StageCost, ...]:
    """The stages in order; one build for each variant. bf16 has nothing to quantize, and nothing to judge."""
    quantize = () if target.format == "bf16" else (_quantize(target, dims, gpu),)
    report = (_report(target, dims),) if quantize and target.report_tokens else ()
    builds = tuple(_build(target, dims, variant) for variant in target.variants)
    return (*quantize, *report, _checkpoint(target, dims), *builds)


def _quantize(target: TrtllmTarget, dims: ModelSpec, gpu: Gpu) -> StageCost:
    source = source_bytes(dims)
    passes = _AWQ_PASSES if target.format == "int4_awq" else _FP8_PASSES
    operations = 2 * dims.num_layers * linear_parameters(dims) * target.calibration_tokens * passes
    written = checkpoint_bytes(dims, target)
    return StageCost(
        "quantize",
        None,
        host_bytes=int(1.1 * source) + _PROCESS_BYTES,
        device_bytes=min(source, target.gpu_count * gpu.memory_bytes),
        disk_bytes=written,
        seconds=operations / (_MATRIX_EFFICIENCY * gpu.bf16_flops) + _copy(target, source + written),
    )


def _report(target: TrtllmTarget, dims: ModelSpec) -> StageCost:
    tables = dims.vocab_size * dims.hidden_size * (1 if dims.tie_word_embeddings else 2)
    layer = linear_parameters(dims)
    states = 2 * dims.hidden_size * target.report_tokens  # of every text, before and behind a layer
    operations = 2 * 2 * (dims.num_layers * layer + dims.vocab_size * dims.hidden_size) * target.report_tokens
    read = source_bytes(dims) + checkpoint_bytes(dims, target)
    return StageCost(
        "report",
        None,
        host_bytes=2 * _FLOAT32 * (tables + layer + states) + _PROCESS_BYTES,
        device_bytes=0,
        disk_bytes=0,
        seconds=operations / _HOST_FLOPS + _copy(target, read),
    )


def _checkpoint(target: TrtllmTarget, dims: ModelSpec) -> StageCost:
    largest = 2 * max(dims.vocab_size * dims.hidden_size, dims.hidden_size * dims.intermediate_size)
    written = checkpoint_bytes(dims, target)
    return StageCost(
        "checkpoint",
        None,
        host_bytes=2 * largest + _PROCESS_BYTES,
        device_bytes=0,
        disk_bytes=written,
        seconds=_copy(target, 2 * written),
    )


def _build(target: TrtllmTarget, dims: ModelSpec, variant: Variant) -> StageCost:
    rank = max(stage_weights(dims, target, variant))
    written = engine_bytes(dims, target, variant)
    return StageCost(
        "build",
        variant.name,
        host_bytes=target.build_workers * (int(_WEIGHT_COPIES * rank) + _BUILDER_BYTES),
        device_bytes=rank + activation_bytes(dims, target),
        disk_bytes=written,
        seconds=-(-target.world_size // target.build_workers)
        * (_TACTIC_SECONDS + _LAYER_SECONDS * dims.num_layers / target.pp)
        + _copy(target, checkpoint_bytes(dims, target) + written),
    )


def _copy(target: TrtllmTarget, size: int) -> float:
    return size / target.host.disk_bytes_per_second
