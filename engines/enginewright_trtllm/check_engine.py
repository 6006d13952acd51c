"""Looks over what trtllm-build left: all ranks, and built from this checkpoint with these sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from enginewright_trtllm.target import TrtllmTarget, Variant

__all__ = ["engine_problem"]

# Keys of the checkpoint's config that upstream carries over into the engine's `pretrained_config` unchanged.
_CARRIED = (
    "architecture",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_size",
    "vocab_size",
    "max_position_embeddings",
)


def engine_problem(engine: Path, checkpoint: Path, target: TrtllmTarget, variant: Variant) -> str | None:
    """Why the folder `engine` is no engine of `variant` from the rank files in `checkpoint`, or None."""
    try:
        config = json.loads((engine / "config.json").read_bytes())
        wanted = json.loads((checkpoint / "config.json").read_bytes())
        problems = _problems(engine, config, wanted, target, variant)
        return next(problems, None)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"config.json is not an engine's: {type(error).__name__}: {error}"


def _problems(
    engine: Path,
    config: Mapping[str, Any],
    wanted: Mapping[str, Any],
    target: TrtllmTarget,
    variant: Variant,
) -> Iterator[str]:
    for rank in range(target.world_size):
        file = engine / f"rank{rank}.engine"
        if not file.is_file() or not file.stat().st_size:
            yield f"rank{rank}.engine is missing, the engine has {target.world_size} ranks"
    if config["version"] != target.tensorrt_llm:
        yield f"it is of TensorRT-LLM {config['version']}, not {target.tensorrt_llm}"
    built, sizes = config["pretrained_config"], config["build_config"]
    pairs = [(key, built[key], wanted[key]) for key in _CARRIED]
    for key in ("tp_size", "pp_size"):
        pairs.append((key, built["mapping"][key], wanted["mapping"][key]))
    for key in ("quant_algo", "kv_cache_quant_algo"):
        pairs.append((key, built["quantization"].get(key), wanted["quantization"].get(key)))
    pairs += [
        ("max_batch_size", sizes["max_batch_size"], target.max_batch_size),
        ("max_num_tokens", sizes["max_num_tokens"], target.max_num_tokens),
        ("max_seq_len", sizes["max_seq_len"], variant.max_seq_len),
    ]
    for key, found, expected in pairs:
        if found != expected:
            yield f"config.json: {key} is {found!r}, not {expected!r}"
