"""The client: a channel, and a stream of it for every request."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, cast

from enginewright_client._channel import open_channel
from enginewright_client._exceptions import ConnectError, RequestError
from enginewright_client._failure import from_rpc_error
from enginewright_client._models import (
    Completion,
    FinishReason,
    Health,
    ModelConfig,
    Prompt,
    SamplingParams,
    Usage,
)
from enginewright_client._stream import CompletionStream
from enginewright_client._wire import decode_model_config, encode_request

__all__ = ["DEFAULT_ADDRESS", "TritonClient"]

DEFAULT_ADDRESS = "127.0.0.1:8001"
_SERVICE = "/inference.GRPCInferenceService/"


class TritonClient:
    """A client of one model on one Triton. Any number of threads may share it; connects when first used.

    address: "host:port" of the server's gRPC. model: the model to ask.
    timeout: seconds that a request may take in all, queueing included; None = no limit.

        with TritonClient("127.0.0.1:8001") as client:
            for delta in client.stream([{"role": "user", "content": "What is the capital of France?"}]):
                print(delta.text, end="", flush=True)
    """

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, model: str = "llm", timeout: float | None = None
    ) -> None:
        self.address = address
        self.model = model
        self.timeout = timeout
        self._channel = open_channel(address)
        self._stubs: dict[str, Any] = {}

    def generate(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Completion:
        """The whole answer to a text or to the messages of a chat. Raises the errors of `RequestError`."""
        with self._start(prompt, sampling, timeout, request_id, stream=False) as answer:
            deltas = list(answer)
        return Completion(
            text="".join(delta.text for delta in deltas),
            finish_reason=cast("FinishReason", answer.finish_reason),
            usage=cast("Usage", answer.usage),
            request_id=answer.request_id,
            log_probs=tuple(value for delta in deltas for value in delta.log_probs),
        )

    def stream(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> CompletionStream:
        """The answer as it is generated: an iterator of `Delta`s that cancels when it is left or closed.

        Raises InvalidRequest for what cannot be sent; everything else is raised by the iteration.
        """
        return self._start(prompt, sampling, timeout, request_id, stream=True)

    def health(self, *, timeout: float = 10.0) -> Health:
        """Whether the server says it is ready, and whether one token can be generated. Raises nothing that a
        server may cause."""
        from tritonclient.grpc import service_pb2 as pb

        try:
            request = pb.ModelReadyRequest(name=self.model)
            ready = bool(self._unary("ModelReady", request, pb.ModelReadyResponse, timeout).ready)
            self.generate("Hello", SamplingParams(max_tokens=1, temperature=0.0), timeout=timeout)
        except ConnectError as error:
            return Health(ready=False, generates=False, problem=error.message)
        except RequestError as error:
            return Health(ready=ready, generates=False, problem=error.message)
        return Health(ready=ready, generates=True)

    def model_config(self, *, timeout: float = 10.0) -> ModelConfig:
        """The limits, sampling defaults and reasoning markers. Raises the errors of `RequestError`."""
        from tritonclient.grpc import service_pb2 as pb

        request = pb.ModelConfigRequest(name=self.model)
        return decode_model_config(
            self._unary("ModelConfig", request, pb.ModelConfigResponse, timeout).config
        )

    def close(self) -> None:
        """Close the connection; running requests are cancelled."""
        self._channel.close()

    def __enter__(self) -> TritonClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None,
        timeout: float | None,
        request_id: str | None,
        *,
        stream: bool,
    ) -> CompletionStream:
        # One stream of its own for each request: cancelling it cancels this request and no other. The
        # request side is closed at once, so to gRPC it is a call with one request and many responses.
        from tritonclient.grpc import service_pb2 as pb

        request_id = request_id or uuid.uuid4().hex
        timeout = self.timeout if timeout is None else timeout
        request = encode_request(self.model, request_id, prompt, sampling or SamplingParams(), stream=stream)
        call = self._stub("ModelStreamInfer", self._channel.unary_stream, pb.ModelStreamInferResponse)
        return CompletionStream(
            call(request, timeout=timeout), request_id=request_id, address=self.address, timeout=timeout
        )

    def _unary(self, method: str, request: Any, response: Any, timeout: float) -> Any:
        import grpc

        try:
            return self._stub(method, self._channel.unary_unary, response)(request, timeout=timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address, "", timeout) from None

    def _stub(self, method: str, make: Callable[..., Any], response: Any) -> Any:
        if method not in self._stubs:
            self._stubs[method] = make(
                _SERVICE + method,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=response.FromString,
            )
        return self._stubs[method]
