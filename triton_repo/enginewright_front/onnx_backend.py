"""The ONNX engine, in this process, behind the front's protocol. `enginewright_onnx` is imported on use."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from enginewright_errors import UsageError

from enginewright_front.backend import (
    EngineHandle,
    EngineLimits,
    EngineRequest,
    EngineStats,
    EngineTimes,
    TokenEvent,
)

if TYPE_CHECKING:
    from enginewright_onnx import runtime


class OnnxBackend:
    """Adapts `enginewright_onnx.runtime.Engine`; see `backend.EngineBackend` for the methods."""

    def __init__(self, engine: runtime.Engine) -> None:
        from enginewright_onnx import runtime

        self._runtime = runtime
        self._engine = engine
        config = engine.config
        self._native_seq_len = config.native.max_seq_len
        self.limits = EngineLimits(
            max_seq_len=max(config.native.max_seq_len, config.long.max_seq_len if config.long else 0),
            slots=engine.stats().slots,
            vocab_size=config.vocab_size,
        )

    @classmethod
    def open(cls, engine_dir: Path, *, max_queue: int) -> OnnxBackend:
        """Load an engine folder; ENGINEWRIGHT_THREADS, when set, stands above the threads that it names.

        max_queue: requests beside those that run. The engine itself queues as many as both: it counts every
        arrival until its next step, and a request that goes on after its thinking arrives once more.
        Raises CheckpointError, DoesNotFit, StageFailed, or UsageError for the variable.
        """
        from enginewright_onnx.runtime import Engine, read_engine_config

        places = max_queue + read_engine_config(engine_dir).max_batch_size
        return cls(Engine.open(engine_dir, threads=_threads(), max_queue=places))

    def submit(self, request: EngineRequest, on_event: Callable[[TokenEvent], None]) -> EngineHandle:
        """A request that does not fit the native context is read with the long one's positions."""
        needed = len(request.input_ids) + request.sampling.max_tokens

        def forward(event: runtime.TokenEvent) -> None:
            times = event.times
            on_event(
                TokenEvent(
                    event.token_ids,
                    event.logprobs,
                    event.finish_reason,
                    event.error,
                    None
                    if times is None
                    else EngineTimes(times.first_scheduled_ns, times.first_token_ns, times.last_token_ns),
                    drafted_tokens=event.drafted_tokens,
                    accepted_tokens=event.accepted_tokens,
                )
            )

        return self._engine.submit(
            self._runtime.GenerationRequest(
                request_id=request.request_id,
                input_ids=request.input_ids,
                sampling=self._runtime.SamplingParams(**asdict(request.sampling)),
                long_context=needed > self._native_seq_len,
            ),
            forward,
        )

    def stats(self) -> EngineStats:
        """KV use counts tokens in the rows of active requests."""
        stats = self._engine.stats()
        return EngineStats(
            stats.active, stats.waiting, stats.kv_tokens_used / max(stats.kv_tokens_capacity, 1)
        )

    def pulse(self) -> int:
        """Steps since the engine started."""
        return self._engine.stats().steps

    def close(self) -> None:
        """Cancels what is left and waits for the engine's thread."""
        self._engine.close()


_THREADS = "ENGINEWRIGHT_THREADS"
_MOST_THREADS = 1024


def _threads() -> int | None:
    text = os.environ.get(_THREADS)
    if not text:
        return None
    try:
        threads = int(text)
    except ValueError:
        threads = 0
    if not 1 <= threads <= _MOST_THREADS:
        raise UsageError(f"{_THREADS} is {text!r}", code="threads", hint=f"1 to {_MOST_THREADS}")
    return threads
