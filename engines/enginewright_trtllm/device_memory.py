"""What fits on one GPU of a target: weights, activations, and the tokens that the KV cache holds.

The promise: `fraction` of the card, less context, weights and activations, is KV cache. On one H100 it gives
QwQ-32B the tokens of the published tables. The backend itself takes the fraction of what is *free* after
loading, of the memory that the driver shows, which is more (`upper_tokens`); a plan that promised it would
leave nothing for what was not foreseen.

Two variants on the same GPUs each load their weights. There the backend's fraction would depend on which is
loaded first, so each gets its tokens by `max_tokens_in_paged_kv_cache`, in proportion to its sequence length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enginewright_model import ModelSpec

from enginewright_trtllm.activations import CONTEXT_BYTES, activation_bytes
from enginewright_trtllm.gpus import Gpu, find_gpu
from enginewright_trtllm.kv_cache import rank_kv_bytes_per_token
from enginewright_trtllm.target import TrtllmTarget, Variant
from enginewright_trtllm.weights import stage_weights

__all__ = ["DeviceMemory", "Placement", "VariantMemory", "device_memory", "placement"]

# alone: one variant. separate: each variant has GPUs of its own. shared: all are on the same GPUs.
Placement = Literal["alone", "separate", "shared"]


@dataclass(frozen=True, slots=True)
class VariantMemory:
    """One variant on its fullest rank; bytes are per GPU, tokens those of the whole engine.

    kv_bytes is negative when weights and activations alone are too much.
    """

    variant: Variant
    weights: int
    activations: int
    kv_bytes: int
    kv_tokens: int
    upper_tokens: int
    max_batch_size: int
    tokens_per_block: int

    def sequences(self, context: int) -> int:
        """Sequences of so many tokens, prompt and answer, that run at once."""
        block = self.tokens_per_block
        return min(self.max_batch_size, self.kv_tokens // (-(-context // block) * block))


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """budget: bytes of one GPU that the server may use, all told."""

    gpu: Gpu
    placement: Placement
    budget: int
    variants: tuple[VariantMemory, ...]


def placement(target: TrtllmTarget) -> Placement:
    """How a target's variants are laid on its GPUs."""
    count = len(target.variants)
    if count == 1:
        return "alone"
    return "separate" if target.gpu_count >= count * target.world_size else "shared"


def device_memory(target: TrtllmTarget, dims: ModelSpec) -> DeviceMemory:
    """Raises RecipeError for a GPU that is not in the table."""
    gpu = find_gpu(target.gpu)
    placed = placement(target)
    groups = [target.variants] if placed == "shared" else [(variant,) for variant in target.variants]
    processes = len(target.variants) if placed == "shared" else 1
    usable = gpu.memory_bytes - processes * CONTEXT_BYTES
    budget = int(target.kv_cache_free_gpu_mem_fraction * usable)
    variants = [
        memory for group in groups for memory in _on_one_gpu(target, dims, group, budget, gpu.visible_bytes)
    ]
    return DeviceMemory(gpu, placed, budget, tuple(variants))


def _on_one_gpu(
    target: TrtllmTarget, dims: ModelSpec, group: tuple[Variant, ...], budget: int, visible: int
) -> list[VariantMemory]:
    activations = activation_bytes(dims, target)
    weights = {variant.name: max(stage_weights(dims, target, variant)) for variant in group}
    taken = sum(weights.values()) + activations * len(group)
    positions = sum(variant.max_seq_len for variant in group)
    per_token = rank_kv_bytes_per_token(dims, target)
    memories = []
    for variant in group:
        kv_bytes = (budget - taken) * variant.max_seq_len // positions
        tokens = _whole_blocks(kv_bytes, per_token, target)
        upper = tokens
        if len(group) == 1:
            free = visible - CONTEXT_BYTES - taken
            upper = _whole_blocks(int(target.kv_cache_free_gpu_mem_fraction * free), per_token, target)
        memories.append(
            VariantMemory(
                variant,
                weights[variant.name],
                activations,
                kv_bytes,
                tokens,
                upper,
                target.max_batch_size,
                target.tokens_per_block,
            )
        )
    return memories


def _whole_blocks(kv_bytes: int, per_token: int, target: TrtllmTarget) -> int:
    block = target.tokens_per_block
    return max(0, kv_bytes) // (per_token * block) * block
