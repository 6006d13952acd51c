"""Quantized checkpoint in, TensorRT-LLM rank files out: a folder for each variant, one set of weights.

OUT/native/{config.json, rank0.safetensors, ...}
OUT/long/...                the same rank files by hard link, a config.json of its own
OUT/model/...               what the front reads: config.json, tokenizer, chat template, generation config
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import GateFailed
from enginewright_model import ModelSpec, read_json_object
from enginewright_trtllm import check_checkpoint, write_checkpoint, write_variant
from enginewright_trtllm.target import TrtllmTarget, Variant

from enginewright.checkpoint import TEXT_FILES
from enginewright.handoff import MODEL_FOLDER

__all__ = ["CheckpointCheck", "verify_checkpoints", "write_checkpoints"]


@dataclass(frozen=True, slots=True)
class CheckpointCheck:
    """What was verified, and what only a GPU can."""

    folders: int
    rank_files: int
    verified: str = "names, shapes, dtypes, scales and every config key, read back from the rank files"
    not_verified: str = "the engines' answers: tests/gpu/smoke.md compares them on a GPU"


def write_checkpoints(
    quantized: Path,
    original: Path | None,
    out: Path,
    target: TrtllmTarget,
    dims: ModelSpec,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Fill the empty folder `out` as above; returns the sizes.

    original: the 16-bit checkpoint that was quantized to FP8, from whose weights q, k, v and gate, up are
    rounded with one scale each: ModelOpt's unified export leaves them their own. Raises what
    `write_checkpoint` and `write_variant` do.
    """
    first, *others = target.variants
    summary = write_checkpoint(
        quantized,
        out / first.name,
        tp=target.tp,
        pp=target.pp,
        max_position_embeddings=first.max_seq_len,
        rope_scaling=_scaling(first, dims),
        logits_dtype=target.logits_dtype,
        original=original,
        progress=progress,
    )
    for variant in others:
        write_variant(
            out / first.name,
            out / variant.name,
            max_position_embeddings=variant.max_seq_len,
            rope_scaling=_scaling(variant, dims),
        )
    _copy_texts(quantized, out / MODEL_FOLDER)
    return {
        "world_size": summary.world_size,
        "weight_bytes": summary.weight_bytes,
        "rank_bytes": summary.rank_bytes,
    }


def _copy_texts(quantized: Path, out: Path) -> None:
    """config.json as the source's: what the weights became is in each variant's own."""
    out.mkdir()
    for name in TEXT_FILES:
        if (quantized / name).exists():
            shutil.copyfile(quantized / name, out / name)
    config = read_json_object(quantized / "config.json")
    config.pop("quantization_config", None)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def verify_checkpoints(checkpoint: Path, target: TrtllmTarget) -> CheckpointCheck:
    """Read back every variant's folder below `checkpoint`. Raises GateFailed with the first problem."""
    for problem in _problems(checkpoint, target):
        raise GateFailed(f"verify: {problem}", code="checkpoint-check", hint="report it: it was just written")
    return CheckpointCheck(len(target.variants), len(target.variants) * target.world_size)


def _problems(checkpoint: Path, target: TrtllmTarget) -> Iterator[str]:
    for variant in target.variants:
        for problem in check_checkpoint(checkpoint / variant.name):
            yield f"{variant.name}: {problem.message}"


def _scaling(variant: Variant, dims: ModelSpec) -> dict[str, Any] | None:
    """None keeps what the checkpoint itself says; its own YaRN is for the long variant alone."""
    if variant.yarn is not None:
        yarn = {name: value for name, value in asdict(variant.yarn).items() if value is not None}
        return {"rope_type": "yarn", **yarn}
    return {"rope_type": "default"} if dims.rope.rope_type == "yarn" else None
