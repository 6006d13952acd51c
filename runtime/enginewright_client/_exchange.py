"""One request, from its first attempt to its last response, without any input or output.

The streams of `TritonClient` and `AsyncTritonClient` move messages and wait; everything that they decide is
decided here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from enginewright_client._answer import AnswerReader, is_final
from enginewright_client._dialect import choose_dialect
from enginewright_client._exceptions import GreedyReasoningWarning, RequestError
from enginewright_client._failure import from_message
from enginewright_client._limits import Limits
from enginewright_client._models import Delta, FinishReason, ModelConfig, Prompt, SamplingParams, Usage
from enginewright_client._reasoning import strip_reasoning
from enginewright_client._transport import TransportError
from enginewright_client._wire import encode_cancellation, encode_request

__all__ = ["END_SECONDS", "Ask", "Exchange"]

END_SECONDS = 1.0
"""From an error to the end of its call. A call that is reset between an error and the FINAL behind it can
crash Triton 2.51: of 16 servers that got up to 12,000 such calls from 8 threads 12 died, most within 2 s."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked. chat: part thinking and answer, and send no thinking back."""

    prompt: Prompt
    sampling: SamplingParams
    chat: bool = False
    max_reasoning_tokens: int | None = None


class Exchange:
    """A request and what is known of its answer."""

    def __init__(self, ask: Ask, limits: Limits, *, warn_greedy: Callable[[], bool]) -> None:
        self.limits = limits
        self.request_id = limits.request_id
        self.config: ModelConfig | None = None
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.begun = False  # a response was read: no repetition any more
        self.late = False  # the limit for the first token is over
        self._ask = ask
        self._cancel_key = int.from_bytes(os.urandom(8), "little")
        self._warn_greedy = warn_greedy

    def attempt(self, config: ModelConfig) -> tuple[Any, AnswerReader]:
        """The ModelInferRequest of one attempt, and what reads its responses. Raises InvalidRequest."""
        ask, dialect = self._ask, choose_dialect(config)
        prompt = ask.prompt
        if ask.chat and not isinstance(prompt, str) and (markers := config.reasoning_markers) is not None:
            self._check_greedy()
            prompt = [_without_thinking(message, *markers) for message in prompt]
        request = encode_request(
            config,
            dialect,
            self.request_id,
            prompt,
            ask.sampling,
            stream=True,
            max_reasoning_tokens=ask.max_reasoning_tokens,
            cancel_key=self._cancel_key,
        )
        self.config = config
        reader = AnswerReader(
            dialect,
            request_id=self.request_id,
            tells_reason="finish_reason" in config.outputs,
            max_tokens=ask.sampling.max_tokens,
        )
        return request, reader

    def cancellation(self) -> Any | None:
        """The ModelInferRequest that ends the last attempt; None where the model takes none."""
        return self.config and encode_cancellation(self.config, self.request_id, self._cancel_key)

    def receive(self, reader: AnswerReader, response: Any) -> tuple[Delta, bool]:
        """A ModelStreamInferResponse without an error as a delta, and whether the call ends with it."""
        delta = reader.read(response.infer_response)
        self.begun = True
        return self._note(delta), delta.finish_reason is not None and is_final(response.infer_response)

    def end(self, reader: AnswerReader) -> Delta | None:
        """The call is over: the last delta, if it is still to come. Raises EngineError for half an answer."""
        delta = reader.end()
        return None if delta is None else self._note(delta)

    def refusal(self, response: Any) -> RequestError:
        """The error that a ModelStreamInferResponse carries."""
        return from_message(response.error_message, self.request_id)

    def failure(self, error: TransportError) -> RequestError:
        """The error of a call that failed."""
        if self.late and error.status == "CANCELLED":
            return self.limits.too_late("first-token-timeout")
        return self.limits.failure(error)

    def pause(self, error: RequestError) -> float | None:
        """Seconds to wait before the next attempt; None = there is none."""
        return None if self.begun else self.limits.pause(error)

    def _note(self, delta: Delta) -> Delta:
        if delta.finish_reason is not None:
            self.finish_reason, self.usage = delta.finish_reason, delta.usage
        return delta

    def _check_greedy(self) -> None:
        sampling = self._ask.sampling
        if (sampling.temperature == 0 or sampling.top_k == 1) and self._warn_greedy():
            warnings.warn(
                "greedy sampling makes a reasoning model repeat itself; leave the sampling to the server",
                GreedyReasoningWarning,
                stacklevel=2,
            )


def _without_thinking(message: Any, open: str, close: str) -> Any:
    """An earlier answer as the model wants to see it again."""
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return message
    content = message.get("content")
    if not isinstance(content, str):
        return message
    return {**message, "content": strip_reasoning(content, open, close)}
