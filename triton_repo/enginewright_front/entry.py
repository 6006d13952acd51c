"""One request between its admission and its last response."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

from enginewright_errors import EnginewrightError

from enginewright_front.backend import EngineHandle, TokenEvent
from enginewright_front.fields import Value
from enginewright_front.session import Session, Tensors


class Sink(Protocol):
    """A request's way back to its caller."""

    def send(self, tensors: Tensors, *, final: bool) -> None:
        """One response; `final` ends the request."""

    def fail(self, error: EnginewrightError) -> None:
        """An error, and the end."""

    def is_cancelled(self) -> bool:
        """Whether the caller gave up; False after the end. May be called while another thread sends."""


class Entry:
    """What the dispatcher knows of a request. Compared by identity: request ids need not be unique.

    cancel_key: what a cancel must name to end it alone, beside its id; None = it has none.
    ending, cancelled: how it shall end, set by whoever wants it ended: with an error, or with what there is.
    present_ns: when its caller was last known to wait for it. closed: it is over. tokens_told, told_at: how
    many tokens were there at the last look, and when that was.
    """

    def __init__(self, request_id: str, sink: Sink) -> None:
        self.request_id = request_id
        self.sink = sink
        self.arrival_ns = self.present_ns = time.monotonic_ns()
        self.cancel_key: Value | None = None
        self.inbox: deque[TokenEvent] = deque()
        self.session: Session | None = None
        self.handle: EngineHandle | None = None
        self.ending: EnginewrightError | None = None
        self.cancelled = False
        self.closed = False
        self.tokens_told = 0
        self.told_at = 0.0
