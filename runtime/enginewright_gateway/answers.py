"""Answers in OpenAI's form: whole ones, and the chunks of streamed ones."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from enginewright_client import Usage

__all__ = ["DONE", "Answer", "event"]

Kind = Literal["chat.completion", "text_completion"]
DONE = "data: [DONE]\n\n"
_PREFIX: dict[Kind, str] = {"chat.completion": "chatcmpl", "text_completion": "cmpl"}


def event(data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What all chunks of an answer have in common. `id` is also the request's id at the server."""

    kind: Kind
    model: str
    id: str
    created: int

    @classmethod
    def new(cls, kind: Kind, model: str) -> Answer:
        return cls(kind, model, f"{_PREFIX[kind]}-{uuid.uuid4().hex}", int(time.time()))

    def whole(self, choice: dict[str, Any], finish_reason: str, usage: Usage | None) -> dict[str, Any]:
        """choice: `{"message": {...}}` or `{"text": ...}`."""
        return self._body(self.kind, choice, finish_reason) | {"usage": _usage(usage)}

    def chunk(self, choice: dict[str, Any], finish_reason: str | None = None) -> str:
        """choice: `{"delta": {...}}` or `{"text": ...}`."""
        kind = f"{self.kind}.chunk" if self.kind == "chat.completion" else self.kind
        return event(self._body(kind, choice, finish_reason))

    def usage_chunk(self, usage: Usage) -> str:
        kind = f"{self.kind}.chunk" if self.kind == "chat.completion" else self.kind
        return event(self._body(kind, None, None) | {"usage": _usage(usage)})

    def _body(self, kind: str, choice: dict[str, Any] | None, finish_reason: str | None) -> dict[str, Any]:
        choices = [] if choice is None else [{"index": 0, **choice, "finish_reason": finish_reason}]
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _usage(usage: Usage | None) -> dict[str, int] | None:
    """None from a server that does not count tokens."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
