"""How each variant's engine is obtained here: from the build script's folder, a builder, or the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from enginewright_errors import StageFailed
from enginewright_trtllm.build_environment import BuildEnvironment
from enginewright_trtllm.engine_makers import EngineMaker
from enginewright_trtllm.find_script_engines import find_script_engines
from enginewright_trtllm.gpus import find_gpu
from enginewright_trtllm.target import TrtllmTarget, Variant

from enginewright.cache import Cache, Entry, Made
from enginewright.hashing import subfolder, tree_digest
from enginewright.steps import Advance, Inputs, Step
from enginewright.trtllm_steps import compile_request, compile_stage, compile_step

__all__ = ["engine_steps"]


def engine_steps(
    target: TrtllmTarget,
    checkpoint: Entry,
    builder: EngineMaker | None,
    *,
    script_folder: Path,
    cache: Cache,
    warn: Callable[[str], None],
) -> dict[str, Step] | None:
    """The compile step of each variant, by its name; None if one of them cannot be had here.

    builder: what builds engines on this machine. script_folder: where the build script was perhaps run.
    Raises UsageError for engines there that are of another TensorRT-LLM or GPU.
    """
    by_script = find_script_engines(script_folder, checkpoint.folder, target, warn)
    steps: dict[str, Step] = {}
    for variant in target.variants:
        digest = tree_digest(subfolder(checkpoint.files, variant.name))
        maker: EngineMaker | None = by_script.get(variant.name, builder)
        step = (
            _cached_step(target, variant, digest, cache)
            if maker is None
            else compile_step(target, variant, digest, maker, cache.root / "logs")
        )
        if step is None:
            return None
        steps[variant.name] = step
    return steps


def _cached_step(target: TrtllmTarget, variant: Variant, checkpoint: str, cache: Cache) -> Step | None:
    """An engine of these rank files, flags and cards that was built on some other machine."""
    card = {"sm": find_gpu(target.gpu).sm, "name": "", "memory_mib": 0}
    alike = compile_request(target, variant, checkpoint, BuildEnvironment(target.tensorrt_llm, None, (card,)))

    def lost(folders: Inputs, out: Path, advance: Advance) -> Made:
        raise StageFailed(
            f"{compile_stage(variant)}: the cached engine is damaged, and nothing here builds another",
            code="engine-lost",
            hint=f"build it again where a {target.gpu} is",
        )

    for request in cache.requests(compile_stage(variant)):
        same = (request.inputs, request.parameters) == (alike.inputs, alike.parameters)
        if same and request.versions.get("tensorrt_llm") == target.tensorrt_llm:
            return Step(request, lost)
    return None
