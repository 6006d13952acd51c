"""One request on its way out: token events in, the tensors of its responses out.

Streaming, every call gives what is ready as one response; otherwise one response comes at the end. Tokens
whose text is still held back (half a character, the beginning of a stop word) bring no response of their own;
their log probabilities go with the next one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from enginewright_errors import StageFailed
from numpy.typing import NDArray

from enginewright_front.backend import EngineTimes, TokenEvent
from enginewright_front.detokenizer import Detokenizer, TokenTable
from enginewright_front.preparation import PreparedRequest
from enginewright_front.stop_strings import StopStrings

Tensors = dict[str, NDArray[Any]]
Outcome = Literal["stop", "length", "cancelled"]

_NO_BLOCKS: Tensors = dict.fromkeys(
    (
        "kv_cache_alloc_new_blocks",
        "kv_cache_reused_blocks",
        "kv_cache_alloc_total_blocks",
        "total_accepted_draft_tokens",
        "total_draft_tokens",
    ),
    np.zeros((1, 1), dtype=np.int32),
)
_NO_DRAFTS = np.zeros((1, 1), dtype=np.float32)


class Session:
    """The text, counts and times of one request. Used by one thread.

    arrival_ns: `time.monotonic_ns` when the request came in. outcome: None while it runs.
    wants_engine_stopped: a stop word ended the request and the engine does not know.
    """

    def __init__(self, prepared: PreparedRequest, table: TokenTable, arrival_ns: int) -> None:
        wanted = prepared.wanted
        self.outcome: Outcome | None = None
        self.wants_engine_stopped = False
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
        if event.token_ids:
            self.last_token_ns = time.monotonic_ns()
            self.first_token_ns = self.first_token_ns or self.last_token_ns
        if event.times is not None:
            self._use(event.times)
        # The end token ends the text and is not part of it.
        spoken = event.token_ids[:-1] if event.finish_reason == "stop" else event.token_ids
        if self._stops is None:
            self._text.append(self._detokenizer.feed(spoken))
            self._count(event, len(event.token_ids))
        else:
            self._take_until_stop(event, spoken, self._stops)
        if event.finish_reason is not None and self.outcome is None:
            self._end(event.finish_reason)

    def _take_until_stop(self, event: TokenEvent, spoken: tuple[int, ...], stops: StopStrings) -> None:
        """One token at a time, so that counts end with the token that completed the stop word."""
        for position, token in enumerate(spoken):
            text, stopped = stops.feed(self._detokenizer.feed((token,)))
            self._text.append(text)
            if stopped:
                self.outcome = "stop"
                self.wants_engine_stopped = event.finish_reason is None
                self._count(event, position + 1)
                return
        self._count(event, len(event.token_ids))

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
            tensors["acceptance_rate"] = _NO_DRAFTS
            tensors.update(_NO_BLOCKS)
        return tensors


def _bytes(text: str) -> NDArray[np.object_]:
    """[1] on the wire, although the model batches: see `wire`."""
    return np.array([text.encode()], dtype=np.object_)


def _scalar(value: float, dtype: type[np.generic]) -> NDArray[Any]:
    return np.array([[value]], dtype=dtype)
