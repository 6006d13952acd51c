"""Fields of a config.json, each of the type and size that it must have."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from enginewright_errors import CheckpointError

__all__ = ["MAX_POSITIONS", "Config", "flag", "invalid", "number", "short", "whole"]

Config = Mapping[str, Any]

# Far above any model of these families, far below what would make arithmetic on sizes meaningless.
MAX_WIDTH = 1 << 20
MAX_POSITIONS = 1 << 24
_REPR = reprlib.Repr()
_REPR.maxstring = 80
_PUBLISHED = "use the config.json that was published with the weights"


def whole(
    config: Config, name: str, *, default: int | None = None, lowest: int = 1, highest: int = MAX_WIDTH
) -> int:
    """A whole number; null and an absent one are `default`. Raises CheckpointError, as all of these do."""
    value = config.get(name)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise invalid(name, value, f"a whole number from {lowest} to {highest}")
    return value


def flag(config: Config, name: str) -> bool:
    """True or false; null and an absent one are false, which is transformers' default."""
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(name, value, "true or false")
    return bool(value)


def number(name: str, value: object, lowest: float, highest: float) -> float:
    """A finite number between the two, both included."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not lowest <= value <= highest:
        raise invalid(name, value, f"a number from {lowest:g} to {highest:g}")
    return float(value)


def short(value: object) -> str:
    """`value` for a message, cut where it is long."""
    return _REPR.repr(value)


def invalid(name: str, value: object, wanted: str, hint: str = _PUBLISHED) -> CheckpointError:
    """The error about one field: its name, its value and what would be accepted."""
    return CheckpointError(
        f"config.json: {name} is {short(value)}, expected {wanted}", code="config-invalid", hint=hint
    )
