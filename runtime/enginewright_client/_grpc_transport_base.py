"""What the gRPC transports share: a channel that is opened where it is used, and the stubs of its calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from enginewright_client._channel import ChannelConfig
from enginewright_client._transport import TransportError

__all__ = ["GrpcTransportBase", "of_rpc_error"]

_SERVICE = "/inference.GRPCInferenceService/"
# Channels of a parent process, or of a loop that is over: closing one would write into the parent's socket.
_LEFT_BEHIND: list[Any] = []


class GrpcTransportBase(ABC):
    """One channel, opened by the first call; a forked child, or another event loop, opens its own."""

    def __init__(self, config: ChannelConfig) -> None:
        self._config = config
        self._channel: Any = None
        self._closed_in: object = None
        self._home: object = None
        self._stubs: dict[str, Any] = {}

    @abstractmethod
    def _here(self) -> object:
        """What a channel belongs to."""

    @abstractmethod
    def _open(self) -> Any:
        """A new channel."""

    @property
    def _is_open_here(self) -> bool:
        return self._channel is not None and self._home == self._here()

    def _call(self, method: str, kind: str, request: Any, timeout: float | None) -> Any:
        """Start a call. kind: the channel's method that makes stubs for it, such as `unary_stream`."""
        return self._stub(method, kind)(request, timeout=timeout, metadata=self._config.metadata)

    def _stub(self, method: str, kind: str) -> Any:
        if self._closed_in == self._here():
            raise RuntimeError("the client is closed: make a new one")
        if not self._is_open_here:
            if self._channel is not None:
                _LEFT_BEHIND.append((self._channel, self._stubs))
            self._channel, self._stubs, self._home = self._open(), {}, self._here()
        if method not in self._stubs:
            from tritonclient.grpc import service_pb2 as pb

            self._stubs[method] = getattr(self._channel, kind)(
                _SERVICE + method,
                request_serializer=_serialize,
                response_deserializer=getattr(pb, f"{method}Response").FromString,
            )
        return self._stubs[method]


def of_rpc_error(error: Any) -> TransportError:
    """A grpc.RpcError as ours."""
    return TransportError(error.code().name, error.details() or "")


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
