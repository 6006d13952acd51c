"""What a server or gRPC says when something fails, as an exception of this package.

A server's own errors come as `MESSAGE; HINT [code]`, and the message begins with the field's name. Triton
2.51 gives them either as text inside a response or, behind a native ensemble or over BLS, with a prefix and a
lost status; so the code in the text decides, then what Triton's own refusals look like, then the status.
"""

from __future__ import annotations

import re
from typing import Any

from enginewright_client._exceptions import (
    ConnectError,
    EngineError,
    InvalidRequest,
    ModelNotFound,
    RequestCancelled,
    RequestError,
    RequestTimeout,
    ServerOverloaded,
)

__all__ = ["from_message", "from_rpc_error"]

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
_NO_MODEL = re.compile(r"unknown model|is not found|is not ready|has no available versions")
_REFUSED_BY_TRITON = re.compile(
    r"inference input|unexpected shape|inference request batch-size|request has 0 inputs"
)
_LOST = re.compile(
    r"failed to connect|connection (refused|reset)|socket closed|stream removed|broken pipe|goaway|keepalive"
    r"|transport|resol(ution|ving)|dns|lookup failed|connection attempt timed out|endpoint",
    re.IGNORECASE,
)


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


def from_rpc_error(error: Any, address: str, request_id: str, timeout: float | None) -> RequestError:
    """The error that ended a call. `error` is a grpc.RpcError."""
    import grpc

    status, details = error.code(), error.details() or ""
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RequestTimeout(
            f"no complete answer from {address} within {timeout:g} s" if timeout else details,
            code="timeout",
            hint="give more time, or ask for fewer tokens",
            request_id=request_id,
        )
    if status is grpc.StatusCode.CANCELLED:
        return RequestCancelled("the request was cancelled", code="cancelled", request_id=request_id)
    if status is grpc.StatusCode.UNAVAILABLE and _LOST.search(details):
        return ConnectError(
            f"no connection to {address}: {_reason(details)}",
            code="no-connection",
            hint="start a server with `enginewright serve REPO`, or give the address of one",
            request_id=request_id,
        )
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return InvalidRequest(
            f"a message is too large: {details}",
            code="message-too-large",
            hint="send less text",
            request_id=request_id,
        )
    failure = from_message(details, request_id)
    if status is grpc.StatusCode.UNAVAILABLE and isinstance(failure, EngineError):
        return ServerOverloaded(
            failure.message, code="unavailable", hint="try again later", request_id=request_id
        )
    return failure


def _reason(details: str) -> str:
    """The last cause that gRPC names: `Connection refused`."""
    return details.rpartition("Failed to connect to remote host: ")[2].strip() or details
