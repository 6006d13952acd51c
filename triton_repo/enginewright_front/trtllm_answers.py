"""The responses of TensorRT-LLM's C++ model -> token events.

The model says nothing about why it ended. It does not send the end token, it does send a stop word, and its
last response carries `output_ids` like all others, if only empty ones: so an end that no response announced
is a failure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from enginewright_front.backend import TokenEvent


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. token_ids: None when it carries none at all. logprobs: when asked for.

    error: why the request failed; there are no tokens then.
    """

    token_ids: tuple[int, ...] | None
    logprobs: tuple[float, ...] | None = None
    error: str | None = None


class AnswerReader:
    """One request's responses, in order. Used by one thread.

    end_ids: the first ends the answer unsent, the others are sent, like every stop id of the request's own.
    """

    def __init__(self, end_ids: tuple[int, ...], stop_ids: Iterable[int], max_tokens: int) -> None:
        self._end_ids = end_ids
        self._stop_ids = {*end_ids, *stop_ids}
        self._max_tokens = max_tokens
        self._made = 0
        self._last: Answer | None = None
        self._stopped_by: Answer | None = None

    def take(self, answer: Answer) -> TokenEvent | None:
        """What `answer` adds; None when that is nothing yet."""
        self._last = answer
        if answer.error is not None:
            return failed(answer.error)
        tokens = answer.token_ids
        if not tokens or self._stopped_by is not None:
            return None
        self._made += len(tokens)
        logprobs = answer.logprobs
        if tokens[-1] in self._stop_ids:
            # Not text: it goes with the finish, as the token that ended the answer.
            self._stopped_by = Answer(tokens[-1:], None if logprobs is None else logprobs[-1:])
            tokens, logprobs = tokens[:-1], None if logprobs is None else logprobs[:-1]
        return TokenEvent(tokens, logprobs) if tokens else None

    def finish(self, *, cancelled: bool) -> TokenEvent:
        """The event that ends the request, once no more responses come."""
        if self._stopped_by is not None:
            return TokenEvent(self._stopped_by.token_ids or (), self._stopped_by.logprobs, "stop")
        if self._made >= self._max_tokens:
            return TokenEvent((), None, "length")
        if cancelled:
            return TokenEvent((), None, "cancelled")
        if self._end_ids and self._last is not None and self._last.token_ids is not None:
            return TokenEvent(self._end_ids[:1], None, "stop")
        return failed(f"the answer broke off after {self._made} tokens")


def failed(problem: str, code: str = "engine-failed") -> TokenEvent:
    """The event that ends a request with an error."""
    return TokenEvent((), None, "error", problem, error_code=code)
