"""One request on its way out: token events in, the tensors of its responses out.

Streaming, every call gives what is ready as one response; otherwise one response comes at the end. Tokens
whose text is still held back (half a character, the beginning of a stop word) bring no response of their own;
their log probabilities go with the next one.

A budget of thinking that runs out parts the answer into two requests to the engine, of which none can force
tokens: the first is ended, the closing marker is added to what it made, and the second continues behind that.
An engine that still has the keys and values of the first computes the marker alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from enginewright_errors import StageFailed
from numpy.typing import NDArray

from enginewright_front.backend import EngineRequest, EngineTimes, TokenEvent
from enginewright_front.detokenizer import Detokenizer, TokenTable
from enginewright_front.preparation import PreparedRequest
from enginewright_front.reasoning_budget import ReasoningMeter
from enginewright_front.stop_strings import StopStrings

Tensors = dict[str, NDArray[Any]]
Outcome = Literal["stop", "length", "cancelled"]

_NO_BLOCKS: Tensors = dict.fromkeys(
    (
        "kv_cache_alloc_new_blocks",
        "kv_cache_reused_blocks",
        "kv_cache_alloc_total_blocks",
    ),
    np.zeros((1, 1), dtype=np.int32),
)


class Session:
    """The text, counts and times of one request. Used by one thread.

    arrival_ns: `time.monotonic_ns` when the request came in. outcome: None while it runs.
    wants_engine_stopped: a stop word ended the request, or a budget its thinking; the engine does not know.
    request: what the engine shall be asked next; None while it answers, and at the end.
    """

    def __init__(self, prepared: PreparedRequest, table: TokenTable, arrival_ns: int) -> None:
        wanted = prepared.wanted
        self.outcome: Outcome | None = None
        self.wants_engine_stopped = False
        self.request: EngineRequest | None = prepared.engine
        self.num_input_tokens = len(prepared.engine.input_ids)
        self.num_output_tokens = 0
        self.arrival_ns = arrival_ns
        self.first_token_ns = 0
        self.last_token_ns = 0
        self._first_scheduled_ns = 0
        self._wanted = wanted
        self._detokenizer = Detokenizer(table, continues=wanted.text is not None)
        self._stops = StopStrings(wanted.stop_words) if wanted.stop_words else None
        self._text = [wanted.text] if wanted.echo and not wanted.stream and wanted.text else []
        self._logprobs: list[float] = []
        self._cumulative = 0.0
        self._drafted_tokens = self._accepted_tokens = 0
        budget = prepared.reasoning_budget
        self._meter = ReasoningMeter(budget, prepared.engine) if budget else None
        self._continuation: EngineRequest | None = None  # for when the first request has ended
        if self._meter is not None and self._meter.spent:
            self._close_thinking(self._meter)
            self._continue()

    @property
    def first_scheduled_ns(self) -> int:
        """When it got a slot; 0 while that is not known."""
        return self._first_scheduled_ns

    def advance(self, events: Iterable[TokenEvent]) -> Tensors | None:
        """The next response for all `events` together, or None when there is nothing to say yet.

        Raises StageFailed when the engine reports that the request failed.
        """
        for event in events:
            if self.outcome is not None:
                break
            self._take(event)
        finished = self.outcome is not None
        if not finished and not (self._wanted.stream and any(self._text)):
            return None
        text, self._text = "".join(self._text), []
        return self._tensors(text, last=finished)

    def cancel(self, events: Iterable[TokenEvent]) -> Tensors:
        """The last response of a request that its caller ended: what these events and earlier ones left."""
        for event in events:
            if self.outcome is None:
                self._take(event)
        if self.outcome is None:
            self._end("cancelled")
        return self._tensors("".join(self._text), last=True)

    def _take(self, event: TokenEvent) -> None:
        if event.finish_reason == "error":
            raise StageFailed(
                f"the engine failed: {event.error}",
                code=event.error_code,
                hint="see the server's log; try again",
            )
        # What the engine made before it heard that the thinking is closed is nobody's.
        if self._continuation is None:
            self._take_tokens(event)
        if event.times is not None:
            self._use(event.times)
        self._drafted_tokens += event.drafted_tokens
        self._accepted_tokens += event.accepted_tokens
        if event.finish_reason is None or self.outcome is not None:
            return
        if self._continuation is not None:
            self._continue()
        else:
            self._end(event.finish_reason)

    def _take_tokens(self, event: TokenEvent) -> None:
        if event.token_ids:
            self.last_token_ns = time.monotonic_ns()
            self.first_token_ns = self.first_token_ns or self.last_token_ns
        # The end token ends the text and is not part of it.
        spoken = event.token_ids[:-1] if event.finish_reason == "stop" else event.token_ids
        if self._stops is None and self._meter is None:
            self._text.append(self._detokenizer.feed(spoken))
            self._count(event, len(event.token_ids))
        else:
            self._take_each(event, spoken)

    def _take_each(self, event: TokenEvent, spoken: tuple[int, ...]) -> None:
        """One token at a time: counts end with the one that completed a stop word or used up a budget."""
        for position, token in enumerate(spoken, start=1):
            spent = self._measured(token, self._say(token))
            if spent is not None or self.outcome is not None:
                self.wants_engine_stopped = event.finish_reason is None
                self._count(event, position)
                if spent is not None:
                    self._close_thinking(spent)
                return
        self._count(event, len(event.token_ids))

    def _say(self, token: int) -> str:
        """The characters that `token` completes, which go out as far as stop words allow."""
        text = self._detokenizer.feed((token,))
        if self._stops is None:
            self._text.append(text)
        else:
            shown, stopped = self._stops.feed(text)
            self._text.append(shown)
            if stopped:
                self.outcome = "stop"
        return text

    def _measured(self, token: int, text: str) -> ReasoningMeter | None:
        """The meter when `token` was the last that may be thought."""
        meter = self._meter
        if meter is None or self.outcome is not None:
            return None
        meter.feed(token, text)
        if meter.over:
            self._meter = None
        return meter if meter.spent else None

    def _close_thinking(self, meter: ReasoningMeter) -> None:
        """The closing marker, as if the model had written it, and the request that goes on behind it."""
        self._meter = None
        for token in meter.closing_ids:
            self._say(token)
            self.num_output_tokens += 1
            if self._wanted.return_log_probs:
                self._logprobs.append(0.0)  # it was certain
            if self.outcome is not None:
                return
        self._continuation = meter.continuation()

    def _continue(self) -> None:
        self.request, self._continuation = self._continuation, None
        self.wants_engine_stopped = False

    def _end(self, reason: Outcome) -> None:
        text = self._detokenizer.finish()
        if self._stops is not None:
            text, stopped = self._stops.feed(text)
            if stopped:
                reason = "stop"
            else:
                text += self._stops.finish()
        self._text.append(text)
        self.outcome = reason

    def _count(self, event: TokenEvent, tokens: int) -> None:
        self.num_output_tokens += tokens
        if event.logprobs is not None:
            self._logprobs.extend(event.logprobs[:tokens])

    def _use(self, times: EngineTimes) -> None:
        # Of two requests that are one answer the first has its beginning.
        if not self._first_scheduled_ns:
            self._first_scheduled_ns = times.first_scheduled_ns
            self.first_token_ns = times.first_token_ns or self.first_token_ns
        self.last_token_ns = times.last_token_ns or self.last_token_ns

    def _tensors(self, text: str, *, last: bool) -> Tensors:
        wanted = self._wanted
        tensors: Tensors = {"text_output": _bytes(text)}
        if last and wanted.return_finish_reason is not False:
            tensors["finish_reason"] = _bytes(self.outcome or "")
        if wanted.return_num_input_tokens or (last and wanted.return_num_input_tokens is None):
            tensors["num_input_tokens"] = _scalar(self.num_input_tokens, np.int32)
        if wanted.return_num_output_tokens or (last and wanted.return_num_output_tokens is None):
            tensors["num_output_tokens"] = _scalar(self.num_output_tokens, np.int32)
        if wanted.return_log_probs:
            self._cumulative += sum(self._logprobs)
            tensors["cum_log_probs"] = _scalar(self._cumulative, np.float32)
            tensors["output_log_probs"] = np.array([[self._logprobs]], dtype=np.float32)
            self._logprobs = []
        if wanted.return_perf_metrics:
            tensors["arrival_time_ns"] = _scalar(self.arrival_ns, np.int64)
            tensors["first_scheduled_time_ns"] = _scalar(self._first_scheduled_ns, np.int64)
            tensors["first_token_time_ns"] = _scalar(self.first_token_ns, np.int64)
            tensors["last_token_time_ns"] = _scalar(self.last_token_ns, np.int64)
            rate = self._accepted_tokens / max(self._drafted_tokens, 1)
            tensors["acceptance_rate"] = _scalar(rate, np.float32)
            tensors["total_accepted_draft_tokens"] = _scalar(self._accepted_tokens, np.int32)
            tensors["total_draft_tokens"] = _scalar(self._drafted_tokens, np.int32)
            tensors.update(_NO_BLOCKS)
        return tensors


def _bytes(text: str) -> NDArray[np.object_]:
    """[1] on the wire, although the model batches: see `wire`."""
    return np.array([text.encode()], dtype=np.object_)


def _scalar(value: float, dtype: type[np.generic]) -> NDArray[Any]:
    return np.array([[value]], dtype=dtype)
