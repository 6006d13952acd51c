"""`docker run` lines: one that builds an engine, one that serves a repository.

Both run as an ordinary user on a read-only root without capabilities. The builder has no network: what it
needs is mounted. The server sees its models read-only, and publishes its ports on the loopback unless it is
told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enginewright_errors import UsageError

from enginewright_trtllm.build_command import build_command
from enginewright_trtllm.launch import Launch, Ports, ServerFlags, launch_server
from enginewright_trtllm.target import TrtllmTarget, Variant
from enginewright_trtllm.versions import container_image

__all__ = ["MODELS", "SERVER_USER", "Mount", "build_container", "docker_run", "serve_container", "shm_gib"]

MODELS = "/models"
_CHECKPOINT = "/checkpoint"
_ENGINE = "/engine"
# triton-server of NVIDIA's images.
SERVER_USER = "1000:1000"


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the host in a container."""

    source: str
    target: str
    read_only: bool


def build_container(
    target: TrtllmTarget,
    variant: Variant,
    *,
    checkpoint: str,
    output: str,
    user: str,
    name: str | None = None,
) -> list[str]:
    """`docker run` of trtllm-build. output: an existing folder that `user` ("uid:gid") may write.

    name: of the container, by which it can be removed.
    """
    command = build_command(target, variant, checkpoint=_CHECKPOINT, output=_ENGINE)
    return docker_run(
        container_image(target.container),
        Launch(tuple(command), {"HF_HUB_OFFLINE": "1"}),
        mounts=(Mount(checkpoint, _CHECKPOINT, read_only=True), Mount(output, _ENGINE, read_only=False)),
        gpus=target.world_size,
        user=user,
        shm=shm_gib(target),
        network="none",
        name=name,
    )


def serve_container(
    target: TrtllmTarget,
    *,
    repository: str,
    ports: Ports | None = None,
    name: str = "enginewright",
    gpus: Sequence[int] = (),
    host: str = "127.0.0.1",
    metrics_host: str = "127.0.0.1",
    flags: ServerFlags | None = None,
    inherited: Sequence[str] = (),
    mounts: Sequence[Mount] = (),
) -> list[str]:
    """`docker run` of the server. repository: the packaged model repository on the host. gpus: which of the
    host's, any when empty. host, metrics_host: the host's addresses at which its ports are published.
    inherited: variables of docker's own environment that the server gets. mounts: beside the repository."""
    ports = ports or Ports()
    launch = launch_server(target, repository=MODELS, ports=ports, flags=flags or ServerFlags())
    return docker_run(
        container_image(target.container),
        launch,
        mounts=(Mount(repository, MODELS, read_only=True), *mounts),
        gpus=gpus or target.gpu_count,
        user=SERVER_USER,
        shm=shm_gib(target),
        publish=(f"{host}:{ports.grpc}:{ports.grpc}", f"{metrics_host}:{ports.metrics}:{ports.metrics}"),
        inherited=inherited,
        name=name,
    )


def shm_gib(target: TrtllmTarget) -> int:
    """/dev/shm in GiB: a gigabyte a rank for NCCL, one more for the Python models."""
    return 1 + max(1, target.gpu_count)


def docker_run(
    image: str,
    launch: Launch,
    *,
    mounts: Sequence[Mount],
    gpus: int | Sequence[int],
    user: str,
    shm: int,
    network: str | None = None,
    publish: Sequence[str] = (),
    inherited: Sequence[str] = (),
    name: str | None = None,
) -> list[str]:
    """A hardened `docker run` as an argument list. gpus: how many, or which. publish: ports, as
    address:port:port in the container."""
    return [
        *("docker", "run", "--rm", "--init"),
        *(("--name", name) if name else ()),
        *("--gpus", _gpus(gpus)),
        *("--user", user, "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        # Docker's own default is 64 MB without exec; torch loads code that it compiles from there.
        *("--tmpfs", "/tmp:rw,exec,nosuid,nodev,size=8g"),
        *("--shm-size", f"{shm}g", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"),
        *(("--network", network) if network else ()),
        *(part for port in publish for part in ("--publish", port)),
        *(part for key, value in _environment(launch.env) for part in ("--env", f"{key}={value}")),
        *(part for variable in inherited for part in ("--env", variable)),
        *(part for mount in mounts for part in ("--mount", _mount(mount))),
        image,
        *launch.argv,
    ]


def _environment(env: Mapping[str, str]) -> list[tuple[str, str]]:
    # The root is read-only and the user has no home: caches go to /tmp, byte code nowhere.
    return sorted({"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", **env}.items())


def _gpus(gpus: int | Sequence[int]) -> str:
    # Docker reads the value as CSV: a list of devices is one quoted field.
    return str(gpus) if isinstance(gpus, int) else f'"device={",".join(map(str, gpus))}"'


def _mount(mount: Mount) -> str:
    if "\0" in mount.source or "\n" in mount.source or not mount.source:
        raise UsageError(
            f"the path {mount.source!r} cannot be mounted", code="mount-path", hint="Move the folder."
        )
    source = f"src={mount.source}"
    if "," in source or '"' in source:
        doubled = source.replace('"', '""')
        source = f'"{doubled}"'
    return f"type=bind,{source},dst={mount.target}" + (",readonly" if mount.read_only else "")
