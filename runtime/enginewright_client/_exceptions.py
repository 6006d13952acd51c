"""What can go wrong between a client and its server.

* ServerError (enginewright_errors)
  x RequestError
    + ConnectError          no server there, or the connection was lost
      - TLSError            it is there, but is not to be trusted; `code` says why
    + RequestTimeout        the time that was given is over; the server frees the request's slot
    + RequestCancelled      the request was cancelled, here or by the server
    + InvalidRequest        the request cannot be right; `field` is what to change
      - AccessDenied        the server wants a token, or another
      - ModelNotFound       the server does not serve a model of that name
      - UnsupportedModel    it does, but the model takes no text or gives none
    + ServerOverloaded      the queue is full, the engine is stalled or shutting down: try again later
    + EngineError           the model failed while it ran the request

Every error has the `code`, `message` and `hint` of `EnginewrightError`, and the `request_id` it belongs to.
Codes: no-connection, too-many-pings, forked, tls-{untrusted,expired,host-mismatch,failed},
timeout, first-token-timeout, request-time-limit, cancelled, invalid-request, sequence-too-long,
message-too-large, access-denied, model-not-found, unsupported-model, queue-full, engine-stalled,
shutting-down, unavailable, incomplete-answer, bad-response, engine-error, and whatever else a server says.

Warnings: InsecureChannelWarning, GreedyReasoningWarning.
"""

from __future__ import annotations

from enginewright_errors import ServerError

__all__ = [
    "AccessDenied",
    "ConnectError",
    "EngineError",
    "GreedyReasoningWarning",
    "InsecureChannelWarning",
    "InvalidRequest",
    "ModelNotFound",
    "RequestCancelled",
    "RequestError",
    "RequestTimeout",
    "ServerOverloaded",
    "TLSError",
    "UnsupportedModel",
]


class RequestError(ServerError):
    """Base of the errors of one request.

    >>> error = ServerOverloaded("256 requests wait", code="queue-full", request_id="a1")
    >>> isinstance(error, RequestError), error.code, error.request_id
    (True, 'queue-full', 'a1')
    """

    def __init__(self, message: str, *, code: str, hint: str = "", request_id: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.request_id = request_id


class ConnectError(RequestError):
    """No server answers at the address, or the connection was lost.

    >>> from enginewright_client import TritonClient
    >>> with TritonClient("127.0.0.1:1") as client:
    ...     client.generate("Hello")
    Traceback (most recent call last):
    enginewright_client._exceptions.ConnectError: no connection to 127.0.0.1:1: Connection refused ...
    """


class TLSError(ConnectError):
    """The server is there, but is not to be trusted.

    Codes: `tls-untrusted` (signed by an authority that is not `TLS.ca`), `tls-expired`, `tls-host-mismatch`
    (a certificate for another name), `tls-failed`. A server that does not trust the client only closes the
    connection, which is a ConnectError whose hint says so: gRPC tells no more.

    >>> issubclass(TLSError, ConnectError)
    True
    """


class RequestTimeout(RequestError):
    """The answer was not complete within the given time (`timeout`), had not begun (`first-token-timeout`),
    or took longer than the server allows (`request-time-limit`).

    >>> RequestTimeout("no answer within 2 s", code="timeout").code
    'timeout'
    """


class RequestCancelled(RequestError):
    """The request was cancelled before its answer was complete.

    >>> RequestCancelled("the request was cancelled", code="cancelled").code
    'cancelled'
    """


class InvalidRequest(RequestError):
    """The request cannot be right. `field` names the input or parameter to change, where that is known.

    >>> from enginewright_client import SamplingParams, TritonClient
    >>> with TritonClient(transport=fake_server) as client:
    ...     try:
    ...         client.generate("Hello", SamplingParams(top_k="many"))
    ...     except InvalidRequest as error:
    ...         print(error.field, "/", error)
    top_k / top_k is 'many'
    """

    exit_code = 2

    def __init__(
        self, message: str, *, code: str, hint: str = "", request_id: str = "", field: str | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint, request_id=request_id)
        self.field = field


class AccessDenied(InvalidRequest):
    """The server, or a proxy in front of it, wants a token or metadata, or others than were sent.

    >>> AccessDenied("this call is restricted", code="access-denied", field="token").field
    'token'
    """


class ModelNotFound(InvalidRequest):
    """The server does not serve a model of that name.

    >>> from enginewright_client import TritonClient
    >>> with TritonClient(model="gpt", transport=fake_server) as client:
    ...     client.generate("Hello")
    Traceback (most recent call last):
    enginewright_client._exceptions.ModelNotFound: Request for unknown model: 'gpt' is not found
    """


class UnsupportedModel(InvalidRequest):
    """The server serves the model, but not one that continues text: its tensors are listed.

    >>> issubclass(UnsupportedModel, InvalidRequest)
    True
    """


class ServerOverloaded(RequestError):
    """The server takes no more requests at the moment; `Retry` waits and asks again.

    >>> ServerOverloaded("256 requests wait", code="queue-full").code
    'queue-full'
    """


class EngineError(RequestError):
    """The model failed while it ran the request.

    >>> EngineError("out of memory", code="engine-failed").exit_code
    4
    """


class InsecureChannelWarning(UserWarning):
    """A token is sent over a connection without TLS to another machine.

    >>> import warnings
    >>> from enginewright_client import TritonClient
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     TritonClient("10.0.0.7:8001", token="secret").close()
    >>> caught[0].category.__name__
    'InsecureChannelWarning'
    """


class GreedyReasoningWarning(UserWarning):
    """A model that thinks aloud is asked to be greedy: it tends to repeat itself without an end.

    Source: the model card of QwQ-32B, which asks for temperature 0.6 and top_p 0.95.

    >>> import warnings
    >>> from enginewright_client import SamplingParams, TritonClient
    >>> chat = [{"role": "user", "content": "Hi"}]
    >>> with TritonClient(transport=fake_server) as client:
    ...     with warnings.catch_warnings(record=True) as caught:
    ...         warnings.simplefilter("always")
    ...         _ = client.chat(chat, SamplingParams(temperature=0))
    >>> caught[0].category.__name__
    'GreedyReasoningWarning'
    """
