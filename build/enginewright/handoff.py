"""A build that ended after its checkpoints: a folder that is taken to a GPU, where `build-engine` goes on.

OUT/manifest.json                   the chain so far, and the recipe
OUT/checkpoint/{native,long,model}  as the checkpoint stage wrote them
OUT/build-engines.sh                builds the engines where enginewright is not installed
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright.output import MANIFEST

__all__ = ["CHECKPOINT_FOLDER", "MODEL_FOLDER", "Handoff", "read_handoff"]

CHECKPOINT_FOLDER = "checkpoint"
MODEL_FOLDER = "model"


@dataclass(frozen=True, slots=True)
class Handoff:
    """recipe: as the manifest has it, plain data. chain: its links, by stage."""

    folder: Path
    recipe: Mapping[str, Any]
    chain: Mapping[str, Any]

    @property
    def checkpoint(self) -> Path:
        """What the checkpoint stage wrote."""
        return self.folder / CHECKPOINT_FOLDER

    @property
    def beginning(self) -> dict[str, Any]:
        """The links before the checkpoint, which only the machine that wrote it could make."""
        first = ("source", "calibration", "quantize", "report")
        return {stage: self.chain[stage] for stage in first if stage in self.chain}


def read_handoff(folder: Path) -> Handoff | None:
    """The handed-off build in `folder`; None if it is something else."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        chain = manifest["chain"]
        if "handoff" not in chain or "checkpoint" not in chain:
            return None
        return Handoff(folder.resolve(), manifest["recipe"], chain)
    except (OSError, ValueError, TypeError, KeyError):
        return None
