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

__all__ = ["Container", "EngineMaker", "LocalBuilder", "ScriptEngines"]

Progress = Callable[[float], None]


class EngineMaker(Protocol):
    """`make` writes config.json and rank{N}.engine of `variant` into the empty folder `out`.

    log: a file that may be written. It returns what a builder said of its memory, None if none ran.
    """

    @property
    def environment(self) -> BuildEnvironment: ...

    def make(
        self,
        target: TrtllmTarget,
        variant: Variant,
        checkpoint: Path,
        out: Path,
        *,
        log: Path,
        progress: Progress,
    ) -> BuildMemory | None: ...


@dataclass(frozen=True, slots=True)
class LocalBuilder:
    """The trtllm-build of this machine, or of the container that this process is in."""

    environment: BuildEnvironment

    def make(
        self,
        target: TrtllmTarget,
        variant: Variant,
        checkpoint: Path,
        out: Path,
        *,
        log: Path,
        progress: Progress,
    ) -> BuildMemory | None:
        command = build_command(
            target,
            variant,
            checkpoint=str(checkpoint),
            output=str(out),
            timing_cache=str(log.with_suffix(".timing")),
        )
        return run_builder(
            command, log, world_size=target.world_size, progress=progress, env={"HF_HUB_OFFLINE": "1"}
        )


@dataclass(frozen=True, slots=True)
class Container:
    """NVIDIA's image by `docker run`, as this user, on a read-only root, without a network."""

    environment: BuildEnvironment

    def make(
        self,
        target: TrtllmTarget,
        variant: Variant,
        checkpoint: Path,
        out: Path,
        *,
        log: Path,
        progress: Progress,
    ) -> BuildMemory | None:
        name = f"enginewright-{log.stem}"
        command = build_container(
            target,
            variant,
            checkpoint=str(checkpoint),
            output=str(out),
            user=f"{os.getuid()}:{os.getgid()}",
            name=name,
        )
        _remove(name)  # a client that was killed leaves its container running
        try:
            return run_builder(command, log, world_size=target.world_size, progress=progress)
        except BaseException:
            _remove(name)
            raise


@dataclass(frozen=True, slots=True)
class ScriptEngines:
    """What `build-engines.sh` left in `folder`."""

    environment: BuildEnvironment
    folder: Path

    def make(
        self,
        target: TrtllmTarget,
        variant: Variant,
        checkpoint: Path,
        out: Path,
        *,
        log: Path,
        progress: Progress,
    ) -> BuildMemory | None:
        for file in (self.folder / engine_folder(variant)).iterdir():
            try:
                os.link(file, out / file.name)
            except OSError:
                shutil.copyfile(file, out / file.name)
        progress(1.0)
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
