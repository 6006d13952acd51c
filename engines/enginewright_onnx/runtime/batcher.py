"""The in-flight batcher: one step of the model at a time, single-threaded.

`step` asks the scheduler for work, runs the model, samples, and tells each request of its new token; a
request that decodes alone may get several (see `draft`). What fails is contained: a row that cannot be
sampled ends its own request, a failing model call ends the requests that were in it, and several failing
calls in a row break the engine.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from enginewright_errors import StageFailed
from numpy.typing import NDArray

from enginewright_onnx.runtime.request import FinishReason, TokenEvent
from enginewright_onnx.runtime.sampler import Sampled, sample
from enginewright_onnx.runtime.scheduler import DecodeStep, PrefillChunk, Scheduler, row_of
from enginewright_onnx.runtime.sequence import Sequence
from enginewright_onnx.runtime.slots import RowMemory, Slots

_log = logging.getLogger(__name__)

FAILURES_UNTIL_BROKEN = 3


class Model(Protocol):
    """What computes logits; `ModelSession` is one. Returned logits may be overwritten by the next call."""

    @property
    def memory(self) -> RowMemory:
        """The rows of keys and values."""

    def prefill(
        self, row: int, tokens: NDArray[np.int32], *, past: int, rope_offset: int, project: int
    ) -> NDArray[np.float32]:
        """Append `tokens` [S] behind the `past` tokens of `row`; logits [project, vocab] of the last ones."""

    def decode(
        self, tokens: NDArray[np.int64], pasts: NDArray[np.int64], rope_offsets: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Append tokens[i] behind the pasts[i] tokens of row i, for the rows 0..B-1; logits [B, vocab]."""


