"""`Transport` over gRPC, on the caller's own thread."""

from __future__ import annotations

import os
import threading
from typing import Any

from enginewright_client._grpc_transport_base import GrpcTransportBase, of_rpc_error
from enginewright_client._transport import FORKED, TransportError

__all__ = ["GrpcTransport"]


class GrpcTransport(GrpcTransportBase):
    """A stream is read on the caller's thread: 46 microseconds of CPU a response, where a channel with a
    thread of its own took 115."""

    def unary(self, method: str, request: Any, timeout: float | None) -> Any:
        """See `Transport`."""
        import grpc

        try:
            return self._call(method, "unary_unary", request, timeout)
        except grpc.RpcError as error:
            raise of_rpc_error(error) from None

    def stream(self, method: str, request: Any, timeout: float | None) -> GrpcCall:
        """See `Transport`. One call for each request: cancelling it cancels this request and no other."""
        return GrpcCall(self._call(method, "unary_stream", request, timeout))

    def close(self) -> None:
        """See `Transport`."""
        self._closed_in = self._here()
        if self._is_open_here:
            self._channel.close()

    def _here(self) -> int:
        return os.getpid()

    def _open(self) -> Any:
        import grpc
        import grpc.experimental

        return self._config.open(grpc, (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1))


class GrpcCall:
    """One running call."""

    def __init__(self, call: Any) -> None:
        import grpc

        self._call = call
        self._error = grpc.RpcError
        self._process = os.getpid()
        self._reading = threading.Lock()
        self._interrupted = False

    def __next__(self) -> Any:
        """See `Call`."""
        if self._process != os.getpid():
            raise TransportError("UNAVAILABLE", FORKED)
        with self._reading:
            try:
                return next(self._call)
            except self._error as error:
                self._release()
                raise of_rpc_error(error) from None
            except BaseException as error:
                # A signal's exception may have swallowed an event: the last one would be waited for in vain.
                self._interrupted = not isinstance(error, Exception)
                raise

    def cancel(self) -> None:
        """See `Call`."""
        if self._process != os.getpid():
            return
        self._call.cancel()
        if self._reading.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._reading.release()

    def _release(self) -> None:
        """Read what is still to come of a call that is over: its cancellation, at once.

        gRPC frees a call of a single-threaded channel with its last event, and reads none after `cancel()`:
        without this each cancelled request left 18 KiB behind.
        """
        if self._interrupted:
            return
        state, consume = getattr(self._call, "_state", None), getattr(self._call, "_consume_next_event", None)
        while consume is not None and state is not None and state.due:
            consume()
