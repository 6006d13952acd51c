"""What a client and its asyncio twin have in common: everything but moving messages."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Sequence
from typing import Any

from enginewright_client._address import check_address
from enginewright_client._channel import (
    ChannelConfig,
    Metadata,
    is_loopback,
    make_metadata,
)
from enginewright_client._exceptions import ConnectError, InsecureChannelWarning, InvalidRequest
from enginewright_client._exchange import Ask, Exchange
from enginewright_client._limits import Limits
from enginewright_client._models import (
    Completion,
    Delta,
    Message,
    ModelConfig,
    SamplingParams,
)
from enginewright_client._options import TLS, Keepalive, Retry, Timeout

__all__ = ["DEFAULT_ADDRESS", "PROBE", "ClientBase", "chat_ask", "join", "message_class"]

DEFAULT_ADDRESS = "127.0.0.1:8001"
PROBE = SamplingParams(max_tokens=1, temperature=0.0)
"""The cheapest request there is: what `health` asks for."""


class ClientBase:
    """The settings of a client, and requests made of them."""

    def __init__(
        self,
        address: str,
        model: str,
        timeout: Timeout | float | None,
        retry: Retry | None,
        tls: TLS | None,
        token: str | None,
        metadata: Metadata | None,
        keepalive: Keepalive | None,
        max_message_bytes: int,
        metrics_address: str | None,
    ) -> None:
        check_address(address)
        self.address = address
        self.model = model
        self.timeout = timeout
        self.retry = retry
        self.metrics_address = metrics_address
        self._limit = Timeout.of(timeout, Timeout())
        self._channel_config = ChannelConfig(
            address=address,
            tls=tls,
            metadata=make_metadata(metadata, token),
            keepalive=keepalive or Keepalive(),
            max_message_bytes=max_message_bytes,
            connect_timeout=self._limit.connect,
        )
        self._config: ModelConfig | None = None
        self._warned = False
        if token is not None and tls is None and not is_loopback(address):
            warnings.warn(
                f"the token goes to {address} over a connection that others can read: give tls=TLS()",
                InsecureChannelWarning,
                stacklevel=3,
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r}, model={self.model!r})"

    def _limits(self, timeout: Timeout | float | None, request_id: str = "", *, retry: bool = True) -> Limits:
        limit = Timeout.of(timeout, self._limit)
        return Limits(self.address, request_id, limit, self.retry if retry else None, self._forget)

    def _exchange(
        self,
        ask: Ask,
        timeout: Timeout | float | None,
        request_id: str | None,
        *,
        retry: bool = True,
    ) -> Exchange:
        limits = self._limits(timeout, request_id or uuid.uuid4().hex, retry=retry)
        return Exchange(ask, limits, warn_greedy=self._warn_greedy)

    def _forget(self) -> None:
        """A server that was lost may come back as another."""
        self._config = None

    def _warn_greedy(self) -> bool:
        """True the first time."""
        warned, self._warned = self._warned, True
        return not warned

    def _metrics_at(self) -> tuple[str, str, int]:
        """The address of the metrics, its host and its port. Raises InvalidRequest."""
        address = self.metrics_address
        host, _, port = (address or "").rpartition(":")
        if address is None or not host or not port.isdecimal():
            raise InvalidRequest(
                f"metrics_address is {address!r}",
                code="invalid-request",
                hint='TritonClient(metrics_address="127.0.0.1:8002"): metrics have a port of their own',
                field="metrics_address",
            )
        return address, host.strip("[]"), int(port)

    def _no_metrics(self, error: Exception) -> ConnectError:
        reason = getattr(error, "strerror", None) or str(error) or "no answer in time"
        return ConnectError(
            f"no metrics from {self.metrics_address}: {reason}",
            code="no-connection",
            hint="is the server up, and is that its metrics port?",
        )


def chat_ask(
    messages: Sequence[Message], sampling: SamplingParams | None, max_reasoning_tokens: int | None
) -> Ask:
    """The question of `chat` and `chat_stream`. Raises InvalidRequest for a text."""
    if isinstance(messages, str):
        raise InvalidRequest(
            "messages is a text",
            code="invalid-request",
            hint='give [{"role": "user", "content": ...}], or use generate',
            field="messages",
        )
    return Ask(messages, sampling or SamplingParams(), chat=True, max_reasoning_tokens=max_reasoning_tokens)


def join(deltas: list[Delta], request_id: str) -> Completion:
    """The whole answer of all its deltas."""
    last = deltas[-1]
    if last.finish_reason is None:
        raise ValueError("the answer is not complete")
    return Completion(
        text="".join(delta.text for delta in deltas),
        finish_reason=last.finish_reason,
        usage=last.usage,
        request_id=request_id,
        log_probs=tuple(value for delta in deltas for value in delta.log_probs),
    )


def message_class(name: str) -> Any:
    """A message of `tritonclient.grpc.service_pb2`, which takes half a second to import."""
    from tritonclient.grpc import service_pb2

    return getattr(service_pb2, name)
