"""The class that Triton loads for `llm_unary`: plain ModelInfer and /infer, answered by one request to `llm`.

Not decoupled, with one instance: `execute` keeps the response senders and returns, so requests still run side
by side. `llm` is asked for one response, which is passed on as it is. Triton 2.51 cannot cancel a request
between models, so a caller that gives up is passed on by `llm`'s `cancel` input, with an id that only this
model knows.
"""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from enginewright_errors import EnginewrightError

from enginewright_front.fields import value_from_tensor
from enginewright_front.refusal import InvalidRequest
from enginewright_front.triton_sink import TritonSink
from enginewright_front.watch import POLL_SECONDS
from enginewright_front.wire import INPUT, OUTPUTS

_PUBLIC = "llm"
_PLACES = 256


class TritonPythonModel:
    """One response for each request."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the threads; what the model can do is `llm`'s affair."""
        self._running: dict[str, TritonSink] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        # One more than there are places: cancellations must not wait behind requests.
        self._workers = ThreadPoolExecutor(max_workers=_PLACES + 1, thread_name_prefix="unary")
        self._watch = threading.Thread(target=self._pass_on_cancellations, name="watch", daemon=True)
        self._watch.start()

    def execute(self, requests: list[Any]) -> None:
        """Take the requests on; each is answered by a thread."""
        for request in requests:
            sink = TritonSink(request.get_response_sender())
            try:
                inner = _inner_request(request)
                with self._lock:
                    if len(self._running) >= _PLACES:
                        raise EnginewrightError(
                            f"{_PLACES} requests are running", code="queue-full", hint="try again later"
                        )
                    self._running[inner.request_id()] = sink
            except EnginewrightError as error:
                sink.fail(error)
                continue
            self._workers.submit(self._answer, inner, sink)

    def finalize(self) -> None:
        """Wait for what runs."""
        self._stopping.set()
        self._watch.join()
        self._workers.shutdown(wait=True)

    def _answer(self, inner: Any, sink: TritonSink) -> None:
        try:
            for response in inner.exec(decoupled=True):
                if response.has_error():
                    sink.fail_with(response.error().message())
                elif response.output_tensors():
                    sink.end(pb_utils.InferenceResponse(response.output_tensors()))
            sink.fail_with(f"{_PUBLIC} ended without an answer")
        except Exception as error:
            sink.fail_with(f"{_PUBLIC} could not be asked: {error}")
        finally:
            with self._lock:
                del self._running[inner.request_id()]

    def _pass_on_cancellations(self) -> None:
        told: set[str] = set()
        while not self._stopping.wait(POLL_SECONDS):
            with self._lock:
                running = dict(self._running)
            told &= running.keys()
            for request_id, sink in running.items():
                if request_id not in told and sink.is_cancelled():
                    told.add(request_id)
                    self._workers.submit(_cancel, request_id)


def _inner_request(request: Any) -> Any:
    """The same request for `llm`. Raises InvalidRequest when it asks for a stream."""
    inputs = []
    for tensor in request.inputs():
        if tensor.name() != "stream":
            inputs.append(tensor)
        elif value_from_tensor(INPUT["stream"], tensor.as_numpy()):
            raise InvalidRequest(
                "stream", "is true", hint=f"stream from the model {_PUBLIC}; this one answers once"
            )
    return pb_utils.InferenceRequest(
        model_name=_PUBLIC,
        request_id=f"unary-{uuid.uuid4()}",
        inputs=inputs,
        requested_output_names=[tensor.name for tensor in OUTPUTS],
        # Triton 2.51 passes no floats on; `llm` reads numbers in strings.
        parameters={
            key: str(value) if isinstance(value, float) else value
            for key, value in json.loads(request.parameters() or "{}").items()
        },
    )


def _cancel(request_id: str) -> None:
    request = pb_utils.InferenceRequest(
        model_name=_PUBLIC,
        request_id=request_id,
        inputs=[pb_utils.Tensor("cancel", np.array([[True]]))],
        requested_output_names=["text_output"],
    )
    for _ in request.exec(decoupled=True):
        pass
