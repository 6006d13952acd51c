"""What the running answer of a chat and its asyncio twin have in common."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from enginewright_client._chat_reader import ChatReader
from enginewright_client._models import FinishReason, Usage
from enginewright_client._stream_base import StreamBase

__all__ = ["ChatStreamBase"]

AnswerT = TypeVar("AnswerT", bound=StreamBase[Any])


class ChatStreamBase(Generic[AnswerT]):
    """An answer's text, and what parts it into thinking and content."""

    def __init__(self, answer: AnswerT) -> None:
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
