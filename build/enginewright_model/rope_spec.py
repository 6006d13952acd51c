"""Which rotary embedding a checkpoint uses, as transformers 4 and 5 write it.

4.x writes `rope_theta` and `rope_scaling`, 5 writes `rope_parameters` alone; a config may hold both. What is
missing in one place or said twice is never guessed about: the wrong frequencies look like a worse model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginewright_errors import CheckpointError

from enginewright_model.fields import MAX_POSITIONS, Config, flag, invalid, number, short, whole

__all__ = ["RopeSpec", "read_rope_spec"]

_ORIGINAL = "original_max_position_embeddings"
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", _ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
_OPTIONAL_OF_YARN = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")
# The logarithm of theta is divided by. Other numbers beyond these are slips: tables of zeros and infinities.
_THETA_BOUNDS = (1.001, 1e12)
_FACTOR_BOUNDS = (1.0, 1024.0)
_OTHER_BOUNDS = (1e-3, 1e3)


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
        """The fields that are set: `rope_parameters` as transformers 5 writes them."""
        values = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value for name, value in values if value is not None}

    @property
    def scaling(self) -> dict[str, Any] | None:
        """`rope_scaling` as transformers 4 writes it, None for plain rope."""
        fields = self.as_json()
        del fields["rope_theta"]
        return None if self.rope_type == "default" else fields


def read_rope_spec(config: Config, *, default_theta: float | None = None) -> RopeSpec:
    """The rope of `config`. default_theta: of a config that gives none; None refuses it.

    Raises CheckpointError, naming the field, for a missing, malformed or contradictory one and for a type
    that no engine here computes.
    """
    scaling, parameters = (_rope_object(config, name) for name in ("rope_scaling", "rope_parameters"))
    if scaling and parameters:
        _check_agreement(scaling, parameters)
    _refuse_partial_rotation(config, parameters, scaling)
    theta = _theta(config, parameters, scaling, default=default_theta)
    rope = {**scaling, **parameters}
    rope_type = rope.get("rope_type", "default")
    if not isinstance(rope_type, str) or rope_type not in _NEEDED:
        raise invalid("rope_type", rope_type, f"one of {', '.join(_NEEDED)}")
    if "factor" in rope and "rope_type" not in rope:
        raise invalid("rope_type", None, "the name of the scaling that the factor belongs to")
    values: dict[str, Any] = {name: _scaling_number(name, rope.get(name)) for name in _NEEDED[rope_type]}
    if rope_type == "llama3" and not values["low_freq_factor"] < values["high_freq_factor"]:
        raise invalid(
            "rope_parameters.low_freq_factor", rope["low_freq_factor"], "less than high_freq_factor"
        )
    if rope_type == "yarn":
        values |= {name: _scaling_number(name, rope[name]) for name in _OPTIONAL_OF_YARN if name in rope}
        values[_ORIGINAL] = _original_of_yarn(config, rope)
        if "truncate" in rope and not flag(rope, "truncate"):
            values["truncate"] = False
    return RopeSpec(rope_type, theta, **values)


def _rope_object(config: Config, name: str) -> dict[str, Any]:
    """The fields of one of the two objects that are not null, with `type` under its present name."""
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or any(isinstance(item, Mapping) for item in value.values()):
        raise invalid(name, value, "one object of names and numbers for all layers, or null")
    fields = {key: item for key, item in value.items() if item is not None}
    old = fields.pop("type", None)
    if old is not None and fields.setdefault("rope_type", old) != old:
        raise invalid(f"{name}.rope_type", fields["rope_type"], f"{short(old)}, as in {name}.type")
    return fields


def _check_agreement(scaling: Config, parameters: Config) -> None:
    """Readers take one or the other: a field in one place alone is a contradiction as well."""
    plain = {"rope_type": "default"}
    one, other = plain | {**scaling}, plain | {**parameters}
    names = (one.keys() | other.keys()) - {"rope_type", "rope_theta"}
    for name in ("rope_type", *sorted(names)):
        if one.get(name) != other.get(name):
            raise invalid(
                f"rope_parameters.{name}",
                other.get(name),
                f"{short(one.get(name))}, as in rope_scaling",
                "write what the model was trained with in both, or in one of them alone",
            )


def _refuse_partial_rotation(*places: Config) -> None:
    for place in places:
        part = place.get("partial_rotary_factor")
        if part not in (None, 1):
            raise invalid("partial_rotary_factor", part, "1: Qwen2 and Llama rotate whole heads")


def _theta(*places: Config, default: float | None) -> float:
    given = [place["rope_theta"] for place in places if place.get("rope_theta") is not None]
    if not given and default is None:
        raise CheckpointError(
            "config.json gives no rope_theta, neither in rope_parameters nor beside them",
            code="rope-theta-missing",
            hint="write the one that the model was trained with: readers would take 10000 without a word",
        )
    thetas = [number("rope_theta", value, *_THETA_BOUNDS) for value in given or [default]]
    if len(set(thetas)) > 1:
        raise invalid("rope_theta", given, "the same one in every place")
    return thetas[0]


def _scaling_number(name: str, value: object) -> float | int:
    field = f"rope_parameters.{name}"
    if name == _ORIGINAL:
        positions = number(field, value, 1, MAX_POSITIONS)
        if not positions.is_integer():
            raise invalid(field, value, "a whole number of positions")
        return int(positions)
    return number(field, value, *(_FACTOR_BOUNDS if name == "factor" else _OTHER_BOUNDS))


def _original_of_yarn(config: Config, rope: Config) -> float | int:
    """What YaRN stretches; without a word of its own, the config's positions, as in transformers."""
    for place in (rope, config):
        if place.get(_ORIGINAL) is not None:
            return _scaling_number(_ORIGINAL, place[_ORIGINAL])
    return whole(config, "max_position_embeddings", highest=MAX_POSITIONS)
