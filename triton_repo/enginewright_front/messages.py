"""The `messages` input: a JSON chat in, checked messages out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enginewright_front.fields import check_text, show
from enginewright_front.refusal import InvalidRequest
from enginewright_front.strict_json import parse_json

ROLES = ("system", "user", "assistant", "tool")
MAX_MESSAGES = 4096


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


def parse_messages(text: str) -> tuple[Message, ...]:
    """The turns of `[{"role": ..., "content": ...}, ...]`; a content may be a list of OpenAI's text parts.

    Raises InvalidRequest naming the member, as in `messages[2].role`.
    """
    turns = parse_json("messages", text)
    if not isinstance(turns, list):
        raise InvalidRequest(
            "messages", f"is {show(turns)}", hint='send a JSON list of {"role", "content"} objects'
        )
    if not 1 <= len(turns) <= MAX_MESSAGES:
        raise InvalidRequest("messages", f"has {len(turns)} members", hint=f"send 1 to {MAX_MESSAGES}")
    return tuple(_message(f"messages[{index}]", turn) for index, turn in enumerate(turns))


def _message(field: str, turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise InvalidRequest(field, f"is {show(turn)}", hint='give an object {"role", "content"}')
    for key in turn:
        if key not in ("role", "content"):
            raise InvalidRequest(
                field, f"has the unknown key {show(key)}", hint="only role and content are read"
            )
    for key in ("role", "content"):
        if key not in turn:
            raise InvalidRequest(
                f"{field}.{key}", "is missing", hint="give every message a role and a content"
            )
    if turn["role"] not in ROLES:
        raise InvalidRequest(
            f"{field}.role", f"is {show(turn['role'])}", hint=f"use one of {', '.join(ROLES)}"
        )
    return Message(turn["role"], _content(f"{field}.content", turn["content"]))


def _content(field: str, content: Any) -> str:
    if isinstance(content, str):
        return check_text(field, content)
    if not isinstance(content, list):
        raise InvalidRequest(field, f"is {show(content)}", hint="give a string")
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InvalidRequest(
                f"{field}[{index}]",
                "is not a text part",
                hint='give {"type": "text", "text": "..."}; only text is read',
            )
        texts.append(check_text(f"{field}[{index}].text", part["text"]))
    return "".join(texts)
