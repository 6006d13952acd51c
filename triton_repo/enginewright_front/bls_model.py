"""The requests of one engine's model: a thread each while they run, a queue before, a watch over all.

A call that hangs cannot be got back: its thread waits inside the server's code. On Triton 2.51 that is how
every error after a first token ends (it is lost on the way, and the call waits for ever); on any version it
is how a hung engine looks. Such a call is given up: its caller gets an error, its thread is left to wait, and
so many may be left at most.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from enginewright_errors import EnginewrightError

from enginewright_front.backend import TokenEvent
from enginewright_front.bls_call import Call
from enginewright_front.front_config import EngineModel
from enginewright_front.trtllm_answers import Answer, AnswerReader, failed

MOST_LOST = 64
"""Threads that may wait for calls that were given up; past that, only a restart of the server helps."""

_CANCEL_THREADS = 2
_CANCEL_TRIES = 3
_CANCEL_SECONDS = 1.0


@dataclass(eq=False, slots=True)
class Line:
    """A request on its way through a model. Times of `time.monotonic`, in seconds.

    opened: when the model was asked, None before. heard: when it last answered, None before it did.
    ended: its last event is out, though its call may go on.
    """

    call: Call
    reader: AnswerReader
    on_event: Callable[[TokenEvent], None]
    opened: float | None = None
    heard: float | None = None
    cancelled: bool = False
    ended: bool = False
    cancel_at: float = 0.0
    cancel_tries: int = 0


class BlsModel:
    """Takes requests for one model. May be used from any thread.

    opening_limit: requests that may wait for their first response inside the server, which keeps a thread of
    its own for each (of 32, for cancellations too). silence_seconds, stall_seconds: how long a request that
    has begun, and a model without any answer, may be silent.
    """

    def __init__(
        self, model: EngineModel, *, opening_limit: int, silence_seconds: float, stall_seconds: float
    ) -> None:
        self.model = model
        self._opening_limit = opening_limit
        self._silence_seconds = silence_seconds
        self._stall_seconds = stall_seconds
        self._queue: deque[Line] = deque()
        self._running: set[Line] = set()
        self._heard = 0.0
        self._stalled = False
        self._lock = threading.Lock()
        self._cancels: SimpleQueue[Line] = SimpleQueue()
        for number in range(_CANCEL_THREADS):
            _start(self._send_cancels, f"cancel-{model.name}-{number}")

    @property
    def has_calls(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self._queue or self._running)

    def submit(self, line: Line) -> None:
        """Take `line` on. Raises EnginewrightError while the model hangs."""
        with self._lock:
            live = len(self._queue) + sum(not other.ended for other in self._running)
            lost = [other for other in self._running if other.ended]
            opening_lost = sum(other.heard is None for other in lost)
            # A model that hung gets one request at a time, to find out whether it still does.
            if (
                (self._stalled and live)
                or len(lost) >= MOST_LOST
                or (opening_lost and opening_lost >= self._opening_limit)
            ):
                raise self._hangs()
            self._queue.append(line)
            self._open_next()

    def cancel(self, line: Line) -> None:
        """End `line`; does not block."""
        with self._lock:
            line.cancelled = True
            waits = line in self._queue
            if waits:
                self._queue.remove(line)
        if waits:
            self._end(line, TokenEvent((), None, "cancelled"))
        elif not line.ended:
            self._ask_to_cancel(line)

    def watch(self) -> None:
        """Give up what is silent for too long, repeat cancellations that had no effect."""
        now = time.monotonic()
        with self._lock:
            lines = list(self._running)
        for line in lines:
            gone = line.cancelled or line.ended
            if gone and line.cancel_tries < _CANCEL_TRIES and now - line.cancel_at > _CANCEL_SECONDS:
                self._ask_to_cancel(line)
            if not line.ended:
                self._give_up_if_silent(line, now)
        if self._stalled:
            with self._lock:
                waiting, self._queue = self._queue, deque()
            for line in waiting:
                self._end(line, self._stall_event())

    def load(self) -> tuple[int, int]:
        """(requests that the model may be running, requests beyond its slots)."""
        with self._lock:
            live = len(self._queue) + sum(not line.ended for line in self._running)
        active = min(live, self.model.slots)
        return active, live - active

    def close(self) -> None:
        """End all requests with "cancelled"; calls that are open end with the server."""
        with self._lock:
            lines = [*self._queue, *self._running]
            self._queue.clear()
        for line in lines:
            self._end(line, TokenEvent((), None, "cancelled"))

    def _open_next(self) -> None:
        """Under the lock."""
        opening = sum(line.heard is None for line in self._running)
        while self._queue and opening < self._opening_limit:
            line = self._queue.popleft()
            line.opened = time.monotonic()
            self._running.add(line)
            opening += 1
            _start(lambda line=line: self._run(line), f"call-{self.model.name}")  # type: ignore[misc]

    def _run(self, line: Line) -> None:
        try:
            for answer in line.call.answers():
                self._take(line, answer)
            event = line.reader.finish(cancelled=line.cancelled)
        except Exception as error:
            event = failed(f"{self.model.name} could not be asked: {error}")
        with self._lock:
            self._running.discard(line)
            self._open_next()
        self._end(line, event)

    def _take(self, line: Line, answer: Answer) -> None:
        first = line.heard is None
        line.heard = self._heard = time.monotonic()
        self._stalled = False
        if first:
            with self._lock:
                self._open_next()
        event = line.reader.take(answer)
        if event is None or line.ended:
            return
        if event.finish_reason is not None:
            self._end(line, event)
        else:
            line.on_event(event)

    def _end(self, line: Line, event: TokenEvent) -> None:
        """The last event of a request, once."""
        with self._lock:
            if line.ended:
                return
            line.ended = True
        line.on_event(event)

    def _give_up_if_silent(self, line: Line, now: float) -> None:
        if line.heard is not None:
            if now - line.heard > self._silence_seconds:
                problem = f"{self.model.name} brought no token for {self._silence_seconds:g} s"
                self._end(line, failed(problem))
        # Before its first token a request may wait behind others for as long as those move.
        elif now - max(line.opened or now, self._heard) > self._stall_seconds:
            self._stalled = True
            self._end(line, self._stall_event())

    def _stall_event(self) -> TokenEvent:
        error = self._hangs()
        return failed(error.message, error.code)

    def _hangs(self) -> EnginewrightError:
        return EnginewrightError(
            f"{self.model.name} gave no answer for {self._stall_seconds:g} s",
            code="engine-stalled",
            hint="restart the server if it does not recover",
        )

    def _ask_to_cancel(self, line: Line) -> None:
        line.cancel_at = time.monotonic()
        line.cancel_tries += 1
        self._cancels.put(line)

    def _send_cancels(self) -> None:
        while True:
            line = self._cancels.get()
            if line not in self._running:
                continue
            try:
                line.call.cancel()
            except Exception:  # The watch repeats it.
                continue


def _start(target: Callable[[], None], name: str) -> None:
    # Daemons: a call that hangs must not keep the server from ending.
    threading.Thread(target=target, name=name, daemon=True).start()
