"""An engine that plays written token ids, behind the same protocol: what tests put in a real one's place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from enginewright_front.backend import (
    EngineLimits,
    EngineRequest,
    EngineStats,
    EngineTimes,
    FinishReason,
    TokenEvent,
)

LIMITS = EngineLimits(max_seq_len=2048, slots=4, vocab_size=2**20)
END_TOKEN = 2

Script = Callable[[EngineRequest], Iterable[int]]


def echo(request: EngineRequest) -> Iterable[int]:
    """The prompt again."""
    return request.input_ids


@dataclass(eq=False)
class _Line:
    request: EngineRequest
    tokens: Iterator[int]
    on_event: Callable[[TokenEvent], None]
    made: int = 0
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class ScriptedBackend:
    """Plays `script(request)` to each request, one token a step, `slots` requests at a time.

    A script that ends is followed by `end_token` and finishes with "stop", one that reaches max_tokens with
    "length", one that raises with "error". step_seconds: pause between steps. `hang()` stops the steps for
    good. `submitted` holds every request in order.
    """

    def __init__(
        self,
        script: Script = echo,
        *,
        limits: EngineLimits = LIMITS,
        end_token: int = END_TOKEN,
        step_seconds: float = 0.0,
    ) -> None:
        self.limits = limits
        self.submitted: list[EngineRequest] = []
        self._script = script
        self._end_token = end_token
        self._step_seconds = step_seconds
        self._lines: list[_Line] = []
        self._changed = threading.Condition()
        self._steps = 0
        self._closing = False
        self._hanging = False
        self._thread = threading.Thread(target=self._run, name="scripted-engine", daemon=True)
        self._thread.start()

    def submit(self, request: EngineRequest, on_event: Callable[[TokenEvent], None]) -> _Line:
        """Queue a request."""
        line = _Line(request, iter(self._script(request)), on_event)
        with self._changed:
            self.submitted.append(request)
            self._lines.append(line)
            self._changed.notify()
        return line

    def hang(self) -> None:
        """Take no further step, as an engine does whose kernel never returns."""
        self._hanging = True

    def stats(self) -> EngineStats:
        """Every line is one slot's worth of KV cache."""
        lines = len(self._lines)
        active = min(lines, self.limits.slots)
        return EngineStats(active, lines - active, active / self.limits.slots)

    def pulse(self) -> int:
        """Steps taken."""
        return self._steps

    def close(self) -> None:
        """End every request and the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closing and (self._hanging or not self._lines):
                    self._changed.wait(timeout=0.05)
                if self._closing:
                    lines, self._lines = self._lines, []
                    break
                active = self._lines[: self.limits.slots]
            ended = [line for line in active if self._step(line)]
            with self._changed:
                self._lines = [line for line in self._lines if line not in ended]
            self._steps += 1
            time.sleep(self._step_seconds)
        for line in lines:
            self._finish(line, (), "cancelled")

    def _step(self, line: _Line) -> bool:
        """Give `line` its next token; whether that was its last."""
        line.first_scheduled_ns = line.first_scheduled_ns or time.monotonic_ns()
        if line.cancelled:
            return self._finish(line, (), "cancelled")
        try:
            token = next(line.tokens, None)
        except Exception as error:
            return self._finish(line, (), "error", str(error))
        if token is None:
            return self._finish(line, (self._end_token,), "stop")
        line.made += 1
        line.first_token_ns = line.first_token_ns or time.monotonic_ns()
        if line.made == line.request.sampling.max_tokens:
            return self._finish(line, (token,), "length")
        logprobs = (-0.5,) if line.request.sampling.logprobs else None
        line.on_event(TokenEvent((token,), logprobs))
        return False

    def _finish(
        self, line: _Line, tokens: tuple[int, ...], reason: FinishReason, error: str | None = None
    ) -> bool:
        logprobs = (-0.5,) * len(tokens) if line.request.sampling.logprobs else None
        times = EngineTimes(line.first_scheduled_ns, line.first_token_ns, time.monotonic_ns())
        line.on_event(TokenEvent(tokens, logprobs, reason, error, times))
        return True
