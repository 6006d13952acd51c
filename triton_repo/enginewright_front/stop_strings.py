"""Stop words over streamed text: a stop word is never emitted, and only what may become one is held back."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Feed text as it comes. The match that ends first wins, the longest of those that end together, so that
    the result does not depend on how the text was cut into pieces.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = tuple(dict.fromkeys(word for word in words if word))
        self._beginnings = {word[:length] for word in self._words for length in range(1, len(word))}
        self._longest = max(map(len, self._words), default=1) - 1
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """(text that may go out, whether a stop word was met). After a stop word nothing more may be fed."""
        text = self._held + text
        found = [(start + len(word), start) for word in self._words if (start := text.find(word)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        held = next(
            (n for n in range(min(self._longest, len(text)), 0, -1) if text[-n:] in self._beginnings), 0
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def finish(self) -> str:
        """What was held back and did not become a stop word."""
        held, self._held = self._held, ""
        return held
