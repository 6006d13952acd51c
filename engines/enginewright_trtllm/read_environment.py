"""What this machine has for an engine: its GPUs by nvidia-smi, and the TensorRT-LLM that is installed."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enginewright_errors import StageFailed, UsageError

from enginewright_trtllm.check_environment import NVIDIA_SMI, parse_nvidia_smi
from enginewright_trtllm.versions import CONTAINERS

__all__ = ["installed_release", "read_gpus"]

_SECONDS = 60
# Where NVIDIA's images install Python packages; this program may run in an environment of its own.
_SYSTEM_PACKAGES = ("/usr/local/lib", "python3*/dist-packages")


def read_gpus(chosen: Sequence[int] = ()) -> list[dict[str, Any]]:
    """The GPUs of this machine as `check_environment` wants them; `chosen` ones only, by index, if any.

    Raises StageFailed when there is no driver or it does not work, UsageError for an index that is not there.
    """
    if shutil.which(NVIDIA_SMI[0]) is None:
        raise StageFailed(
            "no NVIDIA driver on this machine: nvidia-smi is not on PATH",
            code="no-gpu",
            hint="serve it where the GPUs are; --dry-run prints how, `enginewright deploy` writes the files",
        )
    try:
        done = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _broken(str(error)) from None
    said = f"{done.stdout}\n{done.stderr}".strip()
    # Without a single card it says so in words, with an exit code of 0 or 6.
    if done.returncode and "No devices" not in said:
        raise _broken(said.partition("\n")[0] or f"nvidia-smi ended with exit code {done.returncode}")
    gpus = parse_nvidia_smi(done.stdout)
    for index in chosen:
        if not 0 <= index < len(gpus):
            raise UsageError(
                f"--gpus: there is no GPU {index}, {len(gpus)} are visible",
                code="no-such-gpu",
                hint="give indices as nvidia-smi counts them, like 0,1",
            )
    return [gpus[index] for index in chosen] if chosen else gpus


def installed_release() -> dict[str, Any]:
    """tensorrt_llm, tensorrt and cuda of what is installed here; without what is not known."""
    folder, pattern = _SYSTEM_PACKAGES
    places = [*sys.path, *map(str, sorted(Path(folder).glob(pattern)))]
    found: dict[str, Any] = {}
    for name in ("tensorrt_llm", "tensorrt"):
        for package in importlib.metadata.distributions(name=name, path=places):
            found.setdefault(name, package.version)
    known = [release for release in CONTAINERS.values() if release.tensorrt_llm == found.get("tensorrt_llm")]
    if known and known[-1].cuda:
        found["cuda"] = known[-1].cuda
    return found


def _broken(said: str) -> StageFailed:
    return StageFailed(
        f"the NVIDIA driver does not work: {said}",
        code="gpu-driver",
        hint="run nvidia-smi; after an update of the driver, restart the machine",
    )
