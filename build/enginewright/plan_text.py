"""A plan for people: sizes, limits, a line a stage, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator

from enginewright.plan import Plan
from enginewright.units import format_bytes, format_seconds

__all__ = ["plan_text"]


def plan_text(plan: Plan) -> str:
    """Some fifteen lines of at most 100 characters."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    sizes, machine, quantization = plan.sizes, plan.room.machine, plan.recipe.quantization
    form: str = quantization.format
    if form == "int4_awq":
        form += f", groups of {quantization.group_size}"
    millions = sizes.parameters / 1e6
    yield f"plan for {plan.recipe.name}: {plan.spec.architecture}, {millions:,.1f} M parameters, {form}"
    weights, step = format_bytes(sizes.weight_bytes), format_bytes(sizes.step_bytes)
    yield f"  weights    {weights}, of which {step} are read to decode a token"
    token, all_tokens = format_bytes(sizes.kv_bytes_per_token), format_bytes(sizes.kv_bytes)
    yield f"  KV cache   {all_tokens}: {sizes.sequences} x {sizes.slot_tokens} tokens of {token}"
    bandwidth = machine.read_bandwidth / 1e9
    empty, full = _rate(plan.decode_limit), _rate(plan.decode_limit_full)
    yield f"  limit      one stream decodes {empty} tokens/s, {full} at full context"
    yield f"             (memory is read at {bandwidth:.1f} GB/s)"
    memory, disk = format_bytes(machine.memory_available), format_bytes(plan.room.cache_disk)
    yield f"  machine    {machine.cores} cores, {memory} of memory and {disk} of disk free"
    yield f"  {'stage':<10} {'memory':>9} {'disk':>9} {'time':>10}"
    for stage in plan.stages:
        time = "" if stage.seconds is None else f"~{format_seconds(stage.seconds)}"
        disk = format_bytes(stage.disk_bytes) if stage.disk_bytes else "-"
        yield f"  {stage.name:<10} {format_bytes(stage.host_bytes):>9} {disk:>9} {time:>10}".rstrip()
    for shortage in plan.shortages:
        yield f"  does not fit: {shortage}"
    if plan.change:
        yield f"  the nearest change that fits: {plan.change}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
