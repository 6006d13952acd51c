"""Where a variant's engine comes from: trtllm-build here, a container that runs it, or the build script.

All makers have `environment`, what their engines are bound to, and `make`, which fills an empty folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from enginewright_trtllm.build_command import build_command
from enginewright_trtllm.build_environment import BuildEnvironment
from enginewright_trtllm.build_output import BuildMemory
from enginewright_trtllm.build_script import engine_folder
from enginewright_trtllm.container import build_container
from enginewright_trtllm.run_builder import run_builder
from enginewright_trtllm.target import TrtllmTarget, Variant

__all__ = ["Container", "EngineJob", "EngineMaker", "LocalBuilder", "ScriptEngines"]


@dataclass(frozen=True, slots=True)
class EngineJob:
    """One engine to make: of `variant` from its `checkpoint` into the empty folder `out`.

    log: a file that may be written. progress: is given the share that is done.
    """

    target: TrtllmTarget
    variant: Variant
    checkpoint: Path
    out: Path
    log: Path
    progress: Callable[[float], None]


class EngineMaker(Protocol):
    """`make` writes config.json and rank{N}.engine. It returns what a builder said of its memory, None if
    none ran."""

    @property
    def environment(self) -> BuildEnvironment: ...

    def make(self, job: EngineJob) -> BuildMemory | None: ...


@dataclass(frozen=True, slots=True)
class LocalBuilder:
    """The trtllm-build of this machine, or of the container that this process is in."""

    environment: BuildEnvironment

    def make(self, job: EngineJob) -> BuildMemory | None:
        command = build_command(
            job.target,
            job.variant,
            checkpoint=str(job.checkpoint),
            output=str(job.out),
            timing_cache=str(job.log.with_suffix(".timing")),
        )
        return run_builder(
            command,
            job.log,
            world_size=job.target.world_size,
            progress=job.progress,
            env={"HF_HUB_OFFLINE": "1"},
        )


@dataclass(frozen=True, slots=True)
class Container:
    """NVIDIA's image by `docker run`, as this user, on a read-only root, without a network."""

    environment: BuildEnvironment

    def make(self, job: EngineJob) -> BuildMemory | None:
        name = f"enginewright-{job.log.stem}"
        command = build_container(
            job.target,
            job.variant,
            checkpoint=str(job.checkpoint),
            output=str(job.out),
            user=f"{os.getuid()}:{os.getgid()}",
            name=name,
        )
        _remove(name)  # a client that was killed leaves its container running
        try:
            return run_builder(command, job.log, world_size=job.target.world_size, progress=job.progress)
        except BaseException:
            _remove(name)
            raise


@dataclass(frozen=True, slots=True)
class ScriptEngines:
    """What `build-engines.sh` left in `folder`."""

    environment: BuildEnvironment
    folder: Path

    def make(self, job: EngineJob) -> BuildMemory | None:
        for file in (self.folder / engine_folder(job.variant)).iterdir():
            try:
                os.link(file, job.out / file.name)
            except OSError:
                shutil.copyfile(file, job.out / file.name)
        job.progress(1.0)
        return None


def _remove(container: str) -> None:
    with suppress(OSError):
        subprocess.run(
            ["docker", "rm", "--force", container],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
