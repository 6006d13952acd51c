"""The output folder of a checkpoint: claimed empty, and complete only once its config.json is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enginewright_errors import StageFailed, UsageError

__all__ = ["claimed", "write_config"]


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Create `folder`, or take it when it is empty, for the block to fill; whatever stops the block, it is
    empty again. Raises UsageError when the folder is in use, StageFailed for a disk error in the block."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UsageError(
            f"{folder} is not empty", code="output-not-empty", hint="Give a folder that does not exist yet."
        )
    try:
        yield
    except BaseException as error:
        for file in folder.iterdir():
            file.unlink()
        if isinstance(error, OSError):
            raise StageFailed(
                f"{folder}: {error.strerror or error}",
                code="write-failed",
                hint="Look at the disk, then run again.",
            ) from error
        raise


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json and make it and the folder's entries durable. Without it trtllm-build does not start,
    so it comes last."""
    with (folder / "config.json").open("w") as stream:
        json.dump(config, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
