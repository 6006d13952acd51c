"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}` and a status.

The `openai` package raises by status (400 BadRequestError, 401 AuthenticationError, 429 RateLimitError, ...)
and retries 408, 409, 429 and 5xx by itself; so only what may succeed a second time gets one of those.
"""

from __future__ import annotations

from typing import Any

from enginewright_client import (
    ConnectError,
    InvalidRequest,
    ModelNotFound,
    RequestError,
    RequestTimeout,
    ServerOverloaded,
)

__all__ = ["ApiError", "from_request_error"]

# The server's names of what OpenAI calls otherwise.
_OPENAI_NAMES = {"stop_words": "stop", "text_input": "prompt"}


class ApiError(Exception):
    """An answer that is an error. status: of HTTP. retry_after: seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def from_request_error(error: RequestError) -> ApiError:
    """What the client raised, as an answer."""
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    code = error.code.replace("-", "_")
    if isinstance(error, ModelNotFound):
        return ApiError(503, message, code=code)  # the name in the request was right: the server has changed
    if isinstance(error, InvalidRequest):
        field = error.field or ""
        name = _OPENAI_NAMES.get(field, field)
        message = message.replace(field, name, 1)
        code = "context_length_exceeded" if error.code == "sequence-too-long" else code
        return ApiError(400, message, code=code, param=name or None)
    if isinstance(error, ServerOverloaded):
        return ApiError(429, message, code=code, retry_after=1)
    if isinstance(error, RequestTimeout):
        return ApiError(504, message, code=code)
    if isinstance(error, ConnectError):
        return ApiError(503, message, code=code, retry_after=1)
    return ApiError(500, message, code=code)
