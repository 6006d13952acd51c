"""The running answer of a chat: thinking and content, each as it comes."""

from __future__ import annotations

from types import TracebackType

from enginewright_client._chat_reader import ChatReader
from enginewright_client._models import ChatDelta, FinishReason, Usage
from enginewright_client._stream import CompletionStream

__all__ = ["ChatStream"]


class ChatStream:
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

    def __init__(self, answer: CompletionStream) -> None:
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
