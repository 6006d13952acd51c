"""What goes into a request and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = [
    "Completion",
    "Delta",
    "FinishReason",
    "Health",
    "Message",
    "ModelConfig",
    "Prompt",
    "SamplingParams",
    "Usage",
]

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]
Message: TypeAlias = Mapping[str, str]
"""`{"role": "system" | "user" | "assistant", "content": "..."}`"""
Prompt: TypeAlias = str | Sequence[Message]
"""A text that the model continues as it is, or the messages of a chat, to which the server applies the
checkpoint's template."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to continue a prompt. None leaves a setting to the server, which takes the checkpoint's own.

    max_tokens, min_tokens: tokens of the answer, the end token included.
    temperature: 0 is greedy. top_k: 0 is off. top_p: 1 is off. min_p: 0 is off.
    repetition_penalty: 1 is off. presence_penalty, frequency_penalty: 0 is off.
    seed: the same seed gives the same text.
    stop_words: the answer ends before the first of them. bad_words: never generated.
    log_probs: ask for the logarithm of each token's probability.
    The bounds are the server's; it refuses a value with its name (`InvalidRequest.field`).

    >>> SamplingParams(max_tokens=64, temperature=0.6, top_p=0.95).top_p
    0.95
    """

    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop_words: Sequence[str] = ()
    bad_words: Sequence[str] = ()
    log_probs: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the prompt, template included, and of the answer, end token included."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer, never half a character. `finish_reason` and `usage` come with the last one.

    log_probs: one for each new token, when they were asked for.
    """

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    log_probs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    request_id: str
    log_probs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """What a server says of itself, and what one generated token says of it.

    A Triton whose model process died goes on saying that it is ready: only `generates` is the truth.
    problem: why it does not generate; empty when it does.
    """

    ready: bool
    generates: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a served model says of itself.

    parameters: the strings of its Triton configuration.
    defaults: the checkpoint's sampling (`temperature`, `top_p`, ...). limits: what the server takes on.
    reasoning: `open`, `close`, `opened_by_template`; empty for a model that does not reason.
    """

    name: str
    max_seq_len: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    reasoning: Mapping[str, Any] = field(default_factory=dict)
