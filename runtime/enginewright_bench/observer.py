"""What a run tells while it goes on."""

from __future__ import annotations

from typing import Protocol

from enginewright_bench.loads import Load
from enginewright_bench.record import RequestRecord
from enginewright_bench.result import Point, Skipped

__all__ = ["Observer"]


class Observer(Protocol):
    """Called on the event loop's thread, between two messages: it must be quick."""

    def skipped(self, skipped: Skipped) -> None: ...

    def preparing(self, load: Load) -> None:
        """Prompts are being made for `load`."""

    def started(self, load: Load) -> None: ...

    def token(self) -> None:
        """A message with text arrived."""

    def ended(self, record: RequestRecord) -> None:
        """A request ended, warm-up or not."""

    def measured(self, point: Point) -> None: ...
