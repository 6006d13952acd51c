"""`engine.json`: what the engine folder says about itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError

ENGINE_FORMAT = 1

_AT_LEAST_ONE = (
    "num_layers",
    "num_kv_heads",
    "head_dim",
    "vocab_size",
    "max_seq_len",
    "max_batch_size",
    "prefill_chunk",
)


@dataclass(frozen=True, slots=True)
class ContextRegion:
    """A region of the cos/sin table: positions 0..max_seq_len-1 are its rows rope_offset + position.

    max_seq_len is never more than a slot of the KV pool holds.
    """

    max_seq_len: int
    rope_offset: int


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The part of `engine.json` that the runtime needs. Lengths in tokens, sizes in bytes.

    max_seq_len: S_max, the tokens that one slot of the KV pool holds.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    native: ContextRegion
    long: ContextRegion | None
    max_seq_len: int
    max_batch_size: int
    prefill_chunk: int
    kv_budget_bytes: int
    eos_token_ids: tuple[int, ...]
    threads: int | None

    def region(self, long_context: bool) -> ContextRegion | None:
        """The region that a request asks for; None when the engine was built without it."""
        return self.long if long_context else self.native


def read_engine_config(engine_dir: Path) -> EngineConfig:
    """Read `engine_dir/engine.json`.

    Raises CheckpointError when it is missing, no JSON, of another format, or lacks a field or bound.
    """
    path = engine_dir / "engine.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path}: {error.strerror}", code="engine-missing", hint="give the folder that build-engine wrote"
        ) from error
    except ValueError as error:
        raise _damaged(path, f"is not JSON ({error})") from error
    if not isinstance(data, dict) or data.get("format") != ENGINE_FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise CheckpointError(
            f"{path}: format {found!r}, this runtime reads {ENGINE_FORMAT}",
            code="engine-format",
            hint="build the engine again with this version of enginewright",
        )
    try:
        config = _parse(data)
    except KeyError as error:
        raise _damaged(path, f"has no field {error.args[0]!r}") from error
    except (TypeError, ValueError) as error:
        raise _damaged(path, f"has a field of the wrong type ({error})") from error
    _check(path, config)
    return config


def _parse(data: dict[str, Any]) -> EngineConfig:
    limits, context = data["limits"], data["context"]
    slot_tokens, threads = int(limits["max_seq_len"]), data.get("threads")
    return EngineConfig(
        num_layers=int(data["num_layers"]),
        num_kv_heads=int(data["num_kv_heads"]),
        head_dim=int(data["head_dim"]),
        vocab_size=int(data["vocab_size"]),
        native=_region(context["native"], slot_tokens),
        long=None if context["long"] is None else _region(context["long"], slot_tokens),
        max_seq_len=slot_tokens,
        max_batch_size=int(limits["max_batch_size"]),
        prefill_chunk=int(limits["prefill_chunk"]),
        kv_budget_bytes=int(limits["kv_budget_bytes"]),
        eos_token_ids=tuple(int(token) for token in data["eos_token_ids"]),
        threads=None if threads is None else int(threads),
    )


def _region(data: dict[str, Any], slot_tokens: int) -> ContextRegion:
    return ContextRegion(
        max_seq_len=min(int(data["max_seq_len"]), slot_tokens), rope_offset=int(data["rope_offset"])
    )


def _check(path: Path, config: EngineConfig) -> None:
    for name in _AT_LEAST_ONE:
        if getattr(config, name) < 1:
            raise _damaged(path, f"has {name} {getattr(config, name)}, at least 1 is needed")
    for name, region in (("native", config.native), ("long", config.long)):
        if region is not None and (region.max_seq_len < 1 or region.rope_offset < 0):
            raise _damaged(path, f"has an empty or negative context.{name}")


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {problem}", code="engine-damaged", hint="build the engine again; its folder was changed"
    )
