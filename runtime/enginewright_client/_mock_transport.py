"""A server that is a function: for tests of what is built on this client."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from enginewright_client._exceptions import RequestError
from enginewright_client._models import Delta, Message, Usage
from enginewright_client._transport import TransportError

__all__ = ["MockRequest", "MockTransport"]


@dataclass(frozen=True, slots=True)
class MockRequest:
    """What a client asked. inputs: every tensor by its name on the wire, a list as a list.

    >>> MockRequest("a1", {"text_input": "Once upon", "max_tokens": 8}).prompt
    'Once upon'
    """

    request_id: str
    inputs: Mapping[str, Any]

    @property
    def prompt(self) -> str | Sequence[Message]:
        """The text, or the messages of a chat."""
        messages = self.inputs.get("messages")
        return str(self.inputs.get("text_input", "")) if messages is None else json.loads(messages)


Handler = Callable[[MockRequest], Iterable[str | Delta]]


class MockTransport:
    """Answers requests to the model `model` by `handler`, in the process, for both clients.

    handler: gives the pieces of an answer, or raises a RequestError, as a server would send it. It is closed
    when the request is cancelled. Unless it gives a Delta with a finish reason, the answer ends with `stop`,
    and words and pieces are counted as tokens. parameters: of the model's configuration, such as
    `{"reasoning.open": "<think>", "reasoning.close": "</think>"}`.

    >>> from enginewright_client import TritonClient
    >>> def answer(request):
    ...     yield "You said: "
    ...     yield request.prompt
    >>> with TritonClient(transport=MockTransport(answer)) as client:
    ...     client.generate("hello").text
    'You said: hello'
    """

    def __init__(
        self, handler: Handler, *, model: str = "llm", parameters: Mapping[str, str] | None = None
    ) -> None:
        self._handler = handler
        self._model = model
        self._parameters = dict(parameters or {})

    def unary(self, method: str, request: Any, timeout: float | None) -> Any:
        """See `Transport`."""
        from tritonclient.grpc import service_pb2 as pb

        if method == "RepositoryIndex":
            index = pb.RepositoryIndexResponse()
            index.models.add(name=self._model, version="1", state="READY")
            return index
        if request.name != self._model:
            raise TransportError("UNAVAILABLE", f"Request for unknown model: '{request.name}' is not found")
        if method == "ModelReady":
            return pb.ModelReadyResponse(ready=True)
        return pb.ModelConfigResponse(config=_config(self._model, self._parameters))

    async def unary_async(self, method: str, request: Any, timeout: float | None) -> Any:
        """See `AsyncTransport`."""
        return self.unary(method, request, timeout)

    def stream(self, method: str, request: Any, timeout: float | None) -> MockCall:
        """See `Transport`."""
        return MockCall(_respond(self._handler, request))

    def stream_async(self, method: str, request: Any, timeout: float | None) -> MockCall:
        """See `AsyncTransport`."""
        return self.stream(method, request, timeout)

    def close(self) -> None:
        """See `Transport`."""

    async def aclose(self) -> None:
        """See `AsyncTransport`."""


class MockCall:
    """One running request, for both clients."""

    def __init__(self, responses: Iterator[Any]) -> None:
        self._responses = responses
        self._cancelled = False

    def __next__(self) -> Any:
        """See `Call`."""
        if self._cancelled:
            raise TransportError("CANCELLED")
        return next(self._responses)

    async def __anext__(self) -> Any:
        """See `AsyncCall`."""
        try:
            return self.__next__()
        except StopIteration:
            raise StopAsyncIteration from None

    def cancel(self) -> None:
        """See `Call`."""
        self._cancelled = True
        close = getattr(self._responses, "close", None)
        if close is not None:
            close()


def _respond(handler: Handler, request: Any) -> Iterator[Any]:
    """The ModelStreamInferResponses of one request."""
    from tritonclient.grpc import service_pb2 as pb

    asked = MockRequest(request.id, _inputs(request))
    made = 0
    try:
        for piece in handler(asked):
            made += 1
            delta = piece if isinstance(piece, Delta) else Delta(piece)
            yield pb.ModelStreamInferResponse(infer_response=_response(request, delta))
            if delta.finish_reason is not None:
                return
    except RequestError as error:
        hint = f"; {error.hint}" if error.hint else ""
        yield pb.ModelStreamInferResponse(error_message=f"{error.message}{hint} [{error.code}]")
        return
    words = len(str(asked.prompt).split())
    last = Delta("", "stop", Usage(words, made))
    yield pb.ModelStreamInferResponse(infer_response=_response(request, last))


def _inputs(request: Any) -> dict[str, Any]:
    return {
        tensor.name: _value(tensor, content)
        for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def _value(tensor: Any, content: bytes) -> Any:
    if tensor.datatype == "BYTES":
        texts, offset = [], 0
        while offset < len(content):
            (length,) = struct.unpack_from("<I", content, offset)
            texts.append(content[offset + 4 : offset + 4 + length].decode())
            offset += 4 + length
        return texts if tensor.name in ("stop_words", "bad_words") else texts[0]
    return struct.unpack(
        {"INT32": "<i", "UINT64": "<Q", "FP32": "<f", "BOOL": "<?"}[tensor.datatype], content
    )[0]


def _response(request: Any, delta: Delta) -> Any:
    from tritonclient.grpc import service_pb2 as pb

    response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    _add(response, "text_output", "BYTES", _text(delta.text))
    if delta.finish_reason is not None:
        _add(response, "finish_reason", "BYTES", _text(delta.finish_reason))
        response.parameters["triton_final_response"].bool_param = True
    if delta.usage is not None:
        _add(response, "num_input_tokens", "INT32", struct.pack("<i", delta.usage.input_tokens))
        _add(response, "num_output_tokens", "INT32", struct.pack("<i", delta.usage.output_tokens))
    if delta.log_probs:
        content = struct.pack(f"<{len(delta.log_probs)}f", *delta.log_probs)
        _add(response, "output_log_probs", "FP32", content)
    return response


def _add(response: Any, name: str, datatype: str, content: bytes) -> None:
    response.outputs.add(name=name, datatype=datatype, shape=(1,))
    response.raw_output_contents.append(content)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


_INPUTS = {
    "TYPE_STRING": ("text_input", "messages", "stop_words", "bad_words"),
    "TYPE_INT32": ("max_tokens", "min_tokens", "top_k", "max_reasoning_tokens"),
    "TYPE_FP32": (
        "temperature",
        "top_p",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
    ),
    "TYPE_UINT64": ("seed",),
    "TYPE_BOOL": ("stream", "return_log_probs"),
}
_OUTPUTS = {
    "TYPE_STRING": ("text_output", "finish_reason"),
    "TYPE_INT32": ("num_input_tokens", "num_output_tokens"),
    "TYPE_FP32": ("output_log_probs",),
}


def _config(name: str, parameters: Mapping[str, str]) -> Any:
    """The configuration of a model of the wire contract."""
    from tritonclient.grpc import model_config_pb2 as pb

    config = pb.ModelConfig(name=name, max_batch_size=1)
    config.model_transaction_policy.decoupled = True
    for datatype, names in _INPUTS.items():
        for tensor in names:
            dims = [-1] if tensor in ("stop_words", "bad_words") else [1]
            config.input.add(name=tensor, data_type=pb.DataType.Value(datatype), dims=dims, optional=True)
    for datatype, names in _OUTPUTS.items():
        for tensor in names:
            config.output.add(name=tensor, data_type=pb.DataType.Value(datatype), dims=[-1])
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    return config
