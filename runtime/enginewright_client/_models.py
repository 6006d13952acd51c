"""What goes into a request and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = [
    "ChatCompletion",
    "ChatDelta",
    "Completion",
    "Delta",
    "FinishReason",
    "Health",
    "Message",
    "ModelConfig",
    "ModelInfo",
    "Prompt",
    "SamplingParams",
    "TensorSpec",
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
    """Tokens of the prompt, template included, and of the answer, end token included.

    >>> Usage(input_tokens=30, output_tokens=8).output_tokens
    8
    """

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer, never half a character. `finish_reason` and `usage` come with the last one.

    log_probs: one for each new token, when they were asked for.

    >>> Delta("Par").text
    'Par'
    """

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    log_probs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer. usage: None from a server that does not count tokens (the LLM API's `tensorrt_llm`).

    >>> Completion("Paris.", "stop", Usage(30, 3), request_id="a1").text
    'Paris.'
    """

    text: str
    finish_reason: FinishReason
    usage: Usage | None
    request_id: str
    log_probs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """A piece of a chat's answer: of the thinking or of what is meant for the reader, never of both.

    The last one carries `finish_reason` and `usage`, and may carry no text.

    >>> ChatDelta(content="Par")
    ChatDelta(reasoning='', content='Par', finish_reason=None, usage=None)
    """

    reasoning: str = ""
    content: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class ChatCompletion:
    """A whole answer of a chat. reasoning: what the model thought, without its markers; often empty.

    >>> ChatCompletion("France...", "Paris.", "stop", Usage(30, 9), request_id="a1").message
    {'role': 'assistant', 'content': 'Paris.'}
    """

    reasoning: str
    content: str
    finish_reason: FinishReason
    usage: Usage | None
    request_id: str

    @property
    def message(self) -> dict[str, str]:
        """This answer as a message for the history of the next request: without the thinking."""
        return {"role": "assistant", "content": self.content}


@dataclass(frozen=True, slots=True)
class Health:
    """What a server says of itself, and what one generated token says of it.

    A Triton whose model process died goes on saying that it is ready: only `generates` is the truth.
    problem: why it does not generate; empty when it does.

    >>> from enginewright_client import TritonClient
    >>> with TritonClient(transport=fake_server) as client:
    ...     client.health()
    Health(ready=True, generates=True, problem='')
    """

    ready: bool
    generates: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model in a server's repository. state: `READY`, `LOADING`, `UNAVAILABLE`, ...; reason: why not ready.

    >>> ModelInfo("llm", "1", "READY").ready
    True
    """

    name: str
    version: str
    state: str
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self.state == "READY"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model. datatype: as on the wire, `BYTES`, `INT32`, ...; dims: without the batch
    dimension, -1 = any length.

    >>> TensorSpec("max_tokens", "INT32", (1,), optional=True).optional
    True
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a served model says of itself.

    parameters: the strings of its Triton configuration.
    defaults: the checkpoint's sampling (`temperature`, `top_p`, ...). limits: what the server takes on.
    reasoning: `open`, `close`, `opened_by_template`; empty for a model that does not reason.
    inputs, outputs: its tensors by name. max_batch_size: 0 = tensors have no batch dimension.
    decoupled: whether one request may have many responses, that is, whether it can stream.

    >>> ModelConfig("llm", reasoning={"open": "<think>", "close": "</think>"}).reasoning["close"]
    '</think>'
    """

    name: str
    max_seq_len: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    reasoning: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    max_batch_size: int = 0
    decoupled: bool = True

    @property
    def reasoning_markers(self) -> tuple[str, str] | None:
        """What stands before and behind the thinking; None for a model that does not reason."""
        open, close = self.reasoning.get("open"), self.reasoning.get("close")
        return (open, close) if isinstance(open, str) and isinstance(close, str) else None
