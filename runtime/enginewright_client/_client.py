"""The client: a transport, and a stream of it for every request."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from enginewright_client._channel import MAX_MESSAGE_BYTES, Metadata
from enginewright_client._chat_reader import ChatReader
from enginewright_client._chat_stream import ChatStream
from enginewright_client._client_base import DEFAULT_ADDRESS, PROBE, ClientBase, chat_ask, join, message_class
from enginewright_client._exceptions import AccessDenied, ConnectError, RequestError
from enginewright_client._exchange import Ask, Exchange
from enginewright_client._grpc_transport import GrpcTransport
from enginewright_client._leaving import LEAVE_SECONDS, Leaving
from enginewright_client._limits import Limits
from enginewright_client._metrics import Metrics, http_request, metrics_from_reply
from enginewright_client._model_config import (
    decode_model_config,
    decode_repository_index,
    decode_statistics,
)
from enginewright_client._models import (
    ChatCompletion,
    Completion,
    Health,
    Message,
    ModelConfig,
    ModelInfo,
    Prompt,
    SamplingParams,
)
from enginewright_client._options import TLS, Keepalive, Retry, Timeout
from enginewright_client._stream import CompletionStream
from enginewright_client._stream_base import Attempt
from enginewright_client._transport import Call, Transport, TransportError

__all__ = ["TritonClient"]


class TritonClient(ClientBase):
    """A client of one model on one Triton. Any number of threads may share it; connects when first used.

    address: "host:port" of the server's gRPC. model: the model to ask: Enginewright's `llm`, TensorRT-LLM's
    `ensemble` or `tensorrt_llm_bls`, an LLM API model, or one of vLLM's backend; which it is, is seen by its
    tensors.
    timeout: a `Timeout`, or the seconds that a request may take in all; None = no limit but for connecting.
    retry: None = every failure is raised. tls: None = plain text.
    token: what `enginewright serve --token-file` was given; sent as `authorization: Bearer`, too.
    metadata: more headers of every call. metrics_address: "host:port" for `metrics()`.
    transport: what to use instead of gRPC, for tests; see `MockTransport`.

    A process that forks may go on using it: the child connects anew, and the requests stay the parent's.

    >>> with TritonClient(transport=fake_server, timeout=Timeout(first_token=5, total=60)) as client:
    ...     client.chat([{"role": "user", "content": "What is 2 + 2?"}]).content
    '4'
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        model: str = "llm",
        timeout: Timeout | float | None = None,
        retry: Retry | None = None,
        tls: TLS | None = None,
        token: str | None = None,
        metadata: Metadata | None = None,
        keepalive: Keepalive | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        metrics_address: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        super().__init__(
            address,
            model,
            timeout,
            retry,
            tls,
            token,
            metadata,
            keepalive,
            max_message_bytes,
            metrics_address,
        )
        self._transport: Transport = transport or GrpcTransport(self._channel_config)
        self._leaving = Leaving(self._send_cancellation)

    def generate(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        *,
        timeout: Timeout | float | None = None,
        request_id: str | None = None,
    ) -> Completion:
        """The whole answer to a text or to the messages of a chat. Raises the errors of `RequestError`.

        It is streamed on the wire: a connection that is silent for minutes would be taken for dead.
        """
        return self._generate(prompt, sampling, timeout, request_id)

    def stream(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        *,
        timeout: Timeout | float | None = None,
        request_id: str | None = None,
    ) -> CompletionStream:
        """The answer as it is generated: an iterator of `Delta`s that cancels when it is left or closed.

        The request is sent at once. Raises InvalidRequest for what cannot be sent, and what goes wrong before
        that; everything else is raised by the iteration.
        """
        ask = Ask(prompt, sampling or SamplingParams())
        return CompletionStream(self._exchange(ask, timeout, request_id), self._start)

    def chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        max_reasoning_tokens: int | None = None,
        timeout: Timeout | float | None = None,
        request_id: str | None = None,
    ) -> ChatCompletion:
        """The whole answer to a chat, its thinking apart. Thinking in earlier answers is not sent.

        max_reasoning_tokens: ends the thinking there and lets the answer begin; the server must know of it.
        Raises the errors of `RequestError`.
        """
        reader = ChatReader()
        ask = chat_ask(messages, sampling, max_reasoning_tokens)
        with CompletionStream(self._exchange(ask, timeout, request_id), self._start) as answer:
            for delta in answer:
                reader.feed(delta, answer.config)
        return reader.completion(answer.request_id)

    def chat_stream(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        max_reasoning_tokens: int | None = None,
        timeout: Timeout | float | None = None,
        request_id: str | None = None,
    ) -> ChatStream:
        """The answer to a chat as it is generated: an iterator of `ChatDelta`s. Otherwise as `stream`."""
        ask = chat_ask(messages, sampling, max_reasoning_tokens)
        return ChatStream(CompletionStream(self._exchange(ask, timeout, request_id), self._start))

    def health(self, *, timeout: float = 10.0) -> Health:
        """Whether the server says it is ready, and whether one token can be generated. Raises nothing that a
        server may cause, and does not try twice."""
        ready = False
        try:
            request = message_class("ModelReadyRequest")(name=self.model)
            limits = self._limits(Timeout(total=timeout), retry=False)
            ready = bool(self._unary("ModelReady", request, limits).ready)
            self._generate("Hello", PROBE, Timeout(total=timeout), None, retry=False)
        except RequestError as error:
            ready = ready and not isinstance(error, ConnectError)
            return Health(ready=ready, generates=False, problem=error.message)
        return Health(ready=ready, generates=True)

    def models(self, *, timeout: float = 10.0) -> list[ModelInfo]:
        """Every model in the server's repository; of a server that shows that to nobody, as Enginewright's,
        those that are loaded. Raises the errors of `RequestError`."""
        limits = self._limits(Timeout(total=timeout))
        try:
            request = message_class("RepositoryIndexRequest")()
            return decode_repository_index(self._unary("RepositoryIndex", request, limits))
        except AccessDenied:
            request = message_class("ModelStatisticsRequest")()
            return decode_statistics(self._unary("ModelStatistics", request, limits))

    def model_config(self, *, timeout: float = 10.0) -> ModelConfig:
        """Tensors, limits, sampling defaults and reasoning markers of the model; asked once, and kept until
        the connection is lost. Raises the errors of `RequestError`."""
        return self._known_config(self._limits(Timeout(total=timeout)))

    def metrics(self, *, timeout: float = 10.0) -> Metrics:
        """What the server counts: its requests, tokens, queue and times. Raises InvalidRequest without a
        `metrics_address`, ConnectError when nothing answers there."""
        address, host, port = self._metrics_at()
        try:
            with socket.create_connection((host, port), timeout) as connection:
                connection.sendall(http_request(address))
                reply = b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError as error:
            raise self._no_metrics(error) from None
        return metrics_from_reply(reply, address)

    def close(self) -> None:
        """Close the connection; running requests are cancelled. A later call raises RuntimeError."""
        self._leaving.wait()
        self._transport.close()

    def __enter__(self) -> TritonClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _generate(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None,
        timeout: Timeout | float | None,
        request_id: str | None,
        *,
        retry: bool = True,
    ) -> Completion:
        ask = Ask(prompt, sampling or SamplingParams())
        exchange = self._exchange(ask, timeout, request_id, retry=retry)
        with CompletionStream(exchange, self._start) as answer:
            return join(list(answer), answer.request_id)

    def _start(self, exchange: Exchange) -> Attempt[Call]:
        # One stream of its own for each request: cancelling it cancels this request and no other. The
        # request side is closed at once, so to gRPC it is a call with one request and many responses.
        config = self._config or self._read_config(exchange.limits)
        request, reader = exchange.attempt(config)
        call = self._transport.stream("ModelStreamInfer", request, exchange.limits.time_left())
        return Attempt(call, reader, self._leaving.way_out(call, exchange.cancellation()))

    def _send_cancellation(self, request: Any) -> Call:
        return self._transport.stream("ModelStreamInfer", request, LEAVE_SECONDS)

    def _known_config(self, limits: Limits) -> ModelConfig:
        while self._config is None:
            try:
                self._read_config(limits)
            except RequestError as error:
                self._wait(limits, error)
        return self._config

    def _read_config(self, limits: Limits) -> ModelConfig:
        request = message_class("ModelConfigRequest")(name=self.model)
        self._config = decode_model_config(self._call("ModelConfig", request, limits).config)
        return self._config

    def _unary(self, method: str, request: Any, limits: Limits) -> Any:
        while True:
            try:
                return self._call(method, request, limits)
            except RequestError as error:
                self._wait(limits, error)

    def _call(self, method: str, request: Any, limits: Limits) -> Any:
        try:
            return self._transport.unary(method, request, limits.shortest_left())
        except TransportError as error:
            raise limits.failure(error) from None

    @staticmethod
    def _wait(limits: Limits, error: RequestError) -> None:
        pause = limits.pause(error)
        if pause is None:
            raise error
        threading.Event().wait(pause)
