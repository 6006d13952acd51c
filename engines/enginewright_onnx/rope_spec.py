"""Which rotary embedding a checkpoint uses, read from its config.json."""

from __future__ import annotations

import reprlib
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
# What a field may be, least and most; the logarithm of theta is divided by.
_BOUNDS: dict[str, tuple[float, float]] = {
    "rope_theta": (1.001, 1e12),
    "factor": (1e-3, 1e4),
    "original_max_position_embeddings": (1, 1 << 24),
}
_OTHER_BOUNDS = (1e-3, 1e4)


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
            f"config.json: rope_type is {reprlib.repr(rope_type)}",
            code="unsupported-rope",
            hint=f"the ONNX engine knows {', '.join(_FIELDS_OF_TYPE)}",
        )
    values: dict[str, Any] = {"rope_type": rope_type, "rope_theta": _theta(config, parameters)}
    for field in _FIELDS_OF_TYPE[rope_type]:
        value = parameters.get(field)
        if value is None and field == "original_max_position_embeddings":
            value = config.get(field, config.get("max_position_embeddings"))
        values[field] = _number(field, value)
    if rope_type == "llama3" and not values["low_freq_factor"] < values["high_freq_factor"]:
        raise CheckpointError(
            f"config.json: rope field low_freq_factor is {values['low_freq_factor']},"
            f" high_freq_factor is {values['high_freq_factor']}",
            code="malformed-config",
            hint="low_freq_factor has to be the smaller one",
        )
    if rope_type == "yarn":
        for field in _OPTIONAL_FIELDS:
            if parameters.get(field) is not None:
                values[field] = _number(field, parameters[field])
        if parameters.get("truncate") is False:
            values["truncate"] = False
    if "original_max_position_embeddings" in values:
        values["original_max_position_embeddings"] = _whole(
            "original_max_position_embeddings", values["original_max_position_embeddings"]
        )
    partial = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise CheckpointError(
            f"config.json: partial_rotary_factor is {reprlib.repr(partial)}",
            code="unsupported-rope",
            hint="the ONNX engine rotates whole heads only",
        )
    return RopeSpec(**values)


def _merged(older: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for source in (older, newer):
        for key, value in source.items():
            field = "rope_type" if key == "type" else key
            if field in merged and merged[field] != value:
                raise CheckpointError(
                    f"config.json: {field} is {reprlib.repr(merged[field])} in one place"
                    f" and {reprlib.repr(value)} in another",
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
    given = [_number("rope_theta", value) for value in (inner, outer) if value is not None]
    if len(set(given)) > 1:
        raise CheckpointError(
            f"config.json: rope_theta is {outer} but rope_parameters.rope_theta is {inner}",
            code="contradictory-rope",
            hint="make both the value the model was trained with",
        )
    return given[0]


def _mapping(config: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = config.get(field)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"config.json: {field} is {reprlib.repr(value)}",
            code="malformed-config",
            hint=f"{field} must be an object or null",
        )
    return value


def _number(field: str, value: Any) -> float:
    lowest, highest = _BOUNDS.get(field, _OTHER_BOUNDS)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not lowest <= value <= highest:
        raise CheckpointError(
            f"config.json: rope field {field} is {reprlib.repr(value)}",
            code="malformed-config",
            hint=f"give a number from {lowest:g} to {highest:g} in rope_parameters (transformers 5) or"
            " rope_scaling (4.x)",
        )
    return float(value)


def _whole(field: str, value: float) -> int:
    if not value.is_integer():
        raise CheckpointError(
            f"config.json: rope field {field} is {value}",
            code="malformed-config",
            hint="it counts positions: give a whole number",
        )
    return int(value)
