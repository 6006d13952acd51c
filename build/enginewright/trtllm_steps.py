"""The stages of a TensorRT-LLM build as cached steps, as `steps` has those of an ONNX one.

quantize         ModelOpt's unified checkpoint; not for 16-bit engines
report           what it lost; the gate is judged before rank files are written
checkpoint       rank files of every variant, and what the front reads of the model
verify           the rank files read back
compile-VARIANT  an engine. trtllm-build times kernels and picks the fastest, so two builds of the same
                 request differ in their bytes: an engine is known by its request, and kept
package          the model repository
handoff          instead of the last two, where nothing can build engines: the folder to be taken there
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from enginewright_errors import StageFailed
from enginewright_model import ModelSpec
from enginewright_trtllm.build_command import build_flags
from enginewright_trtllm.build_environment import BuildEnvironment, engine_record
from enginewright_trtllm.build_script import BUILD_SCRIPT, render_build_script
from enginewright_trtllm.check_engine import engine_problem
from enginewright_trtllm.engine_makers import EngineJob, EngineMaker
from enginewright_trtllm.target import TrtllmTarget, Variant

from enginewright.cache import Made, StageRequest
from enginewright.handoff import CHECKPOINT_FOLDER, MODEL_FOLDER
from enginewright.hashing import digest
from enginewright.output import link_tree
from enginewright.stages.checkpoint_trtllm import verify_checkpoints, write_checkpoints
from enginewright.stages.package_trtllm import package_trtllm
from enginewright.steps import Advance, Inputs, Step
from enginewright.trtllm_recipe import TrtllmRecipe
from enginewright.versions import stage_versions

__all__ = [
    "checkpoint_step",
    "compile_request",
    "compile_stage",
    "compile_step",
    "handoff_step",
    "package_step",
    "verify_step",
]

# What decides an engine's content is in the flags; these say where it goes, and how it is watched.
_NOT_CONTENT = ("--checkpoint_dir", "--output_dir", "--output_timing_cache", "--workers", "--log_level")


def checkpoint_step(target: TrtllmTarget, dims: ModelSpec, source: str, quantized: str | None) -> Step:
    """source, quantized: digests of the checkpoint and of what ModelOpt made of it, None for 16 bits.

    FP8 weights are rounded from `source`, so both are inputs.
    """
    inputs = {"quantized": quantized} if quantized is not None else {"original": source}
    if target.format == "fp8":
        inputs["original"] = source
    parameters = {
        "tp": target.tp,
        "pp": target.pp,
        "logits_dtype": target.logits_dtype,
        "variants": {variant.name: asdict(variant) for variant in target.variants},
    }

    def make(folders: Inputs, out: Path, advance: Advance) -> Made:
        unified = folders["quantized"] if quantized is not None else folders["original"]
        original = folders["original"] if target.format == "fp8" else None
        return Made(write_checkpoints(unified, original, out, target, dims, advance))

    versions = stage_versions(code=("enginewright.stages.checkpoint_trtllm",), libraries=("numpy",))
    return Step(StageRequest("checkpoint", inputs, parameters, versions), make)


def verify_step(target: TrtllmTarget, checkpoint: str) -> Step:
    """Its result has no files: that there is one says that the rank files are what their configs need."""

    def make(folders: Inputs, out: Path, advance: Advance) -> Made:
        return Made(report={"measured": asdict(verify_checkpoints(folders["checkpoint"], target))})

    parameters = {"variants": [variant.name for variant in target.variants]}
    versions = stage_versions(code=("enginewright.stages.checkpoint_trtllm",))
    return Step(StageRequest("verify", {"checkpoint": checkpoint}, parameters, versions), make)


def compile_stage(variant: Variant) -> str:
    """The stage's name."""
    return f"compile-{variant.name}"


