"""`enginewright serve` for TensorRT-LLM: Triton by mpirun where it is installed, else in NVIDIA's image."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enginewright_serve.access import Access
from enginewright_serve.access_flags import SEALED, access_flags, access_variables
from enginewright_serve.container_access import (
    ACCESS_MOUNT,
    SEALED_IN_CONTAINER,
    access_in_container,
    copy_access,
)
from enginewright_serve.external_server import ExternalServer
from enginewright_serve.ports import choose_ports, client_address
from enginewright_serve.server_base import FRONT_VARIABLES, Command
from enginewright_trtllm.container import Mount, serve_container
from enginewright_trtllm.launch import Ports, ServerFlags, launch_server
from enginewright_trtllm.native_repository import has_tensorrtllm_backend, place_repository
from enginewright_trtllm.versions import container_image

from enginewright.trtllm_checks import check_before_serving, check_one_node, describe_checks
from enginewright.trtllm_repository import TrtllmRepository, read_trtllm_repository

__all__ = ["TrtllmServing", "dry_run", "trtllm_server"]

# What a dry run says in place of a folder and of keys.
_PRIVATE, _SECRET = Path("/A_NEW_PRIVATE_FOLDER"), "SECRET"
_ACCESS = "access"
# What mpirun waits before it hands a signal on, and what the ranks take to free their GPUs.
_BEYOND_DRAIN_SECONDS = 30


@dataclass(frozen=True, slots=True)
class TrtllmServing:
    """How it was asked to be served. gpus: indices, empty for the first ones. container: even where a
    tritonserver with the backend is installed. drain_seconds: for running requests when it is stopped.
    access: TLS and a token."""

    host: str = "127.0.0.1"
    access: Access = field(default_factory=Access)
    grpc_port: int = 8001
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 8002
    gpus: tuple[int, ...] = ()
    container: bool = False
    drain_seconds: int = 30
    log_requests: bool = True
    log: Path | None = None

    @property
    def in_container(self) -> bool:
        return self.container or not has_tensorrtllm_backend()


def trtllm_server(folder: Path, serving: TrtllmServing) -> ExternalServer:
    """The server of the repository in `folder`, once everything that can be checked before its start is.

    Raises UsageError, DoesNotFit or StageFailed for the first thing that is wrong.
    """
    repository, in_container = read_trtllm_repository(folder), serving.in_container
    check_before_serving(repository, in_container=in_container, gpus=serving.gpus)
    wanted = {"--grpc-port": serving.grpc_port, "--metrics-port": serving.metrics_port}
    choose_ports(serving.host, wanted)

    def command(private: Path) -> Command:
        print(f"starting {repository.name}; engines load for minutes, the log is {server.log}", flush=True)
        variables = access_variables(serving.access)
        if in_container:
            copy_access(serving.access, private / _ACCESS)
            return _docker(repository, serving, private, variables)
        placed = place_repository(repository.folder, private / "models")
        return _native(repository, serving, placed, f"{private.name}_", variables)

    server = ExternalServer(
        command,
        host=serving.host,
        grpc_address=client_address(serving.host, serving.grpc_port),
        metrics_address=client_address(serving.metrics_host, serving.metrics_port),
        access=serving.access,
        log_requests=serving.log_requests,
        log=serving.log,
        exit_timeout=_stop_seconds(serving),
    )
    return server


def dry_run(folder: Path, serving: TrtllmServing) -> Iterator[str]:
    """Lines that say what would be checked, and the command line that would be run; nothing is looked at but
    the manifest."""
    repository, in_container = read_trtllm_repository(folder), serving.in_container
    check_one_node(repository)
    target = repository.target
    where = container_image(target.container) if in_container else "the tritonserver that is installed"
    variants = " and ".join(variant.name for variant in target.variants)
    yield f"{repository.name} in {where}: {variants}, tp {target.tp}, pp {target.pp}, {target.gpu_count} GPUs"
    yield "checked before the start"
    for what, condition in describe_checks(repository, in_container=in_container):
        yield f"  {what:<9} {condition}"
    yield f"  {'ports':<9} {serving.grpc_port} and {serving.metrics_port} of {serving.host} are free"
    yield "up when the model llm has generated a token through it"
    variables = dict.fromkeys(access_variables(serving.access), _SECRET)
    if in_container:
        yield f"{_PRIVATE} will hold copies of the TLS files for the container's user, and the script that"
        yield "keeps the keys out of the process table"
        yield _shell(_docker(repository, serving, _PRIVATE, variables))
        return
    if str(repository.folder) != "/models":
        yield "its configs name /models: a folder of links with the right paths will stand in for it"
    yield _shell(_native(repository, serving, repository.folder, "prefix", variables))


def _docker(
    repository: TrtllmRepository, serving: TrtllmServing, private: Path, variables: Mapping[str, str]
) -> Command:
    """private: its name is the container's; it holds what `copy_access` made."""
    name = private.name
    argv = serve_container(
        repository.target,
        repository=str(repository.folder),
        ports=Ports(serving.grpc_port, None, serving.metrics_port),
        name=name,
        gpus=serving.gpus,
        host=serving.host,
        metrics_host=serving.metrics_host,
        flags=ServerFlags(
            exit_timeout=serving.drain_seconds,
            guard=access_flags(access_in_container(serving.access)),
            sealed=SEALED_IN_CONTAINER,
        ),
        inherited=(*FRONT_VARIABLES, *variables),
        mounts=(Mount(str(private / _ACCESS), ACCESS_MOUNT, read_only=True),),
    )
    return Command(
        tuple(argv),
        variables,
        stop=("docker", "stop", "-t", str(_stop_seconds(serving)), name),
        remove=("docker", "rm", "--force", name),
    )


def _native(
    repository: TrtllmRepository,
    serving: TrtllmServing,
    placed: Path,
    shm_prefix: str,
    variables: Mapping[str, str],
) -> Command:
    launch = launch_server(
        repository.target,
        repository=str(placed),
        ports=Ports(
            serving.grpc_port,
            None,
            serving.metrics_port,
            grpc_address=serving.host,
            metrics_address=serving.metrics_host,
        ),
        flags=ServerFlags(shm_prefix, serving.drain_seconds, access_flags(serving.access), SEALED),
    )
    chosen = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, serving.gpus))} if serving.gpus else {}
    return Command(launch.argv, {**launch.env, **chosen, **variables})


def _stop_seconds(serving: TrtllmServing) -> int:
    return serving.drain_seconds + _BEYOND_DRAIN_SECONDS


def _shell(command: Command) -> str:
    """The command as it can be pasted into a shell, an option a line."""
    return " \\\n  ".join(
        " ".join(map(shlex.quote, line)) for line in _lines(command.environment, command.argv)
    )


def _lines(environment: Mapping[str, str], argv: Iterable[str]) -> Iterator[list[str]]:
    line = [f"{name}={value}" for name, value in environment.items()]
    for word in argv:
        if line and (word.startswith(("--", "nvcr.io/")) or word in (":", "mpirun", "tritonserver")):
            yield line
            line = []
        line.append(word)
    yield line
