"""`enginewright serve REPO`: Triton on a packaged repository until it is stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from enginewright_errors import UsageError

from enginewright.interrupt import Interrupted, interruptible
from enginewright.units import format_seconds

if TYPE_CHECKING:
    from enginewright_serve import ExternalServer, TritonServer

__all__ = ["serve"]

_GPUS = "TensorRT-LLM engines"


def serve(
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="The output folder of a build.")],
    grpc_port: Annotated[int, typer.Option("--grpc-port", help="Port for clients.")] = 8001,
    metrics_port: Annotated[int, typer.Option("--metrics-port", help="Port for Prometheus.")] = 8002,
    http_port: Annotated[
        int | None, typer.Option("--http-port", help="Port of Triton's HTTP; without it there is none.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="IPv4 address to listen at.")] = "127.0.0.1",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of the engine, not the build's choice.")
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", help="Where the server's output goes, and stays.")
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus", metavar="0,1,...", help="Which GPUs [default: the first].", rich_help_panel=_GPUS
        ),
    ] = None,
    container: Annotated[
        bool,
        typer.Option(
            "--container", help="docker run, even where tritonserver is installed.", rich_help_panel=_GPUS
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command line, run nothing.", rich_help_panel=_GPUS)
    ] = False,
) -> None:
    """Serve a repository with Triton; it is up when this command says so, which is after a generated token.

    Ctrl-C and SIGTERM stop it: running requests have 10 seconds to end, a second Ctrl-C ends them at once.
    TensorRT-LLM engines are served by mpirun where a tritonserver with their backend is installed, that is in
    NVIDIA's image, and else in that image by docker. GPUs, driver, architecture and versions are held against
    the manifest first.

    Exit codes: 130 and 143 when stopped, 2 for a repository or port that cannot be served, 3 for too few GPUs
    or too little memory on them, 4 when the server does not start or dies.

    \b
    Examples:
        enginewright serve models/smollm2-135m-int4-awq
        enginewright serve models/mine --grpc-port 9001 --metrics-port 9002 --threads 4
        enginewright serve models/qwq-32b-fp8-tp2 --gpus 2,3
        enginewright serve models/qwq-32b-fp8-tp2 --container --dry-run
    """
    from enginewright_serve import TritonServer

    from enginewright.gpu_indices import gpu_indices
    from enginewright.trtllm_repository import repository_target

    server: TritonServer | ExternalServer
    if repository_target(repository) == "trtllm":
        from enginewright.commands import serve_trtllm

        _refuse({"--http-port": http_port, "--threads": threads}, "is for ONNX engines, on a CPU")
        serving = serve_trtllm.TrtllmServing(
            host, grpc_port, metrics_port, gpu_indices(gpus), container=container, log=log_file
        )
        if dry_run:
            print("\n".join(serve_trtllm.dry_run(repository, serving)))
            return
        server = serve_trtllm.trtllm_server(repository, serving)
    else:
        given = {"--gpus": gpus, "--container": container or None, "--dry-run": dry_run or None}
        _refuse(given, "is for TensorRT-LLM engines")
        server = TritonServer(
            repository,
            host=host,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            http_port=http_port,
            threads=threads,
            log=log_file,
        )
    try:
        # Should it take too long, we may leave at once: what ends Triton when we are gone cleans up, too.
        with interruptible(clean=lambda: None):
            start = time.monotonic()
            server.start()
            _announce(server, repository, host, time.monotonic() - start)
            server.wait()
    except Interrupted as interrupt:
        _stop(server)
        raise typer.Exit(128 + interrupt.number) from None
    finally:
        server.stop(kill=True)


def _refuse(options: Mapping[str, object], why: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} {why}", code="option-of-other-target", hint="leave it out")


def _announce(server: TritonServer | ExternalServer, repository: Path, host: str, seconds: float) -> None:
    print(f"serving {repository}, ready in {format_seconds(seconds)} (pid {server.pid})")
    print(f"  gRPC     {server.grpc_address}")
    print(f"  metrics  http://{server.metrics_address}/metrics")
    if server.http_address is not None:
        print(f"  HTTP     http://{server.http_address}/v2/models/llm/generate_stream")
        print("  warning: an HTTP body of 4 MiB ends this Triton (2.51); let nobody else reach the port")
    if not _is_loopback(host):
        print(f"  warning: {host} is open to the network, without encryption or passwords")
    print(f'ask it:    enginewright ask "What is the capital of France?" --server {server.grpc_address}')
    print("Ctrl-C stops it", flush=True)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _stop(server: TritonServer | ExternalServer) -> None:
    """Let running requests end, unless Ctrl-C comes again."""
    start = time.monotonic()
    print("\nstopping; Ctrl-C again ends running requests at once", flush=True)
    try:
        server.stop()
    except KeyboardInterrupt:
        server.stop(kill=True)
    print(f"stopped in {format_seconds(time.monotonic() - start)}", flush=True)
