"""Does it fit the GPUs and the machine that builds."""

from __future__ import annotations

from collections.abc import Iterator

from enginewright_model import ModelSpec

from enginewright_trtllm.device_memory import device_memory
from enginewright_trtllm.finding import At, Finding, error
from enginewright_trtllm.gpus import lookup_gpu
from enginewright_trtllm.nearest_change import nearest_changes
from enginewright_trtllm.shortfalls import device_shortfalls, host_shortfalls
from enginewright_trtllm.stage_costs import stage_costs
from enginewright_trtllm.target import TrtllmTarget

__all__ = ["check_device_memory", "check_host"]

_REASONS: dict[str, tuple[At, str]] = {
    "weights": ("load", "the server runs out of device memory while it loads the engine"),
    "kv-cache": ("run", "a request of the promised length is refused or waits for ever"),
    "host-memory": ("build", "the kernel ends the builder without a message"),
    "disk": ("build", "the stage fails after hours with a partial file"),
}


def check_device_memory(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """Weights, activations and one sequence of full length of every variant."""
    if lookup_gpu(target.gpu) is None:
        return
    # Too few GPUs is a finding of its own, whatever the memory.
    missing = [
        shortfall
        for shortfall in device_shortfalls(target, device_memory(target, dims))
        if shortfall.code in _REASONS
    ]
    if not missing:
        return
    changes = [change.description for change in nearest_changes(target, dims)[:3]]
    for shortfall in missing:
        at, reason = _REASONS[shortfall.code]
        remedy = f"What would fit: {'; or '.join(changes)}." if changes else "Use a smaller model."
        yield error(shortfall.code, at, shortfall.message, reason, remedy)


def check_host(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """Host memory and disk of every stage, where the host is known."""
    gpu = lookup_gpu(target.gpu)
    if gpu is None:
        return
    for shortfall in host_shortfalls(target, stage_costs(target, dims, gpu)):
        at, reason = _REASONS[shortfall.code]
        yield error(
            shortfall.code,
            at,
            shortfall.message,
            reason,
            "Build on a larger machine, or run the checkpoint stage here and the build script there.",
        )
