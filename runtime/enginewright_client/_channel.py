"""One connection for all calls of a client: what gRPC is told about it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from enginewright_client._exceptions import InvalidRequest
from enginewright_client._options import TLS, Keepalive

__all__ = ["MAX_MESSAGE_BYTES", "ChannelConfig", "is_loopback", "make_metadata"]

MAX_MESSAGE_BYTES = 64 * 2**20
Metadata = Mapping[str, str] | Iterable[tuple[str, str]]

# What `enginewright serve --token-file` opens its calls for.
_TOKEN_HEADER = "triton-grpc-protocol-enginewright-token"
# Triton 2.51 dies of it: SIGSEGV after a malformed request (2 and 9 tries) or 360 cancelled ones.
_DEADLY = "triton_grpc_error"


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """Everything that opening a channel needs. The metadata may hold a secret: never shown."""

    address: str
    tls: TLS | None
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    keepalive: Keepalive
    max_message_bytes: int
    connect_timeout: float | None

    def open(self, grpc: Any, *options: tuple[str, Any]) -> Any:
        """A channel. grpc: the module `grpc` or `grpc.aio`. Raises InvalidRequest for an unreadable file."""
        credentials, chosen = self._credentials(), [*self._options(), *options]
        if credentials is None:
            return grpc.insecure_channel(self.address, options=chosen)
        return grpc.secure_channel(self.address, credentials, options=chosen)

    def _options(self) -> list[tuple[str, Any]]:
        """gRPC's channel arguments.

        After a refused connection the next call tries again within a second, so a client may be made before
        its server is up. A connection of its own: clients do not share one, so closing one hurts no other.
        """
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.keepalive_time_ms", round(1000 * self.keepalive.interval)),
            ("grpc.keepalive_timeout_ms", round(1000 * self.keepalive.timeout)),
            # Without it a frozen peer is noticed after 60 s whatever the keepalive is (grpcio 1.85).
            ("grpc.http2.ping_timeout_ms", round(1000 * self.keepalive.timeout)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if self.connect_timeout is not None:
            # In spite of its name: how long one attempt to connect may take.
            options.append(("grpc.min_reconnect_backoff_ms", round(1000 * self.connect_timeout)))
        if self.tls is not None and self.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options

    def _credentials(self) -> Any:
        """grpc.ChannelCredentials, or None for plain text."""
        if self.tls is None:
            return None
        import grpc

        return grpc.ssl_channel_credentials(
            self.tls.read("ca"), self.tls.read("key"), self.tls.read("certificate")
        )


def make_metadata(metadata: Metadata | None, token: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of every call. The token goes to Triton, which looks for it under a name of its own, and
    to a proxy that may be in front of it, as `authorization: Bearer TOKEN`.

    Raises InvalidRequest for what HTTP/2 cannot carry, without showing it, and for `triton_grpc_error`.
    """
    pairs = tuple(metadata.items() if isinstance(metadata, Mapping) else metadata or ())
    if token is not None:
        pairs += ((_TOKEN_HEADER, token), ("authorization", f"Bearer {token}"))
    for name, value in pairs:
        if name.lower() == _DEADLY:
            raise InvalidRequest(
                f"metadata has {name}",
                code="invalid-request",
                hint="leave it out: it kills Triton 2.51, and this client reads errors without it",
                field="metadata",
            )
        if not (value.isascii() and value.isprintable()):
            what = "token" if token is not None and token in value else f"metadata {name}"
            raise InvalidRequest(
                f"{what} has characters that a header cannot carry",
                code="invalid-request",
                hint="printable ASCII only; is there a line end behind it?",
                field="token" if what == "token" else "metadata",
            )
    return tuple((name.lower(), value) for name, value in pairs)


def is_loopback(address: str) -> bool:
    """Whether `address` ("host:port", "unix:/path") can only be this machine."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition("/")[2].rpartition(":")[0].strip("[]") or address
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
