"""The pipeline's own stages on a random checkpoint, each with its time and peak memory beside the plan's."""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from enginewright.checkpoint import open_checkpoint
from enginewright.peak_memory import PeakMemory, release_memory
from enginewright.recipe import CalibrationRecipe, QuantizationRecipe
from enginewright.stages.quantize import quantize
from enginewright_model import read_model_spec
from enginewright_trtllm import write_checkpoint
from enginewright_trtllm.gpus import Gpu
from enginewright_trtllm.stage_costs import StageCost
from enginewright_trtllm.target import Format
from gpu.room import planned_costs

__all__ = ["StageRun", "Usage", "load_modelopt", "run_stages"]

_TP = (1, 2)
_CONTEXT = 32_768

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a stage took: seconds, bytes. None: the system, or a run without a device, does not say.

    host_bytes: peak resident size of the process. device_bytes: peak of torch.cuda.max_memory_allocated.
    """

    seconds: float
    host_bytes: int | None
    device_bytes: int | None
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class StageRun:
    """worst_error: of a linear's weights, relative (Frobenius); quantize only."""

    format: Format
    stage: str
    measured: Usage
    planned: StageCost
    worst_error: float | None = None


def load_modelopt(device: str) -> dict[str, bool]:
    """Import and compile before anything is timed; says whether ModelOpt has its CUDA kernels.

    They are compiled once, in minutes, by nvcc, ninja and a C++ compiler. Without them ModelOpt computes the
    same with torch, and slower.
    """
    importlib.import_module("modelopt.torch.export")
    if device != "cuda":
        return {}
    extensions = importlib.import_module("modelopt.torch.quantization.extensions")
    return {
        "integer": extensions.get_cuda_ext() is not None,
        "fp8": extensions.get_cuda_ext_fp8() is not None,
    }


def run_stages(
    source: Path,
    work: Path,
    formats: Sequence[Format],
    calibration: CalibrationRecipe,
    device: str,
    gpu: Gpu,
) -> Iterator[StageRun]:
    """Quantize the checkpoint `source` on `device` to each format, and write its rank files, in `work`.

    Yields each stage as it ends. What a stage wrote is removed when nothing needs it any more.
    """
    checkpoint = open_checkpoint(source)
    dims = read_model_spec(checkpoint.config)
    tokens = calibration.samples * calibration.length
    for model_format in formats:
        options = QuantizationRecipe(format=model_format, calibration=calibration)
        quantized = work / model_format
        summary, usage = _measure(
            partial(quantize, checkpoint, quantized, options, use_gpu=device == "cuda"), device, quantized
        )
        planned = planned_costs(model_format, 1, dims, gpu, tokens)
        yield StageRun(model_format, "quantize", usage, planned["quantize"], summary.worst_error)
        for tp in _TP:
            ranks = work / f"{model_format}-tp{tp}"
            write = partial(write_checkpoint, quantized, ranks, tp=tp, original=source)
            _, usage = _measure(partial(write, max_position_embeddings=_CONTEXT), device, ranks)
            planned = planned_costs(model_format, tp, dims, gpu, tokens)
            yield StageRun(model_format, f"checkpoint, tp {tp}", usage, planned["checkpoint"])
            shutil.rmtree(ranks)
        shutil.rmtree(quantized)


def _measure(work: Callable[[], Result], device: str, written: Path) -> tuple[Result, Usage]:
    release_memory()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    peak, start = PeakMemory(), time.monotonic()
    result = work()
    on_device = None
    if device == "cuda":
        torch.cuda.synchronize()
        on_device = torch.cuda.max_memory_allocated()
    seconds = round(time.monotonic() - start, 3)
    size = sum(path.stat().st_size for path in written.glob("*.safetensors"))
    return result, Usage(seconds, peak.bytes(), on_device, size)
