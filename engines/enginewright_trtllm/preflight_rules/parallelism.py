"""Does the model divide over the ranks, and are there GPUs for them."""

from __future__ import annotations

from collections.abc import Iterator

from enginewright_errors import RecipeError
from enginewright_model import ModelSpec

from enginewright_trtllm.finding import Finding, error, warning
from enginewright_trtllm.parallel import Parallel, check_parallel
from enginewright_trtllm.quantization import quantization_of
from enginewright_trtllm.target import TrtllmTarget

__all__ = ["check_gpu_count", "check_nodes", "check_split"]

_SPLIT_REASONS = {
    "tp-does-not-divide": "heads, KV heads, the MLP and, for AWQ, groups of at least 64 must be whole on each"
    " rank; upstream asserts it, or pads AWQ linears and then refuses their shape",
    "pp-does-not-divide": "releases differ in which stage gets the extra layer, so rank files and engine"
    " would disagree",
}


def check_split(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """tp and pp divide heads, KV heads, MLP, AWQ groups and layers."""
    quantization = quantization_of(target.format, fp8_kv=target.fp8_kv, group_size=target.group_size)
    try:
        check_parallel(dims, quantization, Parallel(target.tp, target.pp))
    except RecipeError as refusal:
        yield error(
            refusal.code, "build", refusal.message, _SPLIT_REASONS.get(refusal.code, ""), refusal.hint
        )


def check_gpu_count(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """One GPU a rank, none idle."""
    del dims
    needed = target.world_size
    if target.gpu_count < needed:
        yield error(
            "world-size-gpus",
            "load",
            f"gpu_count = {target.gpu_count} for tp {target.tp} x pp {target.pp}",
            f"leader mode starts {needed} MPI ranks with a GPU each, the world size must be tp x pp",
            f"Give {needed} GPUs, or lower tp or pp.",
        )
    elif target.gpu_count > needed * len(target.variants):
        yield warning(
            "gpus-idle",
            "run",
            f"gpu_count = {target.gpu_count}, {needed * len(target.variants)} are used",
            "an engine runs on tp x pp GPUs, whatever else is in the machine",
            "Raise tp, or start a second replica on the other GPUs.",
        )


def check_nodes(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """Several nodes: the same GPUs in each, tensor parallelism inside, one variant."""
    del dims
    if target.nodes == 1:
        return
    if target.gpu_count % target.nodes or target.tp > target.gpus_per_node:
        yield error(
            "nodes-tp",
            "run",
            f"nodes = {target.nodes} for {target.gpu_count} GPUs and tp {target.tp}",
            "tensor parallelism across nodes runs at the network's speed in every layer",
            "Use the same number of GPUs in each node, tp within a node, and put the rest into pp.",
        )
    if len(target.variants) > 1:
        yield error(
            "nodes-variants",
            "load",
            f"nodes = {target.nodes} with {len(target.variants)} variants",
            "several models need orchestrator mode, which spawns its workers on one node only",
            "Deploy each variant by itself.",
        )
