"""The rope regions of an engine: the checkpoint's own, and a long one that a request may choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from enginewright_errors import RecipeError
from enginewright_model import ModelSpec, RopeSpec

from enginewright_onnx.options import EngineOptions, LongContext

__all__ = ["Region", "plan_regions"]


@dataclass(frozen=True, slots=True)
class Region:
    """Positions 0 .. max_seq_len - 1 of one rope, at rows rope_offset + position of the cos/sin tables."""

    name: str
    rope: RopeSpec
    max_seq_len: int
    rope_offset: int

    def as_json(self) -> dict[str, Any]:
        return {"max_seq_len": self.max_seq_len, "rope_offset": self.rope_offset, "rope": self.rope.as_json()}


def plan_regions(spec: ModelSpec, options: EngineOptions) -> tuple[Region, ...]:
    """The native region, then the long one where `options` ask for it.

    Raises RecipeError when a region is longer than its rope reaches, or when a checkpoint whose rope is
    already scaled is asked for a second scaling.
    """
    _check("max_seq_len", options.max_seq_len, _reach(spec))
    native = Region("native", spec.rope, options.max_seq_len, 0)
    if options.long_context is None:
        return (native,)
    rope, reach = _long_rope(spec, options.long_context)
    _check("long_context.max_seq_len", options.long_context.max_seq_len, reach)
    return native, Region("long", rope, options.long_context.max_seq_len, options.max_seq_len)


def _long_rope(spec: ModelSpec, wanted: LongContext) -> tuple[RopeSpec, int]:
    if spec.rope.rope_type != "default":
        raise RecipeError(
            f"long_context is set, but the checkpoint's rope is already of type {spec.rope.rope_type!r}",
            code="rope-scaled-twice",
            hint="drop long_context and raise max_seq_len, or remove the rope scaling from config.json",
        )
    original = wanted.original_max_position_embeddings or spec.max_position_embeddings
    if wanted.factor == 1.0:
        return spec.rope, original
    rope = replace(
        spec.rope, rope_type="yarn", factor=wanted.factor, original_max_position_embeddings=original
    )
    return rope, int(original * wanted.factor)


def _reach(spec: ModelSpec) -> int:
    """The positions a checkpoint was made for; Llama 3's config already counts its scaled context."""
    rope = spec.rope
    original = rope.original_max_position_embeddings or spec.max_position_embeddings
    factor = rope.factor if rope.factor is not None and rope.rope_type in ("yarn", "linear") else 1.0
    return max(spec.max_position_embeddings, int(original * factor))


def _check(field: str, value: int, reach: int) -> None:
    if value > reach:
        raise RecipeError(
            f"{field} is {value}, but this rope reaches {reach} positions",
            code="context-too-long",
            hint=f"lower {field} to {reach}, or give a long_context with a larger factor",
        )
