"""What a person sees while a benchmark runs: on a terminal a line that moves, elsewhere lines of text."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from enginewright_bench.loads import Load
from enginewright_bench.record import RequestRecord
from enginewright_bench.request_metrics import request_metrics
from enginewright_bench.result import Point, Skipped
from enginewright_bench.summary import Summary

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LineView", "LiveView"]

_LINE_SECONDS = 10.0
# Drawing takes a millisecond of the event loop's thread, in which a message may have to wait.
_DRAW_SECONDS = 0.5


class LineView:
    """An `Observer` that says a line when a load begins and ends, and one every ten seconds in between."""

    interval = _LINE_SECONDS

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._load: Load | None = None
        self._shown = 0.0
        self._reset()

    def skipped(self, skipped: Skipped) -> None:
        self._say(f"{skipped.label}: not run, {skipped.reason}")

    def preparing(self, load: Load) -> None:
        self._load = None
        self._say(f"{load.label}: making {load.warmup + load.requests} prompts")

    def started(self, load: Load) -> None:
        self._load = load
        self._reset()

    def token(self) -> None:
        self._messages += 1
        self._refresh()

    def ended(self, record: RequestRecord) -> None:
        if record.phase == "warmup":
            self._warm += 1
        elif record.failure is not None:
            self._failed += 1
        else:
            self._done += 1
            self._first.append(request_metrics(record).get("time_to_first_token", float("nan")))
        self._refresh()

    def measured(self, point: Point) -> None:
        self._load = None
        self._say(f"{point.label}: {_measured(point)}")
        for warning in point.warnings:
            self._say(f"{point.label}: warning: {warning}")

    def _reset(self) -> None:
        self._done = self._failed = self._warm = self._messages = 0
        self._first: list[float] = []
        self._shown = self._since = time.monotonic()

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._load is not None and now - self._shown >= self.interval:
            self._draw(self._progress(self._load, now))
            self._shown = self._since = now
            self._messages = 0

    def _draw(self, text: str) -> None:
        self._say(text)

    def _progress(self, load: Load, now: float) -> str:
        parts = [f"{load.label}: {self._done}/{load.requests} done"]
        if self._warm < load.warmup:
            parts[0] = f"{load.label}: {self._warm}/{load.warmup} warm-up"
        if self._failed:
            parts.append(f"{self._failed} failed")
        parts.append(f"{self._messages / (now - self._since):.0f} tokens/s")
        if self._first:
            p50, p95 = np.nanpercentile(self._first, (50, 95))
            parts.append(f"TTFT p50 {p50:.0f}, p95 {p95:.0f} ms")
        return ", ".join(parts)


class LiveView(LineView):
    """The same on a terminal; progress is a bar that moves. Use it as a context."""

    interval = _DRAW_SECONDS

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = console or Console(highlight=False, soft_wrap=True)
        super().__init__(lambda text: console.print(text, markup=False))
        self._bar: Any = Progress(
            BarColumn(8),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> LiveView:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def started(self, load: Load) -> None:
        super().started(load)
        self._bar.update(self._task, total=load.warmup + load.requests, completed=0, description=load.label)

    def _draw(self, text: str) -> None:
        done = self._warm + self._done + self._failed
        self._bar.update(self._task, completed=done, description=text)
        self._bar.refresh()


def _measured(point: Point) -> str:
    metrics = point.metrics
    parts = [f"{metrics['request_count'].avg:.0f} answered"]
    if failed := metrics["error_request_count"].avg:
        causes = ", ".join(f"{cause.count} {cause.code}" for cause in point.failures)
        parts.append(f"{failed:.0f} failed ({causes})")
    parts.append(f"{metrics['output_token_throughput'].avg:.4g} tokens/s")
    for tag, name in (("time_to_first_token", "TTFT"), ("inter_token_latency", "ITL")):
        if tag in metrics:
            parts.append(f"{name} p50 {_ms(metrics[tag].p50)}, p95 {_ms(metrics[tag].p95)}")
    if "good_request_fraction" in metrics:
        good: Summary = metrics["good_request_fraction"]
        parts.append(f"{good.avg:.0%} within the service level")
    if point.limit is not None:
        parts.append(f"{point.limit.share:.0%} of the limit")
    return ", ".join(parts)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g} ms"
