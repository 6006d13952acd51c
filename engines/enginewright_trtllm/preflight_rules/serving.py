"""Are the limits of the engine and of Triton consistent, and is the machine the right one."""

from __future__ import annotations

from collections.abc import Iterator

from enginewright_model import ModelSpec

from enginewright_trtllm.finding import Finding, error, warning
from enginewright_trtllm.gpus import known_gpus, lookup_gpu
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.versions import (
    PINNED_CONTAINER,
    container_image,
    reason_to_refuse,
    release_of_container,
)

__all__ = ["check_batch", "check_gpu_name", "check_kv_fraction", "check_queue", "check_release"]


def check_gpu_name(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """Nothing can be planned for a GPU of unknown memory."""
    del dims
    if lookup_gpu(target.gpu) is None:
        yield error(
            "gpu-unknown",
            "build",
            f"gpu {target.gpu!r} is not in the table",
            "its memory, rates and architecture are not known, so nothing can be checked or planned",
            known_gpus(target.gpu),
        )


def check_release(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """The pinned TensorRT-LLM, in a container that holds it."""
    del dims
    reason = reason_to_refuse(target.tensorrt_llm)
    if reason is not None:
        yield error(
            "trtllm-version",
            "build",
            f"TensorRT-LLM {target.tensorrt_llm}",
            reason,
            f"Build and serve in {container_image()}.",
        )
    release = release_of_container(target.container)
    if release is None or release.tensorrt_llm != target.tensorrt_llm:
        holds = "is not known" if release is None else f"holds TensorRT-LLM {release.tensorrt_llm}"
        yield error(
            "container",
            "load",
            f"container {target.container} {holds}, the target wants {target.tensorrt_llm}",
            "an engine loads only in the TensorRT-LLM and TensorRT that built it",
            f"Use container {PINNED_CONTAINER}.",
        )


def check_batch(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """A decode step has a token of each running sequence."""
    del dims
    if target.max_num_tokens < target.max_batch_size:
        yield error(
            "batch-tokens",
            "run",
            f"max_num_tokens {target.max_num_tokens} below max_batch_size {target.max_batch_size}",
            "a step holds max_num_tokens tokens, one of each running sequence, so the batch never fills",
            f"Raise max_num_tokens to {max(1024, target.max_batch_size)} or more.",
        )


def check_queue(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """Requests wait in a bounded queue."""
    del dims
    if target.max_queue_size < 1:
        yield warning(
            "queue-unbounded",
            "run",
            f"max_queue_size = {target.max_queue_size}",
            "Triton takes it for no limit: under overload every request waits until its client gives up",
            f"Set it to a few times max_batch_size, e.g. {8 * target.max_batch_size}.",
        )


def check_kv_fraction(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """Something must stay free beside the KV cache."""
    del dims
    if target.kv_cache_free_gpu_mem_fraction > 0.95:
        yield warning(
            "kv-fraction",
            "run",
            f"kv_cache_free_gpu_mem_fraction = {target.kv_cache_free_gpu_mem_fraction:g}",
            "inputs, outputs and NCCL still allocate after the cache took its share; then a request fails",
            "Use at most 0.95, and that only when nothing else runs on the GPU.",
        )
