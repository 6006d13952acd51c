"""One request inside the engine: its tokens so far, its row, its sampler, its clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from enginewright_errors import UsageError
from numpy.typing import NDArray

from enginewright_onnx.runtime.draft import Drafter
from enginewright_onnx.runtime.engine_config import EngineConfig
from enginewright_onnx.runtime.request import (
    FinishReason,
    GenerationRequest,
    RequestTimes,
    TokenEvent,
    check_sampling,
    checked_tokens,
)
from enginewright_onnx.runtime.sampler import SamplerState
from enginewright_onnx.runtime.slots import Row


@dataclass(slots=True, eq=False)
class Sequence:
    """A request that the engine accepted.

    tokens: int32 [prompt + max_tokens], of which the first `length` are known.
    """

    request_id: str
    tokens: NDArray[np.int32]
    prompt_length: int
    length: int
    rope_offset: int
    end_ids: frozenset[int]
    sampler: SamplerState
    on_event: Callable[[TokenEvent], None]
    drafter: Drafter = field(default_factory=Drafter)
    drafted: int = 0
    accepted: int = 0
    row: Row | None = None
    finish_reason: FinishReason | None = None
    arrival_ns: int = field(default_factory=time.monotonic_ns)
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0

    @property
    def prompt_left(self) -> int:
        """Prompt tokens whose keys and values are not computed yet."""
        return self.prompt_length - (self.row.length if self.row is not None else 0)

    def event(
        self,
        token_ids: tuple[int, ...],
        logprobs: tuple[float, ...] | None,
        reason: FinishReason | None = None,
        error: str | None = None,
    ) -> TokenEvent:
        """What the request is told next, the drafts since the last time included; reason: the last time."""
        times = None if reason is None else self.times
        drafts, self.drafted, self.accepted = (self.drafted, self.accepted), 0, 0
        return TokenEvent(token_ids, logprobs, reason, error, times, self.prompt_length, *drafts)

    def draft(self) -> NDArray[np.int32]:
        """The draft of the next tokens, int32; a step adds one of its own, so it leaves room for that."""
        return self.drafter.propose(self.tokens[: self.length], len(self.tokens) - self.length - 1)

    @property
    def times(self) -> RequestTimes:
        """The clock, frozen."""
        return RequestTimes(self.arrival_ns, self.first_scheduled_ns, self.first_token_ns, self.last_token_ns)

    def append(self, token: int, now_ns: int) -> FinishReason | None:
        """Take a generated token; why the sequence ends with it, or None."""
        self.tokens[self.length] = token
        self.length += 1
        self.last_token_ns = now_ns
        if self.first_token_ns == 0:
            self.first_token_ns = now_ns
        if token in self.end_ids:
            return "stop"
        return "length" if self.length == len(self.tokens) else None


def accept(
    request: GenerationRequest, config: EngineConfig, on_event: Callable[[TokenEvent], None]
) -> Sequence:
    """Check `request` against the engine and make its sequence. Raises UsageError naming the field."""
    region = config.region(request.long_context)
    if region is None:
        raise UsageError(
            "long_context is true, and this engine has no long region",
            code="no-long-context",
            hint="build it with context.long in the recipe, or leave long_context false",
        )
    sampling = request.sampling
    prompt = checked_tokens(
        request.input_ids,
        sampling.max_tokens,
        vocab_size=config.vocab_size,
        max_seq_len=region.max_seq_len,
    )
    check_sampling(sampling, vocab_size=config.vocab_size)
    end_ids = frozenset((*config.eos_token_ids, *sampling.stop_token_ids))
    tokens = np.zeros(len(prompt) + sampling.max_tokens, np.int32)
    tokens[: len(prompt)] = prompt
    return Sequence(
        request_id=request.request_id,
        tokens=tokens,
        prompt_length=len(prompt),
        length=len(prompt),
        rope_offset=region.rope_offset,
        end_ids=end_ids,
        sampler=SamplerState(sampling, prompt, end_ids),
        on_event=on_event,
    )
