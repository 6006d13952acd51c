"""A request's way back through Triton's response sender."""

from __future__ import annotations

import threading
from typing import Any

import triton_python_backend_utils as pb_utils
from enginewright_errors import EnginewrightError

from enginewright_front.refusal import status_of, wire_message
from enginewright_front.session import Tensors


class TritonSink:
    """`entry.Sink` over a response sender.

    After its end a sender must not be asked anything: the server has already freed what the answer would be
    read from. So the end and the question exclude each other.
    """

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._ended = False

    def send(self, tensors: Tensors, *, final: bool) -> None:
        """One response; data and FINAL go in one message."""
        response = pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in tensors.items()]
        )
        if final:
            self.end(response)
        else:
            self._sender.send(response)

    def fail(self, error: EnginewrightError) -> None:
        """The error as the last response."""
        self.fail_with(wire_message(error))

    def fail_with(self, message: str) -> None:
        """An error by its wire message, whose code gives the status."""
        status = getattr(pb_utils.TritonError, status_of(message))
        self.end(pb_utils.InferenceResponse([], error=pb_utils.TritonError(message, status)))

    def end(self, response: Any) -> None:
        """The last response; without effect after another one."""
        with self._lock:
            if not self._ended:
                self._ended = True
                self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        """Whether the caller gave up; False after the end."""
        with self._lock:
            return not self._ended and bool(self._sender.is_cancelled())