def compile_request(
    target: TrtllmTarget, variant: Variant, checkpoint: str, environment: BuildEnvironment
) -> StageRequest:
    """checkpoint: the digest of the variant's rank files and config."""
    flags = {
        flag.name: flag.value
        for flag in build_flags(target, variant, checkpoint="", output="")
        if flag.name not in _NOT_CONTENT
    }
    versions = {
        "tensorrt_llm": environment.tensorrt_llm,
        "tensorrt": environment.tensorrt or "unknown",
    }
    parameters = {"flags": flags, "sm": environment.sm}
    return StageRequest(compile_stage(variant), {"checkpoint": checkpoint}, parameters, versions)


def compile_step(
    target: TrtllmTarget, variant: Variant, checkpoint: str, maker: EngineMaker, logs: Path
) -> Step:
    """logs: a folder for the builder's output, which is kept."""
    request = compile_request(target, variant, checkpoint, maker.environment)

    def make(folders: Inputs, out: Path, advance: Advance) -> Made:
        rank_files = folders["checkpoint"] / variant.name
        job = EngineJob(
            target,
            variant,
            rank_files,
            out,
            log=logs / f"{variant.name}-{request.key[:12]}.log",
            progress=lambda fraction: advance(round(1000 * fraction), 1000),
        )
        memory = maker.make(job)
        problem = engine_problem(out, rank_files, target, variant)
        if problem is not None:
            raise StageFailed(
                f"{request.stage}: {problem}", code="engine-differs", hint=f"read the builder's log in {logs}"
            )
        measured = None if memory is None else asdict(memory)
        return Made(engine_record(target, maker.environment), {"builder_memory_bytes": measured})

    return Step(request, make)


def package_step(
    recipe: TrtllmRecipe,
    target: TrtllmTarget,
    dims: ModelSpec,
    checkpoint: str,
    engines: Mapping[str, str],
    verified: str,
    measured: str | None,
) -> Step:
    """engines: digests by variant. verified, measured: the keys of the verification that passed and of the
    report that kept the gate, None where nothing was quantized."""

    def make(folders: Inputs, out: Path, advance: Advance) -> Made:
        package_trtllm(
            {variant.name: folders[compile_stage(variant)] for variant in target.variants},
            folders["checkpoint"] / MODEL_FOLDER,
            out,
            target=target,
            dims=dims,
            name=recipe.name,
            max_tokens_default=recipe.serving.max_tokens_default,
        )
        return Made()

    inputs = _judged(checkpoint, verified, measured)
    inputs |= {compile_stage(variant): engines[variant.name] for variant in target.variants}
    parameters = {"name": recipe.name, **recipe.serving.model_dump(), **_served(target)}
    versions = stage_versions(
        code=("enginewright.stages.package_trtllm", "enginewright_front", "enginewright_errors")
    )
    return Step(StageRequest("package", inputs, parameters, versions), make)


def handoff_step(target: TrtllmTarget, checkpoint: str, verified: str, measured: str | None) -> Step:
    """The folder that is taken to a GPU: rank files by hard link, and the script that builds engines."""
    script = render_build_script(
        target, {variant.name: f"{CHECKPOINT_FOLDER}/{variant.name}" for variant in target.variants}
    )

    def make(folders: Inputs, out: Path, advance: Advance) -> Made:
        (out / CHECKPOINT_FOLDER).mkdir()
        link_tree(folders["checkpoint"], out / CHECKPOINT_FOLDER)
        (out / BUILD_SCRIPT).write_text(script, encoding="utf-8")
        return Made()

    inputs = _judged(checkpoint, verified, measured)
    return Step(StageRequest("handoff", inputs, {"script": digest(script)}, {}), make)


def _judged(checkpoint: str, verified: str, measured: str | None) -> dict[str, str]:
    inputs = {"checkpoint": checkpoint, "verified": verified}
    return inputs if measured is None else {**inputs, "measured": measured}


def _served(target: TrtllmTarget) -> dict[str, Any]:
    """What the C++ model's config follows from."""
    fields = asdict(target)
    for name in ("host", "calibration_tokens", "report_tokens", "workers", "container"):
        del fields[name]
    return {**fields, "variants": list(fields["variants"])}
