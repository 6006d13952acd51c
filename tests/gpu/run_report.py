"""A run on a GPU as a JSON file and as a Markdown table."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from enginewright.units import format_seconds
from enginewright_trtllm.figures import gigabytes
from gpu.stage_runs import StageRun

__all__ = ["TABLE_HEAD", "describe_machine", "table_row", "write_results"]

TABLE_HEAD = (
    "| format | stage | time (planned) | host peak (planned) | device peak (planned) | disk (planned) |\n"
    "|---|---|---|---|---|---|"
)
_LIBRARIES = ("torch", "transformers", "nvidia-modelopt", "safetensors")


def describe_machine(device: str) -> dict[str, Any]:
    """Device, cores, host memory and the versions that the figures depend on."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {
        "device": name,
        "cores": len(os.sched_getaffinity(0)),
        "host_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "device_bytes": torch.cuda.mem_get_info()[1] if device == "cuda" else None,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        **{library: importlib.metadata.version(library) for library in _LIBRARIES},
    }


def table_row(run: StageRun) -> str:
    """One line of the table under TABLE_HEAD."""
    measured, planned = run.measured, run.planned
    pairs = (
        f"{format_seconds(measured.seconds)} ({format_seconds(planned.seconds)})",
        f"{_size(measured.host_bytes)} ({gigabytes(planned.host_bytes)})",
        f"{_size(measured.device_bytes)} ({gigabytes(planned.device_bytes)})",
        f"{_size(measured.disk_bytes)} ({gigabytes(planned.disk_bytes)})",
    )
    return " | ".join(("| " + run.format, run.stage, *pairs)) + " |"


def write_results(file: Path, facts: Mapping[str, Any], runs: list[StageRun]) -> None:
    """Replace `file` with what was measured so far; its folder is created."""
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {"format": 1, **facts, "stages": [asdict(run) for run in runs]}
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _size(size: int | None) -> str:
    return "-" if size is None else gigabytes(size)
