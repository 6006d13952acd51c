"""`enginewright plan RECIPE`: what a build would cost, and whether it fits."""

from __future__ import annotations

from pathlib import Path

from enginewright.commands import options
from enginewright.commands.recipe_flags import RecipeFlags, takes_recipe_flags
from enginewright.handoff import Handoff, read_handoff
from enginewright.progress import Reporter
from enginewright.recipe import Recipe
from enginewright.trtllm_recipe import TrtllmRecipe

__all__ = ["plan", "show_plan", "show_trtllm_plan"]


@takes_recipe_flags
def plan(
    recipe: options.RecipeArgument,
    output: options.Output = None,
    json_lines: options.JsonOption = False,
    memory_bandwidth: options.BandwidthOption = None,
    *,
    flags: RecipeFlags,
) -> None:
    """Price a build without building: memory, disk and time of each stage, tokens that fit, the speed limit.

    Exit code 3 if it does not fit, with the nearest change that does.

    \b
    Examples:
        enginewright plan smollm2-135m-int4-awq
        enginewright plan Qwen/QwQ-32B --qformat fp8 --json
        enginewright plan Qwen/QwQ-32B --gpu H100-80 --tp-size 2
    """
    read_bandwidth = options.bandwidth(memory_bandwidth)
    with options.reporting(json_lines) as reporter:
        loaded = flags.load(recipe)
        if isinstance(loaded, TrtllmRecipe):
            show_trtllm_plan(loaded, reporter, read_handoff(Path(recipe)))
        else:
            show_plan(loaded, output, reporter, read_bandwidth)


def show_plan(recipe: Recipe, output: Path | None, reporter: Reporter, read_bandwidth: float | None) -> None:
    """Print the plan of `recipe`. Raises DoesNotFit after that."""
    from enginewright.pipeline import plan_build
    from enginewright.plan import require_fit
    from enginewright.plan_text import plan_text

    made = plan_build(recipe, output or options.default_output(recipe), read_bandwidth=read_bandwidth)
    reporter.result(plan_text(made), {"plan": made.as_json()})
    require_fit(made)


def show_trtllm_plan(recipe: TrtllmRecipe, reporter: Reporter, handoff: Handoff | None) -> None:
    """Print the plan of `recipe` with all findings. Raises DoesNotFit or RecipeError after that."""
    from enginewright.cache import default_cache_folder
    from enginewright.machine import available_memory, free_disk
    from enginewright.trtllm_pipeline import plan_trtllm
    from enginewright.trtllm_plan import Here, require_sound
    from enginewright.trtllm_plan_text import trtllm_plan_text

    made = plan_trtllm(recipe, handoff=handoff)
    here = Here(available_memory(), free_disk(default_cache_folder()))
    reporter.result(trtllm_plan_text(made, here=here), {"plan": made.as_json()})
    require_sound(made)
