"""A packaged repository of TensorRT-LLM engines, as its manifest and its checkpoint describe it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import UsageError
from enginewright_model import ModelSpec, read_json_object, read_model_spec
from enginewright_trtllm.target import TrtllmTarget
from pydantic import ValidationError

from enginewright.manifest import engine_records
from enginewright.output import MANIFEST
from enginewright.trtllm_recipe import TrtllmRecipe, trtllm_target

__all__ = ["TrtllmRepository", "read_trtllm_repository", "repository_target"]

_LIMIT = 64 << 20
_CONFIG = Path("llm", "1", "checkpoint", "config.json")


@dataclass(frozen=True, slots=True)
class TrtllmRepository:
    """folder: absolute. engine: what the compile stages recorded: tensorrt_llm, tensorrt, sm, world_size and
    gpu_memory_mib, as far as they knew."""

    name: str
    folder: Path
    target: TrtllmTarget
    engine: Mapping[str, Any]

    def dims(self) -> ModelSpec:
        """Raises CheckpointError when the packaged config.json is missing or damaged."""
        return read_model_spec(read_json_object(self.folder / _CONFIG))


def repository_target(folder: Path) -> str | None:
    """ "onnx" or "trtllm"; None where there is no manifest that says so."""
    try:
        target = json.loads((folder / MANIFEST).read_bytes())["target"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return target if isinstance(target, str) else None


def read_trtllm_repository(folder: Path) -> TrtllmRepository:
    """Raises UsageError for a folder that is no such repository, or whose engines are not compiled yet."""
    target = repository_target(folder)
    if target is None:
        raise UsageError(
            f"{folder} is not the output folder of a build: its {MANIFEST} names no target",
            code="no-repository",
            hint="`build-engine RECIPE` makes one",
        )
    if target != "trtllm":
        raise UsageError(
            f"{folder} was built for target {target}: its engine runs in this Python, not in NVIDIA's image",
            code="not-trtllm",
            hint=f"enginewright serve {folder} serves it on this machine",
        )
    manifest = read_json_object(folder / MANIFEST, limit=_LIMIT)
    if "package" not in manifest.get("chain", {}):
        raise UsageError(
            f"the engines of {folder} are not compiled yet",
            code="not-compiled",
            hint="compile them on a machine with the recipe's GPUs, as the build's last lines say",
        )
    try:
        recipe = TrtllmRecipe.model_validate(manifest["recipe"])
        engine = _engine(engine_records(manifest).values())
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        raise UsageError(
            f"{folder / MANIFEST} does not describe a build of this version: {type(error).__name__}",
            code="manifest-unknown",
            hint="build it again, or serve it with the version of enginewright that built it",
        ) from error
    return TrtllmRepository(recipe.name, folder.resolve(), trtllm_target(recipe), engine)


def _engine(records: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """One record of all variants' engines, which differ in memory at most: the larger one is needed."""
    memory = [record["gpu_memory_mib"] for record in records if record.get("gpu_memory_mib")]
    merged = {name: value for record in records for name, value in record.items()}
    return merged | ({"gpu_memory_mib": max(memory)} if memory else {})
