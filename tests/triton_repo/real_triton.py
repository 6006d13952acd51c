"""A real tritonserver on a repository of the test's, and a caller over gRPC."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from triton_repo.front_under_test import wire_tensors
from tritonclient.utils import InferenceServerException

WAIT_SECONDS = 30.0


@contextmanager
def running_triton(repository: Path, scratch: Path) -> Iterator[tuple[str, str]]:
    """(gRPC address, metrics address) of a server that is ready; ended with the block."""
    site = Path(sysconfig.get_paths()["purelib"])
    triton = site / "pytriton" / "tritonserver"
    backend = scratch / "backends" / "python"
    backend.mkdir(parents=True)
    stub = triton / "python_backend_stubs" / f"3.{sys.version_info.minor}" / "triton_python_backend_stub"
    parts = triton / "backends" / "python"
    for part in (stub, parts / "libtriton_python.so", parts / "triton_python_backend_utils.py"):
        (backend / part.name).symlink_to(part)
    grpc_port, metrics_port = _free_ports(2)
    shared_memory = f"front{os.getpid()}_{grpc_port}_"
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backend.parent}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
        "--allow-http=false",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        f"--grpc-port={grpc_port}",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=5",
    ]
    log = scratch / "triton.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        address = f"127.0.0.1:{grpc_port}"
        with grpc.InferenceServerClient(address) as client:
            deadline = time.monotonic() + WAIT_SECONDS
            while not _ready(client):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
        yield address, f"127.0.0.1:{metrics_port}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # A server that ran into its exit timeout leaves them.
        for region in Path("/dev/shm").glob(f"{shared_memory}*"):
            region.unlink(missing_ok=True)


class WireCaller:
    """Sends tensors to a model's stream and gives back its responses."""

    def __init__(self, address: str) -> None:
        self.client = grpc.InferenceServerClient(address)
        self._results: queue.Queue[tuple[grpc.InferResult | None, InferenceServerException | None]] = (
            queue.Queue()
        )
        self.client.start_stream(partial(_put, self._results))

    def send(self, model: str, values: dict[str, Any], *, batched: bool = True, **options: Any) -> None:
        """Start a request; `batched`: with the batch dimension."""
        self.client.async_stream_infer(model, infer_inputs(values, batched=batched), **options)

    def next(self) -> grpc.InferResult:
        """The next response; raises the error that came instead."""
        result, error = self._results.get(timeout=WAIT_SECONDS)
        if error is not None:
            raise error
        return result

    def ask(self, model: str, values: dict[str, Any], **options: Any) -> list[grpc.InferResult]:
        """All responses of one request."""
        self.send(model, values, **options)
        results = [self.next()]
        while not results[-1].get_response().parameters["triton_final_response"].bool_param:
            results.append(self.next())
        return results

    def close(self, *, cancel: bool = False) -> None:
        self.client.stop_stream(cancel_requests=cancel)
        self.client.close()


def infer_inputs(values: dict[str, Any], *, batched: bool = True) -> list[grpc.InferInput]:
    made = []
    for name, array in wire_tensors(values).items():
        tensor = array if batched else array[0]
        dtype = {"O": "BYTES", "b": "BOOL", "i": "INT32", "u": "UINT64", "f": "FP32"}[tensor.dtype.kind]
        made.append(grpc.InferInput(name, list(tensor.shape), dtype).set_data_from_numpy(tensor))
    return made


def text_of(results: list[grpc.InferResult]) -> str:
    return "".join(result.as_numpy("text_output")[0].decode() for result in results)


def one(result: grpc.InferResult, name: str) -> Any:
    """The only value of an output, whatever its rank."""
    return np.asarray(result.as_numpy(name)).reshape(-1)[0]


def _put(results: queue.Queue[Any], result: Any, error: Any) -> None:
    results.put((result, error))


def _ready(client: grpc.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready(client_timeout=1.0))
    except InferenceServerException:
        time.sleep(0.05)
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
