"""`Transport` over gRPC, on the caller's own thread."""

from __future__ import annotations

import os
import threading
from typing import Any

from enginewright_client._channel import SERVICE, ChannelConfig
from enginewright_client._transport import FORKED, TransportError

__all__ = ["GrpcTransport", "of_rpc_error", "serialize"]

_LEFT_TO_PARENT: list[Any] = []  # closing one would write into the parent's socket


class GrpcTransport:
    """One channel, opened by the first call; a forked child opens its own.

    A stream is read on the caller's thread: 46 microseconds of CPU a response, where a channel with a thread
    of its own took 115.
    """

    def __init__(self, config: ChannelConfig) -> None:
        self._config = config
        self._channel: Any = None
        self._process = 0
        self._stubs: dict[str, Any] = {}

    def unary(self, method: str, request: Any, timeout: float | None) -> Any:
        """See `Transport`."""
        import grpc

        try:
            return self._stub(method, "unary_unary")(request, timeout=timeout, metadata=self._config.metadata)
        except grpc.RpcError as error:
            raise of_rpc_error(error) from None

    def stream(self, method: str, request: Any, timeout: float | None) -> GrpcCall:
        """See `Transport`. One call for each request: cancelling it cancels this request and no other."""
        call = self._stub(method, "unary_stream")(request, timeout=timeout, metadata=self._config.metadata)
        return GrpcCall(call)

    def close(self) -> None:
        """See `Transport`."""
        if self._channel is not None and self._process == os.getpid():
            self._channel.close()

    def _stub(self, method: str, kind: str) -> Any:
        if self._process != os.getpid():
            self._open()
        if method not in self._stubs:
            from tritonclient.grpc import service_pb2 as pb

            response = getattr(pb, f"{method}Response")
            self._stubs[method] = getattr(self._channel, kind)(
                SERVICE + method, request_serializer=serialize, response_deserializer=response.FromString
            )
        return self._stubs[method]

    def _open(self) -> None:
        import grpc
        import grpc.experimental

        if self._channel is not None:
            _LEFT_TO_PARENT.append((self._channel, self._stubs))
        options = [
            *self._config.options(),
            (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
        ]
        credentials = self._config.credentials()
        if credentials is None:
            self._channel = grpc.insecure_channel(self._config.address, options=options)
        else:
            self._channel = grpc.secure_channel(self._config.address, credentials, options=options)
        self._stubs = {}
        self._process = os.getpid()


class GrpcCall:
    """One running call."""

    def __init__(self, call: Any) -> None:
        import grpc

        self._call = call
        self._error = grpc.RpcError
        self._process = os.getpid()
        self._reading = threading.Lock()

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
        state, consume = getattr(self._call, "_state", None), getattr(self._call, "_consume_next_event", None)
        while consume is not None and state is not None and state.due:
            consume()


def of_rpc_error(error: Any) -> TransportError:
    """A grpc.RpcError as ours."""
    return TransportError(error.code().name, error.details() or "")


def serialize(message: Any) -> bytes:
    """The bytes of a protobuf message."""
    data: bytes = message.SerializeToString()
    return data
