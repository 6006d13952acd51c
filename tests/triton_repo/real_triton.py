"""A real tritonserver on a repository of the test's, and a caller over gRPC."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from enginewright_serve import TritonServer
from package_manifest import write_manifest
from triton_repo.front_under_test import wire_tensors
from tritonclient.utils import InferenceServerException

WAIT_SECONDS = 30.0


@contextmanager
def running_triton(repository: Path) -> Iterator[tuple[str, str]]:
    """(gRPC address, metrics address) of a server that serves `repository`; ended with the block."""
    write_manifest(repository)
    with TritonServer(repository) as server:
        yield server.grpc_address, server.metrics_address


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
