"""Compares an engine's record with the machine that is to serve it, before Triton starts.

An engine is bound to the TensorRT-LLM and TensorRT that built it and to the GPU's architecture; Triton says
so only after minutes of loading, as "Version tag does not match" or "expecting compute 9.0 got compute 8.9".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from enginewright_trtllm.finding import Finding, error, warning
from enginewright_trtllm.versions import CONTAINERS, container_image

__all__ = ["NVIDIA_SMI", "check_environment", "parse_nvidia_smi"]

NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,compute_cap",
    "--format=csv,noheader,nounits",
)


def parse_nvidia_smi(output: str) -> list[dict[str, Any]]:
    """The `gpus` of an environment from the output of `NVIDIA_SMI`: name, memory_mib, sm."""
    gpus = []
    for line in output.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[1].isdigit():
            major, _, minor = parts[2].partition(".")
            gpus.append(
                {"name": parts[0], "memory_mib": int(parts[1]), "sm": int(major) * 10 + int(minor or 0)}
            )
    return gpus


def check_environment(engine: Mapping[str, Any], environment: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Findings, empty when the engine loads there as far as can be said.

    engine: the manifest's record of it: tensorrt_llm, tensorrt, sm, world_size, gpu_memory_mib. environment:
    tensorrt_llm, tensorrt, gpus ([{name, memory_mib, sm}]). What either does not say is not compared.
    """
    return (
        *_versions(engine, environment),
        *_gpus(engine, environment.get("gpus")),
    )


def _versions(engine: Mapping[str, Any], environment: Mapping[str, Any]) -> Iterator[Finding]:
    for key, name in (("tensorrt_llm", "TensorRT-LLM"), ("tensorrt", "TensorRT")):
        built, here = engine.get(key), environment.get(key)
        if built and here and built != here:
            yield error(
                f"environment-{key.replace('_', '-')}",
                "load",
                f"the engine was built with {name} {built}, here is {here}",
                "an engine loads only in the version that built it",
                f"Serve it in {_container_of(engine)}, or build it again here.",
            )


def _gpus(engine: Mapping[str, Any], gpus: Sequence[Mapping[str, Any]] | None) -> Iterator[Finding]:
    if gpus is None:
        return
    needed = engine.get("world_size") or 1
    if len(gpus) < needed:
        yield error(
            "environment-gpus",
            "load",
            f"{len(gpus)} GPUs are visible, the engine has {needed} ranks",
            "each rank needs a GPU of its own; the world size must be tp x pp",
            "Make more GPUs visible, or build for fewer ranks.",
        )
    sm = engine.get("sm")
    for index, gpu in enumerate(gpus[:needed]):
        if sm and gpu["sm"] != sm:
            yield error(
                "environment-sm",
                "load",
                f"GPU {index} ({gpu['name']}) has SM {gpu['sm']}, the engine was built for SM {sm}",
                "engines hold machine code, and AWQ weights are laid out for one architecture",
                "Build the engine on this GPU: trtllm-build with the same checkpoint, which is portable.",
            )
        elif engine.get("gpu_memory_mib") and gpu["memory_mib"] < engine["gpu_memory_mib"]:
            yield warning(
                "environment-memory",
                "load",
                f"GPU {index} ({gpu['name']}) has {gpu['memory_mib']} MiB, the plan was made for"
                f" {engine['gpu_memory_mib']}",
                "the KV cache shrinks by the difference, and the longest request may not fit",
                "Plan again for this GPU.",
            )


def _container_of(engine: Mapping[str, Any]) -> str:
    tags = [tag for tag, release in CONTAINERS.items() if release.tensorrt_llm == engine.get("tensorrt_llm")]
    return container_image(tags[-1]) if tags else "the container that built it"
