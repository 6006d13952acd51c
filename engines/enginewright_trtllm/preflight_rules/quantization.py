"""Does the GPU compute the format, and do weights and KV cache go together."""

from __future__ import annotations

from collections.abc import Iterator

from enginewright_model import ModelSpec

from enginewright_trtllm.finding import Finding, error, warning
from enginewright_trtllm.gpus import Gpu, lookup_gpu
from enginewright_trtllm.target import Format, TrtllmTarget

__all__ = [
    "check_fp8_architecture",
    "check_fp8_kv",
    "check_group_size",
    "check_int4_architecture",
    "check_known_architecture",
    "format_runs_on",
]


def format_runs_on(model_format: Format, gpu: Gpu) -> bool:
    """Whether trtllm-build makes an engine of a format on a GPU."""
    match model_format:
        case "bf16":
            return True
        case "fp8":
            return gpu.sm >= 89
        case "int4_awq":
            return not 100 <= gpu.sm < 120


def check_int4_architecture(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """INT4 weights are refused on data-centre Blackwell."""
    del dims
    gpu = lookup_gpu(target.gpu)
    if gpu and target.format == "int4_awq" and not format_runs_on("int4_awq", gpu):
        yield error(
            "int4-sm100",
            "build",
            f"format int4_awq on {gpu.name} (SM {gpu.sm})",
            'the builder raises "INT8/INT4 quantization is not supported on SM>=100."',
            "Use fp8, or a GPU of SM 80 to 90 or 120.",
        )


def check_fp8_architecture(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """FP8 needs FP8 matrix units."""
    del dims
    gpu = lookup_gpu(target.gpu)
    if gpu and target.format == "fp8" and not format_runs_on("fp8", gpu):
        yield error(
            "fp8-sm89",
            "build",
            f"format fp8 on {gpu.name} (SM {gpu.sm})",
            "there are no FP8 matrix units before SM 89 and no kernels without them",
            "Use int4_awq, or an Ada, Hopper or Blackwell GPU.",
        )


def check_known_architecture(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """Workstation Blackwell passes upstream's checks; nobody here saw an engine run on it."""
    del dims
    gpu = lookup_gpu(target.gpu)
    if gpu and gpu.sm >= 120:
        yield warning(
            "sm120-unseen",
            "build",
            f"{gpu.name} (SM {gpu.sm})",
            f"TensorRT-LLM {target.tensorrt_llm} accepts it, but its kernel coverage there was not observed",
            "Build once and compare with the checkpoint before you rely on it.",
        )


def check_fp8_kv(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """An FP8 KV cache goes with FP8 weights only, and is risky where q, k and v have biases."""
    if not target.fp8_kv:
        return
    if target.format != "fp8":
        yield error(
            "fp8-kv-without-fp8",
            "run",
            f"kv_cache fp8 with format {target.format}",
            "the builder silently turns paged attention off, and with it chunked context and KV reuse",
            "Set kv_cache to auto; for a small cache use format fp8.",
        )
    elif dims.qkv_bias:
        yield warning(
            "fp8-kv-bias",
            "run",
            "kv_cache fp8 with biases on q, k and v (Qwen2)",
            "biased keys have outliers that one scale a layer does not hold; garbled answers were reported",
            "Keep the KV cache in BF16, or let the accuracy gate decide on long texts.",
        )


def check_group_size(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """The weight-only kernels know groups of 64 and 128."""
    del dims
    if target.format == "int4_awq" and target.group_size not in (64, 128):
        yield error(
            "awq-group-size",
            "build",
            f"group_size = {target.group_size}",
            "TensorRT-LLM's int4 kernels are compiled for groups of 64 and 128",
            "Use 128, or 64 for a little more accuracy.",
        )
