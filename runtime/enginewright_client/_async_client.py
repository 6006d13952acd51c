"""The client for asyncio: a transport, and a stream of it for every request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from enginewright_client._async_chat_stream import AsyncChatStream
from enginewright_client._async_stream import AsyncCompletionStream
from enginewright_client._channel import MAX_MESSAGE_BYTES, Metadata
from enginewright_client._chat_reader import ChatReader
from enginewright_client._client_base import DEFAULT_ADDRESS, PROBE, ClientBase, chat_ask, join, message_class
from enginewright_client._exceptions import AccessDenied, ConnectError, RequestError
from enginewright_client._exchange import Ask, Exchange
from enginewright_client._grpc_aio_transport import AsyncGrpcTransport
from enginewright_client._leaving import LEAVE_SECONDS, AsyncLeaving
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
from enginewright_client._stream_base import Attempt
from enginewright_client._transport import AsyncCall, AsyncTransport, TransportError

__all__ = ["AsyncTritonClient"]


class AsyncTritonClient(ClientBase):
    """`TritonClient` for asyncio: the same arguments, methods and errors; `aclose` instead of `close`.

    Any number of tasks may share it. Nothing runs on a thread of its own, and no task outlives its request.
    Each event loop and each forked child gets a connection of its own.

    >>> import asyncio
    >>> async def ask():
    ...     async with AsyncTritonClient(transport=fake_server) as client:
    ...         return await client.chat([{"role": "user", "content": "What is 2 + 2?"}])
    >>> asyncio.run(ask()).content
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
        transport: AsyncTransport | None = None,
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
        self._transport: AsyncTransport = transport or AsyncGrpcTransport(self._channel_config)
        self._leaving = AsyncLeaving(self._send_cancellation)

    async def generate(
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
        return await self._generate(prompt, sampling, timeout, request_id)

    def stream(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        *,
        timeout: Timeout | float | None = None,
        request_id: str | None = None,
    ) -> AsyncCompletionStream:
        """The answer as it is generated: an iterator of `Delta`s that cancels when it is left or closed.

        The request is sent by the first step, or by entering `async with`; errors are raised there.
        """
        ask = Ask(prompt, sampling or SamplingParams())
        return AsyncCompletionStream(self._exchange(ask, timeout, request_id), self._start)

    async def chat(
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
        async with AsyncCompletionStream(self._exchange(ask, timeout, request_id), self._start) as answer:
            async for delta in answer:
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
    ) -> AsyncChatStream:
        """The answer to a chat as it is generated: an iterator of `ChatDelta`s. Otherwise as `stream`."""
        ask = chat_ask(messages, sampling, max_reasoning_tokens)
        return AsyncChatStream(AsyncCompletionStream(self._exchange(ask, timeout, request_id), self._start))

    async def health(self, *, timeout: float = 10.0) -> Health:
        """Whether the server says it is ready, and whether one token can be generated. Raises nothing that a
        server may cause, and does not try twice."""
        ready = False
        try:
            request = message_class("ModelReadyRequest")(name=self.model)
            limits = self._limits(Timeout(total=timeout), retry=False)
            ready = bool((await self._unary("ModelReady", request, limits)).ready)
            await self._generate("Hello", PROBE, Timeout(total=timeout), None, retry=False)
        except RequestError as error:
            ready = ready and not isinstance(error, ConnectError)
            return Health(ready=ready, generates=False, problem=error.message)
        return Health(ready=ready, generates=True)

    async def models(self, *, timeout: float = 10.0) -> list[ModelInfo]:
        """Every model in the server's repository; of a server that shows that to nobody, as Enginewright's,
        those that are loaded. Raises the errors of `RequestError`."""
        limits = self._limits(Timeout(total=timeout))
        try:
            request = message_class("RepositoryIndexRequest")()
            return decode_repository_index(await self._unary("RepositoryIndex", request, limits))
        except AccessDenied:
            request = message_class("ModelStatisticsRequest")()
            return decode_statistics(await self._unary("ModelStatistics", request, limits))

    async def model_config(self, *, timeout: float = 10.0) -> ModelConfig:
        """Tensors, limits, sampling defaults and reasoning markers of the model; asked once, and kept until
        the connection is lost. Raises the errors of `RequestError`."""
        return await self._known_config(self._limits(Timeout(total=timeout)))

    async def metrics(self, *, timeout: float = 10.0) -> Metrics:
        """What the server counts: its requests, tokens, queue and times. Raises InvalidRequest without a
        `metrics_address`, ConnectError when nothing answers there."""
        address, host, port = self._metrics_at()
        try:
            reply = await asyncio.wait_for(_exchange_bytes(host, port, http_request(address)), timeout)
        except (OSError, asyncio.TimeoutError) as error:
            raise self._no_metrics(error) from None
        return metrics_from_reply(reply, address)

    async def aclose(self) -> None:
        """Close the connection; running requests are cancelled. A later call raises RuntimeError."""
        await self._leaving.wait()
        await self._transport.aclose()

    async def __aenter__(self) -> AsyncTritonClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _generate(
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
        async with AsyncCompletionStream(exchange, self._start) as answer:
            return join([delta async for delta in answer], answer.request_id)

    async def _start(self, exchange: Exchange) -> Attempt[AsyncCall]:
        # One stream of its own for each request: cancelling it cancels this request and no other. The
        # request side is closed at once, so to gRPC it is a call with one request and many responses.
        config = self._config or await self._read_config(exchange.limits)
        request, reader = exchange.attempt(config)
        call = self._transport.stream_async("ModelStreamInfer", request, exchange.limits.time_left())
        return Attempt(call, reader, self._leaving.way_out(call, exchange.cancellation()))

    def _send_cancellation(self, request: Any) -> AsyncCall:
        return self._transport.stream_async("ModelStreamInfer", request, LEAVE_SECONDS)

    async def _known_config(self, limits: Limits) -> ModelConfig:
        while self._config is None:
            try:
                await self._read_config(limits)
            except RequestError as error:
                await self._wait(limits, error)
        return self._config

    async def _read_config(self, limits: Limits) -> ModelConfig:
        request = message_class("ModelConfigRequest")(name=self.model)
        self._config = decode_model_config((await self._call("ModelConfig", request, limits)).config)
        return self._config

    async def _unary(self, method: str, request: Any, limits: Limits) -> Any:
        while True:
            try:
                return await self._call(method, request, limits)
            except RequestError as error:
                await self._wait(limits, error)

    async def _call(self, method: str, request: Any, limits: Limits) -> Any:
        try:
            return await self._transport.unary_async(method, request, limits.shortest_left())
        except TransportError as error:
            raise limits.failure(error) from None

    @staticmethod
    async def _wait(limits: Limits, error: RequestError) -> None:
        pause = limits.pause(error)
        if pause is None:
            raise error
        await asyncio.sleep(pause)


async def _exchange_bytes(host: str, port: int, request: bytes) -> bytes:
    """Send, and read to the end."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        return await reader.read(-1)
    finally:
        writer.close()
