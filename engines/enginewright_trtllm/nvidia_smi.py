"""The GPUs of this machine, by nvidia-smi."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from enginewright_errors import StageFailed, UsageError

__all__ = ["NVIDIA_SMI", "parse_nvidia_smi", "read_gpus"]

NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,compute_cap,driver_version",
    "--format=csv,noheader,nounits",
)
_CAPABILITY = re.compile(r"[0-9]{1,3}(\.[0-9])?")
_SECONDS = 60


def parse_nvidia_smi(output: str) -> list[dict[str, Any]]:
    """The `gpus` of an environment from the output of `NVIDIA_SMI`: name, memory_mib, sm, driver if it is
    given."""
    gpus: list[dict[str, Any]] = []
    for line in output.splitlines():
        name, *parts = [part.strip() for part in line.split(",")]
        if len(parts) in (2, 3) and parts[0].isdecimal() and _CAPABILITY.fullmatch(parts[1]):
            major, _, minor = parts[1].partition(".")
            gpu = {"name": name, "memory_mib": int(parts[0]), "sm": int(major) * 10 + int(minor or 0)}
            gpus.append(gpu | ({"driver": parts[2]} if len(parts) == 3 else {}))
    return gpus


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


def _broken(said: str) -> StageFailed:
    return StageFailed(
        f"the NVIDIA driver does not work: {said}",
        code="gpu-driver",
        hint="run nvidia-smi; after an update of the driver, restart the machine",
    )
