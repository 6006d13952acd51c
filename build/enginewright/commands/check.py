"""`enginewright check RECIPE`: what a TensorRT-LLM recipe needs, and all that is known wrong with it."""

from __future__ import annotations

from enginewright.commands import options
from enginewright.commands.recipe_flags import RecipeFlags, takes_recipe_flags

__all__ = ["check"]


@takes_recipe_flags
def check(
    recipe: options.RecipeArgument,
    json_lines: options.JsonOption = False,
    *,
    flags: RecipeFlags,
) -> None:
    """Check and price a TensorRT-LLM recipe without a GPU: memory, KV tokens, speed limits, traps, flags.

    Exit code 2 when it would fail, 3 when it does not fit, with the nearest changes that do.

    \b
    Examples:
        enginewright check qwq-32b-fp8-h100
        enginewright check qwq-32b-fp8-h100 --gpu L40S-48
        enginewright check ./Qwen2.5-7B-Instruct --gpu RTX4090-24 --qformat int4_awq
    """
    from enginewright.trtllm_pipeline import plan_trtllm
    from enginewright.trtllm_plan import require_sound
    from enginewright.trtllm_plan_text import flag_rows, trtllm_plan_text

    with options.reporting(json_lines) as reporter:
        loaded = flags.load_trtllm(recipe)
        plan = plan_trtllm(loaded)
        figures = plan.as_json()
        result = {
            "ok": figures["ok"],
            "plan": figures["rows"],
            "findings": figures["findings"],
            "trtllm_build": [
                {"flag": flag, "value": value, "why": why} for flag, value, why in flag_rows(plan)
            ],
        }
        reporter.say(trtllm_plan_text(plan, flags=True), **result)
        require_sound(plan)
        reporter.result(f"{loaded.name}: no errors", result)
