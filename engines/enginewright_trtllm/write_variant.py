"""A second context of the same engine weights: its own config.json, the rank files shared by hard link."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError, StageFailed

from enginewright_trtllm.check_checkpoint import check_checkpoint
from enginewright_trtllm.check_config import parallel_of
from enginewright_trtllm.out_folder import claimed, write_config
from enginewright_trtllm.rope import Rope, trtllm_scaling

__all__ = ["write_variant"]


def write_variant(
    checkpoint: Path,
    out: Path,
    *,
    max_position_embeddings: int,
    rope_scaling: Mapping[str, Any] | None = None,
) -> Path:
    """Write `out` as `checkpoint` with another promised context and rotary scaling; returns `out`.

    Rotary tables are made by trtllm-build from config.json, so no weight differs: the rank files are hard
    links and cost no disk. rope_scaling as in `write_checkpoint`. Raises CheckpointError when `checkpoint` is
    not a sound TensorRT-LLM checkpoint, RecipeError when the context is out of reach, UsageError when `out`
    is in use, StageFailed when the two folders cannot share files.
    """
    problems = check_checkpoint(checkpoint)
    if problems:
        raise CheckpointError(problems[0].message, code=problems[0].code, hint=problems[0].hint)
    config = json.loads((checkpoint / "config.json").read_bytes())
    own = config["rotary_scaling"]
    # What the model reaches unscaled: what its scaling starts from, else what the checkpoint promises.
    native = config["max_position_embeddings"] if own is None else own["original_max_position_embeddings"]
    scaling = trtllm_scaling(Rope(config["rotary_base"], own, native), rope_scaling, max_position_embeddings)

    variant = config | {"max_position_embeddings": max_position_embeddings, "rotary_scaling": scaling}
    with claimed(out):
        for rank in range(parallel_of(config).world_size):
            _share(checkpoint / f"rank{rank}.safetensors", out)
        write_config(out, variant)
    return out


def _share(file: Path, folder: Path) -> None:
    try:
        os.link(file, folder / file.name)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        raise StageFailed(
            f"{folder}: cannot share {file.name} with {file.parent}: {error.strerror}",
            code="hard-link",
            hint="Put both checkpoints on one file system that has hard links.",
        ) from error
