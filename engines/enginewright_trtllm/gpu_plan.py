"""Prices a target before any weight is touched: memory, tokens, sequences, stages, limits of speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginewright_errors import DoesNotFit
from enginewright_model import ModelSpec

from enginewright_trtllm.device_memory import DeviceMemory, device_memory
from enginewright_trtllm.kv_cache import kv_bytes_per_token
from enginewright_trtllm.nearest_change import Change, nearest_changes
from enginewright_trtllm.shortfalls import Shortfall, device_shortfalls, host_shortfalls
from enginewright_trtllm.speed_limits import DecodeLimit, decode_limit, prefill_seconds
from enginewright_trtllm.stage_costs import StageCost, stage_costs
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.weights import decode_read_bytes, engine_bytes

__all__ = ["GpuPlan", "Limits", "plan_gpus", "require_fit"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the hardware allows a variant at best, at an empty, a half and a full context.

    first_token_seconds: of a prompt of half the context.
    """

    variant: str
    decode: tuple[DecodeLimit, ...]
    first_token_seconds: float


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """weights: bytes of each variant over all ranks. read_bytes: weights that a decode step reads."""

    target: TrtllmTarget
    memory: DeviceMemory
    weights: dict[str, int]
    read_bytes: int
    kv_bytes_per_token: int
    stages: tuple[StageCost, ...]
    limits: tuple[Limits, ...]
    shortfalls: tuple[Shortfall, ...]
    changes: tuple[Change, ...]

    @property
    def fits(self) -> bool:
        return not self.shortfalls

    def sequences(self, contexts: Sequence[int]) -> dict[str, dict[int, int]]:
        """Concurrent sequences by variant and context, for the contexts that a variant allows."""
        return {
            item.variant.name: {
                context: item.sequences(context)
                for context in contexts
                if context <= item.variant.max_seq_len
            }
            for item in self.memory.variants
        }


def plan_gpus(target: TrtllmTarget, dims: ModelSpec) -> GpuPlan:
    """Raises RecipeError for a GPU that is not in the table; a plan that does not fit is a plan too."""
    memory = device_memory(target, dims)
    stages = stage_costs(target, dims, memory.gpu)
    missing = device_shortfalls(target, memory)
    return GpuPlan(
        target=target,
        memory=memory,
        weights={variant.name: engine_bytes(dims, target, variant) for variant in target.variants},
        read_bytes=decode_read_bytes(dims, target),
        kv_bytes_per_token=kv_bytes_per_token(dims, fp8=target.fp8_kv),
        stages=stages,
        limits=tuple(
            _limits(target, dims, memory, variant.name, variant.max_seq_len) for variant in target.variants
        ),
        shortfalls=(*missing, *host_shortfalls(target, stages)),
        changes=nearest_changes(target, dims) if missing else (),
    )


def require_fit(plan: GpuPlan) -> None:
    """Raise DoesNotFit with what is missing and the nearest changes, when the plan does not fit."""
    if plan.fits:
        return
    hints = [change.description for change in plan.changes[:3]] or ["another machine"]
    raise DoesNotFit(
        "; ".join(shortfall.message for shortfall in plan.shortfalls),
        code=plan.shortfalls[0].code,
        hint=f"What would fit: {'; or '.join(hints)}.",
    )


def _limits(target: TrtllmTarget, dims: ModelSpec, memory: DeviceMemory, name: str, length: int) -> Limits:
    contexts = (0, length // 2, length)
    return Limits(
        name,
        tuple(decode_limit(target, dims, memory.gpu, context=context) for context in contexts),
        prefill_seconds(target, dims, memory.gpu, prompt=max(1, length // 2)),
    )
