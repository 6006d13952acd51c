"""A checked request -> what the engine gets: token ids, a max_tokens that fits, ids within the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from enginewright_front.backend import EngineLimits, EngineRequest
from enginewright_front.front_config import FrontConfig
from enginewright_front.prompt import PromptEncoder
from enginewright_front.reasoning_budget import ReasoningBudget
from enginewright_front.refusal import InvalidRequest
from enginewright_front.request import GenerateRequest, parse_request


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """`wanted` is what the caller asked for, `engine` what the engine is asked.

    reasoning_budget: None when the caller set none or the model does not reason.
    """

    wanted: GenerateRequest
    engine: EngineRequest
    reasoning_budget: ReasoningBudget | None


class Preparation:
    """Everything that happens to a request before the engine sees it. Safe to use from several threads."""

    def __init__(self, config: FrontConfig, encoder: PromptEncoder, limits: EngineLimits) -> None:
        self._config = config
        self._encoder = encoder
        self._limits = limits
        reasoning = config.reasoning
        self._closing_ids = encoder.encode_output(f"{reasoning.close}\n\n") if reasoning else ()

    def prepare(
        self, tensors: Mapping[str, NDArray[Any]], parameters: str, request_id: str
    ) -> PreparedRequest:
        """Raises InvalidRequest."""
        wanted = parse_request(
            tensors, parameters, limits=self._config.limits, defaults=self._config.defaults
        )
        ids = self._encode(wanted)
        max_tokens = self._max_tokens(wanted, len(ids))
        self._check_vocabulary("end_id", wanted.sampling.stop_token_ids)
        if wanted.sampling.min_tokens > max_tokens:
            raise InvalidRequest(
                "min_tokens",
                f"is {wanted.sampling.min_tokens}",
                hint=f"at most max_tokens, which is {max_tokens}, is allowed",
            )
        if wanted.sampling.top_k > self._limits.vocab_size:
            raise InvalidRequest(
                "top_k",
                f"is {wanted.sampling.top_k}",
                hint=f"at most the vocabulary, {self._limits.vocab_size}, is allowed; 0 turns it off",
            )
        sampling = replace(
            wanted.sampling,
            max_tokens=max_tokens,
            bad_token_sequences=self._encoder.encode_bad_words(wanted.bad_words),
        )
        return PreparedRequest(
            wanted, EngineRequest(request_id, tuple(ids), sampling), self._reasoning_budget(wanted)
        )

    def _encode(self, wanted: GenerateRequest) -> list[int]:
        if wanted.text is not None:
            ids = self._encoder.encode_text(wanted.text)
        else:
            ids = self._encoder.encode_messages(wanted.messages or ())
        if not ids:
            raise InvalidRequest(_prompt_field(wanted), "has no tokens", hint="send a prompt")
        return ids

    def _max_tokens(self, wanted: GenerateRequest, prompt_tokens: int) -> int:
        room = self._limits.max_seq_len - prompt_tokens
        if room < 1:
            raise InvalidRequest(
                _prompt_field(wanted),
                f"has {prompt_tokens} tokens",
                hint=f"at most {self._limits.max_seq_len - 1} fit a context of {self._limits.max_seq_len}",
                code="sequence-too-long",
            )
        if wanted.max_tokens is None:
            return min(self._config.limits.max_tokens_default, room)
        if wanted.max_tokens > room:
            raise InvalidRequest(
                "max_tokens",
                f"is {wanted.max_tokens} after a prompt of {prompt_tokens} tokens",
                hint=f"at most {room} fit a context of {self._limits.max_seq_len}",
                code="sequence-too-long",
            )
        return wanted.max_tokens

    def _reasoning_budget(self, wanted: GenerateRequest) -> ReasoningBudget | None:
        markers, tokens = self._config.reasoning, wanted.max_reasoning_tokens
        if markers is None or tokens is None:
            return None
        opened = markers.opened_by_template
        if wanted.text is not None:
            opened = wanted.text.rfind(markers.open) > wanted.text.rfind(markers.close)
        return ReasoningBudget(markers, tokens, opened, self._closing_ids)

    def _check_vocabulary(self, field: str, ids: tuple[int, ...]) -> None:
        for token in ids:
            if token >= self._limits.vocab_size:
                raise InvalidRequest(field, f"is {token}", hint=f"ids go up to {self._limits.vocab_size - 1}")


def _prompt_field(wanted: GenerateRequest) -> str:
    return "text_input" if wanted.text is not None else "messages"
