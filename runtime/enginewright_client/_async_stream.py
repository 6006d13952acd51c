"""One running request under asyncio: an async iterator that cancels what it does not read to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

from enginewright_client._exceptions import RequestError
from enginewright_client._exchange import END_SECONDS, Exchange
from enginewright_client._leaving import read_end_async
from enginewright_client._models import Delta
from enginewright_client._stream_base import Attempt, StreamBase
from enginewright_client._transport import AsyncCall, TransportError

__all__ = ["AsyncCompletionStream", "AsyncStart"]

AsyncStart = Callable[[Exchange], Awaitable[Attempt[AsyncCall]]]
"""Starts an attempt of a request. Raises the errors of RequestError."""


class AsyncCompletionStream(StreamBase[AsyncCall]):
    """`CompletionStream` for asyncio: iterate over it for `Delta`s. The request is sent by the first step.

    A cancelled task cancels the request, and so do leaving the loop, `aclose()`, the end of an `async with`
    block and the last reference.

    >>> import asyncio
    >>> from enginewright_client import AsyncTritonClient
    >>> async def ask():
    ...     async with AsyncTritonClient(transport=fake_server) as client:
    ...         return [delta.text async for delta in client.stream("Once upon")]
    >>> asyncio.run(ask())
    ['a ', 'time', '']
    """

    def __init__(self, exchange: Exchange, start: AsyncStart) -> None:
        super().__init__(exchange)
        self._start = start

    def __aiter__(self) -> AsyncCompletionStream:
        return self

    async def __anext__(self) -> Delta:
        """The next piece. Raises the errors of `RequestError`."""
        while not self._done:
            delta = await self._try(self._read)
            if delta is not None:
                return delta
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel the request unless it is over. Safe to call twice."""
        self._close()

    async def __aenter__(self) -> AsyncCompletionStream:
        while self._attempt is None and not self._done:
            await self._try(self._begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    async def _try(self, step: Callable[[], Awaitable[Delta | None]]) -> Delta | None:
        """One step; when it fails, a pause before the next attempt, or its error."""
        try:
            return await step()
        except RequestError as error:
            pause = self._failed(error)
            if pause is None:
                raise
            await asyncio.sleep(pause)
        except BaseException:
            self._close()
            raise
        return None

    async def _begin(self) -> None:
        await self._open()

    async def _open(self) -> Attempt[AsyncCall]:
        self._attempt = attempt = await self._start(self._exchange)
        left = self._exchange.limits.first_token_left()
        if left is not None:
            self._timer = asyncio.get_running_loop().call_later(left, self._first_token_is_late)
        return attempt

    async def _read(self) -> Delta | None:
        attempt = self._attempt or await self._open()
        call = attempt.call
        self._reading = True
        try:
            response = await call.__anext__()
        except StopAsyncIteration:
            self._done = True
            return self._exchange.end(attempt.reader)
        except TransportError as error:
            raise self._exchange.failure(error) from None
        finally:
            self._reading = False
        if not self._exchange.begun:
            self._stop_timer()
        if response.error_message:
            timer = asyncio.get_running_loop().call_later(END_SECONDS, call.cancel)
            await read_end_async(call)
            timer.cancel()
            raise self._exchange.refusal(response)
        delta, last = self._exchange.receive(attempt.reader, response)
        if last:
            await read_end_async(call)
            self._done = True
        return delta
