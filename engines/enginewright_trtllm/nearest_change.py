"""Changes of a target after which it fits its GPUs, the nearest first.

A change is near when it takes little from the user: first what only costs speed, then a somewhat shorter
context, then precision, then more hardware. Every change that is listed was planned again and fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from enginewright_model import ModelSpec

from enginewright_trtllm.device_memory import device_memory
from enginewright_trtllm.gpus import GPUS, find_gpu
from enginewright_trtllm.parallel import allowed_tp
from enginewright_trtllm.preflight_rules.quantization import format_runs_on
from enginewright_trtllm.quantization import quantization_of
from enginewright_trtllm.shortfalls import device_shortfalls
from enginewright_trtllm.target import Format, TrtllmTarget, Variant

__all__ = ["Change", "nearest_changes"]

_SMALLER: dict[Format, tuple[Format, ...]] = {
    "bf16": ("fp8", "int4_awq"),
    "fp8": ("int4_awq",),
    "int4_awq": (),
}
_STEP_TOKENS = (8192, 4096, 2048, 1024)
_FRACTIONS = (0.9, 0.95)
_CONTEXT_STEP = 1024
_LENGTH = {"native": "trtllm.max_seq_len", "long": "context.long.max_seq_len"}


@dataclass(frozen=True, slots=True)
class Change:
    """description: which fields of the recipe to set, and to what. target: the changed target, which fits."""

    description: str
    target: TrtllmTarget


def nearest_changes(target: TrtllmTarget, dims: ModelSpec) -> tuple[Change, ...]:
    """Changes that fit, nearest first; empty when the target fits or nothing in the table would do."""
    if _fits(target, dims):
        return ()
    shorter = _shorter(target, dims, at_least=0.5, candidates=(target,))
    near = [*_idle_gpus(target, dims), *_tuning(target, dims), *shorter]
    for search in (_fp8_kv, _formats, _more_gpus, _other_gpus, _one_variant):
        near.extend(search(target, dims))
    if not shorter:
        near += _shorter(target, dims, at_least=0.0, candidates=(target, *_tunings(target)))
    return tuple(near)


def _idle_gpus(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Change]:
    yield from _with_tp(target, dims, range(target.tp + 1, target.gpu_count // target.pp + 1))


def _more_gpus(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Change]:
    yield from _with_tp(target, dims, range(target.gpu_count // target.pp + 1, 17))


def _with_tp(target: TrtllmTarget, dims: ModelSpec, sizes: range) -> Iterator[Change]:
    for tp in _allowed_tp(target, dims):
        changed = replace(target, tp=tp, gpu_count=max(tp * target.pp, target.gpu_count))
        if tp in sizes and _fits(changed, dims):
            yield Change(f"trtllm.tp: {tp} on {changed.gpu_count} x {find_gpu(target.gpu).name}", changed)
            return


def _tuning(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Change]:
    for changed in _tunings(target):
        if _fits(changed, dims):
            yield Change(_tuning_text(target, changed), changed)
            return


def _tunings(target: TrtllmTarget) -> Iterator[TrtllmTarget]:
    """Smaller steps and a larger share for the cache, the mildest first."""
    steps = [target.max_num_tokens, *(step for step in _STEP_TOKENS if step < target.max_num_tokens)]
    fraction = target.kv_cache_free_gpu_mem_fraction
    for share, step in product([fraction, *(value for value in _FRACTIONS if value > fraction)], steps):
        if (share, step) != (fraction, target.max_num_tokens):
            yield replace(target, max_num_tokens=step, kv_cache_free_gpu_mem_fraction=share)


def _tuning_text(target: TrtllmTarget, changed: TrtllmTarget) -> str:
    parts = []
    if changed.max_num_tokens != target.max_num_tokens:
        parts.append(f"trtllm.max_num_tokens: {changed.max_num_tokens}")
    if changed.kv_cache_free_gpu_mem_fraction != target.kv_cache_free_gpu_mem_fraction:
        parts.append(f"trtllm.kv_cache_free_gpu_mem_fraction: {changed.kv_cache_free_gpu_mem_fraction:g}")
    return " and ".join(parts)


def _shorter(
    target: TrtllmTarget, dims: ModelSpec, *, at_least: float, candidates: tuple[TrtllmTarget, ...]
) -> list[Change]:
    """The longest context that a candidate holds, at least this share of the promise; or nothing."""
    found: list[tuple[int, Change]] = []
    for candidate in candidates:
        shorter = tuple(
            replace(
                item.variant,
                max_seq_len=min(item.variant.max_seq_len, item.kv_tokens // _CONTEXT_STEP * _CONTEXT_STEP),
            )
            for item in device_memory(candidate, dims).variants
        )
        if not all(map(_worth_having, shorter, target.variants, [at_least] * len(shorter))):
            continue
        changed = replace(candidate, variants=shorter)
        if _fits(changed, dims):
            lengths = " and ".join(f"{_LENGTH[variant.name]}: {variant.max_seq_len}" for variant in shorter)
            tuning = _tuning_text(target, candidate)
            description = lengths + (f" with {tuning}" if tuning else "")
            found.append((sum(variant.max_seq_len for variant in shorter), Change(description, changed)))
    return [max(found, key=lambda item: item[0])[1]] if found else []


def _worth_having(shorter: Variant, promised: Variant, at_least: float) -> bool:
    # A long variant that is no longer than the native context would only carry YaRN's damage.
    native = 0 if shorter.yarn is None else shorter.yarn.original_max_position_embeddings or 0
    return shorter.max_seq_len > max(native, at_least * promised.max_seq_len - 1)


def _fp8_kv(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Change]:
    changed = replace(target, fp8_kv=True)
    if target.format == "fp8" and not target.fp8_kv and _fits(changed, dims):
        yield Change("trtllm.kv_cache: fp8, if the answers stay good enough", changed)


def _formats(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Change]:
    for smaller in _SMALLER[target.format]:
        # An FP8 cache only goes with FP8 weights.
        changed = replace(target, format=smaller, fp8_kv=target.fp8_kv and smaller == "fp8")
        if _possible(changed, dims) and _fits(changed, dims):
            yield Change(f"quantization.format: {smaller}", changed)
            return


def _other_gpus(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Change]:
    here = find_gpu(target.gpu)
    for gpu in sorted(GPUS.values(), key=lambda gpu: gpu.memory_bytes):
        changed = replace(target, gpu=gpu.name)
        if gpu.memory_bytes > here.memory_bytes and _possible(changed, dims) and _fits(changed, dims):
            yield Change(f"trtllm.gpu: {gpu.name}", changed)
            return


def _one_variant(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Change]:
    if len(target.variants) < 2:
        return
    apart = replace(target, gpu_count=len(target.variants) * target.world_size)
    if apart.gpu_count > target.gpu_count and _fits(apart, dims):
        yield Change(f"trtllm.gpus: {apart.gpu_count}, each variant on cards of its own", apart)
    native = replace(target, variants=tuple(v for v in target.variants if v.name == "native"))
    if _fits(native, dims):
        yield Change("context.long: null, the native variant alone", native)


def _possible(target: TrtllmTarget, dims: ModelSpec) -> bool:
    return target.tp in _allowed_tp(target, dims) and format_runs_on(target.format, find_gpu(target.gpu))


def _allowed_tp(target: TrtllmTarget, dims: ModelSpec) -> tuple[int, ...]:
    return allowed_tp(dims, quantization_of(target.format, group_size=target.group_size))


def _fits(target: TrtllmTarget, dims: ModelSpec) -> bool:
    return not device_shortfalls(target, device_memory(target, dims))
