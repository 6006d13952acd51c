"""What a running request and its asyncio twin have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from enginewright_client._answer import AnswerReader
from enginewright_client._exceptions import RequestError
from enginewright_client._exchange import Exchange
from enginewright_client._models import FinishReason, ModelConfig, Usage

__all__ = ["Attempt", "StreamBase"]


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


CallT = TypeVar("CallT", bound=_Cancellable)


@dataclass(frozen=True, slots=True)
class Attempt(Generic[CallT]):
    """A request that was sent. leave: ends it while nobody reads `call`, without a wait."""

    call: CallT
    reader: AnswerReader
    leave: Callable[[], None]


class StreamBase(Generic[CallT]):
    """A request, its running call, and the timer that ends a call whose answer does not begin."""

    def __init__(self, exchange: Exchange) -> None:
        self._done = False
        self._exchange = exchange
        self._attempt: Attempt[CallT] | None = None
        self._reading = False
        self._timer: _Cancellable | None = None

    @property
    def request_id(self) -> str:
        """The id that the server knows the request by."""
        return self._exchange.request_id

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended; known after the last delta."""
        return self._exchange.finish_reason

    @property
    def usage(self) -> Usage | None:
        """The tokens of prompt and answer; known after the last delta."""
        return self._exchange.usage

    @property
    def config(self) -> ModelConfig | None:
        """What the model says of itself; known when the request is sent."""
        return self._exchange.config

    def _close(self) -> None:
        if not self._done:
            self._done = True
            self._stop_timer()
            if self._attempt is not None:
                # Who waits for a response in another thread shall wake up.
                (self._attempt.call.cancel if self._reading else self._attempt.leave)()

    def __del__(self) -> None:
        if not getattr(self, "_done", True):
            self._close()

    def _failed(self, error: RequestError) -> float | None:
        """Seconds to wait before the next attempt; None = there is none."""
        self._cancel()
        self._attempt = None
        pause = None if self._done else self._exchange.pause(error)
        if pause is None:
            self._done = True
        return pause

    def _first_token_is_late(self) -> None:
        self._exchange.late = True
        self._cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel(self) -> None:
        self._stop_timer()
        if self._attempt is not None:
            self._attempt.call.cancel()