class Batcher:
    """Runs sequences on `model`. finished counts by reason; token counts are totals since the start."""

    def __init__(self, model: Model, *, prefill_chunk: int, prefix_reuse: bool = True) -> None:
        self.scheduler = Scheduler(Slots(model.memory, reuse=prefix_reuse), prefill_chunk)
        self.steps = 0
        self.requests = 0
        self.finished: Counter[FinishReason] = Counter()
        self.prompt_tokens = 0
        self.reused_tokens = 0
        self.generated_tokens = 0
        self._model = model
        self._failures_in_a_row = 0

    @property
    def busy(self) -> bool:
        """Whether any sequence is waiting or active."""
        scheduler = self.scheduler
        return bool(scheduler.decoding or scheduler.prefilling or scheduler.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.requests += 1
        self.scheduler.add(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence before the next step; nothing happens when it has ended already."""
        if sequence.finish_reason is None:
            self._finish(sequence, "cancelled")

    def fail_all(self, error: str) -> None:
        """End every sequence with an error."""
        for sequence in self.scheduler.sequences:
            self._finish(sequence, "error", error=error)

    def step(self) -> None:
        """Do the next piece of work, if any. Raises StageFailed when several model calls in a row failed."""
        self.steps += 1
        work = self.scheduler.next_step()
        if isinstance(work, PrefillChunk):
            self._prefill(work)
        elif isinstance(work, DecodeStep):
            self._decode(work.sequences)

    def _prefill(self, chunk: PrefillChunk) -> None:
        sequence, row = chunk.sequence, chunk.row
        if sequence.first_scheduled_ns == 0:
            sequence.first_scheduled_ns = time.monotonic_ns()
            self.prompt_tokens += sequence.prompt_length
            self.reused_tokens += chunk.start
        complete = chunk.stop == sequence.prompt_length
        try:
            logits = self._model.prefill(
                row.index,
                sequence.tokens[chunk.start : chunk.stop],
                past=chunk.start,
                rope_offset=sequence.rope_offset,
                project=int(complete),
            )
        except Exception as error:
            self._model_failed([sequence], error)
            return
        self._failures_in_a_row = 0
        row.length = chunk.stop
        if complete:
            self._deliver([sequence], sample(logits, [sequence.sampler]))
            if sequence.finish_reason is None:
                self.scheduler.start_decoding(sequence)

    def _decode(self, sequences: tuple[Sequence, ...]) -> None:
        if len(sequences) == 1 and len(draft := sequences[0].draft()):
            self._decode_draft(sequences[0], draft)
            return
        lengths = np.array([sequence.length for sequence in sequences])
        try:
            logits = self._model.decode(
                np.array([sequence.tokens[sequence.length - 1] for sequence in sequences], np.int64),
                lengths - 1,
                np.array([sequence.rope_offset for sequence in sequences]),
            )
        except Exception as error:
            self._model_failed(sequences, error)
            return
        self._failures_in_a_row = 0
        for sequence in sequences:
            if sequence.row is not None:
                sequence.row.length = sequence.length
        self._deliver(sequences, sample(logits, [sequence.sampler for sequence in sequences]))

    def _decode_draft(self, sequence: Sequence, draft: NDArray[np.int32]) -> None:
        """A step of the only sequence that decodes, over its last token and the `draft` of the next ones.

        GroupQueryAttention takes several tokens with a past for one row only, so a batch has no drafts.
        """
        row, past = row_of(sequence), sequence.length - 1
        try:
            logits = self._model.prefill(
                row.index,
                np.concatenate([sequence.tokens[past : past + 1], draft]),
                past=past,
                rope_offset=sequence.rope_offset,
                project=len(draft) + 1,
            )
        except Exception as error:
            self._model_failed([sequence], error)
            return
        self._failures_in_a_row = 0
        sequence.drafted += len(draft)
        # Behind the whole draft there is nothing to compare with: None is no token.
        for accepted, drafted in enumerate([*draft.tolist(), None]):
            row.length = sequence.length
            [choice] = sample(logits[accepted : accepted + 1], [sequence.sampler])
            if choice.token == drafted:
                sequence.accepted += 1
            self._deliver([sequence], [choice])
            if sequence.finish_reason is not None:
                return
            if choice.token != drafted:
                sequence.drafter.learn(len(draft), accepted)
                return

    def _deliver(self, sequences: Iterable[Sequence], choices: Iterable[Sampled]) -> None:
        now = time.monotonic_ns()
        for sequence, (token, logprob, error) in zip(sequences, choices, strict=True):
            if error is not None:
                self._finish(sequence, "error", error=error)
                continue
            self.generated_tokens += 1
            logprobs = None if logprob is None else (logprob,)
            reason = sequence.append(token, now)
            if reason is not None:
                self._finish(sequence, reason, (token,), logprobs)
            else:
                self._emit(sequence, sequence.event((token,), logprobs))

    def _model_failed(self, sequences: Iterable[Sequence], error: Exception) -> None:
        self._failures_in_a_row += 1
        _log.error("a model call failed: %s", error)
        for sequence in sequences:
            self._finish(sequence, "error", error=f"the model failed: {error}", keep=False)
        if self._failures_in_a_row == FAILURES_UNTIL_BROKEN:
            raise StageFailed(
                f"{FAILURES_UNTIL_BROKEN} model calls in a row failed, the last with: {error}",
                code="engine-broken",
                hint="restart the server; if it happens again, verify the engine folder",
            )

    def _finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[float, ...] | None = None,
        *,
        error: str | None = None,
        keep: bool = True,
    ) -> None:
        sequence.finish_reason = reason
        self.finished[reason] += 1
        self.scheduler.remove(sequence, keep=keep)
        self._emit(sequence, sequence.event(token_ids, logprobs, reason, error))

    def _emit(self, sequence: Sequence, event: TokenEvent) -> None:
        try:
            sequence.on_event(event)
        except Exception:
            # A listener that fails is not told again, and takes nobody else with it.
            _log.exception("the listener of request %r failed", sequence.request_id)
            sequence.on_event = _ignore
            self.cancel(sequence)


def _ignore(event: TokenEvent) -> None:
    """The listener of a request whose own listener failed."""
