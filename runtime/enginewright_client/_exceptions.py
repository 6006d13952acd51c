"""What can go wrong between a client and its server.

* ServerError (enginewright_errors)
  x RequestError
    + ConnectError          no server there, or the connection was lost
    + RequestTimeout        the time that was given is over; the server frees the request's slot
    + RequestCancelled      the request was cancelled, here or by the server
    + InvalidRequest        the request cannot be right; `field` is what to change
      - ModelNotFound       the server does not serve a model of that name
    + ServerOverloaded      the queue is full, the engine is stalled or shutting down: try again later
    + EngineError           the model failed while it ran the request

Every error has the `code`, `message` and `hint` of `EnginewrightError`, and the `request_id` it belongs to.
"""

from __future__ import annotations

from enginewright_errors import ServerError

__all__ = [
    "ConnectError",
    "EngineError",
    "InvalidRequest",
    "ModelNotFound",
    "RequestCancelled",
    "RequestError",
    "RequestTimeout",
    "ServerOverloaded",
]


class RequestError(ServerError):
    """Base of the errors of one request."""

    def __init__(self, message: str, *, code: str, hint: str = "", request_id: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.request_id = request_id


class ConnectError(RequestError):
    """No server answers at the address, or the connection was lost."""


class RequestTimeout(RequestError):
    """The answer was not complete within the given time."""


class RequestCancelled(RequestError):
    """The request was cancelled before its answer was complete."""


class InvalidRequest(RequestError):
    """The request cannot be right. `field` names the input or parameter to change, where that is known."""

    exit_code = 2

    def __init__(
        self, message: str, *, code: str, hint: str = "", request_id: str = "", field: str | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint, request_id=request_id)
        self.field = field


class ModelNotFound(InvalidRequest):
    """The server does not serve a model of that name."""


class ServerOverloaded(RequestError):
    """The server takes no more requests at the moment."""


class EngineError(RequestError):
    """The model failed while it ran the request."""
