"""An answer on a terminal, or in a pipe, as it comes: thinking dimmed, folded into one line, or left out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from enginewright_errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

__all__ = ["AnswerScreen", "Thinking", "harmless", "thinking_mode"]

Thinking: TypeAlias = Literal["show", "fold", "hide"]

# What a model says must not move the cursor or change the terminal.
_CONTROLS = dict.fromkeys([*range(0x20), 0x7F, *range(0x80, 0xA0)]) | {9: "\t", 10: "\n"}


def thinking_mode(text: str) -> Thinking:
    """`text` as a Thinking. Raises UsageError."""
    for mode in get_args(Thinking):
        if mode == text:
            return cast("Thinking", mode)
    raise UsageError(f"thinking is {text!r}", code="no-mode", hint="show, fold or hide")


def harmless(text: str) -> str:
    """`text` without the characters that control a terminal."""
    return text.translate(_CONTROLS)


class AnswerScreen:
    """Shows the pieces of an answer on `console`. A pipe gets every byte of the content and nothing else.

    thinking: "show" prints it dimmed, "fold" counts it in one line that stays, "hide" does not mention it.
    """

    def __init__(self, console: Console, thinking: Thinking) -> None:
        self._console = console
        self._thinking: Thinking = thinking if console.is_terminal else "hide"
        self._status: Status | None = None
        self._started = 0.0
        self._words = 0
        self._line_open = False

    def show(self, content: str, reasoning: str = "") -> None:
        """The next piece of either."""
        if reasoning:
            self._think(reasoning)
        if content:
            self._end_thinking()
            self._write(harmless(content) if self._console.is_terminal else content)

    def end(self) -> None:
        """The answer is complete, or nobody waits for it any more."""
        self._end_thinking()
        if self._line_open:
            self._write("\n")

    def _think(self, text: str) -> None:
        if not self._started:
            self._started = time.monotonic()
            if self._thinking == "fold":
                self._status = self._console.status("thinking")
                self._status.start()
        self._words += len(text.split())
        if self._thinking == "show":
            self._write(harmless(text), style="dim")
        elif self._status is not None:
            self._status.update(f"thinking, {self._words} words")

    def _end_thinking(self) -> None:
        if not self._started:
            return
        seconds, self._started = time.monotonic() - self._started, 0.0
        if self._status is not None:
            self._status.stop()
            self._status = None
            self._write(f"thought for {seconds:.0f} s, {self._words} words\n", style="dim")
        elif self._thinking == "show" and self._line_open:
            self._write("\n")
        self._words = 0

    def _write(self, text: str, style: str | None = None) -> None:
        if style is None:
            self._console.file.write(text)  # byte for byte: rich would turn tabs into spaces
        else:
            self._console.out(text, end="", style=style, highlight=False)
        self._console.file.flush()
        self._line_open = not text.endswith("\n")
