"""Looks for engines that somebody built with the build script of a handed-off folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from enginewright_trtllm.build_environment import BuildEnvironment, check_build_environment
from enginewright_trtllm.build_script import engine_folder, script_record
from enginewright_trtllm.check_engine import engine_problem
from enginewright_trtllm.engine_makers import ScriptEngines
from enginewright_trtllm.nvidia_smi import parse_nvidia_smi
from enginewright_trtllm.target import TrtllmTarget, Variant

__all__ = ["find_script_engines"]


def find_script_engines(
    folder: Path, checkpoints: Path, target: TrtllmTarget, warn: Callable[[str], None]
) -> dict[str, ScriptEngines]:
    """Variant name -> the engine in `folder`, for those that were built from `checkpoints`/VARIANT.

    What is there and of no use is named to `warn`. Raises UsageError for an engine of another TensorRT-LLM
    or GPU than the target's.
    """
    found: dict[str, ScriptEngines] = {}
    for variant in target.variants:
        engine = folder / engine_folder(variant)
        if not engine.is_dir():
            continue
        problem = engine_problem(engine, checkpoints / variant.name, target, variant)
        if problem is None:
            environment = _environment(folder, target, variant)
            check_build_environment(target, environment)
            found[variant.name] = ScriptEngines(environment, folder)
        else:
            warn(f"{engine} is not used: {problem}")
    return found


def _environment(folder: Path, target: TrtllmTarget, variant: Variant) -> BuildEnvironment:
    try:
        lines = (folder / script_record(variant)).read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    tensorrt_llm, tensorrt, *gpus = [*lines, "", ""]
    # An engine without its record is bound to what its own config.json says, which was compared.
    return BuildEnvironment(
        tensorrt_llm or target.tensorrt_llm, tensorrt or None, tuple(parse_nvidia_smi("\n".join(gpus)))
    )
