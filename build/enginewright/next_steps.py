"""What is left for the user to do after a build that could not compile engines."""

from __future__ import annotations

from pathlib import Path

from enginewright_trtllm.build_script import BUILD_SCRIPT
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.versions import container_image

__all__ = ["next_steps"]


def next_steps(folder: Path, target: TrtllmTarget, reason: str) -> str:
    """Three lines: why (`reason`), how it goes on with enginewright on the GPU's machine, and without."""
    name = folder.name
    return (
        f"no engine was built: {reason}\n"
        f"to go on, copy {name} to a machine with {target.world_size} x {target.gpu} and run "
        f"`build-engine {name} --container` there (or `build-engine {name}` in "
        f"{container_image(target.container)})\n"
        f"or, without enginewright there: `sh {name}/{BUILD_SCRIPT}`, copy {name} back, `build-engine {name}`"
    )
