"""Which row of the KV pool holds which tokens, and who may write to it.

A row keeps its content when its sequence ends, until another sequence needs the row. A prompt that begins
with the tokens of some row (the next turn of a chat, a system prompt shared by many) starts behind them
instead of computing them again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_WORTH_SHARING = 16
"""Shorter common beginnings (BOS, the head of a chat template) are quicker computed than looked after."""


class RowMemory(Protocol):
    """What holds the rows; `KVPool` is one."""

    @property
    def slots(self) -> int:
        """Number of rows."""

    @property
    def slot_tokens(self) -> int:
        """Tokens that a row holds."""

    def swap(self, one: int, other: int, tokens_of_one: int, tokens_of_other: int) -> None:
        """Exchange the beginnings of two rows."""

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the beginning of a row to another."""


@dataclass(slots=True, eq=False)
class Row:
    """A row and its content: the keys and values of tokens[:length], at positions from rope_offset on."""

    index: int
    tokens: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    length: int = 0
    rope_offset: int = 0
    taken: bool = False
    last_used: int = 0


class Slots:
    """All rows. `reuse=False` forgets a row's content as soon as it is released."""

    def __init__(self, memory: RowMemory, *, reuse: bool = True) -> None:
        self._memory = memory
        self._reuse = reuse
        self._clock = count(1)
        self._rows = [Row(index) for index in range(memory.slots)]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def tokens_used(self) -> int:
        """Tokens in the rows that are taken."""
        return sum(row.length for row in self._rows if row.taken)

    @property
    def free(self) -> int:
        """Number of rows that nobody has taken."""
        return sum(not row.taken for row in self._rows)

    def take(self, tokens: NDArray[np.int32], prompt_length: int, rope_offset: int) -> Row:
        """A free row for a sequence, already holding the first `row.length` tokens of its prompt.

        tokens: the buffer that the sequence goes on to write to; the prompt is its beginning. At least
        the last token of the prompt is left to compute, because its logits are needed. Raises LookupError
        when no row is free.
        """
        free = [row for row in self._rows if not row.taken]
        if not free:
            raise LookupError("no free row")
        row = min(free, key=lambda row: row.last_used)
        source, shared = self._longest_match(tokens[: prompt_length - 1], rope_offset)
        if source is not None and not source.taken and shared == source.length:
            row = source
        elif source is not None and row is not source:
            self._memory.copy(source.index, row.index, shared)
        row.tokens, row.length, row.rope_offset, row.taken = tokens, shared, rope_offset, True
        return row

    def release(self, row: Row, *, keep: bool = True) -> None:
        """Give a row back. keep=False when its content cannot be trusted."""
        row.taken, row.last_used = False, next(self._clock)
        if not (keep and self._reuse):
            row.length = 0

    def place(self, row: Row, index: int) -> None:
        """Make `row` the one at `index`; the row that was there gets its place."""
        other = self._rows[index]
        if other is row:
            return
        self._memory.swap(row.index, index, row.length, other.length)
        self._rows[row.index], self._rows[index] = other, row
        other.index, row.index = row.index, index

    def _longest_match(self, prompt: NDArray[np.int32], rope_offset: int) -> tuple[Row | None, int]:
        if not self._reuse:
            return None, 0
        shared, _, row = max(
            ((_common(row, prompt, rope_offset), not row.taken, row) for row in self._rows),
            key=lambda match: match[:2],
        )
        return (row, shared) if shared >= _WORTH_SHARING else (None, 0)


def _common(row: Row, prompt: NDArray[np.int32], rope_offset: int) -> int:
    if row.rope_offset != rope_offset:
        return 0
    longest = min(row.length, len(prompt))
    differing = np.flatnonzero(row.tokens[:longest] != prompt[:longest])
    return int(differing[0]) if len(differing) else longest
