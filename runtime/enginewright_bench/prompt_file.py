"""Real prompts from a file: a line of text each, or a line of JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_client import Prompt
from enginewright_errors import UsageError

__all__ = ["GivenPrompt", "read_prompts"]

_TEXT_KEYS = ("text_input", "prompt", "text")
_LENGTH_KEYS = ("output_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class GivenPrompt:
    """output_tokens: the answer's length where the file names one."""

    prompt: Prompt
    output_tokens: int | None = None


def read_prompts(path: Path) -> list[GivenPrompt]:
    """The prompts of a text file, or of a file named `*.jsonl`, without empty lines.

    JSON: a text, or an object with `text_input` (also `prompt`, `text`) or `messages`, and perhaps
    `output_tokens` (also `max_tokens`). Raises UsageError naming the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 at byte {error.start}"
        raise UsageError(
            f"--prompts {path} cannot be read: {reason}", code="prompts", hint="give a file of UTF-8 lines"
        ) from None
    parse = _from_json if path.suffix == ".jsonl" else _from_text
    prompts = [parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UsageError(f"--prompts {path} is empty", code="prompts", hint="give one prompt a line")
    return prompts


def _from_text(line: str, where: str) -> GivenPrompt:
    return GivenPrompt(line)


def _from_json(line: str, where: str) -> GivenPrompt:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise _wrong(where, f"is not JSON ({error})") from None
    if isinstance(row, str):
        row = {"text_input": row}
    if not isinstance(row, dict):
        raise _wrong(where, f"is {type(row).__name__}")
    length = next((row[key] for key in _LENGTH_KEYS if key in row), None)
    if length is not None and (type(length) is not int or length < 1):
        raise _wrong(where, f"wants {length!r} output tokens")
    text = next((row[key] for key in _TEXT_KEYS if key in row), None)
    if isinstance(text, str) and text:
        return GivenPrompt(text, length)
    messages = row.get("messages")
    if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
        return GivenPrompt(messages, length)
    raise _wrong(where, "has neither text_input nor messages")


def _wrong(where: str, problem: str) -> UsageError:
    return UsageError(
        f"--prompts {where}: {problem}",
        code="prompts",
        hint='write {"text_input": "..."} or {"messages": [{"role": "user", "content": "..."}]}',
    )
