"""The decoder of a checkpoint, as far as the ONNX graph can express it."""

from __future__ import annotations

from pathlib import Path

from enginewright_errors import CheckpointError
from enginewright_model import ModelSpec, read_json_object, read_model_spec

__all__ = ["read_model"]


def read_model(checkpoint: Path) -> ModelSpec:
    """The model in `checkpoint`. Raises CheckpointError for what has no graph here, naming the field."""
    spec = read_model_spec(read_json_object(checkpoint / "config.json"))
    if spec.head_dim % 16:
        raise CheckpointError(
            f"config.json: head_dim is {spec.head_dim}",
            code="head-dim-unsupported",
            hint="ONNX Runtime's GroupQueryAttention needs a multiple of 16",
        )
    return spec
