"""A GPU plan as rows of text, for a terminal or a README."""

from __future__ import annotations

from collections.abc import Iterator

from enginewright_trtllm.device_memory import VariantMemory
from enginewright_trtllm.figures import duration, gigabytes
from enginewright_trtllm.gpu_plan import GpuPlan, Limits
from enginewright_trtllm.stage_costs import StageCost

__all__ = ["plan_table"]

_CONTEXTS = (4096, 8192, 32_768, 131_072)


def plan_table(plan: GpuPlan) -> list[tuple[str, str]]:
    """(label, figures) of everything that a user decides by."""
    return list(_rows(plan))


def _rows(plan: GpuPlan) -> Iterator[tuple[str, str]]:
    target, memory = plan.target, plan.memory
    layout = f"tp {target.tp}" + (f" x pp {target.pp}" if target.pp > 1 else "")
    yield "GPUs", f"{target.gpu_count} x {memory.gpu.name}, {layout}, variants {memory.placement}"
    yield "usable", f"{gigabytes(memory.budget)} a GPU of {gigabytes(memory.gpu.memory_bytes)}"
    yield "read a decode step", gigabytes(plan.read_bytes)
    yield "KV cache", f"{plan.kv_bytes_per_token // 1024} KiB a token{', FP8' if target.fp8_kv else ''}"
    sequences = plan.sequences(_CONTEXTS)
    for item, limits in zip(memory.variants, plan.limits, strict=True):
        yield from _variant_rows(plan, item, limits, sequences[item.variant.name])
    for cost in plan.stages:
        yield _stage_row(cost)
    for shortfall in plan.shortfalls:
        yield "does not fit", shortfall.message
    for change in plan.changes:
        yield "would fit", change.description


def _variant_rows(
    plan: GpuPlan, item: VariantMemory, limits: Limits, sequences: dict[int, int]
) -> Iterator[tuple[str, str]]:
    name = item.variant.name
    yield (
        f"{name}: a GPU",
        f"weights {gigabytes(item.weights)}, activations {gigabytes(item.activations)}, KV cache"
        f" {gigabytes(max(0, item.kv_bytes))}; weights of all ranks {gigabytes(plan.weights[name])}",
    )
    more = (
        f", up to {item.upper_tokens:,} by the backend's rule" if item.upper_tokens > item.kv_tokens else ""
    )
    yield f"{name}: KV tokens", f"{item.kv_tokens:,}{more}"
    if sequences:
        listed = ", ".join(f"{count} at {context:,}" for context, count in sequences.items())
        yield f"{name}: sequences", listed
    speeds = ", ".join(f"{limit.tokens_per_second:.0f} at {limit.context:,}" for limit in limits.decode)
    yield f"{name}: decode limit, tokens/s", speeds
    half = limits.decode[1].context
    yield f"{name}: first token at best", f"{limits.first_token_seconds:.2g} s after {half:,} tokens"


def _stage_row(cost: StageCost) -> tuple[str, str]:
    name = cost.stage if cost.variant is None else f"{cost.stage} {cost.variant}"
    return (
        f"stage {name}",
        f"host {gigabytes(cost.host_bytes)}, device {gigabytes(cost.device_bytes)}, disk"
        f" {gigabytes(cost.disk_bytes)}, about {duration(cost.seconds)}",
    )
