"""A recipe against the model it is for: what a recipe alone cannot know, and what its nulls stand for."""

from __future__ import annotations

from dataclasses import dataclass

from enginewright_errors import RecipeError
from enginewright_model import ModelSpec

from enginewright.modelopt_config import check_group_size
from enginewright.recipe import Recipe

__all__ = ["Limits", "resolve_limits"]

_DEFAULT_SEQ_LEN = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """Lengths in tokens. `native`: positions the model was trained on. `long_seq_len`: None without YaRN.

    `slot_tokens`: what one sequence of the KV cache holds.
    """

    native: int
    max_seq_len: int
    long_seq_len: int | None

    @property
    def slot_tokens(self) -> int:
        return max(self.max_seq_len, self.long_seq_len or 0)


def resolve_limits(recipe: Recipe, spec: ModelSpec) -> Limits:
    """The lengths that hold for `recipe` on this model.

    Raises RecipeError for a length beyond the model's positions and for a quantization group that does not
    divide a layer.
    """
    check_group_size(spec, recipe.quantization)
    _check_kept_layers(recipe, spec)
    native = recipe.context.native or _reach(spec)
    max_seq_len = recipe.engine.max_seq_len or min(native, _DEFAULT_SEQ_LEN)
    if max_seq_len > native:
        raise RecipeError(
            f"engine.max_seq_len: {max_seq_len} is beyond the model's {native} positions",
            code="context-too-long",
            hint=f"set it to at most {native}, or add context.long (YaRN) for longer texts",
        )
    for field, value, bound in (
        ("verify.length", recipe.verify.length, max_seq_len),
        ("quantization.calibration.length", recipe.quantization.calibration.length, native),
    ):
        if value > bound and not (field.startswith("quant") and recipe.quantization.format == "none"):
            raise RecipeError(
                f"{field}: {value} is more than the {bound} tokens there are",
                code="context-too-long",
                hint=f"set {field} to at most {bound}",
            )
    return Limits(native, max_seq_len, _long(recipe, spec, max_seq_len))


def _long(recipe: Recipe, spec: ModelSpec, max_seq_len: int) -> int | None:
    long = recipe.context.long
    if long is None:
        return None
    if spec.rope.rope_type != "default":
        raise RecipeError(
            f"context.long: the checkpoint's rope is already scaled ({spec.rope.rope_type})",
            code="rope-scaled-twice",
            hint="leave context.long out and raise engine.max_seq_len",
        )
    original = recipe.context.native or spec.max_position_embeddings
    reach = int(original * long.factor)
    if not max_seq_len < long.max_seq_len <= reach:
        raise RecipeError(
            f"context.long.max_seq_len: {long.max_seq_len} is not between engine.max_seq_len {max_seq_len} "
            f"and {reach} (factor {long.factor:g} x {original} positions)",
            code="context-too-long",
            hint=f"set it to at most {reach}, or use the factor of the model's card",
        )
    return long.max_seq_len


def _reach(spec: ModelSpec) -> int:
    """Positions that the checkpoint's own rope was made for."""
    rope = spec.rope
    if rope.rope_type == "yarn" and rope.factor and rope.original_max_position_embeddings:
        return max(spec.max_position_embeddings, int(rope.original_max_position_embeddings * rope.factor))
    return spec.max_position_embeddings


def _check_kept_layers(recipe: Recipe, spec: ModelSpec) -> None:
    kept = set(recipe.quantization.keep_layers)
    if kept and max(kept) >= spec.num_layers:
        raise RecipeError(
            f"quantization.keep_layers: there is no layer {max(kept)}, the model has {spec.num_layers}",
            code="no-such-layer",
            hint=f"name layers from 0 to {spec.num_layers - 1}",
        )
    if len(kept) == spec.num_layers:
        raise RecipeError(
            f"quantization.keep_layers: all {spec.num_layers} layers are kept, none is left to quantize",
            code="nothing-to-quantize",
            hint="set quantization.format to none",
        )
