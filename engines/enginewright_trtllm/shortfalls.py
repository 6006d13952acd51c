"""What of a target does not fit its GPUs or the machine that builds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from enginewright_model import ModelSpec

from enginewright_trtllm.device_memory import DeviceMemory, device_memory
from enginewright_trtllm.figures import gigabytes
from enginewright_trtllm.stage_costs import StageCost, stage_costs
from enginewright_trtllm.target import TrtllmTarget

__all__ = ["Shortfall", "device_shortfalls", "host_shortfalls", "shortfalls"]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """message gives what is needed and what there is."""

    code: str
    message: str


def shortfalls(target: TrtllmTarget, dims: ModelSpec) -> tuple[Shortfall, ...]:
    """All shortfalls, device first. Raises RecipeError for an unknown GPU."""
    memory = device_memory(target, dims)
    costs = stage_costs(target, dims, memory.gpu)
    return (*device_shortfalls(target, memory), *host_shortfalls(target, costs))


def device_shortfalls(target: TrtllmTarget, memory: DeviceMemory) -> tuple[Shortfall, ...]:
    """Too few GPUs, weights that do not fit, a KV cache that does not hold one sequence of full length."""
    return tuple(_device(target, memory))


def host_shortfalls(target: TrtllmTarget, costs: tuple[StageCost, ...]) -> tuple[Shortfall, ...]:
    """Stages that need more host memory or disk than `target.host` says there is."""
    return tuple(_host(target, costs))


def _device(target: TrtllmTarget, memory: DeviceMemory) -> Iterator[Shortfall]:
    if target.gpu_count < target.world_size:
        yield Shortfall("world-size-gpus", f"{target.world_size} ranks on {target.gpu_count} GPUs")
    taken = sum(item.weights + item.activations for item in memory.variants)
    if memory.placement == "shared" and memory.variants[0].kv_bytes <= 0:
        yield Shortfall(
            "weights",
            f"the weights and activations of {len(memory.variants)} variants need {gigabytes(taken)} a GPU,"
            f" {gigabytes(memory.budget)} of {memory.gpu.name} are usable",
        )
        return
    for item in memory.variants:
        name = item.variant.name
        if item.kv_bytes <= 0:
            yield Shortfall(
                "weights",
                f"{name}: weights {gigabytes(item.weights)} and activations {gigabytes(item.activations)} a"
                f" GPU, {gigabytes(memory.budget)} of {memory.gpu.name} are usable",
            )
        elif item.kv_tokens < item.variant.max_seq_len:
            yield Shortfall(
                "kv-cache",
                f"{name}: the KV cache holds {item.kv_tokens:,} tokens, one sequence of"
                f" {item.variant.max_seq_len:,} was promised",
            )


def _host(target: TrtllmTarget, costs: tuple[StageCost, ...]) -> Iterator[Shortfall]:
    ram, disk = target.host.ram_bytes, target.host.disk_bytes
    for cost in costs:
        if ram is not None and cost.host_bytes > ram:
            yield Shortfall(
                "host-memory",
                f"{cost.stage} needs {gigabytes(cost.host_bytes)} of host memory, {gigabytes(ram)} are there",
            )
    total = sum(cost.disk_bytes for cost in costs)
    if disk is not None and total > disk:
        yield Shortfall("disk", f"the stages write {gigabytes(total)}, {gigabytes(disk)} are free")
