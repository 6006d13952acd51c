"""A reasoning model's text, as it comes, parted into its thinking and its answer.

The thinking is the first block and nothing else: between `open` and `close`, or, when the chat template wrote
`open` already, everything up to the first `close`. Markers that stand later are text of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Piece", "PieceKind", "ReasoningSplitter", "strip_reasoning"]

PieceKind: TypeAlias = Literal["reasoning", "content"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer, never empty."""

    kind: PieceKind
    text: str


class ReasoningSplitter:
    """Feed text as it comes. The pieces of each kind, joined, do not depend on how the text was cut.

    open, close: the model's markers, as `<think>` and `</think>`. opened: the template wrote `open`.
    Whitespace behind a marker is dropped (QwQ writes two newlines before its answer). Held back is only what
    may still become a marker. Raises ValueError for markers that cannot be told apart.

    >>> splitter = ReasoningSplitter("<think>", "</think>", opened=True)
    >>> splitter.feed("2 and 2</th")
    [Piece(kind='reasoning', text='2 and 2')]
    >>> splitter.feed("ink>" + "  4") + splitter.finish()
    [Piece(kind='content', text='4')]
    """

    def __init__(self, open: str, close: str, *, opened: bool) -> None:
        self._open, self._close = open.strip(), close.strip()
        # Also refuses an empty one, which every text begins with.
        if self._open.startswith(self._close) or self._close.startswith(self._open):
            raise ValueError(f"{open!r} and {close!r} cannot mark a model's thinking")
        self._kind: PieceKind = "reasoning" if opened else "content"
        self._at_start = True  # only whitespace and a part of a marker so far
        self._at_border = False  # behind a marker: whitespace is dropped
        self._held = ""

    def feed(self, text: str) -> list[Piece]:
        """The pieces that `text` completes: at most one of each kind."""
        text, self._held = self._held + text, ""
        if self._at_start:
            text = self._after_start(text)
        pieces: list[Piece] = []
        if self._kind == "reasoning" and not self._at_start:
            thought, closed, text = text.partition(self._close)
            if not closed:
                thought, self._held = _without_beginning(thought, self._close)
            self._emit(pieces, thought)
            if closed:
                self._end_reasoning()
        self._emit(pieces, text)
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back and did not become a marker. Nothing may be fed afterwards."""
        if self._at_start and self._kind == "reasoning":
            self._at_border = True
        pieces: list[Piece] = []
        self._emit(pieces, self._held)
        self._held = ""
        return pieces

    def _after_start(self, text: str) -> str:
        """`text` behind the marker that it begins with; "", with `text` held back, while that is open."""
        begun = text.lstrip()
        if begun.startswith(self._open):
            # Also where the template wrote the marker: some models write it again.
            self._at_start, self._at_border, self._kind = False, True, "reasoning"
            return begun[len(self._open) :]
        if begun.startswith(self._close):
            self._end_reasoning()
            return begun[len(self._close) :]
        if self._open.startswith(begun) or self._close.startswith(begun):
            self._held = text
            return ""
        self._at_start, self._at_border = False, self._kind == "reasoning"
        return text

    def _end_reasoning(self) -> None:
        self._at_start, self._at_border, self._kind = False, True, "content"

    def _emit(self, pieces: list[Piece], text: str) -> None:
        if self._at_border:
            text = text.lstrip()
        if text:
            self._at_border = False
            pieces.append(Piece(self._kind, text))


def strip_reasoning(text: str, open: str, close: str) -> str:
    """The answer alone, as earlier turns are sent to a reasoning model.

    A text that has `close` and no `open` comes from a template that wrote `open`. A block that does not stand
    at the beginning is part of the answer.

    >>> strip_reasoning("2 and 2\\n</think>\\n\\n4", "<think>", "</think>")
    '4'
    >>> strip_reasoning("Tags: <think>, </think>", "<think>", "</think>")
    'Tags: <think>, </think>'
    """
    opened = close in text and open not in text.partition(close)[0]
    splitter = ReasoningSplitter(open, close, opened=opened)
    pieces = splitter.feed(text) + splitter.finish()
    return "".join(piece.text for piece in pieces if piece.kind == "content")


def _without_beginning(text: str, marker: str) -> tuple[str, str]:
    """`text` parted before the longest end of it that begins `marker`."""
    longest = min(len(marker) - 1, len(text))
    held = next((n for n in range(longest, 0, -1) if marker.startswith(text[-n:])), 0)
    return text[: len(text) - held], text[len(text) - held :]
