"""Logits of a checkpoint computed by transformers in float32: what an engine is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from enginewright_model import RopeSpec
from numpy.typing import NDArray

from enginewright.layered_model import Change, LayeredModel, run_layer

__all__ = ["ReferenceSequence", "reference_logits"]

# Lengths are rounded up to a multiple of it: few large batches are quicker than many small ones.
_STEP = 16


@dataclass(frozen=True, slots=True)
class ReferenceSequence:
    """Token ids int32 [S]. rope: replaces the checkpoint's. start: the first position that is wanted."""

    ids: NDArray[np.int32]
    rope: RopeSpec | None = None
    start: int = 0


def reference_logits(
    checkpoint: Path,
    sequences: Sequence[ReferenceSequence],
    progress: Callable[[int, int], None] | None = None,
    *,
    change: Change | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield float32 [S - start, vocab] for each sequence, in order. Call it inside a `torch_session`.

    Sequences of nearly one length run together. `progress(layers done, layers)`. change: see `LayeredModel`.

    Raises:
        CheckpointError: the checkpoint lacks a tensor or has one that cannot be right.
    """
    model = LayeredModel(checkpoint, change) if change else LayeredModel(checkpoint)
    batches = _batches(sequences)
    hidden = [model.embed(_padded([sequences[index].ids for index in batch])) for batch in batches]
    angles = [
        model.angles(states, sequences[batch[0]].rope) for batch, states in zip(batches, hidden, strict=True)
    ]
    for index in range(model.num_layers):
        with model.layer(index) as layer:
            hidden = [run_layer(layer, states, angle) for states, angle in zip(hidden, angles, strict=True)]
        if progress:
            progress(index + 1, model.num_layers)
    places = {index: (number, row) for number, batch in enumerate(batches) for row, index in enumerate(batch)}
    for index, sequence in enumerate(sequences):
        number, row = places[index]
        yield model.logits(hidden[number][row, sequence.start : len(sequence.ids)])


def _batches(sequences: Sequence[ReferenceSequence]) -> list[list[int]]:
    """Indices of sequences of nearly one length and of one rope."""
    batches: dict[tuple[int, RopeSpec | None], list[int]] = {}
    for index, sequence in enumerate(sequences):
        batches.setdefault((-(-len(sequence.ids) // _STEP), sequence.rope), []).append(index)
    return list(batches.values())


def _padded(rows: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """[B, longest], zeros behind the shorter rows: causal attention does not see what is behind a token."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, known in zip(ids, rows, strict=True):
        row[: len(known)] = known
    return ids
