"""The engine: a thread around the batcher, safe to use from any number of threads.

    with Engine.open(Path("engine")) as engine:
        handle = engine.submit(GenerationRequest("a", [1, 2, 3], SamplingParams(max_tokens=16)), print)
        handle.cancel()
        print(engine.generate([1, 2, 3], SamplingParams(max_tokens=16, temperature=0)).token_ids)

Requests and cancellations take effect between two steps. An idle engine waits on a condition and its
session's threads sleep: it takes no CPU.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from collections.abc import Sequence as TokenIds
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from enginewright_errors import EnginewrightError, StageFailed
from numpy.typing import NDArray

from enginewright_onnx.runtime.batcher import Batcher, Model
from enginewright_onnx.runtime.engine_config import EngineConfig, read_engine_config
from enginewright_onnx.runtime.model_session import ModelSession
from enginewright_onnx.runtime.request import (
    FinishReason,
    Generation,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from enginewright_onnx.runtime.sequence import Sequence, accept

_log = logging.getLogger(__name__)


class QueueFull(EnginewrightError):
    """More requests are waiting than the engine queues; try again later."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot. steps, requests, finished and the token counts are totals since the engine started.

    healthy: false once the engine is broken and refuses requests. active: requests that own or will own a
    row next.
    kv_tokens_used, kv_tokens_capacity: tokens in the rows of active requests, and in all rows when full.
    prompt_tokens: of the prompts that were started; reused_tokens: those of them found in a row already.
    """

    healthy: bool
    active: int
    waiting: int
    slots: int
    kv_tokens_used: int
    kv_tokens_capacity: int
    steps: int
    requests: int
    finished: dict[FinishReason, int]
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class RequestHandle:
    """A submitted request."""

    request_id: str
    _cancel: Callable[[], None]

    def cancel(self) -> None:
        """End the request before the next step; its last event says "cancelled". Harmless when it ended."""
        self._cancel()


class Engine:
    """Generates tokens for many requests at once.

    model: what computes logits. max_queue: requests that may wait beyond the active ones. prefix_reuse:
    whether prompts start behind tokens that a row of the pool still holds.
    """

    def __init__(
        self, model: Model, config: EngineConfig, *, max_queue: int = 256, prefix_reuse: bool = True
    ) -> None:
        self.config = config
        self._memory = model.memory
        self._batcher = Batcher(model, prefill_chunk=config.prefill_chunk, prefix_reuse=prefix_reuse)
        self._max_queue = max_queue
        self._changed = threading.Condition()
        self._arrivals: list[Sequence] = []
        self._cancellations: list[Sequence] = []
        self._closing = False
        self._broken: str | None = None
        self._thread = threading.Thread(target=self._run, name="enginewright-engine", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        engine_dir: Path,
        *,
        threads: int | None = None,
        kv_budget_bytes: int | None = None,
        max_queue: int = 256,
        prefix_reuse: bool = True,
    ) -> Engine:
        """Load the engine folder. threads and kv_budget_bytes default to what engine.json says.

        Raises CheckpointError (folder missing or damaged), DoesNotFit (KV budget), StageFailed (ONNX
        Runtime).
        """
        config = read_engine_config(engine_dir)
        model = ModelSession.open(engine_dir, config, threads=threads, kv_budget_bytes=kv_budget_bytes)
        return cls(model, config, max_queue=max_queue, prefix_reuse=prefix_reuse)

    def submit(self, request: GenerationRequest, on_event: Callable[[TokenEvent], None]) -> RequestHandle:
        """Queue a request. on_event is called on the engine's thread and must not block.

        Raises UsageError naming the field that cannot be right, QueueFull, or StageFailed when the engine
        is closed or broken.
        """
        sequence = accept(request, self.config, on_event)
        with self._changed:
            self._check_open()
            waiting = self._waiting
            if waiting >= self._max_queue:
                raise QueueFull(
                    f"{waiting} requests are waiting, max_queue is {self._max_queue}",
                    code="queue-full",
                    hint="try again later, or raise max_queue",
                )
            self._arrivals.append(sequence)
            self._changed.notify()
        return RequestHandle(request.request_id, lambda: self._cancel(sequence))

    def generate(
        self,
        input_ids: TokenIds[int] | NDArray[np.int32],
        sampling: SamplingParams,
        *,
        long_context: bool = False,
    ) -> Generation:
        """Submit one request and wait for its end. Raises as `submit` does; a failed request is returned."""
        done = threading.Event()
        events: list[TokenEvent] = []

        def collect(event: TokenEvent) -> None:
            events.append(event)
            if event.finish_reason is not None:
                done.set()

        handle = self.submit(GenerationRequest("generate", input_ids, sampling, long_context), collect)
        try:
            done.wait()
        except BaseException:
            handle.cancel()
            raise
        return _joined(events)

    def stats(self) -> EngineStats:
        """What the engine is doing and has done."""
        batcher = self._batcher
        slots = batcher.scheduler.slots
        return EngineStats(
            healthy=self._broken is None,
            active=batcher.scheduler.active,
            waiting=self._waiting,
            slots=len(slots),
            kv_tokens_used=slots.tokens_used,
            kv_tokens_capacity=self._memory.slots * self._memory.slot_tokens,
            steps=batcher.steps,
            requests=batcher.requests,
            finished=dict(batcher.finished),
            prompt_tokens=batcher.prompt_tokens,
            reused_tokens=batcher.reused_tokens,
            generated_tokens=batcher.generated_tokens,
        )

    def close(self) -> None:
        """Cancel what is left and stop the thread. May be called again, and from `on_event`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _waiting(self) -> int:
        return len(self._arrivals) + len(self._batcher.scheduler.waiting)

    def _check_open(self) -> None:
        if self._broken is not None:
            raise StageFailed(
                f"the engine is broken: {self._broken}", code="engine-broken", hint="restart the server"
            )
        if self._closing:
            raise StageFailed("the engine is closed", code="engine-closed", hint="open a new one")

    def _cancel(self, sequence: Sequence) -> None:
        with self._changed:
            self._cancellations.append(sequence)
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._receive():
                self._batcher.step()
        except Exception as error:
            _log.exception("the engine is broken")
            self._end(broken=str(error))
        else:
            self._end(broken=None)

    def _receive(self) -> bool:
        """Wait for work and take in what came since the last step; whether to go on."""
        with self._changed:
            while not (self._batcher.busy or self._arrivals or self._cancellations or self._closing):
                self._changed.wait()
            arrivals, self._arrivals = self._arrivals, []
            cancellations, self._cancellations = self._cancellations, []
            closing = self._closing
        for sequence in arrivals:
            self._batcher.add(sequence)
        for sequence in cancellations:
            self._batcher.cancel(sequence)
        return not closing

    def _end(self, broken: str | None) -> None:
        with self._changed:
            self._broken, self._closing = broken, True
        self._receive()
        for sequence in self._batcher.scheduler.sequences:
            if broken is None:
                self._batcher.cancel(sequence)
        if broken is not None:
            self._batcher.fail_all(f"the engine is broken: {broken}")


def _joined(events: list[TokenEvent]) -> Generation:
    last = events[-1]
    if last.finish_reason is None or last.times is None:
        raise LookupError("the last event of a request has no finish_reason")
    with_logprobs = all(event.logprobs is not None for event in events if event.token_ids)
    return Generation(
        token_ids=tuple(token for event in events for token in event.token_ids),
        logprobs=tuple(value for event in events for value in event.logprobs or ())
        if with_logprobs
        else None,
        finish_reason=last.finish_reason,
        error=last.error,
        times=last.times,
        num_input_tokens=last.num_input_tokens,
    )
