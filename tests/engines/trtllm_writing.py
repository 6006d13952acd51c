"""What the tests of TensorRT-LLM checkpoints share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginewright_trtllm import write_checkpoint
from trtllm_models import (
    Tensors,
)

Made = tuple[Path, Tensors]


def write(unified: Path, out: Path, **options: Any) -> Path:
    write_checkpoint(unified, out, **{"max_position_embeddings": 32768, **options})
    return out
