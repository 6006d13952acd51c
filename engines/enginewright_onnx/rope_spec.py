"""Which rotary embedding a checkpoint uses, read from its config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginewright_errors import CheckpointError

__all__ = ["RopeSpec", "read_rope_spec"]

_FIELDS_OF_TYPE: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
_OPTIONAL_FIELDS = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """One kind of rope. Fields carry the names of a Hugging Face config; what a type lacks stays None."""

    rope_type: str
    rope_theta: float
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields that are set, as engine.json holds them."""
        values = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value for name, value in values if value is not None}


def read_rope_spec(config: Mapping[str, Any]) -> RopeSpec:
    """The rope of `config`: `rope_parameters` (transformers 5), or `rope_scaling` and `rope_theta` (4.x).

    A config that gives no theta is refused: readers that fall back to 10000 run the model wrongly without a
    word. Raises CheckpointError for a missing, malformed or contradictory field and for an unknown type.
    """
    parameters = _merged(_mapping(config, "rope_scaling"), _mapping(config, "rope_parameters"))
    rope_type = parameters.get("rope_type", "default")
    if not isinstance(rope_type, str) or rope_type not in _FIELDS_OF_TYPE:
        raise CheckpointError(
            f"config.json: rope_type is {rope_type!r}",
            code="unsupported-rope",
            hint=f"the ONNX engine knows {', '.join(_FIELDS_OF_TYPE)}",
        )
    values: dict[str, Any] = {"rope_type": rope_type, "rope_theta": _theta(config, parameters)}
    for field in _FIELDS_OF_TYPE[rope_type]:
        value = parameters.get(field)
        if value is None and field == "original_max_position_embeddings":
            value = config.get(field, config.get("max_position_embeddings"))
        values[field] = _positive(field, value)
    if rope_type == "yarn":
        for field in _OPTIONAL_FIELDS:
            if parameters.get(field) is not None:
                values[field] = _positive(field, parameters[field])
        if parameters.get("truncate") is False:
            values["truncate"] = False
    if "original_max_position_embeddings" in values:
        values["original_max_position_embeddings"] = int(values["original_max_position_embeddings"])
    partial = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise CheckpointError(
            f"config.json: partial_rotary_factor is {partial!r}",
            code="unsupported-rope",
            hint="the ONNX engine rotates whole heads only",
        )
    return RopeSpec(**values)


def _merged(older: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for source in (older, newer):
        fields = {"rope_type" if key == "type" else key: value for key, value in source.items()}
        for field, value in fields.items():
            if field in merged and merged[field] != value:
                raise CheckpointError(
                    f"config.json: {field} is {merged[field]!r} in one place and {value!r} in another",
                    code="contradictory-rope",
                    hint="make both the value the model was trained with, or remove one",
                )
            merged[field] = value
    return merged


def _theta(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> float:
    inner, outer = parameters.get("rope_theta"), config.get("rope_theta")
    if inner is None and outer is None:
        raise CheckpointError(
            "config.json gives no rope_theta, neither in rope_parameters nor beside them",
            code="missing-rope-theta",
            hint="add rope_theta with the value the model was trained with",
        )
    if inner is not None and outer is not None and float(inner) != float(outer):
        raise CheckpointError(
            f"config.json: rope_theta is {outer} but rope_parameters.rope_theta is {inner}",
            code="contradictory-rope",
            hint="make both the value the model was trained with",
        )
    return _positive("rope_theta", outer if inner is None else inner)


def _mapping(config: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = config.get(field)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"config.json: {field} is {value!r}",
            code="malformed-config",
            hint=f"{field} must be an object or null",
        )
    return value


def _positive(field: str, value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise CheckpointError(
            f"config.json: rope field {field} is {value!r}",
            code="malformed-config",
            hint="give a positive finite number in rope_parameters (transformers 5) or rope_scaling (4.x)",
        )
    return float(value)
