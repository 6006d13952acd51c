"""What a build shows while it runs: bars on a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from enginewright.units import format_seconds

__all__ = ["BarReporter", "JsonReporter", "PlainReporter", "Reporter", "choose_reporter"]

_JSON_INTERVAL = 0.5  # seconds between two progress events


class Reporter(ABC):
    """One build's voice. `stage` brackets a stage; inside it `advance` takes (done, total) in any unit.

    name_width: columns that the names of stages are given.
    """

    name_width = 9

    @contextmanager
    def stage(self, name: str) -> Iterator[StageLine]:
        """Report the stage `name`: what the body sets on the yielded line is shown when it ends well."""
        line = StageLine()
        start = time.monotonic()
        self._begin(name)
        try:
            yield line
        except BaseException:
            self._abandon(name)
            raise
        self._end(name, line, time.monotonic() - start)

    @abstractmethod
    def advance(self, done: int, total: int) -> None:
        """How far the current stage is; total 0 means that nobody knows."""

    @abstractmethod
    def say(self, text: str, **data: Any) -> None:
        """Text for people; `data` for machines."""

    @abstractmethod
    def warn(self, text: str) -> None: ...

    @abstractmethod
    def result(self, text: str, data: Mapping[str, Any]) -> None:
        """The end: the last line of a machine's output is `data`."""

    @abstractmethod
    def _begin(self, name: str) -> None: ...

    @abstractmethod
    def _abandon(self, name: str) -> None: ...

    @abstractmethod
    def _end(self, name: str, line: StageLine, seconds: float) -> None: ...


class StageLine:
    """How a stage went."""

    def __init__(self) -> None:
        self.verb = "built"
        self.note = ""

    def text(self, name: str, seconds: float) -> str:
        """`name` already has the width that all names are given."""
        return f"{name} {self.verb:<6} {format_seconds(seconds):>10}  {self.note}".rstrip()


class PlainReporter(Reporter):
    """A line when a stage ends, nothing in between: for logs."""

    def __init__(self, stream: TextIO | None = None, errors: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._errors = errors or sys.stderr

    def advance(self, done: int, total: int) -> None:
        pass

    def say(self, text: str, **data: Any) -> None:
        print(text, file=self._stream, flush=True)

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=self._errors, flush=True)

    def result(self, text: str, data: Mapping[str, Any]) -> None:
        self.say(text)

    def _begin(self, name: str) -> None:
        pass

    def _abandon(self, name: str) -> None:
        pass

    def _end(self, name: str, line: StageLine, seconds: float) -> None:
        self.say(line.text(f"{name:<{self.name_width}}", seconds))


class BarReporter(PlainReporter):
    """A moving bar for the running stage above the lines of those that ended."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def advance(self, done: int, total: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total or None)

    def say(self, text: str, **data: Any) -> None:
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self._console.print(f"warning: {text}", markup=False, style="yellow")

    def _begin(self, name: str) -> None:
        self._bar = Progress(
            TextColumn(f"{name:<{self.name_width}}"),
            BarColumn(40),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(name, total=None)
        self._bar.start()

    def _abandon(self, name: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _end(self, name: str, line: StageLine, seconds: float) -> None:
        self._abandon(name)
        self.say(line.text(f"{name:<{self.name_width}}", seconds))


class JsonReporter(Reporter):
    """One JSON object a line on stdout; every one has `event`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._stage = ""
        self._told = 0.0

    def advance(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told >= _JSON_INTERVAL:
            self._told = now
            self._emit("progress", {"stage": self._stage, "done": done, "total": total})

    def say(self, text: str, **data: Any) -> None:
        self._emit("message", {"text": text, **data})

    def warn(self, text: str) -> None:
        self._emit("warning", {"text": text})

    def result(self, text: str, data: Mapping[str, Any]) -> None:
        self._emit("result", data)

    def _begin(self, name: str) -> None:
        self._stage = name
        self._emit("stage-started", {"stage": name})

    def _abandon(self, name: str) -> None:
        self._emit("stage-failed", {"stage": name})

    def _end(self, name: str, line: StageLine, seconds: float) -> None:
        data = {"stage": name, "verb": line.verb, "seconds": round(seconds, 3), "note": line.note}
        self._emit("stage-finished", data)

    def _emit(self, event: str, data: Mapping[str, Any]) -> None:
        # One write: a signal between two would run this line and the next together.
        self._stream.write(json.dumps({"event": event, **data}) + "\n")
        self._stream.flush()


def choose_reporter(*, json_lines: bool) -> Reporter:
    """JSON lines when asked for, bars on a terminal, else plain lines."""
    if json_lines:
        return JsonReporter()
    return BarReporter() if sys.stdout.isatty() else PlainReporter()
