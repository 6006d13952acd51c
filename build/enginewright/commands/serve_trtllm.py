"""`enginewright serve` for TensorRT-LLM: Triton by mpirun where it is installed, else in NVIDIA's image."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from enginewright_serve.external_server import ExternalServer
from enginewright_serve.ports import choose_ports, client_address
from enginewright_serve.server_base import FRONT_VARIABLES, Command
from enginewright_trtllm.container import serve_container
from enginewright_trtllm.launch import Ports, ServerFlags, launch_server, make_ports
from enginewright_trtllm.native_repository import has_tensorrtllm_backend, place_repository
from enginewright_trtllm.versions import container_image

from enginewright.trtllm_checks import check_before_serving, check_one_node, describe_checks
from enginewright.trtllm_repository import TrtllmRepository, read_trtllm_repository

__all__ = ["TrtllmServing", "dry_run", "trtllm_server"]

_NEW_KEY = "NEW_AT_EVERY_START"
# What mpirun waits before it hands a signal on, and what the ranks take to free their GPUs.
_BEYOND_DRAIN_SECONDS = 30


@dataclass(frozen=True, slots=True)
class TrtllmServing:
    """How it was asked to be served. gpus: indices, empty for the first ones. container: even where a
    tritonserver with the backend is installed. drain_seconds: for running requests when it is stopped."""

    host: str = "127.0.0.1"
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
    free = choose_ports(serving.host, wanted if in_container else {**wanted, "HTTP's": None})

    key = secrets.token_hex(16)

    def command(private: Path) -> Command:
        print(f"starting {repository.name}; engines load for minutes, the log is {server.log}", flush=True)
        if in_container:
            return _docker(repository, serving, name=private.name, admin_key=key)
        placed = place_repository(repository.folder, private / "models")
        flags = ServerFlags(f"{private.name}_", serving.drain_seconds, key)
        return _native(repository, serving, placed, free[2], flags)

    server = ExternalServer(
        command,
        host=serving.host,
        grpc_address=client_address(serving.host, serving.grpc_port),
        metrics_address=client_address(serving.metrics_host, serving.metrics_port),
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
    if in_container:
        yield _shell(_docker(repository, serving, name="enginewright", admin_key=_NEW_KEY))
        return
    if str(repository.folder) != "/models":
        yield "its configs name /models: a folder of links with the right paths will stand in for it"
    http_port = make_ports(serving.grpc_port, serving.metrics_port).http
    flags = ServerFlags(exit_timeout=serving.drain_seconds, admin_key=_NEW_KEY)
    yield _shell(_native(repository, serving, repository.folder, http_port, flags))


def _docker(repository: TrtllmRepository, serving: TrtllmServing, *, name: str, admin_key: str) -> Command:
    ports = make_ports(serving.grpc_port, serving.metrics_port)
    return Command(
        tuple(
            serve_container(
                repository.target,
                repository=str(repository.folder),
                ports=ports,
                name=name,
                gpus=serving.gpus,
                host=serving.host,
                metrics_host=serving.metrics_host,
                flags=ServerFlags(exit_timeout=serving.drain_seconds, admin_key=admin_key),
                inherited=FRONT_VARIABLES,
            )
        ),
        stop=("docker", "stop", "-t", str(_stop_seconds(serving)), name),
        remove=("docker", "rm", "--force", name),
    )


def _native(
    repository: TrtllmRepository, serving: TrtllmServing, placed: Path, http_port: int, flags: ServerFlags
) -> Command:
    ports = Ports(
        serving.grpc_port,
        http_port,
        serving.metrics_port,
        grpc_address=serving.host,
        metrics_address=serving.metrics_host,
    )
    launch = launch_server(repository.target, repository=str(placed), ports=ports, flags=flags)
    chosen = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, serving.gpus))} if serving.gpus else {}
    return Command(launch.argv, {**launch.env, **chosen})


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
