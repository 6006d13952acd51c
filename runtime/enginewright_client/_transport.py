"""What carries a client's calls. Give a client one of your own to test without a server.

Requests and responses are the messages of `tritonclient.grpc.service_pb2`; `method` is the name of a call of
`inference.GRPCInferenceService`, such as `ModelConfig` or `ModelStreamInfer`.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["FORKED", "AsyncCall", "AsyncTransport", "Call", "Transport", "TransportError"]

FORKED = "the request was made by the parent of this process"


class TransportError(Exception):
    """A call failed. status: gRPC's name of it, such as `UNAVAILABLE`; details: what came with it.

    >>> raise TransportError("UNAVAILABLE", "connection refused")
    Traceback (most recent call last):
    enginewright_client._transport.TransportError: UNAVAILABLE: connection refused
    """

    def __init__(self, status: str, details: str = "") -> None:
        super().__init__(f"{status}: {details}")
        self.status = status
        self.details = details


class Call(Protocol):
    """One running request: its responses one by one. `cancel` may come from any thread.

    >>> class Silent:
    ...     def __next__(self):
    ...         raise TransportError("DEADLINE_EXCEEDED")
    ...     def cancel(self):
    ...         pass
    >>> call: Call = Silent()
    """

    def __next__(self) -> Any:
        """The next response. Raises StopIteration at the end, TransportError when the call fails."""

    def cancel(self) -> None:
        """End it here and in the server; a waiting `__next__` gets TransportError `CANCELLED`."""


class AsyncCall(Protocol):
    """`Call` for asyncio.

    >>> class Silent:
    ...     async def __anext__(self):
    ...         raise TransportError("DEADLINE_EXCEEDED")
    ...     def cancel(self):
    ...         pass
    >>> call: AsyncCall = Silent()
    """

    async def __anext__(self) -> Any:
        """The next response. Raises StopAsyncIteration at the end, TransportError when the call fails."""

    def cancel(self) -> None:
        """End it here and in the server; a waiting `__anext__` gets TransportError `CANCELLED`."""


class Transport(Protocol):
    """What `TritonClient` needs. timeout: seconds, None = no limit.

    >>> from enginewright_client import TritonClient
    >>> class Unplugged:
    ...     def unary(self, method, request, timeout):
    ...         raise TransportError("UNAVAILABLE", "connection refused")
    ...     def close(self):
    ...         pass
    >>> with TritonClient(transport=Unplugged()) as client:
    ...     print(client.health().problem)
    no connection to 127.0.0.1:8001: connection refused
    """

    def unary(self, method: str, request: Any, timeout: float | None) -> Any:
        """The response. Raises TransportError."""

    def stream(self, method: str, request: Any, timeout: float | None) -> Call:
        """Starts a call with many responses."""

    def close(self) -> None:
        """Cancel what runs and free everything."""


class AsyncTransport(Protocol):
    """What `AsyncTritonClient` needs. `MockTransport` is one and a `Transport` too.

    >>> from enginewright_client import MockTransport
    >>> transport: AsyncTransport = MockTransport(lambda request: ["Hello"])
    """

    async def unary_async(self, method: str, request: Any, timeout: float | None) -> Any:
        """The response. Raises TransportError."""

    def stream_async(self, method: str, request: Any, timeout: float | None) -> AsyncCall:
        """Starts a call with many responses."""

    async def aclose(self) -> None:
        """Cancel what runs and free everything."""
