"""The ids of the tokens that begin, end and pad a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_model.fields import invalid
from enginewright_model.json_file import read_json_object

__all__ = ["TokenIds", "read_token_ids"]

_MAX_TOKEN = 1 << 24


@dataclass(frozen=True, slots=True)
class TokenIds:
    """eos: any of them ends an answer; empty when the checkpoint names none."""

    eos: tuple[int, ...]
    pad: int | None
    bos: int | None


def read_token_ids(folder: Path) -> TokenIds:
    """The ids in generation_config.json where it gives them, else in config.json. Raises CheckpointError."""
    fields: Mapping[str, Any] = read_json_object(folder / "config.json")
    generation = folder / "generation_config.json"
    if generation.exists():
        given = read_json_object(generation).items()
        fields = {**fields, **{name: value for name, value in given if value is not None}}
    pad, bos = (_ids(fields, name) for name in ("pad_token_id", "bos_token_id"))
    return TokenIds(_ids(fields, "eos_token_id"), pad[0] if pad else None, bos[0] if bos else None)


def _ids(fields: Mapping[str, Any], name: str) -> tuple[int, ...]:
    value = fields.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int and 0 <= token < _MAX_TOKEN for token in ids):
        raise invalid(name, value, "a token id or a list of them")
    return tuple(ids)
