"""Ways to spoil a checkpoint, and the proof that it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginewright.checkpoint import open_checkpoint
from enginewright_errors import CheckpointError
from safetensors.numpy import load_file, save_file

Tiny = Callable[..., Path]


def refused(folder: Path, code: str, *says: str) -> CheckpointError:
    before = sorted(folder.rglob("*")) if folder.is_dir() else []
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    error = caught.value
    assert error.code == code, error.message
    for text in says:
        assert text in error.message
    assert error.hint and "\n" not in error.message
    assert (sorted(folder.rglob("*")) if folder.is_dir() else []) == before
    return error


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    fields = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            fields.pop(name, None)
        else:
            fields[name] = value
    path.write_text(json.dumps(fields))


def shard(folder: Path) -> dict[str, str]:
    """Split model.safetensors into two shards with an index; returns the weight map."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, half in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in half}, folder / file)
        weight_map |= dict.fromkeys(half, file)
    (folder / "model.safetensors").unlink()
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
