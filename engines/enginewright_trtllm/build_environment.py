"""The machine that is to build engines, and whether it is the one that the recipe is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginewright_errors import UsageError

from enginewright_trtllm.gpus import find_gpu, lookup_gpu
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.versions import check_tensorrt_llm, container_image

__all__ = ["BuildEnvironment", "check_build_environment", "engine_record"]

# A card that shows less than this share of what the plan counts on is another one, or a slice of it.
_SAME_CARD = 0.95


@dataclass(frozen=True, slots=True)
class BuildEnvironment:
    """Versions, and the GPUs as `parse_nvidia_smi` gives them (name, memory_mib, sm); what is not known is
    None or empty."""

    tensorrt_llm: str
    tensorrt: str | None
    gpus: tuple[Mapping[str, Any], ...]

    @property
    def sm(self) -> int | None:
        return int(self.gpus[0]["sm"]) if self.gpus else None


def check_build_environment(target: TrtllmTarget, environment: BuildEnvironment) -> None:
    """Raise UsageError for another TensorRT-LLM than the target's, or a GPU that is not the plan's."""
    check_tensorrt_llm(environment.tensorrt_llm)
    planned = find_gpu(target.gpu)
    for index, gpu in enumerate(environment.gpus[: target.world_size]):
        if gpu["sm"] != planned.sm:
            raise _other_card(
                target, index, gpu, f"has SM {gpu['sm']}, the plan is for {planned.name} with SM {planned.sm}"
            )
        if gpu["memory_mib"] < _SAME_CARD * planned.visible_mib:
            raise _other_card(
                target,
                index,
                gpu,
                f"has {gpu['memory_mib']} MiB, the plan is for {planned.name} with {planned.visible_mib} MiB",
            )


def engine_record(target: TrtllmTarget, environment: BuildEnvironment) -> dict[str, Any]:
    """What a manifest says of an engine built there: the `engine` that `check_environment` compares."""
    memory = [int(gpu["memory_mib"]) for gpu in environment.gpus[: target.world_size]]
    return {
        "tensorrt_llm": environment.tensorrt_llm,
        "tensorrt": environment.tensorrt,
        "sm": environment.sm,
        "world_size": target.world_size,
        "gpu_memory_mib": min(memory, default=None),
    }


def _other_card(target: TrtllmTarget, index: int, gpu: Mapping[str, Any], what: str) -> UsageError:
    known = lookup_gpu(str(gpu["name"]))
    here = f"plan for what is here with --gpu {known.name}, or build" if known else "build"
    return UsageError(
        f"GPU {index} ({gpu['name']}) {what}: an engine runs only on what it was built for",
        code="build-gpu",
        hint=f"{here} on {target.gpu} in {container_image(target.container)}",
    )
