"""The requests, as OpenAI's clients write them.

Strict: a field that nobody knows, or one that is known and would change the answer but is not supported
(tools, n = 2, ...), is refused by its name. The same field with the value that changes nothing is taken,
since many clients always send it. Beyond OpenAI's fields there are vLLM's names for what the server can do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from enginewright_client import SamplingParams
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["ChatRequest", "CompletionRequest"]

# Each with the values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "prediction": (None,),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "web_search_options": (None,),
}
# Of the sender's bookkeeping, or of OpenAI's own servers: no answer depends on them here.
_WITHOUT_EFFECT = (
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class StreamOptions(_Fields):
    include_usage: bool = False
    include_obfuscation: bool = False


def _one_text_as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


# Not a union of the two, whose errors would name the alternative instead of the element.
Texts: TypeAlias = Annotated[list[str], BeforeValidator(_one_text_as_list)]


class _Request(_Fields):
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: Texts | None = None
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    bad_words: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kept = {name: value for name, value in data.items() if name not in _WITHOUT_EFFECT}
        for name, nothing in _UNSUPPORTED.items():
            value = kept.pop(name, None)
            # With its type: 0 asks for log probabilities, False does not.
            if not any(type(value) is type(none) and value == none for none in nothing):
                raise PydanticCustomError("unsupported", f"{name} is not supported", {"param": name})
        return kept

    def sampling(self) -> SamplingParams:
        """What is left out stays the server's choice. Bounds are the server's, which names the field."""
        return SamplingParams(
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
            stop_words=tuple(self.stop or ()),
            bad_words=tuple(self.bad_words or ()),
        )

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(_Fields):
    type: Literal["text"]
    text: str


def _one_text_as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class ChatMessage(_Fields):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[TextPart], BeforeValidator(_one_text_as_parts)] | None = None
    name: str | None = None
    # What an earlier answer had, also as `message.model_dump()` of the openai package writes it. History goes
    # to the model without its thinking.
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = Field(default=None, max_length=0)
    annotations: list[Any] | None = Field(default=None, max_length=0)
    audio: None = None
    function_call: None = None
    refusal: None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if not self.content and self.role != "assistant":
            raise PydanticCustomError("missing", "content is missing")
        return self

    def message(self) -> dict[str, str]:
        text = "".join(part.text for part in self.content or ())
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = None
    # Tokens of thinking, after which the answer has to begin.
    max_reasoning_tokens: int | None = None

    def sampling(self) -> SamplingParams:
        if self.max_completion_tokens is None:
            return super().sampling()
        return self.model_copy(
            update={"max_tokens": self.max_completion_tokens, "max_completion_tokens": None}
        ).sampling()


class CompletionRequest(_Request):
    """POST /v1/completions: a text that is continued as it is."""

    prompt: Texts

    @model_validator(mode="after")
    def _one_prompt(self) -> CompletionRequest:
        if len(self.prompt) != 1:
            raise PydanticCustomError(
                "unsupported", "prompt must be one text: send a request for each", {"param": "prompt"}
            )
        return self

    @property
    def text(self) -> str:
        return self.prompt[0]
