"""Compares an engine's record with the machine that is to serve it, before Triton starts.

An engine is bound to the TensorRT-LLM and TensorRT that built it and to the GPU's architecture; Triton says
so only after minutes of loading, as "Version tag does not match" or "expecting compute 9.0 got compute 8.9".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from enginewright_trtllm.finding import Finding, error, warning
from enginewright_trtllm.versions import CONTAINERS, container_image

__all__ = ["check_environment"]

# By CUDA's major version, from NVIDIA's compatibility guide. Older drivers need the compatibility libraries
# that NVIDIA's images bring, which work on data centre cards only.
_MIN_DRIVER = {"12": 525, "13": 580}
# What drivers and ECC keep of the same card differs by less; other cards differ by more.
_SAME_CARD = 0.98


def check_environment(engine: Mapping[str, Any], environment: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Findings, empty when the engine loads there as far as can be said.

    engine: the manifest's record of it: tensorrt_llm, tensorrt, sm, world_size, gpu_memory_mib. environment:
    tensorrt_llm, tensorrt, cuda, gpus ([{name, memory_mib, sm, driver}]). What either does not say is not
    compared.
    """
    gpus = environment.get("gpus")
    return (
        *_versions(engine, environment),
        *_gpus(engine, gpus),
        *_driver(gpus, environment.get("cuda")),
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
            f"{len(gpus)} GPUs are visible, {needed} are needed",
            "each rank of an engine needs a GPU of its own: tp x pp for each variant",
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
        elif gpu["memory_mib"] < _SAME_CARD * (engine.get("gpu_memory_mib") or 0):
            yield error(
                "environment-memory",
                "load",
                f"GPU {index} ({gpu['name']}) has {gpu['memory_mib']} MiB, the plan was made for"
                f" {engine['gpu_memory_mib']}",
                "the KV cache shrinks by the difference, and the longest request may not fit",
                "Plan again for this GPU: enginewright check RECIPE --set trtllm.gpu=...",
            )


def _driver(gpus: Sequence[Mapping[str, Any]] | None, cuda: str | None) -> Iterator[Finding]:
    needed = _MIN_DRIVER.get((cuda or "").partition(".")[0])
    driver = str((gpus or [{}])[0].get("driver") or "")
    if not needed or not driver.partition(".")[0].isdigit() or int(driver.partition(".")[0]) >= needed:
        return
    consumer = "GeForce" in str((gpus or [{}])[0]["name"])
    say = error if consumer else warning
    yield say(
        "environment-driver",
        "load",
        f"the NVIDIA driver is {driver}, CUDA {cuda} needs {needed} or later",
        "this card has no compatibility libraries for an older one"
        if consumer
        else "it depends on the image's compatibility libraries, which know some older drivers only",
        f"Install driver {needed} or later.",
    )


def _container_of(engine: Mapping[str, Any]) -> str:
    tags = [tag for tag, release in CONTAINERS.items() if release.tensorrt_llm == engine.get("tensorrt_llm")]
    return container_image(tags[-1]) if tags else "the container that built it"
