"""`enginewright serve REPO`: Triton on a packaged repository, kept up until it is stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from enginewright_errors import UsageError

from enginewright.interrupt import Interrupted, interruptible
from enginewright.units import format_seconds

if TYPE_CHECKING:
    from enginewright_serve import Access
    from enginewright_serve.server_base import ServerBase

__all__ = ["LogRequests", "serve"]


class LogRequests(str, Enum):
    """What is written of each finished request; never its text."""

    off = "off"
    summary = "summary"


_GPUS = "TensorRT-LLM engines"


def serve(
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="The output folder of a build.")],
    grpc_port: Annotated[int, typer.Option("--grpc-port", help="Port for clients.")] = 8001,
    metrics_port: Annotated[int, typer.Option("--metrics-port", help="Port for Prometheus.")] = 8002,
    http_port: Annotated[
        int | None, typer.Option("--http-port", help="Port of Triton's HTTP, on 127.0.0.1; without it none.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="IPv4 address to listen at.")] = "127.0.0.1",
    metrics_host: Annotated[
        str, typer.Option("--metrics-host", help="IPv4 address of the metrics, which are not encrypted.")
    ] = "127.0.0.1",
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="PEM certificate for TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="PEM key of --tls-cert.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option("--tls-client-ca", help="PEM of who must have signed the clients'."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="A file with the token that clients must send.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let a --host that others reach go without encryption.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash every file against the manifest before anything starts.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of the engine, not the build's choice.")
    ] = None,
    drain_timeout: Annotated[
        int, typer.Option("--drain-timeout", min=0, help="Seconds that running requests have when it stops.")
    ] = 30,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", help="Where the server's output goes, and stays.")
    ] = None,
    log_requests: Annotated[
        LogRequests, typer.Option("--log-requests", help="A line in the log for each request, without text.")
    ] = LogRequests.summary,
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

    It is probed with a real request every 10 seconds, and started again when it or a model process dies or
    hangs; after 5 restarts in 10 minutes it gives up.

    TensorRT-LLM engines are served by mpirun where a tritonserver with their backend is installed, as it is
    in NVIDIA's image, and else in that image by docker. GPUs, driver, architecture and versions are held
    against the manifest first. A container gets copies of the TLS files, read-only, and the token by its
    environment; no command line keeps a secret.

    Ctrl-C and SIGTERM stop it: it takes no more requests, running ones have --drain-timeout to end, a second
    signal ends them at once. Exit codes: 0 after SIGTERM, 130 after Ctrl-C, 2 for a repository, port or
    file that cannot be served, 3 for too few GPUs or too little memory on them, 4 when the server does not
    start or does not stay up, 5 when --verify finds a file that was changed.

    \b
    Examples:
        enginewright serve models/smollm2-135m-int4-awq
        enginewright serve models/mine --verify --grpc-port 9001 --metrics-port 9002 --threads 4
        enginewright serve models/mine --host 0.0.0.0 --tls-cert server.pem --tls-key server.key \\
            --token-file token
        enginewright serve models/qwq-32b-fp8-tp2 --gpus 2,3
        enginewright serve models/qwq-32b-fp8-tp2 --container --dry-run
        enginewright serve models/qwq-32b-fp8-h100 --host 0.0.0.0 --tls-cert server.pem --tls-key server.key
    """
    from enginewright_serve import Supervisor, TritonServer, read_access

    from enginewright.gpu_indices import gpu_indices
    from enginewright.trtllm_repository import repository_target
    from enginewright.verify_repository import verify_repository

    if verify:
        verify_repository(repository)
    access = read_access(
        host,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        token_file=token_file,
        insecure=insecure,
    )
    server: ServerBase
    if repository_target(repository) == "trtllm":
        from enginewright.commands import serve_trtllm

        _refuse({"--http-port": http_port, "--threads": threads}, "is for ONNX engines")
        serving = serve_trtllm.TrtllmServing(
            host=host,
            access=access,
            grpc_port=grpc_port,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            gpus=gpu_indices(gpus),
            container=container,
            drain_seconds=drain_timeout,
            log_requests=log_requests is LogRequests.summary,
            log=log_file,
        )
        if dry_run:
            print("\n".join(serve_trtllm.dry_run(repository, serving)))
            return
        server = serve_trtllm.trtllm_server(repository, serving)
    else:
        gpu_options = {"--gpus": gpus, "--container": container or None, "--dry-run": dry_run or None}
        _refuse(gpu_options, "is for TensorRT-LLM engines")
        server = TritonServer(
            repository,
            host=host,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            metrics_host=metrics_host,
            http_port=http_port,
            threads=threads,
            access=access,
            log_requests=log_requests is LogRequests.summary,
            log=log_file,
            exit_timeout=drain_timeout,
        )
    up = False
    try:
        # Should it take too long, we may leave at once: what ends Triton when we are gone cleans up, too.
        with interruptible(clean=lambda: None):
            start = time.monotonic()
            server.start()
            up = True
            _announce(server, repository, access, time.monotonic() - start)
            Supervisor(server, _say).run()
    except Interrupted as interrupt:
        _stop(server)
        drained = up and interrupt.number == signal.SIGTERM
        raise typer.Exit(0 if drained else 128 + interrupt.number) from None
    finally:
        server.stop(kill=True)


def _refuse(options: Mapping[str, object], why: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} {why}", code="option-of-other-target", hint="leave it out")


def _announce(server: ServerBase, repository: Path, access: Access, seconds: float) -> None:
    from enginewright_serve.access import is_loopback

    print(f"serving {repository}, ready in {format_seconds(seconds)} (pid {server.pid})")
    print(f"  gRPC     {server.grpc_address}{_protection(access)}")
    print(f"  metrics  http://{server.metrics_address}/metrics")
    if server.http_address is not None:
        print(f"  HTTP     http://{server.http_address}/v2/models/llm/generate_stream")
        print("  warning: an HTTP body of 4 MiB ends this Triton (2.51); let nobody else reach the port")
    if not is_loopback(server.host) and access.token is None and access.client_ca is None:
        print(f"  warning: whoever reaches {server.host} may ask: there is no token and no client CA")
    if not _protection(access):
        print(f'ask it:    enginewright ask "What is the capital of France?" --server {server.grpc_address}')
    print("Ctrl-C stops it", flush=True)


def _protection(access: Access) -> str:
    used = [
        (access.certificate, "TLS"),
        (access.client_ca, "client certificates"),
        (access.token, "token"),
    ]
    names = ", ".join(name for value, name in used if value is not None)
    return f" ({names})" if names else ""


def _say(line: str) -> None:
    print(f"{datetime.now(timezone.utc).isoformat(timespec='seconds')} {line}", flush=True)


def _stop(server: ServerBase) -> None:
    """Let running requests end, unless a signal comes again."""
    start = time.monotonic()
    print("\nstopping; Ctrl-C again ends running requests at once", flush=True)
    try:
        with interruptible(clean=lambda: None):
            server.stop()
    except Interrupted:
        server.stop(kill=True)
    print(f"stopped in {format_seconds(time.monotonic() - start)}", flush=True)
