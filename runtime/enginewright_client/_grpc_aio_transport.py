"""`AsyncTransport` over gRPC's asyncio channel."""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import Any

from enginewright_client._channel import SERVICE, ChannelConfig
from enginewright_client._grpc_transport import of_rpc_error, serialize
from enginewright_client._transport import FORKED, TransportError

__all__ = ["AsyncGrpcTransport"]

_LEFT_BEHIND: list[Any] = []  # channels of a parent process or of a loop that is over


class AsyncGrpcTransport:
    """One channel of the running event loop, opened by the first call; another loop, or a forked child, opens
    its own."""

    def __init__(self, config: ChannelConfig) -> None:
        self._config = config
        self._channel: Any = None
        self._home: tuple[int, object] | None = None
        self._stubs: dict[str, Any] = {}
        self._running: weakref.WeakSet[AsyncGrpcCall] = weakref.WeakSet()

    async def unary_async(self, method: str, request: Any, timeout: float | None) -> Any:
        """See `AsyncTransport`."""
        import grpc

        stub = self._stub(method, "unary_unary")
        try:
            return await stub(request, timeout=timeout, metadata=self._config.metadata)
        except grpc.RpcError as error:
            raise of_rpc_error(error) from None

    def stream_async(self, method: str, request: Any, timeout: float | None) -> AsyncGrpcCall:
        """See `AsyncTransport`."""
        stub = self._stub(method, "unary_stream")
        call = AsyncGrpcCall(stub(request, timeout=timeout, metadata=self._config.metadata))
        self._running.add(call)
        return call

    async def aclose(self) -> None:
        """See `AsyncTransport`."""
        if self._channel is not None and self._home == self._here():
            for call in [*self._running]:
                call.cancel()
            await self._channel.close()

    @staticmethod
    def _here() -> tuple[int, object]:
        return os.getpid(), asyncio.get_running_loop()

    def _stub(self, method: str, kind: str) -> Any:
        if self._home != self._here():
            self._open()
        if method not in self._stubs:
            from tritonclient.grpc import service_pb2 as pb

            response = getattr(pb, f"{method}Response")
            self._stubs[method] = getattr(self._channel, kind)(
                SERVICE + method, request_serializer=serialize, response_deserializer=response.FromString
            )
        return self._stubs[method]

    def _open(self) -> None:
        import grpc.aio

        if self._channel is not None:
            _LEFT_BEHIND.append((self._channel, self._stubs))
        options, credentials = self._config.options(), self._config.credentials()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(self._config.address, options=options)
        else:
            self._channel = grpc.aio.secure_channel(self._config.address, credentials, options=options)
        self._stubs = {}
        self._home = self._here()


class AsyncGrpcCall:
    """One running call."""

    def __init__(self, call: Any) -> None:
        import grpc.aio

        self._call = call
        self._error, self._end = grpc.RpcError, grpc.aio.EOF
        self._process = os.getpid()
        self._cancelled = False
        self._next: asyncio.Future[Any] | None = None

    async def __anext__(self) -> Any:
        """See `AsyncCall`. A cancelled task leaves the call as it is; what came meanwhile is read next."""
        if self._process != os.getpid():
            raise TransportError("UNAVAILABLE", FORKED)
        try:
            # gRPC cancels a call together with the task that reads it: so a task of its own reads.
            self._next = self._next or asyncio.ensure_future(self._call.read())
            response = await asyncio.shield(self._next)
            self._next = None
        except self._error as error:
            raise of_rpc_error(error) from None
        except asyncio.CancelledError:
            # gRPC says the same when it was this call, not the task, that was cancelled.
            if self._cancelled:
                raise TransportError("CANCELLED") from None
            raise
        if response is self._end:
            raise StopAsyncIteration
        return response

    def cancel(self) -> None:
        """See `AsyncCall`."""
        if self._process == os.getpid():
            self._cancelled = True
            self._call.cancel()
