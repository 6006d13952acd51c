"""Which work comes next. Policy only: no model, no threads, no clock.

A request waits (in order of arrival) until fewer sequences are admitted than there are rows; then its
prompt is computed in chunks (prefill); then it decodes, one token a step, together with all others that
decode. (Alone it may get several in a step: see `draft`.)

* One prefill chunk alternates with one decode step of all decoding sequences, so a long prompt slows
  streams down and never stops them. (GroupQueryAttention takes several tokens with a past for one row
  only; chunk and decode rows cannot share a call.)
* Among several prompts every other chunk goes to the oldest, the ones between to that with the fewest
  tokens left. Equal prompts are thereby served in order; a short prompt behind a long one waits for one
  foreign chunk, not for the whole; and the long one keeps at least every second chunk however many short
  ones arrive.
* The chunks of a prompt are of equal size: 257 tokens at 256 a chunk are 129 + 128, because a chunk of
  one token costs as much as a decode step.

Decoding sequences own the rows 0..n-1 of the pool, in this order; `decoding[i].row.index == i` always
holds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from enginewright_onnx.runtime.sequence import Sequence
from enginewright_onnx.runtime.slots import Row, Slots


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Compute tokens[start:stop] of the prompt of `sequence` into `row`."""

    sequence: Sequence
    row: Row
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """Compute one token for each of `sequences`, which own the rows 0..n-1."""

    sequences: tuple[Sequence, ...]


class Scheduler:
    """Holds every sequence of the engine in one of three places: waiting, prefilling, decoding."""

    def __init__(self, slots: Slots, prefill_chunk: int) -> None:
        self.slots = slots
        self.waiting: deque[Sequence] = deque()
        self.prefilling: list[Sequence] = []
        self.decoding: list[Sequence] = []
        self._prefill_chunk = prefill_chunk
        self._prefilled_last = False
        self._oldest_last = False

    @property
    def active(self) -> int:
        """Admitted sequences: each owns a row or will have one at its first chunk."""
        return len(self.prefilling) + len(self.decoding)

    @property
    def sequences(self) -> list[Sequence]:
        """All sequences."""
        return [*self.decoding, *self.prefilling, *self.waiting]

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def next_step(self) -> PrefillChunk | DecodeStep | None:
        """The next work; None when there is none. Admits waiting sequences first."""
        while self.waiting and self.active < len(self.slots):
            self.prefilling.append(self.waiting.popleft())
        prefill = bool(self.prefilling) and not (self.decoding and self._prefilled_last)
        self._prefilled_last = prefill
        if prefill:
            return self._chunk_of(self._next_prompt())
        return DecodeStep(tuple(self.decoding)) if self.decoding else None

    def start_decoding(self, sequence: Sequence) -> None:
        """Move a sequence whose prompt is computed behind the decoding ones."""
        self.prefilling.remove(sequence)
        self.slots.place(row_of(sequence), len(self.decoding))
        self.decoding.append(sequence)

    def remove(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take a sequence out, wherever it is, and free its row; keep=False: its content is doubtful."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return
        row, sequence.row = sequence.row, None
        if row is not None:
            self.slots.release(row, keep=keep)
        if sequence in self.prefilling:
            self.prefilling.remove(sequence)
            return
        place = self.decoding.index(sequence)
        last = self.decoding.pop()
        if last is not sequence:
            self.decoding[place] = last
            self.slots.place(row_of(last), place)

    def _next_prompt(self) -> Sequence:
        self._oldest_last = not self._oldest_last
        if self._oldest_last:
            return self.prefilling[0]
        return min(self.prefilling, key=lambda sequence: sequence.prompt_left)

    def _chunk_of(self, sequence: Sequence) -> PrefillChunk:
        if sequence.row is None:
            # As late as this, so that it finds what its neighbours have computed meanwhile.
            sequence.row = self.slots.take(sequence.tokens, sequence.prompt_length, sequence.rope_offset)
        start, left = sequence.row.length, sequence.prompt_left
        chunks = -(-left // self._prefill_chunk)
        return PrefillChunk(sequence, sequence.row, start, start + -(-left // chunks))


def row_of(sequence: Sequence) -> Row:
    """The row that `sequence` owns; LookupError when it has none."""
    if sequence.row is None:
        raise LookupError(f"sequence {sequence.request_id!r} has no row")
    return sequence.row
