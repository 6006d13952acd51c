"""What the front asks of an engine: token ids and sampling in, token ids out, cancellation, a pulse.

`onnx_backend.OnnxBackend` runs the ONNX engine in this process, `bls_backend.BlsBackend` asks TensorRT-LLM's
models in the same server, `scripted_backend.ScriptedBackend` plays token ids that a test wrote down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """max_seq_len: prompt and output tokens of one request. slots: requests that decode at the same time."""

    max_seq_len: int
    slots: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. 0 (temperature) is greedy; 0 (top_k, min_p) and 1 (top_p) are off."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    stop_token_ids: tuple[int, ...]
    bad_token_sequences: tuple[tuple[int, ...], ...]
    logprobs: bool


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A prompt of token ids and how to continue it. request_id: for messages only, need not be unique."""

    request_id: str
    input_ids: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """In nanoseconds of `time.monotonic_ns`; 0 = not known."""

    first_scheduled_ns: int
    first_token_ns: int
    last_token_ns: int


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """New tokens of one request. Exactly one event, the last, has a `finish_reason`.

    token_ids: the new ids. A request that ends with "stop" has the end token as its last one.
    logprobs: natural logarithms, one for each id, when asked for. error, error_code: what failed.
    drafted_tokens, accepted_tokens: of speculative decoding, since the event before.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None
    times: EngineTimes | None = None
    error_code: str = "engine-failed"
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """active: requests that hold a slot. waiting: those without one.

    kv_used: share of the KV cache, 0..1; None where the engine does not say.
    """

    active: int
    waiting: int
    kv_used: float | None


class EngineHandle(Protocol):
    """A submitted request."""

    def cancel(self) -> None:
        """End the request and free its slot; does not block. Without effect when it already ended."""


class EngineBackend(Protocol):
    """An engine. All methods may be called from any thread."""

    @property
    def limits(self) -> EngineLimits:
        """What a request may ask for."""

    def submit(self, request: EngineRequest, on_event: Callable[[TokenEvent], None]) -> EngineHandle:
        """Start a request. `on_event` is called on the engine's thread and does not block.

        Raises UsageError for a request that the engine cannot run, EnginewrightError when it runs none.
        """

    def stats(self) -> EngineStats:
        """The load at this moment; does not wait for the engine."""

    def pulse(self) -> int:
        """A number that changes with every step of the engine: when it stands still under load, it hangs."""

    def close(self) -> None:
        """End every request with "cancelled" and release the engine."""
