"""Rotary embedding: what a checkpoint says, and the `rotary_scaling` that TensorRT-LLM reads.

YaRN: upstream's own table function gives transformers' cos and sin exactly (positions 0..131071 of QwQ,
factor 4, original 32768), provided that `original_max_position_embeddings` is there: its default is 4096, and
with it inverse frequencies are off by up to 61%, silently. It does not read `attention_factor`. llama3:
upstream's text reads the four keys below; its tables were not compared.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginewright_errors import RecipeError
from enginewright_model import ModelSpec

__all__ = ["Rope", "rope_from_spec", "trtllm_scaling"]

_REQUIRED = {
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_OPTIONAL = {"yarn": ("beta_fast", "beta_slow"), "llama3": ()}
_OTHER_KEYS = ("type", "rope_type", "rope_theta", "attention_factor")
# Far above any model: what lies beyond is a slip, and would overflow in the product of the two.
_MAX_FACTOR = 1024
_MAX_POSITIONS = 1 << 24


@dataclass(frozen=True, slots=True)
class Rope:
    """A checkpoint's own rotary embedding; `scaling` as in its config, None for plain RoPE."""

    theta: float
    scaling: Mapping[str, Any] | None
    max_positions: int


def rope_from_spec(spec: ModelSpec) -> Rope:
    """The rotary embedding of a checkpoint."""
    return Rope(spec.rope.rope_theta, spec.rope.scaling, spec.max_position_embeddings)


def trtllm_scaling(
    rope: Rope, scaling: Mapping[str, Any] | None, max_position_embeddings: int
) -> dict[str, Any] | None:
    """The `rotary_scaling` of config.json for a promised context, None for plain RoPE.

    scaling: a Hugging Face rope_scaling ({"rope_type": "default"} for none), or None for the checkpoint's
    own. Raises RecipeError when upstream would refuse it, would silently compute something else, or when it
    does not reach the promised context.
    """
    chosen = rope.scaling if scaling is None else scaling
    kind = _kind(chosen)
    if chosen and _is_named_twice(chosen):
        raise RecipeError(
            f"rope_scaling: type = {chosen['type']!r}, but rope_type = {chosen['rope_type']!r}",
            code="rope-type",
            hint="Give rope_type alone.",
        )
    given = {key: value for key, value in (chosen or {}).items() if value is not None}
    rendered = None if kind == "default" else _render(kind, given, rope.theta)
    reach = rope.max_positions
    if rendered is not None and kind == "yarn":
        reach = int(rendered["factor"] * rendered["original_max_position_embeddings"])
    if not 1 <= max_position_embeddings <= reach:
        raise RecipeError(
            f"max_position_embeddings = {max_position_embeddings} is not within 1..{reach},"
            f" what {'this scaling' if rendered else 'the checkpoint'} reaches",
            code="context-beyond-rope",
            hint='Promise less, or give rope_scaling {"rope_type": "yarn", "factor": ...,'
            ' "original_max_position_embeddings": ...}.',
        )
    return rendered


def _is_named_twice(scaling: Mapping[str, Any]) -> bool:
    names = [scaling[key] for key in ("type", "rope_type") if scaling.get(key) is not None]
    return len(names) == 2 and names[0] != names[1]


def _kind(scaling: Mapping[str, Any] | None) -> str:
    if not scaling:
        return "default"
    return str(
        scaling.get("rope_type") or scaling.get("type") or ("yarn?" if "factor" in scaling else "default")
    )


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def _render(kind: str, scaling: Mapping[str, Any], theta: float) -> dict[str, Any]:
    if kind not in _REQUIRED:
        raise RecipeError(
            f"rope_scaling: rope_type {kind!r} is neither yarn, llama3 nor default",
            code="rope-type",
            hint="Spell it in lower case; upstream refuses others, and the rest were never compared.",
        )
    known = (*_REQUIRED[kind], *_OPTIONAL[kind])
    for key in _REQUIRED[kind]:
        if key not in scaling:
            raise RecipeError(
                f"rope_scaling: {key} is missing for {kind}",
                code="rope-key-missing",
                hint="For QwQ-32B: factor 4.0, original_max_position_embeddings 32768."
                " Upstream replaces a missing one by its own default, silently.",
            )
    if scaling.get("rope_theta", theta) != theta:
        raise RecipeError(
            f"rope_scaling: rope_theta = {scaling['rope_theta']!r}, but the model has {theta}",
            code="rope-theta",
            hint="Leave rope_theta out: a model has the one that it was trained with.",
        )
    for key, value in scaling.items():
        if key in _OTHER_KEYS:
            continue
        if key not in known:
            raise RecipeError(
                f"rope_scaling: TensorRT-LLM does not read {key} for {kind}",
                code="rope-key-unknown",
                hint=f"Keys of {kind}: {', '.join(known)}.",
            )
        if not _is_positive(value):
            raise RecipeError(
                f"rope_scaling: {key} = {value!r} is not a positive number",
                code="rope-value",
                hint="Write it as a number, without quotes.",
            )
    _check_reach(scaling)
    _check_attention_factor(kind, scaling)
    values = {key: float(scaling[key]) for key in known if key in scaling}
    values["original_max_position_embeddings"] = int(scaling["original_max_position_embeddings"])
    return {"type": kind, "rope_type": kind, **values}


def _check_reach(scaling: Mapping[str, Any]) -> None:
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    if not 1 <= factor <= _MAX_FACTOR:
        raise RecipeError(
            f"rope_scaling: factor = {factor!r} is not within 1..{_MAX_FACTOR}",
            code="rope-value",
            hint="It is what the context grows by: 4.0 makes 131072 positions of 32768.",
        )
    if original != int(original) or original > _MAX_POSITIONS:
        raise RecipeError(
            f"rope_scaling: original_max_position_embeddings = {original!r}"
            f" is not a whole number up to {_MAX_POSITIONS}",
            code="rope-value",
            hint="It is the context, in positions, that the model was trained with: 32768 for QwQ-32B.",
        )


def _check_attention_factor(kind: str, scaling: Mapping[str, Any]) -> None:
    given = scaling.get("attention_factor")
    if kind != "yarn" or given is None:
        return
    computed = 0.1 * math.log(scaling["factor"]) + 1.0
    if not (_is_positive(given) and math.isclose(given, computed, rel_tol=1e-6)):
        raise RecipeError(
            f"rope_scaling: attention_factor = {given}, but TensorRT-LLM computes {computed:.9f} itself",
            code="rope-attention-factor",
            hint="Leave attention_factor out.",
        )
