"""`AsyncTransport` over gRPC's asyncio channel."""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import Any

from enginewright_client._channel import ChannelConfig
from enginewright_client._grpc_transport_base import GrpcTransportBase, of_rpc_error
from enginewright_client._transport import FORKED, TransportError

__all__ = ["AsyncGrpcTransport"]


class AsyncGrpcTransport(GrpcTransportBase):
    """Its channel is the running event loop's."""

    def __init__(self, config: ChannelConfig) -> None:
        super().__init__(config)
        self._running: weakref.WeakSet[AsyncGrpcCall] = weakref.WeakSet()

    async def unary_async(self, method: str, request: Any, timeout: float | None) -> Any:
        """See `AsyncTransport`."""
        import grpc

        try:
            return await self._call(method, "unary_unary", request, timeout)
        except grpc.RpcError as error:
            raise of_rpc_error(error) from None

    def stream_async(self, method: str, request: Any, timeout: float | None) -> AsyncGrpcCall:
        """See `AsyncTransport`."""
        call = AsyncGrpcCall(self._call(method, "unary_stream", request, timeout))
        self._running.add(call)
        return call

    async def aclose(self) -> None:
        """See `AsyncTransport`."""
        self._closed_in = self._here()
        if self._is_open_here:
            for call in [*self._running]:
                call.cancel()
            await self._channel.close()

    def _here(self) -> tuple[int, object]:
        return os.getpid(), asyncio.get_running_loop()

    def _open(self) -> Any:
        import grpc.aio

        return self._config.open(grpc.aio)


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
