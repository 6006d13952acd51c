"""Changes to a row of logits before a token is chosen: penalties, bad sequences, min_tokens.

One `LogitEdits` belongs to one request and remembers, as token ids and counts, what penalties need; a step
touches only the ids seen so far, never the whole vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enginewright_onnx.runtime.request import SamplingParams


class LogitEdits:
    """The edits that `sampling` asks for, in this order: penalties (on what the model said), then masks.

    prompt: int32 [S]. end_ids: the ids that end the request, masked before min_tokens.
    """

    def __init__(self, sampling: SamplingParams, prompt: NDArray[np.int32], end_ids: frozenset[int]) -> None:
        self._penalties = _Penalties(sampling, prompt) if _has_penalties(sampling) else None
        self._bad = (
            _BadSequences(sampling.bad_token_sequences, prompt) if sampling.bad_token_sequences else None
        )
        self._min_tokens = sampling.min_tokens
        self._end_ids = np.array(sorted(end_ids), dtype=np.int64)
        self._generated = 0

    @property
    def active(self) -> bool:
        """Whether `apply` would change anything now."""
        return (
            self._penalties is not None or self._bad is not None or self._generated < self._min_tokens
        )  # fmt: skip

    def apply(self, row: NDArray[np.float32]) -> None:
        """Edit the logits `row` [vocab] in place."""
        if self._penalties is not None:
            self._penalties.apply(row)
        if self._bad is not None:
            row[self._bad.completing()] = -np.inf
        if self._generated < self._min_tokens:
            row[self._end_ids] = -np.inf

    def note(self, token: int) -> None:
        """Remember a token that was generated."""
        self._generated += 1
        if self._penalties is not None:
            self._penalties.note(token)
        if self._bad is not None:
            self._bad.note(token)


def _has_penalties(sampling: SamplingParams) -> bool:
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )


class _Penalties:
    """Repetition over prompt and output; presence and frequency over the output."""

    def __init__(self, sampling: SamplingParams, prompt: NDArray[np.int32]) -> None:
        self._repetition = np.float32(sampling.repetition_penalty)
        self._presence = np.float32(sampling.presence_penalty)
        self._frequency = np.float32(sampling.frequency_penalty)
        seen = np.unique(prompt)
        self._used = len(seen)
        self._place = {token: place for place, token in enumerate(seen.tolist())}
        self._ids = np.zeros(len(seen) + 256, np.int64)
        self._ids[: len(seen)] = seen
        self._counts = np.zeros(len(seen) + 256, np.float32)

    def apply(self, row: NDArray[np.float32]) -> None:
        ids, counts = self._ids[: self._used], self._counts[: self._used]
        logits = row[ids]
        logits = np.where(logits > 0, logits / self._repetition, logits * self._repetition)
        row[ids] = logits - self._frequency * counts - self._presence * (counts > 0)

    def note(self, token: int) -> None:
        place = self._place.setdefault(token, self._used)
        if place == self._used:
            if self._used == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._ids[place] = token
            self._used += 1
        self._counts[place] += 1


class _BadSequences:
    """Which tokens would complete a bad sequence, looked up by the last token so far."""

    def __init__(self, sequences: tuple[tuple[int, ...], ...], prompt: NDArray[np.int32]) -> None:
        self._always = [sequence[0] for sequence in sequences if len(sequence) == 1]
        self._after: dict[int, list[tuple[tuple[int, ...], int]]] = {}
        for *prefix, last in (sequence for sequence in sequences if len(sequence) > 1):
            self._after.setdefault(prefix[-1], []).append((tuple(prefix), last))
        self._longest = max(len(sequence) for sequence in sequences)
        self._tail: tuple[int, ...] = tuple(prompt[-self._longest :].tolist())

    def completing(self) -> list[int]:
        return self._always + [
            last
            for prefix, last in self._after.get(self._tail[-1], ())
            if self._tail[-len(prefix) :] == prefix
        ]

    def note(self, token: int) -> None:
        self._tail = (*self._tail[-self._longest :], token)
