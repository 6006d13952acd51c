"""What a result depends on beside the server: versions, this machine, the build that is served, the seed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Build", "Machine", "Provenance", "find_provenance"]

_DISTRIBUTIONS = ("enginewright", "grpcio", "protobuf", "tritonclient", "numpy")
_GPU_FIELDS = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "power.limit")
_COMMAND_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that sent the requests. gpus: by nvidia-smi's own field names and units."""

    host: str
    system: str
    processor: str
    cores: int
    memory_bytes: int
    gpus: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True)
class Build:
    """The served build: its name, the SHA-256 of its manifest and of the recipe in it."""

    name: str
    manifest_sha256: str
    recipe_sha256: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """commit: of the source checkout that ran, None for an installed package."""

    versions: dict[str, str]
    commit: str | None
    machine: Machine
    build: Build | None
    seed: int


def find_provenance(seed: int, repository: Path | None) -> Provenance:
    """Of a run that is about to begin. repository: the output folder of the served build, if known."""
    versions = {name: _version(name) for name in _DISTRIBUTIONS} | {"python": platform.python_version()}
    folder = Path(__file__).parent
    commit = _run("git", "-C", str(folder), "rev-parse", "HEAD")
    return Provenance(versions, commit or None, _machine(), _build(repository), seed)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _machine() -> Machine:
    query = _run("nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader")
    gpus = tuple(
        dict(zip(_GPU_FIELDS, (cell.strip() for cell in row.split(",")), strict=False))
        for row in query.splitlines()
    )
    return Machine(
        host=platform.node(),
        system=platform.platform(),
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=gpus,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _build(repository: Path | None) -> Build | None:
    if repository is None:
        return None
    try:
        content = (repository / "manifest.json").read_bytes()
        manifest = json.loads(content)
        recipe = json.dumps(manifest["recipe"], sort_keys=True).encode()
        return Build(str(manifest["name"]), _sha256(content), _sha256(recipe))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _run(*command: str) -> str:
    """What it prints, or nothing where it does not exist or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
