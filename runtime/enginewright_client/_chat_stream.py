"""The running answer of a chat: thinking and content, each as it comes."""

from __future__ import annotations

from types import TracebackType

from enginewright_client._chat_stream_base import ChatStreamBase
from enginewright_client._models import ChatDelta
from enginewright_client._stream import CompletionStream

__all__ = ["ChatStream"]


class ChatStream(ChatStreamBase[CompletionStream]):
    """A chat's answer as it is generated: iterate over it for `ChatDelta`s. Cancels as `CompletionStream`.

    >>> from enginewright_client import TritonClient
    >>> with TritonClient(transport=fake_server) as client:
    ...     with client.chat_stream([{"role": "user", "content": "2 + 2?"}]) as answer:
    ...         for delta in answer:
    ...             print(repr(delta.reasoning), repr(delta.content))
    ...         print(answer.message)
    'Two and two. ' ''
    '' '4'
    '' ''
    {'role': 'assistant', 'content': '4'}
    """

    def __iter__(self) -> ChatStream:
        return self

    def __next__(self) -> ChatDelta:
        """The next piece. Raises the errors of `RequestError`."""
        while not self._reader.pending:
            self._reader.feed(next(self._answer), self._answer.config)
        return self._reader.pending.popleft()

    def close(self) -> None:
        """Cancel the request unless it is over. Safe to call twice and from any thread."""
        self._answer.close()

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
