"""A conversation: what was said, what is sent, and the settings that can be changed on the way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginewright_client import ChatDelta, Message, SamplingParams, TritonClient
from enginewright_errors import UsageError

__all__ = ["ChatSession", "Turn"]

_NUMBERS = {
    item.name for item in dataclasses.fields(SamplingParams) if "int" in item.type or "float" in item.type
}


@dataclass(frozen=True, slots=True)
class Turn:
    """answer: what there is of it, when it was stopped. It goes back to the model without its thinking."""

    question: str
    answer: str
    reasoning: str = ""


@dataclass(slots=True)
class ChatSession:
    """sampling: None fields are the server's. max_reasoning_tokens: None does not bound the thinking."""

    client: TritonClient
    system: str | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_reasoning_tokens: int | None = None
    turns: list[Turn] = field(default_factory=list)
    asked: str | None = None
    answered: bool = False

    def ask(self, question: str) -> Generator[ChatDelta, None, None]:
        """The answer as it comes. It becomes a turn at its end, also when the iteration is left."""
        answer, reasoning = [], []
        self.asked, self.answered = question, False
        with self.client.chat_stream(
            self._messages(question), self.sampling, max_reasoning_tokens=self.max_reasoning_tokens
        ) as deltas:
            try:
                for delta in deltas:
                    answer.append(delta.content)
                    reasoning.append(delta.reasoning)
                    yield delta
            finally:
                if any(answer) or any(reasoning):
                    self.turns.append(Turn(question, "".join(answer), "".join(reasoning)))
                    self.answered = True

    def retry(self) -> str:
        """The last question, whose answer is forgotten if there was one. Raises UsageError."""
        if self.asked is None:
            raise _nothing_said()
        if self.answered:
            self.turns.pop()
        return self.asked

    def undo(self) -> Turn:
        """Take back the last turn. Raises UsageError when there is none."""
        if not self.turns:
            raise _nothing_said()
        self.asked = None
        return self.turns.pop()

    def forget(self) -> None:
        """Begin anew; the instructions stay."""
        self.turns.clear()
        self.asked = None

    def set(self, assignment: str) -> None:
        """`temperature=0.6` and the like; `name=` gives the choice back to the server. Raises UsageError."""
        name, _, text = (part.strip() for part in assignment.partition("="))
        if name == "max_reasoning_tokens":
            self.max_reasoning_tokens = _number(name, text)
        elif name in _NUMBERS:
            self.sampling = dataclasses.replace(self.sampling, **{name: _number(name, text)})
        else:
            names = ", ".join(sorted(_NUMBERS | {"max_reasoning_tokens"}))
            raise UsageError(f"{name or 'nothing'} cannot be set", code="no-setting", hint=f"one of {names}")

    def save(self, file: Path) -> None:
        """Write the conversation as JSON that `load` reads. Raises UsageError."""
        data = {"system": self.system, "turns": [dataclasses.asdict(turn) for turn in self.turns]}
        try:
            file.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"{file} cannot be written: {error.strerror}", code="bad-file", hint="give another name"
            ) from None

    def load(self, file: Path) -> None:
        """Go on with a conversation that was saved. Raises UsageError."""
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            turns = [Turn(**turn) for turn in data["turns"]]
            system = data["system"]
        except OSError as error:
            raise UsageError(
                f"{file} cannot be read: {error.strerror}", code="bad-file", hint="give a file of /save"
            ) from None
        except (ValueError, TypeError, KeyError):
            raise UsageError(
                f"{file} is not a conversation", code="bad-file", hint="give a file of /save"
            ) from None
        self.system, self.turns, self.asked = system, turns, None

    def _messages(self, question: str) -> list[Message]:
        messages: list[Message] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        return [*messages, {"role": "user", "content": question}]


def _nothing_said() -> UsageError:
    return UsageError("nothing was said yet", code="no-turn", hint="ask something first")


def _number(name: str, text: str) -> Any:
    if not text:
        return None
    try:
        return json.loads(text, parse_constant=lambda constant: None)
    except ValueError:
        raise UsageError(
            f"{name} is {text!r}", code="no-number", hint=f"{name}=0.6, or {name}= for the server's own"
        ) from None
