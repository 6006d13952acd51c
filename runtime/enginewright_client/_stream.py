"""One running request: an iterator of its answer that cancels what it does not read to the end."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from enginewright_client._exceptions import EngineError
from enginewright_client._failure import from_message, from_rpc_error
from enginewright_client._models import Delta, FinishReason, Usage
from enginewright_client._wire import decode_delta

__all__ = ["CompletionStream"]

_END_SECONDS = 1.0  # from an error to the end of its call


class CompletionStream:
    """An answer as it is generated: iterate over it for `Delta`s.

    Leaving the loop early, `close()`, the end of a `with` block or the last reference cancel the request, and
    the server frees its slot. `close()` may be called from another thread: the reading one then gets
    RequestCancelled. finish_reason, usage: known after the last delta.
    """

    def __init__(self, call: Any, *, request_id: str, address: str, timeout: float | None) -> None:
        self._call = call
        self._address = address
        self._timeout = timeout
        self._done = False
        self.request_id = request_id
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None

    def __iter__(self) -> CompletionStream:
        return self

    def __next__(self) -> Delta:
        """The next piece. Raises the errors of `RequestError`."""
        import grpc

        if self._done:
            raise StopIteration
        try:
            response = next(self._call)
        except StopIteration:
            self._done = True
            if self.finish_reason is None:
                raise EngineError(
                    "the answer ended without a finish reason",
                    code="incomplete-answer",
                    hint="see the server's log",
                    request_id=self.request_id,
                ) from None
            raise
        except grpc.RpcError as error:
            self._done = True
            raise from_rpc_error(error, self._address, self.request_id, self._timeout) from None
        except BaseException:
            self.close()
            raise
        if response.error_message:
            self._read_end_or_cancel()
            raise from_message(response.error_message, self.request_id)
        try:
            delta = decode_delta(response.infer_response, self.request_id)
        except EngineError:
            self.close()
            raise
        if delta.finish_reason is not None:
            self.finish_reason, self.usage = delta.finish_reason, delta.usage
            if response.infer_response.parameters["triton_final_response"].bool_param:
                self._read_end()
        return delta

    def _read_end_or_cancel(self) -> None:
        """After an error: the server ends the call, unless it takes too long.

        A call that is reset between an error and the FINAL behind it can crash Triton 2.51: of 16 servers
        that got up to 12,000 such calls from 8 threads 12 died, most within 2 seconds.
        """
        timer = threading.Timer(_END_SECONDS, self._call.cancel)
        timer.daemon = True
        timer.start()
        try:
            self._read_end()
        finally:
            timer.cancel()

    def _read_end(self) -> None:
        """Wait for the status that follows the last response."""
        import grpc

        try:
            for _ in self._call:
                pass
        except grpc.RpcError:
            pass  # what was to come has come
        except BaseException:
            self.close()
            raise
        self._done = True

    def close(self) -> None:
        """Cancel the request unless it is over. Safe to call twice and from any thread."""
        if not self._done:
            self._done = True
            self._call.cancel()

    def __enter__(self) -> CompletionStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
