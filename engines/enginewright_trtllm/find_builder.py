"""Looks for what can build engines on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enginewright_errors import StageFailed, UsageError

from enginewright_trtllm.build_environment import BuildEnvironment, check_build_environment
from enginewright_trtllm.engine_makers import Container, LocalBuilder
from enginewright_trtllm.nvidia_smi import read_gpus
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.versions import release_of_container

__all__ = ["find_builder"]

# Their metadata, not their import, which takes seconds and initializes CUDA.
_VERSIONS = (
    "import importlib.metadata as m\n"
    "for name in ('tensorrt_llm', 'tensorrt'):\n"
    "    try: print(m.version(name))\n"
    "    except m.PackageNotFoundError: print('')\n"
)
_SECONDS = 60


def find_builder(target: TrtllmTarget, *, container: bool) -> LocalBuilder | Container | str:
    """What builds engines here; or, in a few words, why nothing does.

    container: docker has to, whatever else is here. Raises UsageError when it cannot, and for a TensorRT-LLM
    or a GPU that is not the target's.
    """
    builder = shutil.which("trtllm-build")
    gpus = _gpus()
    if container:
        if shutil.which("docker") is None or not gpus:
            missing = "docker" if shutil.which("docker") is None else "a GPU that nvidia-smi lists"
            raise UsageError(
                f"--container needs docker and a GPU, and {missing} is not here",
                code="no-container",
                hint="leave --container out: the build then ends after the checkpoints and says how to go on",
            )
        release = release_of_container(target.container)
        environment = BuildEnvironment(
            release.tensorrt_llm if release else "unknown", release.tensorrt if release else None, gpus
        )
        check_build_environment(target, environment)
        return Container(environment)
    if builder is None:
        return "no trtllm-build is on PATH"
    if not gpus:
        return "trtllm-build is here, but no GPU that nvidia-smi lists"
    tensorrt_llm, tensorrt = _versions(Path(builder))
    environment = BuildEnvironment(tensorrt_llm or "of unknown version", tensorrt or None, gpus)
    check_build_environment(target, environment)
    return LocalBuilder(environment)


def _gpus() -> tuple[dict[str, Any], ...]:
    """None where there is no driver, or one that does not work: engines are then built elsewhere."""
    try:
        return tuple(read_gpus())
    except StageFailed:
        return ()


def _versions(builder: Path) -> tuple[str, str]:
    """TensorRT-LLM's and TensorRT's, by the Python that the script `builder` names in its first line."""
    try:
        with builder.open("rb") as script:
            words = os.fsdecode(script.readline(4096)).removeprefix("#!").split()
    except OSError:
        words = []
    python = words if words and "python" in words[-1] else ["python3"]
    lines = [*_output([*python, "-c", _VERSIONS]).splitlines(), "", ""]
    return lines[0].strip(), lines[1].strip()


def _output(command: Sequence[str]) -> str:
    """What `command` prints, "" if it fails or is not here."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
