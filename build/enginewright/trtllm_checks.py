"""What is looked at before TensorRT-LLM engines are served here: minutes of loading end in vaguer words."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from enginewright_errors import DoesNotFit, EnginewrightError, StageFailed, UsageError
from enginewright_serve.repository import check_repository
from enginewright_trtllm.check_environment import check_environment
from enginewright_trtllm.container import SERVER_USER
from enginewright_trtllm.docker_host import check_docker
from enginewright_trtllm.finding import Finding
from enginewright_trtllm.installed_release import installed_release
from enginewright_trtllm.nvidia_smi import read_gpus
from enginewright_trtllm.readable import unreadable
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.versions import container_image, release_of_container

from enginewright.trtllm_repository import TrtllmRepository

__all__ = ["check_before_serving", "check_one_node", "describe_checks", "unreadable_file"]

# The machine is too small for the engine; every other finding is an engine for another machine.
_TOO_SMALL = ("environment-gpus", "environment-memory")


def check_before_serving(repository: TrtllmRepository, *, in_container: bool, gpus: Sequence[int]) -> None:
    """Raise what is wrong with files, GPUs, versions, docker or mpirun; print warnings.

    gpus: the indices that were chosen, empty for the first ones. Raises UsageError for an engine of another
    TensorRT-LLM or architecture, DoesNotFit for too few GPUs or too little memory, StageFailed for what is
    not installed or does not work.
    """
    target = repository.target
    check_repository(repository.folder)
    check_one_node(repository)
    environment = {"gpus": read_gpus(gpus), **_release(target, in_container=in_container)}
    engine = {**repository.engine, "world_size": target.gpu_count}
    for finding in check_environment(engine, environment):
        if finding.severity == "error":
            raise _as_error(finding)
        print(f"warning: {finding.message}: {finding.reason}. {finding.remedy}", file=sys.stderr)
    if in_container:
        check_docker(container_image(target.container))
        _check_readable(repository)
    elif (target.world_size > 1 or len(target.variants) > 1) and shutil.which("mpirun") is None:
        raise StageFailed(
            "mpirun is not on PATH; ranks are started with it",
            code="no-mpirun",
            hint=f"run this inside {container_image(target.container)}, which has it, or add --container",
        )


def check_one_node(repository: TrtllmRepository) -> None:
    """Raises UsageError for engines whose ranks are spread over several machines."""
    if repository.target.nodes > 1:
        raise UsageError(
            f"its engine spans {repository.target.nodes} machines, and this command serves on one",
            code="several-nodes",
            hint=f"enginewright deploy k8s {repository.folder} --out FOLDER writes a LeaderWorkerSet",
        )


def describe_checks(repository: TrtllmRepository, *, in_container: bool) -> Iterator[tuple[str, str]]:
    """(what, which condition) of each check, for people."""
    target, engine = repository.target, repository.engine
    yield "files", "every file of the manifest is there, with its size"
    sm, memory = engine.get("sm"), engine.get("gpu_memory_mib")
    conditions = [f"SM {sm}" if sm else "", f"about {memory} MiB or more" if memory else ""]
    yield "GPUs", ", ".join([f"{target.gpu_count} visible", *filter(None, conditions)])
    versions = (("TensorRT-LLM", engine.get("tensorrt_llm")), ("TensorRT", engine.get("tensorrt")))
    yield (
        "versions",
        ", ".join(f"{name} {version}" for name, version in versions if version) or "not recorded",
    )
    if in_container:
        yield "docker", f"its daemon answers and has the image; user {SERVER_USER} may read the repository"


def _release(target: TrtllmTarget, *, in_container: bool) -> dict[str, object]:
    if not in_container:
        return installed_release()
    release = release_of_container(target.container)
    if release is None:
        return {}
    return {"tensorrt_llm": release.tensorrt_llm, "tensorrt": release.tensorrt, "cuda": release.cuda}


def _as_error(finding: Finding) -> EnginewrightError:
    kind = DoesNotFit if finding.code in _TOO_SMALL else UsageError
    return kind(f"{finding.message}: {finding.reason}", code=finding.code, hint=finding.remedy)


def unreadable_file(repository: TrtllmRepository) -> Path | None:
    """The first file that the container's user may not read."""
    return unreadable(repository.folder, SERVER_USER)


def _check_readable(repository: TrtllmRepository) -> None:
    path = unreadable_file(repository)
    if path is not None:
        raise UsageError(
            f"{path} cannot be read by user {SERVER_USER}, which the container runs as",
            code="not-readable",
            hint=f"chmod -R a+rX {repository.folder}",
        )
