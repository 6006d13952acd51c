"""The running answer of a chat under asyncio."""

from __future__ import annotations

from types import TracebackType

from enginewright_client._async_stream import AsyncCompletionStream
from enginewright_client._chat_reader import ChatReader
from enginewright_client._models import ChatDelta, FinishReason, Usage

__all__ = ["AsyncChatStream"]


class AsyncChatStream:
    """`ChatStream` for asyncio. The request is sent by the first step.

    >>> import asyncio
    >>> from enginewright_client import AsyncTritonClient
    >>> async def ask():
    ...     async with AsyncTritonClient(transport=fake_server) as client:
    ...         answer = client.chat_stream([{"role": "user", "content": "2 + 2?"}])
    ...         return [delta.content async for delta in answer]
    >>> asyncio.run(ask())
    ['', '4', '']
    """

    def __init__(self, answer: AsyncCompletionStream) -> None:
        self._answer = answer
        self._reader = ChatReader()

    @property
    def request_id(self) -> str:
        """The id that the server knows the request by."""
        return self._answer.request_id

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended; known after the last delta."""
        return self._answer.finish_reason

    @property
    def usage(self) -> Usage | None:
        """The tokens of prompt and answer; known after the last delta."""
        return self._answer.usage

    @property
    def message(self) -> dict[str, str]:
        """What was answered so far as a message for the history: without the thinking."""
        return self._reader.message

    def __aiter__(self) -> AsyncChatStream:
        return self

    async def __anext__(self) -> ChatDelta:
        """The next piece. Raises the errors of `RequestError`."""
        while not self._reader.pending:
            self._reader.feed(await self._answer.__anext__(), self._answer.config)
        return self._reader.pending.popleft()

    async def aclose(self) -> None:
        """Cancel the request unless it is over. Safe to call twice."""
        await self._answer.aclose()

    async def __aenter__(self) -> AsyncChatStream:
        await self._answer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
