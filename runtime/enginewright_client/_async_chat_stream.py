"""The running answer of a chat under asyncio."""

from __future__ import annotations

from types import TracebackType

from enginewright_client._async_stream import AsyncCompletionStream
from enginewright_client._chat_stream_base import ChatStreamBase
from enginewright_client._models import ChatDelta

__all__ = ["AsyncChatStream"]


class AsyncChatStream(ChatStreamBase[AsyncCompletionStream]):
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
