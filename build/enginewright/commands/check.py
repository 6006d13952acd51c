"""`enginewright check RECIPE`: what a TensorRT-LLM recipe needs, and all that is known wrong with it."""

from __future__ import annotations

from enginewright.commands import options

__all__ = ["check"]


def check(
    recipe: options.RecipeArgument,
    json_lines: options.JsonOption = False,
    qformat: options.QFormat = None,
    group_size: options.GroupSize = None,
    gpu: options.GpuOption = None,
    tp_size: options.TpSize = None,
    max_seq_len: options.MaxSeqLen = None,
    max_num_tokens: options.MaxNumTokens = None,
    max_batch_size: options.MaxBatchSize = None,
    calib_size: options.CalibSize = None,
    sets: options.SetOption = None,
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

    flags = options.RecipeFlags(
        qformat=qformat,
        group_size=group_size,
        max_seq_len=max_seq_len,
        max_num_tokens=max_num_tokens,
        max_batch_size=max_batch_size,
        calib_size=calib_size,
        tp_size=tp_size,
        gpu=gpu,
        sets=sets or (),
    )
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
