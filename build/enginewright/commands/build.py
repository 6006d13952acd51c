"""`enginewright build RECIPE`, and `build-engine RECIPE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from enginewright.commands import options
from enginewright.commands.plan import show_plan
from enginewright.interrupt import interruptible
from enginewright.progress import Reporter
from enginewright.recipe import Recipe
from enginewright.temporary import remove_temporary_folders

__all__ = ["build", "run_build"]


def build(
    recipe: options.RecipeArgument,
    output: options.Output = None,
    plan: Annotated[bool, typer.Option("--plan", help="Stop after the plan.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build even if the plan does not fit.")] = False,
    json_lines: options.JsonOption = False,
    memory_bandwidth: options.BandwidthOption = None,
    qformat: options.QFormat = None,
    group_size: options.GroupSize = None,
    max_seq_len: options.MaxSeqLen = None,
    max_num_tokens: options.MaxNumTokens = None,
    max_batch_size: options.MaxBatchSize = None,
    calib_size: options.CalibSize = None,
    revision: options.Revision = None,
    tp_size: options.TpSize = None,
    sets: options.SetOption = None,
) -> None:
    """Build a verified Triton model repository from a recipe or a checkpoint.

    Stages: plan, quantize, compile, verify, package. What the cache holds is verified and reused: a build
    that was interrupted goes on where it was, and a second one takes seconds.

    \b
    Examples:
        build-engine smollm2-135m-int4-awq                  a bundled recipe, into ./models
        build-engine ./Qwen2.5-0.5B --qformat fp8 -o out    a checkpoint folder
        build-engine Qwen/QwQ-32B --plan                    what would it take?
        build-engine recipe.yaml --set engine.threads=4     any field can be overridden
    """
    flags = options.RecipeFlags(
        qformat=qformat,
        group_size=group_size,
        max_seq_len=max_seq_len,
        max_num_tokens=max_num_tokens,
        max_batch_size=max_batch_size,
        calib_size=calib_size,
        revision=revision,
        tp_size=tp_size,
        sets=sets or (),
    )
    read_bandwidth = options.bandwidth(memory_bandwidth)
    with options.reporting(json_lines) as reporter:
        loaded = flags.load(recipe)
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
    state = "built" if result.changed else "unchanged"
    reporter.result(
        f"{state}: {result.output} (manifest {result.manifest_sha256[:16]})",
        {
            "ok": True,
            "output": str(result.output),
            "manifest_sha256": result.manifest_sha256,
            "changed": result.changed,
            "reused": result.reused,
            "report": result.report,
        },
    )
    return result.output
