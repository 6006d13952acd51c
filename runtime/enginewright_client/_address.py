"""What may stand for a server: `HOST:PORT`, or an address of gRPC's own like `unix:/run/triton.sock`."""

from __future__ import annotations

import re

from enginewright_client._exceptions import InvalidRequest

__all__ = ["check_address"]

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})")
_OF_GRPC = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")


def check_address(address: str) -> None:
    """Raises InvalidRequest for a URL, a host without a port, and a port that none can have.

    gRPC takes them: it would wait at port 443, or say that the connection was refused.
    """
    found = _HOST_AND_PORT.fullmatch(address)
    if not (found and 1 <= int(found["port"]) <= 65535) and not address.startswith(_OF_GRPC):
        raise InvalidRequest(
            f"the server's address is {address!r}",
            code="invalid-request",
            hint="write it like 127.0.0.1:8001: a host and the port of its gRPC",
            field="address",
        )
