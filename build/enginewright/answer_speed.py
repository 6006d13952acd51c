"""How fast an answer came, as the one who asked saw it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enginewright_client import Usage

__all__ = ["AnswerSpeed"]


class AnswerSpeed:
    """Seconds from its making to the first piece, and to the end; tokens as the server counted them."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.first: float | None = None
        self.total = 0.0
        self.output_tokens = 0

    def piece(self, usage: Usage | None) -> None:
        """A piece has come; the last one has the `usage`."""
        self.total = time.monotonic() - self._start
        if self.first is None:
            self.first = self.total
        if usage is not None:
            self.output_tokens = usage.output_tokens

    def __str__(self) -> str:
        """`8 tokens, first after 50 ms, then 134 tokens/s`."""
        parts = [f"{self.output_tokens} tokens"]
        if self.first is not None:
            parts.append(f"first after {1000 * self.first:.0f} ms")
            if self.output_tokens > 1 and self.total > self.first:
                parts.append(f"then {(self.output_tokens - 1) / (self.total - self.first):.0f} tokens/s")
        return ", ".join(parts)
