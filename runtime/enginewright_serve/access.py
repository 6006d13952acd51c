"""Who may talk to a server: encryption, certificates, a token; and what may not be open to a network."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from enginewright_errors import UsageError

__all__ = ["TOKEN_HEADER", "TOKEN_KEY", "Access", "is_loopback", "read_access", "served_name"]

TOKEN_KEY = "enginewright-token"
TOKEN_HEADER = f"triton-grpc-protocol-{TOKEN_KEY}"
"""The gRPC metadata that carries the token: Triton looks for its restricted protocols' keys there only."""

# Triton splits `protocols:key=value` at these characters, and gRPC metadata is visible ASCII.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,512}")


@dataclass(frozen=True, slots=True)
class Access:
    """certificate, key: PEM files for TLS. client_ca: PEM of whoever signs the clients' certificates, which
    are then required. token: what callers must send as `TOKEN_HEADER`."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    token: str | None = field(default=None, repr=False)


def read_access(
    host: str,
    *,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    tls_client_ca: Path | None = None,
    token_file: Path | None = None,
    insecure: bool = False,
) -> Access:
    """The access that these options describe, its files checked.

    Raises UsageError for a file that is not what it should be, and for a host that others can reach without
    encryption, unless `insecure` says that this is meant.
    """
    if (tls_cert is None) != (tls_key is None):
        missing, given = ("--tls-key", "--tls-cert") if tls_key is None else ("--tls-cert", "--tls-key")
        raise UsageError(f"{given} without {missing}", code="tls-files", hint=f"add {missing}")
    if tls_client_ca is not None and tls_cert is None:
        raise UsageError("--tls-client-ca without --tls-cert", code="tls-files", hint="add --tls-cert")
    if tls_cert is None and not insecure and not is_loopback(host):
        raise UsageError(
            f"{host} is open to the network, and nothing would be encrypted",
            code="unencrypted",
            hint="add --tls-cert and --tls-key, or --insecure if a proxy or a private network protects it",
        )
    for file in (tls_cert, tls_key, tls_client_ca):
        if file is not None:
            _read(file)
    token = None if token_file is None else _read_token(token_file)
    access = Access(tls_cert, tls_key, tls_client_ca, token)
    if tls_cert is not None:
        served_name(access)
    return access


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def served_name(access: Access) -> str:
    """A host name that the certificate is valid for. Raises UsageError for one that no client would accept.

    Triton starts with any files and then refuses every connection, so both ends shake hands here, in memory.
    With a client CA the server's own certificate is shown as the client's, as the supervisor will do.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        for context in (server, client) if access.client_ca else (server,):
            context.load_cert_chain(access.certificate or "", access.key, password="")
        client.load_verify_locations(access.certificate)
        if access.client_ca is not None:
            server.load_verify_locations(access.client_ca)
            server.verify_mode = ssl.CERT_REQUIRED
        names = dict(_shake_hands(server, client).get("subjectAltName", ()))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"TLS does not work with {access.certificate}: {error}",
            code="tls-files",
            hint="give PEM files: a valid certificate and its key without a pass phrase"
            + ("; --tls-client-ca must have signed it for clients, too" if access.client_ca else ""),
        ) from None
    name: str = names.get("DNS") or names.get("IP Address") or "localhost"
    return name.replace("*", "server")


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """What the client sees of the server's certificate. Raises ssl.SSLError."""
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(downward, upward)
    answering = server.wrap_bio(upward, downward, server_side=True)
    for end in (asking, answering) * 3:
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    certificate: dict[str, Any] = asking.getpeercert() or {}
    return certificate


def _read_token(file: Path) -> str:
    token = _read(file).decode(errors="replace").strip()
    if not _TOKEN.fullmatch(token):
        # Without quoting it: messages end in logs.
        raise UsageError(
            f"{file}: not a token of 16 to 512 letters, digits or ._~+/-",
            code="bad-token",
            hint=f"make one: openssl rand -hex 32 > {file}",
        )
    return token


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror}", code="access-file", hint="check the path"
        ) from None
