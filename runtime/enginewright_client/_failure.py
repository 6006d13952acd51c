"""What a server or gRPC says when something fails, as an exception of this package.

A server's own errors come as `MESSAGE; HINT [code]`, and the message begins with the field's name. Triton
2.51 gives them either as text inside a response or, behind a native ensemble or over BLS, with a prefix and a
lost status; so the code in the text decides, then what Triton's own refusals look like, then the status.
"""

from __future__ import annotations

import re

from enginewright_client._exceptions import (
    AccessDenied,
    ConnectError,
    EngineError,
    InvalidRequest,
    ModelNotFound,
    RequestCancelled,
    RequestError,
    RequestTimeout,
    ServerOverloaded,
    TLSError,
)
from enginewright_client._transport import FORKED, TransportError

__all__ = ["from_message", "from_transport_error"]

_PARTS = re.compile(r"(?s)(?P<message>.*?)(?:; (?P<hint>[^;]*))? \[(?P<code>[a-z0-9-]+)\]$")
_PREFIX = re.compile(r"^(?:\[request id: [^\]]*\] |in ensemble '[^']*', )+")
_FIELD = re.compile(r"[\"']?([\w.\[\]-]+)[\"']? (?:is|has|holds|do)\b")
_QUOTED_INPUT = re.compile(r"input '([^']+)'")
_BY_CODE: dict[str, type[RequestError]] = {
    "invalid-request": InvalidRequest,
    "sequence-too-long": InvalidRequest,
    "no-long-context": InvalidRequest,
    "queue-full": ServerOverloaded,
    "engine-stalled": ServerOverloaded,
    "shutting-down": ServerOverloaded,
    "request-time-limit": RequestTimeout,
}
# Of a model that Triton knows: while the server starts or drains, or after its process died.
_NOT_UP = re.compile(r"is not ready|has no available versions")
_NO_MODEL = re.compile(r"unknown model|is not found")
_REFUSED_BY_TRITON = re.compile(
    r"inference input|unexpected shape|inference request batch-size|request has 0 inputs"
)
_LOST = re.compile(
    r"failed to connect|connection (refused|reset)|socket closed|stream removed|broken pipe|goaway|keepalive"
    r"|transport|resol(ution|ving)|dns|lookup failed|connection attempt timed out|endpoint",
    re.IGNORECASE,
)
_DENIED = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_RESTRICTED = re.compile(r"protocol is restricted")
_PINGS = "keepalive pings of a request that was silent for long"
_TLS = (
    ("certificate has expired", "tls-expired", "its certificate has expired", "renew it there"),
    (
        "Hostname Verification",
        "tls-host-mismatch",
        "its certificate is for another name",
        "give that name as TLS(server_name=...)",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "tls-untrusted",
        "its certificate is signed by an unknown authority",
        "give the authority's certificate as TLS(ca=...)",
    ),
    ("WRONG_VERSION_NUMBER", "tls-failed", "it does not speak TLS", "connect without TLS"),
    ("handshake", "tls-failed", "the TLS handshake failed", "are these PEM files, and for this server?"),
)
_START_ONE = "start a server with `enginewright serve REPO`, or give the address of one"
_CLOSED = "it closed the connection at once: does it want TLS or a client's certificate? is it a gRPC port?"


def from_message(text: str, request_id: str) -> RequestError:
    """The error that a response carried as text."""
    text = _PREFIX.sub("", text)
    parts = _PARTS.match(text)
    if parts is not None:
        message, hint, code = parts["message"], parts["hint"] or "", parts["code"]
        kind = _BY_CODE.get(code, EngineError)
        if kind is InvalidRequest:
            field = _FIELD.match(message)
            return InvalidRequest(
                message, code=code, hint=hint, request_id=request_id, field=field[1] if field else None
            )
        return kind(message, code=code, hint=hint, request_id=request_id)
    if _NOT_UP.search(text):
        return ServerOverloaded(
            text,
            code="unavailable",
            hint="the server is starting or stopping: try again later",
            request_id=request_id,
        )
    if _NO_MODEL.search(text):
        return ModelNotFound(
            text,
            code="model-not-found",
            hint="name one that it serves",
            request_id=request_id,
            field="model",
        )
    if _REFUSED_BY_TRITON.search(text):
        field = _QUOTED_INPUT.search(text)
        return InvalidRequest(
            text,
            code="invalid-request",
            hint="is it a model of Enginewright's wire contract?",
            request_id=request_id,
            field=field[1] if field else None,
        )
    return EngineError(text, code="engine-error", hint="see the server's log", request_id=request_id)


def from_transport_error(error: TransportError, address: str, request_id: str = "") -> RequestError:
    """The error that ended a call. A deadline's error is made by whoever knows the deadline."""
    if error.status == "CANCELLED":
        return RequestCancelled("the request was cancelled", code="cancelled", request_id=request_id)
    if error.status == "UNAVAILABLE" and (refused := _connection_error(error.details, address)) is not None:
        refused.request_id = request_id
        return refused
    if error.status in _DENIED or _RESTRICTED.search(error.details):
        return AccessDenied(
            f"{address} does not allow it: {error.details}",
            code="access-denied",
            hint="give TritonClient the server's token=, or what else it expects as metadata=",
            request_id=request_id,
            field="token",
        )
    if error.status == "RESOURCE_EXHAUSTED":
        return InvalidRequest(
            f"a message is too large: {error.details}",
            code="message-too-large",
            hint="send less text, or give TritonClient a larger max_message_bytes",
            request_id=request_id,
        )
    failure = from_message(error.details, request_id)
    if error.status == "UNAVAILABLE" and isinstance(failure, EngineError):
        return ServerOverloaded(
            failure.message, code="unavailable", hint="try again later", request_id=request_id
        )
    return failure


def _connection_error(details: str, address: str) -> ConnectError | None:
    """What is wrong with the connection; None when it is the server that speaks."""
    if "too_many_pings" in details or "Too many pings" in details:
        return ConnectError(
            f"{address} ended the connection after {_PINGS}",
            code="too-many-pings",
            hint="give Keepalive(interval=300), or see there what to start Triton with",
        )
    if details == FORKED:
        return ConnectError(details, code="forked", hint="make requests in the process that reads them")
    connecting = "failed to connect" in details
    for text, code, problem, hint in _TLS if connecting else ():
        if text in details:
            return TLSError(f"no trusted connection to {address}: {problem}", code=code, hint=hint)
    if _LOST.search(details):
        return ConnectError(
            f"no connection to {address}: {_reason(details)}",
            code="no-connection",
            hint=_CLOSED if connecting and details.endswith("Socket closed") else _START_ONE,
        )
    return None


def _reason(details: str) -> str:
    """The last cause that gRPC names: `Connection refused`."""
    return details.rpartition("Failed to connect to remote host: ")[2].strip() or details
