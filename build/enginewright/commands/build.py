"""`enginewright build RECIPE`, and `build-engine RECIPE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from enginewright_errors import UsageError

from enginewright.commands import options
from enginewright.commands.plan import show_plan, show_trtllm_plan
from enginewright.commands.recipe_flags import RecipeFlags, takes_recipe_flags
from enginewright.handoff import Handoff, read_handoff
from enginewright.interrupt import interruptible
from enginewright.progress import Reporter
from enginewright.recipe import Recipe
from enginewright.temporary import remove_temporary_folders
from enginewright.trtllm_recipe import TrtllmRecipe

if TYPE_CHECKING:
    from enginewright.build_run import BuildResult

__all__ = ["build", "run_build"]


@takes_recipe_flags
def build(
    recipe: options.RecipeArgument,
    output: options.Output = None,
    plan: Annotated[bool, typer.Option("--plan", help="Stop after the plan.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build even if the plan does not fit.")] = False,
    json_lines: options.JsonOption = False,
    memory_bandwidth: options.BandwidthOption = None,
    container: Annotated[
        bool,
        typer.Option("--container", help="TensorRT-LLM: run trtllm-build by docker."),
    ] = False,
    *,
    flags: RecipeFlags,
) -> None:
    """Build a verified Triton model repository from a recipe or a checkpoint.

    Stages: plan, quantize, compile, verify, package; for TensorRT-LLM plan, quantize, checkpoint, verify,
    compile, package. What the cache holds is verified and reused: a build that was interrupted goes on where
    it was, and a second one takes seconds.

    TensorRT-LLM engines are built by the trtllm-build on PATH, or in NVIDIA's container. Where there is
    neither, the build ends after the checkpoints with a folder that is taken to the GPU and given to this
    command again.

    \b
    Examples:
        build-engine smollm2-135m-int4-awq                  a bundled recipe, into ./models
        build-engine ./Qwen2.5-0.5B --qformat fp8 -o out    a checkpoint folder
        build-engine Qwen/QwQ-32B --plan                    what would it take?
        build-engine recipe.yaml --set engine.threads=4     any field can be overridden
        build-engine qwq-32b-fp8-h100 --container           TensorRT-LLM, on a machine with the GPU
        build-engine ./qwq-32b-fp8-h100 --container         goes on with checkpoints from elsewhere
    """
    read_bandwidth = options.bandwidth(memory_bandwidth)
    with options.reporting(json_lines) as reporter:
        loaded = flags.load(recipe)
        handoff = read_handoff(Path(recipe))
        if isinstance(loaded, TrtllmRecipe):
            if plan:
                show_trtllm_plan(loaded, reporter, handoff)
            else:
                _run_trtllm(loaded, output, reporter, container=container, force=force, handoff=handoff)
            return
        if container:
            raise UsageError(
                "--container: an ONNX engine is compiled here, without docker",
                code="container",
                hint="leave it out, or build for GPUs: a recipe with target: trtllm",
            )
        if plan:
            show_plan(loaded, output, reporter, read_bandwidth)
        else:
            run_build(loaded, output, reporter, read_bandwidth=read_bandwidth, force=force)


def run_build(
    recipe: Recipe,
    output: Path | None,
    reporter: Reporter,
    *,
    read_bandwidth: float | None = None,
    force: bool = False,
) -> Path:
    """Build `recipe` and say where the repository is; the folder is returned."""
    from enginewright.repair import build_within_gate

    with interruptible(remove_temporary_folders):
        result = build_within_gate(
            recipe,
            output or options.default_output(recipe),
            reporter=reporter,
            read_bandwidth=read_bandwidth,
            force=force,
        )
    _show(result, reporter)
    return result.output


def _run_trtllm(
    recipe: TrtllmRecipe,
    output: Path | None,
    reporter: Reporter,
    *,
    container: bool,
    force: bool,
    handoff: Handoff | None,
) -> None:
    from enginewright.trtllm_pipeline import build_trtllm

    with interruptible(remove_temporary_folders):
        result = build_trtllm(
            recipe,
            output or options.default_output(recipe),
            reporter=reporter,
            container=container,
            force=force,
            handoff=handoff,
        )
    _show(result, reporter)


def _show(result: BuildResult, reporter: Reporter) -> None:
    state = "built" if result.changed else "unchanged"
    text = f"{state}: {result.output} (manifest {result.manifest_sha256[:16]})"
    reporter.result(
        f"{text}\n{result.next_steps}" if result.next_steps else text,
        {
            "ok": True,
            "output": str(result.output),
            "manifest_sha256": result.manifest_sha256,
            "changed": result.changed,
            "reused": result.reused,
            "next_steps": result.next_steps.splitlines(),
            "report": result.report,
        },
    )
