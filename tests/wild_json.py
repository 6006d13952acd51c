"""Any value that a JSON file may hold, nearly right ones among them, and configs with a few of them."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

__all__ = ["wild_configs", "wild_values"]

_EDGES = (-1, 0, 1, 2, 0.5, 1e-300, 1e300, 10**400, 2**63, 32768.7, 1e6, math.nan, math.inf, "")
_NAMES = ("yarn", "llama3", "linear", "default", "silu", "FP8", "W4A16_AWQ", "lm_head", "full_attention")
_KEYS = (
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "attention_factor",
    "mscale",
    "truncate",
    "partial_rotary_factor",
    "full_attention",
    "quant_algo",
    "kv_cache_quant_algo",
    "exclude_modules",
    "group_size",
    "id",
    "vocab",
)


def wild_values() -> st.SearchStrategy[Any]:
    """Scalars of every type and size, lists and objects of them, ropes that are nearly one."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    leaves = scalars | st.sampled_from(_EDGES) | st.sampled_from(_NAMES)
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=3), inner, max_size=4)
        ),
        max_leaves=6,
    )


def wild_configs(valid: dict[str, Any], *more: str) -> st.SearchStrategy[dict[str, Any]]:
    """`valid` with one to three of its fields, or of `more`, replaced by wild values."""
    fields = st.sampled_from([*valid, *more])
    return st.dictionaries(fields, wild_values(), min_size=1, max_size=3).map(lambda wild: {**valid, **wild})
