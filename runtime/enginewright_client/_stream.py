"""One running request: an iterator of its answer that cancels what it does not read to the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from enginewright_client._exceptions import RequestError
from enginewright_client._exchange import END_SECONDS, Exchange
from enginewright_client._leaving import read_end
from enginewright_client._models import Delta
from enginewright_client._stream_base import Attempt, StreamBase
from enginewright_client._transport import Call, TransportError

__all__ = ["CompletionStream", "Start"]

Start = Callable[[Exchange], Attempt[Call]]
"""Starts an attempt of a request. Raises the errors of RequestError."""


class CompletionStream(StreamBase[Call]):
    """An answer as it is generated: iterate over it for `Delta`s.

    Leaving the loop early, `close()`, the end of a `with` block or the last reference cancel the request, and
    the server frees its slot. `close()` may be called from another thread: one that waits here then gets
    RequestCancelled. finish_reason, usage: known after the last delta.

    >>> from enginewright_client import TritonClient
    >>> with TritonClient(transport=fake_server) as client, client.stream("Once upon") as answer:
    ...     for delta in answer:
    ...         print(repr(delta.text))
    ...     print(answer.finish_reason, answer.usage.output_tokens)
    'a '
    'time'
    ''
    stop 2
    """

    def __init__(self, exchange: Exchange, start: Start) -> None:
        super().__init__(exchange)
        self._start = start
        self._closed = threading.Event()
        while self._attempt is None:
            self._try(self._begin)

    def __iter__(self) -> CompletionStream:
        return self

    def __next__(self) -> Delta:
        """The next piece. Raises the errors of `RequestError`."""
        while not self._done:
            delta = self._try(self._read)
            if delta is not None:
                return delta
        raise StopIteration

    def close(self) -> None:
        """Cancel the request unless it is over. Safe to call twice and from any thread."""
        self._closed.set()
        self._close()

    def __enter__(self) -> CompletionStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _try(self, step: Callable[[], Delta | None]) -> Delta | None:
        """One step; when it fails, a pause before the next attempt, or its error."""
        try:
            return step()
        except RequestError as error:
            pause = self._failed(error)
            if pause is None:
                raise
            self._closed.wait(pause)
        except BaseException:  # a signal's: its call may wait in vain for what is still to come
            self._done = True
            self._cancel()
            raise
        return None

    def _begin(self) -> None:
        self._open()

    def _open(self) -> Attempt[Call]:
        self._attempt = attempt = self._start(self._exchange)
        left = self._exchange.limits.first_token_left()
        if left is not None:
            self._timer = _start_timer(left, self._first_token_is_late)
        return attempt

    def _read(self) -> Delta | None:
        attempt = self._attempt or self._open()
        call = attempt.call
        self._reading = True
        try:
            response = next(call)
        except StopIteration:
            self._done = True
            return self._exchange.end(attempt.reader)
        except TransportError as error:
            raise self._exchange.failure(error) from None
        finally:
            self._reading = False
        if not self._exchange.begun:
            self._stop_timer()
        if response.error_message:
            timer = _start_timer(END_SECONDS, call.cancel)
            read_end(call)
            timer.cancel()
            raise self._exchange.refusal(response)
        delta, last = self._exchange.receive(attempt.reader, response)
        if last:
            read_end(call)
            self._done = True
        return delta


def _start_timer(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer
