"""What a caller asks of the engine and what it hears back: requests, sampling parameters, token events.

All of them are frozen. `SamplingParams` checks itself where it is made; what depends on the engine
(vocabulary, lengths) is checked by `checked_tokens` and `check_sampling` when the request is submitted. A
refusal is a `UsageError` whose message begins with the field's name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from enginewright_errors import UsageError
from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "cancelled", "error"]

GREEDY_BELOW = 1e-5
"""Temperatures below this mean greedy decoding: dividing logits by less would overflow."""

_MAX_INT32 = 2**31 - 1
_MAX_TOKEN_LISTS = 4096


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen, with vLLM's names, ranges and meanings unless stated otherwise.

    max_tokens: tokens to generate at most, the end token included.
    temperature: 0 is greedy (the largest logit, the lowest id among equals).
    top_k, top_p, min_p: 0, 1.0 and 0.0 are off. Applied after the temperature: min-p against the
        likeliest token, then the k likeliest, then the smallest set whose mass *among those k* reaches
        top_p.
    repetition_penalty: over the tokens of prompt and output (HF: positive logits are divided by it).
    presence_penalty, frequency_penalty: over those of the output only (OpenAI: subtracted once, per count).
    min_tokens: no end or stop id is chosen before so many tokens were generated.
    seed: the same seed, request and engine give the same tokens; None draws one from the operating system.
    stop_token_ids: end the request like the checkpoint's own end ids.
    bad_token_sequences: never completed within prompt + output (HF, TensorRT-LLM).
    logprobs: report the natural logarithm of each chosen token's probability under the model itself: before
        penalties, temperature and truncation (vLLM's `raw_logprobs`).
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    bad_token_sequences: tuple[tuple[int, ...], ...] = ()
    logprobs: bool = False

    def __post_init__(self) -> None:
        _check_integer("max_tokens", self.max_tokens, 1, _MAX_INT32)
        _check_number("temperature", self.temperature, 0.0, 100.0)
        _check_integer("top_k", self.top_k, 0, _MAX_INT32)
        _check_number("top_p", self.top_p, 0.0, 1.0, low_is_open=True)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_integer("min_tokens", self.min_tokens, 0, self.max_tokens)
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, 2**64 - 1)
        _check_count("stop_token_ids", self.stop_token_ids)
        _check_count("bad_token_sequences", self.bad_token_sequences)
        if any(len(sequence) == 0 for sequence in self.bad_token_sequences):
            raise _refusal("bad_token_sequences", "holds an empty sequence", "leave empty sequences out")

    @property
    def greedy(self) -> bool:
        """Whether the largest logit is taken instead of a sample."""
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt of token ids and how to continue it.

    request_id: the caller's name for it, used in messages only; equal ids do not collide.
    long_context: read positions from the engine's long (YaRN) region, with that region's limit.
    """

    request_id: str
    input_ids: Sequence[int] | NDArray[np.int32]
    sampling: SamplingParams
    long_context: bool = False


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """When things happened, in nanoseconds of `time.monotonic_ns`; 0 = never happened."""

    arrival_ns: int
    first_scheduled_ns: int
    first_token_ns: int
    last_token_ns: int


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """New tokens of one request. Exactly one event of a request, its last, has a `finish_reason`.

    token_ids: the new ids, in order. A request that ends with "stop" has the end or stop id as its last
    one.
    logprobs: one for each id, or None when not asked for.
    finish_reason: "stop" (an end or stop id), "length" (max_tokens), "cancelled", "error".
    error: what failed, when finish_reason is "error".
    times: given with the last event only.
    drafted_tokens, accepted_tokens: of the drafts since the event before (see `draft`).
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason | None
    error: str | None
    times: RequestTimes | None
    num_input_tokens: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """All events of one finished request put together."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason
    error: str | None
    times: RequestTimes
    num_input_tokens: int


def checked_tokens(
    input_ids: Sequence[int] | NDArray[Any], max_tokens: int, *, vocab_size: int, max_seq_len: int
) -> NDArray[np.int32]:
    """`input_ids` as int32 [S], known to lie in the vocabulary and to leave room for `max_tokens`.

    Raises UsageError naming input_ids or max_tokens.
    """
    if len(input_ids) == 0:
        raise _refusal("input_ids", "is empty", "give at least one token")
    # Before conversion: a prompt far beyond the limit is not copied first.
    if len(input_ids) + max_tokens > max_seq_len:
        raise UsageError(
            f"max_tokens={max_tokens} and a prompt of {len(input_ids)} tokens need "
            f"{len(input_ids) + max_tokens} positions; the engine has {max_seq_len}",
            code="sequence-too-long",
            hint="shorten the prompt, lower max_tokens, or build the engine with a larger max_seq_len",
        )
    wide = np.asarray(input_ids)
    if wide.ndim != 1 or wide.dtype.kind not in "iu":
        raise _refusal(
            "input_ids", f"has shape {wide.shape}, type {wide.dtype}", "give a flat list of integers"
        )
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise _refusal("input_ids", f"holds token {wrong}", f"ids of this engine are 0..{vocab_size - 1}")
    return np.ascontiguousarray(wide, dtype=np.int32)


def check_sampling(sampling: SamplingParams, *, vocab_size: int) -> None:
    """Raises UsageError when a token id that `sampling` names is not in the vocabulary."""
    for name, ids in (
        ("stop_token_ids", sampling.stop_token_ids),
        *(("bad_token_sequences", sequence) for sequence in sampling.bad_token_sequences),
    ):
        for token in ids:
            _check_integer(name, token, 0, vocab_size - 1)


def _refusal(field: str, problem: str, hint: str) -> UsageError:
    return UsageError(f"{field} {problem}", code="invalid-request", hint=hint)


def _check_integer(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise _refusal(field, f"is {value!r}", "give an integer")
    if not low <= value <= high:
        raise _refusal(field, f"is {value}", f"give an integer from {low} to {high}")


def _check_number(field: str, value: object, low: float, high: float, *, low_is_open: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise _refusal(field, f"is {value!r}", "give a number")
    if not math.isfinite(value) or not low <= value <= high or (low_is_open and value == low):
        bound = f"above {low:g}" if low_is_open else f"from {low:g}"
        raise _refusal(field, f"is {value}", f"give a number {bound} to {high:g}")


def _check_count(field: str, value: Sequence[object]) -> None:
    if len(value) > _MAX_TOKEN_LISTS:
        raise _refusal(field, f"has {len(value)} entries", f"give at most {_MAX_TOKEN_LISTS}")
