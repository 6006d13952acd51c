"""The command line and the environment that tritonserver is started with."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginewright_serve.access import Access
from enginewright_serve.access_flags import SEALED, access_flags, access_variables
from enginewright_serve.server_base import Command
from enginewright_serve.triton_binary import TritonBinary

__all__ = ["Listeners", "make_backends", "server_command", "server_environment"]

_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS, _CLIENT_PING_MS = 30_000, 10_000, 10_000


@dataclass(frozen=True, slots=True)
class Listeners:
    """Where the server listens: gRPC at `host`, metrics at `metrics_host`, HTTP at 127.0.0.1.

    http_port None: no HTTP, because a body of 4 MiB kills Triton 2.51; it has no TLS either.
    """

    host: str
    grpc_port: int
    metrics_port: int
    http_port: int | None = None
    metrics_host: str = "127.0.0.1"


def make_backends(binary: TritonBinary, folder: Path) -> Path | None:
    """The backend folder for `binary`; one of links below `folder` where the server brings only parts."""
    if not binary.backend_files:
        return binary.backends
    python = folder / "backends" / "python"
    python.mkdir(parents=True)
    for file in binary.backend_files:
        (python / file.name).symlink_to(file)
    return python.parent


def server_command(
    binary: TritonBinary,
    backends: Path | None,
    repository: Path,
    listeners: Listeners,
    access: Access,
    *,
    shared_memory_prefix: str,
    exit_timeout: int,
    threads: int | None = None,
) -> Command:
    """Hardened: no model control, nothing filled in, no HTTP, administration under a random key."""
    switches: list[tuple[str, object]] = [
        ("model-repository", repository),
        ("model-control-mode", "none"),
        ("exit-on-error", "true"),
        ("exit-timeout-secs", exit_timeout),
        ("strict-readiness", "true"),
        ("allow-sagemaker", "false"),
        ("allow-vertex-ai", "false"),
        ("trace-config", "level=off"),
        ("backend-config", f"python,shm-region-prefix-name={shared_memory_prefix}"),
        ("allow-grpc", "true"),
        ("grpc-address", listeners.host),
        ("grpc-port", listeners.grpc_port),
        # Its pool keeps messages of any size for ever: four prompts of 100 MB left 310 MB behind.
        ("grpc-infer-allocation-pool-size", 0),
        # A client that vanished without a word is noticed, and one that watches a silent prefill is not
        # cut off for its pings (by default Triton ends the connection after three in 5 minutes).
        ("grpc-keepalive-time", _KEEPALIVE_MS),
        ("grpc-keepalive-timeout", _KEEPALIVE_TIMEOUT_MS),
        ("grpc-http2-min-recv-ping-interval-without-data", _CLIENT_PING_MS),
        ("allow-metrics", "true"),
        ("allow-gpu-metrics", "false"),
        ("metrics-address", listeners.metrics_host),
        ("metrics-port", listeners.metrics_port),
        ("allow-http", "false" if listeners.http_port is None else "true"),
    ]
    if listeners.http_port is not None:
        switches += [("http-address", "127.0.0.1"), ("http-port", listeners.http_port)]
    if backends is not None:
        switches.append(("backend-directory", backends))
    argv = (
        *SEALED,
        str(binary.executable),
        "--disable-auto-complete-config",
        *(f"--{name}={value}" for name, value in switches),
        *access_flags(access, http=listeners.http_port is not None),
    )
    environment = server_environment(binary, os.environ, threads)
    return Command(argv, {**environment, **access_variables(access)})


def server_environment(
    binary: TritonBinary, environment: Mapping[str, str], threads: int | None
) -> dict[str, str]:
    """`environment` with what the server and its Python models need.

    The models' Python is found through PATH, so this one's folder comes first. It ignores all PYTHON...
    variables.
    """
    made = dict(environment)
    made["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), made.get("PATH", os.defpath)])
    libraries = [str(folder) for folder in binary.library_folders]
    if libraries:
        made["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *filter(None, [made.get("LD_LIBRARY_PATH")])])
    # ONNX Runtime 1.32 for Linux otherwise reports to its makers, and leaves a file in the temporary folder.
    made["ORT_DISABLE_TELEMETRY"] = "1"
    if threads is not None:
        made["ENGINEWRIGHT_THREADS"] = made["OMP_NUM_THREADS"] = str(threads)
    return made
