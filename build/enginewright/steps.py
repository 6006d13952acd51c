"""The stages of a build as cached steps: pure functions of named inputs.

A step's request names everything its result depends on (see `StageRequest`); `make` gets a folder for each
input of the request. Heavy libraries are imported by the call, so that a build that reuses everything never
loads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginewright.cache import Made, StageRequest
from enginewright.limits import Limits
from enginewright.quality.gate import GateBounds
from enginewright.quality.texts import ReportTexts
from enginewright.recipe import QuantizationRecipe, Recipe
from enginewright.stages.compile import compile_engine, engine_options
from enginewright.stages.package import package
from enginewright.trtllm_recipe import TrtllmRecipe
from enginewright.versions import stage_versions

__all__ = [
    "Advance",
    "Inputs",
    "Step",
    "compile_step",
    "modelopt_step",
    "package_step",
    "quantize_step",
    "report_step",
    "verify_step",
]

Advance = Callable[[int, int], None]
Inputs = Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Step:
    """`make(inputs, out, advance)` fills the empty folder `out`."""

    request: StageRequest
    make: Callable[[Inputs, Path, Advance], Made]


def quantize_step(recipe: Recipe, source: str, calibration: str | None) -> Step:
    """source: digest of the checkpoint's files. calibration: SHA-256 of the token ids, None for `none`."""
    return modelopt_step(recipe.quantization, source, calibration)


def modelopt_step(
    quantization: QuantizationRecipe,
    source: str,
    calibration: str | None,
    *,
    fp8_kv: bool = False,
    use_gpu: bool = False,
    merged: bool = False,
) -> Step:
    """The same for any target. fp8_kv, use_gpu: as in `quantize`; a GPU changes the scales' last bits.

    merged: an FP8 checkpoint gets the scales that TensorRT-LLM's rank files have (`merge_scales`)."""
    inputs: dict[str, str] = {"source": source}
    parameters: dict[str, Any] = {"format": quantization.format}
    if fp8_kv:
        parameters["kv_cache"] = "fp8"
    libraries: tuple[str, ...] = ("safetensors",)
    if calibration is not None:
        inputs["calibration"] = calibration
        libraries = ("nvidia-modelopt", "torch", "transformers", "safetensors")
    if quantization.format == "int4_awq":
        parameters["group_size"] = quantization.group_size
    if quantization.keep_layers:
        parameters["keep_layers"] = sorted(quantization.keep_layers)
    if merged:
        parameters["scales"] = "merged"

    def make(folders: Inputs, out: Path, advance: Advance) -> Made:
        from enginewright.checkpoint import open_checkpoint
        from enginewright.stages.quantize import quantize

        checkpoint = open_checkpoint(folders["source"])
        summary = quantize(checkpoint, out, quantization, advance, fp8_kv=fp8_kv, use_gpu=use_gpu)
        if merged:
            from enginewright_trtllm import merge_scales

            merge_scales(out, folders["source"])
        return Made(report={"measured": asdict(summary)})

    code = ("enginewright.stages.quantize", *(("enginewright_trtllm.merge_scales",) if merged else ()))
    versions = stage_versions(code=code, libraries=libraries)
    return Step(StageRequest("quantize", inputs, parameters, versions), make)


def compile_step(recipe: Recipe, limits: Limits, checkpoint: str) -> Step:
    """checkpoint: digest of the quantized checkpoint."""
    options = engine_options(recipe, limits)

    def make(folders: Inputs, out: Path, advance: Advance) -> Made:
        return Made(compile_engine(folders["checkpoint"], out, options, advance))

    versions = stage_versions(code=("enginewright_onnx.engine_writer",), libraries=("onnx", "numpy"))
    return Step(StageRequest("compile", {"checkpoint": checkpoint}, asdict(options), versions), make)


def verify_step(recipe: Recipe, checkpoint: str, engine: str) -> Step:
    """Its result has no files: that there is one says that the gate passed. The numbers are in its report."""

    def make(folders: Inputs, out: Path, advance: Advance) -> Made:
        from enginewright.stages.verify import verify

        report = verify(folders["checkpoint"], folders["engine"], recipe.verify, advance)
        return Made(report={"measured": asdict(report)})

    libraries = ("onnxruntime", "torch", "transformers")
    versions = stage_versions(code=("enginewright.stages.verify",), libraries=libraries)
    inputs = {"checkpoint": checkpoint, "engine": engine}
    return Step(StageRequest("verify", inputs, recipe.verify.model_dump(), versions), make)


def report_step(
    recipe: Recipe | TrtllmRecipe, source: str, checkpoint: str, engine: str | None, texts: ReportTexts
) -> Step:
    """Like verify's, its result has no files: the figures are in its report. Whether they are good enough is
    the gate's to say, so that another bound costs no measurement.

    engine: None where it does not run on this machine, as TensorRT-LLM's."""
    quantized = recipe.quantization.format != "none"

    def make(folders: Inputs, out: Path, advance: Advance) -> Made:
        from enginewright.stages.report import measure_quality

        report = measure_quality(
            folders["source"],
            folders["checkpoint"] if quantized else None,
            folders.get("engine"),
            texts,
            recipe.report.answer_tokens,
            out,
            advance,
            sensitivity=recipe.report.sensitivity,
        )
        return Made(report={"measured": report.as_json(), "note": report.summary})

    libraries = ("onnxruntime", "torch", "transformers", "numpy")
    versions = stage_versions(code=("enginewright.stages.report",), libraries=libraries)
    inputs = {"source": source, "checkpoint": checkpoint, "texts": texts.sha256}
    if engine is not None:
        inputs["engine"] = engine
    parameters = {"answer_tokens": recipe.report.answer_tokens, "sensitivity": recipe.report.sensitivity}
    return Step(StageRequest("report", inputs, parameters, versions), make)


def package_step(
    recipe: Recipe, checkpoint: str, engine: str, verified: str, measured: str, bounds: GateBounds
) -> Step:
    """verified, measured: the keys of the verification that passed and of the report that kept `bounds`."""

    def make(folders: Inputs, out: Path, advance: Advance) -> Made:
        package(folders["engine"], folders["checkpoint"], out, recipe)
        return Made()

    inputs = {"checkpoint": checkpoint, "engine": engine, "verified": verified, "measured": measured}
    parameters = {"name": recipe.name, **recipe.serving.model_dump(), "gate": asdict(bounds)}
    versions = stage_versions(code=("enginewright_front", "enginewright_onnx", "enginewright_errors"))
    return Step(StageRequest("package", inputs, parameters, versions), make)
