"""One request of a load, from its start to its record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from enginewright_client import Delta, Prompt, RequestError, SamplingParams

from enginewright_bench.clock import now_ns
from enginewright_bench.record import Failure, Phase, RequestRecord

__all__ = ["BenchRequest", "StreamingClient", "send_request"]


class StreamingClient(Protocol):
    """What a load needs of a client. `enginewright_client.AsyncTritonClient` is one."""

    def stream(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> AsyncIterator[Delta]: ...


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What is sent. input_tokens: the length aimed at, None for a prompt that was given."""

    index: int
    request_id: str
    prompt: Prompt
    input_tokens: int | None
    sampling: SamplingParams


async def send_request(
    client: StreamingClient,
    request: BenchRequest,
    *,
    phase: Phase = "profiling",
    scheduled_ns: int | None = None,
    timeout: float | None = None,
    on_text: Callable[[], None] = lambda: None,
) -> RequestRecord:
    """Send `request` and read its answer. What the server or the connection does is in the record's failure.

    scheduled_ns: when it should have been sent; None means now. timeout: seconds for the whole answer.
    on_text: called after each message with text.
    """
    start = end = now_ns()
    times: list[int] = []
    pieces: list[str] = []
    last: Delta | None = None
    failure = None
    try:
        answer = client.stream(
            request.prompt, request.sampling, timeout=timeout, request_id=request.request_id
        )
        async for delta in answer:
            end = now_ns()
            last = delta
            if delta.text:
                times.append(end)
                pieces.append(delta.text)
                on_text()
    except RequestError as error:
        end = now_ns()
        failure = Failure(error.code, type(error).__name__, error.message)
    usage = last.usage if last is not None else None
    if failure is None and (last is None or last.finish_reason in (None, "cancelled")):
        failure = Failure("incomplete-answer", "EngineError", "the answer ended before it was complete")
    elif failure is None and usage is None:
        failure = Failure("no-token-counts", "EngineError", "the server does not count tokens")
    return RequestRecord(
        index=request.index,
        request_id=request.request_id,
        phase=phase,
        scheduled_ns=start if scheduled_ns is None else scheduled_ns,
        start_ns=start,
        end_ns=end,
        text_ns=tuple(times),
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        finish_reason=last.finish_reason if last else None,
        text="".join(pieces),
        failure=failure,
    )
