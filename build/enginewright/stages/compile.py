"""Quantized checkpoint in, engine out: the ONNX engine's options from a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from enginewright_onnx.options import EngineOptions, LongContext

from enginewright.limits import Limits
from enginewright.recipe import Recipe

__all__ = ["compile_engine", "engine_options"]


def engine_options(recipe: Recipe, limits: Limits) -> EngineOptions:
    """What `recipe` asks of the engine, with the lengths that hold for its model."""
    engine, long, native = recipe.engine, recipe.context.long, recipe.context.native
    return EngineOptions(
        max_seq_len=limits.max_seq_len,
        max_batch_size=engine.max_batch_size,
        prefill_chunk=engine.prefill_chunk,
        kv_budget_bytes=engine.kv_budget,
        accuracy_level=engine.accuracy_level,
        lm_head=engine.lm_head,
        fp8_compute=engine.fp8_compute,
        long_context=None if long is None else LongContext(long.max_seq_len, long.factor, native),
        threads=engine.threads,
    )


def compile_engine(
    checkpoint: Path, out: Path, options: EngineOptions, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Write the engine into the empty folder `out`; returns the sizes to hold against the plan."""
    from enginewright_onnx import write_engine

    summary = write_engine(checkpoint, out, options, progress)
    return {
        "weight_bytes": summary.weight_bytes,
        "kv_bytes_per_token": summary.kv_bytes_per_token,
        "max_seq_len": summary.max_seq_len,
    }
